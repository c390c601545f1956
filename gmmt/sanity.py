"""Results before they are scored: are these boxes of these videos, and of the form they seem?

A score of boxes in another form, of other videos or in another order of frames is a number without
sense. So all boxes are also read in other ways, and compared with the truth: a bad tracker is bad
in every way, and files that fit far better in another one are not what they seem.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from gmmt.data.benchmarks import GroundTruth
from gmmt.data.boxes import BoxFile
from gmmt.data.result_folders import read_result_files
from gmmt.errors import ResultFileError
from gmmt.metrics import Truths, overlap

NEAR = 0.5
"""Least overlap of a first box with the given one, or with that in another form."""
FAR = 0.2
"""The same where no form is known: trackers may refine the box that they are given."""
GAIN = 0.25
"""What another reading must add to a file's mean overlap with the truth, and ..."""
FIT = 0.5
"""... what it must reach."""
SHIFT_GAIN = 0.02
"""The same for a row that is missing or too much, which moves all others by one frame."""

FORMS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "two corners x1, y1, x2, y2": lambda b: np.stack(
        [b[..., 0], b[..., 1], b[..., 2] - b[..., 0], b[..., 3] - b[..., 1]], -1
    ),
    "centre and size cx, cy, w, h": lambda b: np.concatenate(
        [b[..., :2] - b[..., 2:] / 2, b[..., 2:]], -1
    ),
    "y, x, h, w": lambda b: b[..., [1, 0, 3, 2]],
    "two corners y1, x1, y2, x2": lambda b: np.stack(
        [b[..., 1], b[..., 0], b[..., 3] - b[..., 1], b[..., 2] - b[..., 0]], -1
    ),
    "x1, x2, y1, y2": lambda b: np.stack(
        [b[..., 0], b[..., 2], b[..., 1] - b[..., 0], b[..., 3] - b[..., 2]], -1
    ),
}
"""Other meanings of four numbers, and how they become x, y, w, h."""


def read_results(
    folder: Path | str, truth: GroundTruth, prefix: str | None = None, check: bool = True
) -> dict[str, np.ndarray]:
    """The boxes [n, 4] (x, y, w, h) of every sequence of a benchmark, from a folder of results: a
    row for each row of ground truth.

    `prefix` stands before the names in the folder; None: found by itself. Without `check` boxes are
    taken as they are. Errors as of `result_files`, `read_box_file` and `check_results`.
    """
    files = read_result_files(folder, truth.sequences, prefix)
    if check:
        check_blank_lines(files, truth.boxes)
    boxes = {name: file.boxes for name, file in files.items()}
    for name, frames in truth.annotated.items():
        boxes[name] = _annotated(boxes[name], frames, f"{folder}: sequence {name!r}")
    if check:
        check_results(boxes, truth.boxes)
    return boxes


def _annotated(rows: np.ndarray, frames: np.ndarray, where: str) -> np.ndarray:
    """The rows of annotated frames (bool [n]), of a file for each frame or for those alone."""
    if len(rows) == len(frames):
        return rows[frames]
    if len(rows) == frames.sum():
        return rows
    raise ResultFileError(
        f"{where} has {len(rows)} rows; expected {len(frames)}, one for each frame from the first "
        f"box on, or {frames.sum()}, one for each that is annotated"
    )


def check_blank_lines(files: Mapping[str, BoxFile], truths: Truths) -> None:
    """ResultFileError where blank lines stand for frames; a warning where they may."""
    doubtful = []
    for name, file in files.items():
        n, rows, blank = len(truths[name][0]), len(file.boxes), file.blank + file.blank_after
        if rows < n and (rows + file.blank == n or rows + blank == n):
            raise ResultFileError(
                f"sequence {name!r} has {rows} rows and {n - rows} blank lines for {n} frames; "
                "expected a row for each. Write 0 0 0 0 where the tracker has no box"
            )
        if file.blank:
            doubtful.append(name)
    if doubtful:
        words = f"{_files(doubtful, len(files))} have blank lines between rows, passed over"
        warnings.warn(words, stacklevel=3)


def check_results(boxes: Mapping[str, np.ndarray], truths: Truths) -> None:
    """ResultFileError where most files look like something else than boxes (x, y, w, h) of these
    videos, a row a frame; a warning with the names where some do. Both say what they look like.
    """
    looks: dict[str, list[str]] = {}  # what -> sequences
    for name, rows in boxes.items():
        what = _other_reading(rows, truths[name])
        if what:
            looks.setdefault(what, []).append(name)
    # A few trackers' answers lag in a few videos; in most videos it is an error of counting.
    late = looks.pop(LATE, [])
    if 2 * len(late) > len(boxes):
        warnings.warn(f"the boxes of {_files(late, len(boxes))} look like {LATE}", stacklevel=2)
    for what, names in looks.items():
        words = f"the boxes of {_files(names, len(boxes))} look like {what}"
        # Slow targets fit in any order: of an order fewer files tell.
        if len(names) > (0.25 if what.startswith(ORDER) else 0.5) * len(boxes):
            raise ResultFileError(
                f"{words}: so read, they fit the ground truth far better. {_advice(what)}. "
                "--no-check would score them as they are"
            )
        if BOTH not in what:  # two changes at once fit a target that rests whatever its boxes are
            warnings.warn(f"{words}, and fit far better so; scored as they are", stacklevel=3)
    negative = [name for name, rows in boxes.items() if (rows[:, 2:] < 0).any(1).mean() > 0.1]
    if negative:
        words = f"{_files(negative, len(boxes))} have boxes with a negative width or height"
        warnings.warn(f"{words}, which overlap nothing", stacklevel=2)
    told = {name for names in looks.values() for name in names}
    check_first_boxes({name: rows for name, rows in boxes.items() if name not in told}, truths)


# --- all boxes ------------------------------------------------------------------------------------

ORDER = "answers to frames that were read "
SHIFT = "files with a row too much, or too few, at the beginning"
BOTH = ", and in "
LATE = "answers that are one frame late, or early"


def _other_reading(rows: np.ndarray, every: Sequence[np.ndarray]) -> str:
    """What boxes [n, 4] look like by the annotations of a sequence; "" where they fit as they are,
    or in no way.
    """
    n = min(map(len, every))
    truth = np.stack([annotated[:n] for annotated in every])  # [m, n, 4]
    as_it_is = _fit(rows, np.arange(len(rows)), truth)
    best, most = "", FIT
    # Boxes that fit well are what they seem, up to a shift by a frame.
    readings = _shifts if as_it_is >= FIT else _readings
    for what, boxes, frames in readings(rows, truth):
        fit = _fit(boxes, frames, truth)
        if fit > most and fit - as_it_is > (SHIFT_GAIN if what in (SHIFT, LATE) else GAIN):
            best, most = what, fit
    return best


def _readings(rows: np.ndarray, truth: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Other readings: what they are, boxes [k, 4], and of which frames they would be [k]."""
    n, m = truth.shape[1], len(rows)
    frames = np.arange(m)
    yield from _shifts(rows, truth)
    for form, convert in FORMS.items():
        boxes = convert(rows)
        yield form, boxes, frames
        scaled = _rescaled(boxes, truth)
        if scaled is not None:
            yield f"{form}{BOTH}{_scale_words(rows)}", scaled, frames
    scaled = _rescaled(rows, truth)
    if scaled is not None:
        yield f"boxes in {_scale_words(rows)}", scaled, frames
    for total in {n, m}:
        for words, order in _orders(rows, truth, total):
            yield ORDER + words, rows[:total], np.array(order)[:m]


def _shifts(rows: np.ndarray, truth: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """As `_readings`: the same boxes, of other frames."""
    n, m = truth.shape[1], len(rows)
    frames = np.arange(m)
    if m != n:
        yield SHIFT, rows, frames + n - m
    else:
        yield LATE, rows, frames - 1
        yield LATE, rows, frames + 1


def _fit(rows: np.ndarray, frames: np.ndarray, truth: np.ndarray) -> float:
    """Mean overlap of boxes [k, 4] of frames [k] with the better of the annotations [m, n, 4].

    The first row is left out: many trackers write there the box that they were given.
    """
    own = (frames >= 0) & (frames < truth.shape[1])
    own[0] &= len(rows) == 1
    if not own.any():
        return 0.0
    values = overlap(rows[own], truth[:, frames[own]])
    return float(np.nan_to_num(values).max(0).sum() / max(1, truth.shape[1] - 1))


def _rescaled(rows: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
    """Boxes as if their frames had another size, estimated from the first rows, where a tracker is
    still near; None where the size is the same.
    """
    some = slice(1, min(11, len(rows), truth.shape[1]))
    few, given = rows[some], truth[0, some]
    fine = np.isfinite(few).all(1) & (few != 0).any(1)
    factors = []
    for columns in ([0, 2], [1, 3]):
        a, b = few[fine][:, columns], given[fine][:, columns]
        square = (a * a).sum()
        factors.append((a * b).sum() / square if square > 0 else 0.0)
    if min(factors) <= 0 or max(abs(np.log(factors))) < np.log(1.15):
        return None
    return rows * np.array(factors * 2)


def _scale_words(rows: np.ndarray) -> str:
    if np.nanmax(np.abs(rows[1:]), initial=0) <= 1.5:
        return "shares of the frame's width and height (0..1)"
    return "frames of another size"


def _orders(rows: np.ndarray, truth: np.ndarray, total: int) -> Iterator[tuple[str, list[int]]]:
    """Other orders of so many frames: row k would be of frame order[k]."""
    yield "in reverse", list(range(total))[::-1]
    numbers = {0, 1}
    # Sorted as text 100, 101, ... come before 95, ..., 99: where they do, the given box is found
    # again where the first frame has gone. A few rows on, it is a tracker that lags.
    near = np.nan_to_num(overlap(rows[1:total], truth[0, 0]))
    for row in np.argsort(-near, kind="stable")[:5] + 1:
        if row > 5:
            numbers.update(10**digits - (total - int(row)) for digits in range(1, 6))
    for first in sorted(number for number in numbers if number >= 0):
        order = sorted(range(total), key=lambda i, first=first: str(i + first))
        if order != list(range(total)):
            yield "sorted by name as text (10 before 2 or 9), not by number", order


def _advice(what: str) -> str:
    if what.startswith(ORDER):
        return (
            "Expected a row a frame, in the order of their numbers. Run the tracker on them in "
            "this order; if it did, and only wrote the rows in another, put them back"
        )
    if what == SHIFT:
        return "Expected the given box once, as row 1. Is it written twice, or not at all?"
    return (
        "Expected x, y, w, h in pixels (top-left corner, width, height). Convert the rows (the "
        "first row may be right already)"
    )


# --- the first box --------------------------------------------------------------------------------


def check_first_boxes(boxes: Mapping[str, np.ndarray], truths: Truths) -> None:
    """Compares the first box of every sequence with the given one: see `check_results`."""
    given = {name: np.stack([rows[0] for rows in every]) for name, every in truths.items()}
    begun = [name for name in boxes if len(boxes[name]) and _is_box(boxes[name][0])]
    if len(begun) < len(boxes):
        without = [name for name in boxes if name not in begun]
        words = f"{_files(without, len(boxes))} begin with a row that is no box"
        warnings.warn(words, stacklevel=3)
    looks: dict[str, list[str]] = {}
    for name in begun:
        what = _first_looks_like(name, boxes[name][0], given)
        if what is not None:
            looks.setdefault(what, []).append(name)
    for what, names in looks.items():
        one = names[0]
        words = (
            f"{_files(names, len(begun))} begin far from the ground truth's first box, which "
            f"trackers are given: {one!r} with {_text(boxes[one][0])} for {_text(given[one][0])}. "
            f"They look like {what}"
        )
        if 2 * len(names) > len(begun):
            advice = "Convert all rows." if what in FORMS else "Are these results of these videos?"
            raise ResultFileError(
                f"{words}; expected x, y, w, h in pixels (top-left corner, width, height). "
                f"{advice} --no-check would score them as they are: for trackers that begin "
                "elsewhere"
            )
        warnings.warn(f"{words}; scored as they are", stacklevel=3)


def _is_box(box: np.ndarray) -> bool:
    return bool(np.isfinite(box).all() and (box[2:] > 0).all())


def _first_looks_like(name: str, first: np.ndarray, given: Mapping[str, np.ndarray]) -> str | None:
    """What the first box [4] of a file may be; None if it is near the given one."""
    own = float(overlap(first, given[name]).max())
    if own >= NEAR:
        return None
    fits = {}
    for form, convert in FORMS.items():
        box = convert(first)
        if _is_box(box):
            fits[form] = float(overlap(box, given[name]).max())
    form = max(fits, key=lambda form: fits[form], default="")
    if fits.get(form, 0) >= NEAR:
        return form
    if own >= FAR:
        return None
    if any(overlap(first, boxes).max() > 0.7 for boxes in given.values()):
        return "boxes of other sequences"
    return "nothing that is known here"


# --- words ----------------------------------------------------------------------------------------


def _files(names: Sequence[str], total: int) -> str:
    some = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
    return f"{len(names)} of {total} files ({some})"


def _text(box: np.ndarray) -> str:
    return " ".join(f"{value:.4g}" for value in box)
