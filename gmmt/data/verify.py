"""What is wrong with data on a disk, by its manifest: each problem names its file, and its line.

Importing this is cheap; numpy and the images' decoders are imported by what needs them.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from gmmt.data.image_folders import image_files, is_hidden
from gmmt.data.manifest import Manifest, changes, holds, load
from gmmt.errors import GmmtError, ResultFileError, SettingError
from gmmt.files import data_dir


def verify(
    name: str,
    data: Path | str | None = None,
    root: Path | str | None = None,
    deep: bool = False,
    part: bool = False,
    jobs: int | None = None,
) -> list[str]:
    """What is wrong with <data>/<name>, a line each: path, expected, what to do.

    Fetched files are compared by size and sha256, other data sets by layout; they may be there in
    part, with the folder of one split. What is odd but no fault is a warning.

    Args:
        root: the folder of the data, if it is not <data>/<name>.
        deep: decode all images of an RGB-T data set, and compare boxes with their size.
        part: sequences that are missing are no problem.
        jobs: processes that decode (None: one for each core).
    """
    manifest, target = load(name), Path(root or Path(data or data_dir()) / name)
    if not target.is_dir():
        return [
            f"{target}: no such folder; expected {manifest.title}. Run 'gmmt fetch {name}', "
            "which gets it or says where to get it"
        ]
    if manifest.kind == "weights":
        return list(_check_weights(target, manifest))
    if manifest.kind != "dataset":
        return list(changes(target, manifest))
    problems = list(_check_dataset(target, manifest, part))
    if deep:
        told = {_place(line) for line in problems}
        found = _check_deep(target, manifest, jobs)
        problems += [line for line in found if _place(line) not in told]
    return problems


def _place(problem: str) -> str:
    """The file, and perhaps the line, that a problem is about."""
    return problem.partition(": ")[0]


def _check_weights(target: Path, manifest: Manifest) -> Iterator[str]:
    for entry in manifest["entries"]:
        advice = f"Get {entry['name']} from {entry['url'] or entry['source']}"
        for pattern in entry["files"]:
            for path in sorted(target.glob(pattern)) or [target / pattern]:
                if not holds(path, entry["bytes"], entry["sha256"]) or path.stat().st_size == 0:
                    expected = (
                        f"expected {entry['bytes'] or 'some'} bytes, sha256 "
                        f"{entry['sha256'] or 'not known'}, for {entry['used_by']}"
                    )
                    yield f"{path}: missing, or other content; {expected}. {advice}"
                elif entry["bytes"] is None and entry["sha256"] is None:
                    with path.open("rb") as file:
                        if file.read(1) not in (b"P", b"\x80"):  # a zip archive, a pickle
                            yield f"{path}: no weight file of torch, perhaps a page. {advice}"
                            continue
                    warnings.warn(
                        f"{path}: present; neither its size nor its hash is known, so its content "
                        "is not checked",
                        stacklevel=3,
                    )


# --- data sets: what lies where -------------------------------------------------------------------


def _check_dataset(target: Path, manifest: Manifest, part: bool) -> Iterator[str]:
    layout, splits = manifest["layout"], manifest["layout"]["splits"].values()
    present = [split for split in splits if (target / split["folder"]).is_dir()]
    if not present:
        folders = " and ".join(str(target / split["folder"]) for split in splits)
        yield f"{folders}: no such folder; expected {layout['tree']}. Unpack the data set so"
    for split in present:
        folder, count, rows = target / split["folder"], split["count"], split["rows"] or {}
        there = _sequences(target, layout, split)
        lost = sorted(rows.keys() - {path.name for path in there})
        incomplete = lost or count not in (None, len(there))
        if not there or (incomplete and not part):
            missing = ", ".join(lost[:5]) or "not known"
            more = ", ..." if len(lost) > 5 else ""
            yield (
                f"{folder}: {len(there)} sequence folders; expected {count or 'some'} "
                f"({layout['tree']}). Unpack the rest there (missing: {missing}{more})"
            )
        for sequence in there:
            yield from _check_sequence(sequence, layout, rows.get(sequence.name))


def _sequences(target: Path, layout: dict, split: dict) -> list[Path]:
    """The folders of a split's sequences that are there."""
    names = [name for image in layout["images"] for name in image["folders"]]
    folder, rows, there = target / split["folder"], split["rows"], []
    for path in sorted(folder.glob("/".join("*" * split["depth"]))):
        known = not rows or path.name in rows
        hidden = any(map(is_hidden, path.relative_to(folder).parts))
        if known and not hidden and any((path / name).is_dir() for name in names):
            there.append(path)
    return there


def _check_sequence(sequence: Path, layout: dict, rows: int | None) -> Iterator[str]:
    """What is wrong in a sequence's folder; `rows`: its ground truth's number of rows, if known."""
    from gmmt.data.boxes import read_boxes

    images, annotations = [], []
    for image in layout["images"]:
        folder, endings = _image_folder(sequence, image)
        files = image_files(folder, endings) if folder.is_dir() else []
        images.append((folder, len(files), f"{image['modality']} images (*{', *'.join(endings)})"))
        for path in [file for file in files if file.stat().st_size == 0][:1]:
            yield f"{path}: an empty file; expected an image. Unpack the sequence again"
    for path in [sequence / name for name in layout["annotations"]]:
        # Universal newlines: one file holds a lone carriage return.
        text = path.read_text(encoding="latin-1") if path.is_file() else ""
        number = sum(bool(line.strip()) for line in text.split("\n"))
        annotations.append((path, number, "rows of ground truth"))
        if number:
            try:
                read_boxes(path)
            except ResultFileError as error:
                yield f"{error}. Unpack the sequence again"
    frames = max(number for _, number, _ in images)
    # If rows are not images, image folders can only be compared with each other, and rows with
    # what the manifest says.
    if layout["row_per_image"]:
        rows = frames = rows or max(number for _, number, _ in annotations) or frames
    allowed = layout["differences"].get(sequence.name, 0)
    for found, expected in ((images, frames), (annotations, rows)):
        for path, number, what in found:
            differs = expected and allowed is not None and abs(number - expected) > allowed
            if not number or differs:
                advice = "Unpack the sequence again; 'gmmt fetch' names the known quirks"
                yield f"{path}: {number} {what}; expected {expected or 'some'}. {advice}"


def _image_folder(sequence: Path, image: dict) -> tuple[Path, tuple[str, ...]]:
    """(the folder of a modality's images, their endings)."""
    folders = [sequence / name for name in image["folders"]]
    folder = next(filter(Path.is_dir, folders), folders[0])
    return folder, tuple(f".{ending}" for ending in image["extensions"])


# --- data sets: every image and box ---------------------------------------------------------------


def _check_deep(target: Path, manifest: Manifest, jobs: int | None) -> list[str]:
    """What is wrong with the images and boxes of all sequences that are there."""
    from tqdm import tqdm

    from gmmt.data import decode
    from gmmt.data.layouts import KINDS, dataset

    if manifest.name not in KINDS:
        raise SettingError(
            f"--deep reads {', '.join(KINDS)}; {manifest.name} is checked without it so far"
        )
    if decode.simplejpeg is None:
        warnings.warn(
            "without simplejpeg (pip install simplejpeg) only JPEGs whose end is missing are found "
            "damaged",
            stacklevel=3,
        )
    layout, every = manifest["layout"], []
    for split in layout["splits"].values():
        every += _sequences(target, layout, split)
    jobs = min(jobs or os.cpu_count() or 1, max(1, len(every)))
    check, problems = partial(_check_content, dataset(manifest.name, target)), []
    bar = partial(tqdm, desc=f"decode {manifest.name}", total=len(every), unit="sequence")
    if jobs == 1:
        found = list(bar(map(check, every)))
    else:
        # A new process each, not a copy of this one, whose threads it could not have.
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            found = list(bar(pool.map(check, every)))
    for wrong, notes in found:
        problems += wrong
        for note in notes:
            warnings.warn(note, stacklevel=4)
    return problems


def _check_content(data, sequence: Path) -> tuple[list[str], list[str]]:
    """(problems, notes) of a sequence of a `DataSet`: its images, their sizes, pairs, and boxes."""
    link = data.manifest["downloads"][0]
    advice = f"Download {sequence.name} again: {link['url']}"
    if link["code"]:
        advice += f", code {link['code']}"
    problems, notes, sizes = [], [], {}
    for k, image in enumerate(data.layout["images"]):
        folder, endings = _image_folder(sequence, image)
        files = image_files(folder, endings) if folder.is_dir() else []
        wrong, odd, found = _check_images(files, thermal=k == 1)
        known = data.layout["damaged"].get(sequence.name, [])
        for path, words in wrong.items():
            old = " (known to be damaged in older archives)" if path.stem in known else ""
            problems.append(f"{words}{old}. {advice}")
        notes += odd
        sizes |= found
    if sizes:
        ((usual, _),) = Counter(sizes.values()).most_common(1)
        other = [path for path, size in sizes.items() if size != usual]
        for folder in sorted({path.parent for path in other}):
            first, *more = [path for path in other if path.parent == folder]
            width, height = sizes[first]
            problems.append(
                f"{first}: {width} x {height} pixels, as {len(more)} more in {folder.name}/; "
                f"expected {usual[0]} x {usual[1]} in both folders. {advice}"
            )
        problems += [f"{words}. {advice}" for words in _check_boxes(data, sequence, usual)]
    if not problems:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                data.read(sequence)
            except GmmtError as error:
                problems.append(f"{error}. {advice}")
        notes += [str(warning.message) for warning in told]
    return problems, notes


def _check_images(
    files: list[Path], thermal: bool
) -> tuple[dict[Path, str], list[str], dict[Path, tuple[int, int]]]:
    """(what is wrong, by file; notes; sizes (W, H) of those that can be read)."""
    import numpy as np

    from gmmt.data.decode import read_image
    from gmmt.data.images import FALSE_COLORS

    wrong, sizes, blank, false = {}, {}, [], []
    for path in files:
        try:
            pixels = read_image(path, "RGB")
        except GmmtError as error:
            wrong[path] = str(error)
            continue
        sizes[path] = (pixels.shape[1], pixels.shape[0])
        some = pixels[::8, ::8]
        if (some == some[0, 0]).all() and (pixels == pixels[0, 0]).all():
            blank.append(path)
        elif thermal and np.ptp(some.astype(np.int16), axis=2).mean() > FALSE_COLORS:
            false.append(path)
    notes = []
    for paths, what in ((blank, "of one colour"), (false, "in false colours")):
        if paths:
            notes.append(
                f"{paths[0]}: {what}, the first of {len(paths)} such images of {len(files)}"
            )
    return wrong, notes, sizes


def _check_boxes(data, sequence: Path, size: tuple[int, int]) -> Iterator[str]:
    """The first box of each file that lies wholly outside of frames of `size` (W, H)."""
    width, height = size
    for path in [sequence / name for name in data.layout["annotations"]]:
        try:
            boxes = data.rows(path)
        except (OSError, ResultFileError):
            continue  # said by _check_sequence
        x, y, w, h = boxes.T
        outside = (x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0)
        rows = (outside & (w > 0) & (h > 0)).nonzero()[0]
        if len(rows):
            text = path.read_text(encoding="utf-8-sig").split("\n")
            lines = [number for number, line in enumerate(text, start=1) if line.strip()]
            box = ",".join(f"{value:g}" for value in boxes[rows[0]])
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            yield (
                f"{path}, line {lines[rows[0]]}: the box {box} lies wholly outside of the frame"
                f"{more}; expected one within {width} x {height}"
            )
