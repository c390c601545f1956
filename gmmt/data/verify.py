"""Checking what lies in the data folder against its manifest: bytes of what was fetched, layout of what a person put there."""

import os
from collections.abc import Iterator
from pathlib import Path

from gmmt.data.manifest import Manifest, changes, holds, load
from gmmt.files import data_dir


def verify(name: str, data: Path | str | None = None) -> list[str]:
    """Returns what is wrong with <data>/<name>, one line each (path, expected, what to do); an empty list means that all is well.

    Fetched files are compared by size and sha256, a data set that a person put there by its layout. A data set may be there in part:
    splits whose folder is absent are passed over as long as one is there.
    """
    manifest, target = load(name), Path(data or data_dir()) / name
    if not target.is_dir():
        return [f"{target}: no such folder; expected {manifest.title}. Run 'gmmt fetch {name}', which gets it or says where to get it"]
    check = {"weights": _check_weights, "dataset": _check_dataset}.get(manifest.kind, changes)
    return list(check(target, manifest))


def _check_weights(target: Path, manifest: Manifest) -> Iterator[str]:
    for entry in manifest["entries"]:
        advice = f"Get {entry['name']} from {entry['url'] or entry['source']}"
        for pattern in entry["files"]:
            for path in sorted(target.glob(pattern)) or [target / pattern]:
                if not holds(path, entry["bytes"], entry["sha256"]) or path.stat().st_size == 0:
                    expected = f"expected {entry['bytes'] or 'some'} bytes, sha256 {entry['sha256'] or 'not known'}, for {entry['used_by']}"
                    yield f"{path}: missing, or other content; {expected}. {advice}"


def _check_dataset(target: Path, manifest: Manifest) -> Iterator[str]:
    layout, splits = manifest["layout"], manifest["layout"]["splits"].values()
    present = [split for split in splits if (target / split["folder"]).is_dir()]
    if not present:
        folders = " and ".join(str(target / split["folder"]) for split in splits)
        yield f"{folders}: no such folder; expected {layout['tree']}. Unpack the data set so"
    names = [name for image in layout["images"] for name in image["folders"]]
    for split in present:
        folder, count, rows = target / split["folder"], split["count"], split["rows"] or {}
        there = [path for path in sorted(folder.glob("/".join("*" * split["depth"]))) if any((path / name).is_dir() for name in names)]
        there = [path for path in there if path.name in rows or not rows]
        lost = sorted(rows.keys() - {path.name for path in there})
        if lost or not there or count not in (None, len(there)):
            advice = f"Unpack the rest there (missing: {', '.join(lost[:5]) or 'not known'}{', ...' if len(lost) > 5 else ''})"
            yield f"{folder}: {len(there)} sequence folders; expected {count or 'some'} ({layout['tree']}). {advice}"
        for sequence in there:
            yield from _check_sequence(sequence, layout, rows.get(sequence.name))


def _check_sequence(sequence: Path, layout: dict, rows: int | None) -> Iterator[str]:
    """Yields what is wrong in one sequence's folder; `rows` is the number of ground-truth rows, if known."""
    images, annotations = [], []
    for image in layout["images"]:
        folders = [sequence / name for name in image["folders"]]
        folder = next(filter(Path.is_dir, folders), folders[0])
        endings = tuple(f".{ending}" for ending in image["extensions"])
        files = [file for file in os.scandir(folder) if file.name.lower().endswith(endings)] if folder.is_dir() else []
        images.append((folder, len(files), f"{image['modality']} images (*{', *'.join(endings)})"))
        for path in sorted(file.path for file in files if file.stat().st_size == 0)[:1]:
            yield f"{path}: an empty file; expected an image. Unpack the sequence again"
    for path in [sequence / name for name in layout["annotations"]]:
        text = path.read_text(encoding="latin-1") if path.is_file() else ""  # universal newlines: one file holds a lone carriage return
        annotations.append((path, sum(bool(line.strip()) for line in text.split("\n")), "rows of ground truth"))
    frames = max(number for _, number, _ in images)
    if layout["row_per_image"]:  # else image folders can only be compared with each other, and rows with what the manifest says
        rows = frames = rows or max(number for _, number, _ in annotations) or frames
    allowed = layout["differences"].get(sequence.name, 0)
    for found, expected in ((images, frames), (annotations, rows)):
        for path, number, what in found:
            if not number or (expected and allowed is not None and abs(number - expected) > allowed):
                advice = "Unpack the sequence again; 'gmmt fetch' names the known quirks"
                yield f"{path}: {number} {what}; expected {expected or 'some'}. {advice}"
