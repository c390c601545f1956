"""Score tables with their uncertainty, published numbers, and the scores stored in the project.

A score is a mean over sequences, so its uncertainty is that of a sample of sequences: intervals are percentiles of a bootstrap that draws
sequences with replacement. Two trackers on the same sequences are compared by the bootstrap of their paired difference, which is much
tighter than two separate intervals suggest.
"""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gmmt.data.benchmarks import GroundTruth, ground_truth, read_results
from gmmt.errors import DownloadError, SettingError
from gmmt.files import atomic_write, resource, stored_results_dir
from gmmt.metrics import METRICS, PROTOCOLS, Protocol, Scores, score

TABLE_COLUMNS = ("benchmark", "tracker", "subset", "metric", "value", "low", "high", "n_sequences")


@dataclass(frozen=True)
class Estimate:
    """A mean over sequences with its 95 % bootstrap interval; all in percent (points, for a difference)."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}] (n = {self.n})"


def estimate(scores: Scores, metric: str, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Returns the mean of `metric` in percent with its 95 % interval over sequences; no interval (NaN) if `resamples` is 0."""
    return _bootstrap(scores.values[metric], scores.weights(), resamples, seed)


def difference(scores: Scores, baseline: Scores, metric: str, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Returns `scores` minus `baseline` in points with the 95 % interval of the difference paired by sequence.

    Raises:
        ValueError: the two were not scored on the same sequences.
    """
    if scores.sequences != baseline.sequences:
        raise ValueError("a paired difference needs the same sequences in the same order on both sides")
    return _bootstrap(scores.values[metric] - baseline.values[metric], scores.weights(), resamples, seed)


def _bootstrap(values: np.ndarray, weights: np.ndarray, resamples: int, seed: int) -> Estimate:
    n = len(values)
    mean = 100 * float(np.average(values, weights=weights))
    if resamples == 0:
        return Estimate(mean, float("nan"), float("nan"), n)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)  # how often each sequence is drawn
    means = 100 * (draws @ (weights * values)) / (draws @ weights)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(mean, float(low), float(high), n)


def mean_interval(values: np.ndarray, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Returns the mean of `values` [n], in their own unit, with its 95 % bootstrap interval."""
    e = _bootstrap(np.asarray(values, dtype=np.float64), np.ones(len(values)), resamples, seed)
    return Estimate(e.value / 100, e.low / 100, e.high / 100, e.n)


# --- tables --------------------------------------------------------------------------------------------------------------------------


def table(
    scores: Scores, tracker: str, truth: GroundTruth, metrics: Sequence[str], by_attribute: bool = False, resamples: int = 2000
) -> list[dict]:
    """Returns rows (TABLE_COLUMNS) for all sequences and, if asked for, for those of each attribute."""
    subsets = {"ALL": scores.sequences}
    if by_attribute:
        subsets |= truth.attributes
    rows = []
    for subset, names in subsets.items():
        part = scores.subset(names)
        if not part.sequences:
            continue
        for metric in metrics:
            e = estimate(part, metric, resamples)
            rows.append(dict(zip(TABLE_COLUMNS, (truth.name, tracker, subset, metric, e.value, e.low, e.high, e.n), strict=True)))
    return rows


def write_table(rows: Iterable[Mapping], path: Path | str, columns: Sequence[str] = TABLE_COLUMNS) -> None:
    """Writes rows as a CSV file, whole or not at all; "-" is standard output."""
    if str(path) == "-":
        _write_rows(rows, sys.stdout, columns)
    else:
        with atomic_write(path) as file:
            _write_rows(rows, file, columns)


def _write_rows(rows, file, columns):
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = (row[c] for c in columns)
        writer.writerow([("" if np.isnan(v) else f"{v:.6f}") if isinstance(v, float) else v for v in values])


# --- published numbers -----------------------------------------------------------------------------------------------------------------


def published():
    """Returns every number of the paper's and the supplement's tables and of supplement Fig. 4, as a DataFrame.

    Columns: source, benchmark, method, setting, subset, metric, value (as printed; text where a cell holds no number).
    """
    import pandas as pd

    return pd.read_csv(resource("published_results.csv"), dtype=str, keep_default_na=False)


def printed(source: str, benchmark: str, method: str, metric: str, subset: str = "ALL", setting: str = "") -> str:
    """Returns one published cell as it is printed ("87.9"); raises SettingError if there is no such cell, or more than one."""
    t = published()
    wanted = {"source": source, "benchmark": benchmark, "method": method, "setting": setting, "subset": subset, "metric": metric}
    hit = t.loc[np.logical_and.reduce([t[c] == v for c, v in wanted.items()]), "value"]
    if len(hit) != 1:
        raise SettingError(f"{len(hit)} published cells match {wanted}: expected exactly one (see gmmt/resources/published_results.csv)")
    return hit.iloc[0]


# --- raw results of others -------------------------------------------------------------------------------------------------------------

RAW = {
    "gmmt_gtot": ("TBSI+GMMT", "gtot"),
    "gmmt_rgbt234": ("TBSI+GMMT", "rgbt234"),
    "dfat_rgbt234": ("DFAT", "rgbt234"),
    "apfnet_lasher": ("APFNet", "lasher"),
}
"""Archives of raw results (data_manifests/) that can be scored: tracker, benchmark."""

STORED, STORED_GRID = "raw_scores.csv", "convention_grid.csv"
STORED_COLUMNS = ("archive", "benchmark", "tracker", "sequence", "n_frames", *METRICS)


def raw_boxes(archive: str) -> dict[str, np.ndarray] | None:
    """Returns the boxes [n, 4] of each sequence in a raw result archive, fetched if need be; None if it cannot be had."""
    from gmmt.data import manifest

    try:
        folder = manifest.fetch(archive, progress=False)
    except DownloadError:
        return None
    return read_results(folder, ground_truth(RAW[archive][1]).sequences)


def raw_scores(archive: str, protocol: Protocol | None = None) -> tuple[Scores, str]:
    """Returns the scores of a raw result archive, and where they are from: "raw files" or "stored scores".

    Without the raw files (no network, no mirror) the project's stored per-sequence scores stand in; they exist for the official protocol.

    Raises:
        DownloadError: another protocol was asked for, and the raw files cannot be had.
    """
    benchmark = RAW[archive][1]
    boxes = raw_boxes(archive)
    if boxes is not None:
        return score(boxes, ground_truth(benchmark).boxes, protocol or PROTOCOLS[benchmark]), "raw files"
    if protocol not in (None, PROTOCOLS[benchmark]):
        raise DownloadError(
            f"{archive}: only scores under the official protocol are stored; run `gmmt fetch {archive}` to get the raw files"
        )
    return stored_scores(archive), "stored scores"


def stored_scores(archive: str) -> Scores:
    """Returns the per-sequence scores stored in the project (notebooks/results/raw_scores.csv), official protocol."""
    path = stored_results_dir() / STORED
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["archive"] == archive]
    if not rows:
        raise SettingError(f"{path}: no row for {archive!r}; expected one of {', '.join(RAW)}")
    values = {m: np.array([float(row[m]) for row in rows]) for m in METRICS}
    pool = PROTOCOLS[rows[0]["benchmark"]].pool
    return Scores(tuple(row["sequence"] for row in rows), np.array([int(row["n_frames"]) for row in rows]), values, pool)


def store() -> list[Path]:
    """Returns the stored files after writing them anew from the raw files; raises DownloadError, and writes nothing, if one is missing."""
    from gmmt import conventions

    rows = []
    for archive, (tracker, benchmark) in RAW.items():
        scores, source = raw_scores(archive)
        if source != "raw files":
            raise DownloadError(f"{archive}: the raw files cannot be had, so nothing was stored; use `gmmt fetch {archive} --mirror DIR`")
        for i, name in enumerate(scores.sequences):
            values = {m: f"{scores.values[m][i]:.12g}" for m in METRICS}
            rows.append(
                dict(archive=archive, benchmark=benchmark, tracker=tracker, sequence=name, n_frames=int(scores.n_frames[i]), **values)
            )
    paths = [stored_results_dir() / STORED, stored_results_dir() / STORED_GRID]
    write_table(rows, paths[0], STORED_COLUMNS)
    write_table(conventions.grid(), paths[1], conventions.COLUMNS)
    return paths
