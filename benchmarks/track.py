"""Frames a second of the miniature: of the generator on one core, and of tracking on two, at one
and ten sampling steps.

    python -m benchmarks.track [--quick] [--threads N] [--rounds N]

Weights are random: speed does not depend on their values. Everything takes turns in one process;
shown are medians of the rounds, and the ratio to Base of the same round, because machines drift.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

GENERATOR_BOUND, TRACK_BOUND = 300, 300


def main(argv: Sequence[str] = ()) -> None:
    """Prints the table."""
    import torch

    from gmmt import tracking
    from gmmt.build import make_generator, make_tracker
    from gmmt.data import synthetic
    from gmmt.study import miniature

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.track", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="few and short videos, for a try in seconds"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="times that each thing is measured, after one warm-up (default 3)",
    )
    options = parser.parse_args(argv)
    n, length = (4, 6) if options.quick else (64, 48)
    videos = synthetic.benchmark("val", n, length)

    torch.set_num_threads(1)
    seconds = []
    for _ in range(options.rounds + 1):
        start = time.perf_counter()
        for video in synthetic.benchmark("train", n, length):
            video.frames()
        seconds.append(time.perf_counter() - start)
    rate = n * length / statistics.median(seconds[1:])
    print(
        f"generator, one core, {n} scenes of {length} frames, set-up of scenes included: "
        f"{verdict(rate, GENERATOR_BOUND)} frames/s"
    )

    torch.set_num_threads(options.threads)
    works = {}
    for name, steps in (("RGB", 1), ("Base", 1), ("RAW", 1), ("DM", 1), ("DM", 10), ("DM-uvit", 1)):
        row = miniature.config(name, "cpu")
        tracker = make_tracker(row)
        tracker.fusion = make_generator(row, tracker.channels)
        works[f"{name}, s = {steps}"] = (tracker, row.mode, steps)
    times = {name: [] for name in works}
    for k in range(options.rounds + 1):
        for name, (tracker, mode, steps) in works.items():
            start = time.perf_counter()
            tracking.track_all(tracker, mode, videos, steps=steps)
            if k:
                times[name].append(time.perf_counter() - start)
    print(
        f"tracking, {options.threads} threads, {n} sequences in lock-step, frames drawn on the "
        f"way, n = {options.rounds} rounds"
    )
    for name, spent in times.items():
        over = statistics.median(a / b for a, b in zip(spent, times["Base, s = 1"], strict=True))
        rate = n * length / statistics.median(spent)
        bounded = name.endswith("s = 1") and "uvit" not in name
        shown = verdict(rate, TRACK_BOUND) if bounded else f"{rate:.0f}"
        print(f"  {name:16s} {shown:24s} frames/s, {over:.2f} of Base's time")


def verdict(rate: float, bound: float) -> str:
    """The rate beside its bound."""
    word = "kept" if rate >= bound else "NOT kept"
    return f"{rate:.0f} (bound {bound}: {word})"


if __name__ == "__main__":
    main(sys.argv[1:])
