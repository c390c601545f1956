"""Every data set by commands alone, from a folder to a score; and the paper's batch as a graph."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from trees import SHORT, make_tree
from typer.testing import CliRunner

from gmmt import config_file, files
from gmmt.cli import app
from gmmt.data import manifest
from gmmt.data.benchmarks import rgbt_folder
from gmmt.errors import SettingError
from gmmt.study import full_run
from workflow import paper

ROOT = Path(__file__).resolve().parents[1]
ROW = str(ROOT / "configs/paper/tbsi_gmmt_uvit.yaml")


def command(*words):
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", list(SHORT))
def test_a_data_set_is_verified_trained_on_tracked_and_scored(name, tmp_path, monkeypatch):
    monkeypatch.setenv("GMMT_RUNS", str(tmp_path / "runs"))
    root = make_tree(name, tmp_path / "data")
    # 1. It is whole, but for the sequences that are not there (VTUAV's number is not known).
    part = [] if name == "vtuav" else ["--part"]
    said = command("verify", name, "--root", root, "--deep", "--jobs", 1, *part)
    assert re.search("is whole|complete, as far as", said)
    # 2. Two steps of training on it.
    split = "train" if name == "lasher" else next(iter(SHORT[name]))
    row = ["--config", ROW, "--profile", "smoke"]
    for change in (f"root={root}", f"source={name}", "part=true"):
        row += ["--set", f"data.{change}"]
    row += ["--set", f"data.split={'all' if name == 'vtuav' else split}"]
    command("train", *row)
    # 3. Tracked, with its sequences in files of their names.
    said = command("track", "--benchmark", name, "--root", root, *part, *row)
    folder = Path(re.search(r"sequences in (.*); score", said)[1])
    names = SHORT[name]["test"]
    assert {path.stem for path in folder.glob("*.txt")} == set(names)
    assert folder.with_name("tbsi_gmmt_uvit").resolve() == folder.resolve()
    # 4. Scored by the command that was named.
    words = re.search(r"score them: gmmt (.*)", said)[1].split()
    assert re.search(rf"ALL +{len(names)} ", command(*words))


def test_lashers_split_is_the_public_one():
    splits = manifest.load("lasher")["layout"]["splits"]
    counts = {}
    for split, file in (("train", "lashertrain.txt"), ("test", "lashertest.txt")):
        path = rgbt_folder() / "LasHeR" / file
        names = set(splits[split]["rows"])
        counts[split] = len(names)
        if path.is_file():
            assert names == {line.strip() for line in path.read_text().split() if line.strip()}
    assert counts == {"train": 979, "test": 245}
    assert (rgbt_folder() / "LasHeR" / "lashertest.txt").is_file()
    assert not set(splits["train"]["rows"]) & set(splits["test"]["rows"])


# --- the graph ------------------------------------------------------------------------------------


def planned(*words, executor=()):
    words = [sys.executable, "-m", "snakemake", "-n", *executor, "--config", "goal=paper", *words]
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run(words, **options, env=os.environ | {"GMMT_RUNS": "runs/not-there"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_slurm_plans_the_papers_batch():
    executor = ("--executor", "slurm", "--jobs", "2")
    said = planned("lasher=/data/LasHeR", "tbsi=/w/TBSI.pth", executor=executor)
    counts = dict(re.findall(r"^(\w+) +(\d+)$", said, re.M))
    rows, benchmarks = len(paper.ROWS), len(paper.BENCHMARKS)
    assert counts["train_row"] == str(rows)
    assert counts["track_row"] == counts["score_row"] == str(rows * benchmarks)
    assert counts["verify_data"] == str(benchmarks)
    assert counts["paper_table"] == "1"
    jobs = said.split("\n[")
    (train,) = (j for j in jobs if "train-tbsi_gmmt_uvit\n" in j and "rule train_row" in j)
    assert "gpu=1" in train
    # Rows of stage 2 wait for the row that they stand on, and all for verified data.
    output = "output: runs/not-there/paper/seed0/status/train-vipt_gmmt_uvit\n"
    (stage_2,) = (j for j in jobs if output in j)
    assert "train-vipt," in stage_2
    assert "verify-lasher" in stage_2


def test_the_profile_for_slurm_is_read():
    said = planned("rows=tbsi", "benchmarks=gtot", executor=("--profile", "workflow/slurm"))
    assert "runtime=240" in said  # its default
    assert dict(re.findall(r"^(\w+) +(\d+)$", said, re.M))["total"] == "7"


def test_settings_of_the_batch():
    plan = paper.plan({"goal": "paper", "profile": "smoke", "rows": "tbsi", "seeds": "0,2"})
    assert (plan.rows, plan.seeds, plan.benchmarks) == (("tbsi",), (0, 2), paper.BENCHMARKS)
    here = {"lasher": "/da ta/L", "tbsi": "/w/t.pth", "part": True, "profile": "cpu"}
    plan = paper.plan(here)
    assert plan.data_options("lasher") == "--root '/da ta/L' --part"
    options = plan.row_options("tbsi_gmmt_uvit", 1)
    assert "--seed 1" in options
    assert "'data.root=/da ta/L'" in options
    assert "start.file=/w/t.pth" in options
    assert "start.file" not in plan.row_options("vipt", 1)
    for bad in ({"row": "tbsi"}, {"rows": "tbis"}, {"benchmarks": "otb"}, {"seeds": "x"}):
        with pytest.raises(SettingError):
            paper.plan({"profile": "cpu", **bad})


def test_scores_stand_beside_what_is_printed(tmp_path):
    paths = [
        tmp_path / seed / "scores" / "tbsi_gmmt_unet-lasher.csv" for seed in ("seed0", "seed12")
    ]
    columns = "benchmark,tracker,subset,metric,value,low,high,n_sequences"
    rows = [f"lasher,tbsi_gmmt_unet,ALL,{m},50.0,49.0,51.0,245" for m in ("PR", "NPR", "SR")]
    rows.append("lasher,tbsi_gmmt_unet,NO,PR,50.0,49.0,51.0,20")
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("\n".join([columns, *rows]) + "\n")
    full_run.write(paths, tmp_path / "paper.csv")
    table = pd.read_csv(tmp_path / "paper.csv", dtype=str)
    assert table["seed"].tolist() == ["0"] * 3 + ["12"] * 3
    assert table["printed"].tolist() == ["70.7", "67.0", "56.6"] * 2
    assert set(table["printed_in"]) == {"paper Table 1, supp Table 6"}
    assert table["value"].tolist() == ["50.000000"] * 6


def test_hours_are_steps_times_work_over_speed():
    config = config_file.load(files.config_dir() / "paper" / "tbsi_gmmt_uvit.yaml", "cpu")
    (line,) = full_run.stages(config)
    assert line.steps == 100 * 60000 // 32
    expected = line.steps * line.teraflop / (full_run.measured() / 1e12) / 3600
    assert line.gpu_hours == pytest.approx(expected)
    # The UViT's own measured speed can only be faster than the slowest of all.
    assert line.gpu_hours >= line.steps / 9.1 / 3600 - 1e-9
    assert line.loader_hours == pytest.approx(line.steps * 32 / (200 * 8) / 3600)
    assert line.teraflop * 1e12 == full_run.work(config, "2")[0]
