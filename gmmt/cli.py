"""The command line: gmmt fetch | verify | score | train | track."""

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from gmmt import __version__, provenance
from gmmt.cli_benchmark import finish, test_videos
from gmmt.cli_options import Data, Profile, Seed, Weights, option, place
from gmmt.cli_score import score
from gmmt.cli_track import track
from gmmt.data import manifest
from gmmt.errors import GmmtError, SettingError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def version(
    version: Annotated[bool, option("Print the version and the commit.", "--version")] = False,
) -> None:
    """GMMT: fetch and verify data, score results, train and track."""
    if version:
        commit = provenance.git_commit()
        print(f"gmmt {__version__}" + (f" ({commit})" if commit else ""))
        raise typer.Exit


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
    names: Annotated[list[str], typer.Argument(help="Names in data_manifests/.")],
    data: Data = None,
    root: Annotated[Path | None, option("Folder of the data set, if not in --data.")] = None,
    deep: Annotated[
        bool, option("Decode every image of an RGB-T data set, compare boxes with it.", "--deep")
    ] = False,
    part: Annotated[
        bool, option("Check those sequences that are there; the others may miss.", "--part")
    ] = False,
    jobs: Annotated[
        int | None, option("Processes for --deep (default: one a core).", min=1)
    ] = None,
) -> None:
    """Check what is in the data folder against the manifest: sizes and hashes, or the layout of a
    data set; with --deep every image and box of it, too.
    """
    from gmmt.data import verify as checks

    if root is not None and len(names) != 1:
        raise SettingError(f"--root is the folder of one data set; {len(names)} are named")
    bad = False
    for name in names:
        problems = checks.verify(name, data, root, deep, part, jobs)
        fine = "complete and unchanged"
        if not manifest.load(name).automatic:
            fine = "complete, as far as its manifest can tell"
            if part:
                fine = "what is there is whole, as far as its manifest can tell"
        for line in problems or [fine]:
            typer.echo(f"{name}: {line}", err=bool(problems))
        bad |= bool(problems)
    if bad:
        raise typer.Exit(1)


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
    log: Annotated[
        Path | None, option("Folder for TensorBoard: losses and rates, while it trains.")
    ] = None,
    profile: Profile = "auto",
    seed: Seed = 0,
    weights: Weights = None,
) -> None:
    """Train rows with all that they build on, and score them: on validation, or on the test videos
    of the data set that they are trained on. On several processes: torchrun -m gmmt.cli train ...
    """
    import torch
    from accelerate import PartialState

    from gmmt import config as configuration
    from gmmt import config_file, experiment
    from gmmt.build import start_file
    from gmmt.data import loader
    from gmmt.study import miniature

    profile, folder = place(profile, seed, weights)
    paths = [miniature.config_path(name) for name in rows or []] + list(config or [])
    if not paths:
        raise SettingError("nothing to train: name a row (gmmt train DM) or a file (--config FILE)")
    tree = config_file.changes_from(changes or [])
    for path in paths:
        row = config_file.load(path, profile, tree)
        if show:
            print(configuration.show(row), end="")
            continue
        if row.start is not None:
            start_file(row)
        if not loader.is_drawn(row.data) and profile != "smoke" and not torch.cuda.is_available():
            warnings.warn(
                "no GPU is visible to torch: at full size this row takes weeks; --profile smoke "
                "shows that it runs",
                stacklevel=1,
            )
        if not loader.is_drawn(row.data):
            test_videos(row)
        trained = experiment.train(row, seed, folder, progress=True, logs=log)
        if not loader.is_drawn(row.data):
            finish(trained)
            continue
        if not PartialState().is_main_process:
            continue  # of several processes one tracks and prints
        scores, _ = miniature.scores(trained, "val", progress=True)
        numbers = ", ".join(f"{m} {100 * scores.mean(m):.1f}" for m in scores.values)
        n = len(scores.sequences)
        print(f"{row.name}: {numbers} on {n} validation sequences of {row.data.source}")
        print(f"weights: {trained.file}")


app.command()(score)
app.command()(track)


def main() -> None:
    """Runs the command line; an error that gmmt raises on purpose, or the system's about a file,
    is one plain message and exit status 1.
    """
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        app()
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        sys.stderr.close()
        sys.exit(1)
    except (GmmtError, OSError) as error:
        words = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            words = f"{error.filename}: {error.strerror}"
        print(f"error: {words}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
