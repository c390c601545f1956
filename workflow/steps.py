"""What the Snakefile calls beside notebooks: rows of the miniature trained, tried, chosen, stored.

What is computed stands in gmmt/study/; here are the arguments, the clock and the words.
"""

import time
from pathlib import Path

from gmmt.files import stored_results_dir, write_json
from gmmt.study.tables import TABLES
from workflow.processes import set_environment
from workflow.progress import duration

STEPS = {
    "train": ("name", "profile", "seed", "folder"),
    "try": ("name", "profile", "index", "folder"),
    "choose": ("table", "profile", "folder", "stored"),
    "store": ("table", "profile", "seed", "folder", "stored"),
    "noise": ("profile", "seed", "folder", "stored"),
}
"""Every step with its arguments, in order."""
NUMBERS = ("seed", "index")
PATHS = ("folder", "stored")


def run_step(step: str, values: dict[str, str]) -> None:
    """Runs a step with its arguments as text."""
    # With maps of 16 x 16 two processes of one thread do more than one of two.
    set_environment(1)
    arguments = []
    for name in STEPS[step]:
        if name in NUMBERS:
            arguments.append(int(values[name]))
        elif name in PATHS:
            arguments.append(Path(values[name]))
        else:
            arguments.append(values[name])
    does = {"train": train, "try": try_plan, "choose": choose, "store": store, "noise": noise}
    does[step](*arguments)


def stored_folder(table: str) -> Path:
    """Returns where a table's choices, and the scores of its finished seeds, are kept."""
    folder = stored_results_dir() / TABLES[table].folder
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def train(name: str, profile: str, seed: int, folder: Path) -> None:
    """Trains a row of the miniature and tracks its videos, so that notebooks find both done."""
    from gmmt.study import miniature

    print(f"start  train {name}, seed {seed}", flush=True)
    clock = time.monotonic()
    row = miniature.train(name, profile, seed, folder / "trackers")
    for split in ("val", "test"):
        miniature.boxes(row, split)
    record = {"row": name, "key": row.key, "seconds": round(time.monotonic() - clock, 1)}
    write_json(folder / "status" / f"train-{name}.json", record)
    print(f"       train {name}, seed {seed}  {duration(time.monotonic() - clock)}", flush=True)


def try_plan(name: str, profile: str, index: int, folder: Path) -> None:
    """Trains a row with one plan of its grid, and scores it on validation."""
    from gmmt.study import grid

    plan, clock = grid.grid(name)[index], time.monotonic()
    print(f"start  try {name} {plan}", flush=True)
    grid.try_plan(name, profile, index, folder)
    print(f"       try {name} {plan}  {duration(time.monotonic() - clock)}", flush=True)


def choose(table: str, profile: str, folder: Path, stored: Path) -> None:
    """Stores the plan that each row of a table keeps."""
    from gmmt.study import grid

    grid.choose(table, profile, folder, stored)
    print(f"       choices for table {table}, profile {profile}, are in {stored}", flush=True)


def store(table: str, profile: str, seed: int, folder: Path, stored: Path) -> None:
    """Stores the scores of a table's rows of a seed on test."""
    from gmmt.study import stored as results

    results.store_seed(table, profile, seed, folder, stored)
    print(f"       seed {seed} is stored in {stored}", flush=True)


def noise(profile: str, seed: int, folder: Path, stored: Path) -> None:
    """Stores what a seed's generators make of other noise."""
    from gmmt.study import stored as results

    results.study_noise(profile, seed, folder, stored)
    print(f"       noise of seed {seed} is stored in {stored}", flush=True)
