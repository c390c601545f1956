"""Folders of result files, as trackers and their archives leave them: which file is whose.

Files are NAME.txt for each sequence, in the folder or below it. What stands before or after a name
(TRACKER_NAME.txt, NAME-TRACKER.txt) is found, and each sequence may have a folder (NAME/*.txt).
"""

import difflib
import os
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gmmt.data.benchmarks import ATTRIBUTES, ground_truth
from gmmt.data.boxes import BoxFile, read_box_file
from gmmt.errors import ResultFileError

SIDE_FILES = (
    "_time",
    "_times",
    "_fps",
    "_confidence",
    "_confidence.value",
    "_all_scores",
    "_object_presence_scores",
)
"""Endings of files that trackers write beside their boxes; they are passed over."""
JOINTS = "_-. "
"""What stands between a sequence's name and a tracker's."""
DEPTH = 3
"""Folders below the given one that are looked into."""


@dataclass
class Group:
    """Files in (or one folder below) `place` whose names follow one pattern; * is a sequence."""

    place: Path
    pattern: str
    files: dict[str, Path] = field(default_factory=dict)  # by sequence

    @property
    def plain(self) -> bool:
        """Whether nothing but the sequence's name is in the pattern."""
        return self.pattern in ("*.txt", "*/*.txt")


def read_result_files(
    folder: Path | str, sequences: Collection[str], prefix: str | None = None
) -> dict[str, BoxFile]:
    """What the file of every sequence holds; arguments and errors as of `result_files`, and
    ResultFileError, with file and line, where a file is no file of boxes.
    """
    files = result_files(folder, sequences, prefix)
    return {name: read_box_file(path) for name, path in files.items()}


def result_files(
    folder: Path | str, sequences: Collection[str], prefix: str | None = None
) -> dict[str, Path]:
    """Sequence -> result file, for every sequence; other text files are passed over, and counted in
    a warning.

    `prefix` is what stands before the names; None: found by itself. FileNotFoundError: no folder,
    or no file for some sequence. ResultFileError: several files for each sequence, in one folder or
    in several; they are listed.
    """
    folder, sequences = Path(folder), list(sequences)
    wanted = f"expected a text file of boxes for each of {len(sequences)} sequences"
    if folder.is_file():
        raise ResultFileError(f"{folder}: a file; {wanted}, in a folder. Unpack it if it is packed")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; {wanted}")
    there = dict(_text_files(folder))
    groups = _groups(there, sequences)
    if prefix is not None:
        groups = [group for group in groups if group.pattern.startswith(prefix + "*")]
    complete = [group for group in groups if len(group.files) == len(sequences)]
    if not complete:
        raise _what_is_missing(folder, there, groups, sequences, wanted)
    group = _choose(folder, complete, there)
    _warn_of_others(group, there)
    return {name: group.files[name] for name in sequences}


def _text_files(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder with its text files; what systems hide, and side files, are passed over."""
    for place, folders, files in os.walk(folder):
        hidden = [name for name in folders if name.startswith(".") or name == "__MACOSX"]
        deep = len(Path(place).relative_to(folder).parts) >= DEPTH
        folders[:] = [] if deep else sorted(set(folders).difference(hidden))
        texts = [name for name in sorted(files) if name.lower().endswith(".txt")]
        found = [
            Path(place, name)
            for name in texts
            if not name.startswith(".") and not name[:-4].lower().endswith(SIDE_FILES)
        ]
        if found:
            yield Path(place), found


def _groups(there: Mapping[Path, list[Path]], sequences: Collection[str]) -> list[Group]:
    """All files that belong to a sequence by name, those of one pattern together."""
    groups: dict[tuple[Path, str], Group] = {}

    def add(place: Path, pattern: str, name: str, path: Path) -> None:
        group = groups.setdefault((place, pattern), Group(place, pattern))
        group.files.setdefault(name, path)

    for place, paths in there.items():
        own = place.name if place.name in sequences else None
        for path in paths:
            stem = path.name[:-4]
            for name in sequences:
                for pattern in _patterns(stem, name):
                    add(place, f"{pattern}.txt", name, path)
                    if name == own:
                        add(place.parent, f"*/{pattern}.txt", name, path)
            if own is not None and own not in stem:
                add(place.parent, f"*/{stem}.txt", own, path)
    return list(groups.values())


def _patterns(stem: str, name: str) -> Iterator[str]:
    """The patterns BEFORE*AFTER by which a file's stem is that of a sequence."""
    start = stem.find(name)
    while start >= 0:
        before, after = stem[:start], stem[start + len(name) :]
        if (not before or before[-1] in JOINTS) and (not after or after[0] in JOINTS):
            yield f"{before}*{after}"
        start = stem.find(name, start + 1)


def _choose(folder: Path, complete: list[Group], there: Mapping[Path, list[Path]]) -> Group:
    """The group that is meant: the nearest, with plain names, with the fewest files beside it."""

    def rank(group: Group) -> tuple:
        depth = len(group.place.relative_to(folder).parts)
        return depth, not group.plain, len(there.get(group.place, ()))

    best = min(map(rank, complete))
    first = [group for group in complete if rank(group) == best]
    if len(first) > 1:
        places = sorted(f"{group.place / group.pattern}" for group in first)
        advice = "Give the folder of one"
        if len({group.place for group in first}) == 1:
            advice = "Name what stands before the sequence (--prefix), or move one away"
        raise ResultFileError(
            f"{folder}: {len(first)} files for each sequence: {', '.join(places[:6])}; expected "
            f"one. {advice}"
        )
    return first[0]


def _warn_of_others(group: Group, there: Mapping[Path, list[Path]]) -> None:
    used = set(group.files.values())
    others = [path for path in there.get(group.place, ()) if path not in used]
    if others:
        some = ", ".join(path.name for path in others[:3]) + ", ..." * (len(others) > 3)
        count = f"{len(others)} other text file{'s' * (len(others) > 1)}"
        warnings.warn(
            f"{group.place}: {count} passed over ({some}); {len(used)} are scored", stacklevel=4
        )


def _what_is_missing(
    folder: Path,
    there: Mapping[Path, list[Path]],
    groups: list[Group],
    sequences: list[str],
    wanted: str,
) -> Exception:
    """The error that says what is missing, and what was found instead."""
    best = max(groups, key=lambda group: (len(group.files), group.plain), default=None)
    if best is not None and 2 * len(best.files) >= len(sequences):
        missing = [name for name in sequences if name not in best.files]
        path = best.place / best.pattern.replace("*", missing[0])
        more = ""
        if len(missing) > 1:
            more = f", and {len(missing) - 1} more ({', '.join(missing[1:4])}"
            more += ", ...)" if len(missing) > 4 else ")"
        left = {p.name for p in there.get(best.place, ())}
        left -= {p.name for p in best.files.values()}
        close = difflib.get_close_matches(path.name, left, n=1)
        hint = f" There is {close[0]}: rename it if it is {missing[0]}'s" if close else ""
        return FileNotFoundError(
            f"{path}: missing{more}; {wanted}. A benchmark's score needs all of them.{hint}"
        )
    others = {other: ground_truth(other).sequences for other in ATTRIBUTES}
    for other, names in sorted(others.items(), key=lambda item: -len(item[1])):
        most = max((len(group.files) for group in _groups(there, names)), default=0)
        if most > 0.8 * len(names) and set(names) != set(sequences):
            return ResultFileError(
                f"{folder}: {most} files are of sequences of {other}, another benchmark; {wanted}. "
                f"Score them by --benchmark {other}, or give another folder"
            )
    found: dict[str, int] = defaultdict(int)
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            found[path.suffix or "no ending"] += 1
    kinds = ", ".join(f"{n} of {ending}" for ending, n in sorted(found.items())) or "none"
    names = [path.name for paths in there.values() for path in paths[:3]]
    example = f", such as {', '.join(names[:3])}" if names else ""
    some = 0 if best is None else len(best.files)
    return FileNotFoundError(
        f"{folder}: {some} of the sequences have a file; {wanted}, NAME.txt (such as "
        f"{sequences[0]}.txt), here or below. Files found: {kinds}{example}. Is it another "
        "benchmark's, or are names changed?"
    )
