"""All that a step of training and a frame of tracking need is on the device, and nothing waits for
it: on "meta" in a GPU's place (elsewhere.py), and on a GPU where there is one.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere import PLACES, device

from gmmt import compute, experiment, tracking
from gmmt.config import Data, Plan
from gmmt.data import synthetic
from gmmt.data.pairs import Pairs
from gmmt.draws import Draws
from gmmt.fusion import make_fusion
from gmmt.networks.discriminator import Discriminator
from gmmt.networks.unet import UNet
from gmmt.networks.uvit import UViT
from gmmt.study import miniature
from gmmt.trackers.siamese import Siamese
from gmmt.trackers.tbsi import TBSI
from gmmt.trackers.vipt import ViPT
from gmmt.trackers.vit import OSTrack
from gmmt.training import Stage, fit

SIZES = {"hidden": 16, "dim": 32, "depth": 3, "heads": 2, "patch": 8, "template": 32, "search": 64}
MAKE = {
    "siamese": Siamese,
    "ostrack": lambda **options: OSTrack(**SIZES, keep={1: 0.7}, **options),
    "vipt": lambda **options: ViPT(**SIZES, keep={1: 0.7}, **options),
    "tbsi": lambda **options: TBSI(**SIZES, at=(0, 1), **options),
}
STAGES = [(kind, stage) for kind in MAKE for stage in MAKE[kind]().stages()]
DM = {"track_t": "last", "time": "level", "target": "noise"}
VARIANTS = [
    ("DM", DM),
    ("DM", {"weighting": "released"}),
    ("DM", {"target": "v"}),
    ("CGAN", {}),
    ("RAW", {}),
    ("NOISE", {}),
    ("TRK", {}),
]


def generator(variant, kind="siamese", network="unet", **options):
    """A small generator for one of the trackers."""
    size = 16 if kind == "siamese" else 8
    if network == "unet":
        u = UNet(32, 3, inner=8, groups=4)
    else:
        u = UViT(32, 1, dim=32, heads=2, size=size)
    if variant == "CGAN":
        options["discriminator"] = Discriminator(32, size=size, widths=(8, 8))
    return make_fusion(variant, u, 32, **options)


@pytest.fixture(scope="module")
def drawn():
    """Frames [S, F, 4, H, W] and boxes of a few training scenes."""
    videos = synthetic.benchmark("train", 4, 4)
    return np.stack([v.frames() for v in videos]), np.stack([v.boxes for v in videos])


def check_steps(tracker, stage, drawn, monkeypatch, place, tmp_path):
    """Trains 1 and 3 steps: each has its batch's random numbers sent over, nothing else, and
    nothing of a step is waited for.
    """
    counted = {}
    for steps in (1, 3):
        with device(monkeypatch, place) as traffic:
            pairs = Pairs(*drawn, tracker.crops, Data(), compute.device())
            work, plan = Stage(tracker, stage, Plan(steps, batch=4)), {"seed": 0, "config": {}}
            fit(work, pairs, tmp_path / f"{steps}.safetensors", check_every=100, **plan)
            assert {p.device.type for p in tracker.parameters()} == {place}
        counted[steps] = traffic
    few, many = counted[1], counted[3]
    assert many.waits == few.waits
    assert many.downloads == few.downloads
    more = many.uploads - few.uploads
    assert more == {(10, 4): 2}  # template and search: sequence, frame, shift (x, y), scale


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("kind", "stage"), STAGES)
def test_a_step_of_each_stage_of_each_tracker(kind, stage, drawn, monkeypatch, place, tmp_path):
    check_steps(MAKE[kind](), stage, drawn, monkeypatch, place, tmp_path)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("variant", "options"), VARIANTS)
def test_a_step_of_each_generator(variant, options, drawn, monkeypatch, place, tmp_path):
    tracker = MAKE["siamese"]()
    tracker.fusion = generator(variant, **options)
    check_steps(tracker, "2", drawn, monkeypatch, place, tmp_path)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["vipt", "tbsi"])
def test_a_step_of_the_uvit(kind, drawn, monkeypatch, place, tmp_path):
    tracker = MAKE[kind]()
    tracker.fusion = generator("DM", kind, "uvit", **DM)
    check_steps(tracker, "2", drawn, monkeypatch, place, tmp_path)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("row", ["DM", "CGAN", "TBSI-DM-uvit"])
def test_training_from_nothing_through_all_stages(row, monkeypatch, place, tmp_path):
    small = {"data": {"train": 2, "frames": 2, "length": 16}}
    plans = {stage: {"steps": 2, "batch": 2} for stage in miniature.config(row, "smoke").stages}
    small["plans"] = plans
    if row.startswith("TBSI"):
        del small["plans"]
    small["generator"] = {"statistics": [1, 2]}
    with device(monkeypatch, place):
        trained = miniature.train(row, "smoke", 0, tmp_path, changes=small)
        assert {v.device.type for v in trained.tracker.state_dict().values()} == {place}
    assert all(
        experiment.weights_file(
            tmp_path, trained.config.names[stage], trained.keys[stage]
        ).is_file()
        for stage in trained.config.stages
    )


# --- tracking -------------------------------------------------------------------------------------


def tracked(kind, monkeypatch, place, frames, all_at_once, **options):
    """What crosses over while a video of so many frames is tracked."""
    videos = [
        replace(video, boxes=video.boxes[:frames], present=None)
        for video in synthetic.benchmark("val", 2 if all_at_once else 1, 16)
    ]
    tracker = MAKE[kind](**options)
    if kind != "ostrack":
        tracker.fusion = generator("DM", kind, time="level")
    read = []

    def download(values):  # the one place where results come back
        read.append(tuple(values.shape))
        return lambda: torch.ones(values.shape)

    monkeypatch.setattr(compute, "download", download)
    with device(monkeypatch, place) as traffic:
        tracker.to(compute.device())
        mode = "rgb" if kind == "ostrack" else "stage2"
        steps = 1 if kind == "ostrack" else 3
        if all_at_once:
            tracking.track_all(tracker, mode, videos, steps=steps)
        else:
            list(tracking.track(tracker, mode, videos[0], steps=steps))
    return traffic, read


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("all_at_once", [False, True])
@pytest.mark.parametrize("kind", list(MAKE))
@pytest.mark.parametrize("whole_pixels", ["no", "ostrack"])
def test_a_frame_goes_over_once_and_its_box_comes_back(
    kind, all_at_once, whole_pixels, monkeypatch, place
):
    options = {"whole_pixels": "siamban" if kind == "siamese" else "ostrack"}
    if whole_pixels == "no":
        options = {}
    few, _ = tracked(kind, monkeypatch, place, 3, all_at_once, **options)
    many, read = tracked(kind, monkeypatch, place, 6, all_at_once, **options)
    n = 2 if all_at_once else 1
    frame = (n, 4, 128, 128) if all_at_once else (4, 128, 128)
    assert many.uploads - few.uploads == {frame: 3}
    assert many.waits == few.waits
    assert many.downloads == few.downloads
    assert read == [(n, 5)] * 5


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "options", [{"steps": 1}, {"steps": 4, "eta": 1.0}, {"steps": 4, "sampler": "recursion"}]
)
def test_sampling_sends_nothing_over(options, monkeypatch, place):
    for variant, more in VARIANTS:
        if options["steps"] > 1 and variant != "DM":
            continue
        model = generator(variant, **more)
        with device(monkeypatch, place) as traffic:
            model.to(compute.device()).eval()
            f_rgb, f_tir = torch.rand(2, 2, 32, 16, 16, device=compute.device())
            before = sum(traffic.uploads.values())
            for again in range(2):
                model.sample(f_rgb, f_tir, generator=Draws(again), **options)
                if again == 0:  # the schedule's table, once
                    assert sum(traffic.uploads.values()) <= before + 1
                    before = sum(traffic.uploads.values())
            assert sum(traffic.uploads.values()) == before
        assert not traffic.waits
        assert not traffic.downloads


def test_the_stand_in_sees_what_crosses_over(monkeypatch):
    with device(monkeypatch, "meta") as traffic:
        there, here = torch.zeros(2, 3, device="meta"), torch.zeros(2, 3)
        for work in (lambda: there + here, lambda: there[here.long()], lambda: here[there.long()]):
            with pytest.raises(AssertionError, match="tensors of two devices"):
                work()
        with pytest.raises(AssertionError, match="waits for the device"):
            there[there > 0]
        assert not traffic.uploads
        here.to("meta")
        assert traffic.uploads == {(2, 3): 1}
        assert bool(there.isfinite().all())
        assert traffic.waits == {"_local_scalar_dense": 1}
        torch.tensor([1.0, 2], device="meta"), there.new_tensor([1.0])
        assert traffic.uploads == {(2, 3): 1, (2,): 1, (1,): 1}
        there.cpu()
        assert traffic.downloads == {"_to_copy": 1}
        assert (2.0 * there).device.type == "meta"  # a number is no tensor
