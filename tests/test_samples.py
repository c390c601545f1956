"""Training pairs from a disk: the same for any number of workers or processes, from any step on."""

import itertools
import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmmt import files
from gmmt.config import Data
from gmmt.data import samples as module
from gmmt.data.augment import ostrack_item, siamban_item
from gmmt.data.crops import CropRule, area_side
from gmmt.data.decode import read_image
from gmmt.data.samples import Samples
from gmmt.data.sampling import draw_pair
from gmmt.data.sequence import Sequence
from gmmt.errors import GmmtError, SettingError

KEY, N = (7, 3), 4
H, W = 60, 80
CROPS = CropRule(template=16, search=32, side=area_side, fill=0.0, whole_pixels="ostrack")
SIAMBANS = CropRule(template=16, search=32, whole_pixels="siamban")
OSTRACK = Data(
    interval=10,
    template_shift=0.0,
    template_scale=0.0,
    search_shift=3.0,
    search_scale=0.25,
    workers=0,
)
SIAMBAN = replace(
    OSTRACK,
    negative=0.5,
    template_shift=4.0,
    template_scale=0.05,
    search_shift=8.0,
    search_scale=0.18,
)


@dataclass(frozen=True)
class Drawn:
    """Frames that are noise, each a function of its number; from frame `damaged` on unreadable."""

    number: int
    damaged: int = 99

    def __call__(self, i):
        if i >= self.damaged:
            raise GmmtError(f"seq{self.number}/v{i:03d}.jpg: cannot be read; copy it again")
        return np.random.default_rng((self.number, i)).integers(0, 256, (4, H, W), np.uint8)


def sequence(k, frame=None, n=24, side=12.0, **more):
    boxes = np.tile([30.0, 20, side, side], (n, 1)) + np.arange(n)[:, None] * [1, 0.5, 0, 0]
    return Sequence(f"seq{k}", boxes, frame or Drawn(k), (H, W), **more)


def sample(workers=0, data=OSTRACK, sequences=None, device="cpu", crops=CROPS):
    data = replace(data, workers=workers)
    return Samples(sequences or [sequence(k) for k in range(3)], crops, data, device)


def all_of(batches):
    """Batches as one list of tensors, copied."""
    return [[part.clone() for part in batch] for batch in batches]


def assert_same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture(scope="module")
def usual():
    return all_of(sample().batches(KEY, 0, 6, N))


# --- what a batch is ------------------------------------------------------------------------------


def test_shapes_and_levels(usual):
    for template, search, boxes in usual:
        assert (template.shape, search.shape, boxes.shape) == (
            (4, 4, 16, 16),
            (4, 4, 32, 32),
            (4, 4),
        )
        assert template.dtype == search.dtype == boxes.dtype == torch.float32
        for patch in (template, search):
            assert torch.equal(patch, patch.round())
            assert patch.min() >= 0
            assert patch.max() <= 255


@pytest.mark.parametrize(
    ("data", "crops"), [(OSTRACK, CROPS), (SIAMBAN, SIAMBANS)], ids=["ostrack", "siamban"]
)
def test_a_batch_is_its_items_drawn_one_by_one(data, crops):
    """By hand: the generator of (key, k) draws a pair, and then cuts it."""
    sequences = [sequence(k) for k in range(3)]
    visible = [np.ones(24, bool)] * 3
    template, search, boxes = next(sample(data=data, crops=crops).batches(KEY, 5, 6, N))
    for i in range(N):
        rng = np.random.default_rng((7, 3, 5 * N + i))
        item = None
        while item is None:
            pair = draw_pair(rng, visible, crops.whole_pixels, data)
            one, other = sequences[pair.template_sequence], sequences[pair.search_sequence]
            a, b = pair.template_frame, pair.search_frame
            frames = one.frame(a), one.boxes[a], other.frame(b), other.boxes[b]
            if crops is CROPS:
                item = ostrack_item(rng, *frames, 16, 32, data)
            else:
                item = siamban_item(rng, *frames, 16, 32, data, pair.negative)
        assert (template[i] - item[0]).abs().max() <= 0.5
        assert (search[i] - item[1]).abs().max() <= 0.5
        torch.testing.assert_close(boxes[i], item[2], rtol=0, atol=0)


def test_noise_beyond_the_levels_is_kept():
    """SiamBAN adds noise to its crops, and does not cut them to 0..255."""
    batches = all_of(sample(data=SIAMBAN, crops=SIAMBANS).batches(KEY, 0, 8, N))
    levels = torch.cat([search.flatten() for _, search, _ in batches])
    assert levels.min() < 0
    assert levels.max() > 255


def test_frames_without_a_box_or_a_target_are_left_out(monkeypatch):
    one = sequence(0, present=np.arange(24) != 3)
    one.boxes[5], one.boxes[8, 2:] = np.nan, 0
    seen = sample(sequences=[one]).visible[0]
    np.testing.assert_array_equal(np.flatnonzero(~seen), [3, 5, 8])


def test_what_the_official_code_draws_again_is_drawn_again_from_the_same_generator(monkeypatch):
    tries = []

    def often_none(rng, *rest):
        tries.append(rng.random())
        return None if len(tries) % 3 else ostrack_item(rng, *rest)

    monkeypatch.setattr(module, "ostrack_item", often_none)
    first = sample().item(KEY, 11)
    drawn = list(tries)
    assert len(set(drawn)) == len(drawn) == 3
    second = sample().item(KEY, 11)
    assert tries == drawn * 2
    assert_same([first], [second])


def test_data_from_which_nothing_can_be_cut_are_named(monkeypatch):
    monkeypatch.setattr(module, "ostrack_item", lambda *_: None)
    with pytest.raises(SettingError, match=r"1000 tries: the last was of seq\d, frame \d+\. Are"):
        sample().item(KEY, 0)


@dataclass(frozen=True)
class Pictures:
    """A smooth scene as two JPEG files, the same in every frame."""

    folder: Path

    def __call__(self, i):
        return self.reduced(i, 1)

    def reduced(self, i, shrink):
        rgb = read_image(self.folder / "v.jpg", "RGB", shrink)
        return np.stack([*rgb.transpose(2, 0, 1), read_image(self.folder / "i.jpg", "L", shrink)])


@pytest.mark.parametrize(("side", "shrink"), [(14.0, 1), (20.0, 2), (40.0, 4)])
def test_large_squares_may_come_from_a_frame_at_a_part_of_its_size(
    tmp_path, monkeypatch, side, shrink
):
    """A patch of 16 pixels shows 2 sides of the target: one pixel of the frame in each from 8 on,
    two from 16 on, four from 32 on.
    """
    y, x = np.mgrid[:H, :W]
    scene = np.stack([128 + 60 * np.sin(x / 9), 2 * x + y, 3 * y + 20], axis=-1).astype(np.uint8)
    for name in ("v.jpg", "i.jpg"):
        Image.fromarray(scene).save(tmp_path / name, quality=98, subsampling=0)
    asked, read = [], Pictures.reduced
    monkeypatch.setattr(
        Pictures, "reduced", lambda self, i, shrink: asked.append(shrink) or read(self, i, shrink)
    )
    one = [sequence(0, Pictures(tmp_path), side=side)]
    patches = sample(sequences=one).item(KEY, 2)
    reduced = sample(data=replace(OSTRACK, reduced=True), sequences=one).item(KEY, 2)
    assert asked[:2] == [1, 1]
    assert asked[len(asked) // 2 :] == [shrink] * (len(asked) // 2)
    for a, b in zip(patches[:2], reduced[:2], strict=True):  # whole pixels are larger ones
        assert (a.float() - b.float()).abs().mean() < 12  # a wrong scale: > 40
    assert (patches[2] - reduced[2]).abs().max() < 1.0
    assert torch.equal(patches[2], reduced[2]) == (shrink == 1)


# --- on what it does not depend -------------------------------------------------------------------


def test_the_same_key_twice_another_key_and_another_step(usual):
    assert_same(usual, all_of(sample().batches(KEY, 0, 6, N)))
    (other,) = all_of(sample().batches((8, 3), 0, 1, N))
    (stage,) = all_of(sample().batches((7, 4), 0, 1, N))
    firsts = [other, stage, *usual]
    for one, another in itertools.combinations(firsts, 2):
        assert not torch.equal(one[1], another[1])


def test_a_training_goes_on_with_what_it_would_have_got(usual):
    assert_same(usual[4:], all_of(sample().batches(KEY, 4, 6, N)))


def test_the_size_of_a_batch_only_cuts_the_row_of_items(usual):
    double = all_of(sample().batches(KEY, 0, 3, 2 * N))
    for k in range(3):
        joined = [torch.cat(parts) for parts in zip(*usual[2 * k : 2 * k + 2], strict=True)]
        assert_same([joined], [double[k]])


def test_processes_share_a_batch(usual):
    shares = [all_of(sample().batches(KEY, 0, 6, N, rank, 2)) for rank in range(2)]
    pairs = zip(*shares, strict=True)
    joined = [[torch.cat(parts) for parts in zip(*both, strict=True)] for both in pairs]
    assert_same(usual, joined)
    with pytest.raises(SettingError, match="a batch of 4 cannot be shared by 3 processes"):
        next(sample().batches(KEY, 0, 6, N, 0, 3))


def test_workers_change_nothing_and_end(usual):
    assert_same(usual, all_of(sample(workers=2).batches(KEY, 0, 6, N)))
    assert multiprocessing.active_children() == []


def test_torchs_own_generator_is_left_alone():
    before = torch.get_rng_state()
    next(sample().batches(KEY, 0, 6, N))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_end_on_the_device(workers):
    """`meta` stands in for a GPU: what stays behind on the CPU shows."""
    for batch in sample(workers, device="meta").batches(KEY, 0, 2, N):
        assert {part.device.type for part in batch} == {"meta"}
        assert {part.dtype for part in batch} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same(usual):
    batches = all_of(sample(workers=2, device="cuda").batches(KEY, 0, 6, N))
    assert_same(usual, [[part.cpu() for part in batch] for batch in batches])


# --- workers: errors, and their end ---------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_frame_that_cannot_be_read_is_the_plain_error(workers):
    broken = sample(workers, sequences=[sequence(k, Drawn(k, damaged=12)) for k in range(3)])
    with pytest.raises(GmmtError, match=r"^seq\d/v0\d\d\.jpg: cannot be read; copy it again$"):
        all_of(broken.batches(KEY, 0, 9, N))
    assert multiprocessing.active_children() == []


def test_a_training_that_stops_early_leaves_no_process():
    batches = sample(workers=2).batches(KEY, 0, 1000, N)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
sys.path.insert(0, "tests")
from test_samples import KEY, N, sample
import multiprocessing

if __name__ == "__main__":
    for k, _ in enumerate(sample(workers=2).batches(KEY, 0, 10**6, N)):
        if k == 3:
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            os.killpg(0, signal.SIGINT)
"""


def test_an_interrupted_training_leaves_no_process(tmp_path):
    (tmp_path / "train.py").write_text(INTERRUPTED)
    command = [sys.executable, str(tmp_path / "train.py")]
    environment = {"cwd": files.ROOT, "env": {**os.environ, "PYTHONPATH": "."}}
    done = subprocess.run(
        command, capture_output=True, text=True, start_new_session=True, timeout=60, **environment
    )
    assert done.returncode != 0
    workers = done.stdout.split()
    assert len(workers) == 2
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"
    alive = subprocess.run(["ps", "-o", "pid=", "-p", ",".join(workers)], capture_output=True)
    assert alive.stdout.split() == []
