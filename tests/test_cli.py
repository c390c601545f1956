"""The command line as a user meets it: what is printed, what is written, how it ends."""

import csv
import io
import subprocess
import sys

import numpy as np
import pytest

from gmmt.data.benchmarks import ground_truth


def gmmt(*arguments, **environment):
    """Runs the command line in a process of its own."""
    import os

    command = [sys.executable, "-m", "gmmt.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | environment
    )


@pytest.fixture(scope="module")
def shaken(tmp_path_factory):
    """Results on GTOT: the ground truth, shaken."""
    folder = tmp_path_factory.mktemp("tracker") / "shaken"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, (boxes, _) in ground_truth("gtot").boxes.items():
        np.savetxt(
            folder / f"{name}.txt",
            boxes + rng.normal(scale=2, size=boxes.shape),
            fmt="%.2f",
            delimiter=",",
        )
    return folder


def test_score_prints_a_table_with_intervals(shaken):
    done = gmmt("score", shaken, "--benchmark", "gtot", "--by", "attribute")
    assert done.returncode == 0, done.stderr
    assert "shaken on GTOT: 50 sequences, 7850 frames" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [r[0] for r in rows] == ["subset", "ALL", "OCC", "LSV", "FM", "LI", "TC", "SO", "DEF"]
    assert "[" in done.stdout


def test_out_is_a_tidy_table(shaken, tmp_path):
    done = gmmt(
        "score",
        shaken,
        "--benchmark",
        "gtot",
        "--by",
        "attribute",
        "--out",
        tmp_path / "t.csv",
        "--tracker",
        "a name, with comma",
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert list(rows[0]) == [
        "benchmark",
        "tracker",
        "subset",
        "metric",
        "value",
        "low",
        "high",
        "n_sequences",
    ]
    assert len(rows) == 8 * 3
    assert {r["tracker"] for r in rows} == {"a name, with comma"}
    assert all(float(r["low"]) <= float(r["value"]) <= float(r["high"]) for r in rows)


def test_out_dash_is_standard_output_and_nothing_else(shaken):
    done = gmmt("score", shaken, "--benchmark", "gtot", "--out", "-", "--bootstrap", 0)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [r["metric"] for r in rows] == ["PR", "NPR", "SR"]
    assert all(r["low"] == r["high"] == "" for r in rows)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "Pool.txt").unlink(), "Pool.txt: missing"),
        (lambda f: (f / "Pool.txt").write_text(""), "Pool.txt: the file is empty"),
        (lambda f: (f / "Pool.txt").write_text("1 2 3\n"), "Pool.txt, line 1: 3 numbers"),
        (
            lambda f: (f / "Pool.txt").write_text("1 2 3 4\n" * 20),
            "'Pool' has 20 predicted boxes for 179",
        ),
        (
            lambda f: (f / "Pol.txt").write_text("1 2 3 4\n"),
            "Pol.txt: no sequence of this benchmark",
        ),
    ],
)
def test_a_bad_folder_ends_in_one_plain_message_and_writes_nothing(
    shaken, tmp_path, break_it, message
):
    import shutil

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
    import shutil

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
