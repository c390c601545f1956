"""The experiment in miniature: which rows there are, and how one is trained and scored.

    row = miniature.train("DM", "cpu", seed=0, folder=folder)
    scores, by_attribute = miniature.scores(row, "val")

Every row is a file in configs/miniature/. It is loaded if its configuration was trained before,
else trained, with all that it builds on:

    RGB, TIR (stage 1.1)  ->  Base (1.2)  ->  HEAD, TRK, NOISE, RAW, CGAN, DM, ... (2)

The weight of the generative loss (lam) and the learning rate of every row of stage 2 come from the
same small grid (grid.py), by the success rate on validation videos of a training with a seed of its
own; the choice is stored in the project, and no test video has a part in it.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gmmt import experiment, files, predictions
from gmmt.config import NOTHING, Config
from gmmt.config_file import load
from gmmt.data import loader
from gmmt.data.sequence import Sequence
from gmmt.errors import SettingError, did_you_mean
from gmmt.experiment import Trained
from gmmt.metrics import Scores
from gmmt.study import scoring
from gmmt.study.tables import ALL_ROWS


def config_path(name: str) -> Path:
    """Returns the file of a row's configuration; SettingError if there is no such row."""
    if name not in ALL_ROWS:
        raise SettingError(
            f"there is no row {name!r}: expected one of {', '.join(ALL_ROWS)}."
            f"{did_you_mean(name, ALL_ROWS)}"
        )
    return files.config_dir() / "miniature" / f"{name.lower()}.yaml"


def config(
    name: str, profile: str, source: str | None = None, changes: Mapping[str, Any] = NOTHING
) -> Config:
    """Returns a row's configuration under a profile.

    `source` is another source of videos than the file's; `changes` is a tree of fields as in a
    file: {"plans": {"2": {"lam": 3.0}}}.
    """
    changes = dict(changes)
    if source is not None:
        changes["data"] = {**changes.get("data", {}), "source": source}
    return load(config_path(name), profile, changes)


@cache
def mode_of(name: str) -> str:
    """Returns which head of its tracker a row ends with: "rgb", "tir", "base" or "stage2"."""
    return config(name, "smoke").mode


def base_of(name: str) -> str:
    """Returns the row on which a row of stage 2 stands; "" for others."""
    if mode_of(name) != "stage2":
        return ""
    return config(name, "smoke").names["1.2"]


def rows_before(name: str) -> tuple[str, ...]:
    """Returns the rows that must be trained right before a row."""
    if base_of(name):
        return (base_of(name),)
    row = config(name, "smoke")
    below = () if row.foundation is None else (row.foundation.name,)
    return (*below, *(row.names[stage] for stage in row.until(row.stages[-1])))


def train(
    name: str,
    profile: str,
    seed: int,
    folder: Path,
    *,
    source: str | None = None,
    changes: Mapping[str, Any] = NOTHING,
    progress: bool = False,
) -> Trained:
    """Returns a row, trained, with weights kept in `folder`; arguments as of `config`."""
    row = config(name, profile, source, changes)
    return experiment.train(row, seed, folder, progress=progress)


def sequences(profile: str, split: str, source: str | None = None) -> list[Sequence]:
    """Returns the profile's validation or test sequences."""
    return loader.sequences(config("RGB", profile, source).data, split)


def boxes(row: Trained, split: str, **options) -> dict[str, np.ndarray]:
    """Returns a row's boxes on the sequences of a split; options as of `predictions.boxes`."""
    return predictions.boxes(row, loader.sequences(row.config.data, split), **options)


def scores(row: Trained, split: str, **options) -> tuple[Scores, dict[str, Scores]]:
    """Returns a row's scores by sequence, and those of each attribute; arguments as of `boxes`."""
    videos = loader.sequences(row.config.data, split)
    return scoring.evaluate(boxes(row, split, **options), videos)
