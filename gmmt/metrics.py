"""Precision, normalised precision and success of a tracker; every convention is an argument.

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

import numpy as np

from gmmt.errors import ResultFileError, did_you_mean
from gmmt.protocol import PROTOCOLS as PROTOCOLS
from gmmt.protocol import Protocol, thresholds

METRICS = ("PR", "NPR", "SR")
Predictions = Mapping[str, np.ndarray]  # sequence -> boxes [n, 4]
Truths = Mapping[str, Sequence[np.ndarray]]  # sequence -> boxes [n, 4] of each annotated modality
Notes = dict[str, list[tuple[str, str]]]  # what was done -> sequences, each with a description


def center(boxes: np.ndarray) -> np.ndarray:
    """Centres [..., 2] of boxes, in pixel centres: x + (w - 1) / 2; an error cancels the half."""
    return (boxes[..., 2:] - 1) / 2 + boxes[..., :2]


def center_error(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance [...] in pixels between the centres of two sets of boxes [..., 4]."""
    return np.sqrt(((center(boxes) - center(truth)) ** 2).sum(-1))


def normalized_error(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Centre error [...], each axis divided by the truth's size; infinite where that has none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # Each centre is divided before the difference is taken, as toolkits do: in float32 the
        # order decides ties.
        difference = center(boxes) / truth[..., 2:] - center(truth) / truth[..., 2:]
    return np.nan_to_num(np.sqrt((difference**2).sum(-1)), nan=np.inf)


def overlap(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union [...] of two sets of boxes [..., 4]; 0 where the union is empty."""
    low = np.maximum(boxes[..., :2], truth[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], truth[..., :2] + truth[..., 2:])
    intersection = np.maximum(high - low, 0).prod(-1)
    union = boxes[..., 2:].prod(-1) + truth[..., 2:].prod(-1) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


@dataclass(frozen=True)
class Frames:
    """Measures of all N scored frames of S sequences, one after the other.

    A frame marked invalid has -1: a hit for errors, a miss for overlap.
    """

    sequences: tuple[str, ...]  # names
    lengths: np.ndarray  # scored frames of each sequence [S]; they sum to N
    error: np.ndarray  # [N], pixels
    norm_error: np.ndarray  # [N]
    overlap: np.ndarray  # [N]
    scored: np.ndarray  # bool [M]: which of the ground truth's M rows the N frames are

    def mean_by_sequence(self, values: np.ndarray) -> np.ndarray:
        """Mean over each sequence's frames [S, ...] of values [N, ...]; NaN for one without."""
        sums = _sum_by_sequence(values, self.lengths)
        lengths = self.lengths.reshape(-1, *[1] * (values.ndim - 1))
        return np.divide(sums, lengths, out=np.full_like(sums, np.nan), where=lengths > 0)


def _sum_by_sequence(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sum over each sequence's frames [S, ...] of values [N, ...]; 0 for one without frames."""
    sums = np.zeros((len(lengths), *values.shape[1:]))
    # reduceat sums from one start to the next and takes two equal starts for one value, not for
    # none: it is given the sequences that have frames.
    filled = lengths > 0
    first = np.cumsum(lengths) - lengths
    sums[filled] = np.add.reduceat(values.astype(np.float64), first[filled], axis=0)
    return sums


def measure(predictions: Predictions, truths: Truths, protocol: Protocol) -> Frames:
    """The measures of every frame that `protocol` scores, in the ground truth's order.

    To score a part of a benchmark, give the ground truth of that part. A sequence in which no frame
    is scored is left out, with a warning that names it. ResultFileError: a sequence without boxes,
    or boxes of an unknown one; lengths that the protocol does not allow; a modality that is not
    annotated; no frame to score at all.
    """
    _check_names(predictions, truths)

    # 1. Rows that are compared.
    found, annotated, given, compared = [], [], [], []
    notes: Notes = {}
    for name, every in truths.items():
        modalities = _chosen(name, every, protocol.modality)
        n = min(len(rows) for rows in modalities)
        rows = _fitted(name, predictions[name], n, protocol.lengths, notes)
        found.append(rows)
        annotated.append(np.stack([truth[: len(rows)] for truth in modalities]))
        given.append(np.arange(len(rows)) < len(predictions[name]))
        compared.append(np.arange(n) < len(rows))
    _warn_of_lengths(notes)
    lengths = np.array([len(rows) for rows in found])
    boxes = np.concatenate(found).astype(protocol.dtype)  # [rows, 4]
    truth = np.concatenate(annotated, axis=1).astype(protocol.dtype)  # [modalities, rows, 4]
    padded = ~np.concatenate(given)
    scored = np.concatenate(compared)

    # 2. Predicted boxes, by the protocol.
    first = (np.cumsum(lengths) - lengths)[lengths > 0]
    if protocol.rounding == "round":
        boxes = boxes.round()
    if protocol.invalid_prediction == "repeat":
        valid = (boxes[:, 2] > 0) & (boxes[:, 3] > 0) & ~np.isnan(boxes).any(1)
        valid[first] = True  # nothing to repeat yet
        valid |= padded  # no row of the file: stays a miss
        boxes = boxes[np.maximum.accumulate(np.where(valid, np.arange(len(boxes)), 0))]
    if protocol.first_frame == "truth":
        boxes[first] = truth[0, first]

    # 3. Measures against each modality [modalities, rows], then the better of them.
    error = np.nan_to_num(center_error(boxes, truth), nan=np.inf)
    norm_error = normalized_error(boxes, truth)
    overlaps = np.nan_to_num(overlap(boxes, truth))
    checked = truth if protocol.invalid_truth == "any" else truth[..., 2:]
    absent = ~(checked > 0).all(-1)
    if protocol.invalid_truth in ("any", "size"):
        for values in (error, norm_error, overlaps):
            values[absent] = -1
    error, norm_error, overlaps = error.min(0), norm_error.min(0), overlaps.max(0)

    # 4. Frames without a target, and then sequences without a frame, are left out.
    if protocol.invalid_truth == "drop":
        present = ~absent.all(0)
        lengths = _sum_by_sequence(present, lengths).astype(int)
        error, norm_error, overlaps = error[present], norm_error[present], overlaps[present]
        scored[np.flatnonzero(scored)[~present]] = False
    empty = [name for name, n in zip(truths, lengths, strict=True) if n == 0]
    why = "none of the compared rows of ground truth holds a target"
    if len(empty) == len(truths):
        more = f"{empty[0]!r} and {len(empty) - 1} more"
        raise ResultFileError(f"no sequence has a frame to score, {more}: {why}")
    for name in empty:
        words = f"sequence {name!r} has no frame to score and is left out: {why}"
        warnings.warn(words, stacklevel=2)
    names = tuple(name for name in truths if name not in empty)
    return Frames(names, lengths[lengths > 0], error, norm_error, overlaps, scored)


def _check_names(predictions: Mapping, truths: Mapping) -> None:
    if not truths:
        raise ResultFileError("there is no sequence to score: the ground truth is empty")
    unknown = [name for name in predictions if name not in truths]
    if unknown:
        raise ResultFileError(
            f"boxes of {unknown[0]!r}, which is not in the ground truth ({len(unknown)} such "
            f"sequences; it holds {len(truths)}).{did_you_mean(unknown[0], truths)}"
        )
    missing = [name for name in truths if name not in predictions]
    if missing:
        raise ResultFileError(
            f"sequence {missing[0]!r} has no predicted boxes ({len(missing)} such sequences of "
            f"{len(truths)}): a benchmark's score needs all of them. To score a part, give the "
            "ground truth of that part only"
        )


def _chosen(name: str, modalities: Sequence[np.ndarray], rule: str) -> Sequence[np.ndarray]:
    """The annotations [n, 4] of one sequence that boxes are compared with."""
    chosen = modalities
    if rule == "first":
        chosen = modalities[:1]
    elif rule == "second":
        chosen = modalities[1:2]
    if not len(chosen):
        raise ResultFileError(
            f"sequence {name!r}: {len(modalities)} modalities are annotated, too few for "
            f"modality={rule!r}"
        )
    return chosen


def _fitted(name: str, rows: np.ndarray, n: int, rule: str, notes: Notes) -> np.ndarray:
    """One sequence's predicted boxes, cut or padded by `rule` for `n` rows of ground truth; what
    was done is added to `notes`.
    """
    if len(rows) == n:
        return rows
    words = f"sequence {name!r} has {len(rows)} predicted boxes for {n} ground-truth rows"
    if rule == "pad" and len(rows) < n:
        notes.setdefault("missing rows count as misses", []).append((name, words))
        return np.concatenate([rows, np.full((n - len(rows), 4), np.nan)])
    if len(rows) == 0:
        raise ResultFileError(
            f"{words}: there is nothing to compare. --lengths pad (lengths='pad') counts "
            "missing rows as misses"
        )
    surplus = rule in ("surplus", "pad") and len(rows) > n
    if rule in ("one", "surplus") and not surplus and abs(len(rows) - n) > 1:
        raise ResultFileError(
            f"{words}: expected a row for each, at most one more or less. Is the file "
            f"complete{_skipped(n, len(rows))}? If its rows are those of the first frames, "
            "--lengths clip (lengths='clip') scores the common part, --lengths pad counts missing "
            "rows as misses"
        )
    notes.setdefault("the common part is compared", []).append((name, words))
    return rows[:n]


def _skipped(n: int, rows: int) -> str:
    """A guess where a tracker seems to have answered in every k-th of n frames only."""
    k = round(n / rows)
    return (
        f", or does it hold one row for {k} frames (then run the tracker on all)"
        if k > 1 and abs(n / k - rows) <= 1
        else ""
    )


def _warn_of_lengths(notes: Notes) -> None:
    for what, done in notes.items():
        more = ""
        if len(done) > 1:
            others = ", ".join(repr(name) for name, _ in done[1:6]) + ", ..." * (len(done) > 6)
            more = f" (such are also {others}: {len(done)} in all)"
        warnings.warn(f"{done[0][1]}: {what}{more}", stacklevel=3)


def success_area(overlaps: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Each frame's share [N] of SR: the area under its own success curve, a step at its overlap.

    SR is the mean of these, because averages over frames and over thresholds commute: the mean
    overlap, rounded to the thresholds' grid.
    """
    n = protocol.success_thresholds
    weights = np.full(n, 1 / n)
    if protocol.area == "trapezoid":
        weights = np.full(n, 1 / (n - 1))
        weights[[0, -1]] /= 2
    side = "left" if protocol.success_strict else "right"
    passed = np.searchsorted(thresholds(protocol), overlaps, side)  # thresholds, of each frame
    return np.concatenate([[0.0], np.cumsum(weights)])[passed]


@dataclass(frozen=True)
class Scores:
    """Scores of one tracker on one benchmark, by sequence."""

    sequences: tuple[str, ...]  # S names
    n_frames: np.ndarray  # frames scored in each [S]
    values: Mapping[str, np.ndarray]  # metric name -> share in [0, 1] of each sequence [S]
    pool: str  # how sequences are weighted in a mean, as in `Protocol`

    def weights(self) -> np.ndarray:
        """Weight [S] of each sequence in a mean, not normalised."""
        if self.pool == "frames":
            return self.n_frames.astype(float)
        return np.ones(len(self.sequences))

    def mean(self, metric: str) -> float:
        """The benchmark's number in [0, 1]; ValueError if there are no sequences."""
        if not self.sequences:
            raise ValueError(f"{metric} has no mean: there are no scored sequences here")
        return float(np.average(self.values[metric], weights=self.weights()))

    def subset(self, names: Sequence[str]) -> "Scores":
        """The scores of those sequences only; names without a score are passed over."""
        keep = np.array([name in names for name in self.sequences], bool)
        values = {metric: values[keep] for metric, values in self.values.items()}
        sequences = tuple(compress(self.sequences, keep))
        return Scores(sequences, self.n_frames[keep], values, self.pool)


def score(predictions: Predictions, truths: Truths, protocol: Protocol) -> Scores:
    """PR, NPR and SR of each sequence under `protocol`; errors as in `measure`."""
    return score_frames(measure(predictions, truths, protocol), protocol)


def score_frames(frames: Frames, protocol: Protocol, acts: np.ndarray | None = None) -> Scores:
    """PR, NPR and SR of each sequence from measured frames, under the same protocol.

    `acts`, bool [M], says which rows of the ground truth to score (where an attribute acts, say);
    None: all. Rows that `measure` left out stay so, and so do sequences in which no other is
    marked. ValueError: `acts` has another length than the ground truth.
    """
    if protocol.precision_strict:
        precise = frames.error < protocol.precision_threshold
    else:
        precise = frames.error <= protocol.precision_threshold
    values = {
        "PR": precise,
        "NPR": frames.norm_error <= protocol.norm_precision_threshold,
        "SR": success_area(frames.overlap, protocol),
    }
    if acts is None:
        acts = np.ones(len(frames.scored), bool)
    if np.shape(acts) != frames.scored.shape:
        raise ValueError(
            f"acts has the shape {np.shape(acts)}: expected {frames.scored.shape}, a value for "
            "each row of ground truth that was given to measure"
        )
    acts = np.asarray(acts, bool)[frames.scored]  # [N]
    share = frames.mean_by_sequence(acts)  # of a sequence's frames
    keep = share > 0
    means = {m: frames.mean_by_sequence(v * acts)[keep] / share[keep] for m, v in values.items()}
    n_frames = _sum_by_sequence(acts, frames.lengths).astype(int)[keep]
    return Scores(tuple(compress(frames.sequences, keep)), n_frames, means, protocol.pool)
