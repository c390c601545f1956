"""Text files of boxes, a row a frame: ground truth and trackers' results, read strictly."""

import codecs
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gmmt.errors import ResultFileError
from gmmt.files import atomic_write

EXPECTED = (
    "expected 4 numbers (x, y, w, h) or 8 (4 corners), and perhaps a confidence, separated by "
    "comma, semicolon, space or tab"
)
BLANKS = str.maketrans(",;()[]{}\"'", " " * 10)
"""What stands between numbers, or around a row, besides white space."""
AROUND = "()[]{}\"',; \t"
EMPTY_FIELD = re.compile(r"[,;][ \t]*[,;]")
NOT_LONE_COMMAS = re.compile(r"[;\s]+|,\s+")
"""Between the fields of a row whose numbers may have decimal commas."""
MICROSOFTS_NAN = re.compile(r"-?nan\(\w*\)", re.IGNORECASE)
LARGEST = 1e7
"""No frame has so many pixels."""
Lines = list[tuple[int, str]]  # number and text of each line that is not blank


@dataclass(frozen=True)
class BoxFile:
    """What a text file of boxes holds."""

    boxes: np.ndarray  # [n, 4] (x, y, w, h); NaN where a row has one
    confidence: np.ndarray | None  # [n], of files with one more column
    blank: int  # blank lines before the last row, but for those that stand between all rows alike
    blank_after: int  # those after the last row, beyond its own end


def upright(corners: np.ndarray) -> np.ndarray:
    """The upright boxes [n, 4] around corners [n, k, 2] in any order."""
    low, high = corners.min(1), corners.max(1)
    return np.concatenate([low, high - low], axis=1)


def read_boxes(path: Path | str) -> np.ndarray:
    """The boxes [n, 4] (x, y, w, h) of a text file; see `read_box_file`."""
    return read_box_file(path).boxes


def read_box_file(path: Path | str) -> BoxFile:
    """Reads a text file with one box a row.

    A row holds 4 numbers (x, y, w, h) or 8: the four corners x1, y1, ..., x4, y4, as older MATLAB
    trackers write them. These become the upright box around them, rounded to whole pixels, as the
    toolkits do. One number more is a confidence, which the first row may lack. Rows may stand in
    brackets or quotes, and their commas may be decimal ones where other signs separate the numbers
    ("1,5 2,5 3,5 4,5"). A row with a NaN is no box, and all NaN. Lines end with LF, CRLF or CR;
    blank ones are passed over.

    FileNotFoundError: no such file. ResultFileError, with file and line: an empty file, a header, a
    row of another length, an infinite number, frame numbers, 8 numbers that are no corners.
    """
    path = Path(path)
    lines, every = _lines(path)
    values = _values(path, lines)
    columns = values.shape[1] // 4 * 4
    confidence = values[:, columns] if values.shape[1] > columns else None
    values = values[:, :columns]
    absent = np.isnan(values).any(1)
    _check_columns(path, lines, values, confidence)
    if columns == 8:
        corners = values.reshape(-1, 4, 2)
        wrong = np.flatnonzero(~(are_corners(corners) | absent))
        if len(wrong):
            words = f"has 8 numbers that are no corners of a box; {EXPECTED}. "
            raise _refuse(path, *lines[wrong[0]], words + _meaning_of_eight(values))
        boxes = np.floor(upright(corners) + 0.5)
    else:
        boxes = values.copy()
    boxes[absent] = np.nan
    numbers = [number for number, _ in lines]
    gaps = {b - a for a, b in pairwise(numbers)}
    blank = numbers[0] - 1
    if len(gaps) > 1:
        blank += numbers[-1] - numbers[0] + 1 - len(lines)
    return BoxFile(boxes, confidence, blank, max(0, every - numbers[-1] - 1))


def _lines(path: Path) -> tuple[Lines, int]:
    """The lines of a text file that are not blank, and the number of all."""
    wanted = "expected a text file with one box (x, y, w, h) a row"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; {wanted}")
    content = path.read_bytes()
    # PowerShell writes UTF-16, and says so in the first two bytes.
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ResultFileError(f"{path}: not a text file ({error}); {wanted}") from None
    text = MICROSOFTS_NAN.sub("nan", text.rstrip("\0\x1a"))
    every = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = [(number, line) for number, line in enumerate(every, start=1) if line.strip()]
    if not lines:
        raise ResultFileError(f"{path}: the file is empty; {wanted}. Was the tracker stopped?")
    return lines, len(every)


def _values(path: Path, lines: Lines) -> np.ndarray:
    """The numbers of a file [n, k]."""
    usual = _usual_values(lines)
    if usual is not None:
        return usual
    if not any(_may_have_decimal_commas(line) for _, line in lines):
        return _numbers(path, lines, _plain_fields)
    # "144,0 53,0 168,0 98,0" is a box with decimal commas, or four corners x,y: if most rows are.
    plain = None
    try:
        plain = _numbers(path, lines, _plain_fields)
        if plain.shape[1] == 8:
            rows = plain[~np.isnan(plain).any(1)].reshape(-1, 4, 2)
            wide = np.ptp(rows, axis=1).min(-1) > 0
            if (are_corners(rows) & wide).sum() > 0.5 * len(rows):
                return plain
    except ResultFileError:
        pass  # said below of the other reading
    try:
        return _numbers(path, lines, _fields_with_decimal_commas)
    except ResultFileError:
        if plain is None:
            raise
        return plain


def _usual_values(lines: Lines) -> np.ndarray | None:
    """The numbers of a file in the usual form, read fast; None: they are in another, or wrong."""
    delimiter = "," if "," in lines[0][1] else None
    try:
        values = np.loadtxt(
            [line for _, line in lines], delimiter=delimiter, ndmin=2, comments=None
        )
    except ValueError:
        return None
    columns = values.shape[1]
    if columns > 5 and delimiter:  # perhaps decimal commas
        return None
    if columns not in (4, 5, 8, 9) or (np.abs(values[:, : columns // 4 * 4]) > LARGEST).any():
        return None
    return values


def _may_have_decimal_commas(line: str) -> bool:
    if "," not in line:
        return False
    fields = NOT_LONE_COMMAS.split(line.strip(AROUND))
    return len(fields) in (4, 5) and any("," in field for field in fields)


def _plain_fields(line: str) -> list[str]:
    return line.translate(BLANKS).split()


def _fields_with_decimal_commas(line: str) -> list[str]:
    fields = NOT_LONE_COMMAS.split(line.strip(AROUND))
    return [field.replace(",", ".") for field in fields]


def _numbers(path: Path, lines: Lines, fields_of: Callable[[str], list[str]]) -> np.ndarray:
    """The numbers [n, k], k = 4, 5, 8 or 9, in the fields of lines."""
    rows: list[list[float]] = []
    for number, line in lines:
        fields = fields_of(line)
        if EMPTY_FIELD.search(line):
            raise _refuse(path, number, line, f"has an empty field; {EXPECTED}")
        try:
            rows.append([float(field) for field in fields])
        except ValueError as error:
            if rows:
                words = f"is no box ({error!s:.60}); {EXPECTED}"
            elif len(lines) == 1 or not _is_numbers(fields_of(lines[1][1])):
                words = f"is no box, nor is the line below; {EXPECTED}"
            else:
                words = f"is a header or a comment, no box; {EXPECTED}. Remove that line, and "
                words += "columns of anything else"
            raise _refuse(path, number, line, words) from None
        if any(abs(value) > LARGEST for value in rows[-1][: len(fields) // 4 * 4]):
            words = f"is no box in pixels; {EXPECTED}. Write 0 0 0 0 where the tracker has none"
            raise _refuse(path, number, line, words)
        if len(rows) == 2 and len(rows[0]) in (4, 8) and len(fields) == len(rows[0]) + 1:
            rows[0].append(math.nan)  # a tracker has no confidence in the box that it was given
        if len(fields) not in (4, 5, 8, 9) or len(fields) != len(rows[0]):
            first = ""
            if number != lines[0][0]:
                first = f", as in line {lines[0][0]} ({len(rows[0])} numbers)"
            raise _refuse(path, number, line, f"has {len(fields)} numbers; {EXPECTED}{first}")
    return np.array(rows)


def _is_numbers(fields: list[str]) -> bool:
    try:
        return bool([float(field) for field in fields])
    except ValueError:
        return False


def _check_columns(
    path: Path, lines: Lines, values: np.ndarray, confidence: np.ndarray | None
) -> None:
    """ResultFileError where the numbers of a file count its columns or its frames."""
    if values[0].tolist() == [0, 1, 2, 3]:
        words = f"numbers columns; {EXPECTED}. Remove that line"
        raise _refuse(path, *lines[0], words)
    first = values[:, 0]
    enough = 3 if first[0] in (0, 1) else 10
    if confidence is not None and len(first) >= enough and (np.diff(first) == 1).all():
        words = f"begins with a number that counts frames ({first[0]:.0f}, {first[1]:.0f}, ...)"
        raise _refuse(path, *lines[0], f"{words}; {EXPECTED}. Remove that column")


def _refuse(path: Path, number: int, line: str, words: str) -> ResultFileError:
    return ResultFileError(f"{path}, line {number}: {line[:60]!r} {words}")


def are_corners(points: np.ndarray) -> np.ndarray:
    """Which of n times 4 points [n, 4, 2] are the corners of a box, upright or turned.

    They go around it, so that both diagonals have one middle, up to rounding; or an upright box's
    stand row by row, or column by column.
    """
    extent = (points.max(1) - points.min(1)).max(-1)
    slack = (2.5 + 0.1 * extent)[:, None]
    around = (np.abs(points[:, 0] + points[:, 2] - points[:, 1] - points[:, 3]) <= slack).all(-1)
    x, y = points[..., 0], points[..., 1]
    in_rows = (x[:, 0] == x[:, 2]) & (x[:, 1] == x[:, 3]) & (y[:, 0] == y[:, 1])
    in_rows &= y[:, 2] == y[:, 3]
    in_columns = (y[:, 0] == y[:, 2]) & (y[:, 1] == y[:, 3]) & (x[:, 0] == x[:, 1])
    in_columns &= x[:, 2] == x[:, 3]
    return around | in_rows | in_columns


def _meaning_of_eight(values: np.ndarray) -> str:
    """What rows of 8 numbers that are no corners may be instead, and what to do."""
    one, two = values[:, :4], values[:, 4:]
    low = np.maximum(one[:, :2], two[:, :2])
    high = np.minimum(one[:, :2] + one[:, 2:], two[:, :2] + two[:, 2:])
    shared = np.maximum(high - low, 0).prod(1)
    larger = np.maximum(one[:, 2:].prod(1), two[:, 2:].prod(1))
    if (two == 0).all() or (shared > 0.25 * larger).mean() > 0.5:
        return (
            "They look like two boxes (x, y, w, h), of RGB and of thermal images. Keep the four "
            "columns of one of them (the first, if they are in this order, are RGB's)"
        )
    return (
        "Are they two boxes, or corners in another order, or numbers with decimal commas? Write "
        "x, y, w, h with decimal points"
    )


def write_results(boxes: Mapping[str, np.ndarray], folder: Path) -> None:
    """Writes what `gmmt score` reads: a text file a sequence, a row "x,y,w,h" a frame."""
    for name, rows in boxes.items():
        with atomic_write(Path(folder) / f"{name}.txt") as file:
            file.writelines(",".join(f"{v:.4f}" for v in row) + "\n" for row in rows)
