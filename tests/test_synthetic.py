"""The miniature benchmark: fixed, disjoint splits, boxes that fit what is drawn, attributes that do
what they say.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from gmmt.data import synthetic as syn
from gmmt.data.benchmarks import ground_truth
from gmmt.errors import SettingError


def test_splits_are_disjoint_and_from_the_named_benchmarks():
    names = {split: {name for name, _ in syn.trajectories(split)} for split in syn.SPLITS}
    assert names["test"] <= set(ground_truth("rgbt234").sequences)
    assert names["val"] <= set(ground_truth("lasher").sequences)
    assert not names["train"] & set(ground_truth("lasher").sequences)
    boxes = [b[:60].tobytes() for split in syn.SPLITS for _, b in syn.trajectories(split)]
    assert len(set(boxes)) == len(boxes)
    assert min(len(v) for v in names.values()) > 200


def test_a_scene_is_the_same_for_everyone_and_another_for_another_index():
    a, b, c = syn.scene("test", 3), syn.scene("test", 3), syn.scene("test", 4)
    assert np.array_equal(a.frames(), b.frames())
    assert np.array_equal(a.boxes, b.boxes)
    assert not np.array_equal(a.frame(0), c.frame(0))
    # The order in which frames are asked for does not matter.
    assert np.array_equal(a.frame(7), b.frames()[7])


def test_enlarging_is_interpolation():
    values = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    for size, (i, j) in ((40, (0, 0)), (40, (7, 31)), (33, (32, 11))):
        y, x = (n * (4 - 1e-3) / (size - 1) for n in (i, j))
        (a, b), (u, v) = (int(y), int(x)), (y % 1, x % 1)
        u, v = (t * t * (3 - 2 * t) for t in (u, v))
        top = (1 - v) * values[a, b] + v * values[a, b + 1]
        bottom = (1 - v) * values[a + 1, b] + v * values[a + 1, b + 1]
        assert syn.enlarge(values, size)[i, j] == pytest.approx(
            (1 - u) * top + u * bottom, abs=1e-5
        )


KERNELS = {"Haswell": {}, "SkylakeX": {}, "threads": {"OPENBLAS_NUM_THREADS": "2"}}
KERNELS |= {"no AVX512": {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"}}


@pytest.mark.parametrize("kernel", KERNELS)
def test_scenes_are_the_same_on_every_processor(kernel):
    """Matrix products differ in their last digits from one processor's kernel to another's."""
    code = "from gmmt.data import synthetic as s; print(s.fingerprint(s.benchmark('test', 20)))"
    core = {"OPENBLAS_CORETYPE": kernel} if kernel in ("Haswell", "SkylakeX") else {}
    command = [sys.executable, "-W", "ignore", "-c", code]
    env = os.environ | core | KERNELS[kernel]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == FINGERPRINT_OF_20
    assert syn.fingerprint(syn.benchmark("val", 20)) != FINGERPRINT_OF_20


@pytest.mark.parametrize("k", range(12))
def test_frames_and_boxes_are_what_they_should_be(k):
    s = syn.scene("train", k)
    assert s.frame(0).shape == (4, syn.SIZE, syn.SIZE)
    assert s.frame(0).dtype == np.uint8
    assert s.boxes.shape == (48, 4)
    assert (s.boxes[:, :2] >= -1e-9).all()
    assert (s.boxes[:, :2] + s.boxes[:, 2:] <= syn.SIZE + 1e-9).all()
    size = np.sqrt(s.boxes[0, 2:].prod())
    assert 8 < size < 32
    assert 2 <= sum(v.any() for v in s.attributes.values()) <= 3
    assert not any(v[:3].any() for v in s.attributes.values())


FINGERPRINT_OF_20 = "8f13cff5d987b092"


def contrast(s, i, channels):
    """Difference of the target's middle from a frame around it, in units of 1."""
    image = s.frame(i)[channels].astype(float) / 255
    x, y, w, h = s.boxes[i]
    inside = image[
        :, int(y + h * 0.25) : int(y + h * 0.75) + 1, int(x + w * 0.25) : int(x + w * 0.75) + 1
    ].mean((1, 2))
    outside = image[
        :, max(0, int(y - h / 2)) : int(y + 1.5 * h), max(0, int(x - w / 2)) : int(x + 1.5 * w)
    ].mean((1, 2))
    return np.abs(inside - outside).max()


@pytest.mark.parametrize(
    ("name", "channels"), [("LI", slice(0, 3)), ("TC", slice(3, 4)), ("CA", slice(0, 3))]
)
def test_an_attribute_hides_the_target_from_its_modality(name, channels):
    hidden, seen = [], []
    for s in syn.benchmark("val", 120):
        acts = s.attributes[name]
        others = np.any(
            [
                v
                for k, v in s.attributes.items()
                if k in ("LI", "TC", "CA", "SN", "PO", "TO", "HI") and k != name
            ],
            axis=0,
        )
        if (acts & ~others).any() and (~acts & ~others).any():
            hidden.append(contrast(s, int(np.flatnonzero(acts & ~others)[0]), channels))
            seen.append(contrast(s, int(np.flatnonzero(~acts & ~others)[0]), channels))
    assert len(hidden) > 8
    assert np.mean(hidden) < 0.5 * np.mean(seen)


def test_motion_is_the_real_one_up_to_scale():
    _, real = syn.trajectories("val")[0]
    path = syn.motion(real, 20, np.zeros(20, bool), np.random.default_rng(1))
    assert np.sqrt(path[:, 2:].prod(1).mean()) == pytest.approx(1)
    center = real[:, :2] + real[:, 2:] / 2
    steps = np.diff(path[:, :2], axis=0)
    matches = [
        np.abs(
            np.diff(center[i : i + 20], axis=0) / np.sqrt(real[i : i + 20, 2:].prod(1).mean())
            - steps
        ).max()
        for i in range(len(real) - 20)
    ]
    assert min(matches) < 1e-9


def test_twins_resemble_the_target_in_one_modality_only():
    rng = np.random.default_rng(0)
    path = np.tile([60.0, 60, 18, 18], (48, 1))
    kinds = set()
    for _ in range(30):
        own = syn._drawn_texture(rng)
        for texture, boxes in syn._twins(rng, own, path, lambda: syn._drawn_texture(rng)):
            same = [np.array_equal(texture[c], own[c]) for c in (slice(0, 3), slice(3, 4))]
            assert sum(same) == 1
            kinds.add(tuple(same))
            distance = np.hypot(*(boxes[:, :2] - path[:, :2]).T).min() / 18
            assert distance > 0.9
    assert len(kinds) == 2


def test_bad_requests_are_refused(no_downloads):
    with pytest.raises(SettingError, match="expected one of train, val, test"):
        syn.benchmark("training", 3)
    with pytest.raises(SettingError, match="trajectories, 5000 were asked for"):
        syn.benchmark("test", 5000)
    with pytest.raises(SettingError, match="expected mini-rgbt or roadscene-motion"):
        syn.benchmark("test", 3, source="real")
    syn._roadscene.cache_clear()
    with pytest.raises(SettingError, match="gmmt fetch roadscene"):
        syn.scene("test", 0, source="roadscene-motion")
