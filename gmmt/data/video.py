"""A real RGB-T video from a folder: two folders of images, and a text file of boxes or one box."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from gmmt.data.boxes import read_boxes
from gmmt.data.sequence import Sequence, check_box
from gmmt.errors import GmmtError, SettingError

RGB_FOLDERS = ("visible", "rgb", "visual", "color", "v")
TIR_FOLDERS = ("infrared", "thermal", "ir", "tir", "ir_gray", "i")
BOX_FILES = ("visible", "rgb", "init", "groundtruth", "groundtruth_rect", "groundtruth_v")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp")


def read_video(
    folder: Path | str, box: np.ndarray | None = None, target: float | None = 18.0
) -> tuple[Sequence, float]:
    """Reads (sequence, scale) from a folder in the layout of GTOT, RGBT234, LasHeR or VTUAV.

    It holds a folder of RGB images and one of thermal images, equally many, and a text file with a
    box (x, y, w, h) in pixels for every frame, every k-th one, or the first; or `box` is the first.
    Frames and boxes are resized by the factor `scale` so that the first box has the size
    sqrt(w h) = `target` pixels, which the miniature's trackers are made for; None: as they are.

    Raises:
        SettingError: no such folders or files, they do not fit each other, or the box has no size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SettingError(
            f"{folder}: there is no such folder; expected one with a folder of RGB and one of TIR"
        )
    # 1. Pairs of images.
    rgb, tir = _images(folder, RGB_FOLDERS), _images(folder, TIR_FOLDERS)
    if len(rgb) != len(tir):
        raise SettingError(
            f"{folder}: {len(rgb)} RGB images in {rgb[0].parent.name}/, {len(tir)} thermal ones in "
            f"{tir[0].parent.name}/: expected pairs"
        )
    # 2. Boxes.
    boxes = np.full((len(rgb), 4), np.nan)
    if box is None:
        there = {p.stem.lower(): p for p in folder.glob("*.txt")}
        path = next((there[name] for name in BOX_FILES if name in there), None)
        if path is None:
            raise SettingError(
                f"{folder}: no text file of boxes ({', '.join(BOX_FILES)}); "
                "give the first one: --box x,y,w,h"
            )
        rows, every = read_boxes(path), len(rgb)
        if 1 < len(rows) <= len(rgb):
            every = (len(rgb) - 1) // (len(rows) - 1)  # spread evenly from the first frame on
        if len(boxes[::every]) != len(rows):
            raise SettingError(
                f"{path}: {len(rows)} boxes for {len(rgb)} frames; expected them for all, every "
                "k-th, or the first"
            )
        boxes[::every] = rows
    else:
        boxes[0] = box
    check_box(boxes[0], str(folder))
    # 3. Frames, resized, as they are asked for.
    scale = 1.0 if target is None else target / float(np.sqrt(boxes[0, 2:].prod()))
    width, height = (max(8, round(side * scale)) for side in _open(rgb[0], "RGB").size)
    way = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR

    @lru_cache(maxsize=4)
    def frame(i: int) -> np.ndarray:
        color = np.asarray(_open(rgb[i], "RGB").resize((width, height), way))
        heat = np.asarray(_open(tir[i], "L").resize((width, height), way))
        return np.concatenate([color.transpose(2, 0, 1), heat[None]])

    present = ~(boxes[:, 2:] <= 0).any(1)  # an annotated box without a size: the target is away
    size = (height, width)
    return Sequence(folder.name, boxes * scale, frame, size, present=present), scale


def _images(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Finds the images of one modality, in order."""
    there = {p.name.lower(): p for p in folder.iterdir() if p.is_dir()}
    found = next((there[name] for name in names if name in there), None)
    if found is None:
        raise SettingError(
            f"{folder}: no folder {' or '.join(names)}; there are: "
            f"{', '.join(sorted(there)) or 'none'}"
        )
    images = sorted(p for p in found.iterdir() if p.suffix.lower() in IMAGES)
    if not images:
        raise SettingError(f"{found}: no images ({', '.join(IMAGES)})")
    return images


def _open(path: Path, mode: str) -> Image.Image:
    try:
        return Image.open(path).convert(mode)
    except OSError as error:
        raise GmmtError(f"{path}: cannot be read as an image ({error}); copy it again") from None
