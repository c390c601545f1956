"""Stored results: the scores of finished trainings, and what they were made from.

A seed of a table is a CSV file of scores, PROFILE-seedK.csv, and a JSON file beside it that says
which configurations, choices and code they were made with. Both are read: seeds of other videos,
choices or code than the rest are refused. Codes that were SHOWN to give the same weights may stand
together; the showing is written down in same_weights.json, with its evidence.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gmmt import compute
from gmmt.config import module_of
from gmmt.config_file import choices
from gmmt.data import synthetic
from gmmt.data.sequence import Sequence
from gmmt.errors import ResultFileError, StoredError
from gmmt.files import atomic_write, read_json, stored_results_dir, write_json
from gmmt.metrics import Scores
from gmmt.provenance import code_hash, git_commit, now, versions
from gmmt.study import miniature
from gmmt.study.tables import TABLES

NOISE_STUDY = (
    *(("DM", 1, z) for z in (None, *range(10))),
    *(("DM", steps, 0) for steps in (2, 5, 10)),
    *((name, 1, z) for name in ("CGAN", "NOISE", "DM-random") for z in (None, 0)),
)
"""What is tracked on validation without training anew: row, sampling steps s, and the seed of the
noise (None: zeros in its place)."""
SAME_WEIGHTS = "same_weights.json"


# --- making ---------------------------------------------------------------------------------------


def store_seed(table: str, profile: str, seed: int, folder: Path, out: Path) -> None:
    """Writes the scores of a table's rows of a seed on test, and beside them how they were made."""
    lines: list[dict] = []
    keys: dict[str, str] = {}
    for name in TABLES[table].rows:
        row = miniature.train(name, profile, seed, folder / "trackers")
        whole, by_attribute = miniature.scores(row, "test")
        if name not in TABLES[table].by_attribute:
            by_attribute = {}  # what no notebook reads is not kept
        lines += score_lines(name, whole, by_attribute)
        keys[name] = row.key
    videos = miniature.sequences(profile, "test")
    write_scores(lines, out / f"{profile}-seed{seed}.csv", profile, seed, videos)
    note_provenance(out / f"{profile}-seed{seed}.json", table, profile, keys)


def study_noise(profile: str, seed: int, folder: Path, out: Path) -> None:
    """Writes what a seed's generators score on validation with other noise, none, and more
    steps.
    """
    lines: list[dict] = []
    for name, steps, z in NOISE_STUDY:
        row = miniature.train(name, profile, seed, folder / "trackers")
        whole, _ = miniature.scores(row, "val", steps=steps, noise=z)
        for line in score_lines(name, whole, {}):
            noise = "none" if z is None else z
            own = {"row": name, "steps": steps, "z": noise}
            lines.append({**own, "sequence": line["sequence"], "SR": line["SR"]})
    videos = miniature.sequences(profile, "val")
    path = out / f"{profile}-noise-seed{seed}.csv"
    write_scores(lines, path, profile, seed, videos, split="val")


def score_lines(name: str, whole: Scores, by_attribute: Mapping[str, Scores]) -> list[dict]:
    """Returns lines for a CSV from one tracker's scores: each sequence, whole and over the frames
    of each attribute.
    """
    lines = []
    for subset, scores in {"ALL": whole, **by_attribute}.items():
        for k, sequence in enumerate(scores.sequences):
            line = {"row": name, "subset": subset, "sequence": sequence}
            line["frames"] = int(scores.n_frames[k])
            line.update({m: float(f"{v[k]:.6g}") for m, v in scores.values.items()})
            lines.append(line)
    return lines


def write_scores(
    lines: list[dict],
    path: Path,
    profile: str,
    seed: int,
    videos: list[Sequence],
    split: str = "test",
) -> None:
    """Writes a seed's scores as CSV. The first line names what they were measured on; nothing in
    the file depends on when or where.
    """
    import pandas as pd

    with atomic_write(path) as file:
        of = f"{split} videos {synthetic.fingerprint(videos)}"
        file.write(f"# miniature, profile {profile}, seed {seed}, {of}\n")
        pd.DataFrame(lines).to_csv(file, index=False, lineterminator="\n")


def note_provenance(
    path: Path,
    table: str,
    profile: str,
    keys: Mapping[str, str],
    chosen: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Writes what a stored file was made from: configurations, choices, code, machine, versions."""
    if chosen is None:
        chosen = chosen_for(table, profile)
    record = {"profile": profile, "code": code_of(table), "configurations": keys}
    record.update({"choices": chosen, "made": now(), "commit": git_commit()})
    record.update({"device": compute.describe(compute.device()), "versions": versions()})
    write_json(path, record)


def chosen_for(table: str, profile: str) -> dict[str, dict[str, float]]:
    """Returns the plans that a table's rows keep under a profile."""
    every = choices(TABLES[table].folder, profile)
    return {name: plan for name, plan in every.items() if name in TABLES[table].rows}


def code_of(table: str) -> str:
    """Returns a hash of the present code that a table's numbers depend on, from frames to
    scores.
    """
    modules = {"gmmt.experiment", "gmmt.predictions", "gmmt.study.scoring"}
    for name in TABLES[table].rows:
        row = miniature.config(name, "smoke")
        modules.add(module_of(row.tracker))
        if row.generator is not None:
            modules.add(module_of(row.generator.network))
            if row.generator.discriminator is not None:
                modules.add(module_of(row.generator.discriminator))
    return code_hash(*modules)


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Provenance:
    """What all seeds of a stored table have in common, and what may differ between them."""

    seeds: tuple[int, ...]
    videos: str  # hash of the test videos
    codes: tuple[str, ...]  # of the code, one for each seed
    choices: Mapping[str, Mapping[str, float]]


def read_table(table: str = "2", profile: str = "cpu"):
    """Returns the stored scores of all seeds of a table as a DataFrame: seed, row, subset,
    sequence, frames, PR, NPR, SR.

    FileNotFoundError: nothing is stored. ResultFileError, StoredError: see `read_folder`.
    """
    return read_folder(folder_of(table), profile)[0]


def folder_of(table: str) -> Path:
    """Returns the folder of a table's stored results."""
    return stored_results_dir() / TABLES[table].folder


def read_folder(folder: Path, profile: str = "cpu"):
    """Returns (scores as a DataFrame, Provenance) of all seeds stored in a folder.

    FileNotFoundError: nothing is stored. ResultFileError: a file does not say what it should.
    StoredError: files are of different videos, rows, choices or code, or one does not say what it
    was made from.
    """
    import pandas as pd

    tables, records, videos = [], [], []
    paths = sorted(folder.glob(f"{profile}-seed*.csv"), key=lambda path: _seed_of(path, profile))
    for path in paths:
        seed = _seed_of(path, profile)
        head = path.read_text(encoding="utf-8").partition("\n")[0]
        start, _, own_videos = head.rpartition(" ")
        expected = f"# miniature, profile {profile}, seed {seed}, test videos"
        if start != expected:
            raise ResultFileError(f"{path}, line 1: expected '{expected} HASH', not {head!r}")
        scores = pd.read_csv(path, comment="#")
        record = read_json(path.with_suffix(".json"))
        if record is None or not {"code", "choices", "configurations"} <= set(record):
            raise StoredError(
                f"{path.with_suffix('.json')}: missing, damaged, or without code, choices and "
                f"configurations; expected what {path.name} was made from: make both anew "
                f"(make table SEED={seed})"
            )
        tables.append(scores.assign(seed=seed))
        records.append(record)
        videos.append(own_videos)
        _must_belong(path, tables, records, videos)
    if not tables:
        raise FileNotFoundError(
            f"{folder}: there is no {profile}-seed*.csv; `make table SEED=0,1` makes them"
        )
    codes = tuple(record["code"] for record in records)
    found = Provenance(
        tuple(_seed_of(path, profile) for path in paths), videos[0], codes, records[0]["choices"]
    )
    return pd.concat(tables, ignore_index=True), found


def _seed_of(path: Path, profile: str) -> int:
    text = path.stem.removeprefix(f"{profile}-seed")
    if not text.isdigit():
        raise ResultFileError(f"{path}: expected a name like {profile}-seed0.csv")
    return int(text)


def _must_belong(path: Path, tables: list, records: list[dict], videos: list[str]) -> None:
    """Raises StoredError if the last file does not belong to the first."""
    keys = ["row", "subset", "sequence"]
    seed = int(tables[-1]["seed"].iloc[0])
    anew = f"make it anew (make table SEED={seed}), or take it away"
    if videos[-1] != videos[0] or not tables[-1][keys].equals(tables[0][keys]):
        raise StoredError(
            f"{path}: other rows or videos ({videos[-1]}) than in the first file ({videos[0]}): "
            f"{anew}"
        )
    if records[-1]["choices"] != records[0]["choices"]:
        raise StoredError(f"{path.with_suffix('.json')}: other choices than in the first: {anew}")
    if not same_weights(records[-1]["code"], records[0]["code"]):
        raise StoredError(
            f"{path.with_suffix('.json')}: made by code {records[-1]['code']}, the first one by "
            f"{records[0]['code']}, and {SAME_WEIGHTS} does not say that these were shown to give "
            f"the same weights: {anew}"
        )


def shown_the_same(code: str) -> set[str]:
    """Returns all codes that were shown to give the same weights as `code`, itself among them."""
    path = stored_results_dir() / SAME_WEIGHTS
    groups: list[set[str]] = []
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        groups = [set(record["codes"]) for record in content["records"]]
    same, before = {code}, set()
    while same != before:
        before = set(same)
        for group in groups:
            if group & same:
                same |= group
    return same


def same_weights(code: str, other: str) -> bool:
    """Whether two codes are the same, or were shown to give the same weights."""
    return other in shown_the_same(code)


def standing(table: str = "2", profile: str = "cpu") -> str:
    """Returns a sentence that says how the present code stands to that which made a stored
    table.
    """
    _, provenance = read_folder(folder_of(table), profile)
    made = ", ".join(sorted(set(provenance.codes)))
    present = code_of(table)
    if present in provenance.codes:
        return f"stored seeds were made by the present code, {present}"
    if same_weights(present, provenance.codes[0]):
        return (
            f"stored seeds were made by code {made}; the present code, {present}, was shown to "
            f"give the same weights"
        )
    return (
        f"stored seeds were made by code {made}; the present code is {present}, and whether it "
        f"gives the same weights was not shown"
    )
