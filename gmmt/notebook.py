"""What a notebook's set-up cell calls: profiles, seeds, and the folder that a run writes to.

    run = gmmt.notebook.start("01_noise_schedule", profile=profile, seed=seed)

A run is named by (notebook, profile, seed) and writes only below runs/<profile>/seed<k>/<notebook>/ ($GMMT_RUNS replaces `runs`).
"""

import contextlib
import datetime
import difflib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from gmmt import __version__, files
from gmmt.errors import SettingError

PROFILES = ("smoke", "cpu", "gpu", "paper")
"""From the smallest to the largest; `auto` stands for one of them."""


@dataclass(frozen=True)
class Run:
    """One run of one notebook. `folder` exists; `where` is the same folder as people should read it, free of this machine's paths."""

    name: str
    profile: str
    seed: int
    threads: int
    where: str
    folder: Path = field(repr=False)

    def generator(self, device: str = "cpu"):
        """Returns a new torch.Generator on `device`, seeded with this run's seed."""
        import torch  # here, so that a notebook without torch starts at once

        return torch.Generator(device).manual_seed(self.seed)

    def rng(self):
        """Returns a new numpy Generator, seeded with this run's seed."""
        import numpy as np

        return np.random.default_rng(self.seed)

    def pick(self, *, smoke, cpu, **larger):
        """Returns the value for this run's profile; `gpu` and `paper` may be left out and then take the next smaller one given."""
        if unknown := set(larger) - {"gpu", "paper"}:
            raise SettingError(f"pick() knows smoke, cpu, gpu and paper, not {', '.join(sorted(unknown))}.")
        given = {"smoke": smoke, "cpu": cpu, **larger}
        upto = PROFILES[: PROFILES.index(self.profile) + 1]
        return given[[name for name in upto if name in given][-1]]

    def save(self, table, name: str, *, source: str) -> str:
        """Returns where `table` (a tidy DataFrame) now lies; NAME.provenance.json beside it says how and from what it was made.

        Args:
            table: one row per observation; its index is not written, so that a named one is refused.
            name: the file's name, `something.csv`.
            source: where the numbers are from, for example "ours in miniature" or "authors' raw results, RGBT234".
        """
        if not re.fullmatch(r"[\w.+-]+\.csv", name):
            raise SettingError(f"run.save() wants a plain file name that ends in .csv, not {name!r}.")
        if any(level is not None for level in table.index.names):
            raise SettingError(f"{name}: the table's index {list(table.index.names)} would be lost. Call .reset_index() first.")
        provenance = {"file": name, "source": source, "notebook": self.name, "profile": self.profile, "seed": self.seed, "rows": len(table)}
        provenance |= {"made": now(), "commit": git_commit(), "versions": versions()}
        with files.atomic_write(self.folder / name) as file:
            table.to_csv(file, index=False, lineterminator="\n")
        with files.atomic_write(self.folder / f"{name.removesuffix('.csv')}.provenance.json") as file:
            json.dump(provenance, file, indent=2, ensure_ascii=False)
        return f"{self.where}/{name}"

    def headline(self, text: str) -> None:
        """Stores the one line that the summary table of `make reproduce` shows for this notebook, such as "SR 64.7"."""
        text = str(text).strip()
        if not text or "\n" in text:
            raise SettingError(f"run.headline() wants one line of text, not {text!r}.")
        with files.atomic_write(self.folder / "headline.txt") as file:
            file.write(text + "\n")


def start(name: str, *, profile: str = "auto", seed: int = 0) -> Run:
    """Returns the Run that a notebook works with, after printing one line that names it.

    Also sets the figure style, holds torch to the $GMMT_THREADS threads that a batch run grants and, where torch is already imported, seeds
    its global generator, which is what the weights of new layers are drawn from.

    Raises:
        SettingError: the name, profile or seed cannot be one.
    """
    if not re.fullmatch(r"\w+", name):
        raise SettingError(f"A notebook's name is its file's name without the ending, such as 01_noise_schedule, not {name!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SettingError(f"The seed is a whole number, 0 or more, not {seed!r}.")
    profile = resolve_profile(profile)
    root, shown = _runs_dir()
    below = f"{profile}/seed{seed}/{name}"
    folder = root / below
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "headline.txt").unlink(missing_ok=True)  # an earlier run's headline is not this one's

    threads = _threads()
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)
        if "GMMT_THREADS" in os.environ:
            torch.set_num_threads(threads)
    elif "GMMT_THREADS" in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # what torch reads when it is imported later
    if (style := files.resource("gmmt.mplstyle")).is_file():
        import matplotlib.style

        matplotlib.style.use(style)
    print(f"{name} · profile {profile} · seed {seed} · {shown}/{below}")
    return Run(name=name, profile=profile, seed=seed, threads=threads, where=f"{shown}/{below}", folder=folder)


def resolve_profile(profile: str = "auto") -> str:
    """Returns one of PROFILES: the given one, or for `auto` $GMMT_PROFILE, else gpu where CUDA is available, else cpu."""
    if profile == "auto":
        profile, origin = os.environ.get("GMMT_PROFILE") or "auto", " (from the environment variable GMMT_PROFILE)"
    else:
        origin = ""
    if profile == "auto":
        import torch  # the slow way, and the only one that knows

        return "gpu" if torch.cuda.is_available() else "cpu"
    if profile not in PROFILES:
        known = f"Profiles are {', '.join(PROFILES)} and auto."
        raise SettingError(f"There is no profile {profile!r}{origin}. {known}{did_you_mean(profile, [*PROFILES, 'auto'])}")
    return profile


def did_you_mean(word: str, known) -> str:
    """Returns " Did you mean ...?" with the closest of the known words, or nothing if none is close."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on, without importing anything."""
    found = {"gmmt": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "pandas", "matplotlib"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def git_commit() -> str | None:
    """Returns the checkout's commit, with "-dirty" where files differ from it, or None without git or a checkout."""
    if files.ROOT is None:
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=files.ROOT, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    """Returns the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _runs_dir() -> tuple[Path, str]:
    """Returns the folder of all runs, and the name to show for it."""
    base = files.ROOT or Path.cwd()
    root = Path(os.environ["GMMT_RUNS"]).expanduser().absolute() if os.environ.get("GMMT_RUNS") else base / "runs"
    return root, root.relative_to(base).as_posix() if root.is_relative_to(base) else "$GMMT_RUNS"


def _threads() -> int:
    """Returns how many threads a run may use: $GMMT_THREADS, else every core that this process may run on."""
    given = os.environ.get("GMMT_THREADS")
    if given is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not re.fullmatch(r"[1-9]\d*", given):
        raise SettingError(f"GMMT_THREADS is a whole number, 1 or more, not {given!r}.")
    return int(given)
