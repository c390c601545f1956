"""How RGB-T data sets lie on a disk: folders of images in pairs, and files of boxes.

A manifest says it (data_manifests/NAME.json, `layout`); a small class holds what it cannot say.
"""

import os
import warnings
from collections.abc import Sequence as List
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from gmmt.data.boxes import read_boxes, upright
from gmmt.data.decode import image_size
from gmmt.data.image_folders import in_order, is_hidden
from gmmt.data.listing import Found
from gmmt.data.manifest import Manifest, load
from gmmt.data.truth import CORNERS, STEP, first_annotated, offset_files, spread
from gmmt.errors import ResultFileError, SettingError, did_you_mean


@dataclass(frozen=True)
class DataSet:
    """A data set whose files are as its manifest says."""

    manifest: Manifest
    root: Path

    @property
    def layout(self) -> dict:
        """How it lies on a disk, by its manifest."""
        return self.manifest["layout"]

    def split(self, split: str | None) -> str:
        """Returns the name of the split that is meant; SettingError lists those that there are."""
        splits = list(self.layout["splits"])
        if len(splits) == 1 and split in (None, "test"):
            return splits[0]
        if split not in splits:
            raise SettingError(
                f"{self.manifest.name} has the splits {', '.join(splits)}; expected one of them, "
                f"not {split}"
            )
        return split

    def folders(self, split: str, part: bool) -> dict[str, Path]:
        """Returns sequence -> folder, in the manifest's order; see `open_dataset`."""
        place = self.root / self.layout["splits"][split]["folder"]
        advice = f"'gmmt fetch {self.manifest.name}' says where to get it"
        if not place.is_dir():
            raise SettingError(
                f"{place}: no such folder; expected {self.layout['tree']} in {self.root}. {advice}"
            )
        names = self.layout["splits"][split]["rows"]
        if names is None:
            names = self._sequences_in(place)
        there = {name: place / name for name in names if (place / name).is_dir()}
        missing = [name for name in names if name not in there]
        if not there or (missing and not part):
            some = ", ".join(missing[:10]) + ", ..." * (len(missing) > 10)
            raise SettingError(
                f"{place}: {len(there)} of {len(names) or 'the'} sequences are there "
                f"({self.layout['tree']}); missing: {some or 'all'}. {advice}; --part takes "
                "those that are there (in training: --set data.part=true)"
            )
        return there

    def _sequences_in(self, place: Path) -> list[str]:
        """Names of the folders with one of RGB images, where there is no list of them."""
        known = self.layout["images"][0]["folders"]
        found = sorted(path for path in place.iterdir() if not is_hidden(path.name))
        return [path.name for path in found if any((path / name).is_dir() for name in known)]

    def images(self, folder: Path, k: int) -> Path:
        """Returns the folder of a sequence's RGB (k = 0) or thermal images (1)."""
        names = self.layout["images"][k]["folders"]
        for name in names:
            if (folder / name).is_dir():
                return folder / name
        raise SettingError(
            f"{folder}: no folder {' or '.join(names)}; expected {self.layout['tree']}. "
            "Unpack the sequence again"
        )

    def read(self, folder: Path) -> Found:
        """Returns what a sequence's folder holds: see `open_dataset`."""
        # 1. Pairs of images.
        places = [self.images(folder, k) for k in range(2)]
        (rgb, numbers), (thermal, others) = (in_order(place) for place in places)
        self._check_pairs(rgb + thermal, numbers, others)
        n = min(len(rgb), len(thermal))

        # 2. Boxes, of all frames or some.
        path = self.box_file(folder)
        rows, at = self.aligned(path, numbers[:n])
        boxes, present = spread(rows, at, n)
        known = np.flatnonzero(np.isfinite(boxes).all(1))
        if len(known) == 0 or (known[0] > 0 and self.layout["row_per_image"]):
            raise ResultFileError(
                f"{path}: the first row is no box; expected one, at which a track begins. "
                "Unpack the sequence again"
            )

        # 3. All of it from the first frame with a box.
        frames = slice(int(known[0]), n)
        width, height = image_size(rgb[0])
        names = tuple(
            np.array([os.fsencode(file.name) for file in files[frames]]) for files in (rgb, thermal)
        )
        return Found(
            (places[0].name, places[1].name),
            names,
            (height, width),
            boxes[frames],
            present[frames],
            self.also(folder),
        )

    def also(self, folder: Path) -> tuple[str, ...]:
        """Returns files outside of a sequence's folder that decide how it is read."""
        return ()

    def _check_pairs(self, files: List[Path], rgb: List, thermal: List) -> None:
        """SettingError naming the first image without a partner; files: RGB's, then the thermal.

        Frame numbers of the two may differ by a constant. Equal numbers of images are pairs in
        their order, as the official trackers take them: a warning where frame numbers differ.
        """
        shifts = [0]
        if isinstance(rgb[0], int) and isinstance(thermal[0], int):
            shifts += [rgb[0] - thermal[0], rgb[-1] - thermal[-1]]
        fewest = None
        for shift in shifts:
            moved = [number + shift for number in thermal] if shift else thermal
            common = set(rgb) & set(moved)
            lonely = [i for i, number in enumerate(chain(rgb, moved)) if number not in common]
            if fewest is None or len(lonely) < len(fewest):
                fewest = lonely
        if not fewest:
            return
        first = files[fewest[0]]
        folder = first.parent.parent
        words = (
            f"{folder}: {len(rgb)} RGB and {len(thermal)} thermal images; {first.parent.name}/"
            f"{first.name} is the first without a partner of its number"
        )
        if len(rgb) == len(thermal):
            warnings.warn(f"{words}: paired in their order", stacklevel=3)
            return
        # What a manifest allows is a longer end: elsewhere all that follow would be moved.
        more = len(rgb) - len(thermal)
        at = fewest[0] if fewest[0] < len(rgb) else fewest[0] - len(rgb)
        at_end = at >= min(len(rgb), len(thermal))
        if not (at_end and self._may_differ(folder.name, more)):
            raise SettingError(f"{words}; expected pairs. Unpack the sequence again")

    def _may_differ(self, sequence: str, difference: int) -> bool:
        allowed = self.layout["differences"].get(sequence, 0)
        return allowed is None or abs(difference) <= allowed

    def box_file(self, folder: Path) -> Path:
        """Returns the file of a sequence's boxes: the first in the manifest's order that is there,
        with a warning if it is not the one of the RGB images.
        """
        files = self.layout["annotations"] + self.layout["optional"]
        known = [name for name in files if name.endswith(".txt")]
        for name in known:
            if (folder / name).is_file():
                if name != known[0]:
                    warnings.warn(
                        f"{folder / known[0]}: missing; the boxes are read from {name}",
                        stacklevel=2,
                    )
                return folder / name
        raise ResultFileError(f"{folder}: no boxes; expected {known[0]}. Unpack the sequence again")

    def rows(self, path: Path) -> np.ndarray:
        """Returns the boxes [m, 4] (x, y, w, h) of a file, row by row."""
        return read_boxes(path)

    def aligned(self, path: Path, numbers: List) -> tuple[np.ndarray, List]:
        """Returns a file's boxes [m, 4] and of which frames they are [m]; numbers: of the frames.

        ResultFileError: there are more or fewer than images, and the manifest does not know it. If
        it does not know at all whether there is a row for each image, that is a warning.
        """
        sequence, n = path.parent.name, len(numbers)
        rows = self.rows(path)
        if len(rows) - n == self.layout["surplus"].get(sequence):
            rows = rows[len(rows) - n :]
        if not self._may_differ(sequence, len(rows) - n):
            words = f"{path}: {len(rows)} rows for {n} images; expected one for each"
            if self.layout["row_per_image"]:
                raise ResultFileError(f"{words}. Unpack the sequence again")
            warnings.warn(f"{words}. The first row is taken for the first image", stacklevel=3)
        rows = rows[:n]
        return rows, range(len(rows))

    def truth(self, folder: Path) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
        """Returns the rows [m, 4] of each annotated modality, and which frames they are of (bool
        [n]; None: all).

        ResultFileError: a file is missing, on which the benchmark's score depends.
        """
        paths = [folder / name for name in self.layout["annotations"]]
        for path in paths:
            if not path.is_file():
                raise ResultFileError(
                    f"{path}: missing; expected boxes, which the benchmark's score needs. Unpack "
                    "the sequence again"
                )
        return tuple(self.rows(path) for path in paths), None


class Gtot(DataSet):
    """GTOT: its rows are two corners in any order; w = x2 - x1, as its toolkit has it."""

    def rows(self, path: Path) -> np.ndarray:
        rows = read_boxes(path)
        return upright(rows.reshape(-1, 2, 2)) if path.stem.lower() in CORNERS else rows


class LasHeR(DataSet):
    """LasHeR: its modalities are aligned, and every file of boxes holds the same."""

    def truth(self, folder: Path) -> tuple[tuple[np.ndarray, ...], None]:
        return (self.rows(self.box_file(folder)),), None


class Vtuav(DataSet):
    """VTUAV: a row for every tenth frame, from that on which init_frame.npy names, if it is
    there.
    """

    def also(self, folder: Path) -> tuple[str, ...]:
        return tuple(map(str, offset_files(folder)))

    def aligned(self, path: Path, numbers: List) -> tuple[np.ndarray, List]:
        rows = self.rows(path)
        if len(rows) == len(numbers):
            return rows, range(len(rows))
        first = first_annotated(path.parent)
        if first is None:
            first = numbers[0]
        place = {number: i for i, number in enumerate(numbers)}
        wanted = [first + STEP * k for k in range(len(rows))]
        lacking = [number for number in wanted if number not in place]
        left = len(numbers) - 1 - place.get(wanted[-1], 0)
        if lacking or left >= 2 * STEP:
            raise ResultFileError(
                f"{path}: {len(rows)} rows, one for every {STEP} frames from {first} to "
                f"{wanted[-1]}; expected as many as images {numbers[0]} to {numbers[-1]} need. "
                "Unpack the sequence again, with its init_frame.npy"
            )
        return rows, [place[number] for number in wanted]

    def truth(self, folder: Path) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        every, _ = super().truth(folder)
        if len({len(rows) for rows in every}) > 1:
            raise ResultFileError(
                f"{folder}: {' and '.join(str(len(rows)) for rows in every)} rows of the two "
                "modalities; expected as many. Unpack the sequence again"
            )
        numbers = in_order(self.images(folder, 0))[1]
        rows, at = self.aligned(self.box_file(folder), numbers)
        boxes, _ = spread(rows, at, len(numbers))
        annotated = np.zeros(len(numbers), bool)
        annotated[at] = True
        start = int(np.isfinite(boxes).all(1).argmax())
        begun = np.array(at) >= start
        return tuple(rows[begun] for rows in every), annotated[start:]


KINDS = {"gtot": Gtot, "rgbt210": DataSet, "rgbt234": DataSet, "lasher": LasHeR, "vtuav": Vtuav}
"""RGB-D (depthtrack, rgbd1k, cdtb) has its place here."""


def dataset(name: str, root: Path | str) -> DataSet:
    """Returns the reader of a data set; SettingError: there is none of this name."""
    if name not in KINDS:
        raise SettingError(
            f"no data set is called {name!r}; expected one of {', '.join(KINDS)}."
            f"{did_you_mean(name, KINDS)}"
        )
    return KINDS[name](load(name), Path(root))
