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
    """The upright boxes [n, 4] around corners [n, k, 2] in any order."""
    low, high = corners.min(1), corners.max(1)
    return np.concatenate([low, high - low], axis=1)


def read_boxes(path: Path | str) -> np.ndarray:
    """The boxes [n, 4] (x, y, w, h) of a text file with one row a frame.

    A row holds 4 numbers (x, y, w, h) or 8 (the four corners x1, y1, ..., x4, y4, as older MATLAB
    trackers write them; these become the upright box around them, rounded to whole pixels, as the
    toolkits do), separated by comma, space or tab. Lines end with LF, CRLF or CR.
    FileNotFoundError: no such file. ResultFileError, with file and line: an empty file, a row of
    another length, no finite number.
    """
    path, wanted = Path(path), "expected a text file with one box (x, y, w, h) a row"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; {wanted}")
    try:
        text = path.read_text(encoding="utf-8").replace(",", " ").rstrip()
    except UnicodeDecodeError as error:
        raise ResultFileError(f"{path}: not a text file ({error}); {wanted}") from None
    if not text:
        raise ResultFileError(f"{path}: the file is empty; {wanted}. Was the tracker stopped?")
    rows = []
    expected = "expected 4 numbers (x, y, w, h) or 8 (4 corners), separated by comma, space or tab"
    for number, line in enumerate(text.split("\n"), start=1):  # read_text made each line end "\n"
        place, fields = f"{path}, line {number}", line.split()
        try:
            rows.append([float(field) for field in fields])
        except ValueError as error:
            raise ResultFileError(f"{place}: {error!s:.60}; {expected}") from None
        if not all(map(math.isfinite, rows[-1])):
            advice = "Write 0 0 0 0 where the tracker has no box"
            raise ResultFileError(f"{place}: {line!r} is no box; {expected}. {advice}")
        if len(fields) not in (4, 8) or len(fields) != len(rows[0]):
            first = "" if number == 1 else f", as in line 1 ({len(rows[0])} numbers)"
            found = f"{len(fields)} numbers ({line[:60]!r})"
            raise ResultFileError(f"{place}: {found}; {expected}{first}")
    values = np.array(rows)
    return values if values.shape[1] == 4 else np.floor(upright(values.reshape(-1, 4, 2)) + 0.5)


def result_files(
    folder: Path | str, sequences: Iterable[str], prefix: str | None = None
) -> dict[str, Path]:
    """Sequence -> result file for every sequence.

    Files are named NAME.txt or PREFIX_NAME.txt; `prefix` is found by itself if None. If `folder`
    holds no .txt file but one folder with some, that one is read (archives are often packed so).
    Files that trackers write beside their boxes (`SIDE_FILES`) are passed over. FileNotFoundError:
    no folder, no result files, or none for some sequence. ResultFileError: a file belongs to no
    sequence.
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
        close = difflib.get_close_matches(strange[0].stem.removeprefix(prefix), sequences, n=1)
        hint = "is it another benchmark's?"
        if close and len(strange) < len(files) / 2:
            hint = f"did you mean {prefix}{close[0]}.txt?"
        words = f"no sequence of this benchmark has that name ({len(strange)} such files)"
        raise ResultFileError(f"{strange[0]}: {words}; {hint}")
    missing = [f"{prefix}{name}.txt" for name in sequences if prefix + name not in files]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        there = next(iter(files.values())).parent
        needs = "A benchmark's score needs all of them"
        raise FileNotFoundError(f"{there / missing[0]}: missing{more}; {expected}. {needs}")
    return {name: files[prefix + name] for name in sequences}


def read_results(
    folder: Path | str, sequences: Iterable[str], prefix: str | None = None
) -> dict[str, np.ndarray]:
    """The boxes [n, 4] of every sequence; errors as in `result_files` and `read_boxes`."""
    files = result_files(folder, sequences, prefix)
    return {name: read_boxes(path) for name, path in files.items()}


def write_results(boxes: Mapping[str, np.ndarray], folder: Path) -> None:
    """Writes what `gmmt score` reads: a text file a sequence, a row "x,y,w,h" a frame."""
    for name, rows in boxes.items():
        with atomic_write(Path(folder) / f"{name}.txt") as file:
            file.writelines(",".join(f"{v:.4f}" for v in row) + "\n" for row in rows)
