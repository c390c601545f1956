"""The listing that is kept of a data set: fast, never stale, and made anew where it is damaged."""

import multiprocessing
import os
import pickle
import shutil
import time
import warnings

import numpy as np
import pytest
from PIL import Image
from trees import make_sequence, make_tree

from gmmt.data import datasets, listing
from gmmt.data.datasets import open_dataset
from gmmt.data.layouts import DataSet
from gmmt.data.listing import Entry, Found
from gmmt.errors import ResultFileError


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    for name in ("mototurntous", "redminirtruck", "silvercarcome"):
        make_sequence("lasher", folder / "trainingset" / name, images=False)
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The folder of runs; every listing is kept, however small."""
    monkeypatch.setenv("GMMT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(listing, "KEEP_FROM", 1)
    return tmp_path / "runs"


@pytest.fixture
def read(monkeypatch):
    """Names of the sequences that are read from their folders, not from a listing."""
    names, usual = [], DataSet.read

    def noting(self, folder):
        names.append(folder.name)
        return usual(self, folder)

    monkeypatch.setattr(DataSet, "read", noting)
    return names


def opened(root, split="train"):
    """All that a data set's sequences are, in plain numbers and texts."""
    found = []
    for s in open_dataset("lasher", root, split, part=True):
        files = [str(s.frame.path(k, i)) for k in (0, 1) for i in range(len(s))]
        found.append((s.name, s.size, s.boxes.tobytes(), s.present.tolist(), *files))
    return found


def test_what_was_read_once_is_not_read_again(root, runs, read):
    first = opened(root)
    assert read == ["mototurntous", "redminirtruck", "silvercarcome"]
    (file,) = (runs / "listings").iterdir()
    assert opened(root) == first
    assert len(read) == 3
    # Worker processes get a sequence's own names, not the whole listing.
    assert len(pickle.dumps(open_dataset("lasher", root, "train", part=True)[0].frame)) < 2000
    shutil.rmtree(root / "trainingset" / "redminirtruck")
    assert [sequence[0] for sequence in opened(root)] == ["mototurntous", "silvercarcome"]
    assert len(read) == 3
    assert list((runs / "listings").iterdir()) == [file]


def test_nothing_is_written_into_the_data_set(root, runs):
    def everything():
        return sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*"))

    before = everything()
    opened(root)
    opened(root)
    assert everything() == before


def test_small_data_sets_leave_no_listing(root, monkeypatch, tmp_path):
    monkeypatch.setenv("GMMT_RUNS", str(tmp_path / "runs"))
    opened(root)
    assert not (tmp_path / "runs").exists()


def change(what, folder):
    """Changes a sequence's folder; returns whether it can be read afterwards."""
    text = folder / "visible.txt"
    match what:
        case "a row":  # of the same length, in place
            rows = text.read_bytes().replace(b"\r\n", b"\n").split(b"\n")
            with text.open("r+b") as file:
                file.write(rows[0].replace(b"2", b"1"))
        case "a shorter file":
            text.write_text("1,2,3,4\n")
            return False
        case "a new image":
            shutil.copy(folder / "visible" / "000001.jpg", folder / "visible" / "000099.jpg")
            return False
        case "a new name":
            for side in ("visible", "infrared"):
                for path in (folder / side).iterdir():
                    path.rename(path.with_name(f"v{path.name}"))
        case "another size":
            path = folder / "visible" / "000001.jpg"
            size = (folder / "visible").stat()
            content = path.with_name("new")
            Image.new("RGB", (320, 240)).save(content, "JPEG")
            content.replace(path)
            os.utime(folder / "visible", ns=(size.st_atime_ns, size.st_mtime_ns))
        case "another file of boxes":
            text.unlink()
    return True


CHANGES = ["a row", "a shorter file", "a new image", "a new name", "another size"]


@pytest.mark.parametrize("what", [*CHANGES, "another file of boxes"])
@pytest.mark.filterwarnings("ignore:.*visible.txt. missing")
def test_what_has_changed_is_read_again(root, runs, read, what):
    before = opened(root)
    read.clear()
    if change(what, root / "trainingset" / "silvercarcome"):
        after = opened(root)
        assert after[:2] == before[:2]
        assert (after[2] == before[2]) == (what == "another file of boxes")  # which holds the same
    else:
        with pytest.raises(Exception, match="silvercarcome"):
            opened(root)
    assert read == ["silvercarcome"]


def test_a_file_in_a_folder_above_decides_too(tmp_path, runs, read):
    root = make_tree("vtuav", tmp_path / "data")
    assert [len(s) for s in open_dataset("vtuav", root)] == [41, 38]
    np.save(root / "init_frame.npy", {"bus_001": 1, "car_002": 3}, allow_pickle=True)
    with pytest.raises(ResultFileError, match=r"bus_001/rgb.txt: 5 rows"):
        open_dataset("vtuav", root)
    assert read == ["bus_001", "car_002", "bus_001"]


def test_warnings_are_repeated(root, runs, read):
    (root / "trainingset" / "mototurntous" / "visible.txt").unlink()
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"mototurntous/visible.txt: missing"):
            opened(root)
    assert len(read) == 3


@pytest.mark.parametrize("what", ["cut", "garbage", "one byte", "empty", "other arrays"])
def test_a_damaged_listing_is_made_anew(root, runs, read, what):
    first = opened(root)
    (file,) = (runs / "listings").iterdir()
    whole = file.read_bytes()
    if what == "one byte":  # in the names of images
        at = whole.index(b"000017.jpg")
        file.write_bytes(whole[:at] + b"9" + whole[at + 1 :])
    elif what == "other arrays":
        np.savez(file, index=np.zeros(3), boxes=np.zeros(3))
    else:
        contents = {"cut": whole[:-300], "garbage": b"PK" + bytes(1000), "empty": b""}
        file.write_bytes(contents[what])
    assert opened(root) == first
    assert len(read) == 6
    assert opened(root) == first
    assert len(read) == 6


def test_a_listing_of_other_code_is_not_used(root, runs, read, monkeypatch):
    opened(root)
    monkeypatch.setattr(datasets, "DECIDE", ("layouts",))
    opened(root)
    assert len(read) == 6


def test_a_listing_that_cannot_be_written_is_a_warning(root, runs):
    runs.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=r"runs.*cannot be written"):
        assert len(opened(root)) == 3


def test_both_splits_and_two_folders_have_listings_of_their_own(root, runs, read, tmp_path):
    make_sequence("lasher", root / "testingset" / "lowerfoamboard", images=False)
    shutil.copytree(root, tmp_path / "copy")
    for place in (root, tmp_path / "copy"):
        opened(place)
        opened(place, "test")
    assert len(list((runs / "listings").iterdir())) == 4
    assert len(read) == 8


def _open_often(root, runs, results):
    os.environ["GMMT_RUNS"] = str(runs)
    listing.KEEP_FROM = 1
    warnings.simplefilter("error")
    for k in range(8):
        os.utime(root / "trainingset" / "mototurntous" / "visible.txt", ns=(k, k))
        results.put(hash(tuple(map(str, opened(root)))))


def test_two_processes_may_write_it_at_once(root, runs, read):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    both = [context.Process(target=_open_often, args=(root, runs, results)) for _ in range(2)]
    for process in both:
        process.start()
    found = {results.get(timeout=60) for _ in range(16)}
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert found == {hash(tuple(map(str, opened(root))))}
    assert len(list((runs / "listings").iterdir())) == 1


def test_735000_frames_are_loaded_within_a_second(tmp_path):
    """A synthetic listing as large as LasHeR's: 1224 sequences of 600 frames, 1.47 million names;
    it takes 0.1 s. The states of 1224 folders come to this: 0.05 s on a local disk.
    """
    n, rng = 600, np.random.default_rng(0)
    names = tuple(np.array([f"{m}{i:06d}.jpg".encode() for i in range(n)]) for m in "vi")
    state = [[["visible", 1764300000000000000 + k, 4096] for k in range(5)], [[1, 2]]]
    entries = {}
    for k in range(1224):
        folders = ("visible", "infrared")
        found = Found(folders, names, (480, 640), rng.random((n, 4)), rng.random(n) > 0.1)
        entries[f"sequence{k}"] = Entry(found, [], state)
    file = tmp_path / "listing.npz"
    listing._save(entries, file, "code")
    start = time.perf_counter()
    again = listing._load(file, "code")
    taken = time.perf_counter() - start
    assert sum(len(entry.found.boxes) for entry in again.values()) == 734400
    for name in ("sequence0", "sequence700", "sequence1223"):
        ours, theirs = entries[name].found, again[name].found
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        np.testing.assert_array_equal(ours.present, theirs.present)
        assert [c.tolist() for c in theirs.names] == [c.tolist() for c in names]
        assert (theirs.folders, theirs.size, again[name].state) == (folders, (480, 640), state)
    assert listing._load(file, "other code") == {}
    assert taken < 1
