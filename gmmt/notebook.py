"""What a notebook's set-up cell calls: profiles, seeds, and the folder that a run writes to.

    run = gmmt.notebook.start("01_noise_schedule", profile=profile, seed=seed)

A run is named by (notebook, profile, seed) and writes only below runs/<profile>/seed<k>/<notebook>/
($GMMT_RUNS replaces `runs`).
"""

import json
import os
import re
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from gmmt import files
from gmmt.config_file import resolve_profile
from gmmt.errors import SettingError
from gmmt.provenance import git_commit, now, versions

# Accelerate imports tqdm.auto, which asks for widgets in a notebook; the bars here are plain ones.
warnings.filterwarnings("ignore", "IProgress not found")


@dataclass(frozen=True)
class Run:
    """One run of one notebook. `folder` exists; `where` is it without this machine's paths."""

    name: str
    profile: str
    seed: int
    where: str
    folder: Path = field(repr=False)

    @property
    def trackers(self) -> Path:
        """Where this profile's and seed's trained trackers are, for all notebooks."""
        return self.folder.parent / "trackers"

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

        NAME.provenance.json beside it says how and from what it was made; `source` says where the
        numbers are from, for example "ours in miniature" or "authors' raw results, RGBT234". The
        table's index is not written, so that a named one is refused (SettingError).
        """
        if not re.fullmatch(r"[\w.+-]+\.csv", name):
            raise SettingError(f"run.save() wants a plain file name ending in .csv, not {name!r}.")
        if any(level is not None for level in table.index.names):
            index = list(table.index.names)
            raise SettingError(
                f"{name}: the table's index {index} would be lost. Call .reset_index() first."
            )
        provenance = {"file": name, "source": source, "notebook": self.name}
        provenance.update(profile=self.profile, seed=self.seed, rows=len(table))
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


def start(name: str, *, profile: str = "auto", seed: int = 0) -> Run:
    """The Run that a notebook works with; prints one line that names it.

    Also sets the figure style, torch's threads ($GMMT_THREADS) and, where torch is imported, the
    global seed that new layers draw from. SettingError: a bad argument.
    """
    if not re.fullmatch(r"\w+", name):
        raise SettingError(
            "A notebook's name is its file's name without the ending, such as "
            f"01_noise_schedule, not {name!r}."
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SettingError(f"The seed is a whole number, 0 or more, not {seed!r}.")
    profile = resolve_profile(profile)
    base = files.ROOT or Path.cwd()
    root = Path(os.environ.get("GMMT_RUNS") or base / "runs").expanduser().absolute()
    below = f"{profile}/seed{seed}/{name}"
    inside = root.is_relative_to(base)
    where = f"{root.relative_to(base).as_posix() if inside else '$GMMT_RUNS'}/{below}"
    folder = root / below
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "headline.txt").unlink(missing_ok=True)  # an earlier run's

    threads = os.environ.get("GMMT_THREADS")
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)
        if threads:
            torch.set_num_threads(int(threads))
    elif threads:
        os.environ["OMP_NUM_THREADS"] = threads  # what torch reads when it is imported later
    import matplotlib.style

    matplotlib.style.use(files.resource("gmmt.mplstyle"))
    print(f"{name} · profile {profile} · seed {seed} · {where}")
    return Run(name=name, profile=profile, seed=seed, where=where, folder=folder)
