"""Score tables with their uncertainty, published numbers, and the scores stored in the project.

A score is a mean over a sample of sequences: its interval is percentiles of a bootstrap that draws
sequences with replacement. Two trackers on the same sequences are compared by the bootstrap of
their paired difference, much tighter than two separate intervals suggest.
"""

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gmmt.data import manifest
from gmmt.data.benchmarks import GroundTruth, ground_truth
from gmmt.data.boxes import read_results
from gmmt.errors import DownloadError, SettingError
from gmmt.files import atomic_write, resource, stored_results_dir
from gmmt.metrics import METRICS, PROTOCOLS, Scores, score

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
    """A mean over `n` sequences with its 95 % bootstrap interval; in percent (points, for a
    difference) unless said otherwise.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}] (n = {self.n})"


def estimate(scores: Scores, metric: str, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Returns the mean of `metric` in percent with its 95 % interval over sequences; no interval
    (NaN) if `resamples` is 0.
    """
    return mean_interval(scores.values[metric], resamples, seed, weights=scores.weights(), unit=100)


def difference(
    scores: Scores, baseline: Scores, metric: str, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Returns `scores` minus `baseline` in points with the 95 % interval paired by sequence; raises
    ValueError if sequences differ.
    """
    if scores.sequences != baseline.sequences:
        raise ValueError(
            "a paired difference needs the same sequences in the same order on both sides"
        )
    return mean_interval(
        scores.values[metric] - baseline.values[metric],
        resamples,
        seed,
        weights=scores.weights(),
        unit=100,
    )


def mean_interval(
    values: np.ndarray,
    resamples: int = 2000,
    seed: int = 0,
    weights: np.ndarray | None = None,
    unit: float = 1,
) -> Estimate:
    """Returns the mean of `values` [n], times `unit`, with its 95 % bootstrap interval; each weighs
    `weights` [n], or the same.
    """
    values, n = np.asarray(values, dtype=np.float64), len(values)
    weights = np.ones(n) if weights is None else weights
    mean = unit * float(np.average(values, weights=weights))
    if resamples == 0:
        return Estimate(mean, np.nan, np.nan, n)
    draws = np.random.default_rng(seed).multinomial(
        n, np.full(n, 1 / n), size=resamples
    )  # how often each value is drawn
    low, high = np.percentile(unit * (draws @ (weights * values)) / (draws @ weights), [2.5, 97.5])
    return Estimate(mean, float(low), float(high), n)


def table(
    scores: Scores,
    tracker: str,
    truth: GroundTruth,
    by_attribute: bool = False,
    resamples: int = 2000,
) -> list[dict]:
    """Returns rows (TABLE_COLUMNS) for all sequences and, if asked for, for those of each
    attribute.
    """
    rows, subsets = [], {"ALL": scores.sequences, **(truth.attributes if by_attribute else {})}
    for subset, metric in itertools.product(subsets, METRICS):
        e = estimate(scores.subset(subsets[subset]), metric, resamples)
        rows.append(
            dict(
                zip(
                    TABLE_COLUMNS,
                    (truth.name, tracker, subset, metric, e.value, e.low, e.high, e.n),
                    strict=True,
                )
            )
        )
    return rows


def write_table(
    rows: Iterable[Mapping], path: Path | str, columns: Sequence[str] = TABLE_COLUMNS
) -> None:
    """Writes rows as a CSV file, whole or not at all; "-" is standard output."""
    import pandas as pd  # here, so that a score without a file starts at once

    table = pd.DataFrame(list(rows), columns=list(columns))
    with nullcontext(sys.stdout) if str(path) == "-" else atomic_write(path) as file:
        table.to_csv(file, index=False, float_format="%.6f", lineterminator="\n")


def published():
    """Returns every number of the paper's tables, the supplement's and its Fig. 4 as a DataFrame of
    text; columns as `printed` has them.
    """
    import pandas as pd

    return pd.read_csv(resource("published_results.csv"), dtype=str, keep_default_na=False)


def printed(
    source: str, benchmark: str, method: str, metric: str, subset: str = "ALL", setting: str = ""
) -> str:
    """Returns one published cell as it is printed ("87.9"); raises SettingError if there is no such
    cell, or more than one.
    """
    t = published()
    wanted = {
        "source": source,
        "benchmark": benchmark,
        "method": method,
        "setting": setting,
        "subset": subset,
        "metric": metric,
    }
    hit = t.loc[np.logical_and.reduce([t[c] == v for c, v in wanted.items()]), "value"]
    if len(hit) != 1:
        raise SettingError(
            f"{len(hit)} published cells match {wanted}: expected exactly one (see "
            "gmmt/resources/published_results.csv)"
        )
    return hit.iloc[0]


def raw_boxes(archive: str) -> dict[str, np.ndarray] | None:
    """Returns the boxes [n, 4] of each sequence in a raw result archive, fetched if need be; None
    if it cannot be had.
    """
    with suppress(DownloadError):
        return read_results(
            manifest.fetch(archive, progress=False), ground_truth(RAW[archive][1]).sequences
        )
    return None


def raw_scores(archive: str) -> tuple[Scores, str]:
    """Returns a raw result archive's scores by the official protocol, and their source: "raw files"
    or, without those, "stored scores".
    """
    benchmark, boxes = RAW[archive][1], raw_boxes(archive)
    if boxes is None:
        return stored_scores(archive), "stored scores"
    return score(boxes, ground_truth(benchmark).boxes, PROTOCOLS[benchmark]), "raw files"


def stored_scores(archive: str) -> Scores:
    """Returns the per-sequence scores stored in the project (notebooks/results/raw_scores.csv),
    official protocol.
    """
    import pandas as pd

    rows = pd.read_csv(stored_results_dir() / STORED, dtype=str).query("archive == @archive")
    values = {
        m: rows[m].astype(float).to_numpy() for m in METRICS
    }  # not by read_csv, which may miss the last digit
    return Scores(
        tuple(rows["sequence"]),
        rows["n_frames"].astype(int).to_numpy(),
        values,
        PROTOCOLS[RAW[archive][1]].pool,
    )
