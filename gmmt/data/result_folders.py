"""Folders of result files, as trackers and their archives leave them: which file is whose.

Files are NAME.txt for each sequence, in the folder or below it. What stands before or after a name
(TRACKER_NAME.txt, NAME-TRACKER.txt) is found, and each sequence may have a folder (NAME/*.txt).
"""

import difflib
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gmmt.data.benchmarks import ATTRIBUTES, sequence_names
from gmmt.data.boxes import BoxFile, read_box_file
from gmmt.errors import ResultFileError

ENDINGS = (".txt", ".csv")
SIDE_FILES = (
    "time",
    "times",
    "fps",
    "confidence",
    "confidence.value",
    "all_scores",
    "object_presence_scores",
)
"""What trackers write beside their boxes (NAME_time.txt, time.txt); it is passed over."""
JOINTS = "_-. @"
"""What stands between a sequence's name and a tracker's."""
DEPTH = 5
"""Folders below the given one that are looked into."""
Places = Mapping[Path, list[Path]]  # text files by their folder


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

    def __str__(self) -> str:
        return str(self.place / self.pattern)


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
        named = [prefix + "*", *(prefix + joint + "*" for joint in JOINTS)]
        groups = [group for group in groups if group.pattern.startswith(tuple(named))]
    complete = [group for group in groups if len(group.files) == len(sequences)]
    if not complete:
        raise _what_is_missing(folder, there, groups, sequences, wanted)
    group = _choose(folder, complete, there, set(sequences))
    _warn_of_others(group, complete, there)
    return {name: group.files[name] for name in sequences}


def _text_files(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder with its text files; what systems hide, and side files, are passed over."""
    for place, folders, files in os.walk(folder, followlinks=True):
        hidden = [name for name in folders if name.startswith(".") or name == "__MACOSX"]
        deep = len(Path(place).relative_to(folder).parts) >= DEPTH
        folders[:] = [] if deep else sorted(set(folders).difference(hidden))
        found = []
        for name in sorted(files):
            stem, ending = os.path.splitext(name.lower())
            side = stem in SIDE_FILES or stem.endswith(tuple(f"_{word}" for word in SIDE_FILES))
            if ending in ENDINGS and not name.startswith(".") and not side:
                found.append(Path(place, name))
        if found:
            yield Path(place), found


def _groups(there: Places, sequences: Collection[str]) -> list[Group]:
    """All files that belong to a sequence by name, those of one pattern together."""
    groups: dict[tuple[Path, str], Group] = {}
    small = {name.lower(): name for name in sequences}

    def add(place: Path, pattern: str, name: str, path: Path) -> None:
        group = groups.setdefault((place, pattern), Group(place, pattern))
        group.files.setdefault(name, path)

    for place, paths in there.items():
        own = small.get(place.name.lower())
        for path in paths:
            stem, ending = os.path.splitext(path.name)
            for low, name in small.items():
                for pattern in _patterns(stem, low):
                    add(place, pattern + ending.lower(), name, path)
                    if name == own:
                        add(place.parent, f"*/{pattern}{ending.lower()}", name, path)
            if own is not None and own.lower() not in stem.lower():
                add(place.parent, f"*/{stem}{ending.lower()}", own, path)
    return list(groups.values())


def _patterns(stem: str, name: str) -> Iterator[str]:
    """The patterns BEFORE*AFTER by which a file's stem is that of a sequence, in any case."""
    start = stem.lower().find(name)
    while start >= 0:
        before, after = stem[:start], stem[start + len(name) :]
        if (not before or before[-1] in JOINTS) and (not after or after[0] in JOINTS):
            yield f"{before}*{after}"
        start = stem.lower().find(name, start + 1)


def _choose(folder: Path, complete: list[Group], there: Places, sequences: set[str]) -> Group:
    """The group that is meant: in the folder itself, else the only one below; plain names first."""
    # A larger benchmark's folder holds the files of a smaller one, too.
    larger = [b for b in ATTRIBUTES if sequences < set(sequence_names(b))]
    own = [group for group in complete if not _is_of(group, larger, there)]
    candidates = [group for group in complete if group.place == folder] or own or complete
    places = {group.place for group in candidates}
    plain = [group for group in candidates if group.plain]
    if len(places) == 1 and plain:
        candidates = plain[:1]
    if len(candidates) > 1:
        advice = "Give the folder of one"
        if len(places) == 1:
            advice = "Move the others away"
            if not any("/" in group.pattern for group in candidates):
                before = candidates[0].pattern.partition("*")[0]
                advice += f", or name what stands before the sequence (--prefix {before or '...'})"
        listed = ", ".join(sorted(map(str, candidates))[:6])
        raise ResultFileError(
            f"{folder}: {len(candidates)} files for each sequence: {listed}; expected one. {advice}"
        )
    return candidates[0]


def _is_of(group: Group, benchmarks: Collection[str], there: Places) -> bool:
    """Whether the files beside a group make it one of those benchmarks."""
    beside = {path.name.lower() for path in there.get(group.place, ())}
    for benchmark in benchmarks:
        names = [group.pattern.replace("*", name).lower() for name in sequence_names(benchmark)]
        if all(name in beside for name in names):
            return True
    return False


def _warn_of_others(group: Group, complete: list[Group], there: Places) -> None:
    used = set(group.files.values())
    folders = {path.parent for path in used} | {group.place}
    others = [p for place in sorted(folders) for p in there.get(place, ()) if p not in used]
    words = []
    if others:
        some = ", ".join(path.name for path in others[:3]) + ", ..." * (len(others) > 3)
        words.append(f"{len(others)} other text file{'s' * (len(others) > 1)} passed over ({some})")
    larger = [b for b in ATTRIBUTES if set(group.files) < set(sequence_names(b))]
    rivals = [g for g in complete if g.place != group.place and not _is_of(g, larger, there)]
    if rivals:
        elsewhere = ", ".join(sorted({str(rival.place) for rival in rivals})[:3])
        words.append(f"results in {elsewhere} passed over, too")
    if _is_of(group, larger, there):
        words.append(f"these are results on {larger[0]}, whose ground truth is another")
    if words:
        warnings.warn(f"{group}: {'; '.join(words)}; {len(used)} are scored", stacklevel=4)


def _what_is_missing(
    folder: Path, there: Places, groups: list[Group], sequences: list[str], wanted: str
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
    others = {other: sequence_names(other) for other in ATTRIBUTES}
    for other, names in sorted(others.items(), key=lambda item: -len(item[1])):
        most = max((len(group.files) for group in _groups(there, names)), default=0)
        if most > 0.8 * len(names) and set(names) != set(sequences):
            return ResultFileError(
                f"{folder}: {most} files are of sequences of {other}, another benchmark; {wanted}. "
                f"Score them by --benchmark {other}, or give another folder"
            )
    endings = Counter(
        path.suffix or "no ending"
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    )
    kinds = ", ".join(f"{n} of {ending}" for ending, n in sorted(endings.items())) or "none"
    names = [path.name for paths in there.values() for path in paths[:3]]
    example = f", such as {', '.join(names[:3])}" if names else ""
    some = 0 if best is None else len(best.files)
    return FileNotFoundError(
        f"{folder}: {some} of the sequences have a file; {wanted}, NAME.txt (such as "
        f"{sequences[0]}.txt), here or below. Files found: {kinds}{example}. Is it another "
        "benchmark's, or are names changed?"
    )
