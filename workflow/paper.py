"""What the graph of the paper's tables (paper.smk) asks for: rows, their options, their time."""

import re
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path

from gmmt import config_file, files
from gmmt.errors import SettingError, did_you_mean
from gmmt.study import full_run
from workflow.jobs import runs_dir

BENCHMARKS = ("lasher", "rgbt234", "gtot")
WEIGHTS = ("tbsi", "ostrack", "resnet50")
OWN_KEYS = {"goal", "profile", "seeds", "rows", "benchmarks", "part", *BENCHMARKS, *WEIGHTS}
ROWS = (
    *("siamese", "siamese_raw_unet", "siamese_cgan_unet", "siamese_gmmt_unet"),
    *("vipt", "vipt_gmmt_unet", "vipt_gmmt_uvit"),
    *("tbsi", "tbsi_gmmt_unet", "tbsi_gmmt_uvit"),
)
"""Those of the paper's Tables 1 and 2 and the supplement's Table 6."""
SLACK = 3
"""How much longer than computed a training may take before a cluster ends it."""


@dataclass(frozen=True)
class Plan:
    """A batch of the paper's rows."""

    config: dict
    profile: str
    seeds: tuple[int, ...]
    rows: tuple[str, ...]
    benchmarks: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Where the batch writes."""
        return (runs_dir() / self.profile).as_posix()

    def data_options(self, benchmark: str) -> str:
        """Returns the options of gmmt that name a data set's folder."""
        words = []
        if benchmark in self.config:
            words += ["--root", str(self.config[benchmark])]
        if self.config.get("part"):
            words.append("--part")
        return shlex.join(words)

    def row_options(self, row: str, seed: int | str) -> str:
        """Returns the options of gmmt that name a row."""
        words = ["--config", (files.config_dir() / "paper" / f"{row}.yaml").as_posix()]
        words += ["--profile", self.profile, "--seed", str(seed)]
        if "lasher" in self.config:
            words += ["--set", f"data.root={self.config['lasher']}"]
        if self.config.get("part"):
            words += ["--set", "data.part=true"]
        start = self.load(row).start
        if start is not None and start.kind in self.config:
            words += ["--set", f"start.file={self.config[start.kind]}"]
        return shlex.join(words)

    def load(self, row: str):
        """Returns a row's configuration."""
        with warnings.catch_warnings():  # a GPU need not be here, but where a job will run
            warnings.filterwarnings("ignore", "profile .* without CUDA")
            return config_file.load(files.config_dir() / "paper" / f"{row}.yaml", self.profile)

    def files_of(self, row: str) -> list[str]:
        """Returns the files in which a row's configuration stands: its own, and all bases."""
        folder = files.config_dir() / "paper"
        return [(folder / f"{row}.yaml").as_posix(), *map(str, sorted(folder.glob("_*.yaml")))]

    def trained_before(self, wildcards) -> list[str]:
        """Returns the status of the row that a row of stage 2 stands on, if that is trained."""
        config = self.load(wildcards.row)
        before = config.until(config.stages[-1]) if config.stages else ()
        if config.mode != "stage2" or not before:
            return []
        base = config.names[before[-1]]
        return [f"{wildcards.folder}/seed{wildcards.seed}/status/train-{base}"]

    def minutes(self, row: str) -> int:
        """Returns for how long a cluster should lend a GPU to train a row, and to track LasHeR."""
        hours = sum(line.hours for line in full_run.stages(self.load(row)))
        return round(60 * SLACK * (hours + full_run.tracking_hours("lasher")))


def plan(config: dict) -> Plan:
    """Returns what a configuration asks for. SettingError: a key, row, benchmark or seed that is
    not known.
    """
    for key in config:
        if key not in OWN_KEYS:
            raise SettingError(
                f"goal=paper has no key {key!r}; expected some of {', '.join(sorted(OWN_KEYS))}."
                f"{did_you_mean(key, OWN_KEYS)}"
            )
    rows = _listed(config, "rows", ROWS, [p.stem for p in _files()])
    benchmarks = _listed(config, "benchmarks", BENCHMARKS, BENCHMARKS)
    seeds = str(config.get("seeds", 0)).split(",")
    if not all(re.fullmatch(r"\s*\d+\s*", seed) for seed in seeds):
        raise SettingError(f"seeds are whole numbers with commas (0,1,2), not {config['seeds']!r}")
    profile = str(config.get("profile", "paper"))
    if profile not in config_file.PROFILES:
        raise SettingError(
            f"There is no profile {profile!r}; expected one of {', '.join(config_file.PROFILES)}"
        )
    return Plan(config, profile, tuple(map(int, seeds)), rows, benchmarks)


def _files() -> list[Path]:
    return sorted((files.config_dir() / "paper").glob("[!_]*.yaml"))


def _listed(config: dict, key: str, default, known) -> tuple[str, ...]:
    """Returns the names that a key lists with commas."""
    if key not in config:
        return tuple(default)
    names = tuple(str(config[key]).replace(" ", "").split(","))
    for name in names:
        if name not in known:
            raise SettingError(
                f"{key}: there is no {name!r}; expected some of {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
    return names
