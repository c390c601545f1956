"""The loader's benchmark: it runs, its files are what it says, both loaders do the same work."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import loader
from gmmt import files
from gmmt.data.augment import cut_square


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    return loader.write(tmp_path_factory.mktemp("files"), n=2, length=3)


def test_files_are_jpeg_of_the_size_that_is_told(sequences):
    for sequence in sequences:
        assert sequence.frame(2).shape == (4, 480, 640)
        for k in (0, 1):
            with Image.open(sequence.frame.path(k, 2)) as image:
                assert (image.format, image.size, image.mode) == ("JPEG", (640, 480), "RGB")
    first, last = sequences[0].frame(0), sequences[0].frame(2)
    np.testing.assert_allclose(first[:, 100:200, 104:204], last[:, 98:198, 100:200], atol=60)
    assert np.abs(first.astype(int) - last).mean() > 3


@pytest.mark.parametrize("size", [loader.TEMPLATE, loader.SEARCH])
@pytest.mark.parametrize(("left", "top"), [(200, 100), (-30, -20), (600, 450)])
def test_the_yardstick_cuts_the_same_squares(sequences, left, top, size):
    frame = sequences[0].frame
    whole = np.concatenate([loader.read_whole(frame.path(k, 1)) for k in (0, 1)], axis=2)
    theirs = loader.resized(loader.padded(whole, left, top, size), size)
    ours = cut_square(frame(1), left, top, size, size, 0.0).numpy().transpose(1, 2, 0)
    assert theirs.shape == (size, size, 6)
    np.testing.assert_allclose(theirs[..., :4], ours, atol=2)


def test_the_yardstick_makes_items(sequences):
    template, search, box = loader.Whole(sequences)[7]
    assert (template.shape, search.shape, box.shape) == ((6, 128, 128), (6, 256, 256), (4,))
    assert 0.1 < float(search.mean()) < 0.9


@pytest.mark.slow
def test_it_prints_its_table():
    command = [sys.executable, "-m", "benchmarks.loader", "--quick", "--rounds", "1"]
    done = subprocess.run(command, cwd=files.ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout
    for words in ("luma alone", "a frame: both, put together", "cut a template"):
        assert re.search(rf"{words}.* \d+\.\d\d\n", printed), words
    assert re.search(
        r"one core gives \d+ search crops a second, .* is \d+%, or \d+ items \(\d+%\)", printed
    )
    assert re.search(r"1 workers: gmmt +\d+, .* \d+; time \d\.\d\d of it \(bound", printed)
    assert re.search(r"2 workers: gmmt +\d+ \(bound 400: (NOT )?kept\)", printed)


def test_a_bound_is_kept_or_not():
    assert (loader.kept(True), loader.kept(False)) == ("kept", "NOT kept")
