"""The stored scores of raw results, made anew: a maintainer's tool. Needs the extra `lab`, and the
raw results (gmmt fetch).

python -m workflow.store
"""

import warnings
from pathlib import Path

import jupytext

from gmmt import results
from gmmt.errors import DownloadError
from gmmt.files import ROOT, stored_results_dir
from gmmt.metrics import METRICS

COLUMNS = ("archive", "benchmark", "tracker", "sequence", "n_frames", *METRICS)
GRID = "convention_grid.csv"


def convention_grid():
    """Returns what notebook 10's function of this name returns: the worth of each convention, or
    None without raw results.
    """
    names = {}
    for cell in jupytext.read(ROOT / "notebooks/src/10_metrics.py").cells:
        if cell.cell_type == "code" and cell.source.startswith(
            ("import warnings", "def convention_grid")
        ):
            exec(
                "from gmmt import metrics, results\nfrom gmmt.data.benchmarks import "
                f"ground_truth\n{cell.source}",
                names,
            )
    with warnings.catch_warnings(action="ignore"):  # of files that lack a row
        return names["convention_grid"]()


def store() -> list[Path]:
    """Returns the stored files after writing them anew from the raw files; raises DownloadError,
    and writes nothing, if one is missing.
    """
    rows = []
    for archive, (tracker, benchmark) in results.RAW.items():
        scores, source = results.raw_scores(archive)
        if source != "raw files":
            raise DownloadError(
                f"{archive}: the raw files cannot be had, so nothing was stored; use `gmmt "
                f"fetch {archive} --mirror DIR`"
            )
        for name, n, *values in zip(
            scores.sequences, scores.n_frames, *(scores.values[m] for m in METRICS), strict=True
        ):
            rows.append(
                dict(
                    zip(
                        COLUMNS,
                        (archive, benchmark, tracker, name, n, *(f"{v:.12g}" for v in values)),
                        strict=True,
                    )
                )
            )
    grid = convention_grid()
    paths = [stored_results_dir() / name for name in (results.STORED, GRID)]
    results.write_table(rows, paths[0], COLUMNS)
    results.write_table(grid.to_dict("records"), paths[1], list(grid))
    return paths


if __name__ == "__main__":
    print(*store(), sep="\n")
