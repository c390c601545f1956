"""Files that cannot be written, or were damaged: said before the work, in one plain message, and
nothing is lost. No test needs a user without rights: /proc refuses root, too.
"""

import errno
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gmmt import cli, files, predictions
from gmmt.config_file import resolve_profile
from gmmt.data import synthetic
from gmmt.errors import DownloadError, SettingError
from gmmt.experiment import Trained
from gmmt.study import miniature


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


# --- before the work ------------------------------------------------------------------------------


def test_what_can_be_written_leaves_nothing_but_the_folders_around_it(tmp_path):
    files.check_writable(tmp_path / "new" / "folder" / "table.csv")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "old.csv").write_text("old")
    files.check_writable(tmp_path / "old.csv")
    assert (tmp_path / "old.csv").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "old.csv"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder", r"folder: cannot be written \(it is a folder; expected the name of a file\)"),
        ("file/table.csv", r"table\.csv: cannot be written \(.*: .*file\); name another"),
        ("file/folder/table.csv", r"table\.csv: cannot be written \(.*: .*file.*\); name another"),
        ("x" * 256, r"x: cannot be written \(File name too long"),
        ("/proc/gmmt/table.csv", r"/proc/gmmt/table\.csv: cannot be written \(.*: /proc/gmmt\)"),
        ("/dev/null", r"/dev/null: cannot be written \(it is no regular file;"),
        (".", r"cannot be written \(it is a folder;"),
        ("/", r"/: cannot be written \(it is a folder;"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(name, words, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("a file")
    with pytest.raises(SettingError, match=words):
        files.check_writable(tmp_path / name)
    with pytest.raises(SettingError, match=words), files.atomic_write(tmp_path / name):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert not Path("/dev/null").is_file()


def test_a_full_disk_is_said_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(SettingError, match=r"x\.csv: .*\(No space left on device\); make room, or"):
        files.check_writable(tmp_path / "x.csv")
    with pytest.raises(SettingError, match=r"; make room, or name it with --out$"):
        files.check_writable(tmp_path / "x.csv", "name it with --out")
    assert list(tmp_path.iterdir()) == []


# --- atomic_write ---------------------------------------------------------------------------------


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full_disk)
    words = r"x\.csv: cannot be written \(No space left on device\); the file that is there is unch"
    with pytest.raises(SettingError, match=words), files.atomic_write(path) as file:
        file.write("new")
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]
    assert path.read_text() == "old"


def test_errors_of_the_block_stay_what_they_are(tmp_path):
    path = tmp_path / "x.csv"
    for error in (ValueError("a"), KeyboardInterrupt(), DownloadError("no network")):
        with pytest.raises(type(error)) as found, files.atomic_write(path):
            raise error
        assert found.value is error
    with pytest.raises(SettingError, match=r"x\.csv: .*: .*other\.csv\)"), files.atomic_write(path):
        (tmp_path / "other.csv").read_text()
    assert list(tmp_path.iterdir()) == []


def test_the_longest_names_are_written(tmp_path):
    for name in ("x" * 255, "é" * 127):
        files.check_writable(tmp_path / name)
        with files.atomic_write(tmp_path / name) as file:
            file.write("new")
        assert [p.name for p in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "here.csv").symlink_to(tmp_path / "there" / "x.csv")
    with files.atomic_write(tmp_path / "here.csv") as file:
        file.write("new")
    assert (tmp_path / "here.csv").is_symlink()
    assert (tmp_path / "there" / "x.csv").read_text() == "new"


# --- from the command line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "x.pth"), "x.pth: Permission denied"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "xx"), "xx: File name too long"),
        (OSError("told without a name"), "told without a name"),
        (FileNotFoundError("x.txt: there is no such file"), "x.txt: there is no such file"),
        (SettingError("x: wrong"), "x: wrong"),
    ],
)
def test_errors_of_the_system_are_one_plain_line(error, words, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main changes it
    with pytest.raises(SystemExit) as status:
        cli.main()
    assert status.value.code == 1
    assert capsys.readouterr().err == f"error: {words}\n"


# --- kept boxes -----------------------------------------------------------------------------------


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    """A function that asks for the boxes of a row, and the list of calls that tracked for it."""
    videos = synthetic.benchmark("val", 2, 4)
    config = miniature.config("Base", "smoke")
    row = Trained(config, 0, torch.nn.Identity(), {"1.2": "abc"}, {}, tmp_path)
    calls = []

    def track_all(*_, **__):
        calls.append(1)
        return {v.name: (v.boxes, np.ones(len(v))) for v in videos}

    monkeypatch.setattr("gmmt.tracking.track_all", track_all)
    return lambda: predictions.boxes(row, videos), calls


def test_boxes_are_kept(tracked, tmp_path):
    ask, calls = tracked
    one, two = ask(), ask()
    assert len(calls) == 1
    assert all(np.array_equal(one[name], two[name]) for name in one)


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip_a_digit(path):
    text = path.read_text()
    path.write_text(text.replace("1", "2", 1) if "1" in text else text.replace("0", "1", 1))


def make_a_list(path):
    path.write_text(json.dumps([1, 2]))


@pytest.mark.parametrize("which", ["done.json", "*.txt"])
@pytest.mark.parametrize("damage", [cut, flip_a_digit, make_a_list, Path.unlink])
def test_damaged_boxes_are_made_anew(damage, which, tracked, tmp_path):
    ask, calls = tracked
    one = ask()
    path = next(p for p in sorted(tmp_path.rglob(which)))
    before = path.read_bytes()
    if (damage, which) == (flip_a_digit, "done.json"):
        kept = json.loads(before)
        path.write_text(json.dumps(kept | {"hash": kept["hash"][::-1]}))
    else:
        damage(path)
    two = ask()
    assert len(calls) == 2
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert path.read_bytes() == before


def test_where_boxes_cannot_be_kept_nothing_is_tracked(tracked, tmp_path):
    ask, calls = tracked
    (tmp_path / "boxes").write_text("a file in the folder's place")
    with pytest.raises(SettingError, match=r"done\.json: cannot be written.*--weights DIR"):
        ask()
    assert calls == []


# --- machines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["gpu", "paper"])
def test_a_profile_for_gpus_warns_on_a_cpu(profile, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match=f"profile {profile} without CUDA: .* days"):
        assert resolve_profile(profile) == profile
    monkeypatch.setenv("GMMT_PROFILE", profile)
    with pytest.warns(UserWarning, match=r"\(from .* GMMT_PROFILE\) without CUDA"):
        assert resolve_profile() == profile


def test_other_profiles_and_machines_do_not_warn(monkeypatch):
    monkeypatch.delenv("GMMT_PROFILE", raising=False)  # a test of the batch may have set it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert [resolve_profile(name) for name in ("smoke", "cpu", "auto")] == [
            "smoke",
            "cpu",
            "cpu",
        ]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert resolve_profile("gpu") == resolve_profile("auto") == "gpu"
