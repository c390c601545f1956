"""Notebooks in batch: what the Makefile and the Snakefile call. Needs the extra `lab`.

python -m workflow reproduce --profile smoke --seeds 0,1 --jobs 2     # make reproduce
python -m workflow reproduce --goal table --seeds 0,1 --jobs 2        # make table
python -m workflow reproduce --goal choices --jobs 2                  # make choices
python -m workflow refresh --jobs 2                                   # make notebooks
"""

import argparse
import contextlib
import json
import re
import sys

from gmmt.errors import SettingError
from gmmt.files import write_json
from gmmt.study.tables import TABLES
from workflow.jobs import Job, overrides_in, plan
from workflow.notebooks import refresh_all, run_notebook
from workflow.processes import cores, stop_when_interrupted, stop_with_parent
from workflow.progress import PROGRESS, summary
from workflow.steps import STEPS, run_step, stored_folder

CONFIG = PROGRESS.with_name("gmmt-config.json")
"""What Snakemake is asked to make."""


def reproduce(config: dict, at_a_time: int) -> int:
    """Returns the exit status of a whole batch. Snakemake runs in this very process, so that who
    kills the one kills both.
    """
    jobs = plan(config)
    config["profile"] = jobs[0].profile  # `auto` is settled once, here
    threads = max(1, cores() // at_a_time)
    # Snakemake's own lock outlives a kill, only_one() does not.
    options = ["--nolock", "--rerun-incomplete", "--keep-going", "--scheduler", "greedy"]
    options += ["--cores", str(threads * at_a_time), "--set-threads", f"notebook={threads}"]
    with only_one():
        # In a file, since on the command line Snakemake refuses names of one letter, in silence.
        write_json(CONFIG, config)
        options += ["--configfile", str(CONFIG)]
        code = snakemake([*options, "--quiet", "all"])
        if config["goal"] == "notebooks" and not PROGRESS.exists():
            # Nothing was started: all is up to date, or Snakemake has a say.
            if code == 0:
                summary(jobs)
            else:
                snakemake(options)
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


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status of a command: 2 where a setting was refused before anything ran."""
    parser = argparse.ArgumentParser(
        prog="python -m workflow",
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
        choices=[*TABLES],
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
            run_step(given.command, vars(given))
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
            own |= {"stored": given.stored or stored_folder(given.table).as_posix()}
            return reproduce(own | overrides_in(given.params), int(given.jobs))
        return refresh_all(given.names, int(given.jobs))
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    stop_when_interrupted()
    sys.exit(main())
