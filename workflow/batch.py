"""Notebooks in batch: what the Makefile and the Snakefile call to plan, run, refresh and sum up.
Needs the extra `lab`.

python -m workflow.batch reproduce --profile smoke --seeds 0,1 --jobs 2     # make reproduce python
-m workflow.batch reproduce --goal table --seeds 0,1 --jobs 2        # make table: all rows of the
miniature, scored on test python -m workflow.batch reproduce --goal choices --jobs 2
# make choices: the grid on validation python -m workflow.batch refresh --jobs 2
# make notebooks
"""

import argparse
import ast
import contextlib
import json
import os
import re
import shlex
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gmmt.errors import GmmtError, SettingError, did_you_mean
from gmmt.files import atomic_write, data_dir
from gmmt.notebook import resolve_profile
from gmmt.provenance import git_commit, now, versions

SOURCES = Path("notebooks/src")
PROGRESS = Path(".snakemake/gmmt-progress.jsonl")
"""What this batch has done: a line with the jobs that have to run, then one for each that ended."""
STORED = {"2": Path("notebooks/results/miniature"), "6": Path("notebooks/results/miniature_vit")}
"""Where choices and the scores of finished seeds are kept, for each table in miniature: 2 of the
paper, 6 of its supplement.
"""
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
STEPS = {
    "train": ("name", "profile", "seed", "folder"),
    "try": ("name", "profile", "index", "folder"),
    "choose": ("table", "profile", "folder", "stored"),
    "store": ("table", "profile", "seed", "folder", "stored"),
    "noise": ("profile", "seed", "folder", "stored"),
}
"""What the Snakefile calls beside notebooks, with its arguments."""
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
    return Path(os.environ.get("GMMT_RUNS") or "runs")


# --- before anything runs -------------------------------------------------------------------------


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


def base_of(name: str) -> str:
    """Returns the row on which a row of stage 2 stands; "" for others."""
    from gmmt.study.miniature import ALL_ROWS, TRACKERS

    row = ALL_ROWS[name]
    return TRACKERS[row.tracker]["1.2"] if row.mode == "stage2" else ""


def rows_before(name: str) -> tuple[str, ...]:
    """Returns the rows that must be trained before a row of the miniature."""
    from gmmt.study.miniature import ALL_ROWS

    if ALL_ROWS[name].mode == "base":
        return ("RGB", "TIR") if ALL_ROWS[name].tracker == "siamese" else ("OSTrack",)
    return tuple(filter(None, [base_of(name)]))


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


def prepare(jobs: list[Job]) -> None:
    """Brings what the graph looks at up to date: which archives there are, and no status of a run
    whose files were removed.
    """
    PROGRESS.unlink(missing_ok=True)
    refresh_data_state()
    for job in jobs:
        record = read_json(job.status)
        if record and not all(Path(job.folder, file).is_file() for file in record["files"]):
            job.status.unlink()


def refresh_data_state() -> None:
    """Fetches what a program may fetch, and writes down what is there: only when that changed, so
    that notebooks rerun just then.
    """
    from gmmt.data import manifest

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


# --- one notebook ---------------------------------------------------------------------------------


def this_python():
    """Returns the kernel manager class that starts the very Python that runs this.

    A kernel called python3 is looked up in $JUPYTER_PATH first and, outside virtual environments,
    in the user's folder next, and may be another Python; here nothing is looked up. A kernel that
    can encrypt its sockets is asked to, or ipykernel warns at every start.
    """
    import zmq
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class ThisPython(AsyncKernelManager):
        kernel_spec = KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

        @default("transport_encryption")
        def _transport_encryption(self):
            return "auto" if zmq.has("curve") else "disabled"

    return ThisPython


def run_notebook(job: Job, threads: int) -> bool:
    """Returns whether a notebook ran to its end. What it executed is kept either way, and status/
    says how it went.
    """
    import jupytext
    import papermill
    from papermill.exceptions import PapermillExecutionError

    print(f"start  {job}", flush=True)
    set_environment(threads, GMMT_RUNS=str(Path(job.folder).parents[1].absolute()))
    own_folder = Path(job.folder, job.name)
    own_folder.mkdir(parents=True, exist_ok=True)
    job.failed.unlink(missing_ok=True)
    started, clock, error, report = now(), time.monotonic(), "", ""
    try:
        papermill.execute_notebook(
            jupytext.read(SOURCES / f"{job.name}.py"),
            job.executed,
            parameters={"profile": job.profile, "seed": job.seed, **job.overrides},
            # what a notebook writes by a relative path at least lands among its own
            cwd=own_folder,
            progress_bar=False,
            kernel_name="python3",
            kernel_manager_class=this_python(),
        )
    except PapermillExecutionError as stop:
        error, report = (
            f"{stop.ename}: {stop.evalue}",
            f"{job} failed in cell In [{stop.exec_count}]:\n" + tail("\n".join(stop.traceback)),
        )
    except Exception as stop:  # a kernel that died, for want of memory for example
        error, report = f"{type(stop).__name__}: {stop}", f"{job} broke off:\n" + tail(str(stop))
        add_banner(job.executed, error)
    seconds = round(time.monotonic() - clock, 1)
    headline = own_folder / "headline.txt"
    record = {
        "status": "failed" if error else "ok",
        "notebook": job.name,
        "profile": job.profile,
        "seed": job.seed,
    }
    record |= {
        "parameters": job.overrides,
        "started": started,
        "seconds": seconds,
        "threads": threads,
        "error": last_line(error),
    }
    record |= {
        "headline": headline.read_text(encoding="utf-8").strip() if headline.is_file() else ""
    }
    record |= {"commit": git_commit(), "versions": versions()}
    files = [job.executed, *sorted(own_folder.rglob("*"))]
    record |= {
        "files": [path.relative_to(job.folder).as_posix() for path in files if path.is_file()]
    }
    write_json(job.failed if error else job.status, record)
    print(
        f"{note_end(job, ok=not error)} {'FAILED ' * bool(error)}{job}  {duration(seconds)}  "
        f"(total {total_time()})",
        flush=True,
    )
    if error:
        print(f"\n{report}\nKept as far as it got, with the error: {job.executed}\n", flush=True)
    return not error


# --- rows of the miniature ------------------------------------------------------------------------


def one_thread() -> None:
    """Holds this process to one thread: with maps of 16 x 16, two processes of one thread do more
    than one of two.
    """
    set_environment(1)
    import torch

    torch.set_num_threads(1)


def train_row(name: str, profile: str, seed: int, folder: str) -> None:
    """Trains a row of the miniature and tracks its videos, so that notebooks find both done."""
    one_thread()
    from gmmt.study import miniature

    print(f"start  train {name}, seed {seed}", flush=True)
    clock, where = time.monotonic(), Path(folder, "trackers")
    row = miniature.train(name, profile, seed, where)
    for split in ("val", "test"):
        miniature.results(row, profile, split, where)
    write_json(
        Path(folder, "status", f"train-{name}.json"),
        {"row": name, "key": row.key, "seconds": round(time.monotonic() - clock, 1)},
    )
    print(f"       train {name}, seed {seed}  {duration(time.monotonic() - clock)}", flush=True)


GRID = ((1.0, 1e-3), (0.1, 1e-3), (10.0, 1e-3), (1.0, 5e-4), (1.0, 2e-3))
"""(lam, rate) that every row is offered, written down before any was tried; Base, ViPT and TBSI,
without lam, twice these rates.
"""
GRID_SEED = 1000
"""Seed of the trainings behind the choice; no number in a table comes from them."""


def grid(name: str) -> tuple[dict[str, float], ...]:
    """Returns the plans that a row is offered, {"lam": ..., "rate": ...} each; those of stage 2
    stand on the Base that was chosen.
    """
    from gmmt.study.miniature import ALL_ROWS

    row = ALL_ROWS[name]
    if row.mode == "base" and not row.longer:
        return tuple({"rate": 2 * rate} for lam, rate in GRID if lam == 1)
    if row.mode != "stage2":
        return ()
    alone = row.variant in ("", "TRK")
    return tuple(
        {"lam": 0.0 if alone else lam, "rate": rate} for lam, rate in GRID if lam == 1 or not alone
    )


def score_rows(name: str, whole, by_attribute: dict) -> list[dict]:
    """Returns rows for a CSV from one tracker's scores (`metrics.Scores`): each sequence, whole and
    over the frames of each attribute.
    """
    found = []
    for subset, scores in {"ALL": whole, **by_attribute}.items():
        for k, sequence in enumerate(scores.sequences):
            values = {m: float(f"{v[k]:.6g}") for m, v in scores.values.items()}
            found.append(
                {
                    "row": name,
                    "subset": subset,
                    "sequence": sequence,
                    "frames": int(scores.n_frames[k]),
                    **values,
                }
            )
    return found


def write_scores(
    rows: list[dict], path: Path, profile: str, seed: int, videos: list, split: str = "test"
) -> None:
    """Writes a seed's scores as CSV. The first line names what they were measured on; nothing in
    the file depends on when or where.
    """
    import pandas as pd

    from gmmt.data.synthetic import fingerprint

    with atomic_write(path) as file:
        file.write(
            f"# miniature, profile {profile}, seed {seed}, {split} videos {fingerprint(videos)}\n"
        )
        pd.DataFrame(rows).to_csv(file, index=False, lineterminator="\n")


def try_plan(name: str, profile: str, index: int, folder: str) -> None:
    """Trains a row with one plan of its grid, and writes its scores on validation beside it."""
    one_thread()
    from gmmt.study import miniature

    clock, where, plan = time.monotonic(), Path(folder, "trackers"), grid(name)[index]
    before = base_of(name)
    base = best_base(before, folder) if before else plan
    print(f"start  try {name} {plan}", flush=True)
    row = miniature.train(name, profile, GRID_SEED, where, plan=plan, base_plan=base)
    found = score_rows(name, *miniature.scores(row, profile, "val", where))
    found = [plan | r for r in found if r["subset"] == "ALL"]
    write_json(Path(folder, "status", f"try-{name}-{index}.json"), {"key": row.key, "rows": found})
    print(f"       try {name} {plan}  {duration(time.monotonic() - clock)}", flush=True)


def best_base(name: str, folder: str) -> dict:
    """Returns the plan of a Base with the highest SR on validation, on which all plans of stage 2
    are tried.
    """

    def sr(k: int) -> float:
        rows = read_json(Path(folder, "status", f"try-{name}-{k}.json"))["rows"]
        return sum(row["SR"] for row in rows) / len(rows)

    plans = grid(name)
    return plans[max(range(len(plans)), key=sr)]


def rows_of(table: str) -> list[str]:
    """Returns the names of all rows of a table in miniature: "2", on the Siamese tracker; "6", on
    trackers with a ViT.
    """
    from gmmt.study import miniature

    return [name for name in miniature.ALL_ROWS if (name in miniature.ROWS) == (table == "2")]


def tries(table: str) -> list[str]:
    """Returns the names of all plans of a table's rows: "RAW-0", ..."""
    return [f"{name}-{k}" for name in rows_of(table) for k in range(len(grid(name)))]


def choose(table: str, profile: str, folder: str, stored: str) -> None:
    """Writes what every plan scored on validation, and which one each row keeps: the highest SR."""
    import pandas as pd

    from gmmt.data import synthetic
    from gmmt.study import miniature

    records = {name: read_json(Path(folder, "status", f"try-{name}.json")) for name in tries(table)}
    videos = miniature.sequences(profile, "val")
    kept = ("lam", "rate", "row", "sequence", "SR")  # what choosing looks at
    every = [{k: row.get(k) for k in kept} for record in records.values() for row in record["rows"]]
    write_scores(every, Path(stored, "validation.csv"), profile, GRID_SEED, videos, split="val")
    log = (
        pd.DataFrame(every)
        .groupby(["row", "lam", "rate"], sort=False, dropna=False)["SR"]
        .mean()
        .round(6)
        .reset_index()
    )
    log["chosen"] = log.index.isin(log.groupby("row")["SR"].idxmax())
    log = log.assign(
        split="val",
        videos=synthetic.fingerprint(videos),
        seed=GRID_SEED,
        key=[r["key"] for r in records.values()],
    )
    with atomic_write(Path(stored, "choices.csv")) as file:
        log.to_csv(file, index=False, lineterminator="\n")
    note_provenance(
        Path(stored, "choices.json"),
        profile,
        {name: r["key"] for name, r in records.items()},
        table,
    )


def store_seed(table: str, profile: str, seed: int, folder: str, stored: str) -> None:
    """Writes the scores of a table's rows of a seed on test, and beside them how they were made."""
    one_thread()
    from gmmt.study import miniature

    found, keys, where = [], {}, Path(folder, "trackers")
    for name in rows_of(table):
        row = miniature.train(name, profile, seed, where)
        whole, by_attribute = miniature.scores(row, profile, "test", where)
        found += score_rows(
            name, whole, by_attribute if table == "2" else {}
        )  # what no notebook reads is not kept
        keys[name] = row.key
    write_scores(
        found,
        Path(stored, f"{profile}-seed{seed}.csv"),
        profile,
        seed,
        miniature.sequences(profile, "test"),
    )
    note_provenance(Path(stored, f"{profile}-seed{seed}.json"), profile, keys, table)
    print(f"       seed {seed} is stored in {stored}", flush=True)


NOISE_STUDY = (
    *(("DM", 1, z) for z in (None, *range(10))),
    *(("DM", steps, 0) for steps in (2, 5, 10)),
    *((name, 1, z) for name in ("CGAN", "NOISE", "DM-random") for z in (None, 0)),
)
"""What is tracked on validation without training anew: row, sampling steps s, and the seed of the
noise (None: zeros in its place).
"""


def study_noise(profile: str, seed: int, folder: str, stored: str) -> None:
    """Writes what a seed's generators score on validation with other noise, none, and more
    steps.
    """
    one_thread()
    from gmmt.study import miniature

    found, where = [], Path(folder, "trackers")
    for name, steps, z in NOISE_STUDY:
        row = miniature.train(name, profile, seed, where)
        whole, _ = miniature.scores(row, profile, "val", where, steps=steps, seed=z)
        own = {"row": name, "steps": steps, "z": "none" if z is None else z}
        found += [own | {k: r[k] for k in ("sequence", "SR")} for r in score_rows(name, whole, {})]
    videos = miniature.sequences(profile, "val")
    write_scores(
        found, Path(stored, f"{profile}-noise-seed{seed}.csv"), profile, seed, videos, split="val"
    )
    print(f"       noise of seed {seed} is stored in {stored}", flush=True)


def note_provenance(path: Path, profile: str, keys: dict, table: str) -> None:
    """Writes what a stored file was made from: configuration, commit, device, versions."""
    import torch

    from gmmt.study import miniature

    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    )
    chosen = {name: plan for name, plan in miniature.choices().items() if name in rows_of(table)}
    record = {
        "profile": profile,
        "code": miniature.code_hash(),
        "configurations": keys,
        "choices": chosen,
    }
    write_json(
        path,
        record | {"made": now(), "commit": git_commit(), "device": device, "versions": versions()},
    )


def add_banner(path: Path, error: str) -> None:
    """Puts the error at the head of a kept notebook whose kernel died, since no cell of it holds
    one.
    """
    import nbformat

    if path.is_file():
        nb = nbformat.read(path, as_version=4)
        nb.cells.insert(0, nbformat.v4.new_markdown_cell(f"**This run broke off:** {error}"))
        nbformat.write(nb, path)


def set_environment(threads: int, **variables: str) -> None:
    """Sets what kernels inherit from this process."""
    for name in ("GMMT_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # threads that spin while they wait bring a shared machine to a halt
    os.environ.pop(
        "MPLBACKEND", None
    )  # a setting of the shell would keep figures out of the notebook
    os.environ.update(variables)


def stop_with_parent() -> None:
    """Ends this process when the Snakemake that started it is gone, as its kernel does: no orphan
    may write into a later run's files.
    """
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# --- notebooks in place ---------------------------------------------------------------------------


def refresh(name: str) -> bool:
    """Returns whether notebooks/NAME.ipynb could be made anew from its text form, executed as it
    stands.
    """
    import jupytext
    import nbformat
    from jupytext.config import load_jupytext_config
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    source, target, kept = (
        SOURCES / f"{name}.py",
        SOURCES.parent / f"{name}.ipynb",
        Path("runs", "failed", f"{name}.ipynb"),
    )
    nb, clock = jupytext.read(source, config=load_jupytext_config(str(source))), time.monotonic()
    if target.is_file() and target.stat().st_mtime > source.stat().st_mtime + 1:
        stored = nbformat.read(target, as_version=4)
        if [cell.source.strip() for cell in stored.cells] != [
            cell.source.strip() for cell in nb.cells
        ]:
            print(
                f"{target} is newer than {source} and differs. Keep its text: jupytext --sync "
                f"{target}; or drop it: touch {source}"
            )
            return False
    kept.parent.mkdir(parents=True, exist_ok=True)
    options = {
        "resources": {"metadata": {"path": str(kept.parent)}},
        "record_timing": False,
        "coalesce_streams": True,
    }
    try:
        NotebookClient(
            nb, kernel_name="python3", kernel_manager_class=this_python(), **options
        ).execute()
    except (CellExecutionError, RuntimeError) as error:
        nbformat.write(nb, kept)
        print(
            f"FAILED {name}:\n{tail(str(error))}\nKept as far as it got: {kept}; {target} is "
            "as it was.",
            flush=True,
        )
        return False
    # What jupytext itself would store, and nothing that changes from run to run or machine to
    # machine, so that a diff shows what changed.
    nb.metadata.get("jupytext", {}).pop("text_representation", None)
    nb.metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    nb.metadata["language_info"].pop("version", None)
    for index, cell in enumerate(nb.cells, start=1):
        cell["id"] = f"cell-{index:02d}"
    nbformat.validate(nb)
    with atomic_write(target) as file:
        nbformat.write(nb, file)
    os.utime(source)  # the text form leads: JupyterLab refuses a pair whose .ipynb is newer
    print(f"{name}  {duration(time.monotonic() - clock)}", flush=True)
    return True


def refresh_all(names: list[str], at_a_time: int) -> int:
    """Returns the exit status of executing notebooks in place, the ones named or all of them."""
    every = notebook_names()
    for name in names:
        if name not in every:
            raise SettingError(
                f"There is no notebook {name!r} in {SOURCES}.{did_you_mean(name, every)}"
            )
    refresh_data_state()
    set_environment(
        int(os.environ.get("GMMT_THREADS") or max(1, cores() // at_a_time)), GMMT_PROFILE="cpu"
    )
    with ThreadPoolExecutor(at_a_time) as pool:
        return 0 if all(list(pool.map(refresh, names or every))) else 1


# --- the whole batch ------------------------------------------------------------------------------


def reproduce(config: dict, at_a_time: int) -> int:
    """Returns the exit status of a whole batch. Snakemake runs in this very process, so that who
    kills the one kills both.
    """
    jobs = plan(config)
    config["profile"] = jobs[0].profile  # `auto` is settled once, here
    threads = max(1, cores() // at_a_time)
    # Snakemake's own lock outlives a kill, only_one() does not.
    options = [
        "--nolock",
        "--rerun-incomplete",
        "--keep-going",
        "--scheduler",
        "greedy",
        "--cores",
        str(threads * at_a_time),
    ]
    options += [
        "--set-threads",
        f"notebook={threads}",
        "--config",
        *(f"{key}={json.dumps(value)}" for key, value in config.items()),
    ]
    with only_one():
        code = snakemake([*options, "--quiet", "all"])
        if (
            config["goal"] == "notebooks" and not PROGRESS.exists()
        ):  # nothing was started: all is up to date, or Snakemake has a say
            summary(jobs) if code == 0 else snakemake(options)
    return code


def snakemake(arguments: list[str]) -> int:
    """Returns the exit status of Snakemake, run within this process."""
    from snakemake.cli import main

    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@contextlib.contextmanager
def only_one():
    """Keeps a second batch in the same checkout waiting until the first has ended."""
    import fcntl

    PROGRESS.parent.mkdir(exist_ok=True)
    with open(PROGRESS.with_name("gmmt.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(
                "Another batch is at work in this folder; waiting for it to end (Ctrl-C gives up).",
                flush=True,
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def note_begin(to_run: list[Job]) -> None:
    """Begins the record of what this batch does; the Snakefile calls it when it knows which
    notebooks have to run.
    """
    write_json(
        PROGRESS, {"to_run": [str(job.status) for job in to_run], "began": time.time()}, indent=None
    )


def note_end(job: Job, ok: bool) -> str:
    """Returns "[2/4]", which of how many jobs has ended, after adding this one to the record."""
    line = json.dumps({"ended": str(job.status), "ok": ok})
    PROGRESS.parent.mkdir(exist_ok=True)
    with open(PROGRESS, "a", encoding="utf-8") as file:
        file.write(line + "\n")  # one short write, so that the lines of parallel jobs do not mix
    begin, ends = read_progress()
    return f"[{list(ends).index(str(job.status)) + 1}/{len(begin['to_run'])}]"


def total_time() -> str:
    """Returns the time since this batch began."""
    return duration(time.time() - read_progress()[0]["began"])


def read_progress() -> tuple[dict, dict[str, bool]]:
    """Returns the record's first line, and for each job that ended whether it went well."""
    lines = (
        [json.loads(line) for line in PROGRESS.read_text(encoding="utf-8").splitlines()]
        if PROGRESS.exists()
        else []
    )
    begin = next((line for line in lines if "to_run" in line), {"to_run": [], "began": time.time()})
    return begin, {line["ended"]: line["ok"] for line in lines if "ended" in line}


def summary(jobs: list[Job]) -> None:
    """Prints a line for each notebook, and where the files are."""
    begin, ends = read_progress()
    rows, notes = [("notebook", "status", "time", "headline")], []
    for job in jobs:
        record = read_json(job.status) or read_json(job.failed) or {"headline": "", "error": ""}
        if str(job.status) not in begin["to_run"]:
            status = "up to date"
        elif str(job.status) in ends:
            status = "ok" if ends[str(job.status)] else "FAILED"
        else:
            status = "not run"
        if status == "FAILED":
            notes.append(f"{job} is kept as far as it got, with the error: {job.executed}")
        text = textwrap.shorten(record["error"] or record["headline"], 90, placeholder=" ...")
        rows.append(
            (str(job), status, duration(record["seconds"]) if "seconds" in record else "", text)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    print()
    for name, status, took, text in rows:
        print(f"{name:{widths[0]}}  {status:{widths[1]}}  {took:>{widths[2]}}  {text}".rstrip())
    notes.append(
        "Executed notebooks, and what they wrote: "
        f"{', '.join(sorted({job.folder for job in jobs}))}"
    )
    print("", *notes, sep="\n", flush=True)


def duration(seconds: float) -> str:
    """Returns a time as people write it: 0.4 s, 41 s, 1 min 12 s, 2 h 5 min."""
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def tail(text: str, lines: int = 20) -> str:
    """Returns the last lines of an error's text, indented, without terminal colours."""
    return textwrap.indent(
        "\n".join(re.sub(r"\x1b\[[\d;]*m", "", text).rstrip().splitlines()[-lines:]), "    "
    )


def last_line(text: str) -> str:
    """Returns the last line of a text that may be empty."""
    return (text.strip().splitlines() or [""])[-1]


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_json(path: Path) -> dict | None:
    """Returns what a JSON file holds, or None if it is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: dict, indent: int | None = 2) -> None:
    """Writes a JSON file in one step."""
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


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


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status of a command: 2 where a setting was refused before anything ran."""
    parser = argparse.ArgumentParser(
        prog="python -m workflow.batch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("reproduce", help="run what is missing or stale")
    command.add_argument("--profile", default="auto")
    command.add_argument("--seeds", default="0", help="0, or several with commas: 0,1,2")
    command.add_argument(
        "--goal",
        default="notebooks",
        choices=("notebooks", "choices", "table"),
        help="what to make",
    )
    command.add_argument(
        "--table",
        default="2",
        choices=[*STORED],
        help="which table's rows: 2 (Siamese), 6 (trackers with a ViT)",
    )
    command.add_argument("--stored", help="where choices and tables are kept")
    command.add_argument(
        "--params", default="", help='parameters of notebooks to change: "steps=3 lam=0.1"'
    )
    command.add_argument("--jobs", default="2", help="how many notebooks run at a time")
    command = commands.add_parser("refresh", help="execute notebooks in place")
    command.add_argument("names", nargs="*", help="such as 01_noise_schedule; all without one")
    command.add_argument("--jobs", default="2")
    command = commands.add_parser("run", help="one notebook, for the Snakefile")
    for option in ("name", "profile", "seed", "folder", "overrides", "threads"):
        command.add_argument(option)
    for name, options in STEPS.items():
        command = commands.add_parser(
            name, help=f"{name} (profile, folder, ...), for the Snakefile"
        )
        for option in options:
            command.add_argument(option)
    given = parser.parse_args(arguments)
    try:
        if given.command == "run":
            stop_with_parent()
            job = Job(
                given.name,
                given.profile,
                int(given.seed),
                given.folder,
                json.loads(given.overrides),
            )
            return 0 if run_notebook(job, int(given.threads)) else 1
        if given.command in STEPS:
            stop_with_parent()
            kinds = {"seed": int, "index": int}
            step = {
                "train": train_row,
                "try": try_plan,
                "choose": choose,
                "store": store_seed,
                "noise": study_noise,
            }[given.command]
            step(
                *(kinds.get(option, str)(getattr(given, option)) for option in STEPS[given.command])
            )
            return 0
        if not re.fullmatch(r"[1-9]\d*", given.jobs):
            raise SettingError(f"JOBS is a whole number, 1 or more, not {given.jobs!r}.")
        if given.command == "reproduce":
            own = {
                "profile": given.profile,
                "seeds": given.seeds,
                "goal": given.goal,
                "table": given.table,
            }
            own |= {"stored": given.stored or STORED[given.table].as_posix()}
            return reproduce(own | overrides_in(given.params), int(given.jobs))
        return refresh_all(given.names, int(given.jobs))
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    from workflow import batch  # the module by its own name, as the Snakefile imports it

    sys.exit(batch.main())
