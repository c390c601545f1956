"""gmmt score: folders of result files by a benchmark's protocol."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from gmmt.cli_options import option
from gmmt.errors import SettingError
from gmmt.files import check_writable


def score(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders with a text file of boxes for each sequence (x y w h, or 4 corners). "
            "Several are compared with the first."
        ),
    ],
    benchmark: Annotated[
        Literal["gtot", "rgbt210", "rgbt234", "lasher", "vtuav"],
        option("Whose ground truth and official protocol."),
    ],
    root: Annotated[
        Path | None, option("Take the ground truth from this folder of the data set.")
    ] = None,
    split: Annotated[str | None, option("Which split of it (default: test).")] = None,
    part: Annotated[
        bool, option("Score those sequences that are in --root, if not all are.", "--part")
    ] = False,
    by: Annotated[Literal["attribute"] | None, option("Also a row for each attribute.")] = None,
    out: Annotated[Path | None, option("Write a tidy CSV; - is standard output.")] = None,
    plot: Annotated[
        Path | None, option("Folder for curves and, with --by, attributes, as PNG and SVG.")
    ] = None,
    tracker: Annotated[
        list[str] | None, option("Name in the table, for each folder (default: the folder's).")
    ] = None,
    prefix: Annotated[
        str | None,
        option("What stands before the sequence in file names (default: found by itself)."),
    ] = None,
    changes: Annotated[
        list[str] | None, option("A convention to change: invalid_truth=size, ...", "--set")
    ] = None,
    lengths: Annotated[
        Literal["official", "clip", "pad"],
        option("Unequal lengths: the benchmark's own rule, or as --set lengths=..."),
    ] = "official",
    explain: Annotated[bool, option("Print every convention behind the numbers.")] = False,
    check: Annotated[
        bool, option("Compare boxes with the truth, in other forms and orders, before scoring.")
    ] = True,
    bootstrap: Annotated[
        int,
        option("Resamples of the sequences behind 95 % intervals; 0: none.", min=0, max=100_000),
    ] = 2000,
) -> None:
    """Score folders of result files by a benchmark's official protocol: PR, NPR, SR in percent."""
    from gmmt import metrics, protocol, results
    from gmmt.sanity import read_results

    names = _names(folders, tracker or [])
    official = protocol.PROTOCOLS[benchmark]
    chosen = official
    if lengths != "official":
        chosen = replace(official, lengths=lengths)
    chosen = protocol.changed(chosen, changes or [])
    if out is not None and str(out) != "-":
        place = out.resolve()
        inside = any(place.is_relative_to(folder.resolve()) for folder in folders)
        if inside and (place.exists() or place.suffix == ".txt"):
            raise SettingError(f"{out}: lies among the results; expected another place for --out")
        check_writable(out, "name another file with --out")
    if plot is not None:
        check_writable(plot / "success.png", "name another folder with --plot")

    truth, measured = _truth(benchmark, root, split, part), {}
    if by is not None and not truth.attributes:
        raise SettingError(f"{root}: holds no attributes of sequences; --by cannot tell them apart")
    for name, folder in zip(names, folders, strict=True):
        boxes = read_results(folder, truth, prefix, check)
        measured[name] = metrics.measure(boxes, truth.boxes, chosen)
    scored = {name: metrics.score_frames(frames, chosen) for name, frames in measured.items()}
    rows = results.comparison(scored, truth, by is not None, bootstrap)
    if out is not None:
        results.write_table(rows, out)
    if plot is not None:
        from gmmt import score_figures

        files = score_figures.draw(measured, scored, chosen, rows, plot, bootstrap)
        typer.echo(f"figures: {', '.join(str(file) for file in files)}", err=str(out) == "-")
    if str(out) == "-":
        return
    print_scores(rows, scored, chosen.name, bootstrap > 0)
    changed = [line for line in protocol.explain(chosen, official).splitlines() if "(off" in line]
    if explain:
        print(f"\n{protocol.explain(chosen, official)}")
    elif changed:
        print("\nNot the official protocol: " + "; ".join(changed))


def _truth(benchmark: str, root: Path | None, split: str | None, part: bool):
    """The ground truth: the package's, or that in a data set's folder."""
    from gmmt.data.benchmarks import ground_truth
    from gmmt.data.datasets import dataset_truth

    if root is not None:
        truth = dataset_truth(benchmark, root, split or "test", part)
        if part:
            words = f"--part: only the {len(truth.boxes)} sequences that are in {root} are scored"
            typer.echo(f"{words}; of a whole benchmark's score they say little", err=True)
        return truth
    if split is not None or part:
        raise SettingError("--split and --part are of a data set's folder: name it by --root DIR")
    if benchmark == "vtuav":
        raise SettingError("the ground truth of vtuav is in its own folder alone: --root DIR")
    return ground_truth(benchmark)


def _names(folders: list[Path], given: list[str]) -> list[str]:
    """What the folders are called in tables, each otherwise."""
    if len(given) > len(folders):
        raise SettingError(f"{len(given)} names (--tracker) for {len(folders)} folders")
    others = folders[len(given) :]
    names = [*given, *(folder.resolve().name for folder in others)]
    if len(set(names)) < len(names):
        names = [*given, *map(str, others)]
    if len(set(names)) < len(names):
        raise SettingError(
            f"two folders have one name ({', '.join(names)}); name them: --tracker A --tracker B"
        )
    return names


def print_scores(rows: list[dict], scored: Mapping, benchmark: str, intervals: bool) -> None:
    """Prints a table of scores."""
    from gmmt.metrics import METRICS

    first, *_ = scored
    n, frames = len(scored[first].sequences), scored[first].n_frames.sum()
    print(f"{', '.join(scored)} on {benchmark}: {n} sequences, {frames} frames, percent", end="")
    print(" [95 % interval]" if intervals else "", end="")
    print(f"; differences from {first} in points, paired\n" if len(scored) > 1 else "\n")
    wide = max(len(row["tracker"]) for row in rows) + 2 if len(scored) > 1 else 0
    heading = "tracker" if wide else ""
    print(f"{heading:{wide}s}{'subset':8s}{'n':>5s}  " + "".join(f"{m:22s}" for m in METRICS))
    for i in range(0, len(rows), len(METRICS)):
        row = rows[i]
        sign = "+" if row["tracker"] not in scored else ""
        cells = []
        for r in rows[i : i + len(METRICS)]:
            interval = f" [{r['low']:.1f}, {r['high']:.1f}]" if intervals else ""
            cells.append(f"{r['value']:{sign}.1f}{interval}")
        name = row["tracker"] if wide else ""
        text = f"{name:{wide}s}{row['subset']:8s}{row['n_sequences']:5d}  "
        print((text + "".join(f"{cell:22s}" for cell in cells)).rstrip())
