# The notebooks, and the rows of the miniature that they show.
#
# Every other key of --config is a parameter of notebooks (steps=3); such runs lie in a folder of
# their own, runs/steps=3/. goal=choices tries every row's plans on validation; goal=table trains
# and tests all rows of the miniature (make choices, make table). What the rules do is Python: the
# other files of this folder, and gmmt/study/.

import json
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from gmmt.errors import SettingError

sys.path.insert(0, str(Path(workflow.basedir).parent))  # the checkout
from gmmt.study import grid, miniature
from gmmt.study.stored import NOISE_STUDY
from gmmt.study.tables import TABLES
from workflow import jobs, progress, steps

try:
    JOBS = {str(job.status): job for job in jobs.plan(config)}
except SettingError as error:
    raise WorkflowError(str(error))

PROFILE = next(iter(JOBS.values())).profile
os.environ["GMMT_PROFILE"] = PROFILE  # jobs inherit it: `auto` means the same on every node

GOAL = config.get("goal", "notebooks")
TABLE = str(config.get("table", 2))
STORED = config.get("stored", str(steps.stored_folder(TABLE)))
SEEDS = sorted({job.seed for job in JOBS.values()})
GRID = (jobs.runs_dir() / PROFILE / "grid").as_posix()

# Which archives are there is looked up now and not by a rule: whatever depends on a rule that
# always runs would always run, too.
if workflow.is_main_process and GOAL == "notebooks":
    progress.forget()
    jobs.prepare(list(JOBS.values()))


def files_in(folder, pattern="*"):
    found = [path for path in sorted(Path(folder).rglob(pattern)) if path.is_file()]
    return [str(path) for path in found if "/." not in str(path)]


# What a job reads: the package (code of training, tables and verdicts, its small files), the rows'
# configurations, the choices that were made for them, and what starts it here.
CODE = [
    *files_in("gmmt", "*.py"),
    *files_in("gmmt/resources"),
    *files_in("configs"),
    *(f"workflow/{name}.py" for name in ("jobs", "notebooks", "processes", "steps")),
]
CHOICES = [path for path in files_in("notebooks/results", f"{PROFILE}-choices.csv")]
RESULTS = files_in("notebooks/results")


def arguments(wildcards, output):
    job = JOBS[output[0]]
    words = [job.name, job.profile, str(job.seed), job.folder, json.dumps(job.overrides)]
    return shlex.join(words)


def folder_of(seed):
    return (jobs.runs_dir() / PROFILE / f"seed{seed}").as_posix()


def trained(rows):
    def files(wildcards):
        names = rows(wildcards)
        folder = getattr(wildcards, "folder", None) or folder_of(wildcards.seed)
        return [f"{folder}/status/train-{name}.json" for name in names]

    return files


def tried_before(wildcards):
    base = miniature.base_of(wildcards.row)
    plans = range(len(grid.grid(base))) if base else ()
    return [f"{wildcards.folder}/status/try-{base}-{k}.json" for k in plans]


def tables_wanted():
    parts = ("", "noise-") if TABLE == "2" else ("",)
    return [f"{STORED}/{PROFILE}-{part}seed{seed}.csv" for seed in SEEDS for part in parts]


def memory(wildcards):
    """Megabytes: the package, and the training frames twice over (as drawn, and being drawn)."""
    from gmmt.data import loader

    frames = loader.frames_in_bytes(miniature.config("DM", PROFILE).data)
    return 4000 + 2 * frames // 2**20


MINUTES = {"smoke": 15, "cpu": 60, "gpu": 12 * 60, "paper": 48 * 60}[PROFILE]
ON_GPU = {"gpu": 1} if PROFILE in ("gpu", "paper") else {}


TARGETS = {
    "notebooks": list(JOBS),
    "choices": [f"{STORED}/{PROFILE}-choices.csv"],
    "table": tables_wanted(),
}[GOAL]


rule notebook:
    input:
        "notebooks/src/{name}.py",
        CODE,
        RESULTS,
        files_in("data_manifests"),
        str(jobs.runs_dir() / "data.json"),
        trained(lambda wildcards: jobs.ROWS_OF.get(wildcards.name, ())),
    output:
        "{folder}/status/{name}.json",
    log:
        # The executed notebook: Snakemake removes the outputs of a failed job, but keeps its logs.
        "{folder}/{name}.ipynb",
    params:
        arguments=arguments,
    wildcard_constraints:
        name=r"\d\d_\w+",
    threads: 4
    resources:
        mem_mb=memory,
        runtime=MINUTES,
        **ON_GPU,
    shell:
        # exec: the job is then a child of Snakemake, without a shell between, and notices when
        # Snakemake is gone.
        "exec {sys.executable:q} -m workflow run {params.arguments} {threads}"


rule train:
    # One row of the miniature's tables: loaded if this very configuration was trained before.
    input:
        CODE,
        CHOICES,
        trained(lambda wildcards: miniature.rows_before(wildcards.row)),
    output:
        "{folder}/status/train-{row}.json",
    params:
        profile=PROFILE,
        seed=lambda wildcards: Path(wildcards.folder).name.removeprefix("seed"),
    wildcard_constraints:
        row=r"[\w-]+",
    priority: 10  # the longest chain of jobs goes first
    threads: 1
    resources:
        mem_mb=memory,
        runtime=MINUTES,
        **ON_GPU,
    shell:
        "exec {sys.executable:q} -m workflow train {wildcards.row} {params.profile} {params.seed} "
        "{wildcards.folder:q}"


# What is stored is made only when it is asked for: to notebooks it is a source, and a fresh
# checkout, which lacks all that it was made from, must not make it anew.
if GOAL == "choices":

    rule try_plan:
        # One row with one plan of its grid, on validation.
        input:
            CODE,
            tried_before,
        output:
            "{folder}/status/try-{row}-{index}.json",
        wildcard_constraints:
            row=r"[\w-]+",
            index=r"\d+",
        params:
            profile=PROFILE,
        threads: 1
        resources:
            mem_mb=memory,
            runtime=120,
            **ON_GPU,
        shell:
            "exec {sys.executable:q} -m workflow try {wildcards.row} {params.profile} "
            "{wildcards.index} {wildcards.folder:q}"

    rule choose:
        input:
            CODE,
            [f"{GRID}/status/try-{name}.json" for name in grid.tries(TABLE)],
        output:
            f"{STORED}/{PROFILE}-choices.csv",
        params:
            table=TABLE,
            profile=PROFILE,
            grid=GRID,
            stored=STORED,
        shell:
            "exec {sys.executable:q} -m workflow choose {params.table} {params.profile} "
            "{params.grid:q} {params.stored:q}"


if GOAL == "table":

    rule store:
        input:
            CODE,
            CHOICES,
            trained(lambda wildcards: TABLES[TABLE].rows),
        output:
            f"{STORED}/{PROFILE}-seed{{seed}}.csv",
        wildcard_constraints:
            seed=r"\d+",
        params:
            table=TABLE,
            profile=PROFILE,
            folder=lambda wildcards: folder_of(wildcards.seed),
            stored=STORED,
        shell:
            "exec {sys.executable:q} -m workflow store {params.table} {params.profile} "
            "{wildcards.seed} {params.folder:q} {params.stored:q}"

    rule noise:
        # On validation: other noise, none, more steps.
        input:
            CODE,
            CHOICES,
            trained(lambda wildcards: sorted({row for row, _, _ in NOISE_STUDY})),
        output:
            f"{STORED}/{PROFILE}-noise-seed{{seed}}.csv",
        wildcard_constraints:
            seed=r"\d+",
        params:
            profile=PROFILE,
            folder=lambda wildcards: folder_of(wildcards.seed),
            stored=STORED,
        shell:
            "exec {sys.executable:q} -m workflow noise {params.profile} {wildcards.seed} "
            "{params.folder:q} {params.stored:q}"


onstart:
    to_run = [job for job in workflow.dag.needrun_jobs() if job.output]
    progress.note_begin([JOBS[job.output[0]] for job in to_run if job.output[0] in JOBS])


onsuccess:
    if GOAL == "notebooks":
        progress.summary(list(JOBS.values()))


onerror:
    if GOAL == "notebooks":
        progress.summary(list(JOBS.values()))
