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
from gmmt.errors import SettingError, did_you_mean
from gmmt.provenance import git_commit, now, versions

# Accelerate imports tqdm.auto, which asks for widgets in a notebook; the bars here are plain ones.
warnings.filterwarnings("ignore", "IProgress not found")

PROFILES = (
    "smoke",
    "cpu",
    "gpu",
    "paper",
)  # from the smallest to the largest; `auto` stands for one of them


@dataclass(frozen=True)
class Run:
    """One run of one notebook. `folder` exists; `where` is the same folder as people should read
    it, free of this machine's paths.
    """

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
        """Returns a new torch.Generator on `device`, seeded with this run's seed."""
        import torch  # here, so that a notebook without torch starts at once

        return torch.Generator(device).manual_seed(self.seed)

    def pick(self, *, smoke, cpu, gpu=None, paper=None):
        """Returns the value for this run's profile; `gpu` and `paper` may be left out and then take
        the next smaller one given.
        """
        gpu = cpu if gpu is None else gpu
        paper = gpu if paper is None else paper
        return {"smoke": smoke, "cpu": cpu, "gpu": gpu, "paper": paper}[self.profile]

    def save(self, table, name: str, *, source: str) -> str:
        """Returns where `table` (a tidy DataFrame) now lies; NAME.provenance.json beside it says
        how and from what it was made.

        `name` is the file's, `something.csv`; the table's index is not written, so that a named one
        is refused. `source` says where the numbers are from, for example "ours in miniature" or
        "authors' raw results, RGBT234".
        """
        if not re.fullmatch(r"[\w.+-]+\.csv", name):
            raise SettingError(
                f"run.save() wants a plain file name that ends in .csv, not {name!r}."
            )
        if any(level is not None for level in table.index.names):
            raise SettingError(
                f"{name}: the table's index {list(table.index.names)} would be lost. Call "
                ".reset_index() first."
            )
        provenance = {
            "file": name,
            "source": source,
            "notebook": self.name,
            "profile": self.profile,
            "seed": self.seed,
            "rows": len(table),
        }
        provenance |= {"made": now(), "commit": git_commit(), "versions": versions()}
        with files.atomic_write(self.folder / name) as file:
            table.to_csv(file, index=False, lineterminator="\n")
        with files.atomic_write(
            self.folder / f"{name.removesuffix('.csv')}.provenance.json"
        ) as file:
            json.dump(provenance, file, indent=2, ensure_ascii=False)
        return f"{self.where}/{name}"

    def headline(self, text: str) -> None:
        """Stores the one line that the summary table of `make reproduce` shows for this notebook,
        such as "SR 64.7".
        """
        text = str(text).strip()
        if not text or "\n" in text:
            raise SettingError(f"run.headline() wants one line of text, not {text!r}.")
        with files.atomic_write(self.folder / "headline.txt") as file:
            file.write(text + "\n")


def start(name: str, *, profile: str = "auto", seed: int = 0) -> Run:
    """Returns the Run that a notebook works with, after printing one line that names it; raises
    SettingError for a bad argument.

    Also sets the figure style, torch's threads ($GMMT_THREADS) and, where torch is imported, the
    global seed that new layers draw from.
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
    (folder / "headline.txt").unlink(missing_ok=True)  # an earlier run's headline is not this one's

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


def resolve_profile(profile: str = "auto") -> str:
    """Returns one of PROFILES: the given one, or for `auto` $GMMT_PROFILE, else gpu where CUDA is
    available, else cpu.
    """
    origin = ""
    if profile == "auto" and os.environ.get("GMMT_PROFILE"):
        profile, origin = (
            os.environ["GMMT_PROFILE"],
            " (from the environment variable GMMT_PROFILE)",
        )
    if profile == "auto":
        import torch  # the slow way, and the only one that knows

        return "gpu" if torch.cuda.is_available() else "cpu"
    if profile not in PROFILES:
        known = (
            f"Profiles are {', '.join(PROFILES)} and "
            f"auto.{did_you_mean(profile, [*PROFILES, 'auto'])}"
        )
        raise SettingError(f"There is no profile {profile!r}{origin}. {known}")
    return profile
