"""What is known of the target in a video's folder: a text file of boxes, for all frames or some."""

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gmmt.data.boxes import read_boxes
from gmmt.data.image_folders import is_hidden
from gmmt.errors import GmmtError, SettingError

FILES = ("visible", "rgb", "init", "groundtruth", "groundtruth_rect", "groundtruth_v")
THERMAL_FILES = ("infrared", "thermal", "ir", "groundtruth_i")
EVERY_FILE = (*FILES, *THERMAL_FILES)
CORNERS = ("groundtruth_v", "groundtruth_i")  # GTOT's rows are x1 y1 x2 y2
STEP = 10  # VTUAV annotates every tenth frame
OFFSETS = "init_frame.npy"  # of VTUAV: sequence -> the frame of its first box


def find_truth(folder: Path) -> Path:
    """The text file of boxes in a video's folder; SettingError if there is none that is known."""
    texts = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() == ".txt" and path.is_file() and not is_hidden(path.name):
            texts[path.stem.lower()] = path
    for name in EVERY_FILE:
        if name in texts:
            if name in THERMAL_FILES:
                warnings.warn(
                    f"{texts[name]}: boxes of the thermal images, taken for both: there are none "
                    "of the RGB images",
                    stacklevel=3,
                )
            return texts[name]
    there = ", ".join(path.name for path in texts.values()) or "none"
    raise SettingError(
        f"{folder}: no text file of boxes ({', '.join(FILES)}); there are: {there}. Give the "
        "first box, --box x,y,w,h, or rename the file to groundtruth.txt"
    )


def read_truth(
    path: Path, numbers: Sequence, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, int]:
    """(boxes [n, 4] (x, y, w, h) in pixels, present [n], start) of a file, for n frames.

    Boxes are NaN where nobody annotated, and where the target is absent: there `present` is False.
    A track can begin at frame `start`, the first with a box. What had to be assumed is told by a
    warning.

    Args:
        numbers: of the frames, which init_frame.npy means.
        size: width and height of the RGB images.

    Raises:
        ResultFileError: see read_boxes. SettingError: the target is absent in all rows.
    """
    rows = _upright(path, read_boxes(path), size)
    at = _frames_of(path, len(rows), numbers)
    rows = rows[: len(at)]
    missing = np.isnan(rows).any(1) | (rows[:, 2:] == 0).all(1)
    if missing.all():
        raise SettingError(
            f"{path}: the target is absent (zeros or NaN) in {len(at)} of {len(at)} rows that are "
            "used; a track needs a first box. Give it: --box x,y,w,h"
        )
    start = at[int(np.flatnonzero(~missing)[0])]
    if start > 0:
        warnings.warn(
            f"{path}: the first box is that of frame {numbers[start]}: the track begins there, and "
            f"the {start} before it have no box (0,0,0,0)",
            stacklevel=3,
        )
    boxes, present = np.full((len(numbers), 4), np.nan), np.ones(len(numbers), bool)
    absent = missing | (rows[:, 2:] <= 0).any(1)
    absent[at.index(start)] = False  # whatever it is, it is the first: check_first_box judges it
    boxes[at] = np.where(absent[:, None], np.nan, rows)
    present[at] = ~absent
    return boxes, present, start


def _upright(path: Path, rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes x, y, w, h of rows that may be two corners x1, y1, x2, y2."""
    there = rows[~np.isnan(rows).any(1) & (rows != 0).any(1)]
    ordered = bool((there[:, 2:] > there[:, :2]).all())
    named = path.stem.lower() in CORNERS
    # Elsewhere corners are only read where they all lie in the frame, and most boxes x, y, w, h
    # would have their middles outside.
    middles = there[:, :2] + there[:, 2:] / 2
    outside = (middles > size).any(1).mean() if len(there) else 0
    within = bool((there >= 0).all() and (there[:, 2:] <= np.array(size) + 1).all())
    if ordered and (named or (within and outside > 0.5)):
        if not named:
            warnings.warn(f"{path}: read as two corners x1, y1, x2, y2 a row", stacklevel=4)
        return np.concatenate([rows[:, :2], rows[:, 2:] - rows[:, :2]], axis=1)
    if named:
        warnings.warn(
            f"{path}: read as x, y, w, h: two corners x1, y1, x2, y2, as GTOT has them, they are "
            "not",
            stacklevel=4,
        )
    return rows


def _frames_of(path: Path, m: int, numbers: Sequence) -> list[int]:
    """Which of the frames have the m rows of a file: as many as can be known."""
    n, words = len(numbers), f"{path}: {m} boxes for {len(numbers)} frames"
    if m == n:
        return list(range(n))
    offset, place = _offset(path.parent), {number: i for i, number in enumerate(numbers)}
    if offset is not None:
        wanted = [offset + STEP * k for k in range(m)]
        if all(number in place for number in wanted):
            warnings.warn(
                f"{words}: taken as one every {STEP} frames from {offset} on ({OFFSETS})",
                stacklevel=4,
            )
            return [place[number] for number in wanted]
        words += f", the first of frame {offset} ({OFFSETS})"
    elif m == 1:
        return [0]
    else:
        step = _step(m, n)
        if step is not None:
            words += f": taken as one every {step} frames from the first on"
            warnings.warn(words, stacklevel=4)
            return list(range(0, n, step))
    first = place.get(offset, 0)
    warnings.warn(
        f"{words}: not one each, nor one every so many frames; the first is taken for frame "
        f"{numbers[first]}, and nothing is measured",
        stacklevel=4,
    )
    return [first]


def _step(m: int, n: int) -> int | None:
    """The k for which m boxes are those of every k-th of n frames, if that can be known."""
    tens = len(range(0, n, STEP))
    if m == tens:
        return STEP
    if m >= n - 1 or tens - 3 <= m < tens:  # every tenth, perhaps, and some rows were lost
        return None
    if (n - 1) % (m - 1) == 0:  # the first and the last, and evenly between
        return (n - 1) // (m - 1)
    steps = [k for k in range(2, STEP) if len(range(0, n, k)) == m]
    return steps[0] if len(steps) == 1 else None


# --- init_frame.npy -------------------------------------------------------------------------------


def _offset(folder: Path) -> int | None:
    """The number of the frame that a sequence's first box is of, where VTUAV's file, beside the
    sequence or in a folder above, says it.
    """
    folder = folder.resolve()
    for place in (folder, *folder.parents[:3]):
        path = place / OFFSETS
        if path.is_file():
            try:
                content = _read_plain(path)
                found = content.get(folder.name) if isinstance(content, dict) else content
                return None if found is None else int(found)
            except Exception as error:  # a file can be damaged in every way
                raise GmmtError(
                    f"{path}: expected the number of a frame, or one by sequence ({error}). "
                    "Restore it, or move it elsewhere"
                ) from None
    return None


PARTS_OF_ARRAYS = ("_reconstruct", "ndarray", "dtype", "scalar")


class _Plain(pickle.Unpickler):
    """Reads arrays and dictionaries as numpy writes them, and runs nothing else."""

    def find_class(self, module: str, name: str):
        if module.split(".")[0] == "numpy" and name in PARTS_OF_ARRAYS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _read_plain(path: Path) -> object:
    """What a .npy file of one object or number holds."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        _, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            return _Plain(file).load().item()
    return np.load(path).item()
