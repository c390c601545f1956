"""The product's own loops on this machine's GPU: a frame of tracking at batch 1, crop included, a
step of stage 2 at the paper's size, a step of the miniature.

    python -m benchmarks.device [--quick] [--rounds N]

Weights are random: nothing here depends on their values. Without a GPU everything is small, and
shows no more than that it runs. Plain and fast tracking take turns.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

TRACK_BOUNDS = {"UViT": 250, "UNet": 100}
"""Frames a second of TBSI + GMMT, fast, on an H100 or H200."""
STEP_BOUND, MINIATURE_BOUND = 18, 100
"""Steps a second: of stage 2 with the UViT, 32 pairs; of the miniature, 64 pairs."""


def main(argv: Sequence[str] = ()) -> None:
    """Prints what was measured, with the device, versions and commit that it belongs to."""
    import torch

    from gmmt import compute, provenance

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.device", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="small and few, for a try in seconds")
    parser.add_argument(
        "--rounds", type=int, default=3, help="times that each thing is measured (default 3)"
    )
    options = parser.parse_args(argv)
    place = compute.device()
    small = options.quick or place.type == "cpu"
    if place.type == "cpu":
        torch.set_num_threads(1)
    print(f"{compute.describe(place)}, commit {provenance.git_commit()}, n = {options.rounds}")
    if small:
        print("small networks: these numbers stand for nothing but themselves")
    for network in TRACK_BOUNDS:
        track(network, small, options.rounds)
    stage_2(small, options.rounds)
    miniature_steps(small, options.rounds)


def paper_row(network: str, small: bool):
    """The configuration of TBSI + GMMT."""
    from gmmt.config_file import load
    from gmmt.files import config_dir

    path = config_dir() / "paper" / f"tbsi_gmmt_{network.lower()}.yaml"
    return load(path, "smoke" if small else "cpu", {"start": {"kind": "none"}})


def made(row):
    """Its tracker, with random weights, on the device."""
    import torch

    from gmmt import compute
    from gmmt.build import make_generator, make_tracker

    with torch.device(compute.device()):
        tracker = make_tracker(row)
        tracker.fusion = make_generator(row, tracker.channels)
    return tracker.eval()


def track(network: str, small: bool, rounds: int) -> None:
    """Frames a second of tracking.track, plain and fast."""
    import numpy as np

    from gmmt import compute, tracking
    from gmmt.data.sequence import Sequence

    n, (height, width) = (8, (120, 160)) if small else (200, (480, 640))
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 4, height, width), np.uint8)
    boxes = np.full((n, 4), np.nan)
    boxes[0] = width / 2, height / 2, width / 10, height / 10
    video = Sequence("noise", boxes, lambda i: frames[i % 4], (height, width))
    row, seconds = paper_row(network, small), {False: [], True: []}
    for fast in seconds:
        tracker = made(row)
        if fast:
            compute.halve(tracker)
        for k in range(rounds + 1):
            found = tracking.track(tracker, "stage2", video, fast=fast)
            for i, _ in enumerate(found):
                if i == 2:  # templates, recording and first kernels are behind
                    start = time.perf_counter()
            if k:
                seconds[fast].append((time.perf_counter() - start) / (n - 3))
        del tracker
    plain, fast = (1 / statistics.median(seconds[k]) for k in (False, True))
    bound = TRACK_BOUNDS[network]
    word = "" if small else f" (bound {bound}: {'kept' if fast >= bound else 'NOT kept'})"
    print(
        f"TBSI + GMMT({network}), a frame of {width} x {height}: plain {plain:.1f} frames/s, "
        f"fast {fast:.1f}{word}"
    )


class SameBatch:
    """One batch of noise on the device, again and again: no loader is measured."""

    def __init__(self, crops, device):
        import torch

        self.sides, self.device = (crops.template, crops.search), device
        self.torch = torch

    def batches(self, key, first, last, n, rank=0, world=1):
        draw = self.torch.Generator(self.device).manual_seed(0)
        patches = [
            255 * self.torch.rand(n, 4, side, side, generator=draw, device=self.device)
            for side in self.sides
        ]
        boxes = self.torch.tensor([[-20.0, -20, 20, 20]], device=self.device).expand(n, 4)
        for _ in range(first, last):
            yield *patches, boxes


def steps_a_second(stage, pairs, rounds: int, steps: int) -> float:
    """Median over rounds, each a whole `fit`, whose first steps are not counted."""
    import torch

    from gmmt import compute, training

    rates = []

    class Timed:
        def batches(self, key, first, last, *rest):
            for k, batch in enumerate(pairs.batches(key, first, last, *rest)):
                if k == steps // 4:
                    if compute.device().type == "cuda":
                        torch.cuda.synchronize()
                    self.start = time.perf_counter()
                yield batch

    for _ in range(rounds):
        timed = Timed()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.safetensors"
            training.fit(stage, timed, path, seed=0, config={}, save_seconds=1e9)
        # fit's last look at the loss has waited for the device; writing a checkpoint counts, too.
        rates.append((steps - steps // 4) / (time.perf_counter() - timed.start))
    return statistics.median(rates)


def stage_2(small: bool, rounds: int) -> None:
    """Steps a second of stage 2 of TBSI with both networks."""
    from gmmt import compute
    from gmmt.training import Stage

    for network in TRACK_BOUNDS:
        row, steps = paper_row(network, small), 8 if small else 400
        plan = replace(row.plans["2"], steps=steps, epochs=0, rate_changes="steps")
        tracker = made(row)
        pairs = SameBatch(tracker.crops, compute.device())
        rate = steps_a_second(Stage(tracker, "2", plan), pairs, rounds, steps)
        word = ""
        if not small and network == "UViT":
            word = f" (bound {STEP_BOUND}: {'kept' if rate >= STEP_BOUND else 'NOT kept'})"
        print(f"stage 2 of TBSI with the {network}, {plan.batch} pairs: {rate:.1f} steps/s{word}")
        del tracker, pairs


def miniature_steps(small: bool, rounds: int) -> None:
    """Steps a second of stage 2 of the miniature, pairs cut on the device."""
    from gmmt import experiment
    from gmmt.study import miniature
    from gmmt.training import Stage

    row, steps = miniature.config("DM", "smoke" if small else "cpu"), 8 if small else 400
    tracker = made(row)
    pairs = experiment.make_pairs(row, tracker)
    plan = replace(row.plans["2"], steps=steps, batch=8 if small else 64)
    rate = steps_a_second(Stage(tracker, "2", plan), pairs, rounds, steps)
    word = ""
    if not small:
        word = f" (bound {MINIATURE_BOUND}: {'kept' if rate >= MINIATURE_BOUND else 'NOT kept'})"
    print(f"the miniature's stage 2, {plan.batch} pairs: {rate:.1f} steps/s{word}")


if __name__ == "__main__":
    main(sys.argv[1:])
