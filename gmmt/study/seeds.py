"""Scores of many trainings of the miniature, and which differences between rows they show.

A score depends on which training (seed) and on which videos (sequences). Every seed trains all rows
from nothing, and all are tested on the same videos, so a difference of two rows is a matrix d [S,
Q], seeds by sequences, paired in both. With d_sq = mu + a_s + b_q + e_sq the variance of its mean
has a part from seeds, one from sequences, and their interaction, which both contain once:

    Var = Var_s(mean_q d) / S + Var_q(mean_s d) / Q - Var(e) / (S Q)

Its interval is for other trainings on other videos of the same kind; one over seeds alone is for
other trainings on these very videos.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gmmt.errors import ResultFileError
from gmmt.files import stored_results_dir
from gmmt.results import Estimate, mean_interval


@dataclass(frozen=True)
class Interval(Estimate):
    """A mean over S seeds and n sequences in percent (points, for a difference).

    `low` and `high` end its 95 % interval over both, which is never narrower than that over seeds
    alone.
    """

    over_seeds: tuple[float, float]  # by t; the sequences are taken as they are
    over_sequences: tuple[float, float]  # by a bootstrap; the seeds are taken as they are
    # the smallest true value that four of five experiments of this size find (at 5 %, two-sided)
    detectable: float
    seeds: int  # S

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def interval(values: np.ndarray) -> Interval:
    """Returns the mean of `values` [S, Q] (shares, or their differences) with its intervals, in
    percent; ValueError if S or Q is 1.
    """
    from scipy.stats import t

    d = 100 * np.asarray(values, dtype=np.float64)
    s, q = d.shape
    if min(s, q) < 2:
        raise ValueError(
            f"an interval over seeds and sequences needs two of each at least, not {s} and {q}"
        )
    mean, by_seed, by_sequence = d.mean(), d.mean(1), d.mean(0)
    v_s, v_q = by_seed.var(ddof=1) / s, by_sequence.var(ddof=1) / q
    v_e = ((d - by_seed[:, None] - by_sequence + mean) ** 2).sum() / ((s - 1) * (q - 1)) / (s * q)
    v = max(
        v_s + v_q - v_e, v_s, v_q
    )  # the difference of estimates may fall below what either part alone must give
    df = v**2 / (v_s**2 / (s - 1) + v_q**2 / (q - 1)) if v else 1  # Satterthwaite
    alone = t.ppf(0.975, s - 1) * v_s**0.5
    error, df = max((v**0.5, df), (v_s**0.5, s - 1), key=lambda e: t.ppf(0.975, e[1]) * e[0])
    both, videos = t.ppf(0.975, df) * error, mean_interval(by_sequence)
    ends = (float(mean - alone), float(mean + alone)), (videos.low, videos.high)
    return Interval(
        float(mean),
        float(mean - both),
        float(mean + both),
        q,
        *ends,
        float(both + t.ppf(0.8, df) * error),
        s,
    )


def matrix(table, row: str, metric: str, subset: str = "ALL") -> np.ndarray:
    """Returns a row's scores [S, Q], shares, from the table that `read` returns."""
    part = table[(table["row"] == row) & (table["subset"] == subset)]
    return part.pivot(index="seed", columns="sequence", values=metric).to_numpy()


def difference(table, row: str, other: str, metric: str = "SR", subset: str = "ALL") -> Interval:
    """Returns row - other in points, paired by seed and sequence."""
    return interval(matrix(table, row, metric, subset) - matrix(table, other, metric, subset))


def read(profile: str = "cpu", folder: Path | None = None):
    """Returns the stored scores of all seeds as a DataFrame: seed, row, subset, sequence, frames,
    PR, NPR, SR.

    FileNotFoundError: nothing is stored. ResultFileError: files are of different videos, or one
        lacks scores that another one has.
    """
    import pandas as pd

    folder = folder or stored_results_dir() / "miniature"
    tables, first = [], ""
    for path in sorted(folder.glob(f"{profile}-seed*.csv")):
        seed, head = (
            path.stem.removeprefix(f"{profile}-seed"),
            path.read_text(encoding="utf-8").partition("\n")[0],
        )
        start, _, videos = head.rpartition(" ")
        expected = f"# miniature, profile {profile}, seed {seed}, test videos"
        if start != expected:
            raise ResultFileError(f"{path}, line 1: expected '{expected} HASH', not {head!r}")
        t = pd.read_csv(path, comment="#")
        keys = t[["row", "subset", "sequence"]]
        if tables and not (videos == first and keys.equals(tables[0][keys.columns])):
            raise ResultFileError(
                f"{path}: other rows or videos ({videos}) than in the first file ({first}): "
                "make it anew (make table)"
            )
        tables, first = [*tables, t.assign(seed=int(seed))], videos
    if not tables:
        raise FileNotFoundError(
            f"{folder}: there is no {profile}-seed*.csv; `make table SEED=0,1` makes them"
        )
    return pd.concat(tables, ignore_index=True).sort_values(
        "seed", kind="stable", ignore_index=True
    )
