"""Results before they are scored: are these boxes of these videos, and of the form they seem?

A tracker is given the first box. A file that begins elsewhere holds another form of boxes, another
video or another order of frames, and its score would be a number without sense.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gmmt.data.benchmarks import GroundTruth
from gmmt.data.boxes import BoxFile
from gmmt.data.result_folders import read_result_files
from gmmt.errors import ResultFileError
from gmmt.metrics import overlap

NEAR = 0.5
"""Least overlap of a file's first box with the given one."""
Truths = Mapping[str, Sequence[np.ndarray]]

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
    """The boxes [n, 4] (x, y, w, h) of every sequence of a benchmark, from a folder of results.

    `prefix` stands before the names in the folder; None: found by itself. Without `check` boxes are
    taken as they are. Errors as of `result_files`, `read_box_file` and `check_results`.
    """
    files = read_result_files(folder, truth.sequences, prefix)
    if check:
        _check_blank_lines(files, truth.boxes)
        check_results({name: file.boxes for name, file in files.items()}, truth.boxes)
    return {name: file.boxes for name, file in files.items()}


def check_results(boxes: Mapping[str, np.ndarray], truths: Truths) -> None:
    """ResultFileError where most files begin far from the given box, or most frames fit in another
    order; a warning with the names where some do. Both say what the boxes look like.
    """
    check_order(boxes, truths)
    check_first_boxes(boxes, truths)


def _check_blank_lines(files: Mapping[str, BoxFile], truths: Truths) -> None:
    for name, file in files.items():
        n, rows = len(truths[name][0]), len(file.boxes)
        if file.blank and rows < n == rows + file.blank:
            raise ResultFileError(
                f"sequence {name!r} has {rows} rows and {file.blank} blank lines for {n} frames; "
                "expected a row for each. Write 0 0 0 0 where the tracker has no box"
            )


# --- the first box --------------------------------------------------------------------------------


def check_first_boxes(boxes: Mapping[str, np.ndarray], truths: Truths) -> None:
    """Compares the first box of every sequence with the given one: see `check_results`."""
    given = {name: np.stack([rows[0] for rows in truths[name] if len(rows)]) for name in boxes}
    begun = [name for name in boxes if len(boxes[name]) and _is_box(boxes[name][0])]
    if len(begun) < len(boxes):
        without = [name for name in boxes if name not in begun]
        words = f"{_files(without, len(boxes))} begin with a row that is no box"
        warnings.warn(words, stacklevel=3)
    far = [name for name in begun if not _is_near(boxes[name][0], given[name])]
    if not far:
        return
    looks = {name: _looks_like(name, boxes[name], given) for name in far}
    (like, count), *_ = Counter(looks.values()).most_common(1)
    one = far[0]
    words = (
        f"the first boxes of {_files(far, len(begun))} are far from the ground truth's, which "
        f"trackers are given: {one!r} begins with {_text(boxes[one][0])}, the ground truth with "
        f"{_text(given[one][0])}. "
    )
    if like:
        words += f"{count} of {len(far)} look like {like}"
    else:
        words += "They look like no form of boxes that is known here"
    if 2 * len(far) > len(begun):
        raise ResultFileError(
            f"{words}; expected x, y, w, h in pixels (top-left corner, width, height). Convert all "
            "rows. --no-check would score them as they are: for trackers that begin elsewhere"
        )
    warnings.warn(f"{words}; they are scored as they are", stacklevel=3)


def _is_box(box: np.ndarray) -> bool:
    return bool(np.isfinite(box).all() and (box[2:] > 0).all())


def _is_near(box: np.ndarray, given: np.ndarray) -> bool:
    """Whether a box [4] overlaps one of those that were annotated [m, 4]."""
    return bool((overlap(box, given) >= NEAR).any())


def _looks_like(name: str, rows: np.ndarray, given: Mapping[str, np.ndarray]) -> str:
    """What the boxes [n, 4] of a file that begins far from the given box may be; "" for unknown."""
    first, own = rows[0], given[name]
    fits = {form: _fit(convert(first)[None], own[:, None]) for form, convert in FORMS.items()}
    form = max(fits, key=lambda form: fits[form])
    if fits[form] >= NEAR:
        return form
    if np.nanmax(np.abs(rows)) <= 1.5 < own[0, 2]:
        return "shares of the frame's width and height (0..1)"
    factor = (first @ own[0]) / (own[0] @ own[0])
    if factor > 0 and _is_near(first / factor, own[:1]):
        return f"boxes in frames resized by a factor of {factor:.2g}"
    for other, boxes in given.items():
        if overlap(first, boxes).max() > 0.9:
            return f"boxes of another sequence ({other!r})"
    return ""


# --- the order of frames --------------------------------------------------------------------------


def check_order(boxes: Mapping[str, np.ndarray], truths: Truths) -> None:
    """Compares all boxes with the truth in other orders of frames: see `check_results`."""
    gains: dict[str, dict[str, float]] = {}  # order -> sequence -> gain in mean overlap
    late = []
    for name, rows in boxes.items():
        n = min(map(len, truths[name]))
        truth = np.stack([annotated[:n] for annotated in truths[name]])  # [m, n, 4]
        if len(rows) == n:
            as_it_is = _fit(rows, truth)
            for order, frames in _orders(n).items():
                restored = np.empty_like(rows)
                restored[frames] = rows
                gains.setdefault(order, {})[name] = _fit(restored, truth) - as_it_is
        elif len(rows) == n - 1 and _fit(rows, truth[:, 1:]) > _fit(rows, truth[:, :-1]) + 0.01:
            late.append(name)
    if late:
        words = f"{_files(late, len(boxes))} lack a row, and fit better without the first frame"
        warnings.warn(f"{words}: did the tracker not write it?", stacklevel=3)
    if not gains:
        return
    order, by_name = max(gains.items(), key=lambda item: sum(item[1].values()))
    moved = [name for name, gain in by_name.items() if gain > 0.2]
    words = f"the rows of {_files(moved, len(boxes))} look as if frames had been read {order}"
    if sum(by_name.values()) > 0.1 * len(by_name):
        raise ResultFileError(
            f"{words}: in that order they fit the ground truth far better. Expected row k to be of "
            "frame k. Run the tracker on frames in the order of their numbers; if it did, and only "
            "wrote the rows in another order, undo that"
        )
    if moved:
        warnings.warn(f"{words}: so they fit far better; scored as they are", stacklevel=3)


def _orders(n: int) -> dict[str, list[int]]:
    """Other orders of n frames: row k of a file would be of frame order[k]."""
    orders = {"in reverse": list(range(n))[::-1]}
    for first in (0, 1):
        order = sorted(range(n), key=lambda i, first=first: str(i + first))
        if order != list(range(n)):
            ones = "0, 1" if first == 0 else "1"
            words = f"sorted by name as text ({ones}, 10, 11, ..., 2, 20, ...)"
            orders[words] = order
    return orders


def _fit(rows: np.ndarray, truth: np.ndarray) -> float:
    """Mean overlap of boxes [n, 4] with the better of the annotations [m, n, 4]."""
    return float(np.nan_to_num(overlap(rows, truth)).max(0).mean())


# --- words ----------------------------------------------------------------------------------------


def _files(names: Sequence[str], total: int) -> str:
    some = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
    return f"{len(names)} of {total} files ({some})"


def _text(box: np.ndarray) -> str:
    return " ".join(f"{value:.4g}" for value in box)
