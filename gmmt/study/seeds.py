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

import numpy as np

from gmmt.errors import StoredError
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


def interval(values) -> Interval:
    """Returns the mean of `values` [S, Q] (shares, or their differences) with its intervals, in
    percent.

    A DataFrame may have seeds without any value, which are left out: a difference of tables of
    which one has more seeds. StoredError: of some seed only some sequences have a value; the tables
    are of different videos. ValueError: S or Q is 1.
    """
    from scipy.stats import t

    if hasattr(values, "dropna"):
        values = values.dropna(how="all")
    d = 100 * np.asarray(values, dtype=np.float64)
    if np.isnan(d).any():
        raise StoredError(
            f"{int(np.isnan(d).any(0).sum())} of {d.shape[1]} sequences lack a score on one side: "
            f"the rows were not tested on the same videos"
        )
    s, q = d.shape
    if min(s, q) < 2:
        raise ValueError(
            f"an interval over seeds and sequences needs two of each at least, not {s} and {q}"
        )
    mean, by_seed, by_sequence = d.mean(), d.mean(1), d.mean(0)
    v_s, v_q = by_seed.var(ddof=1) / s, by_sequence.var(ddof=1) / q
    v_e = ((d - by_seed[:, None] - by_sequence + mean) ** 2).sum() / ((s - 1) * (q - 1)) / (s * q)
    # The difference of estimates may fall below what either part alone must give.
    v = max(v_s + v_q - v_e, v_s, v_q)
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


def matrix(table, row: str, metric: str, subset: str = "ALL"):
    """Returns a row's scores, shares, as a DataFrame with a line a seed and a column a sequence.

    Two such frames are subtracted seed by seed and sequence by sequence, whatever their order;
    where one has a seed that the other has not, there is no difference (see `interval`).
    """
    part = table[(table["row"] == row) & (table["subset"] == subset)]
    if part.empty:
        raise StoredError(f"the stored table has no scores of row {row!r}, subset {subset!r}")
    return part.pivot(index="seed", columns="sequence", values=metric)


def difference(table, row: str, other: str, metric: str = "SR", subset: str = "ALL") -> Interval:
    """Returns row - other in points, paired by seed and sequence."""
    return interval(matrix(table, row, metric, subset) - matrix(table, other, metric, subset))
