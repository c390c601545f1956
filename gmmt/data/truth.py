"""What is known of the target in a video's folder: a text file of boxes, for all frames or some."""

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gmmt.data.boxes import BoxFile, read_box_file, upright
from gmmt.data.image_folders import is_hidden
from gmmt.errors import GmmtError, ResultFileError, SettingError

FILES = ("visible", "rgb", "init", "groundtruth", "groundtruth_rect", "groundtruth_v")
THERMAL_FILES = ("infrared", "thermal", "ir", "groundtruth_i")
EVERY_FILE = (*FILES, *THERMAL_FILES)
CORNERS = ("groundtruth_v", "groundtruth_i")  # GTOT's rows are two corners, in any order
STEP = 10  # VTUAV annotates every tenth frame
OFFSETS = "init_frame.npy"  # of VTUAV: sequence -> the frame of its first box


def find_truth(folder: Path, frames: int) -> Path:
    """The text file of boxes in the folder of a video of so many frames: of those that are known
    by FILES one with a row a frame, else the first. A warning names the others.

    SettingError: there is none. ResultFileError: none can be read.
    """
    texts = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() == ".txt" and path.is_file() and not is_hidden(path.name):
            texts[path.stem.lower()] = path
    errors = []
    for names in (FILES, THERMAL_FILES):
        rows = {}
        for path in (texts[name] for name in names if name in texts):
            try:
                rows[path] = len(read_box_file(path).boxes)
            except ResultFileError as error:
                errors.append(error)
        if not rows:
            continue
        found = next((path for path in rows if rows[path] == frames), next(iter(rows)))
        for error in errors:
            warnings.warn(f"passed over: {error}", stacklevel=3)
        if len(rows) > 1:
            others = ", ".join(path.name for path in rows if path != found)
            warnings.warn(f"{found}: the boxes are read from here, not {others}", stacklevel=3)
        if names is THERMAL_FILES:
            warnings.warn(
                f"{found}: boxes of the thermal images, taken for both: there are none of the RGB "
                "images",
                stacklevel=3,
            )
        return found
    if errors:
        raise errors[0]
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
        ResultFileError: see read_box_file; there are frame numbers in it, or blank lines that may
            stand for frames. SettingError: the target is absent in all rows that are used.
    """
    file = read_box_file(path)
    _check_rows(path, file, len(numbers))
    every = _upright(path, file.boxes, size)
    at = _frames_of(path, len(every), numbers)
    rows = every[: len(at)]
    missing = _absent(rows)
    if missing.all():
        words = f"{path}: the target is absent (zeros, -1 or NaN) in "
        if len(every) > len(at):
            words += f"row 1, and of which frames the other {len(every) - 1} rows are is not known"
        else:
            words += f"all of {len(at)} rows"
        raise SettingError(f"{words}; a track needs a first box. Give it: --box x,y,w,h")
    start = at[int(np.flatnonzero(~missing)[0])]
    if start > 0:
        warnings.warn(
            f"{path}: the first box is that of frame {numbers[start]}: the track begins there, and "
            f"the {start} before it have no box (0,0,0,0)",
            stacklevel=3,
        )
    boxes, present = spread(rows, at, len(numbers))
    # Whatever it is, it is the first: check_first_box judges it.
    boxes[start], present[start] = rows[at.index(start)], True
    return boxes, present, start


def spread(rows: np.ndarray, at: Sequence, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(boxes [n, 4], present [n]) of n frames from rows (x, y, w, h) of the frames `at`.

    Boxes are NaN where nobody annotated, and where a row has no box (NaN, no width or height):
    there `present` is False.
    """
    boxes, present = np.full((n, 4), np.nan), np.ones(n, bool)
    absent = np.isnan(rows).any(1) | (rows[:, 2:] <= 0).any(1)
    boxes[at] = np.where(absent[:, None], np.nan, rows)
    present[at] = ~absent
    return boxes, present


def _absent(rows: np.ndarray) -> np.ndarray:
    """Which rows say that there is no target: NaN, no width and height, or all -1."""
    return np.isnan(rows).any(1) | (rows[:, 2:] == 0).all(1) | (rows == -1).all(1)


def _check_rows(path: Path, file: BoxFile, n: int) -> None:
    """ResultFileError where a last column or blank lines may be no such thing; n: of frames."""
    last, m = file.confidence, len(file.boxes)
    if last is not None and bool(((last < 0) | (last > 1)).any()):
        raise ResultFileError(
            f"{path}: one number more a row than a box has, and the last is no confidence, 0..1 "
            f"(row 1 ends with {last[0]:g}); expected x, y, w, h. Does each row begin with the "
            "frame's number? Remove columns of anything else"
        )
    if last is not None and bool(np.isin(last, (0, 1)).all()):
        warnings.warn(
            f"{path}: the last column, only 0 and 1, is passed over: flags of visibility are not "
            "read. Where the target is absent, write 0,0,0,0",
            stacklevel=4,
        )
    if m != n and n in (m + file.blank, m + file.blank + file.blank_after):
        raise ResultFileError(
            f"{path}: {m} rows and {n - m} blank lines for {n} frames. Where the target is absent, "
            "write 0,0,0,0 in place of a blank line; otherwise remove those lines"
        )
    if file.blank:
        warnings.warn(f"{path}: {file.blank} blank lines were passed over", stacklevel=4)


def _upright(path: Path, rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes x, y, w, h of rows that may be two corners x1, y1, x2, y2."""
    there = rows[~_absent(rows)]
    if len(there) == 0:
        return rows
    one, two = there[:, :2], there[:, 2:]
    ordered = (two > one).all(1)
    # Corners move together: then w and h, read as if there were some, change as x and y do.
    moved, left = one.var(0).sum(), np.abs(two - one).var(0).sum()
    together = moved > 1 and left < moved / 16
    corners = upright(rows.reshape(-1, 2, 2))
    if path.stem.lower() in CORNERS:
        if ordered.mean() > 0.5 or together:
            return corners
        warnings.warn(
            f"{path}: read as x, y, w, h: two corners x1, y1, x2, y2, as GTOT has them, they are "
            "not",
            stacklevel=4,
        )
        return rows
    # Elsewhere corners are only read where they move together, or where they all lie in the frame,
    # and most boxes x, y, w, h would have their middles outside.
    outside = (one + two / 2 > size).any(1).mean()
    within = bool((there >= 0).all() and (two <= np.array(size) + 1).all())
    if not ordered.all() or not (within or together):
        return rows
    if together or outside > 0.5:
        warnings.warn(f"{path}: read as two corners x1, y1, x2, y2 a row", stacklevel=4)
        return corners
    warnings.warn(
        f"{path}: read as x, y, w, h. Are these two corners? Then write w = x2 - x1, h = y2 - y1",
        stacklevel=4,
    )
    return rows


def _frames_of(path: Path, m: int, numbers: Sequence) -> list[int]:
    """Which of the frames have the m rows of a file: as many as can be known."""
    n, words = len(numbers), f"{path}: {m} boxes for {len(numbers)} frames"
    if m == n:
        return list(range(n))
    offset, place = first_annotated(path.parent), {number: i for i, number in enumerate(numbers)}
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
    elif m == len(range(0, n, STEP)):
        words += f": taken as one every {STEP} frames from the first on"
        warnings.warn(words, stacklevel=4)
        return list(range(0, n, STEP))
    first = place.get(offset, 0)
    warnings.warn(
        f"{words}: not one each, nor one every {STEP} frames; the first is taken for frame "
        f"{numbers[first]}, and nothing is measured",
        stacklevel=4,
    )
    return [first]


# --- init_frame.npy -------------------------------------------------------------------------------


def offset_files(folder: Path) -> list[Path]:
    """Where VTUAV's init_frame.npy may be: beside a sequence's images, or in a folder above."""
    folder = folder.resolve()
    return [place / OFFSETS for place in (folder, *folder.parents[:3])]


def first_annotated(folder: Path) -> int | None:
    """The number of the frame that a sequence's first box is of, where init_frame.npy says it."""
    folder = folder.resolve()
    for path in offset_files(folder):
        if path.is_file():
            try:
                content = _read_plain(path)
                found = content.get(folder.name) if isinstance(content, dict) else content
                return None if found is None else int(found)
            except PermissionError:
                raise
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
