"""The command line: gmmt fetch | verify | score | train | track."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from gmmt.config_file import resolve_profile
from gmmt.data import manifest
from gmmt.errors import GmmtError, SettingError
from gmmt.files import ROOT

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def option(words: str, *names: str, **more):
    """Returns typer's description of an option."""
    return typer.Option(*names, help=words, **more)


DATA = option("Folder for data (default: data/ of the checkout).", "--data", envvar="GMMT_DATA")
Data = Annotated[Path | None, DATA]
Profile = Annotated[str, option("smoke, cpu, gpu or auto.")]
Seed = Annotated[int, option("Seed of training.", min=0)]
Weights = Annotated[
    Path | None, option("Folder of trained weights (default: runs/PROFILE/seedK/trackers).")
]


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names in data_manifests/; none lists them.")
    ] = None,
    mirror: Annotated[
        Path | None, option("Take the files from here, not from the network.", envvar="GMMT_MIRROR")
    ] = None,
    data: Data = None,
) -> None:
    """Get data sets, weights or result archives by their manifests, and check every byte."""
    if not names:
        for name, m in manifest.load_all().items():
            print(f"{name:18s} {m.kind:10s} {m.title}")
    for name in names or []:
        print(f"{name}: in {manifest.fetch(name, mirror=mirror, data=data)}")


@app.command()
def verify(
    names: Annotated[list[str], typer.Argument(help="Names in data_manifests/.")], data: Data = None
) -> None:
    """Check what is in the data folder against the manifest: sizes and hashes, or the layout of a
    data set.
    """
    bad = False
    for name in names:
        problems = manifest.verify(name, data=data)
        for line in problems or ["complete and unchanged"]:
            typer.echo(f"{name}: {line}", err=bool(problems))
        bad |= bool(problems)
    if bad:
        raise typer.Exit(1)


@app.command()
def score(
    results_dir: Annotated[
        Path,
        typer.Argument(help="Folder with one text file of boxes (4 or 8 columns) per sequence."),
    ],
    benchmark: Annotated[
        Literal["gtot", "rgbt210", "rgbt234", "lasher"],
        option("Whose ground truth and official protocol."),
    ],
    by: Annotated[Literal["attribute"] | None, option("Also a row for each attribute.")] = None,
    out: Annotated[Path | None, option("Write a tidy CSV; - is standard output.")] = None,
    tracker: Annotated[str | None, option("Name in the table (default: the folder's).")] = None,
    prefix: Annotated[
        str | None,
        option("What stands before the sequence in file names (default: found by itself)."),
    ] = None,
    lengths: Annotated[
        Literal["official", "clip", "pad"], option("Unequal lengths: see gmmt.metrics.Protocol.")
    ] = "official",
    bootstrap: Annotated[
        int, option("Resamples of the sequences behind the 95 % intervals; 0 for none.", min=0)
    ] = 2000,
) -> None:
    """Score a folder of result files by a benchmark's official protocol: PR, NPR, SR in percent."""
    from gmmt import metrics, results
    from gmmt.data.benchmarks import ground_truth
    from gmmt.data.boxes import read_results

    truth, tracker = ground_truth(benchmark), tracker or results_dir.resolve().name
    protocol = replace(metrics.PROTOCOLS[benchmark], lengths=lengths)
    scores = metrics.score(
        read_results(results_dir, truth.sequences, prefix), truth.boxes, protocol
    )
    rows = results.table(scores, tracker, truth, by is not None, bootstrap)
    if out is not None:
        results.write_table(rows, out)
    if str(out) == "-":
        return
    counts = f"{len(scores.sequences)} sequences, {scores.n_frames.sum()} frames"
    print(f"{tracker} on {protocol.name}: {counts}, percent [95 % interval]\n")
    print(f"{'subset':8s}{'n':>5s}  " + "".join(f"{m:22s}" for m in metrics.METRICS))
    for i in range(0, len(rows), len(metrics.METRICS)):
        cells = [
            f"{r['value']:.1f}" + f" [{r['low']:.1f}, {r['high']:.1f}]" * (bootstrap > 0)
            for r in rows[i : i + len(metrics.METRICS)]
        ]
        print(
            f"{rows[i]['subset']:8s}{rows[i]['n_sequences']:5d}  "
            + "".join(f"{c:22s}" for c in cells)
        )


@app.command()
def train(
    rows: Annotated[
        list[str] | None,
        typer.Argument(help="Rows of the miniature's tables: RGB, TIR, Base, HEAD, RAW, DM, ..."),
    ] = None,
    config: Annotated[
        list[Path] | None, option("A configuration; a row stands for configs/miniature/ROW.yaml.")
    ] = None,
    changes: Annotated[
        list[str] | None, option("A field to change: plans.2.lam=3, data.source=...", "--set")
    ] = None,
    show: Annotated[bool, option("Print all that the row depends on, and stop.")] = False,
    profile: Profile = "auto",
    seed: Seed = 0,
    weights: Weights = None,
) -> None:
    """Train rows with all that they build on, and score them on validation. On several processes:
    torchrun -m gmmt.cli train ...
    """
    from accelerate import PartialState

    from gmmt import config as configuration
    from gmmt import config_file, experiment
    from gmmt.study import miniature

    profile, folder = _place(profile, seed, weights)
    paths = [miniature.config_path(name) for name in rows or []] + list(config or [])
    if not paths:
        raise SettingError("nothing to train: name a row (gmmt train DM) or a file (--config FILE)")
    tree = config_file.changes_from(changes or [])
    for path in paths:
        row = config_file.load(path, profile, tree)
        if show:
            print(configuration.show(row), end="")
            continue
        trained = experiment.train(row, seed, folder, progress=True)
        if not PartialState().is_main_process:
            continue  # of several processes one tracks and prints
        scores, _ = miniature.scores(trained, "val", progress=True)
        numbers = ", ".join(f"{m} {100 * scores.mean(m):.1f}" for m in scores.values)
        n = len(scores.sequences)
        print(f"{row.name}: {numbers} on {n} validation sequences of {row.data.source}")
        print(f"weights: {trained.file}")


@app.command()
def track(
    sequence: Annotated[
        Path, option("Folder with two folders of images, and a file of boxes or --box.")
    ],
    row: Annotated[str, option("Which tracker: a row of the miniature's table.")] = "DM",
    box: Annotated[str | None, option("The target in the first frame: x,y,w,h in pixels.")] = None,
    out: Annotated[
        Path | None, option("Where to write the boxes (default: SEQUENCE.txt here).")
    ] = None,
    steps: Annotated[int, option("Sampling steps of DM.", min=1)] = 1,
    profile: Profile = "auto",
    seed: Seed = 0,
    weights: Weights = None,
) -> None:
    """Track one target through a real RGB-T video with a tracker of the miniature, which is trained
    first if need be.
    """
    import numpy as np
    from tqdm import tqdm

    from gmmt import compute, metrics, tracking
    from gmmt.data.boxes import write_results
    from gmmt.data.video import read_video
    from gmmt.study import miniature

    try:
        first = None if box is None else np.array([float(v) for v in box.split(",")]).reshape(4)
    except ValueError:
        raise SettingError(
            f"--box is x,y,w,h in pixels, four numbers with commas, not {box!r}"
        ) from None
    video, scale = read_video(sequence, first)
    profile, folder = _place(profile, seed, weights)
    trained = miniature.train(row, profile, seed, folder, progress=True)
    reading = tracking.Reading(**trained.config.reading)
    with compute.threads(trained.config.compute.threads):
        found = tracking.track(trained.tracker, trained.mode, video, steps=steps, reading=reading)
        boxes = np.stack([box for box, _ in tqdm(found, f"track {video.name}", len(video))]) / scale
    out = (out or Path(f"{video.name}.txt")).with_suffix(".txt")
    write_results({out.stem: boxes}, out.parent)
    words = f"{row}: {len(boxes)} boxes in {out}"
    known = np.isfinite(video.boxes).all(1)
    known[0] = False  # it was given
    if known.any():
        overlap = metrics.overlap(boxes[known], video.boxes[known] / scale)
        words += f"; mean overlap {overlap.mean():.2f} with {len(overlap)} later annotated frames"
    print(words)


def _place(profile: str, seed: int, weights: Path | None) -> tuple[str, Path]:
    """Returns the profile that is meant, and the folder of its trained weights."""
    profile = resolve_profile(profile)
    return profile, weights or (ROOT or Path.cwd()) / "runs" / profile / f"seed{seed}" / "trackers"


def main() -> None:
    """Runs the command line; an error that gmmt raises on purpose is one plain message and exit
    status 1.
    """
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        app()
    except (GmmtError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
