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

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
NAMES = {
    "rgb": ("visible", "rgb", "visual", "color", "colour", "vis", "v", "img_v", "img_rgb"),
    "thermal": (
        *("infrared", "thermal", "ir", "tir", "ir_gray", "lwir", "t", "i"),
        *("img_i", "img_ir", "img_t"),
    ),
}
"""What data sets call the folders of the two cameras, in small letters."""


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

    The latter are named, as they are or within `folder`, or known by NAMES there.
    SettingError: there is none; what there is, is listed.
    """
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
            place = given if given.is_dir() else folder / given
            _check_folder(place if place.is_dir() else given, f"of {kind} images (--{kind})")
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
            f"images (infrared, thermal, ir, ...). --thermal {there['depth']} reads depth as if it "
            "were thermal, which no tracker was trained for"
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

    SettingError, with names: no images, a number twice, or a name unlike the others.
    """
    files = image_files(folder)
    if not files:
        raise SettingError(f"{folder}: no images ({', '.join(ENDINGS)})")
    every = [tuple(map(int, re.findall(r"[0-9]+", path.stem))) for path in files]
    ((usual, _),) = Counter(map(len, every)).most_common(1)
    like = files[[len(digits) for digits in every].index(usual)]
    for path, digits in zip(files, every, strict=True):
        if len(digits) != usual:
            raise SettingError(
                f"{path}: a name unlike {like.name}; expected one pattern with a frame number. "
                "Rename it, or move it elsewhere"
            )
    if usual == 0:
        if len(files) > 1:
            warnings.warn(f"{folder}: names without numbers are sorted as text", stacklevel=4)
        return files, [path.stem for path in files]
    columns = [k for k in range(usual) if len({digits[k] for digits in every}) > 1]
    columns = columns or [usual - 1]  # one image, or only the same number again
    numbers = [tuple(digits[k] for k in columns) for digits in every]
    if len(columns) == 1:
        numbers = [number for (number,) in numbers]
    order = sorted(range(len(files)), key=numbers.__getitem__)
    for i, j in pairwise(order):
        if numbers[i] == numbers[j]:
            raise SettingError(
                f"{folder}: {files[i].name} and {files[j].name} have the same frame number "
                f"{numbers[i]}; expected each once. Remove one"
            )
    return [files[i] for i in order], [numbers[i] for i in order]
