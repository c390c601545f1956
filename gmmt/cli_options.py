"""What the commands of the command line share: options, and where weights are."""

from pathlib import Path
from typing import Annotated

import typer

from gmmt.config_file import resolve_profile
from gmmt.files import runs_dir


def option(words: str, *names: str, **more):
    """Returns typer's description of an option."""
    return typer.Option(*names, help=words, **more)


DATA = option("Folder for data (default: data/ of the checkout).", "--data", envvar="GMMT_DATA")
Data = Annotated[Path | None, DATA]
Profile = Annotated[str, option("smoke, cpu, gpu, paper or auto.")]
Seed = Annotated[int, option("Seed of training.", min=0, max=2**62)]
Weights = Annotated[
    Path | None, option("Folder of trained weights (default: runs/PROFILE/seedK/trackers).")
]


def place(profile: str, seed: int, weights: Path | None) -> tuple[str, Path]:
    """Returns the profile that is meant, and the folder of its trained weights."""
    profile = resolve_profile(profile)
    return profile, weights or runs_dir() / profile / f"seed{seed}" / "trackers"
