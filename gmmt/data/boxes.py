"""Text files of boxes, a row a frame: ground truth and trackers' results, read strictly."""

import difflib
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from gmmt.errors import ResultFileError
from gmmt.files import atomic_write

# Endings of files that trackers write beside their boxes; they are not results and are passed over.
SIDE_FILES = ("_time", "_confidence", "_confidence.value", "_all_scores", "_object_presence_scores")


def upright(corners: np.ndarray) -> np.ndarray:
    """Returns the upright boxes [n, 4] around corners [n, k, 2] in any order."""
    low, high = corners.min(1), corners.max(1)
    return np.concatenate([low, high - low], axis=1)


def read_boxes(path: Path | str) -> np.ndarray:
    """Returns the boxes [n, 4] (x, y, w, h) of a text file with one row a frame.

    A row holds 4 numbers (x, y, w, h) or 8 (the four corners x1, y1, ..., x4, y4, as older MATLAB
    trackers write them; these become the upright box around them, rounded to whole pixels, as the
    toolkits do), separated by comma, space or tab. Lines end with LF, CRLF or CR.
    FileNotFoundError: no such file. ResultFileError, with file and line: an empty file, a row of
        another length, no finite number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such file; expected a text file with one box (x, y, w, h) a row"
        )
    try:
        text = path.read_text(encoding="utf-8").replace(",", " ").rstrip()
    except UnicodeDecodeError as error:
        raise ResultFileError(
            f"{path}: not a text file ({error}); expected one box (x, y, w, h) a row"
        ) from None
    if not text:
        raise ResultFileError(
            f"{path}: the file is empty; expected one box (x, y, w, h) a row. Was the tracker "
            "stopped?"
        )
    rows = []
    for number, line in enumerate(
        text.split("\n"), start=1
    ):  # read_text has made every line end a "\n"
        fields, expected = (
            line.split(),
            "expected 4 numbers (x, y, w, h) or 8 (four corners), separated by comma, space or tab",
        )
        try:
            rows.append([float(field) for field in fields])
        except ValueError as error:
            raise ResultFileError(f"{path}, line {number}: {error!s:.60}; {expected}") from None
        if not all(map(math.isfinite, rows[-1])):
            raise ResultFileError(
                f"{path}, line {number}: {line!r} is no box; {expected}. Write 0 0 0 0 where "
                "the tracker has no box"
            )
        if len(fields) not in (4, 8) or len(fields) != len(rows[0]):
            as_above = f", as in line 1 ({len(rows[0])} numbers)" * (number > 1)
            raise ResultFileError(
                f"{path}, line {number}: {len(fields)} numbers ({line[:60]!r}); "
                f"{expected}{as_above}"
            )
    values = np.array(rows)
    return values if values.shape[1] == 4 else np.floor(upright(values.reshape(-1, 4, 2)) + 0.5)


def result_files(
    folder: Path | str, sequences: Iterable[str], prefix: str | None = None
) -> dict[str, Path]:
    """Returns sequence -> result file for every sequence.

    Files are named NAME.txt or PREFIX_NAME.txt; `prefix` is found by itself if None. If `folder`
    holds no .txt file but one folder with some, that one is read (archives are often packed so).
    Files that trackers write beside their boxes (`SIDE_FILES`) are passed over.
    FileNotFoundError: no folder, no result files, or none for some sequence. ResultFileError: a
        file belongs to no sequence.
    """
    folder, sequences = Path(folder), list(sequences)
    expected = f"expected a file for each of {len(sequences)} sequences"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; {expected}")
    places = [
        {f.stem: f for f in sorted(place.glob("*.txt")) if not f.stem.endswith(SIDE_FILES)}
        for place in (folder, *folder.glob("*/"))
    ]
    inner = [files for files in places[1:] if files]
    if not places[0] and len(inner) != 1:
        raise FileNotFoundError(
            f"{folder}: no .txt file, and {len(inner)} folders with some; {expected} here or "
            "in one folder below"
        )
    files = places[0] or inner[0]
    if prefix is None:
        stem, underscore, _ = os.path.commonprefix(list(files)).rpartition("_")  # noqa: RUF071
        prefix = "" if set(files) & set(sequences) else stem + underscore
    strange = [path for stem, path in files.items() if stem.removeprefix(prefix) not in sequences]
    if strange:
        close = (
            difflib.get_close_matches(strange[0].stem.removeprefix(prefix), sequences, n=1)
            if len(strange) < len(files) / 2
            else []
        )
        hint = f"did you mean {prefix + close[0]}.txt?" if close else "is it another benchmark's?"
        raise ResultFileError(
            f"{strange[0]}: no sequence of this benchmark has that name ({len(strange)} such "
            f"files); {hint}"
        )
    missing = [f"{prefix}{name}.txt" for name in sequences if prefix + name not in files]
    if missing:
        more, there = (
            f" and {len(missing) - 1} more" * (len(missing) > 1),
            next(iter(files.values())).parent,
        )
        raise FileNotFoundError(
            f"{there / missing[0]}: missing{more}; {expected}. A benchmark's score needs all "
            "of them"
        )
    return {name: files[prefix + name] for name in sequences}


def read_results(
    folder: Path | str, sequences: Iterable[str], prefix: str | None = None
) -> dict[str, np.ndarray]:
    """Returns the boxes [n, 4] of every sequence from a folder of result files; errors as in
    `result_files` and `read_boxes`.
    """
    return {
        name: read_boxes(path) for name, path in result_files(folder, sequences, prefix).items()
    }


def write_results(boxes: Mapping[str, np.ndarray], folder: Path) -> None:
    """Writes the standard result files: a text file a sequence, a row "x,y,w,h" a frame; what `gmmt
    score` reads.
    """
    for name, rows in boxes.items():
        with atomic_write(Path(folder) / f"{name}.txt") as file:
            file.writelines(",".join(f"{v:.4f}" for v in row) + "\n" for row in rows)
