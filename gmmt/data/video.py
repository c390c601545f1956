"""A real RGB-T video from a folder: two folders of images, and a text file of boxes or one box."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from gmmt.data.boxes import read_boxes
from gmmt.data.sequence import Sequence
from gmmt.data.synthetic import ATTRIBUTES
from gmmt.errors import GmmtError, SettingError

RGB_FOLDERS = ("visible", "rgb", "visual", "color", "v")
TIR_FOLDERS = ("infrared", "thermal", "ir", "tir", "ir_gray", "i")
BOX_FILES = (
    "visible.txt",
    "rgb.txt",
    "init.txt",
    "groundtruth.txt",
    "groundtruth_rect.txt",
    "groundtruth_v.txt",
)
IMAGES = (".jpg", ".jpeg", ".png", ".bmp")


def read_video(
    folder: Path | str, box: np.ndarray | None = None, target: float | None = 18.0
) -> tuple[Sequence, float]:
    """Returns (sequence, scale) of a folder in the layout of GTOT, RGBT234, LasHeR or VTUAV.

    `folder` holds a folder of RGB images and one of thermal images, equally many, and perhaps a
    text file with a box (x, y, w, h) for every frame, every k-th one, or the first; `box` is the
    first frame's, if there is no file. Frames and boxes are resized by the factor `scale` so that
    the first box has the size sqrt(w h) = `target` pixels, which the miniature's trackers are made
    for; None: as they are.
    SettingError: no such folders or files, or they do not fit each other; the message says what was
        expected.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SettingError(
            f"{folder}: there is no such folder; expected one with a folder of RGB and one of "
            "thermal images"
        )
    rgb, tir = (_images(folder, names) for names in (RGB_FOLDERS, TIR_FOLDERS))
    if len(rgb) != len(tir):
        counts = (
            f"{len(rgb)} RGB images in {rgb[0].parent.name}/, {len(tir)} thermal ones in "
            f"{tir[0].parent.name}/"
        )
        raise SettingError(f"{folder}: {counts}: expected pairs")
    boxes, rows = np.full((len(rgb), 4), np.nan), [box]
    if box is None:
        files = {p.name.lower(): p for p in folder.glob("*.txt")}
        path = next((files[name] for name in BOX_FILES if name in files), None)
        if path is None:
            raise SettingError(
                f"{folder}: no file of boxes ({', '.join(BOX_FILES)}); give the first one: "
                "--box x,y,w,h"
            )
        rows = read_boxes(path)
    every = (len(rgb) - 1) // (len(rows) - 1) if 1 < len(rows) <= len(rgb) else len(rgb)
    if len(boxes[::every]) != len(rows):
        raise SettingError(
            f"{path}: {len(rows)} boxes for {len(rgb)} frames; expected them for all, every "
            "k-th, or the first"
        )
    boxes[::every] = rows
    if not (boxes[0, 2:] > 0).all():
        raise SettingError(
            f"{folder}: the first box is {boxes[0]}; expected x, y, w, h with a width and a height"
        )
    scale = 1.0 if target is None else target / float(np.sqrt(boxes[0, 2:].prod()))
    size = tuple(max(8, round(side * scale)) for side in _open(rgb[0], "RGB").size)

    @lru_cache(maxsize=4)
    def frame(i: int) -> np.ndarray:
        way = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
        color, heat = (
            np.asarray(_open(p[i], mode).resize(size, way))
            for p, mode in ((rgb, "RGB"), (tir, "L"))
        )
        return np.concatenate([color.transpose(2, 0, 1), heat[None]])

    nothing = {name: np.zeros(len(rgb), bool) for name in ATTRIBUTES}
    return Sequence(folder.name, boxes * scale, frame, nothing), scale


def _images(folder: Path, names: tuple[str, ...]) -> list[Path]:
    there = {p.name.lower(): p for p in folder.iterdir() if p.is_dir()}
    found = next((there[name] for name in names if name in there), None)
    if found is None:
        raise SettingError(
            f"{folder}: no folder {' or '.join(names)}; there are: "
            f"{', '.join(sorted(there)) or 'none'}"
        )
    if not (images := sorted(p for p in found.iterdir() if p.suffix.lower() in IMAGES)):
        raise SettingError(f"{found}: no images ({', '.join(IMAGES)})")
    return images


def _open(path: Path, mode: str) -> Image.Image:
    try:
        return Image.open(path).convert(mode)
    except OSError as error:
        raise GmmtError(
            f"{path}: cannot be read as an image ({error}); fetch or copy it again"
        ) from None
