"""Training on a data set: several processes, parts of a batch, epochs, and going on where another
number of processes stopped.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from trees import make_tree
from typer.testing import CliRunner

from gmmt import checkpoint
from gmmt.cli import app
from gmmt.config import Data, Plan
from gmmt.data.datasets import open_dataset
from gmmt.data.samples import Samples
from gmmt.errors import SettingError
from gmmt.fusion import make_fusion
from gmmt.networks.uvit import UViT
from gmmt.trackers.siamese import Siamese
from gmmt.trackers.tbsi import TBSI
from gmmt.trackers.vipt import ViPT
from gmmt.training import Stage, fit

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"hidden": 16, "dim": 32, "depth": 3, "heads": 2, "patch": 8, "template": 32, "search": 64}
OSTRACK = Data(
    source="lasher",
    negative=0.0,
    workers=0,
    **{"template_shift": 0, "template_scale": 0, "search_shift": 3, "search_scale": 0.25},
)
PLAIN = {"seed": 0, "config": {}, "check_every": 1, "save_seconds": 0}


class Stopping(Samples):
    """Pairs that break off at a step."""

    stop = None

    def batches(self, key, first, last, *rest):
        yield from super().batches(key, first, self.stop or last, *rest)
        if self.stop:
            raise KeyboardInterrupt


def pairs(tree, tracker, stop=None, data=OSTRACK):
    found = Stopping(open_dataset("lasher", tree, "train", part=True), tracker.crops, data)
    found.stop = stop
    return found


def tbsi():
    torch.manual_seed(0)
    tracker = TBSI(**SMALL, at=(0, 1), whole_pixels="ostrack")
    tracker.fusion = make_fusion("DM", UViT(32, 1, dim=32, heads=2, size=8), 32)
    return tracker


def fitted(tree, path, steps, stop=None, **options):
    tracker = tbsi()
    stage = Stage(tracker, "2", Plan(steps, batch=4, rate=2e-3, loss="released"))
    return tracker, fit(stage, pairs(tree, tracker, stop), path, **PLAIN, **options)


SHARED = """
import sys, torch
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
torch.set_num_threads(1)
from test_samples_training import *
tree, path, steps, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
try:
    fitted(tree, path, steps, stop)
except KeyboardInterrupt:
    print("stopped")
torch.distributed.barrier()
"""


def on_two_processes(tree, folder, steps, stop=0):
    script, path = folder / "run.py", folder / "two.safetensors"
    script.write_text(SHARED.format(root=str(ROOT)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(script), str(tree), str(path), str(steps), str(stop)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree("lasher", tmp_path_factory.mktemp("lasher"))


def test_two_processes_meet_one_and_one_goes_on_where_two_stopped(tree, tmp_path):
    _, one = fitted(tree, tmp_path / "one.safetensors", 6)
    two = checkpoint.read_curve(on_two_processes(tree, tmp_path, 6), 6)
    assert one.keys() == two.keys() == {"focal", "l1", "giou", "dm", "loss"}
    for name in one:
        np.testing.assert_allclose(two[name][:2], one[name][:2], rtol=2e-5, err_msg=name)
        np.testing.assert_allclose(two[name], one[name], rtol=5e-3, atol=5e-3, err_msg=name)
    # Stopped after three steps on two processes, and ended by one.
    (tmp_path / "again").mkdir()
    path = on_two_processes(tree, tmp_path / "again", 6, stop=3)
    assert checkpoint.steps_done(path) == 3
    _, rest = fitted(tree, path, 6)
    for name in one:
        assert rest[name][:3] == pytest.approx(two[name][:3], rel=1e-6)
        np.testing.assert_allclose(rest[name], one[name], rtol=5e-3, atol=5e-3, err_msg=name)


def test_parts_of_a_batch_add_up_to_it(tree, tmp_path):
    """But for batch norms, which are held still here."""
    curves, weights = [], []
    for parts in (1, 2, 4):
        tracker = tbsi()
        stage = Stage(tracker, "2", Plan(3, batch=4, rate=2e-3, loss="released"))
        stage.eval()
        path = tmp_path / f"{parts}.safetensors"
        curves.append(fit(stage, pairs(tree, tracker), path, parts=parts, **PLAIN))
        weights.append(tracker.fusion.network.inlet.weight.detach())
    for curve, weight in zip(curves[1:], weights[1:], strict=True):
        for name in curve:
            np.testing.assert_allclose(curve[name], curves[0][name], rtol=1e-4, err_msg=name)
        torch.testing.assert_close(weight, weights[0], rtol=1e-3, atol=1e-4)
    stage = Stage(tbsi(), "2", Plan(1, batch=4))
    with pytest.raises(SettingError, match="4 items cannot be computed in 3 parts"):
        fit(stage, pairs(tree, stage.tracker), tmp_path / "x.safetensors", parts=3, **PLAIN)


def test_losses_and_rates_are_logged_for_tensorboard(tree, tmp_path):
    words = ["train", "--config", str(ROOT / "configs/paper/tbsi_gmmt_uvit.yaml")]
    words += ["--profile", "smoke", "--weights", str(tmp_path / "w")]
    words += ["--log", str(tmp_path / "log")]
    words += ["--set", f"data.root={tree}", "--set", "data.part=true"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (events,) = (tmp_path / "log").rglob("events.out.tfevents.*")
    content = events.read_bytes()
    for name in ("loss", "focal", "dm", "rate/all"):
        assert f"2/{name}".encode() in content


def test_what_learns_later_and_slower(tree, tmp_path):
    plan = Plan(4, epochs=4, batch=2, optimizer="sgd", rate_changes="epochs", first=0.2, last=0.1)
    plan = Plan(
        **vars(plan) | {"frozen_until": {"backbone.rgb": 2}, "rate_share": {"backbone": 0.1}}
    )
    torch.manual_seed(0)
    tracker, seen = Siamese(whole_pixels="siamban"), []
    data = Data(**vars(OSTRACK) | {"interval": 100, "search_shift": 8})
    stage = Stage(tracker, "1.1 rgb", plan)
    weight, norm = tracker.backbone["rgb"].layers[0]
    start = {
        "backbone": weight.weight.detach().clone(),
        "neck": tracker.neck["rgb"][0].weight.detach().clone(),
    }

    def look(module, *_):
        moved = not torch.equal(weight.weight, start["backbone"])
        seen.append((norm.training, moved, int(norm.num_batches_tracked)))

    tracker.head["rgb"].register_forward_pre_hook(look)
    fit(stage, pairs(tree, tracker, data=data), tmp_path / "x.safetensors", **PLAIN)
    assert seen[:3] == [(False, False, 0), (False, False, 0), (True, False, 2)]
    assert seen[3] == (True, True, 4)
    assert not torch.equal(tracker.neck["rgb"][0].weight, start["neck"])
    shares = {group["share"] for group in stage.groups("all")}
    assert shares == {1.0, 0.1}


def test_what_learns_later_at_no_rate_stays_as_it_is(tree, tmp_path):
    torch.manual_seed(0)
    plan = Plan(2, batch=2, optimizer="sgd", rate_share={"backbone": 0.0})
    tracker = Siamese(whole_pixels="siamban")
    data = Data(**vars(OSTRACK) | {"interval": 100, "search_shift": 8})
    before = {name: p.detach().clone() for name, p in tracker.named_parameters()}
    stage = Stage(tracker, "1.1 rgb", plan)
    fit(stage, pairs(tree, tracker, data=data), tmp_path / "x.safetensors", **PLAIN)
    moved = {name for name, p in tracker.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert {name.split(".")[0] for name in moved} == {"neck", "head"}


def test_tokens_grow_fewer_with_the_epochs(tree, tmp_path):
    torch.manual_seed(0)
    tracker = ViPT(**SMALL, keep={1: 0.5}, whole_pixels="ostrack")
    stage, kept = Stage(tracker, "1.2", Plan(6, epochs=6, batch=2, eliminate=(2, 5))), []
    block = tracker.backbone.blocks[2]
    block.register_forward_hook(lambda _, given, out: kept.append(given[0].shape[1] - 16))
    fit(stage, pairs(tree, tracker), tmp_path / "x.safetensors", **PLAIN)
    assert kept[:2] == [64, 64]
    assert kept[:2] > kept[2:3]
    assert sorted(kept, reverse=True) == kept
    assert kept[4] == kept[5] == 45  # the released share at last, 0.7, whatever `keep` says
    assert tracker.backbone.keep_rate is None
