"""What a batch has done so far: written down by its jobs, told at the end."""

import json
import re
import textwrap
import time
from pathlib import Path

from gmmt.data import manifest
from gmmt.files import read_json, write_json
from workflow.jobs import Job, runs_dir

PROGRESS = Path(".snakemake/gmmt-progress.jsonl")
"""What this batch has done: a line with the jobs that have to run, then one for each that ended."""


def forget() -> None:
    """Drops the record of an earlier batch."""
    PROGRESS.unlink(missing_ok=True)


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
    if lacking := archives_lacking():
        notes.append(
            "Raw results that could not be had (no network, and no mirror with them): "
            f"{', '.join(lacking)}. Notebooks that show them took what is stored in the project, "
            "and say so."
        )
    notes.append(
        "Executed notebooks, and what they wrote: "
        f"{', '.join(sorted({job.folder for job in jobs}))}"
    )
    print("", *notes, sep="\n", flush=True)


def archives_lacking() -> list[str]:
    """Returns the archives of raw results that were not there when this batch began."""
    state = read_json(runs_dir() / "data.json") or {}
    lacking = [name for name, is_there in state.items() if not is_there]
    return [name for name in lacking if manifest.load(name).kind == "results"]


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
