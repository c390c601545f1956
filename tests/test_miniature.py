"""The experiment in miniature, from frames to scores, in its smallest profile."""

import shutil
import weakref

import numpy as np
import pytest

from gmmt import build, experiment, tracking
from gmmt.config import Data
from gmmt.data import loader, synthetic
from gmmt.draws import Draws
from gmmt.errors import SettingError
from gmmt.study import miniature
from gmmt.study.tables import ROWS
from gmmt.training import Stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trackers")


def boxes(name, seed, folder, split="val", **options):
    row = miniature.train(name, "smoke", seed, folder)
    return row, miniature.boxes(row, split, **options)


def test_the_same_seed_gives_the_same_boxes_and_another_one_others(folder, tmp_path):
    row, first = boxes("DM", 0, folder)
    again, second = boxes("DM", 0, tmp_path)
    _, other = boxes("DM", 1, tmp_path)
    assert row.key == again.key
    assert first.keys() == second.keys() == {v.name for v in miniature.sequences("smoke", "val")}
    assert all(np.array_equal(first[k], second[k]) for k in first)
    assert any(not np.array_equal(first[k], other[k]) for k in first)
    assert row.curves["2"]["loss"] == again.curves["2"]["loss"]


def test_rows_share_one_frozen_tracker(folder):
    base = miniature.train("Base", "smoke", 0, folder).tracker.state_dict()
    for name in ("RAW", "HEAD"):
        own = miniature.train(name, "smoke", 0, folder).tracker.state_dict()
        for key in base:
            if key.startswith(("backbone", "neck", "fuse", "head.base")):
                assert np.array_equal(base[key], own[key]), key
        assert not np.array_equal(
            base["head.stage2.cls.head.0.weight"], own["head.stage2.cls.head.0.weight"]
        )


def test_results_are_kept_and_told_apart(folder):
    row, one = boxes("DM", 0, folder)
    ten = miniature.boxes(row, "val", steps=10)
    noise = miniature.boxes(row, "val", noise=5)
    assert any(not np.array_equal(one[k], ten[k]) for k in one)
    assert any(not np.array_equal(one[k], noise[k]) for k in one)
    kept = sorted(p for p in (folder / "boxes").rglob("done.json"))
    before = [p.stat().st_mtime_ns for p in kept]
    assert all(np.array_equal(one[k], v) for k, v in miniature.boxes(row, "val").items())
    assert [p.stat().st_mtime_ns for p in kept] == before


@pytest.mark.parametrize("name", [n for n in ROWS if miniature.mode_of(n) == "stage2"])
def test_every_row_makes_a_network_that_learns_and_tracks(name):
    config = miniature.config(name, "smoke", changes={"data": {"train": 6, "frames": 2}})
    tracker = build.make_tracker(config)
    tracker.fusion = build.make_generator(config, tracker.channels)
    assert (tracker.fusion is None) == (name == "HEAD")
    if tracker.fusion is not None:
        assert 0.2e6 < sum(p.numel() for p in tracker.fusion.network.parameters()) < 0.8e6
    stage = Stage(tracker, "2", config.plans["2"])
    pairs = experiment.make_pairs(config, tracker)
    terms = stage(*pairs.batch(2, (0, 0, 0)), Draws(0))
    terms["loss"].backward()
    assert all(value.isfinite() for value in terms.values())
    videos = synthetic.benchmark("val", 2, 3)
    found = tracking.track_all(tracker, config.mode, videos)
    assert all(np.isfinite(found[v.name][0]).all() for v in videos)


def test_trackers_with_a_vit_start_from_one_foundation(folder):
    first = miniature.train("OSTrack", "smoke", 0, folder).tracker.state_dict()
    vipt = miniature.train("ViPT-DM", "smoke", 0, folder)
    own = vipt.tracker.state_dict()
    for key, value in first.items():  # stage 1.2 of ViPT trains its prompts alone
        assert np.array_equal(value, own[key.replace("head.rgb", "head.base")]), key
    tbsi = miniature.train("TBSI", "smoke", 0, folder)
    assert not np.array_equal(
        first["backbone.blocks.0.attn.qkv.weight"],
        tbsi.tracker.state_dict()["backbone.blocks.0.attn.qkv.weight"],
    )
    assert {k: len(v["loss"]) for k, v in vipt.curves.items()} == {"1.1 rgb": 12, "1.2": 12, "2": 8}
    for row, stage, steps in (("OSTrack-long", "1.1 rgb", 24), ("TBSI-long", "1.2", 20)):
        assert len(miniature.train(row, "smoke", 0, folder).curves[stage]["loss"]) == steps


def test_scenes_are_let_go_when_their_frames_are_drawn(monkeypatch):
    """The largest profile has 8,000 scenes of 1.5 MiB beside its frames."""
    made_so_far, most = [], []
    scene = synthetic.scene

    def watched(*arguments):
        made = scene(*arguments)
        made_so_far.append(weakref.ref(made))
        most.append(sum(reference() is not None for reference in made_so_far))
        return made

    monkeypatch.setattr(synthetic, "scene", watched)
    data = Data(train=30, frames=2, length=8)
    images, boxes = loader.training_frames(data)
    assert len(most) == 30
    assert max(most) <= 2
    assert images.nbytes == loader.frames_in_bytes(data)
    third = scene("train", 3, 8, "mini-rgbt")
    frames = [i for i in range(8) if np.array_equal(third.frame(i), images[3, 1])]
    assert any(np.array_equal(third.boxes[i], boxes[3, 1]) for i in frames)


def test_bad_rows_are_refused(folder):
    with pytest.raises(SettingError, match="Did you mean CGAN"):
        miniature.train("CGANN", "smoke", 0, folder)
    with pytest.raises(SettingError, match="expected mini-rgbt or roadscene-motion"):
        miniature.train("RGB", "smoke", 0, folder, source="roadscene")
    with pytest.raises(SettingError, match="unknown split 'tset': expected val or test"):
        miniature.boxes(miniature.train("RGB", "smoke", 0, folder), "tset")


def test_roadscene_motion_goes_the_same_way(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("GMMT_DATA", str(tmp_path))
    shutil.copytree(shared / "data" / "real" / "roadscene", tmp_path / "roadscene")
    synthetic._roadscene.cache_clear()
    row = miniature.train("RGB", "smoke", 0, tmp_path / "t", source="roadscene-motion")
    scores, _ = miniature.scores(row, "val")
    assert len(scores.sequences) == 8
    frame = synthetic.scene("val", 0, 8, "roadscene-motion").frame(0)
    assert frame.shape == (4, 128, 128)
    assert not np.array_equal(frame, synthetic.scene("val", 0, 8).frame(0))
    synthetic._roadscene.cache_clear()
