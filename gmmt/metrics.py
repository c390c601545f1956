"""Precision, normalised precision and success of a tracker, with every convention an explicit
argument.

One box per frame is compared with one or two ground-truth boxes (RGB-T benchmarks annotate each
modality). Three measures per frame,

    centre error      e = |c - c_gt|                      pixels
    normalised error  e_n = |(c - c_gt) / (w_gt, h_gt)|   1
    overlap           o = |B ^ B_gt| / |B v B_gt|         1

become three rates per sequence (PR: e <= 20, NPR: e_n <= 0.2, SR: area under the share of frames
with o > threshold), and those become one number per benchmark. Toolkits differ in every step; a
`Protocol` names each choice and `PROTOCOLS` holds the official ones. Boxes are (x, y, w, h) in
pixels, top-left corner, float64.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Literal

import numpy as np

from gmmt.errors import ResultFileError

METRICS = ("PR", "NPR", "SR")


@dataclass(frozen=True)
class Protocol:
    """The conventions behind a score; each field is one choice that toolkits make differently.

    name: how tables call it.
    precision_threshold: PR counts frames with a centre error up to this many pixels;
        precision_strict: only those with less.
    norm_precision_threshold: the same for the normalised error; its comparison is always <=.
    success_thresholds: SR averages over this many thresholds, equally spaced in [0, 1], both ends
        included.
    success_strict: a frame succeeds where overlap > threshold (not >=); matters at threshold 0,
        which every overlap reaches.
    area: "mean" of the success curve's points, or its "trapezoid" integral (end points weigh half).
    modality: "best" takes a frame's smaller error and larger overlap of the annotated modalities
        (MPR, MSR); "first", "second": one.
    pool: "sequences" gives every sequence the same weight, "frames" every frame.
    first_frame: "truth" replaces the first predicted box by the ground truth (it is given to the
        tracker anyway).
    invalid_prediction: a predicted box without area is kept as it is ("keep") or replaced by the
        last valid one ("repeat").
    invalid_truth: "keep" compares with whatever is annotated; "any" marks rows with any field <= 0,
        "size" only those with w <= 0 or h <= 0: such a frame counts as a hit in PR and NPR and as a
        miss in SR; "drop" leaves frames without a target out.
    rounding: "none" or "round" (predicted boxes to whole pixels, halves to even).
    lengths: a result with another number of rows than the ground truth: "official" clips both to
        the shorter one if they differ by one row, else refuses; "clip" always clips; "pad" counts
        missing rows as boxes without area. Each warns, by sequence.
    dtype: precision of the arithmetic; float32 moves overlaps that equal a threshold (0.6 > 0.6 in
        float32).
    """

    name: str
    precision_threshold: float = 20.0
    precision_strict: bool = False
    norm_precision_threshold: float = 0.2
    success_thresholds: int = 21
    success_strict: bool = True
    area: Literal["mean", "trapezoid"] = "mean"
    modality: Literal["best", "first", "second"] = "best"
    pool: Literal["sequences", "frames"] = "sequences"
    first_frame: Literal["keep", "truth"] = "keep"
    invalid_prediction: Literal["keep", "repeat"] = "keep"
    invalid_truth: Literal["keep", "any", "size", "drop"] = "keep"
    rounding: Literal["none", "round"] = "none"
    lengths: Literal["official", "clip", "pad"] = "official"
    dtype: str = "float64"


# The official protocol of each benchmark, as its MATLAB toolkit computes it.
PROTOCOLS: Mapping[str, Protocol] = {
    "gtot": Protocol(
        "GTOT",
        precision_threshold=5.0,
        precision_strict=True,
        success_thresholds=51,
        area="trapezoid",
        pool="frames",
    ),
    "rgbt210": Protocol("RGBT210"),
    "rgbt234": Protocol("RGBT234"),
    "lasher": Protocol(
        "LasHeR",
        modality="first",
        first_frame="truth",
        invalid_prediction="repeat",
        invalid_truth="any",
    ),
}


def center(boxes: np.ndarray) -> np.ndarray:
    """Returns the centre [..., 2] of boxes [..., 4], counted in pixel centres: x + (w - 1) / 2 (the
    shift cancels in an error).
    """
    return (boxes[..., 2:] - 1) / 2 + boxes[..., :2]


def center_error(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the distance [...] in pixels between the centres of two sets of boxes [..., 4]."""
    return np.sqrt(((center(boxes) - center(truth)) ** 2).sum(-1))


def normalized_error(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the centre error [...] with each axis divided by the ground truth's size; infinite
    where that has no size.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        # Each centre is divided before the difference is taken, as toolkits do: in float32 the
        # order decides ties.
        difference = center(boxes) / truth[..., 2:] - center(truth) / truth[..., 2:]
    return np.nan_to_num(np.sqrt((difference**2).sum(-1)), nan=np.inf)


def overlap(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the intersection over union [...] of two sets of boxes [..., 4]; 0 where the union is
    empty.
    """
    low = np.maximum(boxes[..., :2], truth[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], truth[..., :2] + truth[..., 2:])
    intersection = np.maximum(high - low, 0).prod(-1)
    union = boxes[..., 2:].prod(-1) + truth[..., 2:].prod(-1) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


@dataclass(frozen=True)
class Frames:
    """Measures of all N frames of S sequences, one after the other; -1 in a frame marked invalid (a
    hit for errors, a miss for overlap).
    """

    sequences: tuple[str, ...]  # names
    lengths: np.ndarray  # frames per sequence [S]; they sum to N
    error: np.ndarray  # [N], pixels
    norm_error: np.ndarray  # [N]
    overlap: np.ndarray  # [N]

    def mean_by_sequence(self, values: np.ndarray) -> np.ndarray:
        """Returns the mean over each sequence's frames [S, ...] of per-frame values [N, ...]."""
        sums = np.add.reduceat(
            values.astype(np.float64), np.cumsum(self.lengths) - self.lengths, axis=0
        )
        return sums / self.lengths.reshape(-1, *[1] * (values.ndim - 1))


def measure(
    predictions: Mapping[str, np.ndarray],
    truths: Mapping[str, Sequence[np.ndarray]],
    protocol: Protocol,
) -> Frames:
    """Returns the measures of every frame of sequences with predictions; ResultFileError for
    lengths that `protocol` does not allow.

    `predictions` are boxes [n, 4] by sequence, `truths` the ground truth [n, 4] of each annotated
    modality.
    """
    names = tuple(name for name in truths if name in predictions)
    pick = {"best": slice(None), "first": slice(0, 1), "second": slice(1, 2)}[protocol.modality]
    pairs = [
        _equal_lengths(name, predictions[name], truths[name][pick], protocol.lengths)
        for name in names
    ]
    lengths = np.array([len(rows) for rows, _ in pairs])
    first = np.cumsum(lengths) - lengths  # each sequence's first frame
    boxes = np.concatenate([rows for rows, _ in pairs]).astype(protocol.dtype)
    truth = np.concatenate([annotated for _, annotated in pairs], axis=1).astype(
        protocol.dtype
    )  # [modalities, N, 4]

    if protocol.rounding == "round":
        boxes = boxes.round()
    if protocol.first_frame == "truth":
        boxes[first] = truth[0, first]
    if protocol.invalid_prediction == "repeat":
        valid = (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
        valid[first] = True  # nothing to repeat yet
        boxes = boxes[np.maximum.accumulate(np.where(valid, np.arange(len(boxes)), 0))]

    error = np.nan_to_num(center_error(boxes, truth), nan=np.inf)
    norm_error = normalized_error(boxes, truth)
    overlaps = np.nan_to_num(overlap(boxes, truth))
    if protocol.invalid_truth != "keep":
        fields = truth if protocol.invalid_truth == "any" else truth[..., 2:]
        absent = ~(fields > 0).all(-1)
        if protocol.invalid_truth == "drop":
            present = ~absent.all(0)
            lengths = np.add.reduceat(present.astype(int), first)
            error, norm_error, overlaps = (
                error[:, present],
                norm_error[:, present],
                overlaps[:, present],
            )
        else:
            error[absent] = norm_error[absent] = overlaps[absent] = -1
    return Frames(names, lengths, error.min(0), norm_error.min(0), overlaps.max(0))


def _equal_lengths(
    name: str, rows: np.ndarray, annotated: Sequence[np.ndarray], rule: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns predictions [n, 4] and ground truth [modalities, n, 4] of one sequence, made equally
    long by `rule`.
    """
    n = min(len(a) for a in annotated)
    if len(rows) != n:
        words = f"sequence {name!r} has {len(rows)} predicted boxes for {n} ground-truth rows"
        if rule == "official" and abs(len(rows) - n) > 1:
            raise ResultFileError(
                f"{words}: one row more or less is clipped, this is more. Is the file "
                "complete, and is it this benchmark's? "
                "Use lengths='clip' (--lengths clip) to score the common part, 'pad' to count "
                "missing rows as misses"
            )
        if rule == "pad" and len(rows) < n:
            rows = np.concatenate([rows, np.full((n - len(rows), 4), np.nan)])
            warnings.warn(f"{words}: missing rows count as boxes without area", stacklevel=3)
        else:
            n = min(n, len(rows))
            warnings.warn(f"{words}: the first {n} are compared", stacklevel=3)
    return rows[:n], np.stack([a[:n] for a in annotated])


def success_area(overlaps: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Returns each frame's contribution [N] to SR: the area under its own success curve, a step
    from 1 to 0 at its overlap.

    SR is the mean of these, because averages over frames and over thresholds commute: the mean
    overlap, rounded to the thresholds' grid.
    """
    n = protocol.success_thresholds
    weights = np.full(n, 1 / n)
    if protocol.area == "trapezoid":
        weights = np.full(n, 1 / (n - 1))
        weights[[0, -1]] /= 2
    passed = np.searchsorted(
        np.linspace(0, 1, n), overlaps, side="left" if protocol.success_strict else "right"
    )
    return np.concatenate([[0.0], np.cumsum(weights)])[passed]


@dataclass(frozen=True)
class Scores:
    """Scores of one tracker on one benchmark, by sequence."""

    sequences: tuple[str, ...]  # S names
    n_frames: np.ndarray  # frames scored in each [S]
    values: Mapping[str, np.ndarray]  # metric name -> share in [0, 1] of each sequence [S]
    pool: str  # how sequences are weighted in a mean, as in `Protocol`

    def weights(self) -> np.ndarray:
        """Returns the weight [S] of each sequence in a mean, not normalised."""
        return (
            self.n_frames.astype(float) if self.pool == "frames" else np.ones(len(self.sequences))
        )

    def mean(self, metric: str) -> float:
        """Returns the benchmark's number in [0, 1]."""
        return float(np.average(self.values[metric], weights=self.weights()))

    def subset(self, names: Sequence[str]) -> "Scores":
        """Returns the scores of those sequences only (an attribute's, say)."""
        keep = np.array([name in names for name in self.sequences], bool)
        return Scores(
            tuple(compress(self.sequences, keep)),
            self.n_frames[keep],
            {m: v[keep] for m, v in self.values.items()},
            self.pool,
        )


def score(
    predictions: Mapping[str, np.ndarray],
    truths: Mapping[str, Sequence[np.ndarray]],
    protocol: Protocol,
) -> Scores:
    """Returns PR, NPR and SR of each sequence under `protocol`; arguments as in `measure`."""
    return score_frames(measure(predictions, truths, protocol), protocol)


def score_frames(frames: Frames, protocol: Protocol, acts: np.ndarray | None = None) -> Scores:
    """Returns PR, NPR and SR of each sequence from measured frames; with `acts` [N], bool, over
    those frames, where there are any.
    """
    threshold = protocol.precision_threshold
    values = {
        "PR": frames.error < threshold if protocol.precision_strict else frames.error <= threshold,
        "NPR": frames.norm_error <= protocol.norm_precision_threshold,
        "SR": success_area(frames.overlap, protocol),
    }
    acts = np.ones(len(frames.error), bool) if acts is None else acts
    share = frames.mean_by_sequence(acts)
    keep = share > 0
    means = {m: frames.mean_by_sequence(v * acts)[keep] / share[keep] for m, v in values.items()}
    n_frames = (frames.lengths * share).round().astype(int)[keep]
    return Scores(tuple(compress(frames.sequences, keep)), n_frames, means, protocol.pool)
