"""gmmt track: one target through a real RGB-T video, or all sequences of a data set."""

import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer

from gmmt.cli_benchmark import Task, official_tracker, track_benchmark
from gmmt.cli_options import Profile, Seed, Weights, option, place
from gmmt.errors import SettingError
from gmmt.files import atomic_write, check_writable

STEPS_A_MINUTE = 480  # README: `gmmt train Base DM --profile cpu`, 4800 steps, in about 10 min


def track(
    sequence: Annotated[
        Path | None,
        option("Folder with one of RGB images, one of thermal images, and a file of boxes."),
    ] = None,
    rgb: Annotated[Path | None, option("Folder of RGB images, if it is not found.")] = None,
    thermal: Annotated[Path | None, option("Folder of thermal images, if it is not found.")] = None,
    box: Annotated[str | None, option("The target in the first frame: x,y,w,h in pixels.")] = None,
    row: Annotated[
        str | None, option("Which tracker: a row of the miniature's tables (default: DM).")
    ] = None,
    official: Annotated[
        tuple[str, Path] | None,
        option("Or official weights: ostrack, vipt or tbsi, and their file.", metavar="KIND FILE"),
    ] = None,
    elimination: Annotated[
        bool | None,
        option("Whether an official OSTrack drops tokens.", "--elimination/--no-elimination"),
    ] = None,
    benchmark: Annotated[
        Literal["gtot", "rgbt210", "rgbt234", "lasher", "vtuav"] | None,
        option("All sequences of a data set, into a folder of result files."),
    ] = None,
    root: Annotated[Path | None, option("The data set's folder (default: data/NAME).")] = None,
    split: Annotated[str | None, option("Which split of it (default: test).")] = None,
    part: Annotated[
        bool, option("Track those sequences that are there, if not all are.", "--part")
    ] = False,
    config: Annotated[
        Path | None, option("Of a data set: the configuration of a trained row.")
    ] = None,
    changes: Annotated[
        list[str] | None, option("A field of it to change, as in its training.", "--set")
    ] = None,
    jobs: Annotated[int, option("Of a data set: processes that share the work.", min=1)] = 1,
    export: Annotated[
        Path | None,
        option(
            "Of a data set: also write files that its own toolkit reads, here; the tracker's name "
            "in theirs is that of the folder of results."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "Where to write the boxes; - is standard output (default: a new NAME.txt here; of a "
            "data set a folder, in runs/)."
        ),
    ] = None,
    video: Annotated[Path | None, option("Also a film of them: FILE.mp4 or FILE.gif.")] = None,
    steps: Annotated[int, option("Sampling steps of GMMT, 1 to 1000.")] = 1,
    fast: Annotated[
        bool, option("Weights in bf16; a GPU's work is recorded once and repeated.")
    ] = False,
    profile: Profile = "auto",
    seed: Seed = 0,
    weights: Weights = None,
) -> None:
    """Track one target through a real RGB-T video, with official weights or with a tracker of the
    miniature, which is trained first if need be; or all sequences of a data set (--benchmark).
    """
    if benchmark is not None:
        for name, value in (("sequence", sequence), ("rgb", rgb), ("thermal", thermal)):
            _refuse(value, f"--{name}")
        for name, value in (("box", box), ("row", row), ("video", video)):
            _refuse(value, f"--{name}")
        _check_steps(steps)
        task = Task(
            *(benchmark, root, split, part, config, changes or [], official, elimination),
            *(out, export, steps, fast, profile, seed, weights),
        )
        track_benchmark(task, jobs)
        return
    if config is not None or root is not None or export is not None or jobs > 1:
        raise SettingError("--config, --root, --jobs and --export are of a data set: --benchmark")
    import numpy as np
    from tqdm import tqdm

    from gmmt import compute, metrics, tracking
    from gmmt.data import movie
    from gmmt.data.image_folders import find_folders
    from gmmt.data.video import at_size, open_video

    # 1. What is asked for, before any work.
    try:
        first = None if box is None else np.array([float(v) for v in box.split(",")]).reshape(4)
    except ValueError:
        raise SettingError(
            f"--box is x,y,w,h in pixels, four numbers with commas, not {box!r}"
        ) from None
    _check_steps(steps)
    if row is not None and official is not None:
        raise SettingError("--row and --official name two trackers; expected one of them")
    if official is None and elimination is not None:
        raise SettingError("--elimination is of official weights: it needs --official KIND FILE")
    if official is not None and (profile, seed, weights) != ("auto", 0, None):
        raise SettingError(
            "--profile, --seed and --weights are the miniature's; --official needs none of them"
        )
    folders = find_folders(sequence, rgb, thermal)
    whole, start = open_video(*folders, first)
    if out is None:
        out = Path(f"{whole.name}.txt")
        if out.exists():
            raise SettingError(
                f"{out}: is there already; to replace it, or for another: --out FILE"
            )
    if str(out) != "-":
        _check_output(out, "--out", folders, official)
        check_writable(out, "name another place: --out FILE")
    if video is not None:
        _check_output(video, "--video", folders, official)
        movie.check_movie(video)
        if video.resolve() == out.resolve():
            raise SettingError(f"{out}: named by --out and by --video; expected two names")

    # 2. The tracker, and the track.
    if official is None:
        name, target = row or "DM", 18.0
        tracker, mode, reading, threads = _miniature(name, profile, seed, weights)
    else:
        name, target = official[0], None
        tracker, mode, reading, threads = official_tracker(*official, elimination)
    if steps != 1 and (mode != "stage2" or tracker.fusion is None):
        warnings.warn(f"{name} samples nothing: --steps changes nothing", stacklevel=2)
    small, scale = at_size(whole, target)
    if fast:
        compute.halve(tracker)
    with compute.threads(threads):
        found = tracking.track(tracker, mode, small, steps=steps, reading=reading, fast=fast)
        boxes = np.stack([box for box, _ in tqdm(found, f"track {small.name}", len(small))]) / scale

    # 3. What was found. Frames before the first box have none.
    rows = np.concatenate([np.zeros((start, 4)), boxes])
    lines = [",".join(f"{value:.4f}" for value in row) + "\n" for row in rows]
    if str(out) == "-":
        sys.stdout.writelines(lines)
    else:
        with atomic_write(out) as file:
            file.writelines(lines)
    if video is not None:
        from gmmt import plot

        color = plot.COLORS.get(name, plot.COLORS["fused"])
        movie.write_movie(video, whole, boxes, name, color, start)
    words = f"{name}: {len(rows)} boxes in {out}" + f", film in {video}" * (video is not None)
    known = np.isfinite(whole.boxes).all(1)
    known[0] = False  # it was given
    if known.any():
        overlap = metrics.overlap(boxes[known], whole.boxes[known])
        words += f"; mean overlap {overlap.mean():.2f} with {len(overlap)} later annotated frames"
    typer.echo(words, err=str(out) == "-")


def _check_steps(steps: int) -> None:
    if not 1 <= steps <= 1000:
        raise SettingError(f"--steps is 1 to 1000, not {steps}")


def _refuse(value, name: str) -> None:
    if value is not None:
        raise SettingError(f"{name} is of one video; --benchmark tracks a data set's own")


def _check_output(
    path: Path, name: str, folders: tuple[Path, ...], official: tuple[str, Path] | None
) -> None:
    """SettingError if a file to be written would replace an input, or be read as one next time."""
    from gmmt.data import truth

    if path.as_posix() in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        raise SettingError(f"{path}: expected a file. For standard output use --out -")
    place, (folder, *inputs) = path.resolve(), folders
    if official is not None:
        inputs.append(official[1])
    as_truth = place.parent == folder.resolve() and place.stem.lower() in truth.EVERY_FILE
    if as_truth or any(place.is_relative_to(found.resolve()) for found in inputs):
        raise SettingError(
            f"{path}: an input, or a place where it would be taken for one; expected another file. "
            f"Name it: {name} FILE"
        )


def _miniature(name: str, profile: str, seed: int, weights: Path | None) -> tuple:
    """Returns (tracker, mode, reading, threads) of a row, after saying what is to be trained."""
    from gmmt import experiment, tracking
    from gmmt.study import miniature

    profile, folder = place(profile, seed, weights)
    missing = experiment.steps_left(miniature.config(name, profile), seed, folder)
    if missing:
        steps = sum(missing.values())
        minutes = f"about {max(1, round(steps / STEPS_A_MINUTE))} min on two cores"
        how_long = {"smoke": "seconds", "cpu": minutes}.get(profile, "a time not yet measured")
        words = f"profile {profile}: trains {', '.join(missing)} first ({steps} steps, {how_long})"
        typer.echo(f"{words}; weights: {folder}", err=True)
    if profile == "smoke":
        warnings.warn("weights of profile smoke only show that all runs", stacklevel=2)
    trained = miniature.train(name, profile, seed, folder, progress=True)
    reading = tracking.Reading(**trained.config.reading)
    return trained.tracker, trained.mode, reading, trained.config.compute.threads
