"""The experiment in miniature, from frames to scores, in its smallest profile."""

import shutil

import numpy as np
import pytest

from gmmt import tracking
from gmmt.data import synthetic
from gmmt.draws import Draws
from gmmt.errors import SettingError
from gmmt.study import miniature
from gmmt.trackers.siamese import Siamese
from gmmt.training import Stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trackers")


def boxes(name, seed, folder, split="val", **options):
    row = miniature.train(name, "smoke", seed, folder)
    return row, miniature.results(row, "smoke", split, folder, **options)


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
    ten = miniature.results(row, "smoke", "val", folder, steps=10)
    noise = miniature.results(row, "smoke", "val", folder, seed=5)
    assert any(not np.array_equal(one[k], ten[k]) for k in one)
    assert any(not np.array_equal(one[k], noise[k]) for k in one)
    kept = sorted(p for p in (folder / "val-mini-rgbt").rglob("done.json"))
    before = [p.stat().st_mtime_ns for p in kept]
    assert all(
        np.array_equal(one[k], v) for k, v in miniature.results(row, "smoke", "val", folder).items()
    )
    assert [p.stat().st_mtime_ns for p in kept] == before


@pytest.mark.parametrize("name", [name for name, row in miniature.ROWS.items() if row.variant])
def test_every_row_makes_a_network_that_learns_and_tracks(name):
    row, tracker = miniature.ROWS[name], Siamese()
    tracker.fusion = miniature.make_u(row, tracker.channels)
    assert 0.2e6 < sum(p.numel() for p in tracker.fusion.network.parameters()) < 0.8e6
    pairs = miniature.training_pairs(6, 2, 8, "mini-rgbt")
    terms = Stage(tracker, "2")(*pairs.batch(2, (0, 0, 0)), Draws(0))
    terms["loss"].backward()
    assert all(value.isfinite() for value in terms.values())
    videos = synthetic.benchmark("val", 2, 3)
    found = tracking.track(tracker, row.mode, videos)
    assert all(np.isfinite(found[v.name]).all() for v in videos)


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
    steps = miniature.SETTINGS["smoke"].steps
    assert {k: len(v["loss"]) for k, v in vipt.curves.items()} == {
        "1.1 rgb": steps["1.1 ostrack"],
        "1.2": steps["1.2"],
        "2": steps["2"],
    }
    for row, stage in (("OSTrack-long", "1.1 rgb"), ("TBSI-long", "1.2")):
        longer = len(miniature.train(row, "smoke", 0, folder).curves[stage]["loss"])
        assert (
            longer - len(tbsi.curves[stage]["loss"])
            == steps["1.2" if row == "OSTrack-long" else "2"]
        )


def test_bad_rows_are_refused(folder):
    with pytest.raises(SettingError, match="Did you mean CGAN"):
        miniature.train("CGANN", "smoke", 0, folder)
    with pytest.raises(SettingError, match="expected mini-rgbt or roadscene-motion"):
        miniature.train("RGB", "smoke", 0, folder, source="roadscene")


def test_roadscene_motion_goes_the_same_way(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("GMMT_DATA", str(tmp_path))
    shutil.copytree(shared / "data" / "real" / "roadscene", tmp_path / "roadscene")
    synthetic._roadscene.cache_clear()
    row = miniature.train("RGB", "smoke", 0, tmp_path / "t", source="roadscene-motion")
    scores, _ = miniature.scores(row, "smoke", "val", tmp_path / "t", source="roadscene-motion")
    assert len(scores.sequences) == 8
    frame = synthetic.scene("val", 0, 8, "roadscene-motion").frame(0)
    assert frame.shape == (4, 128, 128)
    assert not np.array_equal(frame, synthetic.scene("val", 0, 8).frame(0))
    synthetic._roadscene.cache_clear()
