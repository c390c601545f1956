"""Data sets on a disk: each a list of the same `Sequence` that a drawn video is.

How each lies there is in layouts.py; a listing of it is kept for the next time (listing.py).
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gmmt.data import listing
from gmmt.data.benchmarks import GroundTruth, attributes_in
from gmmt.data.decode import read_image
from gmmt.data.layouts import dataset
from gmmt.data.sequence import Sequence
from gmmt.errors import GmmtError
from gmmt.files import PACKAGE, runs_dir
from gmmt.provenance import module_hash, short_hash

DECIDE = ("layouts", "listing", "truth", "boxes", "image_folders", "images", "decode")
"""Modules that decide what is found in a folder: a listing that others made is not used."""


def open_dataset(
    name: str, root: Path | str, split: str | None = None, part: bool = False
) -> list[Sequence]:
    """Returns the sequences of a data set in the order of its manifest's list.

    Frames are uint8 [4, H, W], RGB and one thermal channel. `boxes` are those of the RGB images,
    NaN where nobody annotated and where the target is absent. A sequence begins with the first
    frame that has a box.

    Args:
        name: gtot, rgbt210, rgbt234, lasher or vtuav.
        root: the folder that its splits, or its sequences, lie in.
        split: train or test of LasHeR; others have but one, which None and "test" mean.
        part: open what is there, if sequences of the list are missing.

    Raises:
        SettingError: no such data set or split; sequences are missing; images are no pairs.
        ResultFileError: boxes cannot be read, or are not as many as images.
    """
    data = dataset(name, root)
    key = data.split(split)
    folders = data.folders(key, part)
    code = [module_hash(PACKAGE / "data" / f"{module}.py") for module in DECIDE]
    made_by = short_hash([code, data.manifest["layout"]])
    file = runs_dir() / "listings" / f"{name}-{key}-{short_hash(str(data.root.resolve()))}.npz"
    sequences = []
    for sequence, found in listing.listed(folders, data.read, file, made_by).items():
        paths = tuple(folders[sequence] / folder for folder in found.folders)
        frame = Frames(paths, found.names, found.size)
        sequences.append(Sequence(sequence, found.boxes, frame, found.size, present=found.present))
    return sequences


def dataset_truth(
    name: str, root: Path | str, split: str | None = None, part: bool = False
) -> GroundTruth:
    """Returns a data set's annotation as its files have it, for scores by the benchmark's protocol.

    Arguments and errors as of `open_dataset`. There are no attributes unless the folder has files
    of them.
    """
    data = dataset(name, root)
    boxes, annotated = {}, {}
    for sequence, folder in data.folders(data.split(split), part).items():
        boxes[sequence], frames = data.truth(folder)
        if frames is not None:
            annotated[sequence] = frames
    return GroundTruth(name, boxes, attributes_in(name, data.root, tuple(boxes)), annotated)


@dataclass(frozen=True, eq=False)
class Frames:
    """The frames of a sequence on a disk: frames(i) is uint8 [4, H, W]."""

    folders: tuple[Path, Path]  # of the RGB and of the thermal images
    names: tuple[np.ndarray, np.ndarray]  # bytes [n]: small, and shared by worker processes
    size: tuple[int, int]  # (H, W)

    def __call__(self, i: int) -> np.ndarray:
        return self.reduced(i, 1)

    def reduced(self, i: int, shrink: int) -> np.ndarray:
        """Returns frame i at 1/shrink (1, 2, 4, 8) of its size, rounded up: uint8 [4, h, w].

        GmmtError, with the file: an image is damaged, or has another size than the first one.
        """
        size, parts = tuple(-(-side // shrink) for side in self.size), []
        for k, mode in enumerate(("RGB", "L")):
            path = self.path(k, i)
            pixels = read_image(path, mode, shrink)
            if pixels.shape[:2] != size:
                raise GmmtError(
                    f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels; expected {size[1]} x "
                    f"{size[0]}, as the sequence's first RGB image has. gmmt verify --deep names "
                    "all such images"
                )
            parts.append(torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1))
        return torch.cat(parts).contiguous().numpy()  # twice as fast as numpy's own

    def path(self, k: int, i: int) -> Path:
        """Returns the file of frame i: k = 0 of its RGB, 1 of its thermal image."""
        return self.folders[k] / os.fsdecode(self.names[k][i])
