"""Two-stage training: what is frozen stays, a step is what its formula says, what was killed goes
on to the same weights, and processes share one batch.
"""

import errno
import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import Timeout
from safetensors.torch import load_file, save_file

from gmmt import checkpoint, experiment
from gmmt.config import Data, Plan
from gmmt.data import synthetic
from gmmt.data.crops import context_side
from gmmt.data.pairs import Pairs
from gmmt.draws import Draws
from gmmt.errors import SettingError
from gmmt.fusion import make_fusion
from gmmt.networks.discriminator import Discriminator
from gmmt.networks.unet import UNet
from gmmt.provenance import hash_of
from gmmt.study import miniature
from gmmt.trackers.siamese import Siamese
from gmmt.training import STAGES, Stage, fit

ROOT = Path(__file__).resolve().parent.parent


def tiny_pairs():
    videos = synthetic.benchmark("train", 6, 8)
    frames = np.stack([v.frames()[::4] for v in videos])
    return Pairs(frames, np.stack([v.boxes[::4] for v in videos]), Siamese().crops, Data())


@pytest.fixture(scope="module")
def pairs():
    return tiny_pairs()


def tiny_tracker(variant=None, seed=0, **options):
    torch.manual_seed(seed)
    tracker = Siamese()
    if variant:
        extra = {}
        if variant == "CGAN":
            extra = {"discriminator": Discriminator(32, size=16, widths=(8, 8, 8))}
        network = UNet(32, 3, inner=8, groups=4)
        tracker.fusion = make_fusion(variant, network, 32, **extra, **options)
    return tracker


def state(tracker):
    return {k: v.clone() for k, v in tracker.state_dict().items()}


def same(a, b):
    """Whether two states are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


class OneBatch:
    """Pairs that give the same batch every time."""

    def __init__(self, pairs, n=4):
        self.one = pairs.batch(n, (0, 0, 0))

    def batches(self, key, first, last, *_):
        return (self.one for _ in range(first, last))


OFTEN = {"check_every": 1, "save_seconds": 0}
PLAIN = {"seed": 0, "config": {}}


LEARNABLE = {
    "1.1 rgb": ("backbone.rgb.", "neck.rgb.", "head.rgb."),
    "1.1 tir": ("backbone.tir.", "neck.tir.", "head.tir."),
    "1.2": ("fuse.", "head.base."),
    "2": ("fusion.", "head.stage2."),
}


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_moves_what_it_should_and_nothing_else(stage, pairs, tmp_path):
    tracker = tiny_tracker("DM" if stage == "2" else None)
    before = state(tracker)
    fit(Stage(tracker, stage, Plan(3, batch=4)), pairs, tmp_path / "x.safetensors", **PLAIN)
    after = tracker.state_dict()
    for name, value in before.items():
        moved = not torch.equal(value, after[name])
        # Normalisation is measured, not trained.
        constant = name.endswith(("mean", "std")) and name.startswith("fusion.")
        assert moved == (name.startswith(LEARNABLE[stage]) and not constant), name


@pytest.mark.parametrize("variant", [None, "RAW", "NOISE", "TRK", "CGAN", "DM"])
def test_stage_2_cuts_its_loss_on_one_batch_fivefold(variant, pairs, tmp_path):
    plan = Plan(100, batch=4, rate=5e-3, lam=0.0 if variant == "TRK" else 1.0)
    stage = Stage(tiny_tracker(variant), "2", plan)
    history = fit(stage, OneBatch(pairs), tmp_path / "x.safetensors", **PLAIN)
    total = np.array(history["cls"]) + np.array(history["loc"])
    assert total[-5:].mean() < total[0] / 5
    assert np.isfinite([v for values in history.values() for v in values]).all()


def test_the_same_seed_gives_the_same_weights_and_another_one_others(pairs, tmp_path):
    weights = []
    for k, seed in enumerate((0, 0, 1)):
        tracker = tiny_tracker("DM")
        stage = Stage(tracker, "2", Plan(4, batch=4))
        fit(stage, pairs, tmp_path / f"{k}.safetensors", seed=seed, config={})
        weights.append(state(tracker))
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


# --- a step, by its formula -----------------------------------------------------------------------


@pytest.mark.parametrize("clip", [1e9, 0.05])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_step_is_that_of_the_formula(optimizer, clip, pairs, tmp_path):
    """The first step by hand: gradient, cut to the length `clip`, decay, AdamW or SGD."""
    plan = Plan(
        1, batch=4, optimizer=optimizer, rate=0.3, first=0.5, weight_decay=0.1, clip=clip, lam=2.0
    )
    tracker, twin = tiny_tracker("RAW"), tiny_tracker("RAW")
    fit(Stage(tracker, "2", plan), pairs, tmp_path / "x.safetensors", **PLAIN)

    stage = Stage(twin, "2", plan)
    terms = stage(*pairs.batch(4, (0, 3, 0)), Draws(hash_of([0, "2", 0, "all"])))
    total = terms["cls"] + terms["loc"] + 2.0 * terms["raw"]
    torch.testing.assert_close(terms["loss"], total)
    named = [(n, p) for n, p in twin.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(total, [p for _, p in named])
    length = torch.cat([g.flatten() for g in gradients]).norm()
    assert length > 0.05
    rate, after = 0.3 * 0.5, tracker.state_dict()  # the first rate of the warm-up
    compared = []
    for (name, p), g in zip(named, gradients, strict=True):
        g = g * min(1.0, clip / length.item())
        if optimizer == "sgd":
            expected = p - rate * (g + 0.1 * p)
        else:
            expected = p * (1 - rate * 0.1) - rate * g / (g.abs() + 1e-8)
        # AdamW's step for a gradient that is nearly 0 depends on its last digits.
        settled = g.abs() > (1e-6 if optimizer == "adamw" else 0)
        compared += [settled.flatten().float()]
        close = {"rtol": 1e-3, "atol": 2e-4}
        torch.testing.assert_close(after[name][settled], expected[settled].detach(), **close)
    assert torch.cat(compared).mean() > 0.9


def test_lambda_lives_in_the_plan(pairs):
    batch = pairs.batch(4, (0, 0, 0))
    for lam in (0.0, 1.0, 5.0):
        stage = Stage(tiny_tracker("RAW"), "2", Plan(1, lam=lam))
        terms = stage(*batch, Draws(0))
        expected = terms["cls"] + terms["loc"] + lam * terms["raw"]
        torch.testing.assert_close(terms["loss"], expected)
        assert terms["raw"] > 0.1


def test_features_are_standardised_by_training_pairs(tmp_path):
    """Mean and deviation of each channel over four batches of 64 pairs, computed once more."""
    row = miniature.train("RAW", "smoke", 5, tmp_path, changes={"plans": {"2": {"steps": 1}}})
    tracker = row.tracker
    pairs = experiment.make_pairs(row.config, tracker)
    every = [[], [], []]
    for k in range(4):
        template, search, _ = pairs.batch(64, (5, 9, k))
        with torch.no_grad():
            f_rgb, f_tir, fused = tracker.streams(tracker.encode_template(template, "base"), search)
        for kept, x in zip(every, (fused, f_rgb, f_tir), strict=True):
            kept.append(x.transpose(0, 1).flatten(1).double())
    for i, parts in enumerate(every):
        x = torch.cat(parts, dim=1)
        torch.testing.assert_close(tracker.fusion.mean[i].double(), x.mean(1), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tracker.fusion.std[i].double(), x.std(1), atol=1e-4, rtol=1e-4)
        assert (x.std(1) - 1).abs().max() > 0.1  # as it would be without


def test_every_row_of_stage_2_starts_from_the_same_weights_of_u(tmp_path):
    before = {"plans": {"2": {"steps": 0}}}
    rows = ("TRK", "RAW", "NOISE", "CGAN", "DM", "DM-noise")
    first = {n: miniature.train(n, "smoke", 3, tmp_path, changes=before).tracker for n in rows}
    torch.manual_seed(3 + 1)
    expected = UNet(32, 3, inner=24, groups=4).state_dict()
    for name, tracker in first.items():
        assert same(tracker.fusion.network.state_dict(), expected), name


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "optimizer"), [("DM", "adamw"), ("CGAN", "adamw"), ("RAW", "sgd")]
)
def test_a_run_that_was_stopped_ends_with_the_very_same_weights(
    variant, optimizer, pairs, tmp_path
):
    plan, ends = Plan(7, batch=4, optimizer=optimizer), []
    for stops in ((), (2, 5)):
        path = tmp_path / f"{len(stops)}.safetensors"
        for stop in (*stops, None):
            tracker = tiny_tracker(variant)

            class Stopping:
                def batches(self, key, first, last, *rest, stop=stop):
                    yield from pairs.batches(key, first, last if stop is None else stop, *rest)
                    if stop is not None:
                        raise KeyboardInterrupt

            stage = Stage(tracker, "2", plan)
            if stop is None:
                history = fit(stage, Stopping(), path, **PLAIN, **OFTEN)
            else:
                with pytest.raises(KeyboardInterrupt):
                    fit(stage, Stopping(), path, **PLAIN, **OFTEN)
                # What a run adds to the curve after its last checkpoint must not count twice.
                checkpoint.add_to_curve(path, [{"loss": -1.0}])
        ends.append((state(tracker), history, load_file(path)))
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    assert len(ends[0][1]["loss"]) == 7
    assert same(ends[0][2], ends[1][2])


def test_the_curve_stands_beside_the_checkpoint(pairs, tmp_path):
    """A checkpoint does not grow with the steps done; the curve has a line for each."""
    sizes = []
    for steps in (3, 60):
        path = tmp_path / f"{steps}.safetensors"
        history = fit(Stage(tiny_tracker(), "2", Plan(steps, batch=4)), pairs, path, **PLAIN)
        lines = checkpoint.curve_file(path).read_text().splitlines()
        assert [json.loads(line)["loss"] for line in lines] == history["loss"]
        assert len(lines) == steps
        sizes.append(path.stat().st_size)
    assert abs(sizes[0] - sizes[1]) < 50
    checkpoint.curve_file(path).write_text(lines[0] + "\n")
    with pytest.raises(SettingError, match=r"60\.curve\.jsonl: 1 lines, expected 60"):
        fit(Stage(tiny_tracker(), "2", Plan(60, batch=4)), pairs, path, **PLAIN)


def test_checkpoints_are_written_by_the_clock(pairs, tmp_path, monkeypatch):
    saves, clock = [], iter(range(0, 10_000, 10))
    monkeypatch.setattr("gmmt.training.time.monotonic", lambda: next(clock))
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *a: (saves.append(a[3]), save(*a)))
    options = {"check_every": 2, "save_seconds": 25}
    stage = Stage(tiny_tracker(), "2", Plan(14, batch=4))
    fit(stage, pairs, tmp_path / "x.safetensors", **PLAIN, **options)
    assert saves[-1] == 14
    assert 2 <= len(saves) < 7


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(pairs, tmp_path):
    path = tmp_path / "x.safetensors"
    tracker = tiny_tracker()
    with torch.no_grad():
        tracker.head["stage2"].cls.head[3].bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="stage 2, step 0: the loss is"):
        fit(Stage(tracker, "2", Plan(4, batch=4)), pairs, path, **PLAIN)
    assert not path.exists()


def test_checkpoints_of_another_configuration_or_tracker_are_refused(pairs, tmp_path):
    path, plan = tmp_path / "x.safetensors", Plan(2, batch=4)
    fit(Stage(tiny_tracker("RAW"), "2", plan), pairs, path, seed=0, config={"a": 1})
    with pytest.raises(SettingError, match="trained with another configuration"):
        fit(Stage(tiny_tracker("RAW"), "2", plan), pairs, path, seed=0, config={"a": 2})
    with pytest.raises(SettingError, match="other weights than this stage trains"):
        fit(Stage(tiny_tracker("CGAN"), "2", plan), pairs, path, seed=0, config={"a": 1})
    with pytest.raises(SettingError, match="unknown stage"):
        Stage(tiny_tracker(), "3", plan)
    with pytest.raises(SettingError, match="cannot be shared by 3 processes"):
        pairs.batch(4, (0, 0, 0), 0, 3)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SettingError, match="damaged or another file"):
        fit(Stage(tiny_tracker("RAW"), "2", plan), pairs, path, seed=0, config={"a": 1})


def test_what_killed_runs_left_is_swept_away(tmp_path):
    path = tmp_path / "x.safetensors"
    for name in (".x.safetensors.0123", ".x.safetensors.4567"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".y.safetensors.0123").write_text("another's")
    checkpoint.sweep(path)
    assert [p.name for p in tmp_path.iterdir()] == [".y.safetensors.0123"]


# --- damaged, or not to be written ----------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """A checkpoint of a few hundred bytes, with an optimiser's state and three lines of a curve."""
    path, layer = tmp_path / "x.safetensors", torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    checkpoint.add_to_curve(path, [{"loss": k / 4} for k in range(3)])
    checkpoint.save(path, layer.state_dict(), [optimizer], 3, {"a": (1, 2)})
    return path


ANEW = r"x\.safetensors: expected a checkpoint .* damaged or another file .*; delete it, and it is"


def refused(path, content):
    """Whether both readers refuse the content in one error that names the file."""
    path.write_bytes(content)
    with pytest.raises(SettingError, match=ANEW):
        checkpoint.load(path, {"a": [1, 2]})
    try:
        steps = checkpoint.steps_done(path)  # reads the header alone
    except SettingError as error:
        return re.search(ANEW, str(error)) is not None
    return isinstance(steps, int)


def test_every_flipped_byte_is_seen(small):
    good = small.read_bytes()
    done, weights, states = checkpoint.load(small, {"a": [1, 2]})
    assert (done, list(weights), len(states)) == (3, ["bias", "weight"], 1)
    assert checkpoint.steps_done(small) == 3
    for i in range(len(good)):
        assert refused(small, good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :]), i


def test_no_other_damage_is_a_traceback(small):
    good = small.read_bytes()
    for content in (
        b"",
        good[:4],
        good[: len(good) // 2],
        good[:-1],
        good + b"x",
        b"PK" + good[2:],
    ):
        assert refused(small, content)
    for length in (0, 1, len(good), 1 << 30, 1 << 62, (1 << 64) - 1):
        assert refused(small, length.to_bytes(8, "little") + good[8:])
    save_file({"weights/bias": torch.zeros(2)}, small)  # whole, and not ours
    assert refused(small, small.read_bytes())
    save_file({"weights/bias": torch.zeros(2)}, small, {"run": "[1, 2]"})
    assert refused(small, small.read_bytes())


class NoBatches:
    def batch(self, *_, **__):
        raise AssertionError("it has begun to train")


@pytest.mark.parametrize("damage", ["digit", "text", "list", "short", "gone"])
@pytest.mark.parametrize("steps", [3, 6])
def test_a_damaged_curve_is_seen_before_training_goes_on(steps, damage, pairs, tmp_path):
    path = tmp_path / "x.safetensors"
    fit(Stage(tiny_tracker(), "2", Plan(3, batch=4)), pairs, path, **PLAIN)
    file = checkpoint.curve_file(path)
    lines = file.read_text().splitlines()
    lines[1] = {"digit": lines[0], "text": "{", "list": "[1]"}.get(damage, lines[1])
    file.write_text("\n".join(lines[:1] if damage == "short" else lines) + "\n")
    if damage == "gone":
        file.unlink()
    with pytest.raises(
        SettingError, match=r"x\.curve\.jsonl: .*; delete .*x\.safetensors, and both"
    ):
        fit(Stage(tiny_tracker(), "2", Plan(steps, batch=4)), NoBatches(), path, **PLAIN)
    path.unlink()  # what was advised
    fit(Stage(tiny_tracker(), "2", Plan(3, batch=4)), pairs, path, **PLAIN)


def test_a_line_that_is_no_record_is_named(small):
    checkpoint.curve_file(small).write_text('{"loss": 1}\n[1]\n{"loss": 1}\n')
    with pytest.raises(
        SettingError, match=r"x\.curve\.jsonl, line 2: damaged .* and both are made"
    ):
        checkpoint.read_curve(small, 3)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("call", "name"), [("replace", "x.safetensors"), ("fsync", "x.curve.jsonl")]
)
def test_a_disk_that_fills_up_leaves_the_last_checkpoint(call, name, pairs, tmp_path, monkeypatch):
    path, plan = tmp_path / "new" / "x.safetensors", Plan(5, batch=4)
    fit(Stage(tiny_tracker(), "2", replace(plan, steps=3)), pairs, path, **PLAIN)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full_disk)
        with pytest.raises(SettingError, match=rf"{name}: cannot be written \(.*No space left"):
            fit(Stage(tiny_tracker(), "2", plan), pairs, path, **PLAIN)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.curve.jsonl", "x.safetensors"]
    fit(Stage(tiny_tracker(), "2", plan), pairs, path, **PLAIN)


def load_or_train(path, pairs, monkeypatch):
    """Returns the curve of two steps of stage 2, trained or loaded as a row's stages are."""
    monkeypatch.setattr(experiment, "make_pairs", lambda *_: pairs)
    config = SimpleNamespace(compute=SimpleNamespace(precision="fp32", parts=1))
    stage = Stage(tiny_tracker(), "2", Plan(2, batch=4))
    return experiment.load_or_train(stage, config, path, {"a": 1}, 0, False)


def no_locks(*_, **__):
    raise OSError(errno.ENOLCK, "No locks available")


def test_trained_weights_are_read_where_nothing_can_be_written(pairs, tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    curve = load_or_train(path, pairs, monkeypatch)
    (tmp_path / "x.safetensors.lock").unlink(missing_ok=True)
    there = sorted(p.name for p in tmp_path.iterdir())
    assert there == ["x.curve.jsonl", "x.safetensors"]
    assert path.stat().st_mode == checkpoint.curve_file(path).stat().st_mode  # others read it, too
    os.chmod(tmp_path, 0o555)  # which does not stop root
    changed = tmp_path.stat().st_mtime_ns, path.stat().st_mtime_ns
    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(os, "replace", full_disk)
    assert load_or_train(path, NoBatches(), monkeypatch) == curve
    assert changed == (tmp_path.stat().st_mtime_ns, path.stat().st_mtime_ns)
    os.chmod(tmp_path, 0o755)
    content = path.read_bytes()
    path.write_bytes(content[:50] + b"!" + content[51:])
    with pytest.raises(SettingError, match=ANEW):
        load_or_train(path, NoBatches(), monkeypatch)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_where_there_are_no_locks_nothing_is_trained(code, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    began = time.monotonic()
    words = (
        "files cannot be locked there .*; keep weights in another folder .--weights DIR, or GMMT"
    )
    with pytest.raises(SettingError, match=words):
        load_or_train(tmp_path / "x.safetensors", NoBatches(), monkeypatch)
    assert time.monotonic() - began < 5
    assert list(tmp_path.iterdir()) == []


def test_locks_that_are_never_had_are_not_waited_for(tmp_path, monkeypatch):
    """Old filelocks take any error of the file system for a lock that another run holds."""

    def lock(path, timeout=None):
        assert timeout == 0, "it would wait for ever"
        raise Timeout(path)

    monkeypatch.setattr(experiment, "FileLock", lock)
    with pytest.raises(SettingError, match="files cannot be locked there"):
        load_or_train(tmp_path / "x.safetensors", NoBatches(), monkeypatch)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["/proc/gmmt", "file", "file/below"])
def test_where_weights_cannot_be_written_nothing_is_trained(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file in the folder's place")
    path = tmp_path / folder / "x.safetensors"
    with pytest.raises(SettingError, match=r"x\.safetensors: cannot be written .*--weights DIR"):
        load_or_train(path, NoBatches(), monkeypatch)


# --- trained here, or loaded ----------------------------------------------------------------------


def layouts(tracker):
    return {name: v.stride() for name, v in tracker.named_parameters()}


def test_trained_here_or_loaded_is_the_same(tmp_path):
    """DM after a Base that was trained just now, and after one that was loaded: the same bytes."""
    made = [miniature.train("DM", "smoke", 0, tmp_path / "one").tracker]
    miniature.train("Base", "smoke", 0, tmp_path / "two")
    made.append(miniature.train("DM", "smoke", 0, tmp_path / "two").tracker)
    made.append(miniature.train("DM", "smoke", 0, tmp_path / "two").tracker)  # loaded
    for other in made[1:]:
        assert same(made[0].state_dict(), other.state_dict())
        assert layouts(made[0]) == layouts(other)
    kept = [sorted((tmp_path / f).glob("DM-*.safetensors")) for f in ("one", "two")]
    assert [p.name for p in kept[0]] == [p.name for p in kept[1]]
    assert kept[0][0].read_bytes() == kept[1][0].read_bytes()


def test_a_row_is_trained_once_and_its_file_is_named_by_it(tmp_path, monkeypatch):
    first = miniature.train("Base-long", "smoke", 0, tmp_path)
    assert first.file.is_file()
    assert first.file.name == f"Base-long-{first.key}.safetensors"
    calls = []
    monkeypatch.setattr(experiment, "fit", lambda *a, **k: calls.append(a))
    again = miniature.train("Base-long", "smoke", 0, tmp_path)
    assert calls == []
    assert same(first.tracker.state_dict(), again.tracker.state_dict())
    assert first.curves == again.curves
    assert list(first.curves) == ["1.1 rgb", "1.1 tir", "1.2"]


# --- pairs ----------------------------------------------------------------------------------------


def test_batches_do_not_depend_on_the_number_of_processes(pairs):
    whole = pairs.batch(8, (3, 1, 7))
    parts = [pairs.batch(8, (3, 1, 7), rank, 4) for rank in range(4)]
    for k in range(3):
        together = torch.cat([p[k] for p in parts])
        torch.testing.assert_close(together, whole[k], equal_nan=True, rtol=0, atol=1e-3)
    assert not torch.equal(pairs.batch(8, (3, 1, 8))[0], whole[0])
    boxes = torch.cat([pairs.batch(64, (0, 0, k))[2] for k in range(10)])
    # Pairs of two sequences, except by chance the same one.
    assert 0.05 < boxes.isnan().any(1).float().mean() < 0.3
    assert boxes[~boxes.isnan().any(1)].abs().max() < 64


def test_patches_are_moved_to_both_sides_and_made_larger_and_smaller(pairs):
    """Where the target's middle lies, and how large it is, over many pairs: even about 0 and 1."""
    positive = Pairs(pairs.frames.numpy(), pairs.boxes.numpy(), pairs.crops, Data(negative=0.0))
    boxes = torch.cat([positive.batch(64, (0, 1, k))[2] for k in range(30)])
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    for axis in (0, 1):
        assert middle[:, axis].min() == pytest.approx(-16, abs=0.5)  # a quarter of 64 pixels
        assert middle[:, axis].max() == pytest.approx(16, abs=0.5)
        assert middle[:, axis].mean().abs() < 1
    # A target of 16 x 16 fills half of the template's 32 pixels, up to the change of scale.
    size = context_side(boxes[:, 2:] - boxes[:, :2]) / 32
    assert 1 / size.max() == pytest.approx(0.82, abs=0.01)
    assert 1 / size.min() == pytest.approx(1.18, abs=0.01)


def test_boxes_without_a_size_are_refused(pairs):
    for bad in (np.nan, 0.0):
        boxes = pairs.boxes.double().numpy().copy()
        boxes[2, 1, 2] = bad
        with pytest.raises(SettingError, match="training sequence 2, frame 1: the box is"):
            Pairs(pairs.frames.numpy(), boxes, Siamese().crops, Data())
    official = replace(pairs.crops, whole_pixels="siamban")
    with pytest.raises(SettingError, match="not cut in whole pixels"):
        Pairs(pairs.frames.numpy(), pairs.boxes.numpy(), official, Data())


def test_the_supplements_learning_rates():
    for name, epochs, warmup in (("1.1", 20, 0.25), ("1.2", 20, 0.25), ("2", 100, 0.2)):
        plan = Plan(100 * epochs, rate=0.005, warmup=warmup, first=0.2, last=0.01)
        rates = [plan.rate_at(k) for k in range(plan.steps)]
        assert rates[0] == pytest.approx(0.001)
        assert max(rates) == pytest.approx(0.005)
        assert np.argmax(rates) == {"1.1": 500, "1.2": 500, "2": 2000}[name]
        assert rates[-1] == pytest.approx(0.00005)


def test_hashes_are_the_same_everywhere():
    one, two = {"b": 1, "a": [1, 2.5, "x"]}, {"a": [1, 2.5, "x"], "b": 1}
    assert hash_of(one) == hash_of(two) == 1242265592378357476


# --- processes ------------------------------------------------------------------------------------

RUN = """
import sys, torch
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
torch.set_num_threads(1)
from test_training import *
folder = Path(sys.argv[1])
pairs, tracker = tiny_pairs(), tiny_tracker("DM")
print("ready", flush=True)
for name in STAGES:
    path = folder / (name.replace(" ", "") + ".safetensors")
    checkpoint.sweep(path)
    fit(Stage(tracker, name, Plan(16, batch=4)), pairs, path, **PLAIN, **OFTEN)
print("done", flush=True)
"""


def test_killed_at_random_moments_a_run_ends_with_the_same_weights(tmp_path):
    """SIGKILL across all stages; then the weights are those of a run that nobody disturbed, bit for
    bit.
    """
    code, env = RUN.format(root=str(ROOT)), os.environ | {"OMP_NUM_THREADS": "1"}

    def start(folder):
        command = [sys.executable, "-c", code, folder]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        return process

    process, began = start(tmp_path / "calm"), time.monotonic()
    assert process.communicate()[0] == "done\n"
    took = time.monotonic() - began
    rng, kills = random.Random(0), 0
    while kills < 6:
        process = start(tmp_path / "killed")
        time.sleep(rng.uniform(0, took / 6))
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            break  # it was faster: all has been trained
        kills += 1
    assert kills >= 1
    assert start(tmp_path / "killed").communicate()[0] == "done\n"
    calm, killed = (
        {p.name: p.read_bytes() for p in (tmp_path / f).iterdir() if not p.name.startswith(".")}
        for f in ("calm", "killed")
    )
    assert calm.keys() == killed.keys()
    assert len(calm) == 8  # weights and curves
    assert all(calm[name] == killed[name] for name in calm)


def fitted(variant, precision, steps, path):
    """A tiny tracker, trained in this process or in those that torchrun started, and its curve."""
    options = {"track_t": "random"} if variant == "DM" else {}
    tracker = tiny_tracker(variant, **options)
    stage = Stage(tracker, "2", Plan(steps, batch=8, rate=2e-3))
    return tracker, fit(stage, tiny_pairs(), path, **PLAIN, precision=precision)


SHARED = """
import sys, torch
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
torch.set_num_threads(1)
from test_training import *
path = Path(sys.argv[4])
tracker, _ = fitted(sys.argv[1], sys.argv[2], int(sys.argv[3]), path)
if os.environ["RANK"] == "0":
    torch.save(tracker.state_dict(), path.with_suffix(".pt"))
"""


def on_two_processes(folder, variant, precision, steps):
    """Runs `fitted` on two processes; returns the curve and the tracker's state."""
    script, path = folder / "run.py", folder / "two.safetensors"
    script.write_text(SHARED.format(root=str(ROOT)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(script), variant, precision, str(steps), str(path)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return checkpoint.read_curve(path, steps), torch.load(path.with_suffix(".pt"))


@pytest.mark.parametrize("variant", ["DM", "CGAN"])
def test_two_processes_meet_the_losses_of_one(variant, tmp_path):
    """D's loss, too: its batch norm is that of all processes."""
    _, one = fitted(variant, "fp32", 8, tmp_path / "one.safetensors")
    two, _ = on_two_processes(tmp_path, variant, "fp32", 8)
    assert one.keys() == two.keys()
    assert ("D" in one) == (variant == "CGAN")
    for name in one:
        np.testing.assert_allclose(one[name][:2], two[name][:2], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(one[name], two[name], rtol=3e-3, atol=3e-3, err_msg=name)


def test_bf16_trains_on_two_processes(tmp_path):
    _, exact = fitted("CGAN", "fp32", 4, tmp_path / "one.safetensors")
    rough, weights = on_two_processes(tmp_path, "CGAN", "bf16", 4)
    for name in exact:
        np.testing.assert_allclose(exact[name], rough[name], rtol=0.1, atol=0.05, err_msg=name)
    assert exact["loss"] != rough["loss"]
    assert {v.dtype for v in weights.values() if v.is_floating_point()} == {torch.float32}


def test_fp16_gradients_are_cut_after_they_were_scaled_back(pairs, tmp_path):
    """A step with `clip` as the only limit has that length, whatever the loss was scaled by."""
    plan = Plan(1, batch=4, optimizer="sgd", rate=1.0, first=1.0, weight_decay=0.0, clip=1e-3)
    tracker = tiny_tracker()
    before = state(tracker)
    stage = Stage(tracker, "2", plan)
    fit(stage, pairs, tmp_path / "x.safetensors", **PLAIN, precision="fp16")
    learned = dict(tracker.named_parameters())
    moved = [(v - before[n]).flatten() for n, v in learned.items() if v.requires_grad]
    assert torch.cat(moved).norm().item() == pytest.approx(1e-3, rel=0.02)


def test_several_processes_train_a_cgan_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "gmmt.cli", "train", "CGAN", "--profile", "smoke", "--weights", str(tmp_path)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    assert done.stdout.count("validation sequences") == 1  # one process tracks and prints
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("weights: ")]
    assert Path(told.removeprefix("weights: ")).is_file()


def test_the_command_line_and_the_batch_train_a_row_to_the_same_bytes(tmp_path):
    config = ROOT / "configs" / "miniature" / "dm.yaml"
    commands = {
        "cli": ["gmmt.cli", "train", "--config", config, "--profile", "smoke", "--weights"],
        "batch": ["workflow", "train", "DM", "smoke", "0"],
    }
    kept = {}
    for name, command in commands.items():
        folder = tmp_path / name
        place = folder / "trackers" if name == "cli" else folder
        command = [sys.executable, "-m", *map(str, command), str(place)]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=280)
        files = (folder / "trackers").glob("*.*")
        kept[name] = {p.name: p.read_bytes() for p in files if p.suffix != ".lock"}
    assert len(kept["cli"]) == 8  # four stages: weights, and curves
    assert kept["cli"] == kept["batch"]
