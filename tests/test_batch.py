"""Batch runs: what is refused, what runs, what is kept, what is not run again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import notebook_lint as lint
import psutil
import pytest

from gmmt.results import RAW
from gmmt.study.tables import ALL_ROWS
from workflow import jobs, progress
from workflow.__main__ import main
from workflow.progress import duration

ROOT = Path(__file__).resolve().parents[1]


def in_example(*changes: tuple[str, str]):
    """Returns an edit of the example notebook's text: what is replaced, and by what."""
    assert all(old in lint.EXAMPLE for old, _ in changes)

    def edit(text: str) -> str:
        for old, new in changes:
            text = text.replace(old, new)
        return text

    return edit


PLACE = "it's a test/ünï code/gmmt"
"""A folder that must be quoted wherever a shell reads it: in a cloud's drive there are such."""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project of two small notebooks, with a copy of the package and no data to fetch; it is the
    current folder.
    """
    tmp_path = tmp_path / PLACE
    for folder in ("gmmt", "workflow", "configs"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    lint.write_example(tmp_path, "01_first")
    other = in_example(("steps: int = 5", "T: float = 0.5"), ("steps=steps", "T=T"))
    lint.write_example(tmp_path, "02_second", edit=other)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(
        "PYTHONPATH", str(tmp_path)
    )  # for this project's own gmmt, in the batch and in its kernels
    for name in ("GMMT_MIRROR", "GMMT_BATCH"):
        monkeypatch.delenv(name, raising=False)
    # Someone has registered another Python as the kernel python3; it must not be used.
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(
        json.dumps(
            {
                "argv": ["/bin/false", "{connection_file}"],
                "display_name": "Another",
                "language": "python",
            }
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    return tmp_path


def command(*arguments: str) -> list[str]:
    """Returns the command of `make reproduce PROFILE=smoke` with more arguments."""
    return [sys.executable, "-m", "workflow", "reproduce", "--profile", "smoke", *arguments]


def reproduce(*arguments: str) -> tuple[int, str, dict[str, str]]:
    """Returns exit status, output, and the final table's status for each notebook."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)
    output = done.stdout + done.stderr
    table = output[output.rfind("\nnotebook") :].split("\n\n")[0].splitlines()[2:]
    words = ("ok", "up to date", "FAILED", "not run")
    return (
        done.returncode,
        output,
        {
            line.split("  ")[0]: next(word for word in words if f"  {word}" in line)
            for line in table
        },
    )


# -- What is refused, before anything runs ---------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--profile", "cpuu"],
            "There is no profile 'cpuu'. Profiles are smoke, cpu, gpu, paper and auto. Did "
            "you mean cpu?",
        ),
        (["--profile", ""], "There is no profile ''"),
        (["--seeds", "x"], "A seed is a whole number, 0 or more"),
        (["--seeds=-1"], "A seed is a whole number"),
        (["--seeds", "1.5"], "A seed is a whole number"),
        (["--seeds", "0,,1"], "A seed is a whole number"),
        (
            ["--params", "stepz=3"],
            "No notebook has a parameter 'stepz'. There are: T, steps. Did you mean steps?",
        ),
        (["--params", "steps"], "not 'steps'"),
        (["--params", "seed=3"], "PROFILE and SEED stand alone"),
        (["--params", "steps=many"], "The parameter steps is of type int, and 'many' is not."),
        (["--params", "steps=True"], "The parameter steps is of type int, and True is not."),
        (["--jobs", "0"], "JOBS is a whole number, 1 or more"),
        (["--jobs", "two"], "JOBS is a whole number, 1 or more"),
    ],
)
def test_refused(project, capsys, arguments, message):
    assert (
        main(
            ["reproduce", *([] if "--profile" in arguments else ["--profile", "smoke"]), *arguments]
        )
        == 2
    )
    assert message in capsys.readouterr().err
    assert not (project / "runs").exists()


def test_stored_results_are_a_source_and_never_made_anew(tmp_path):
    """In a fresh checkout everything that they were made from is missing."""
    for folder in ("gmmt", "workflow", "configs", "notebooks/src", "notebooks/results"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    snakemake = [
        sys.executable,
        "-m",
        "snakemake",
        "--dry-run",
        "--cores",
        "2",
        "--config",
        "profile=cpu",
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "GMMT_DATA": str(tmp_path / "data")}
    done = subprocess.run(
        snakemake, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment
    )
    counts = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE))
    rows = {row for rows in jobs.ROWS_OF.values() for row in rows}
    expected = {
        "all": 1,
        "notebook": len(list((ROOT / "notebooks/src").glob("[0-9]*.py"))),
        "train": len(rows),
    }
    assert counts == {
        name: str(n) for name, n in (expected | {"total": sum(expected.values())}).items()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A copy of the project in which everything seems to have been made already."""
    folder = tmp_path_factory.mktemp("finished")
    for name in ("gmmt", "workflow", "configs", "notebooks/src", "notebooks/results"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "data_manifests"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    status = folder / "runs/cpu/seed0/status"
    status.mkdir(parents=True)
    for name in [p.stem for p in (folder / "notebooks/src").glob("[0-9]*.py")]:
        (status / f"{name}.json").write_text('{"files": {}}')
    for row in ALL_ROWS:
        (status / f"train-{row}.json").write_text("{}")
    would_run(folder)  # writes down which archives there are
    return folder


def would_run(folder: Path, *config: str) -> dict[str, int]:
    """Returns how often each rule would run, of a graph whose files are as old as they are."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2", "--config"]
    command += ["profile=cpu", *config]
    env = os.environ | {"PYTHONPATH": str(folder), "GMMT_DATA": str(folder / "data")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE)
    return {name: int(n) for name, n in counts if name not in ("total", "all")}


def age(folder: Path, path: str) -> None:
    """Makes everything old, what was made newer than what it was made from, and one file new."""
    for file in (p for p in folder.rglob("*") if p.is_file() and ".snakemake" not in p.parts):
        made = "runs" in file.parts or file.name.startswith("cpu-")
        os.utime(file, (1e9 + made, 1e9 + made))
    if path:
        os.utime(folder / path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("", {}),
        ("gmmt/study/claims.py", {"notebook", "train"}),
        ("configs/miniature/_common.yaml", {"notebook", "train"}),
        ("notebooks/results/miniature/cpu-choices.csv", {"notebook", "train"}),
        ("notebooks/results/miniature/cpu-seed0.csv", {"notebook"}),
        ("workflow/steps.py", {"notebook", "train"}),
    ],
)
def test_a_change_reruns_what_reads_it(finished, changed, expected):
    age(finished, changed)
    found = would_run(finished)
    assert set(found) == set(expected)
    if "notebook" in expected:
        assert found["notebook"] == len(list((finished / "notebooks/src").glob("[0-9]*.py")))
    if "train" in expected:
        assert found["train"] == len({row for rows in jobs.ROWS_OF.values() for row in rows})


@pytest.mark.slow
def test_another_choice_reruns_a_stored_table_when_that_is_asked_for(finished):
    age(finished, "notebooks/results/miniature/cpu-choices.csv")
    expected = {"train": 15, "store": 1, "noise": 1}
    assert would_run(finished, "goal=table", "table=2") == expected


def test_refused_by_snakemake_itself(project):
    snakemake = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "1",
        "--config",
        "profile=smoke",
        "stepz=3",
    ]
    done = subprocess.run(snakemake, capture_output=True, text=True)
    assert done.returncode != 0
    assert "No notebook has a parameter 'stepz'" in done.stdout + done.stderr
    assert not (project / "runs").exists()


def test_a_folder_without_notebooks_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "--profile", "smoke"]) == 2
    assert "There are no notebooks" in capsys.readouterr().err


# -- What is planned -------------------------------------------------------------------------------


def test_plan(project):
    found = jobs.plan({"profile": "smoke", "seeds": "2,0"})
    assert [(job.name, job.seed) for job in found] == [
        ("01_first", 0),
        ("02_second", 0),
        ("01_first", 2),
        ("02_second", 2),
    ]
    assert found[0].status == Path("runs/smoke/seed0/status/01_first.json")
    assert (
        jobs.plan({"profile": "smoke", "seeds": [0, 2]})
        == jobs.plan({"profile": "smoke", "seeds": "0,2"})
        == found
    )
    assert jobs.plan({"profile": "smoke", "seed": 2}) == found[2:]


def test_a_changed_parameter_concerns_only_those_that_know_it(project):
    first, second = jobs.plan({"profile": "smoke", "steps": 7})
    assert (first.folder, first.overrides) == ("runs/steps=7/smoke/seed0", {"steps": 7})
    assert (second.folder, second.overrides) == ("runs/smoke/seed0", {})
    assert jobs.plan({"profile": "smoke", "T": 1})[1].overrides == {
        "T": 1
    }  # a whole number will do for a float


def test_data_state_changes_only_with_the_data(project, monkeypatch):
    jobs.refresh_data_state()
    before = Path("runs/data.json").stat()
    jobs.refresh_data_state()
    assert Path("runs/data.json").stat().st_mtime_ns == before.st_mtime_ns


# -- What runs, what is kept, what is not run again ------------------------------------------------


@pytest.mark.slow
def test_batch(project):
    lint.write_example(
        project, "03_broken", edit=in_example(("mean = sum(x)", "mean = missing(x)"))
    )
    folder = project / "runs" / "smoke" / "seed0"

    # A failing notebook: the others run, it is kept with its error, all is told, and the exit
    # status says it.
    status, output, table = reproduce()
    assert (status != 0, table) == (
        True,
        {"01_first": "ok", "02_second": "ok", "03_broken": "FAILED"},
    ), output
    assert "mean 3.0" in output  # the headline
    assert "NameError: name 'missing' is not defined" in output
    assert "with the error: runs/smoke/seed0/03_broken.ipynb" in output
    assert "without encryption" not in output
    kept = nbformat.read(folder / "03_broken.ipynb", as_version=4)
    assert "An Exception was encountered at" in kept.cells[0].source
    assert any(out.output_type == "error" for cell in kept.cells for out in cell.get("outputs", []))
    assert not (folder / "status" / "03_broken.json").exists()
    assert (
        json.loads((folder / "status" / "03_broken.failed.json").read_text())["error"]
        == "NameError: name 'missing' is not defined"
    )
    record = json.loads((folder / "status" / "01_first.json").read_text())
    assert (record["status"], record["headline"], record["seed"]) == ("ok", "mean 3.0", 0)
    executed = nbformat.read(folder / "01_first.ipynb", as_version=4)
    assert any(
        "injected-parameters" in lint.tags(cell) and 'profile = "smoke"' in cell.source
        for cell in executed.cells
    )

    # Mended: only this one runs. Then nothing has to.
    lint.write_example(project, "03_broken")
    status, output, table = reproduce()
    assert (status, table) == (
        0,
        {"01_first": "up to date", "02_second": "up to date", "03_broken": "ok"},
    ), output
    assert not (folder / "status" / "03_broken.failed.json").exists()
    status, output, table = reproduce()
    assert (status, set(table.values())) == (0, {"up to date"}), output

    # What was removed is made again, by itself; a file that was touched but is the same changes
    # nothing.
    (folder / "02_second.ipynb").unlink()
    (folder / "03_broken" / "headline.txt").unlink()
    (project / "notebooks" / "src" / "01_first.py").touch()
    status, output, table = reproduce()
    assert (status, table) == (
        0,
        {"01_first": "up to date", "02_second": "ok", "03_broken": "ok"},
    ), output

    # Changed code of the package makes everything stale; a changed parameter only makes a new run
    # of what knows it.
    with open(project / "gmmt" / "errors.py", "a", encoding="utf-8") as file:
        file.write("# A change.\n")
    status, output, table = reproduce("--params", "T=2", "--jobs", "3")
    assert (status, set(table.values())) == (0, {"ok"}), output
    assert "T = 2" in (project / "runs" / "T=2" / "smoke" / "seed0" / "02_second.ipynb").read_text()
    assert not (project / "runs" / "T=2" / "smoke" / "seed0" / "01_first.ipynb").exists()


SAVES = (
    "run.headline(",
    """import pandas
run.save(pandas.DataFrame({"mean": [mean]}), "mean.csv", source="the example")
run.headline(""",
)
"""The example, with a table that it saves."""


def by_hand(project: Path, notebook: str, *arguments: str, **environment: str) -> None:
    """Runs a stored notebook as a person does, with papermill alone."""
    out = project / "by_hand.ipynb"
    command = [sys.executable, "-m", "papermill", notebook, str(out), *arguments]
    env = {name: value for name, value in os.environ.items() if name != "JUPYTER_PATH"}
    done = subprocess.run(command, env=env | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_by_hand_lies_beside_the_batchs(project):
    ipynb, source = lint.write_example(project, "01_first", edit=in_example(SAVES))
    nbformat.write(jupytext.read(source), ipynb)
    assert reproduce()[0] == 0
    folder = project / "runs" / "smoke" / "seed0"
    batchs = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    provenance = json.loads((folder / "01_first" / "mean.provenance.json").read_text())
    assert provenance["parameters"] == {"steps": 5}

    by_hand(project, str(ipynb), "-p", "steps", "7", GMMT_PROFILE="smoke")
    beside = project / "runs" / "by-hand" / "smoke" / "seed0" / "01_first"
    provenance = json.loads((beside / "mean.provenance.json").read_text())
    assert provenance["parameters"] == {"steps": 7}
    runs = str(project / "runs")  # who sets it does not make the run the batch's
    by_hand(project, str(ipynb), "-p", "profile", "cpu", "-p", "seed", "3", GMMT_RUNS=runs)
    assert (project / "runs" / "by-hand" / "cpu" / "seed3" / "01_first" / "mean.csv").is_file()

    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == batchs
    status, output, table = reproduce()
    assert (status, set(table.values())) == (0, {"up to date"}), output

    # What a person changed of the batch's own is made anew, and nothing else.
    (folder / "01_first" / "mean.csv").write_text("mean\n9.0\n")
    status, output, table = reproduce()
    assert (status, table) == (0, {"01_first": "ok", "02_second": "up to date"}), output
    assert (folder / "01_first" / "mean.csv").read_text() == "mean\n3.0\n"


@pytest.mark.parametrize(
    "record", [None, "{", "[]", "{}", '{"files": ["01_first.ipynb"]}', '{"files": {"gone": "0"}}']
)
def test_a_record_without_its_files_is_dropped(project, record):
    (job, _) = jobs.plan({"profile": "smoke"})
    if record is not None:
        job.status.parent.mkdir(parents=True)
        job.status.write_text(record, encoding="utf-8")
    jobs.prepare([job])
    assert not job.status.exists()


@pytest.mark.slow
def test_runs_and_python_may_lie_anywhere(project, monkeypatch):
    """In a folder of a drive, named from the home folder; Python's name has a blank as well."""
    (project / "my venv").symlink_to(sys.prefix)
    python = project / "my venv" / Path(sys.executable).relative_to(sys.prefix)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.setenv("GMMT_RUNS", "~/My Drive/gmmt's runs")
    status, output, table = reproduce("--params", "T=2")
    assert (status, set(table.values())) == (0, {"ok"}), output
    runs = project / "My Drive" / "gmmt's runs"
    for folder, name in ((runs, "01_first"), (runs / "T=2", "02_second")):
        executed = nbformat.read(folder / "smoke" / "seed0" / f"{name}.ipynb", as_version=4)
        told = "".join(
            out.text for cell in executed.cells for out in cell.get("outputs", []) if "text" in out
        )
        where = "/".join(["My Drive/gmmt's runs", *folder.relative_to(runs).parts])
        assert f"{name} · profile smoke · seed 0 · {where}/smoke/seed0/{name}\n" in told
    assert not (project / "runs").exists()


def test_whatever_may_hold_a_path_is_quoted():
    """In the commands of the graph; what needs no quotes is named here."""
    paths = sorted((ROOT / "workflow").glob("*.smk"))
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    commands = re.findall(r"shell:\n((?: +(?:#|\"|f\").*\n)+)", text)
    assert len(commands) == text.count("shell:") == 10
    plain = {"threads", "params.profile", "params.seed", "params.table", "wildcards.seed"}
    plain |= {"wildcards.row", "wildcards.index", "params.arguments"}  # the last by shlex.join
    plain |= {"GMMT", "params.options", "params.data", "wildcards.benchmark"}  # by shlex, or words
    assert set(re.findall(r"{([\w.]+)}", "".join(commands))) == plain


def started(project: Path, interrupts: signal.Handlers) -> subprocess.Popen:
    """Returns a batch of one notebook that takes five seconds, in a process group of its own."""
    slow = in_example(("mean = sum(x)", "import time; time.sleep(5)\nmean = sum(x)"))
    lint.write_example(project, "01_first", edit=slow)
    (project / "notebooks" / "src" / "02_second.py").unlink()
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, interrupts)
    batch = subprocess.Popen(command(), start_new_session=True, **options)
    assert "start  01_first" in batch.stdout.readline()
    time.sleep(1.5)  # its kernel is at work now
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "interrupted", "Ctrl-C"])
def test_a_stopped_batch_leaves_nothing_in_the_way(project, how):
    """`kill -9` and `kill -INT` reach the batch alone, Ctrl-C its jobs as well."""
    batch = started(project, signal.SIG_DFL)
    below = psutil.Process(batch.pid).children(recursive=True)
    assert len(below) >= 2  # the job and its kernel
    if how == "Ctrl-C":
        os.killpg(batch.pid, signal.SIGINT)
    else:
        batch.send_signal(signal.SIGKILL if how == "killed" else signal.SIGINT)
    assert psutil.wait_procs(below, timeout=10)[1] == []  # no orphan goes on writing
    output = batch.communicate(timeout=10)[0]
    if how != "killed":
        assert batch.returncode == 130
        told = "Interrupted. What has ended is kept: run the same command to go on."
        assert output.strip() == told
    status, output, table = reproduce()
    assert (status, table) == (0, {"01_first": "ok"}), output
    executed = nbformat.read("runs/smoke/seed0/01_first.ipynb", as_version=4)
    assert executed.metadata.papermill["exception"] is None


@pytest.mark.slow
def test_in_the_background_of_a_script_ctrl_c_is_meant_for_others(project):
    batch = started(project, signal.SIG_IGN)
    os.killpg(batch.pid, signal.SIGINT)
    output = batch.communicate(timeout=60)[0]
    assert batch.returncode == 0, output


@pytest.mark.slow
def test_a_dead_kernel_is_told(project):
    lint.write_example(
        project,
        "01_first",
        edit=in_example(("mean = sum(x)", "import os; os._exit(9)\nmean = sum(x)")),
    )
    (project / "notebooks" / "src" / "02_second.py").unlink()
    status, output, table = reproduce()
    assert (status != 0, table) == (True, {"01_first": "FAILED"}), output
    assert (
        "This run broke off"
        in nbformat.read("runs/smoke/seed0/01_first.ipynb", as_version=4).cells[0].source
    )


def test_raw_results_that_could_not_be_had_are_named(no_downloads, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    jobs.refresh_data_state()
    progress.summary([])
    lines = capsys.readouterr().out.splitlines()
    (told,) = [line for line in lines if line.startswith("Raw results that could not be had")]
    for archive in (*RAW, "gmmt_rgbd1k"):
        assert archive in told
    assert "roadscene" not in told  # large, and never fetched unasked
    state = json.loads(Path("runs/data.json").read_text())
    Path("runs/data.json").write_text(json.dumps(dict.fromkeys(state, True)))
    progress.summary([])
    assert "could not be had" not in capsys.readouterr().out


# -- Notebooks in place ----------------------------------------------------------------------------


@pytest.mark.slow
def test_refresh(project, capsys):
    pair = project / "notebooks" / "02_second.ipynb", project / "notebooks" / "src" / "02_second.py"
    assert lint.check_pair(*pair) != []  # its ipynb is still the unedited example
    assert main(["refresh", "02_second"]) == 0
    assert lint.check_pair(*pair) == []
    text = pair[0].read_text(encoding="utf-8")
    assert "injected" not in text
    assert "profile cpu" in text
    assert main(["refresh", "02_second"]) == 0
    assert pair[0].read_text(encoding="utf-8") == text  # the same source gives the same file
    subprocess.run(
        [sys.executable, "-m", "jupytext", "--quiet", "--sync", str(pair[0])], check=True
    )
    assert pair[0].read_text(encoding="utf-8") == text  # and jupytext has nothing to add to it

    pair[1].write_text(
        pair[1].read_text(encoding="utf-8").replace("mean = sum(x)", "mean = missing(x)"),
        encoding="utf-8",
    )
    assert main(["refresh", "02_second"]) == 1
    assert "name 'missing' is not defined" in capsys.readouterr().out
    assert pair[0].read_text(encoding="utf-8") == text  # a failure leaves the good one alone

    later = time.time() + 60
    os.utime(pair[0], (later, later))
    assert main(["refresh", "02_second"]) == 1
    assert (
        "is newer than" in capsys.readouterr().out
    )  # somebody edited the ipynb: not thrown away unasked
    assert main(["refresh", "02_secnod"]) == 2
    assert "Did you mean 02_second?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (41, "41 s"),
        (59.7, "1 min 0 s"),
        (72, "1 min 12 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
