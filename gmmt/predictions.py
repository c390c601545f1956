"""The boxes of a trained tracker, kept as result files under a key of all that made them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gmmt import compute, files, tracking
from gmmt.config import Config, module_of, plain
from gmmt.data import synthetic
from gmmt.data.boxes import read_boxes, write_results
from gmmt.data.sequence import Sequence
from gmmt.experiment import ELSEWHERE, Trained
from gmmt.provenance import code_hash, short_hash
from gmmt.tracking import Reading


def boxes(
    trained: Trained,
    sequences: list[Sequence],
    *,
    steps: int = 1,
    noise: int | None = 0,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Returns the boxes [n, 4] of each sequence, from the result files of an earlier call if this
    very tracker, with this very code, made them, and they are whole: else they are made anew.

    `steps` and `noise` (a seed) are those of GMMT's sampler; None stands for zeros in the noise's
    place. SettingError: boxes that are new cannot be written.
    """
    names = [sequence.name for sequence in sequences]
    what = what_decides(trained.config, trained.keys, sequences, steps, noise)
    folder = boxes_folder(trained, what)
    done = folder / "done.json"
    kept = files.read_json(done)
    if not isinstance(kept, dict) or kept.get("hash") != _hash(folder, names):
        files.check_writable(done, ELSEWHERE)
        reading = Reading(**trained.config.reading)
        with compute.threads(trained.config.compute.threads):
            found = tracking.track_all(
                trained.tracker,
                trained.mode,
                sequences,
                steps=steps,
                seed=noise,
                reading=reading,
                progress=progress,
            )
        write_results({name: found[name][0] for name in names}, folder)
        files.write_json(done, what | {"hash": _hash(folder, names)}, indent=1)
    # From the files, so that they are rounded alike whether they were new or not.
    return {name: read_boxes(folder / f"{name}.txt") for name in names}


def what_decides(
    config: Config,
    keys: Mapping[str, str],
    sequences: list[Sequence],
    steps: int = 1,
    noise: int | None = 0,
) -> dict:
    """Returns all that boxes depend on: the weights (the keys of all stages), how they are read,
    the videos, the code of tracking, the machine.
    """
    return {
        "weights": dict(keys),
        "mode": config.mode,
        "reading": plain(config.reading),
        "steps": steps,
        "noise": noise,
        "videos": synthetic.fingerprint(sequences),
        "threads": config.compute.threads,
        "code": code_hash("gmmt.predictions", module_of(config.tracker)),
        "machine": compute.describe(compute.device()),
    }


def _hash(folder: Path, names: list[str]) -> str:
    """Returns the sha256 of result files; one that is missing counts as none that was written."""
    found = hashlib.sha256()
    for name in names:
        path = folder / f"{name}.txt"
        found.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    return found.hexdigest()


def boxes_folder(trained: Trained, what: dict) -> Path:
    """Returns where boxes are kept."""
    return trained.folder / "boxes" / f"{trained.name}-{trained.key}-{short_hash(what)}"
