"""A tracker on a whole data set: stopped and started, shared by processes, and the commands around
it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from test_tracking import STILL, oracle, spot_video
from trees import make_tree
from typer.testing import CliRunner

from gmmt import checkpoint, compute, experiment, tracking
from gmmt.cli import app
from gmmt.data.boxes import read_boxes
from gmmt.errors import LossError, SettingError
from gmmt.on_benchmark import LOCKS, MADE_BY, export, track_into

ROOT = Path(__file__).resolve().parents[1]
MADE = {"weights": "x"}


def videos(n=3):
    t = np.arange(6)[:, None]
    return [spot_video(f"v{k}", 40 + 5 * k + t * [1.0, 0.5]) for k in range(n)]


def track(folder, some, made=MADE, **options):
    tracker = options.pop("tracker", None) or oracle()
    track_into(folder, tracker, "base", some, made, reading=STILL, **options)
    return tracker


def test_what_is_there_is_not_tracked_again(tmp_path):
    some = videos()
    tracker = track(tmp_path / "a", some)
    assert len(tracker.seen) == 15
    for video in some:
        boxes = read_boxes(tmp_path / "a" / f"{video.name}.txt")
        found = [box for box, _ in tracking.track(oracle(), "base", video, reading=STILL)]
        np.testing.assert_allclose(boxes, found, atol=1e-4)
    (tmp_path / "a" / "v1.txt").unlink()
    assert len(track(tmp_path / "a", some).seen) == 5


def test_a_file_with_other_frames_than_its_video_is_made_anew(tmp_path):
    some = videos(1)
    track(tmp_path / "a", some)
    path = tmp_path / "a" / "v0.txt"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:4]))
    assert len(track(tmp_path / "a", some).seen) == 5
    assert path.read_text() == whole


def test_a_killed_run_leaves_whole_files_and_the_next_one_goes_on(tmp_path):
    class Killed(type(oracle())):
        def search(self, *args, **options):
            if len(self.seen) == 7:
                raise KeyboardInterrupt
            return super().search(*args, **options)

    tracker = Killed()
    tracker.seen = []
    some = videos()
    with pytest.raises(KeyboardInterrupt):
        track(tmp_path / "a", some, tracker=tracker)
    assert [p.name for p in (tmp_path / "a").glob("*.txt")] == ["v0.txt"]
    assert len(track(tmp_path / "a", some).seen) == 10
    track(tmp_path / "b", some)
    for video in some:
        one, other = ((tmp_path / k / f"{video.name}.txt").read_bytes() for k in "ab")
        assert one == other


def test_what_another_process_tracks_is_left_to_it_until_it_is_gone(tmp_path):
    some, folder = videos(), tmp_path / "a"
    order, seen = [], []

    class Watched(type(oracle())):
        def encode_template(self, crops, mode):
            order.append(len(seen))
            if len(order) == 2:  # the other process stops, without a result
                lock.release()
            seen.append(1)
            return super().encode_template(crops, mode)

    (folder / LOCKS).mkdir(parents=True)
    lock = FileLock(folder / LOCKS / "v0.lock")
    lock.acquire()
    tracker = Watched()
    tracker.seen = []
    track(folder, some, tracker=tracker)
    times = {v.name: (folder / f"{v.name}.txt").stat().st_mtime_ns for v in some}
    assert max(times, key=times.get) == "v0"
    assert len(order) == 3


def test_results_of_something_else_are_not_mixed_in(tmp_path):
    some = videos(2)
    track(tmp_path / "a", some)
    with pytest.raises(SettingError, match=r"a: the results there were made otherwise \(weights"):
        track(tmp_path / "a", some, {"weights": "y"})
    assert json.loads((tmp_path / "a" / MADE_BY).read_text()) == MADE
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "v0.txt").write_text("1,2,3,4\n")
    with pytest.raises(SettingError, match="there are result files, and not what made them"):
        track(tmp_path / "b", some)


def test_files_for_the_toolkits(tmp_path):
    track(tmp_path / "a", videos(1))
    boxes = read_boxes(tmp_path / "a" / "v0.txt")
    for benchmark, columns in (("gtot", 8), ("rgbt234", 8), ("lasher", 4), ("vtuav", 4)):
        export(tmp_path / "a", ["v0"], benchmark, "T", tmp_path / benchmark)
        path = tmp_path / benchmark / "T_v0.txt"
        row = re.split("[ ,]", path.read_text().splitlines()[3])
        assert len(row) == columns
        again = read_boxes(path)  # corners are rounded to whole pixels, as the toolkits do
        np.testing.assert_allclose(again, boxes, atol=0.51 if columns == 8 else 1e-4)


# --- the commands ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("trees")
    return {name: make_tree(name, root / name) for name in ("lasher", "gtot")}


@pytest.fixture(scope="module")
def trained(trees, tmp_path_factory):
    """The options that name a trained row of configs/paper, at the size of profile smoke."""
    weights = tmp_path_factory.mktemp("weights") / "trackers"
    options = ["--config", str(ROOT / "configs/paper/tbsi_gmmt_uvit.yaml"), "--profile", "smoke"]
    options += ["--weights", str(weights)]
    options += ["--set", f"data.root={trees['lasher']}", "--set", "data.part=true"]
    done = CliRunner().invoke(app, ["train", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return options


def run(*words, fails=False):
    done = CliRunner().invoke(app, [str(w) for w in words])
    if fails:
        return str(done.exception)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def contents(folder):
    return {path.name: path.read_text() for path in folder.glob("*.txt")}


def start(*words):
    command = [sys.executable, "-m", "gmmt.cli", *(str(w) for w in words)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


def test_stopped_shared_and_whole_runs_give_the_same_files(trees, trained, tmp_path):
    words = ["track", "--benchmark", "gtot", "--root", trees["gtot"], "--part", *trained]
    said = run(*words, "--out", tmp_path / "whole", "--export", tmp_path / "toolkit")
    assert "2 sequences in" in said
    whole = contents(tmp_path / "whole")
    assert whole.keys() == {"fastCar2.txt", "RainyCar1.txt"}
    assert contents(tmp_path / "toolkit").keys() == {"whole_fastCar2.txt", "whole_RainyCar1.txt"}
    # Killed once it has begun, and started again.
    folder = tmp_path / "killed"
    process = start(*words, "--out", folder)
    for _ in range(600):
        if list(folder.glob(f"{LOCKS}/*.lock")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert contents(folder).items() <= whole.items()
    run(*words, "--out", folder)
    assert contents(folder) == whole
    # Two at once on one folder, each starting the same work.
    run(*words, "--out", tmp_path / "shared", "--jobs", 2)
    assert contents(tmp_path / "shared") == whole
    scored = run("score", folder, "--benchmark", "gtot", "--root", trees["gtot"], "--part")
    assert re.search(r"ALL +2 ", scored)


def test_weights_are_found_without_what_they_were_trained_on(trees, trained, tmp_path, monkeypatch):
    """On another machine, after an update, without the training data."""
    monkeypatch.setattr(compute, "describe", lambda _: "another machine")
    monkeypatch.setattr(experiment, "code_hash", lambda *_: "other code")
    elsewhere = ["data.root=/not/there" if w.startswith("data.root") else w for w in trained]
    words = ["track", "--benchmark", "gtot", "--root", trees["gtot"], "--part"]
    run(*words, *elsewhere, "--out", tmp_path / "a")
    monkeypatch.undo()
    run(*words, *trained, "--out", tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    # A training goes on there, too: its key does not tell of machine and code.
    folder = Path(trained[trained.index("--weights") + 1])
    (path,) = folder.glob("tbsi_gmmt_uvit-*.safetensors")
    told = checkpoint.read_config(path)
    assert set(told[checkpoint.TOLD]) == {"code", "machine"}
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(compute, "describe", lambda _: "another machine")
    with pytest.warns(UserWarning, match="made by other code or on another machine"):
        run("train", *trained)
    assert path.stat().st_mtime_ns == before
    assert len(list(folder.glob("*.safetensors"))) == 1


def test_a_loss_that_is_no_number_is_told(trees, trained, tmp_path):
    words = [*trained, "--set", "plans.2.rate=1e30", "--set", "plans.2.warmup=0"]
    words = [str(tmp_path / "w") if w.endswith("trackers") else w for w in words]
    done = CliRunner().invoke(app, ["train", *words])
    assert isinstance(done.exception, LossError)
    assert "stage 2, step 1: the loss is" in str(done.exception)


def test_what_commands_refuse(trees, trained, tmp_path):
    words = ["track", "--benchmark", "gtot", "--root", trees["gtot"]]
    assert "missing" in run(*words, *trained, fails=True)
    assert "needs a tracker: --config" in run(*words, "--part", fails=True)
    assert "--row is of one video" in run(*words, "--row", "DM", fails=True)
    assert "are of a data set: --benchmark" in run("track", "--root", tmp_path, fails=True)
    untrained = [*trained, "--seed", 5]
    said = run(*words, "--part", *untrained, fails=True)
    assert "not trained yet" in said
    assert "2 steps of stage 2 are left" in said
    config = ROOT / "configs/paper/tbsi.yaml"
    said = run("train", "--config", config, "--profile", "cpu", fails=True)
    assert "starts from official weights (tbsi); say where they are: --set start.file=FILE" in said


def test_videos_that_were_trained_on_are_not_scored(trees, tmp_path):
    config = ROOT / "configs/paper/tbsi_gmmt_uvit.yaml"
    words = ["train", "--config", config, "--profile", "smoke", "--weights", tmp_path / "t"]
    for change in (f"root={trees['gtot']}", "source=gtot", "split=test", "part=true"):
        words += ["--set", f"data.{change}"]
    assert "has no videos that tbsi_gmmt_uvit was not trained on" in run(*words)


def test_official_weights_and_operations(trees, tmp_path, monkeypatch):
    """gmmt track --official on a data set is the tracker of the file, with the released crops."""
    from gmmt.trackers import official
    from gmmt.trackers.tbsi import TBSI

    small = {"hidden": 8, "dim": 16, "depth": 2, "heads": 2, "at": (0,)}
    torch.manual_seed(0)
    tracker = TBSI(**small, **official.RELEASED_INPUT["tbsi"])
    names = official.released_names(tracker)
    state = {names[k]: v for k, v in tracker.state_dict().items() if k in names}
    state = {k: v for k, v in state.items() if not k.startswith("ldd_head")}
    torch.save({"net": state}, tmp_path / "TBSI.pth")
    real = official.load_official
    monkeypatch.setattr("gmmt.load_official", lambda *a, **k: real(*a, **k | small), raising=False)
    words = ["track", "--benchmark", "gtot", "--root", trees["gtot"], "--part"]
    run(*words, "--official", "tbsi", tmp_path / "TBSI.pth", "--out", tmp_path / "out")
    from gmmt.data.datasets import open_dataset

    video = open_dataset("gtot", trees["gtot"], part=True)[-1]
    found = [box for box, _ in tracking.track(tracker.eval(), "base", video)]
    boxes = read_boxes(tmp_path / "out" / f"{video.name}.txt")
    np.testing.assert_allclose(boxes, found, atol=1e-4)
