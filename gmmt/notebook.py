"""What a notebook's set-up cell calls: profiles, seeds, and the folder that a run writes to.

    run = gmmt.notebook.start("01_noise_schedule", profile=profile, seed=seed, steps=steps)

A run is named by (notebook, profile, seed). One that the batch makes writes only below
runs/<profile>/seed<k>/<notebook>/, one by hand only below runs/by-hand/<profile>/... ($GMMT_RUNS
replaces `runs`). Trained trackers, named by all that made them, are the same for both.
"""

import json
import os
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gmmt import files
from gmmt.config_file import resolve_profile
from gmmt.errors import SettingError
from gmmt.provenance import git_commit, now, versions

# Accelerate imports tqdm.auto, which asks for widgets in a notebook; the bars here are plain ones.
warnings.filterwarnings("ignore", "IProgress not found")

BATCH = "GMMT_BATCH"
"""The environment variable by which the batch claims a run and says where: below runs/ ("." or a
changed parameter's folder). By hand it is not set.
"""


@dataclass(frozen=True)
class Run:
    """One run of one notebook. `folder` exists; `where` is it without this machine's paths.

    `trackers` is where this profile's and seed's trained trackers are, for all notebooks;
    `parameters` are the notebook's, but for profile and seed.
    """

    name: str
    profile: str
    seed: int
    where: str
    folder: Path = field(repr=False)
    trackers: Path = field(repr=False)
    parameters: Mapping = field(repr=False)

    def generator(self, device: str = "cpu"):
        """A new torch.Generator on `device`, seeded with this run's seed."""
        import torch  # here, so that a notebook without torch starts at once

        return torch.Generator(device).manual_seed(self.seed)

    def pick(self, *, smoke, cpu, gpu=None, paper=None):
        """The value for this run's profile; `gpu`, `paper` left out: the next smaller one given."""
        gpu = cpu if gpu is None else gpu
        paper = gpu if paper is None else paper
        return {"smoke": smoke, "cpu": cpu, "gpu": gpu, "paper": paper}[self.profile]

    def save(self, table, name: str, *, source: str) -> str:
        """Stores `table`, a tidy DataFrame, as `name` (something.csv); returns where.

        NAME.provenance.json beside it says how, with which parameters and from what it was made;
        `source` says where the numbers are from, for example "ours in miniature" or "authors' raw
        results, RGBT234". The table's index is not written, so that a named one is refused
        (SettingError).
        """
        if not re.fullmatch(r"[\w.+-]+\.csv", name):
            raise SettingError(f"run.save() wants a plain file name ending in .csv, not {name!r}.")
        if any(level is not None for level in table.index.names):
            index = list(table.index.names)
            raise SettingError(
                f"{name}: the table's index {index} would be lost. Call .reset_index() first."
            )
        provenance = {"file": name, "source": source, "notebook": self.name}
        provenance.update(profile=self.profile, seed=self.seed, parameters=dict(self.parameters))
        provenance.update(rows=len(table))
        provenance.update(made=now(), commit=git_commit(), versions=versions())
        with files.atomic_write(self.folder / name) as file:
            table.to_csv(file, index=False, lineterminator="\n")
        path = self.folder / f"{name.removesuffix('.csv')}.provenance.json"
        with files.atomic_write(path) as file:
            json.dump(provenance, file, indent=2, ensure_ascii=False)
        return f"{self.where}/{name}"

    def headline(self, text: str) -> None:
        """Stores the line that `make reproduce` shows for this notebook, such as "SR 64.7"."""
        text = str(text).strip()
        if not text or "\n" in text:
            raise SettingError(f"run.headline() wants one line of text, not {text!r}.")
        with files.atomic_write(self.folder / "headline.txt") as file:
            file.write(text + "\n")


def start(name: str, *, profile: str = "auto", seed: int = 0, **parameters) -> Run:
    """The Run that a notebook works with; prints one line that names it, and a warning under smoke.

    `parameters` are all others of the notebook. Also sets the figure style, torch's threads
    ($GMMT_THREADS, else $OMP_NUM_THREADS, else one on a CPU: where others use the cores, many are
    slower by far) and, where torch is imported, the global seed that new layers draw from.
    SettingError: a bad argument.
    """
    if not re.fullmatch(r"\w+", name):
        raise SettingError(
            "A notebook's name is its file's name without the ending, such as "
            f"01_noise_schedule, not {name!r}."
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SettingError(f"The seed is a whole number, 0 or more, not {seed!r}.")
    profile, threads = resolve_profile(profile), threads_wanted()
    base = files.ROOT or Path.cwd()
    runs = files.runs_dir()
    below, batch = f"{profile}/seed{seed}", os.environ.get(BATCH)
    # A run by hand may have any parameters: the batch must not take it for its own.
    folder = runs / (batch or "by-hand") / below / name
    if runs.is_relative_to(base):
        where = folder.relative_to(base).as_posix()
    else:
        where = f"$GMMT_RUNS/{folder.relative_to(runs).as_posix()}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "headline.txt").unlink(missing_ok=True)  # an earlier run's

    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)
        if threads or not (torch.cuda.is_available() or "OMP_NUM_THREADS" in os.environ):
            torch.set_num_threads(threads or 1)
    else:  # what torch reads when it is imported later
        os.environ["OMP_NUM_THREADS"] = str(threads or os.environ.get("OMP_NUM_THREADS", 1))
    import matplotlib.style

    matplotlib.style.use(files.resource("gmmt.mplstyle"))
    print(f"{name} · profile {profile} · seed {seed} · {where}")
    if profile == "smoke":
        print("Profile smoke only shows that all runs: words and figures describe profile cpu.")
    trackers = runs / (batch or "") / below / "trackers"
    return Run(name, profile, seed, where, folder, trackers, parameters)


def threads_wanted() -> int | None:
    """Returns $GMMT_THREADS, or None where it is not set; SettingError: no whole number above 0."""
    text = os.environ.get("GMMT_THREADS")
    if text and not re.fullmatch(r"[1-9]\d*", text):
        raise SettingError(f"GMMT_THREADS is a whole number, 1 or more, not {text!r}.")
    return int(text) if text else None
