"""Score tables with their uncertainty, published numbers, and the scores stored in the project.

A score is a mean over a sample of sequences: its interval is percentiles of a bootstrap that draws
sequences with replacement. Two trackers on the same sequences are compared by the bootstrap of
their paired difference, much tighter than two separate intervals suggest.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gmmt.data import manifest
from gmmt.data.benchmarks import GroundTruth, ground_truth
from gmmt.errors import DownloadError, SettingError
from gmmt.files import atomic_write, resource, stored_results_dir
from gmmt.metrics import METRICS, PROTOCOLS, Scores, score
from gmmt.sanity import read_results

TABLE_COLUMNS = ("benchmark", "tracker", "subset", "metric", "value", "low", "high", "n_sequences")
STORED = "raw_scores.csv"

# Archives of raw results (data_manifests/) that can be scored: tracker, benchmark.
RAW = {
    "gmmt_gtot": ("TBSI+GMMT", "gtot"),
    "gmmt_rgbt234": ("TBSI+GMMT", "rgbt234"),
    "dfat_rgbt234": ("DFAT", "rgbt234"),
    "apfnet_lasher": ("APFNet", "lasher"),
}


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` sequences with its 95 % bootstrap interval, in percent (or points)."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}] (n = {self.n})"


def estimate(scores: Scores, metric: str, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean of `metric` in percent with its 95 % interval; NaN for that without `resamples`."""
    return mean_interval(scores.values[metric], resamples, seed, weights=scores.weights(), unit=100)


def difference(
    scores: Scores, baseline: Scores, metric: str, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """`scores` minus `baseline` in points with the 95 % interval paired by sequence.

    ValueError: they are of different sequences.
    """
    if scores.sequences != baseline.sequences:
        raise ValueError("a paired difference needs the same sequences in the same order on both")
    change = scores.values[metric] - baseline.values[metric]
    return mean_interval(change, resamples, seed, weights=scores.weights(), unit=100)


def mean_interval(
    values: np.ndarray, resamples: int = 2000, seed: int = 0, weights=None, unit: float = 1
) -> Estimate:
    """Mean of `values` [n], one of each sequence, times `unit`, with its 95 % bootstrap interval.

    Without `resamples` the interval is NaN; `weights` [n] are equal if None; `unit` 100 turns
    shares into percent. ValueError: there are no values.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("there is no mean of no values: expected at least one sequence")
    if weights is None:
        weights = np.ones(n)
    mean = unit * float(np.average(values, weights=weights))
    if resamples == 0:
        return Estimate(mean, np.nan, np.nan, n)
    # How often each resample [resamples, n] draws each value.
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    means = unit * (counts @ (weights * values)) / (counts @ weights)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(mean, float(low), float(high), n)


def table(
    scores: Scores,
    tracker: str,
    truth: GroundTruth,
    by_attribute=False,
    resamples: int = 2000,
    baseline: Scores | None = None,
) -> list[dict]:
    """Rows (TABLE_COLUMNS) for all sequences and, if asked for, for those of each attribute; with a
    `baseline` of the paired differences from it, in points.

    An attribute of which no sequence was scored has n_sequences 0 and NaN for its numbers.
    """
    subsets = {"ALL": scores.sequences}
    if by_attribute:
        subsets.update(truth.attributes)
    rows = []
    for subset, names in subsets.items():
        part = scores.subset(names)
        for metric in METRICS:
            if not part.sequences:
                e = Estimate(np.nan, np.nan, np.nan, 0)
            elif baseline is None:
                e = estimate(part, metric, resamples)
            else:
                e = difference(part, baseline.subset(names), metric, resamples)
            cells = (truth.name, tracker, subset, metric, e.value, e.low, e.high, e.n)
            rows.append(dict(zip(TABLE_COLUMNS, cells, strict=True)))
    return rows


def comparison(
    scored: Mapping[str, Scores], truth: GroundTruth, by_attribute=False, resamples: int = 2000
) -> list[dict]:
    """Rows of each tracker as of `table`; of each but the first, also of its paired differences
    from the first, under the name "TRACKER - FIRST".
    """
    rows: list[dict] = []
    first, *_ = scored
    for tracker, scores in scored.items():
        rows += table(scores, tracker, truth, by_attribute, resamples)
        if tracker != first:
            name = f"{tracker} - {first}"
            rows += table(scores, name, truth, by_attribute, resamples, scored[first])
    return rows


def write_table(
    rows: Iterable[Mapping], path: Path | str, columns: Sequence[str] = TABLE_COLUMNS
) -> None:
    """Writes rows as a CSV file, whole or not at all; "-" is standard output."""
    import pandas as pd  # here, so that a score without a file starts at once

    frame = pd.DataFrame(list(rows), columns=list(columns))
    options = {"index": False, "float_format": "%.6f", "lineterminator": "\n"}
    if str(path) == "-":
        frame.to_csv(sys.stdout, **options)
        return
    with atomic_write(path) as file:
        frame.to_csv(file, **options)


def published():
    """Every number of the paper's and supplement's tables and of Fig. 4, a DataFrame of text."""
    import pandas as pd

    return pd.read_csv(resource("published_results.csv"), dtype=str, keep_default_na=False)


def printed(
    source: str, benchmark: str, method: str, metric: str, subset: str = "ALL", setting: str = ""
) -> str:
    """One published cell as it is printed ("87.9"); SettingError: there is not exactly one."""
    wanted = {"source": source, "benchmark": benchmark, "method": method, "setting": setting}
    wanted.update(subset=subset, metric=metric)
    found = published()
    for column, value in wanted.items():
        found = found[found[column] == value]
    if len(found) != 1:
        raise SettingError(
            f"{len(found)} published cells match {wanted}: expected exactly one (see "
            "gmmt/resources/published_results.csv)"
        )
    return found["value"].iloc[0]


def raw_boxes(archive: str) -> dict[str, np.ndarray] | None:
    """Boxes [n, 4] of each sequence of a raw archive, fetched if need be; None: not to be had."""
    try:
        folder = manifest.fetch(archive, progress=False)
    except DownloadError:
        return None
    _, benchmark = RAW[archive]
    return read_results(folder, ground_truth(benchmark))


def raw_scores(archive: str) -> tuple[Scores, str]:
    """Scores by the official protocol, and from what: "raw files" or, without, "stored scores"."""
    _, benchmark = RAW[archive]
    boxes = raw_boxes(archive)
    if boxes is None:
        return stored_scores(archive), "stored scores"
    return score(boxes, ground_truth(benchmark).boxes, PROTOCOLS[benchmark]), "raw files"


def stored_scores(archive: str) -> Scores:
    """An archive's scores by the official protocol, from notebooks/results/raw_scores.csv."""
    import pandas as pd

    _, benchmark = RAW[archive]
    rows = pd.read_csv(stored_results_dir() / STORED, dtype=str)
    rows = rows[rows["archive"] == archive]
    # Numbers are not read by read_csv, which may miss the last digit.
    values = {metric: rows[metric].astype(float).to_numpy() for metric in METRICS}
    n_frames = rows["n_frames"].astype(int).to_numpy()
    return Scores(tuple(rows["sequence"]), n_frames, values, PROTOCOLS[benchmark].pool)
