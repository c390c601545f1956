"""Which plans every row is offered, and which one it keeps: by the success rate on validation."""

from pathlib import Path

from gmmt.files import atomic_write, read_json, write_json
from gmmt.study import miniature, stored
from gmmt.study.tables import TABLES

GRID = ((1.0, 1e-3), (0.1, 1e-3), (10.0, 1e-3), (1.0, 5e-4), (1.0, 2e-3))
"""(lam, rate) that every row is offered, written down before any was tried; Base, ViPT and TBSI,
without lam, twice these rates."""
GRID_SEED = 1000
"""Seed of the trainings behind the choice; no number in a table comes from them."""


def grid(name: str) -> tuple[dict[str, float], ...]:
    """Returns the plans that a row is offered, {"lam": ..., "rate": ...} each; those of stage 2
    stand on the Base that was chosen. Rows whose plan is another one's are offered none.
    """
    mode = miniature.mode_of(name)
    if mode == "base" and not name.endswith("-long"):
        return tuple({"rate": 2 * rate} for lam, rate in GRID if lam == 1)
    if mode != "stage2":
        return ()
    if miniature.config(name, "smoke").plans["2"].lam == 0:  # there is no generative loss to weigh
        return tuple({"lam": 0.0, "rate": rate} for lam, rate in GRID if lam == 1)
    return tuple({"lam": lam, "rate": rate} for lam, rate in GRID)


def tries(table: str) -> list[str]:
    """Returns the names of all plans of a table's rows: "RAW-0", ..."""
    rows = TABLES[table].rows
    return [f"{name}-{k}" for name in rows for k in range(len(grid(name)))]


def try_plan(name: str, profile: str, index: int, folder: Path) -> None:
    """Trains a row with one plan of its grid, and writes its scores on validation beside it."""
    plan, base = grid(name)[index], miniature.base_of(name)
    if base:
        plans = {"1.2": best_plan(base, folder), "2": plan}
    else:
        plans = {"1.2": plan}
    changes = {"plans": plans}
    row = miniature.train(name, profile, GRID_SEED, folder / "trackers", changes=changes)
    whole, _ = miniature.scores(row, "val")
    found = [{**plan, **line} for line in stored.score_lines(name, whole, {})]
    write_json(_try_file(folder, f"{name}-{index}"), {"key": row.key, "rows": found})


def _try_file(folder: Path, name: str) -> Path:
    return folder / "status" / f"try-{name}.json"


def best_plan(name: str, folder: Path) -> dict[str, float]:
    """Returns the plan of a row with the highest SR on validation, of those tried in `folder`."""
    plans, means = grid(name), []
    for k in range(len(plans)):
        rows = read_json(_try_file(folder, f"{name}-{k}"))["rows"]
        means.append(sum(row["SR"] for row in rows) / len(rows))
    return plans[means.index(max(means))]


def choose(table: str, profile: str, folder: Path, out: Path) -> None:
    """Writes what every plan scored on validation, and which one each row keeps: the highest SR."""
    import pandas as pd

    from gmmt.data import synthetic

    records = {name: read_json(_try_file(folder, name)) for name in tries(table)}
    videos = miniature.sequences(profile, "val")
    kept = ("lam", "rate", "row", "sequence", "SR")  # what choosing looks at
    lines = [{k: row.get(k) for k in kept} for record in records.values() for row in record["rows"]]
    path = out / f"{profile}-validation.csv"
    stored.write_scores(lines, path, profile, GRID_SEED, videos, split="val")
    by_plan = pd.DataFrame(lines).groupby(["row", "lam", "rate"], sort=False, dropna=False)["SR"]
    log = by_plan.mean().round(6).reset_index()
    log["chosen"] = log.index.isin(log.groupby("row")["SR"].idxmax())
    log = log.assign(split="val", videos=synthetic.fingerprint(videos), seed=GRID_SEED)
    log["key"] = [record["key"] for record in records.values()]
    with atomic_write(out / f"{profile}-choices.csv") as file:
        log.to_csv(file, index=False, lineterminator="\n")
    keys = {name: record["key"] for name, record in records.items()}
    chosen = log[log["chosen"]].set_index("row")[["lam", "rate"]]
    choices = {name: dict(plan.dropna()) for name, plan in chosen.iterrows()}
    stored.note_provenance(out / f"{profile}-choices.json", table, profile, keys, choices)
