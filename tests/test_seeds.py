"""Many trainings: the estimator against its definition and by simulation, the stored files, what
was chosen on what, and the verdicts.
"""

import csv
import json
import re
import shutil
from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gmmt import files, results
from gmmt.config_file import choices
from gmmt.data import synthetic
from gmmt.errors import ResultFileError, StoredError
from gmmt.study import claims, grid, miniature, seeds, stored
from gmmt.study.tables import ALL_ROWS, ROWS, TABLES

STORED = {table: stored.folder_of(table) for table in TABLES}
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
            {"row": r, "subset": "ALL", "sequence": f"v{k}", "frames": 9, "SR": float(rng.random())}
            for r in ("Base", "RAW", "DM")
            for k in range(4)
        ]
        path, videos = tmp_path / f"cpu-seed{seed}.csv", synthetic.benchmark("test", 2, 3)
        stored.write_scores(rows, path, "cpu", seed, videos)
        record = {"code": "abc", "choices": {"RAW": {"lam": 1.0}}, "configurations": {"RAW": "k"}}
        path.with_suffix(".json").write_text(json.dumps(record))
    return tmp_path


def test_seeds_are_paired_by_name_not_by_place(folder):
    table, _ = stored.read_folder(folder)
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
    with pytest.raises(StoredError, match="no scores of row 'DN'"):
        seeds.difference(table, "DN", "RAW")


def test_tables_are_joined_on_seed_and_sequence(folder):
    """One table lacks the seed in the middle and has its videos in another order."""
    table, _ = stored.read_folder(folder)
    middle = table[table["seed"] == 1].assign(seed=2)
    table = pd.concat([table, middle.assign(SR=middle["SR"] / 2)])
    other = table[table["seed"] != 1].assign(SR=lambda t: t["SR"] + 0.25)[::-1]
    b = seeds.matrix(table, "DM", "SR")
    d = seeds.matrix(other, "DM", "SR") - b
    both = d.dropna(how="all")
    assert list(both.index) == [0, 2]
    np.testing.assert_allclose(both, 0.25)
    assert seeds.interval(d).seeds == 2
    renamed = other.assign(sequence=other["sequence"].str.replace("v3", "w3"))
    with pytest.raises(StoredError, match="2 of 5 sequences lack a score on one side"):
        seeds.interval(seeds.matrix(renamed, "DM", "SR") - b)
    elsewhere = other.assign(sequence="w" + other["sequence"])
    with pytest.raises(ValueError, match="two of each at least, not 0 and 8"):
        seeds.interval(seeds.matrix(elsewhere, "DM", "SR") - b)


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
    with pytest.raises((ResultFileError, StoredError), match=words) as error:
        stored.read_folder(folder)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r | {"code": "abd"}, "made by code abd, the first one by abc"),
        (lambda r: r | {"choices": {"RAW": {"lam": 0.1}}}, "other choices than in the first"),
        (lambda r: {"code": "abc"}, "without code, choices and"),
        (lambda r: None, "missing, damaged, or without"),
    ],
)
def test_seeds_of_other_code_or_choices_are_refused(folder, change, words):
    path = folder / "cpu-seed1.json"
    record = change(json.loads(path.read_text()))
    path.unlink()
    if record is not None:
        path.write_text(json.dumps(record))
    with pytest.raises(StoredError, match=words) as error:
        stored.read_folder(folder)
    assert str(path) in str(error.value)


def test_codes_that_were_shown_to_give_the_same_weights_stand_together(folder, monkeypatch):
    monkeypatch.setattr(stored, "stored_results_dir", lambda: folder)
    path = folder / "cpu-seed1.json"
    path.write_text(path.read_text().replace("abc", "ghi"))
    records = [{"codes": ["abc", "def"], "evidence": "..."}, {"codes": ["x", "y"], "evidence": ""}]
    record = folder / stored.SAME_WEIGHTS
    record.write_text(json.dumps({"records": records}))
    with pytest.raises(StoredError, match="made by code ghi"):
        stored.read_folder(folder)
    records.append({"codes": ["ghi", "def"], "evidence": "..."})  # through def
    record.write_text(json.dumps({"records": records}))
    _, provenance = stored.read_folder(folder)
    assert provenance.codes == ("abc", "ghi")
    assert provenance.seeds == (0, 1)
    assert stored.same_weights("abc", "ghi")
    assert not stored.same_weights("abc", "x")


def test_nothing_stored_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="make table"):
        stored.read_folder(tmp_path)


THREE = {"2": ("RGB", "Base", "CGAN"), "6": ("OSTrack", "ViPT-HEAD")}


@pytest.mark.parametrize("table", TABLES)
def test_a_second_run_of_a_seed_writes_the_same_bytes(tmp_path, table, monkeypatch):
    """With some rows of a table: one of each stage, and all kinds of draws."""
    few = replace(TABLES[table], rows=THREE[table])
    monkeypatch.setitem(TABLES, table, few)
    for place in ("a", "b"):
        stored.store_seed(table, "smoke", 0, tmp_path / place / "runs", tmp_path / place)
    one, two = ((tmp_path / place / "smoke-seed0.csv").read_bytes() for place in ("a", "b"))
    assert one == two
    videos = synthetic.fingerprint(miniature.sequences("smoke", "test"))
    head = f"# miniature, profile smoke, seed 0, test videos {videos}"
    assert one.decode().splitlines()[0] == head
    record = json.loads((tmp_path / "a" / "smoke-seed0.json").read_text())
    assert list(record["configurations"]) == list(THREE[table])
    assert {"commit", "device", "versions", "code", "choices"} <= set(record)
    assert record["code"] == stored.code_of(table)
    table_read, provenance = stored.read_folder(tmp_path / "a", "smoke")
    assert provenance.videos == videos
    assert set(table_read["row"]) == set(THREE[table])


# --- what is stored -------------------------------------------------------------------------------


def test_every_row_is_in_one_table():
    assert len(set(ALL_ROWS)) == len(ALL_ROWS)
    assert TABLES["2"].rows == ROWS
    for name in ALL_ROWS:
        kind = miniature.config(name, "smoke").tracker.kind
        assert (name in ROWS) == (kind == "siamese")


@pytest.mark.parametrize(("table", "least"), [("2", 8), ("6", 5)])
def test_every_stored_seed_is_of_the_one_test_set(table, least):
    expected = synthetic.fingerprint(miniature.sequences("cpu", "test"))
    assert len(FILES[table]) >= least
    for path in FILES[table]:
        assert path.read_text().splitlines()[0].endswith(f"test videos {expected}"), path
    scored, provenance = stored.read_folder(STORED[table])
    assert set(scored["row"]) == set(TABLES[table].rows)
    assert scored["seed"].nunique() == len(FILES[table]) == len(provenance.seeds)
    assert scored.query("subset == 'ALL'").groupby(["seed", "row"]).size().eq(150).all()


def test_what_notebook_00_says_of_the_codes_is_true_of_this_code():
    """After a change of code that training, tracking or scoring imports: `make notebooks
    NOTEBOOKS=00_map`; and where the change was shown to move no number, a record in
    same_weights.json.
    """
    notebook = nbformat.read(files.ROOT / "notebooks" / "00_map.ipynb", as_version=4)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    printed = "".join(out.get("text", "") for out in outputs)
    for table in TABLES:
        assert f"Table {table} in miniature: {stored.standing(table)}." in printed


@pytest.mark.parametrize("table", STORED)
def test_nothing_was_chosen_on_test(table):
    log = pd.read_csv(STORED[table] / "cpu-choices.csv")
    scores = pd.read_csv(STORED[table] / "cpu-validation.csv", comment="#")
    scored = stored.read_table(table)
    val, test = (
        synthetic.fingerprint(miniature.sequences("cpu", split)) for split in ("val", "test")
    )
    assert val != test
    assert set(log["split"]) == {"val"}
    assert set(log["videos"]) == {val}
    head = (STORED[table] / "cpu-validation.csv").read_text().splitlines()[0]
    assert head.endswith(f"val videos {val}")
    assert not set(scores["sequence"]) & set(scored["sequence"])
    assert set(log["seed"]) == {grid.GRID_SEED}
    assert grid.GRID_SEED not in set(scored["seed"])
    tuned = [n for n in TABLES[table].rows if grid.grid(n)]
    assert set(tuned) == {
        n
        for n in TABLES[table].rows
        if miniature.mode_of(n) == "stage2" or n in ("Base", "ViPT", "TBSI")
    }
    assert set(log["row"]) == set(tuned)
    kept = choices(TABLES[table].folder, "cpu")
    for name in tuned:
        part, plans = log[log["row"] == name], grid.grid(name)
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
        assert kept[name] == best, name
        assert part["chosen"].sum() == 1
    chosen = {name: kept[name] for name in tuned}
    for path in FILES[table]:
        assert json.loads(path.with_suffix(".json").read_text())["choices"] == chosen, path


def test_the_best_plan_is_that_with_the_highest_score(tmp_path):
    for k, scores in enumerate(([0.5, 0.7], [0.9, 0.1], [0.6, 0.7])):
        path = tmp_path / "status" / f"try-HEAD-{k}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"key": "k", "rows": [{"SR": v} for v in scores]}))
    assert grid.best_plan("HEAD", tmp_path) == grid.grid("HEAD")[2] != grid.grid("HEAD")[0]


# --- verdicts -------------------------------------------------------------------------------------


@pytest.fixture
def own_copy(tmp_path, monkeypatch):
    """A copy of the stored results, which a test may change."""
    shutil.copytree(files.stored_results_dir(), tmp_path / "results")
    for module in (results, stored):
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
    monkeypatch.setattr("gmmt.config_file.choices", lambda *_: {})
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
