"""Folders of images, as cameras and data sets leave them: which are whose, and in which order.

Importing this is cheap.
"""

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from gmmt.errors import SettingError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp")
NAMES = {
    "rgb": ("visible", "rgb", "visual", "color", "colour", "vis", "v", "img_v", "img_rgb"),
    "thermal": (
        *("infrared", "thermal", "ir", "tir", "ir_gray", "lwir", "fir", "t", "i"),
        *("img_i", "img_ir", "img_t"),
    ),
}
"""What data sets call the folders of the two cameras, in small letters."""
MINUS = re.compile(r"(^|[_= ])-[0-9]")
"""In a name: a number below zero, not a date or two numbers with a dash between."""


def is_hidden(name: str) -> bool:
    """Whether a system put a file or folder there, not a person: .DS_Store, ._1.jpg, Thumbs.db."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx")


def image_files(folder: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """The files of a folder with these endings, sorted as text, without what systems hide."""
    found = [p for p in folder.iterdir() if p.is_file() and not is_hidden(p.name)]
    return sorted(p for p in found if p.suffix.lower() in endings)


# --- which folders --------------------------------------------------------------------------------


def find_folders(
    folder: Path | None, rgb: Path | None = None, thermal: Path | None = None
) -> tuple[Path, Path, Path]:
    """(folder of the video, of its RGB images, of its thermal ones).

    The latter are named, within `folder` or, if they are not there, as they are; or known by NAMES.
    SettingError: there is none; what there is, is listed.
    """
    base = folder or Path()
    if folder is None:
        if rgb is None or thermal is None:
            raise SettingError("no video: expected --sequence DIR, or --rgb DIR and --thermal DIR")
        folder = rgb.resolve().parent
    else:
        _check_folder(folder, "with a folder of RGB images and one of thermal ones")
    found = []
    for kind, given in (("rgb", rgb), ("thermal", thermal)):
        if given is None:
            found.append(_known_folder(folder, kind))
        else:
            place = base / given if (base / given).is_dir() else given
            _check_folder(place, f"of {kind} images (--{kind})")
            if given.is_dir() and given.resolve() != place.resolve():
                warnings.warn(f"{place} is read as {kind}, not {given.resolve()}", stacklevel=3)
            found.append(place)
    if found[0].resolve() == found[1].resolve():
        raise SettingError(
            f"{found[0]}: named for RGB and for thermal images; expected two folders"
        )
    return folder, found[0], found[1]


def _check_folder(path: Path, what: str) -> None:
    if path.is_file():
        raise SettingError(
            f"{path}: a file; expected a folder {what}. A film becomes one by: "
            "ffmpeg -i FILM FOLDER/%06d.png"
        )
    if not path.is_dir():
        raise SettingError(f"{path}: there is no such folder; expected one {what}")


def _known_folder(folder: Path, kind: str) -> Path:
    every = sorted(p for p in folder.iterdir() if not is_hidden(p.name))
    there = {p.name.lower(): p for p in every if p.is_dir()}
    found = [there[name] for name in NAMES[kind] if name in there]
    if not found and kind == "thermal" and "depth" in there:
        raise SettingError(
            f"{there['depth']}: gmmt has no trackers for depth yet; expected a folder of thermal "
            f"images (infrared, thermal, ir, ...) beside it. --thermal {there['depth']} reads "
            "depth as if it were thermal, which no tracker was trained for"
        )
    if not found:
        names = ", ".join(p.name for p in every[:8]) + ", ..." * (len(every) > 8)
        raise SettingError(
            f"{folder}: no folder {' or '.join(NAMES[kind])}; there are: {names or 'none'}. "
            f"Name it: --{kind} DIR"
        )
    if len(found) > 1:
        others = ", ".join(f"{p.name}/" for p in found[1:])
        warnings.warn(
            f"{folder}: {found[0].name}/ is read as {kind}, not {others}; --{kind} names another",
            stacklevel=4,
        )
    return found[0]


# --- which order ----------------------------------------------------------------------------------


def in_order(folder: Path) -> tuple[list[Path], list]:
    """The images of a folder in the order of their frame numbers, and these: whole numbers, or
    tuples where names differ in several (a date and a time), or texts where there are none.

    Of several numbers a counter, 1, 2, 3, ..., is the frame number. A warning tells where another
    order may be meant.
    SettingError, with names: no images, a number twice, one below zero, or a name unlike the
    others.
    """
    files = image_files(folder)
    if not files:
        raise SettingError(f"{folder}: no images ({', '.join(ENDINGS)})")
    # "cam2_007v" -> "cam", "2", "_", "007", "v"
    parts = [re.split(r"([0-9]+)", path.stem) for path in files]
    every = [found[1::2] for found in parts]
    ((usual, _),) = Counter(map(len, every)).most_common(1)
    like = files[[len(digits) for digits in every].index(usual)]
    for path, digits in zip(files, every, strict=True):
        if len(digits) != usual:
            raise SettingError(
                f"{path}: a name unlike {like.name}; expected one pattern with a frame number. "
                "Rename it, or move it elsewhere"
            )
        if MINUS.search(path.stem):
            raise SettingError(
                f"{path}: a number below zero; expected frames 0, 1, 2, ... Rename it"
            )
    if usual == 0:
        if len(files) > 1:
            warnings.warn(f"{folder}: names without numbers are sorted as text", stacklevel=4)
        return files, [path.stem for path in files]
    columns = []
    for k in range(usual):
        texts = [digits[k] for digits in every]
        if k > 0 and all(found[2 * k] == "." for found in parts):
            texts = _decimals(texts)
        numbers = [int(text) for text in texts]
        if len(set(numbers)) > 1 or (not columns and k == usual - 1):
            columns.append(numbers)  # the last in any case: one image, or the same number again
    if len(columns) > 1:
        columns = _decisive(folder, columns)
    numbers = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    order = sorted(range(len(files)), key=numbers.__getitem__)
    for i, j in pairwise(order):
        if numbers[i] == numbers[j]:
            raise SettingError(
                f"{folder}: {files[i].name} and {files[j].name} have the same frame number "
                f"{numbers[i]}; expected each once. Remove one"
            )
    return [files[i] for i in order], [numbers[i] for i in order]


def _decimals(texts: list[str]) -> list[str]:
    """Numbers behind a point, with zeros at their ends where they are fractions: of several
    lengths, and none ends with 0, as a counter's 10 does.
    """
    longest = max(map(len, texts))
    if min(map(len, texts)) == longest or any(t[-1] == "0" and len(t) > 1 for t in texts):
        return texts
    return [text.ljust(longest, "0") for text in texts]


def _decisive(folder: Path, columns: list[list[int]]) -> list[list[int]]:
    """Which numbers say the order, of those that differ from name to name: the last that counts
    the images evenly, or all, the first before the second, ...
    """
    every, told = range(len(columns[0])), None
    if len(every) < 3:
        return columns
    order = sorted(every, key=list(zip(*columns, strict=True)).__getitem__)
    for column in reversed(columns):
        steps = {b - a for a, b in pairwise(sorted(column))}
        if len(steps) == 1 and 0 not in steps:
            if sorted(every, key=column.__getitem__) != order:
                told = f"the number that counts them, {min(column)}..{max(column)}, and no other"
            columns = [column]
            break
    else:
        # A number that changes more seldom than the one before it, as the month in 31-01, 01-02,
        # may be meant to come first.
        for k, (one, two) in enumerate(pairwise(columns)):
            swapped = [*columns[:k], two, one, *columns[k + 2 :]]
            other = sorted(every, key=list(zip(*swapped, strict=True)).__getitem__)
            if len(set(two)) <= len(set(one)) and other != order:
                told = "the first number that differs, then the next, ..."
    if told:
        warnings.warn(
            f"{folder}: the images are sorted by {told}. If that is not their order, rename them",
            stacklevel=5,
        )
    return columns
