"""Checking what lies in the data folder against its manifest: bytes of what was fetched, layout of what a person put there."""

import os
from collections.abc import Iterator
from pathlib import Path

from gmmt.data.manifest import STAMP, Manifest, files_in, load, sha256, stamped
from gmmt.files import data_dir


def verify(name: str, data: Path | str | None = None) -> list[str]:
    """Returns what is wrong with <data>/<name>, one line each (path, expected, what to do); an empty list means that all is well.

    Fetched files are compared by size and sha256, a data set that a person put there by its layout. A data set may be there in part:
    splits whose folder is absent are passed over as long as one is there.
    """
    manifest = load(name)
    target = (Path(data) if data else data_dir()) / name
    if not target.is_dir():
        advice = "get it" if manifest.automatic else "read where to get it and where to put it"
        return [f"{target}: no such folder; expected {manifest.title}. Run 'gmmt fetch {name}' to {advice}"]
    if manifest.automatic:
        return list(_check_fetched(manifest, target))
    return list(_check_weights(manifest, target) if manifest.kind == "weights" else _check_dataset(manifest, target))


def _check_fetched(manifest: Manifest, target: Path) -> Iterator[str]:
    advice = f"Delete {target} and run 'gmmt fetch {manifest.name}'"
    expected = stamped(target, manifest)
    if expected is None:
        yield f"{target / STAMP}: absent, or not of this manifest; expected the list of fetched files. {advice}"
        return
    if manifest.kind == "images":
        expected = {file["path"]: (file["bytes"], file["sha256"]) for file in manifest["files"]}
    there = {path.relative_to(target).as_posix(): path for path in files_in(target)}
    for path, (size, digest) in expected.items():
        if path not in there:
            yield f"{target / path}: missing; expected {size} bytes. {advice}"
        elif there[path].stat().st_size != size or sha256(there[path]) != digest:
            yield f"{target / path}: changed; expected {size} bytes with sha256 {digest}. {advice}"
    for path in sorted(there.keys() - expected.keys()):
        yield f"{target / path}: is no part of {manifest.name}; expected only its {len(expected)} files. Move it elsewhere"


def _check_weights(manifest: Manifest, target: Path) -> Iterator[str]:
    for entry in manifest["entries"]:
        advice = f"Get {entry['name']} from {entry['url'] or entry['source']}"
        for pattern in entry["files"]:
            found = sorted(target.glob(pattern))
            if not found:
                yield f"{target / pattern}: missing; expected the weights that {entry['used_by']} needs. {advice}"
            for path in found:
                size = path.stat().st_size
                changed = entry["sha256"] and entry["sha256"] != sha256(path)
                if size == 0 or entry["bytes"] not in (None, size) or changed:
                    yield f"{path}: other content; expected {entry['bytes'] or 'some'} bytes, sha256 {entry['sha256']}. {advice}"


def _check_dataset(manifest: Manifest, target: Path) -> Iterator[str]:
    layout = manifest["layout"]
    folders = {target / part["folder"]: part for part in layout["splits"].values()}
    present = [folder for folder in folders if folder.is_dir()]
    if not present:
        yield f"{' and '.join(map(str, folders))}: no such folder; expected {layout['tree']}. Unpack the data set so"
    for folder in present:
        depth, count, rows = (folders[folder][key] for key in ("depth", "count", "rows"))
        if rows:
            there = [folder / sequence for sequence in rows if (folder / sequence).is_dir()]
            lost = [sequence for sequence in rows if not (folder / sequence).is_dir()]
            shown = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
            if lost:
                yield f"{folder}: {len(lost)} of {len(rows)} sequence folders are missing ({shown}); expected all. Unpack them there"
        else:
            names = {name for image in layout["images"] for name in image["folders"]}
            there = [path for path in sorted(folder.glob("/".join("*" * depth))) if any((path / name).is_dir() for name in names)]
            if not there or count not in (None, len(there)):
                yield f"{folder}: {len(there)} sequence folders; expected {count or 'some'} ({layout['tree']}). Unpack the rest there"
        for sequence in there:
            yield from _check_sequence(sequence, layout, rows and rows[sequence.name])


def _check_sequence(sequence: Path, layout: dict, rows: int | None) -> Iterator[str]:
    """Yields what is wrong in one sequence's folder; `rows` is the number of ground-truth rows, if known."""
    images, annotations = {}, {}
    for image in layout["images"]:
        folder = next((sequence / name for name in image["folders"] if (sequence / name).is_dir()), sequence / image["folders"][0])
        endings = tuple(f".{ending}" for ending in image["extensions"])
        files = [file for file in os.scandir(folder) if file.name.lower().endswith(endings)] if folder.is_dir() else []
        if not files:
            yield f"{folder}: no images; expected {image['modality']} images (*{', *'.join(endings)}). Unpack the sequence again"
            continue
        images[folder] = len(files)
        for path in sorted(file.path for file in files if file.stat().st_size == 0)[:1]:
            yield f"{path}: an empty file; expected an image. Unpack the sequence again"
    for name in layout["annotations"]:
        if not (sequence / name).is_file():
            yield f"{sequence / name}: missing; expected the ground truth. Unpack it again, or take it from another release"
            continue
        with open(sequence / name, encoding="latin-1") as lines:  # universal newlines: one file holds a lone carriage return
            annotations[sequence / name] = sum(bool(line.strip()) for line in lines)
    checks = []
    if layout["row_per_image"]:
        expected = rows or next(iter(annotations.values()), None) or next(iter(images.values()), None)
        checks = [(path, number, expected) for path, number in [*images.items(), *annotations.items()]]
    else:  # then the image folders can only be compared with each other, and rows only with what the manifest says
        checks = [(path, number, next(iter(images.values()))) for path, number in images.items()]
        checks += [(path, number, rows) for path, number in annotations.items() if rows]
    allowed = layout["differences"].get(sequence.name, 0)
    for path, number, expected in checks:
        if allowed is not None and abs(number - expected) > allowed:
            what = "images" if path in images else "rows"
            yield f"{path}: {number} {what}; expected {expected}. Unpack the sequence again; 'gmmt fetch' names the known quirks"
