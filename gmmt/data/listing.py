"""What the folders of a data set hold, kept for the next time: 735,000 frames open in a second.

The listing is a file in runs/listings/, never in the data set's folder. A sequence is taken from it
as long as its folder, the folders and text files in that, and the first image have the times and
sizes that they had; otherwise it is read anew. Whatever is wrong with the file, it is made anew.
"""

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gmmt.errors import SettingError
from gmmt.files import atomic_write

KEEP_FROM = 10_000
"""Images; fewer are listed as fast as a file with their names is read."""


@dataclass(frozen=True, eq=False)
class Found:
    """A sequence as it lies in its folder."""

    folders: tuple[str, str]  # of the RGB and of the thermal images
    names: tuple[np.ndarray, np.ndarray]  # of these, in order: bytes [n], dtype S
    size: tuple[int, int]  # of an image: (H, W)
    boxes: np.ndarray  # [n, 4]
    present: np.ndarray  # bool [n]
    also: tuple[str, ...] = ()  # paths of files outside of the folder that decide this


@dataclass(frozen=True, eq=False)
class Entry:
    """A sequence in the listing."""

    found: Found
    told: list[str]  # warnings of reading it
    state: list  # of its folder and files, when it was read


def listed(
    folders: Mapping[str, Path], read: Callable[[Path], Found], file: Path, made_by: str
) -> dict[str, Found]:
    """Returns every sequence, by name, as `read` finds it in its folder, or as `file` holds it.

    `made_by` stands for the code and facts that decide what is found: what others made is not used.
    Warnings of reading are repeated. Errors are those of `read`.
    """
    from tqdm import tqdm

    kept = _load(file, made_by)
    entries = {name: kept[name] for name in folders if _is_unchanged(kept.get(name), folders[name])}
    new = [name for name in folders if name not in entries]
    for name in tqdm(new, "list", unit="sequence", leave=False, disable=len(new) < 50):
        before = _children(folders[name])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = read(folders[name])
        state = [before, _others(found, folders[name])]
        entries[name] = Entry(found, [str(warning.message) for warning in told], state)
    for name in folders:
        for words in entries[name].told:
            warnings.warn(words, stacklevel=3)
    if new and 2 * sum(len(entry.found.boxes) for entry in entries.values()) >= KEEP_FROM:
        try:
            _save(entries, file, made_by)
        except SettingError as error:
            warnings.warn(f"{error}. Without it the next opening takes as long", stacklevel=3)
    return {name: entries[name].found for name in folders}


# --- what has changed -----------------------------------------------------------------------------


def _is_unchanged(entry: Entry | None, folder: Path) -> bool:
    return entry is not None and entry.state == [_children(folder), _others(entry.found, folder)]


def _children(folder: Path) -> list:
    """[name, time, size] of all in a folder: a folder in it has a new time when a file comes or
    goes.
    """
    with os.scandir(folder) as children:
        return sorted([child.name, *_stamp(child.path)] for child in children)


def _others(found: Found, folder: Path) -> list:
    first = os.path.join(folder, found.folders[0], os.fsdecode(found.names[0][0]))
    return [_stamp(path) for path in (first, *found.also)]


def _stamp(path: str) -> list[int]:
    """[time, size] of a file or folder; zeros if there is none."""
    try:
        state = os.stat(path)
    except OSError:
        return [0, 0]
    return [state.st_mtime_ns, state.st_size]


# --- the file -------------------------------------------------------------------------------------


def _load(file: Path, made_by: str) -> dict[str, Entry]:
    """The entries of a listing; none if there is no file, a damaged one, or one of other code."""
    try:
        # A CRC of each array is checked.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
            index = json.loads(content["index"].tobytes())
            names, boxes, present = content["names"], content["boxes"], content["present"]
        if index["made_by"] != made_by:
            return {}
        entries, row, byte = {}, 0, 0
        for item in index["sequences"]:
            n, columns = item["n"], []
            for width in item["widths"]:
                columns.append(np.frombuffer(names, f"S{width}", n, byte))
                byte += n * width
            rows = slice(row, row + n)
            row += n
            found = Found(
                tuple(item["folders"]),
                tuple(columns),
                tuple(item["size"]),
                boxes[rows],
                present[rows],
                tuple(item["also"]),
            )
            entries[item["name"]] = Entry(found, item["told"], item["state"])
        return entries
    except Exception:  # a file can be damaged in every way
        return {}


def _save(entries: Mapping[str, Entry], file: Path, made_by: str) -> None:
    items = []
    for name, entry in entries.items():
        found = entry.found
        items.append(
            {
                "name": name,
                "n": len(found.boxes),
                "folders": found.folders,
                "widths": [column.itemsize for column in found.names],
                "size": found.size,
                "also": found.also,
                "told": entry.told,
                "state": entry.state,
            }
        )
    every = [entry.found for entry in entries.values()]
    index = json.dumps({"made_by": made_by, "sequences": items}).encode()
    with atomic_write(file, "wb") as opened:
        np.savez(
            opened,
            index=np.frombuffer(index, np.uint8),
            names=np.concatenate([c.view(np.uint8) for found in every for c in found.names]),
            boxes=np.concatenate([found.boxes for found in every]),
            present=np.concatenate([found.present for found in every]),
        )
