"""What a batch has to do: which notebooks, with which parameters, from which data."""

import ast
import contextlib
import os
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gmmt.config_file import resolve_profile
from gmmt.data import manifest
from gmmt.errors import GmmtError, SettingError, did_you_mean
from gmmt.files import data_dir, read_json, write_json

SOURCES = Path("notebooks/src")
OWN_KEYS = {"profile", "seed", "seeds", "goal", "stored", "table"}
"""The Snakefile's own configuration; every other key is a parameter of notebooks."""
ROWS_OF = {
    "06_trackers": ("RGB", "TIR", "Base", "DM"),
    "07_two_stages": ("RGB", "TIR", "Base", "HEAD", "RAW", "DM"),
    "08_table_2": ("RGB", "TIR", "Base", "HEAD", "RAW", "CGAN", "DM"),
    "09_transformers": ("OSTrack", "ViPT", "TBSI", "TBSI-DM"),
}
"""Which rows of the miniature's table (gmmt/study/miniature.py) a notebook shows; they are trained
before it runs, several at a time.
"""
PLAIN_TYPES = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,)}


@dataclass(frozen=True)
class Job:
    """One notebook to run; `folder` is its runs/<profile>/seed<k>."""

    name: str
    profile: str
    seed: int
    folder: str
    overrides: dict

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}" if self.seed else self.name

    @property
    def executed(self) -> Path:
        """The executed notebook."""
        return Path(self.folder, f"{self.name}.ipynb")

    @property
    def status(self) -> Path:
        """What says how a run went; it is there only if all went well."""
        return Path(self.folder, "status", f"{self.name}.json")

    @property
    def failed(self) -> Path:
        """The same of a run that failed."""
        return self.status.with_suffix(".failed.json")


def runs_dir() -> Path:
    """Returns the folder of all runs, $GMMT_RUNS or `runs` in the checkout."""
    return Path(os.environ.get("GMMT_RUNS") or "runs").expanduser()


def plan(config: dict) -> list[Job]:
    """Returns the jobs that a configuration asks for; raises SettingError for a profile, seed or
    parameter that cannot be.
    """
    profile = resolve_profile(str(config.get("profile", "auto")))
    seeds = str(config.get("seeds", config.get("seed", 0))).strip("[]").split(",")
    for seed in seeds:
        if not re.fullmatch(r"\s*\d+\s*", seed):
            raise SettingError(
                f"A seed is a whole number, 0 or more (several with commas: 0,1,2), not {seed!r}."
            )
    overrides = {key: value for key, value in config.items() if key not in OWN_KEYS}
    known = {name: parameters(name) if overrides else {} for name in notebook_names()}
    for key, value in overrides.items():
        kinds = {own[key] for own in known.values() if key in own}
        if not kinds:
            every = sorted({parameter for own in known.values() for parameter in own} - OWN_KEYS)
            raise SettingError(
                f"No notebook has a parameter {key!r}. There are: "
                f"{', '.join(every)}.{did_you_mean(key, every)}"
            )
        if not any(type(value) in PLAIN_TYPES.get(kind, (type(value),)) for kind in kinds):
            raise SettingError(
                f"The parameter {key} is of type {' or '.join(sorted(kinds))}, and {value!r} "
                "is not."
            )

    def job(name: str, seed: int) -> Job:
        # A changed parameter has a folder of its own, runs/steps=3, so that no result is taken for
        # another. A notebook that does not know the parameter is not changed by it, and stays where
        # it is.
        own = {key: value for key, value in sorted(overrides.items()) if key in known[name]}
        variant = re.sub(
            r"[^\w.,=+-]", "_", ",".join(f"{key}={value}" for key, value in own.items())
        )
        return Job(
            name, profile, seed, (runs_dir() / variant / profile / f"seed{seed}").as_posix(), own
        )

    return [job(name, seed) for seed in sorted(set(map(int, seeds))) for name in known]


def notebook_names() -> list[str]:
    """Returns the names of all notebooks, in order."""
    names = sorted(path.stem for path in SOURCES.glob("[0-9]*.py"))
    if not names:
        raise SettingError(
            f"There are no notebooks: expected {SOURCES}/NN_slug.py below the folder that "
            "this is called from."
        )
    return names


def parameters(name: str) -> dict[str, str]:
    """Returns the type of each parameter in a notebook's parameters cell."""
    import jupytext
    import papermill

    found = papermill.inspect_notebook(jupytext.read(SOURCES / f"{name}.py"))
    return {key: value["inferred_type_name"] for key, value in found.items()}


def overrides_in(text: str) -> dict:
    """Returns the parameters in "steps=3 lam=0.1", with their values as Python reads them; what it
    cannot read is text.
    """
    found = {}
    for word in shlex.split(text):
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier() or key in OWN_KEYS:
            raise SettingError(
                'PARAMS holds parameters of notebooks (PARAMS="steps=3 lam=0.1"), not '
                f"{word!r}; PROFILE and SEED stand alone."
            )
        found[key] = value
        with contextlib.suppress(ValueError, SyntaxError):
            found[key] = ast.literal_eval(value)
    return found


def prepare(jobs: list[Job]) -> None:
    """Brings what the graph looks at up to date: which archives there are, and no status of a run
    whose files were removed or changed.
    """
    refresh_data_state()
    for job in jobs:
        if not is_untouched(job):
            job.status.unlink(missing_ok=True)


def is_untouched(job: Job) -> bool:
    """Returns whether a run's files are there, each with the bytes that the batch noted."""
    try:
        noted = read_json(job.status)["files"].items()
        return all(manifest.sha256(Path(job.folder, file)) == digest for file, digest in noted)
    except (OSError, TypeError, KeyError, AttributeError):
        return False  # a file, or the record itself, is gone, damaged or of an older form


def refresh_data_state() -> None:
    """Fetches what a program may fetch, and writes down what is there: only when that changed, so
    that notebooks rerun just then.
    """

    def is_there(name: str) -> bool:
        try:
            if entries[name].kind == "images" and not os.environ.get(
                "GMMT_MIRROR"
            ):  # large: only from a folder beside
                return (data_dir() / name / manifest.STAMP).is_file()
            return bool(manifest.fetch(name, progress=False))
        except (GmmtError, OSError):
            return False  # no network, or not in the mirror: the notebooks say what they leave out

    try:
        entries = {name: entry for name, entry in manifest.load_all().items() if entry.automatic}
    except GmmtError as error:
        print(f"No data is fetched: {error}", flush=True)
        entries = {}
    with ThreadPoolExecutor(8) as pool:
        state = dict(zip(entries, pool.map(is_there, entries), strict=True))
    if read_json(runs_dir() / "data.json") != state:
        write_json(runs_dir() / "data.json", state)
