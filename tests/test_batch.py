"""Batch runs: what is refused, what runs, what is kept, what is not run again; and what a
notebook's set-up cell gets.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import notebook_lint as lint
import psutil
import pytest

import gmmt.notebook
from gmmt.config_file import resolve_profile
from gmmt.errors import SettingError
from gmmt.study.tables import ALL_ROWS
from workflow import jobs
from workflow.__main__ import main
from workflow.progress import duration

ROOT = Path(__file__).resolve().parents[1]


def in_example(old: str, new: str):
    """Returns an edit of the example notebook's text."""
    assert old in lint.EXAMPLE
    return lambda text: text.replace(old, new)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project of two small notebooks, with a copy of the package and no data to fetch; it is the
    current folder.
    """
    for folder in ("gmmt", "workflow", "configs"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    lint.write_example(tmp_path, "01_first")
    lint.write_example(tmp_path, "02_second", edit=in_example("steps: int = 5", "lam: float = 0.5"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(
        "PYTHONPATH", str(tmp_path)
    )  # for this project's own gmmt, in the batch and in its kernels
    monkeypatch.delenv("GMMT_MIRROR", raising=False)
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
            "No notebook has a parameter 'stepz'. There are: lam, steps. Did you mean steps?",
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
        (status / f"{name}.json").write_text('{"files": []}')
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
    assert jobs.plan({"profile": "smoke", "lam": 1})[1].overrides == {
        "lam": 1
    }  # a whole number will do for a float


def test_data_state_changes_only_with_the_data(project, monkeypatch):
    jobs.refresh_data_state()
    before = Path("runs/data.json").stat()
    jobs.refresh_data_state()
    assert Path("runs/data.json").stat().st_mtime_ns == before.st_mtime_ns


# -- What runs, what is kept, what is not run again ------------------------------------------------


@pytest.mark.slow
def test_batch(project):
    lint.write_example(project, "03_broken", edit=in_example("mean = sum(x)", "mean = missing(x)"))
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
    status, output, table = reproduce("--params", "lam=2", "--jobs", "3")
    assert (status, set(table.values())) == (0, {"ok"}), output
    assert (
        "lam = 2"
        in (project / "runs" / "lam=2" / "smoke" / "seed0" / "02_second.ipynb").read_text()
    )
    assert not (project / "runs" / "lam=2" / "smoke" / "seed0" / "01_first.ipynb").exists()


@pytest.mark.slow
def test_a_killed_batch_leaves_nothing_in_the_way(project):
    lint.write_example(
        project,
        "01_first",
        edit=in_example("mean = sum(x)", "import time; time.sleep(5)\nmean = sum(x)"),
    )
    (project / "notebooks" / "src" / "02_second.py").unlink()
    killed = subprocess.Popen(
        command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert "start  01_first" in killed.stdout.readline()
    time.sleep(1.5)  # its kernel is at work now
    below = psutil.Process(killed.pid).children(recursive=True)
    assert len(below) >= 2  # the job and its kernel
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert psutil.wait_procs(below, timeout=10)[1] == []  # no orphan goes on writing
    status, output, table = reproduce()
    assert (status, table) == (0, {"01_first": "ok"}), output
    assert (
        nbformat.read("runs/smoke/seed0/01_first.ipynb", as_version=4).metadata.papermill[
            "exception"
        ]
        is None
    )


@pytest.mark.slow
def test_a_dead_kernel_is_told(project):
    lint.write_example(
        project,
        "01_first",
        edit=in_example("mean = sum(x)", "import os; os._exit(9)\nmean = sum(x)"),
    )
    (project / "notebooks" / "src" / "02_second.py").unlink()
    status, output, table = reproduce()
    assert (status != 0, table) == (True, {"01_first": "FAILED"}), output
    assert (
        "This run broke off"
        in nbformat.read("runs/smoke/seed0/01_first.ipynb", as_version=4).cells[0].source
    )


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


# -- What a notebook's set-up cell gets ------------------------------------------------------------


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """The folder of all runs."""
    monkeypatch.setenv("GMMT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def test_start(runs, capsys):
    run = gmmt.notebook.start("01_x", profile="smoke", seed=3)
    told = "01_x · profile smoke · seed 3 · $GMMT_RUNS/smoke/seed3/01_x\n"
    assert capsys.readouterr().out == told
    assert run.folder == runs / "smoke" / "seed3" / "01_x"
    assert run.folder.is_dir()
    assert str(runs) not in repr(run)


def test_start_names_no_path_of_this_machine(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gmmt.notebook.files, "ROOT", tmp_path)
    gmmt.notebook.start("01_x", profile="smoke")
    assert capsys.readouterr().out.endswith(" · runs/smoke/seed0/01_x\n")
    monkeypatch.setattr(gmmt.notebook.files, "ROOT", None)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    gmmt.notebook.start("01_x", profile="smoke")
    assert capsys.readouterr().out.endswith(" · runs/smoke/seed0/01_x\n")
    assert (tmp_path / "elsewhere" / "runs" / "smoke" / "seed0" / "01_x").is_dir()


def test_generators_are_seeded(runs):
    torch = pytest.importorskip("torch")
    run = gmmt.notebook.start("01_x", profile="smoke", seed=5)
    assert torch.equal(
        torch.rand(3, generator=run.generator()), torch.rand(3, generator=run.generator())
    )
    assert torch.initial_seed() == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "smokey"}, "Did you mean smoke?"),
        ({"profile": "smoke", "seed": -1}, "whole number, 0 or more"),
        ({"profile": "smoke", "seed": True}, "whole number, 0 or more"),
        ({"profile": "smoke", "seed": "0"}, "whole number, 0 or more"),
        ({"name": "../x", "profile": "smoke"}, "without the ending"),
    ],
)
def test_start_refuses(runs, arguments, message):
    with pytest.raises(SettingError, match=message.replace("?", r"\?")):
        gmmt.notebook.start(**{"name": "01_x", **arguments})
    assert not runs.exists()


def test_profile_from_the_environment(monkeypatch):
    monkeypatch.setenv("GMMT_PROFILE", "paper")
    assert resolve_profile("auto") == "paper"
    assert resolve_profile("cpu") == "cpu"
    monkeypatch.setenv("GMMT_PROFILE", "papr")
    with pytest.raises(
        SettingError, match=r"environment variable GMMT_PROFILE.*Did you mean paper"
    ):
        resolve_profile("auto")


@pytest.mark.parametrize(
    ("profile", "short", "full"), [("smoke", 1, 1), ("cpu", 2, 2), ("gpu", 2, 3), ("paper", 2, 4)]
)
def test_pick(runs, profile, short, full):
    run = gmmt.notebook.start("01_x", profile=profile)
    assert run.pick(smoke=1, cpu=2) == short
    assert run.pick(smoke=1, cpu=2, gpu=3, paper=4) == full
    with pytest.raises(TypeError, match="tpu"):
        run.pick(smoke=1, cpu=2, tpu=3)


def test_save(runs):
    pandas = pytest.importorskip("pandas")
    run = gmmt.notebook.start("01_x", profile="smoke")
    table = pandas.DataFrame({"steps": [1, 2], "mse": [0.5, 0.1]})
    assert (
        run.save(table, "steps.csv", source="ours in miniature")
        == "$GMMT_RUNS/smoke/seed0/01_x/steps.csv"
    )
    pandas.testing.assert_frame_equal(pandas.read_csv(run.folder / "steps.csv"), table)
    provenance = json.loads((run.folder / "steps.provenance.json").read_text(encoding="utf-8"))
    assert (
        provenance["source"],
        provenance["profile"],
        provenance["seed"],
        provenance["rows"],
    ) == ("ours in miniature", "smoke", 0, 2)
    assert {"gmmt", "python", "numpy"} <= set(provenance["versions"])
    with pytest.raises(SettingError, match="reset_index"):
        run.save(table.set_index("steps"), "other.csv", source="ours")
    for name in ("steps", "a/b.csv", "../steps.csv"):
        with pytest.raises(SettingError, match="plain file name"):
            run.save(table, name, source="ours")


def test_headline(runs):
    run = gmmt.notebook.start("01_x", profile="smoke")
    run.headline("SR 64.7")
    assert (run.folder / "headline.txt").read_text(encoding="utf-8") == "SR 64.7\n"
    with pytest.raises(SettingError, match="one line"):
        run.headline("two\nlines")
    gmmt.notebook.start("01_x", profile="smoke")
    assert not (run.folder / "headline.txt").exists()  # an earlier run's is not this one's


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
