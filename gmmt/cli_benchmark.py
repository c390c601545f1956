"""Trackers on whole data sets, for the command line: gmmt track --benchmark, and the end of
gmmt train.
"""

import contextlib
import os
import shlex
import sys
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import typer

from gmmt.cli_options import place
from gmmt.errors import GmmtError, SettingError, WeightsError

CODE = ("gmmt.on_benchmark", "gmmt.data.datasets", "gmmt.build")
"""The modules on which boxes depend, with all that they import."""


@dataclass(frozen=True)
class Task:
    """What `gmmt track --benchmark` is asked for."""

    benchmark: str
    root: Path | None
    split: str | None
    part: bool
    config: Path | None
    changes: list[str]
    official: tuple[str, Path] | None
    elimination: bool | None
    out: Path | None
    export: Path | None
    steps: int
    fast: bool
    profile: str
    seed: int
    weights: Path | None


def track_benchmark(task: Task, jobs: int) -> None:
    """Tracks all sequences of a data set with a trained row or official weights, in `jobs`
    processes, each on a GPU of its own as long as there are some; then says how to score them.
    """
    if task.official is not None and (task.config is not None or task.changes):
        raise SettingError("--official and --config name two trackers; expected one of them")
    if str(task.out) == "-":
        raise SettingError("--out of a data set is a folder, not standard output")
    if jobs > 1:
        _share(task, jobs)
    folder, names = _track(task)
    if task.export is not None:
        from gmmt.on_benchmark import export

        export(folder, names, task.benchmark, folder.resolve().name, task.export)
        typer.echo(f"for the toolkit of {task.benchmark}: {task.export}")
    score = ["gmmt", "score", str(folder), "--benchmark", task.benchmark]
    if task.root is not None:
        score += ["--root", str(task.root)] + ["--part"] * task.part
        score += [] if task.split is None else ["--split", task.split]
    typer.echo(f"{len(names)} sequences in {folder}; score them: {shlex.join(score)}")


def _share(task: Task, jobs: int) -> None:
    """Runs the task in several processes at once; SettingError: one of them failed."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = given.split(",") if given else [str(k) for k in range(torch.cuda.device_count())]
    running = []
    for k in range(jobs):
        if gpus:  # a process that is started has the environment of this moment
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[k % len(gpus)]
        running.append(get_context("spawn").Process(target=_job, args=(task, k == 0)))
        running[-1].start()
    if given is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = given
    elif gpus:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    for process in running:
        process.join()
    if any(process.exitcode for process in running):
        raise SettingError("a process that tracked failed; the same command with --jobs 1 says why")


def _job(task: Task, first: bool) -> None:
    """What one of several processes does; the first shows how far all are."""
    try:
        _track(task, progress=first)
    except (GmmtError, OSError) as error:
        if first:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _track(task: Task, progress: bool = True) -> tuple[Path, list[str]]:
    """Returns the folder of results, and which sequences are in it, once all are tracked."""
    from gmmt import compute
    from gmmt.data.datasets import open_dataset
    from gmmt.files import data_dir
    from gmmt.on_benchmark import track_into

    root = (task.root or data_dir() / task.benchmark).expanduser()
    videos = open_dataset(task.benchmark, root, task.split or "test", task.part)
    tracker, mode, reading, threads, name, made_by = _tracker(task)
    made_by |= {"benchmark": task.benchmark, "split": task.split or "test", "mode": mode}
    made_by |= {"steps": task.steps, "fast": task.fast}
    _, trackers = place(task.profile, task.seed, task.weights)
    plain = not task.fast and task.steps == 1
    if not plain:
        name += "-fast" * task.fast + f"-s{task.steps}" * (task.steps != 1)
    folder = task.out or trackers.parent / "results" / task.benchmark / name
    if task.fast:
        compute.halve(tracker)
    options = {"steps": task.steps, "reading": reading, "fast": task.fast, "threads": threads}
    track_into(folder, tracker, mode, videos, made_by, progress=progress, **options)
    if task.out is None and plain and task.official is None:
        link_to(folder)
    return folder, [video.name for video in videos]


def link_to(folder: Path) -> None:
    """Makes NAME beside a folder NAME-KEY of results a link to it: the newest of that name."""
    name, _, _ = folder.name.rpartition("-")
    link = folder.with_name(name)
    if name and (link.is_symlink() or not link.exists()):
        link.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a file system without links
            link.symlink_to(folder.name, target_is_directory=True)


def _tracker(task: Task) -> tuple:
    """Returns (tracker, mode, reading, threads, name, what it is made of)."""
    from gmmt import compute, config_file
    from gmmt.data.manifest import sha256
    from gmmt.provenance import code_hash

    if task.official is not None:
        kind, path = task.official
        made_by = {"official": kind, "sha256": sha256(path), "elimination": task.elimination}
        made_by |= {"code": code_hash(*CODE), "device": compute.device().type}
        return *official_tracker(kind, path, task.elimination), f"{kind}-{path.stem}", made_by
    if task.config is None:
        raise SettingError(
            "--benchmark needs a tracker: --config FILE of a trained row, or --official KIND FILE"
        )
    changes = config_file.changes_from(task.changes)
    config = config_file.load(task.config, task.profile, changes)
    _, folder = place(task.profile, task.seed, task.weights)
    return trained_tracker(config, task.seed, folder)


def trained_tracker(config, seed: int, folder: Path) -> tuple:
    """Returns (tracker, mode, reading, threads, name, what it is made of) of a trained row;
    SettingError: it is not trained.
    """
    from gmmt import experiment

    return _as_tracked(experiment.load(config, seed, folder))


def _as_tracked(trained) -> tuple:
    """Returns the same of a row that was trained or loaded."""
    from gmmt import compute
    from gmmt.config import module_of, plain
    from gmmt.provenance import code_hash
    from gmmt.tracking import Reading

    config = trained.config
    made_by = {"weights": dict(trained.keys), "reading": plain(config.reading)}
    made_by["device"] = compute.device().type  # a GPU's noise is another
    made_by["code"] = code_hash(*CODE, module_of(config.tracker))
    name = f"{trained.name}-{trained.key}"
    reading = Reading(**config.reading)
    return trained.tracker, trained.mode, reading, config.compute.threads, name, made_by


def test_videos(config) -> tuple[str, list]:
    """Returns name and videos of the split that a row is tested on; none if it is trained on it.

    SettingError: they are not there, or what reads a score map makes no sense: to be seen before a
    training of days.
    """
    from gmmt.data import loader
    from gmmt.data.datasets import open_dataset
    from gmmt.data.layouts import dataset
    from gmmt.tracking import Reading

    Reading(**config.reading)
    data, root = config.data, loader.dataset_root(config.data)
    test = dataset(data.source, root).split("test")
    if test == dataset(data.source, root).split(data.split):
        return test, []
    return test, open_dataset(data.source, root, test, data.part)


def finish(trained) -> None:
    """Tracks and scores the test videos of the data set that a row was trained on. Every process of
    a run takes its part; the first one scores.
    """
    from accelerate import PartialState

    from gmmt import metrics, results
    from gmmt.cli_score import print_scores
    from gmmt.data import loader
    from gmmt.data.datasets import dataset_truth
    from gmmt.on_benchmark import track_into
    from gmmt.protocol import PROTOCOLS
    from gmmt.sanity import read_results

    config, folder = trained.config, trained.folder
    data, root = config.data, loader.dataset_root(config.data)
    test, videos = test_videos(config)
    if not videos:
        typer.echo(f"{data.source} has no videos that {config.name} was not trained on: no score")
        return
    tracker, mode, reading, threads, name, made_by = _as_tracked(trained)
    made_by |= {"benchmark": data.source, "split": test, "mode": mode, "steps": 1, "fast": False}
    place = folder.parent / "results" / data.source / name
    main = PartialState().is_main_process
    options = {"reading": reading, "threads": threads, "progress": main}
    track_into(place, tracker, mode, videos, made_by, **options)
    if not main:
        return
    link_to(place)
    truth = dataset_truth(data.source, root, test, data.part)
    protocol = PROTOCOLS[data.source]
    scores = metrics.score(read_results(place, truth), truth.boxes, protocol)
    scored = {config.name: scores}
    print_scores(results.comparison(scored, truth), scored, protocol.name, True)
    print(f"\nresults: {place}")


def official_tracker(kind: str, path: Path, elimination: bool | None) -> tuple:
    """Returns (tracker, mode, reading, threads) of official weights."""
    import torch

    from gmmt import compute, load_official

    tracker = load_official(kind, path, elimination=elimination).to(compute.device())
    if tracker.fusion is None:
        return tracker, next(iter(tracker.head)), None, torch.get_num_threads()
    if len(tracker.fusion.mean) != 3:
        raise WeightsError(
            f"{path}: GMMT in it wants {len(tracker.fusion.mean) - 1} conditions, of which the "
            "release defines two; expected weights of a later release"
        )
    return tracker, "stage2", None, torch.get_num_threads()
