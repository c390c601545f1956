"""Intervals, stored scores, published numbers and the ledger of claims."""

import json
import shutil

import numpy as np
import pytest

from gmmt import files, results
from gmmt.data.benchmarks import GroundTruth, ground_truth
from gmmt.errors import DownloadError, SettingError
from gmmt.metrics import METRICS, Scores
from gmmt.study import claims
from workflow import store


def scores(values, pool="sequences", n_frames=None):
    values = np.asarray(values, dtype=float)
    n_frames = np.full(len(values), 100) if n_frames is None else np.asarray(n_frames)
    return Scores(tuple(f"s{i}" for i in range(len(values))), n_frames, {"SR": values}, pool)


def test_a_bootstrap_interval_is_that_of_the_normal_approximation_for_many_sequences():
    values = np.random.default_rng(0).normal(0.6, 0.2, size=900)
    e = results.estimate(scores(values), "SR", resamples=20_000)
    half = 1.96 * 100 * values.std() / 30
    assert e.value == pytest.approx(100 * values.mean())
    assert (e.low, e.high) == pytest.approx((e.value - half, e.value + half), abs=0.06)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = [
        results.estimate(scores(rng.beta(4, 2, size=60)), "SR", resamples=500, seed=i)
        for i in range(300)
    ]
    covered = np.mean([e.low <= 100 * 4 / 6 <= e.high for e in draws])
    assert 0.90 < covered < 0.99


def test_pooled_scores_weigh_sequences_by_their_frames():
    s = scores([1.0, 0.0], pool="frames", n_frames=[300, 100])
    assert results.estimate(s, "SR").value == pytest.approx(75)
    e = results.estimate(s, "SR", resamples=4000)
    assert (e.low, e.high) == (0, 100)  # either sequence may be drawn twice


def test_a_paired_difference_is_tighter_than_its_parts_and_needs_the_same_sequences():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    a, b = scores(hard), scores(hard - 0.05 + rng.normal(scale=0.02, size=200))
    d = results.difference(a, b, "SR")
    assert d.low < 5 < d.high
    assert d.high - d.low < 1
    assert results.estimate(a, "SR").high - results.estimate(a, "SR").low > 5
    with pytest.raises(ValueError, match="same sequences"):
        results.difference(a, scores(hard[:100]), "SR")


def test_a_pooled_difference_weighs_sequences_by_their_frames():
    a, b = (scores(v, pool="frames", n_frames=[300, 100]) for v in ([0.9, 0.5], [0.5, 0.7]))
    assert results.difference(a, b, "SR").value == pytest.approx((300 * 40 - 100 * 20) / 400)


def test_there_is_no_mean_of_no_sequences():
    with pytest.raises(ValueError, match="no mean of no values"):
        results.mean_interval(np.empty(0))


def test_a_table_has_a_row_for_an_attribute_that_no_scored_sequence_carries():
    truth = GroundTruth("toy", {}, {"OCC": ("s1",), "FM": ("left out",)})
    values = {m: np.array([0.25, 0.75]) for m in METRICS}
    s = Scores(("s0", "s1"), np.array([10, 10]), values, "sequences")
    rows = results.table(s, "mine", truth, by_attribute=True, resamples=0)
    assert [(r["subset"], r["metric"]) for r in rows] == [
        (subset, m) for subset in ("ALL", "OCC", "FM") for m in METRICS
    ]
    assert [r["value"] for r in rows[:6]] == [50] * 3 + [75] * 3
    assert [r["n_sequences"] for r in rows] == [2] * 3 + [1] * 3 + [0] * 3
    assert np.isnan([r[c] for r in rows[6:] for c in ("value", "low", "high")]).all()
    assert len(results.table(s, "mine", truth)) == 3


def test_the_same_seed_gives_the_same_interval():
    s = scores(np.random.default_rng(0).random(50))
    assert (
        results.estimate(s, "SR", seed=1)
        == results.estimate(s, "SR", seed=1)
        != results.estimate(s, "SR", seed=2)
    )


# --- published and stored numbers -----------------------------------------------------------------


def test_published_numbers_are_those_of_the_shared_list(shared):
    assert (
        files.resource("published_results.csv").read_text()
        == (shared / "paper" / "published_results.csv").read_text()
    )


def test_published_numbers_are_all_there_and_unambiguous():
    t = results.published()
    assert len(t) == 386
    assert not t.duplicated(["source", "benchmark", "method", "setting", "subset", "metric"]).any()
    assert results.printed("paper Table 1", "RGBT234", "TBSI+GMMT", "PR") == "87.9"
    with pytest.raises(SettingError, match="0 published cells"):
        results.printed("paper Table 1", "RGBT234", "TBSI+GMMT", "NPR")


def test_a_cell_that_is_printed_twice_is_refused(own_copy):
    path = own_copy / "resources" / "published_results.csv"
    lines = path.read_text().splitlines()
    cell = next(x for x in lines if x.startswith("paper Table 1,RGBT234,TBSI+GMMT,,ALL,PR,"))
    path.write_text("\n".join([*lines, cell]) + "\n")
    with pytest.raises(SettingError, match="2 published cells"):
        results.printed("paper Table 1", "RGBT234", "TBSI+GMMT", "PR")


@pytest.mark.filterwarnings("ignore:sequence")
@pytest.mark.parametrize("archive", results.RAW)
def test_stored_scores_are_those_of_the_raw_files(raw_results, archive):
    raw_results(archive)
    fresh, source = results.raw_scores(archive)
    assert source == "raw files"
    stored = results.stored_scores(archive)
    assert stored.sequences == fresh.sequences
    assert stored.n_frames.tolist() == fresh.n_frames.tolist()
    for m in METRICS:
        np.testing.assert_allclose(stored.values[m], fresh.values[m], atol=1e-11)


def test_the_stored_convention_grid_is_that_of_the_raw_files(raw_results):
    import pandas as pd

    for archive in results.RAW:
        raw_results(archive)
    stored = pd.read_csv(files.stored_results_dir() / store.GRID)
    pd.testing.assert_frame_equal(stored, store.convention_grid(), check_exact=False, atol=1e-6)


def test_without_raw_files_stored_scores_stand_in_for_the_official_protocol(no_downloads):
    s, source = results.raw_scores("gmmt_gtot")
    assert source == "stored scores"
    assert s.sequences == ground_truth("gtot").sequences
    assert store.convention_grid() is None
    with pytest.raises(DownloadError, match="nothing was stored"):
        store.store()


def test_published_tables_come_back():
    """The numbers of notebook 11, from stored per-sequence scores, at the printed digits."""

    def percent(archive, *metrics, divisor=None):
        s = results.stored_scores(archive)
        return [
            f"{100 * (s.values[m].sum() / divisor if divisor else s.mean(m)):.1f}" for m in metrics
        ]

    assert percent("gmmt_gtot", "PR", "SR") == ["93.6", "78.5"]
    assert percent("gmmt_rgbt234", "PR", "SR") == ["88.3", "65.0"]
    assert percent("gmmt_rgbt234", "PR", "SR", divisor=235) == ["87.9", "64.7"]
    assert percent("dfat_rgbt234", "PR", "SR") == ["76.1", "55.5"]
    assert percent("dfat_rgbt234", "PR", "SR", divisor=235) == ["75.8", "55.2"]
    assert percent("apfnet_lasher", "PR", "NPR", "SR") == ["50.0", "43.9", "36.2"]


def test_a_table_is_written_whole_or_not_at_all(tmp_path):
    class Broken:
        def __str__(self):
            raise RuntimeError("killed half way")

    path = tmp_path / "t.csv"
    path.write_text("before")
    with pytest.raises(RuntimeError, match="half way"):
        results.write_table([{"a": 1}] * 100_000 + [{"a": Broken()}], path, ["a"])
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    results.write_table([{"b": 0.5, "a": 1, "c": 2}], path, ["a", "b"])
    assert path.read_text() == "a,b\n1,0.500000\n"


def test_a_table_can_go_to_standard_output(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results.write_table([{"a": 1, "b": 0.5}], "-", ["a", "b"])
    assert capsys.readouterr().out == "a,b\n1,0.500000\n"
    assert not list(tmp_path.iterdir())


# --- the ledger -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "claimed", "verdict"),
    [
        (0.1, 5, 3, "holds"),
        (0.1, 0.5, 3, "holds"),
        (-5, -0.1, 3, "does not hold"),
        (-1, 2.9, 3, "does not hold"),
        (-1, 3.1, 3, "undecided"),
        (0, 3.1, 3, "undecided"),
    ],
)
def test_the_rule_for_differences(low, high, claimed, verdict):
    assert claims.judge_difference(low, high, claimed) == verdict


def test_equal_at_the_printed_digits():
    assert claims.equal_as_printed(78.544, "78.5")
    assert not claims.equal_as_printed(92.649, "92.7")
    assert claims.equal_as_printed(-0.6000001, "-0.6")
    assert not claims.equal_as_printed(0.6, "-0.6")


def test_zero_as_printed_has_no_sign():
    for value in (-0.04, 0.04, 0.0, -0.0):
        for text in ("0.0", "-0.0"):
            assert claims.equal_as_printed(value, text)
    assert claims.equal_as_printed(-0.3, "0")
    assert not claims.equal_as_printed(-0.06, "0.0")
    assert not claims.equal_as_printed(-0.04, "0.00")


def test_the_ledger_is_long_enough_and_computed_not_typed():
    listed = claims.claims()
    assert len(listed) >= 25
    assert len({c["id"] for c in listed}) == len(listed)
    assert not any("verdict" in c for c in listed)
    assert {c["source"].split(";")[0].split(",")[0] for c in listed} >= {
        "Table 1",
        "Table 2",
        "Table 3",
        "bold text",
        "Fig. 5",
        "abstract",
    }
    table = claims.ledger()
    assert set(table["verdict"]) <= set(claims.VERDICTS)
    assert list(table["verdict"] == "not attempted") == ["needs" in claim for claim in listed]
    assert sum(claims.tally(table).values()) == len(table)


@pytest.fixture
def own_copy(tmp_path, monkeypatch):
    """A copy of everything that verdicts are computed from, which a test may change."""
    stored = tmp_path / "results"
    shutil.copytree(files.stored_results_dir(), stored)
    monkeypatch.setattr(results, "stored_results_dir", lambda: stored)
    shutil.copytree(files.resource(""), tmp_path / "resources")
    for module in (results, claims):
        monkeypatch.setattr(module, "resource", lambda name: tmp_path / "resources" / name)
    return tmp_path


def verdict(claim_id):
    return claims.ledger().set_index("id")["verdict"][claim_id]


def test_a_verdict_follows_the_stored_scores(own_copy):
    assert verdict("C11") == "recomputed"
    path = own_copy / "results" / results.STORED
    lines = path.read_text().splitlines()
    i = next(i for i, line in enumerate(lines) if line.startswith("apfnet_lasher"))
    fields = lines[i].split(",")
    fields[5] = str(float(fields[5]) + 0.5)  # half of one sequence's frames: 0.2 points
    path.write_text("\n".join([*lines[:i], ",".join(fields), *lines[i + 1 :]]) + "\n")
    assert verdict("C11") == "does not hold"


def test_a_verdict_follows_the_published_table(own_copy):
    ids = {c["claim"]: c["id"] for c in claims.claims()}
    claim = next(i for text, i in ids.items() if text.startswith("Consistent improvements"))
    assert verdict(claim) == "does not hold"
    path = own_copy / "resources" / "published_results.csv"
    path.write_text(
        path.read_text().replace(
            "paper Table 1,RGBT234,ViPT*+GMMT,,ALL,SR,61.5",
            "paper Table 1,RGBT234,ViPT*+GMMT,,ALL,SR,61.8",
        )
    )
    assert verdict(claim) == "holds"


def test_claims_name_cells_that_exist():
    for claim in json.loads(files.resource("claims.json").read_text()):
        for reference in [
            *claim.get("cells", []),
            *(c for check in claim.get("checks", []) for c in (check[0], check[2])),
        ]:
            assert float(claims.cell(reference)) >= 0
