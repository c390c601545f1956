"""Two-stage training: what is frozen stays, what was killed goes on to the same weights, and
processes share one batch.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gmmt.data import synthetic
from gmmt.data.pairs import Pairs
from gmmt.errors import SettingError
from gmmt.fusion import make_fusion
from gmmt.networks.discriminator import Discriminator
from gmmt.networks.unet import UNet
from gmmt.trackers.siamese import Siamese
from gmmt.training import PAPER, STAGES, Plan, Stage, fit, hash_of, load_or_train, trained

ROOT = Path(__file__).resolve().parent.parent


def tiny_pairs():
    videos = synthetic.benchmark("train", 6, 8)
    return Pairs(
        np.stack([v.frames()[::4] for v in videos]),
        np.stack([v.boxes[::4] for v in videos]),
        32,
        64,
    )


@pytest.fixture(scope="module")
def pairs():
    return tiny_pairs()


def tiny_tracker(variant=None, seed=0, **options):
    torch.manual_seed(seed)
    tracker = Siamese()
    if variant:
        extra = (
            {"discriminator": Discriminator(32, size=16, widths=(8, 8, 8))}
            if variant == "CGAN"
            else {}
        )
        tracker.fusion = make_fusion(
            variant, UNet(32, 3, inner=8, groups=4), 32, **extra, **options
        )
    return tracker


def state(tracker):
    return {k: v.clone() for k, v in tracker.state_dict().items()}


def same(a, b):
    """Whether two states are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


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
    fit(
        Stage(tracker, stage),
        Plan(3, batch=4),
        pairs,
        tmp_path / "x.safetensors",
        seed=0,
        config={},
    )
    after = tracker.state_dict()
    for name, value in before.items():
        moved = not torch.equal(value, after[name])
        constant = name.endswith(("mean", "std")) and name.startswith(
            "fusion."
        )  # normalisation: fitted, not trained
        assert moved == (name.startswith(LEARNABLE[stage]) and not constant), name


@pytest.mark.parametrize("variant", [None, "RAW", "NOISE", "TRK", "CGAN", "DM"])
def test_stage_2_cuts_its_loss_on_one_batch_fivefold(variant, pairs, tmp_path):
    tracker = tiny_tracker(variant)
    stage = Stage(tracker, "2", lam=0.0 if variant == "TRK" else 1.0)
    one = pairs.batch(4, (0, 0, 0))

    class OneBatch:
        def batch(self, *_, **__):
            return one

    history = fit(
        stage,
        Plan(100, batch=4, rate=5e-3),
        OneBatch(),
        tmp_path / "x.safetensors",
        seed=0,
        config={},
    )
    total = np.array(history["cls"]) + np.array(history["loc"])
    assert total[-5:].mean() < total[0] / 5
    assert np.isfinite([v for values in history.values() for v in values]).all()


def test_the_same_seed_gives_the_same_weights_and_another_one_others(pairs, tmp_path):
    weights = []
    for k, seed in enumerate((0, 0, 1)):
        tracker = tiny_tracker("DM")
        fit(
            Stage(tracker, "2"),
            Plan(4, batch=4),
            pairs,
            tmp_path / f"{k}.safetensors",
            seed=seed,
            config={},
        )
        weights.append(state(tracker))
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


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
                def batch(self, n, seed, *rest, stop=stop):
                    if seed[2] == stop:
                        raise KeyboardInterrupt
                    return pairs.batch(n, seed, *rest)

            options = {"seed": 0, "config": {}, "save_every": 1}
            if stop is None:
                history = fit(Stage(tracker, "2"), plan, Stopping(), path, **options)
            else:
                with pytest.raises(KeyboardInterrupt):
                    fit(Stage(tracker, "2"), plan, Stopping(), path, **options)
        ends.append((state(tracker), history, load_file(path)))
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    assert same(ends[0][2], ends[1][2])


def test_checkpoints_of_another_configuration_or_tracker_are_refused(pairs, tmp_path):
    path = tmp_path / "x.safetensors"
    fit(Stage(tiny_tracker("RAW"), "2"), Plan(2, batch=4), pairs, path, seed=0, config={"a": 1})
    with pytest.raises(SettingError, match="trained with another configuration"):
        fit(Stage(tiny_tracker("RAW"), "2"), Plan(2, batch=4), pairs, path, seed=0, config={"a": 2})
    with pytest.raises(SettingError, match="other weights than this stage trains"):
        fit(
            Stage(tiny_tracker("CGAN"), "2"), Plan(2, batch=4), pairs, path, seed=0, config={"a": 1}
        )
    with pytest.raises(SettingError, match="unknown stage"):
        Stage(tiny_tracker(), "3")
    with pytest.raises(SettingError, match="cannot be shared by 3 processes"):
        pairs.batch(4, (0, 0, 0), 0, 3)


def test_load_or_train_trains_once(pairs, tmp_path):
    calls = []

    def once():
        calls.append(1)
        return pairs

    options = {"seed": 0, "config": {"on": "x"}}
    first, again = tiny_tracker("RAW"), tiny_tracker("RAW", seed=5)
    key, history = load_or_train(
        "RAW", Stage(first, "2"), Plan(2, batch=4), once, tmp_path, **options
    )
    key_2, history_2 = load_or_train(
        "RAW", Stage(again, "2"), Plan(2, batch=4), once, tmp_path, **options
    )
    assert (key, history, len(calls)) == (key_2, history_2, 1)
    ours = trained(Stage(first, "2"))
    assert all(torch.equal(v, trained(Stage(again, "2"))[k]) for k, v in ours.items())
    assert (
        load_or_train("RAW", Stage(again, "2"), Plan(3, batch=4), once, tmp_path, **options)[0]
        != key
    )


def test_batches_do_not_depend_on_the_number_of_processes(pairs):
    whole = pairs.batch(8, (3, 1, 7))
    parts = [pairs.batch(8, (3, 1, 7), rank, 4) for rank in range(4)]
    for k in range(3):
        torch.testing.assert_close(
            torch.cat([p[k] for p in parts]), whole[k], equal_nan=True, rtol=0, atol=1e-3
        )
    assert not torch.equal(pairs.batch(8, (3, 1, 8))[0], whole[0])
    boxes = torch.cat([pairs.batch(64, (0, 0, k))[2] for k in range(10)])
    assert (
        0.05 < boxes.isnan().any(1).float().mean() < 0.3
    )  # pairs of two sequences, except by chance the same one
    assert boxes[~boxes.isnan().any(1)].abs().max() < 64


def test_the_supplements_learning_rates():
    for name, epochs in (("1.1", 20), ("1.2", 20), ("2", 100)):
        plan = replace(PAPER[name], steps=epochs * 100)
        rates = [plan.rate_at(k) for k in range(plan.steps)]
        assert rates[0] == pytest.approx(0.001)
        assert max(rates) == pytest.approx(0.005)
        assert np.argmax(rates) == {"1.1": 500, "1.2": 500, "2": 2000}[name]
        assert rates[-1] == pytest.approx(0.00005)


def test_hashes_are_the_same_everywhere():
    assert (
        hash_of({"b": 1, "a": [1, 2.5, "x"]})
        == hash_of({"a": [1, 2.5, "x"], "b": 1})
        == 1242265592378357476
    )


RUN = """
import sys, torch
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
torch.set_num_threads(1)
from test_training import *
folder = Path(sys.argv[1])
pairs = tiny_pairs()
tracker = tiny_tracker("DM")
print("ready", flush=True)
for stage in ("1.1 rgb", "1.1 tir", "1.2", "2"):
    options = {{"seed": 0, "config": {{}}, "save_every": 1}}
    own, plan = Stage(tracker, stage), Plan(16, batch=4)
    load_or_train(stage.replace(" ", ""), own, plan, lambda: pairs, folder, **options)
print("done", flush=True)
"""


def test_killed_at_ten_random_moments_a_run_ends_with_the_same_weights(tmp_path):
    """SIGKILL across all stages; then the weights are those of a run that nobody disturbed, bit for
    bit.
    """
    code, env = RUN.format(root=str(ROOT)), os.environ | {"OMP_NUM_THREADS": "1"}

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", code, folder], env=env, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        return process

    process, began = start(tmp_path / "calm"), time.monotonic()
    assert process.communicate()[0] == "done\n"
    took = time.monotonic() - began
    rng, kills = random.Random(0), 0
    for _ in range(
        10
        # Each life is a tenth of the calm run on average at most: kills fall into all stages.
    ):
        process = start(tmp_path / "killed")
        time.sleep(rng.uniform(0, took / 6))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert start(tmp_path / "killed").communicate()[0] == "done\n"
    assert kills >= 8  # a fast machine may end before the last
    calm, killed = (
        {p.name: load_file(p) for p in (tmp_path / f).glob("*.safetensors")}
        for f in ("calm", "killed")
    )
    assert calm.keys() == killed.keys()
    assert len(calm) == 4
    assert all(same(calm[name], killed[name]) for name in calm)


SHARED = """
import json, sys, torch
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
torch.set_num_threads(1)
from accelerate import Accelerator
from test_training import *
accelerator = Accelerator(cpu=True)
stage = Stage(tiny_tracker("DM", track_t="random"), "2")
options = {{"seed": 0, "config": {{}}, "accelerator": accelerator}}
history = fit(stage, Plan(20, batch=8, rate=2e-3), tiny_pairs(), Path(sys.argv[1]), **options)
if accelerator.is_main_process:
    Path(sys.argv[1]).with_suffix(".json").write_text(json.dumps(history))
"""


def test_two_processes_meet_the_loss_of_one(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SHARED.format(root=str(ROOT)))
    histories = []
    for n in (1, 2):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={n}",
            "--master-port",
            str(29600 + os.getpid() % 300),
        ]
        env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(
            [*command, script, tmp_path / f"{n}.safetensors"],
            env=env,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        histories.append(json.loads((tmp_path / f"{n}.json").read_text()))
    one, two = histories
    assert len(one["loss"]) == 20
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_several_processes_train_a_cgan_from_the_command_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-port",
        str(29300 + os.getpid() % 300),
    ]
    command += ["-m", "gmmt.cli", "train", "CGAN", "--profile", "smoke", "--weights", str(tmp_path)]
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
