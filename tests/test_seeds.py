"""Many trainings: the estimator against its definition and by simulation, the stored files, what
was chosen on what, and the verdicts.
"""

import csv
import json
import re
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gmmt import files, results
from gmmt.data import synthetic
from gmmt.errors import ResultFileError
from gmmt.study import claims, miniature, seeds
from workflow import batch

STORED = {table: files.stored_results_dir() / folder.name for table, folder in batch.STORED.items()}
FILES = {table: sorted(folder.glob("cpu-seed*.csv")) for table, folder in STORED.items()}


def simulate(rng, s, q, sigma_seed, sigma_sequence, sigma_rest):
    """Returns differences [s, q] in shares, whose true mean is 0."""
    parts = (
        sigma_seed * rng.normal(size=(s, 1)),
        sigma_sequence * rng.normal(size=(1, q)),
        sigma_rest * rng.normal(size=(s, q)),
    )
    return sum(parts) / 100


# --- the estimator --------------------------------------------------------------------------------


def test_the_interval_by_its_definition():
    rng = np.random.default_rng(0)
    d = simulate(rng, 5, 12, 1, 3, 2) + 0.02
    e = seeds.interval(d)
    x = 100 * d
    s, q = x.shape
    by_seed = [sum(x[i]) / q for i in range(s)]
    by_sequence = [sum(x[:, j]) / s for j in range(q)]
    mean = sum(by_seed) / s
    rest = sum(
        (x[i, j] - by_seed[i] - by_sequence[j] + mean) ** 2 for i in range(s) for j in range(q)
    ) / ((s - 1) * (q - 1))
    a = sum((v - mean) ** 2 for v in by_seed) / (s - 1) / s
    b = sum((v - mean) ** 2 for v in by_sequence) / (q - 1) / q
    v = max(a + b - rest / (s * q), a, b)
    assert e.value == pytest.approx(mean)
    df = v**2 / (a**2 / (s - 1) + b**2 / (q - 1))
    alone = stats.ttest_1samp(by_seed, 0).confidence_interval()
    assert (e.high - e.low) / 2 == pytest.approx(
        max(stats.t.ppf(0.975, df) * v**0.5, alone.high - mean)
    )
    assert e.over_seeds == pytest.approx((alone.low, alone.high))
    df = df if stats.t.ppf(0.975, df) * v**0.5 > alone.high - mean else s - 1
    assert e.detectable / (e.high - e.value) == pytest.approx(
        1 + stats.t.ppf(0.8, df) / stats.t.ppf(0.975, df)
    )
    boot = stats.bootstrap(
        (by_sequence,), np.mean, method="percentile", n_resamples=9999, random_state=0
    ).confidence_interval
    assert e.over_sequences == pytest.approx((boot.low, boot.high), abs=0.15)
    assert (e.seeds, e.n) == (5, 12)


@pytest.mark.parametrize("size", [(8, 60), (8, 150)])
@pytest.mark.parametrize("sigmas", [(1, 5, 3), (0, 5, 3), (1, 0, 3), (0.3, 10, 10), (0.5, 3, 8)])
def test_the_interval_covers_and_detects_as_often_as_it_says(sigmas, size, monkeypatch):
    monkeypatch.setattr(
        seeds, "mean_interval", lambda values: results.mean_interval(values, resamples=0)
    )  # slow, and not asked about
    rng = np.random.default_rng(1)
    found = [seeds.interval(simulate(rng, *size, *sigmas)) for _ in range(2000)]
    covered = np.mean([e.low <= 0 <= e.high for e in found])
    assert 0.935 < covered < 0.995  # a little more than 0.95 where one part is missing
    effect = np.median([e.detectable for e in found])
    seen = np.mean([e.low + effect > 0 for e in found])
    assert 0.7 < seen < 0.9


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Two seeds of three made-up rows on four videos."""
    rng = np.random.default_rng(0)
    for seed in (0, 1):
        rows = [
            {
                "row": r,
                "subset": "ALL",
                "sequence": f"v{k}",
                "frames": 9,
                **dict.fromkeys(("PR", "NPR", "SR"), float(rng.random())),
            }
            for r in ("Base", "RAW", "DM")
            for k in range(4)
        ]
        batch.write_scores(
            rows, tmp_path / f"cpu-seed{seed}.csv", "cpu", seed, synthetic.benchmark("test", 2, 3)
        )
    return tmp_path


def test_seeds_are_paired_by_name_not_by_place(folder):
    table = seeds.read("cpu", folder)
    expected = []
    for k in (0, 1):
        lines = (folder / f"cpu-seed{k}.csv").read_text().splitlines()[1:]
        rows = list(csv.DictReader(lines))
        pairs = zip(rows[8:], rows[4:8], strict=True)
        expected.append([float(a["SR"]) - float(b["SR"]) for a, b in pairs])
    e = seeds.difference(table, "DM", "RAW")
    assert e.value == pytest.approx(100 * np.mean(expected))
    shuffled = seeds.difference(table.sample(frac=1, random_state=0), "DM", "RAW")
    assert shuffled == e


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("test videos", "val videos", "line 1: expected"),
        ("seed 1,", "seed 2,", "line 1: expected"),
        ("DM,ALL,v3", "DM,ALL,v4", "other rows or videos"),
        (r"videos \w+", "videos 0000", "other rows or videos"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(folder, old, new, words):
    path = folder / "cpu-seed1.csv"
    path.write_text(re.sub(old, new, path.read_text()))
    with pytest.raises(ResultFileError, match=words) as error:
        seeds.read("cpu", folder)
    assert str(path) in str(error.value)


def test_nothing_stored_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="make table"):
        seeds.read("cpu", tmp_path)


@pytest.mark.parametrize("table", STORED)
def test_a_second_run_of_a_seed_writes_the_same_bytes(tmp_path, table):
    for place in ("a", "b"):
        batch.store_seed(table, "smoke", 0, str(tmp_path / place / "runs"), str(tmp_path / place))
    one, two = ((tmp_path / place / "smoke-seed0.csv").read_bytes() for place in ("a", "b"))
    assert one == two
    videos = synthetic.fingerprint(miniature.sequences("smoke", "test"))
    assert (
        one.decode().splitlines()[0] == f"# miniature, profile smoke, seed 0, test videos {videos}"
    )
    record = json.loads((tmp_path / "a" / "smoke-seed0.json").read_text())
    assert list(record["configurations"]) == batch.rows_of(table)
    assert {"commit", "device", "versions", "code", "choices"} <= set(record)


# --- what is stored -------------------------------------------------------------------------------


def test_every_row_is_in_one_table():
    assert sorted(batch.rows_of("2") + batch.rows_of("6")) == sorted(miniature.ALL_ROWS)
    assert batch.rows_of("2") == list(miniature.ROWS)


@pytest.mark.parametrize(("table", "least"), [("2", 8), ("6", 5)])
def test_every_stored_seed_is_of_the_one_test_set(table, least):
    expected = synthetic.fingerprint(miniature.sequences("cpu", "test"))
    assert len(FILES[table]) >= least
    for path in FILES[table]:
        assert path.read_text().splitlines()[0].endswith(f"test videos {expected}"), path
    stored = seeds.read("cpu", STORED[table])
    assert set(stored["row"]) == set(batch.rows_of(table))
    assert stored["seed"].nunique() == len(FILES[table])
    assert stored.query("subset == 'ALL'").groupby(["seed", "row"]).size().eq(150).all()


@pytest.mark.parametrize("table", STORED)
def test_nothing_was_chosen_on_test(table):
    log = pd.read_csv(STORED[table] / "choices.csv")
    scores = pd.read_csv(STORED[table] / "validation.csv", comment="#")
    stored = seeds.read("cpu", STORED[table])
    val, test = (
        synthetic.fingerprint(miniature.sequences("cpu", split)) for split in ("val", "test")
    )
    assert val != test
    assert set(log["split"]) == {"val"}
    assert set(log["videos"]) == {val}
    assert (
        (STORED[table] / "validation.csv").read_text().splitlines()[0].endswith(f"val videos {val}")
    )
    assert not set(scores["sequence"]) & set(stored["sequence"])
    assert set(log["seed"]) == {batch.GRID_SEED}
    assert batch.GRID_SEED not in set(stored["seed"])
    tuned = [n for n in batch.rows_of(table) if batch.grid(n)]
    assert set(tuned) == {
        n
        for n in batch.rows_of(table)
        if miniature.ALL_ROWS[n].mode == "stage2" or n in ("Base", "ViPT", "TBSI")
    }
    assert set(log["row"]) == set(tuned)
    for name in tuned:
        part, plans = log[log["row"] == name], batch.grid(name)
        assert len(part) == len(plans), name
        sr = []
        for plan in plans:
            own = scores[
                (scores["row"] == name)
                & np.logical_and.reduce([np.isclose(scores[k], v) for k, v in plan.items()])
            ]
            assert len(own) == 150
            sr.append(own["SR"].mean())
        best = plans[int(np.argmax(np.round(sr, 6)))]
        assert miniature.choices()[name] == best, name
        assert part["chosen"].sum() == 1
    chosen = {name: miniature.choices()[name] for name in tuned}
    for path in FILES[table]:
        assert json.loads(path.with_suffix(".json").read_text())["choices"] == chosen, path


# --- verdicts -------------------------------------------------------------------------------------


@pytest.fixture
def own_copy(tmp_path, monkeypatch):
    """A copy of the stored results, which a test may change."""
    shutil.copytree(files.stored_results_dir(), tmp_path / "results")
    for module in (results, seeds):
        monkeypatch.setattr(module, "stored_results_dir", lambda: tmp_path / "results")
    return tmp_path / "results"


def verdicts():
    ledger = claims.ledger()
    return dict(zip(ledger["id"], ledger["verdict"], strict=True))


def shift(folder, row, points):
    for path in folder.glob("miniature/cpu-seed*.csv"):
        head = path.read_text().splitlines()[0]
        table = pd.read_csv(path, comment="#")
        table.loc[table["row"] == row, "SR"] += points / 100
        path.write_text(head + "\n" + table.to_csv(index=False, lineterminator="\n"))


def test_verdicts_follow_the_stored_files_and_nothing_else(own_copy, tmp_path, monkeypatch):
    before = verdicts()
    shift(own_copy, "DM", 20)
    after = verdicts()
    own = (
        "C34",
        "C46",
        "C48",
    )  # those that compare DM, the last one its gain with those on other trackers
    assert {after[k] for k in own} == {"holds"}
    assert {k: v for k, v in after.items() if k not in own} == {
        k: v for k, v in before.items() if k not in own
    }
    shift(own_copy, "DM", -40)
    assert {verdicts()[k] for k in own} == {"does not hold"}
    shift(own_copy, "DM", 20)
    assert verdicts() == before
    monkeypatch.setenv("GMMT_RUNS", str(tmp_path / "elsewhere"))  # what was run here does not count
    monkeypatch.setattr(miniature, "choices", dict)
    assert verdicts() == before
    for path in own_copy.glob("miniature/cpu-seed*"):
        path.unlink()
    mine = {c["id"] for c in claims.claims() if c["rule"] == "miniature"}
    assert {k for k, v in verdicts().items() if v != before[k]} == mine
    assert {verdicts()[k] for k in mine} == {"not attempted"}


def test_the_displayed_table_is_that_of_the_files():
    """Recomputes the numbers that notebook 08 shows, without the package's own arithmetic."""
    notebook = nbformat.read(files.ROOT / "notebooks" / "08_table_2.ipynb", as_version=4)
    printed = [
        out.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for out in cell.outputs
    ]
    sums: dict[str, list[float]] = {}
    for path in FILES["2"]:
        for row in csv.DictReader(path.read_text().splitlines()[1:]):
            if row["subset"] == "ALL":
                sums.setdefault(row["row"], []).append(100 * float(row["SR"]))
    means = {name: sum(values) / len(values) for name, values in sums.items()}
    level, gains = (
        next(text for text in printed if start in text)
        for start in ("percent: mean over", "SR, points over")
    )
    for name, mean in means.items():
        line = next(line for line in level.splitlines() if line.startswith(name + " "))
        assert float(re.findall(r"(-?[\d.]+) \[", line)[2]) == pytest.approx(mean, abs=0.0501), name
        line = next(line for line in gains.splitlines() if line.startswith(name + " "))
        shown = [float(v) for v in re.findall(r"([-+][\d.]+) \[", line)]
        expected = [
            mean - means[other] for other in ("Base", "Base-long", "HEAD", "RAW") if other != name
        ]
        assert shown == pytest.approx(expected, abs=0.0501), name
