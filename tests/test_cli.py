"""The command line as a user meets it: what is printed, what is written, how it ends."""

import csv
import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from gmmt.cli import app
from gmmt.data.benchmarks import ground_truth
from gmmt.data.boxes import write_results


def gmmt(*arguments, **environment):
    """Runs the command line in a process of its own."""
    command = [sys.executable, "-m", "gmmt.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | environment
    )


def run(*arguments):
    """Runs a command in this process, which is faster: what it prints."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def results(folder, scale, seed=0):
    """Results on GTOT in a folder: the ground truth, shaken."""
    rng = np.random.default_rng(seed)
    truth = ground_truth("gtot").boxes
    shaken = {}
    for name, (boxes, _) in truth.items():
        shaken[name] = boxes + rng.normal(scale=scale, size=boxes.shape)
        shaken[name][0] = boxes[0]
    write_results(shaken, folder)
    return folder


@pytest.fixture(scope="module")
def shaken(tmp_path_factory):
    return results(tmp_path_factory.mktemp("tracker") / "shaken", 2)


def test_the_version(shaken):
    from gmmt import __version__

    assert run("--version").startswith(f"gmmt {__version__}")


# --- score ----------------------------------------------------------------------------------------


def test_score_prints_a_table_with_intervals(shaken):
    done = gmmt("score", shaken, "--benchmark", "gtot", "--by", "attribute")
    assert done.returncode == 0, done.stderr
    assert "shaken on GTOT: 50 sequences, 7850 frames" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [r[0] for r in rows] == ["subset", "ALL", "OCC", "LSV", "FM", "LI", "TC", "SO", "DEF"]
    assert "[" in done.stdout


def test_out_is_a_tidy_table(shaken, tmp_path):
    options = ["--by", "attribute", "--out", tmp_path / "new" / "t.csv", "--bootstrap", 200]
    run("score", shaken, "--benchmark", "gtot", *options, "--tracker", "a name, with comma")
    rows = list(csv.DictReader((tmp_path / "new" / "t.csv").open()))
    columns = "benchmark tracker subset metric value low high n_sequences"
    assert list(rows[0]) == columns.split()
    assert len(rows) == 8 * 3
    assert {r["tracker"] for r in rows} == {"a name, with comma"}
    assert all(float(r["low"]) <= float(r["value"]) <= float(r["high"]) for r in rows)


def test_out_dash_is_standard_output_and_nothing_else(shaken, tmp_path):
    options = ["--out", "-", "--bootstrap", 0, "--plot", tmp_path / "plots"]
    rows = list(csv.DictReader(io.StringIO(run("score", shaken, "--benchmark", "gtot", *options))))
    assert [r["metric"] for r in rows] == ["PR", "NPR", "SR"]
    assert all(r["low"] == r["high"] == "" for r in rows)


def test_several_folders_are_compared_with_the_first(shaken, tmp_path):
    better = results(tmp_path / "better", 1)
    same = tmp_path / "again" / "shaken"
    shutil.copytree(shaken, same)
    text = run("score", shaken, better, same, "--benchmark", "gtot", "--tracker", "A", "--out", "-")
    rows = list(csv.DictReader(io.StringIO(text)))
    value = {(r["tracker"], r["metric"]): r for r in rows}
    trackers = ["A", "better", "better - A", "shaken", "shaken - A"]
    assert list(dict.fromkeys(r["tracker"] for r in rows)) == trackers
    for metric in ("PR", "NPR", "SR"):
        difference = value["better - A", metric]
        expected = float(value["better", metric]["value"]) - float(value["A", metric]["value"])
        assert float(difference["value"]) == pytest.approx(expected, abs=1e-5)
        assert 0 < float(difference["low"]) < expected < float(difference["high"])
        nothing = value["shaken - A", metric]
        assert [float(nothing[c]) for c in ("value", "low", "high")] == [0, 0, 0]
    printed = run("score", shaken, better, "--benchmark", "gtot")
    assert "shaken, better on GTOT" in printed
    assert "better - shaken" in printed


def test_folders_of_one_name_are_told_apart(shaken, tmp_path):
    shutil.copytree(shaken, tmp_path / "shaken")
    printed = run("score", shaken, tmp_path / "shaken", "--benchmark", "gtot", "--bootstrap", 0)
    assert f"{tmp_path / 'shaken'} - {shaken}" in printed
    done = gmmt("score", shaken, shaken, "--benchmark", "gtot")
    assert "two folders have one name" in done.stderr


def test_figures_are_written_as_png_and_svg(shaken, tmp_path):
    better = results(tmp_path / "better", 1)
    folder = tmp_path / "plots"
    options = ["--by", "attribute", "--plot", folder, "--bootstrap", 100]
    printed = run("score", shaken, better, "--benchmark", "gtot", *options)
    names = ("success", "precision", "norm_precision", "attributes")
    assert {p.name for p in folder.iterdir()} == {f"{n}.{e}" for n in names for e in ("png", "svg")}
    assert str(folder / "success.svg") in printed
    before = (folder / "success.svg").read_bytes()
    run("score", shaken, better, "--benchmark", "gtot", *options)
    assert (folder / "success.svg").read_bytes() == before


def test_results_are_not_overwritten(shaken):
    before = (shaken / "Pool.txt").read_bytes()
    for name in ("Pool.txt", "new.txt"):
        done = gmmt("score", shaken, "--benchmark", "gtot", "--out", shaken / name)
        assert done.returncode == 1
        assert "lies among the results" in done.stderr
    assert (shaken / "Pool.txt").read_bytes() == before


def test_conventions_can_be_changed_and_are_said(shaken):
    def printed(*options):
        return run("score", shaken, "--benchmark", "gtot", "--bootstrap", 0, *options)

    official, changed = printed(), printed("--set", "modality=first", "--set", "pool=sequences")
    assert "Not the official protocol" not in official
    assert "Not the official protocol: modality = first" in changed
    assert "pool = sequences" in changed
    assert official.splitlines()[3] != changed.splitlines()[3]
    explained = printed("--explain", "--set", "modality=first")
    assert "modality = first  (official: best)" in explained
    assert 'success_grid = matlab\n    how they are computed: "matlab"' in explained
    done = gmmt("score", shaken, "--benchmark", "gtot", "--set", "modality=frist")
    assert done.returncode == 1
    assert "Did you mean first?" in done.stderr


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "Pool.txt").unlink(), "Pool.txt: missing"),
        (lambda f: (f / "Pool.txt").write_text(""), "Pool.txt: the file is empty"),
        (
            lambda f: (f / "Pool.txt").write_text("1 2 3\n"),
            "Pool.txt, line 1: '1 2 3' has 3 numbers",
        ),
        (
            lambda f: (f / "Pool.txt").write_text("40 90 16 40\n" * 20),
            "'Pool' has 20 predicted boxes for 179",
        ),
        (
            lambda f: (f / "Pool.txt").rename(f / "Pol.txt"),
            "There is Pol.txt: rename it if it is Pool's",
        ),
    ],
)
def test_a_bad_folder_ends_in_one_plain_message_and_writes_nothing(
    shaken, tmp_path, break_it, message
):
    folder = tmp_path / "broken"
    shutil.copytree(shaken, folder)
    break_it(folder)
    done = gmmt("score", folder, "--benchmark", "gtot", "--out", tmp_path / "t.csv")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "t.csv").exists()


def test_lengths_can_be_chosen(shaken, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(shaken, folder)
    rows = (folder / "Pool.txt").read_text().splitlines()
    (folder / "Pool.txt").write_text("\n".join(rows[:100]))
    value = {}
    for rule in ("clip", "pad"):
        done = gmmt(
            "score",
            folder,
            "--benchmark",
            "gtot",
            "--lengths",
            rule,
            "--out",
            "-",
            "--bootstrap",
            0,
        )
        assert "warning: sequence 'Pool' has 100" in done.stderr
        value[rule] = float(next(csv.DictReader(io.StringIO(done.stdout)))["value"])
    assert value["pad"] < value["clip"]


def test_an_unknown_benchmark_or_option_is_a_usage_error(shaken):
    for arguments in (["--benchmark", "gtott"], ["--benchmark", "gtot", "--lenghts", "clip"]):
        done = gmmt("score", shaken, *arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


# --- fetch and verify -----------------------------------------------------------------------------


def test_fetch_lists_fetches_and_refuses(tmp_path):
    listed = gmmt("fetch")
    assert listed.returncode == 0
    assert "gmmt_rgbt234" in listed.stdout
    done = gmmt("fetch", "gmmt_rgbt", GMMT_DATA=str(tmp_path))
    assert done.returncode == 1
    assert "gmmt_rgbt234" in done.stderr
    (tmp_path / "mirror").mkdir()
    done = gmmt("fetch", "gmmt_gtot", "--mirror", tmp_path / "mirror", "--data", tmp_path / "data")
    assert done.returncode == 1
    assert "mirror" in done.stderr
    assert "Traceback" not in done.stderr


def test_fetch_verify_and_score_the_authors_results(shared, tmp_path):
    data = ["--data", tmp_path / "data"]
    done = gmmt("fetch", "gmmt_gtot", "--mirror", shared / "data", *data)
    assert done.returncode == 0, done.stderr
    assert gmmt("verify", "gmmt_gtot", *data).returncode == 0
    done = gmmt("score", tmp_path / "data" / "gmmt_gtot", "--benchmark", "gtot")
    assert "93.6" in done.stdout
    assert "78.5" in done.stdout
    victim = next((tmp_path / "data" / "gmmt_gtot").rglob("Pool.txt"))
    victim.unlink()
    assert gmmt("verify", "gmmt_gtot", *data).returncode == 1
