"""What a notebook's set-up cell gets: profile, seed, threads, and the folder that it writes to."""

import json
from pathlib import Path

import pytest

import gmmt.notebook
from gmmt import compute
from gmmt.config_file import resolve_profile
from gmmt.errors import SettingError


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """The folder of all runs."""
    monkeypatch.setenv("GMMT_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("GMMT_BATCH", raising=False)
    return tmp_path / "runs"


def test_start(runs, capsys):
    run = gmmt.notebook.start("01_x", profile="smoke", seed=3)
    where = "$GMMT_RUNS/by-hand/smoke/seed3/01_x"
    line, banner = capsys.readouterr().out.splitlines()
    assert line == f"01_x · profile smoke · seed 3 · {where}"
    assert (
        banner == "Profile smoke only shows that all runs: words and figures describe profile cpu."
    )
    assert run.folder == runs / "by-hand" / "smoke" / "seed3" / "01_x"
    assert run.folder.is_dir()
    assert str(runs) not in repr(run)


def test_start_names_no_path_of_this_machine(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gmmt.notebook.files, "ROOT", tmp_path)
    where = "runs/by-hand/cpu/seed0/01_x"
    gmmt.notebook.start("01_x", profile="cpu")
    assert capsys.readouterr().out == f"01_x · profile cpu · seed 0 · {where}\n"
    monkeypatch.setattr(gmmt.notebook.files, "ROOT", None)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    gmmt.notebook.start("01_x", profile="cpu")
    assert capsys.readouterr().out.endswith(f" · {where}\n")
    assert (tmp_path / "elsewhere" / where).is_dir()


@pytest.mark.parametrize(
    ("batch", "folder", "trackers"),
    [("", "by-hand", ""), (".", "", ""), ("steps=3", "steps=3", "steps=3")],
)
def test_trackers_are_shared_and_folders_are_not(runs, monkeypatch, batch, folder, trackers):
    monkeypatch.setenv("GMMT_BATCH", batch)
    run = gmmt.notebook.start("01_x", profile="cpu", seed=2)
    assert run.folder == runs / folder / "cpu" / "seed2" / "01_x"
    assert run.trackers == runs / trackers / "cpu" / "seed2" / "trackers"


def test_a_folder_of_runs_is_named_from_the_checkout(monkeypatch, tmp_path):
    """The batch is in the checkout, a notebook's kernel is not."""
    monkeypatch.setattr(gmmt.notebook.files, "ROOT", tmp_path)
    monkeypatch.setenv("GMMT_RUNS", "my runs")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    run = gmmt.notebook.start("01_x", profile="cpu")
    assert run.folder == tmp_path / "my runs" / "by-hand" / "cpu" / "seed0" / "01_x"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 1),
        ({"GMMT_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "3"}, 4),  # torch has followed it already
        ({"GMMT_THREADS": "2", "OMP_NUM_THREADS": "3"}, 2),
    ],
)
def test_threads(runs, monkeypatch, variables, expected):
    import torch

    if torch.cuda.is_available():
        pytest.skip("with a GPU torch's threads on the CPU are its own")
    for name in ("GMMT_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with compute.threads(4):
        gmmt.notebook.start("01_x", profile="cpu")
        assert torch.get_num_threads() == expected


@pytest.mark.parametrize("text", ["0", "two", "-1", "1.5"])
def test_threads_are_whole_numbers(runs, monkeypatch, text):
    monkeypatch.setenv("GMMT_THREADS", text)
    with pytest.raises(SettingError, match=f"GMMT_THREADS is a whole number.*'{text}'"):
        gmmt.notebook.start("01_x", profile="cpu")


def test_generators_are_seeded(runs):
    torch = pytest.importorskip("torch")
    run = gmmt.notebook.start("01_x", profile="smoke", seed=5)
    assert torch.equal(
        torch.rand(3, generator=run.generator()), torch.rand(3, generator=run.generator())
    )
    assert torch.initial_seed() == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "smokey"}, "Did you mean smoke?"),
        ({"profile": "smoke", "seed": -1}, "whole number, 0 or more"),
        ({"profile": "smoke", "seed": True}, "whole number, 0 or more"),
        ({"profile": "smoke", "seed": "0"}, "whole number, 0 or more"),
        ({"name": "../x", "profile": "smoke"}, "without the ending"),
    ],
)
def test_start_refuses(runs, arguments, message):
    with pytest.raises(SettingError, match=message.replace("?", r"\?")):
        gmmt.notebook.start(**{"name": "01_x", **arguments})
    assert not runs.exists()


def test_profile_from_the_environment(monkeypatch):
    monkeypatch.setenv("GMMT_PROFILE", "paper")
    assert resolve_profile("auto") == "paper"
    assert resolve_profile("cpu") == "cpu"
    monkeypatch.setenv("GMMT_PROFILE", "papr")
    with pytest.raises(
        SettingError, match=r"environment variable GMMT_PROFILE.*Did you mean paper"
    ):
        resolve_profile("auto")


@pytest.mark.parametrize(
    ("profile", "short", "full"), [("smoke", 1, 1), ("cpu", 2, 2), ("gpu", 2, 3), ("paper", 2, 4)]
)
def test_pick(runs, profile, short, full):
    run = gmmt.notebook.start("01_x", profile=profile)
    assert run.pick(smoke=1, cpu=2) == short
    assert run.pick(smoke=1, cpu=2, gpu=3, paper=4) == full
    with pytest.raises(TypeError, match="tpu"):
        run.pick(smoke=1, cpu=2, tpu=3)


def test_save(runs):
    pandas = pytest.importorskip("pandas")
    run = gmmt.notebook.start("01_x", profile="smoke", steps=3, sequence="ünï")
    table = pandas.DataFrame({"steps": [1, 2], "mse": [0.5, 0.1]})
    assert (
        run.save(table, "steps.csv", source="ours in miniature")
        == "$GMMT_RUNS/by-hand/smoke/seed0/01_x/steps.csv"
    )
    pandas.testing.assert_frame_equal(pandas.read_csv(run.folder / "steps.csv"), table)
    provenance = json.loads((run.folder / "steps.provenance.json").read_text(encoding="utf-8"))
    assert (
        provenance["source"],
        provenance["profile"],
        provenance["seed"],
        provenance["rows"],
    ) == ("ours in miniature", "smoke", 0, 2)
    assert provenance["parameters"] == {"steps": 3, "sequence": "ünï"}
    assert {"gmmt", "python", "numpy"} <= set(provenance["versions"])
    with pytest.raises(SettingError, match="reset_index"):
        run.save(table.set_index("steps"), "other.csv", source="ours")
    for name in ("steps", "a/b.csv", "../steps.csv"):
        with pytest.raises(SettingError, match="plain file name"):
            run.save(table, name, source="ours")


def test_headline(runs):
    run = gmmt.notebook.start("01_x", profile="smoke")
    run.headline("SR 64.7")
    assert (run.folder / "headline.txt").read_text(encoding="utf-8") == "SR 64.7\n"
    with pytest.raises(SettingError, match="one line"):
        run.headline("two\nlines")
    gmmt.notebook.start("01_x", profile="smoke")
    assert not (run.folder / "headline.txt").exists()  # an earlier run's is not this one's
