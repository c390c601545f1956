"""A tracker on all sequences of a data set: a folder with a result file for each of them.

It may be stopped and started again, and several processes, on one machine or on many that share the
folder, divide the work: who tracks a sequence holds its lock, and its file appears in one step.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from gmmt import compute, files, tracking
from gmmt.data.boxes import read_boxes, write_results
from gmmt.data.sequence import Sequence as Video
from gmmt.errors import SettingError
from gmmt.tracking import Reading

MADE_BY = "made_by.json"
LOCKS = ".locks"
FORMATS = {"gtot": "corners", "rgbt210": "corners", "rgbt234": "corners"}
"""Benchmarks whose toolkits read the four corners of a box; others read x, y, w, h."""


def track_into(
    folder: Path,
    tracker,
    mode: str,
    videos: Sequence[Video],
    made_by: Mapping,
    *,
    steps: int = 1,
    reading: Reading | None = None,
    fast: bool = False,
    threads: int = 1,
    progress: bool = False,
) -> None:
    """Tracks the videos that have no result file yet, and that nobody else is tracking; when it
    ends, all have one.

    `made_by` is all that boxes depend on. SettingError: the folder holds what something else made,
    or cannot be written.
    """
    claim(folder, made_by)
    left = [video for video in videos if not _is_done(folder, video)]
    bar = tqdm(total=len(videos), initial=len(videos) - len(left), disable=not progress)
    bar.set_description(f"track {folder.name}")
    options = {"steps": steps, "reading": reading, "fast": fast}
    with compute.threads(threads), bar:
        # First what is free; then what others had begun, for they may have been stopped.
        for patience in (0, -1):
            for video in list(left):
                with _alone(folder, video, patience) as mine:
                    if not mine:
                        continue
                    if not _is_done(folder, video):
                        found = tracking.track(tracker, mode, video, **options)
                        write_results({video.name: np.array([box for box, _ in found])}, folder)
                    left.remove(video)
                bar.update()


def claim(folder: Path, made_by: Mapping) -> None:
    """Writes into a folder of results what makes them. SettingError: something else made those that
    are there, or it cannot be written.
    """
    there, place = files.read_json(folder / MADE_BY), folder / MADE_BY
    if there is None:
        if folder.is_dir() and any(folder.glob("*.txt")):
            raise SettingError(
                f"{folder}: there are result files, and not what made them ({MADE_BY}); name "
                "another folder: --out DIR"
            )
        files.check_writable(place, "name another folder: --out DIR")
        files.write_json(place, dict(made_by), indent=1)
    elif there != dict(made_by):
        differing = [name for name in {**there, **made_by} if there.get(name) != made_by.get(name)]
        raise SettingError(
            f"{folder}: the results there were made otherwise ({', '.join(differing)} differ: see "
            f"{MADE_BY}); name another folder: --out DIR"
        )


def _is_done(folder: Path, video: Video) -> bool:
    """Whether a video has a result file with a row for each frame that it has by now."""
    path = folder / f"{video.name}.txt"
    return path.is_file() and path.read_bytes().count(b"\n") == len(video)


@contextmanager
def _alone(folder: Path, video: Video, patience: float) -> Iterator[bool]:
    """Whether this process has a video for itself; patience: seconds, or -1 to wait for others."""
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCKS / f"{video.name}.lock")
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        raise SettingError(
            f"{folder}: files cannot be locked there ({error}); name another folder: --out DIR"
        ) from None
    try:
        yield True
    finally:
        lock.release()


# --- the form that toolkits read ------------------------------------------------------------------


def export(folder: Path, names: Sequence[str], benchmark: str, tracker: str, out: Path) -> None:
    """Writes results as a benchmark's toolkit reads them: TRACKER_SEQUENCE.txt, with numbers apart
    by blanks, and the corners of each box in turn (GTOT, RGBT210, RGBT234), or x, y, w, h apart by
    commas (LasHeR, VTUAV).
    """
    for name in names:
        x, y, w, h = read_boxes(folder / f"{name}.txt").T
        columns, comma = (x, y, w, h), ","
        if FORMATS.get(benchmark) == "corners":
            columns, comma = (x, y, x + w, y, x + w, y + h, x, y + h), " "
        with files.atomic_write(out / f"{tracker}_{name}.txt") as file:
            for row in zip(*columns, strict=True):
                file.write(comma.join(f"{value:.4f}" for value in row) + "\n")
