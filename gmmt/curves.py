"""Curves behind PR, NPR and SR: the share of frames within each threshold, with intervals."""

from typing import NamedTuple

import numpy as np

from gmmt.metrics import Frames
from gmmt.protocol import Protocol, thresholds

MOST = 201
"""Points of a curve."""


class Curve(NamedTuple):
    """A curve over T thresholds, of each of S sequences."""

    thresholds: np.ndarray  # [T]: pixels, shares of the target's size, or overlaps
    shares: np.ndarray  # [S, T], 0..1


class Band(NamedTuple):
    """A mean curve in percent and its pointwise 95 % bootstrap interval over sequences [T] each."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve(frames: Frames, metric: str, protocol: Protocol) -> Curve:
    """The curve of PR, NPR or SR, from which the score is read off (PR, NPR) or whose area it is
    (SR).

    Errors go from 0 to 2.5 times the protocol's own threshold, in 50 steps.
    """
    if metric == "SR":
        x, values = thresholds(protocol), frames.overlap
        if len(x) > MOST:
            x = np.linspace(0, 1, MOST)
        within = values[:, None] > x if protocol.success_strict else values[:, None] >= x
    else:
        end, values = protocol.norm_precision_threshold, frames.norm_error
        if metric == "PR":
            end, values = protocol.precision_threshold, frames.error
        x = end * np.arange(51) / 20
        within = values[:, None] <= x
        if metric == "PR" and protocol.precision_strict:
            within = values[:, None] < x
    return Curve(x, frames.mean_by_sequence(within))


def band(shares: np.ndarray, weights: np.ndarray, resamples: int = 2000, seed: int = 0) -> Band:
    """Mean and interval of curves [S, T] of sequences with weights [S]; see `results`."""
    n = len(shares)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    means = (counts @ (weights[:, None] * shares)) / (counts @ weights)[:, None]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return Band(100 * np.average(shares, 0, weights), 100 * low, 100 * high)
