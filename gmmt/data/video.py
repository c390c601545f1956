"""A real RGB-T video from a folder: two folders of images, and a text file of boxes or one box."""

import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from gmmt.data.image_folders import find_folders
from gmmt.data.images import Images
from gmmt.data.sequence import Sequence
from gmmt.data.truth import find_truth, read_truth
from gmmt.errors import SettingError

SMALLEST = 2.0  # pixels of the first box's width and height
LONGEST = 4096  # pixels of a frame's side, once it is enlarged for a small target
NARROWEST = 8  # and, at least, once it is made smaller for a large one
ASPECT = 0.02  # share by which the two cameras' aspect ratios may differ


def read_video(
    folder: Path | str, box: np.ndarray | None = None, target: float | None = 18.0
) -> tuple[Sequence, float]:
    """Reads (sequence, scale) from a folder in the layout of GTOT, RGBT234, LasHeR or VTUAV.

    See `open_video` for the sequence and `at_size` for `target` and scale; errors as there.
    """
    video, _ = open_video(*find_folders(Path(folder)), box)
    return at_size(video, target)


def open_video(
    folder: Path, rgb: Path, thermal: Path, box: np.ndarray | None = None
) -> tuple[Sequence, int]:
    """Reads (sequence, start) from folders of RGB and of thermal images, in pixels of the former.

    Thermal images are stretched to RGB's size. `box` (x, y, w, h) is the target in the first frame;
    None: a text file in `folder` says it (truth.py), and may say more. The sequence begins at image
    `start`, the first with a box.

    Raises:
        SettingError: the images of both are no pairs, or the first box cannot be one.
        GmmtError: an image cannot be read; see Images, find_truth, read_truth for more.
    """
    colors, heat = Images(rgb, "RGB"), Images(thermal, "L")
    _check_pairs(colors, heat)
    (width, height), (wide, high) = colors.size, heat.size
    if abs(wide * height / (high * width) - 1) > ASPECT:
        warnings.warn(
            f"{thermal}: images of {wide} x {high} are stretched to {width} x {height}, another "
            "shape; expected cameras that see the same frame",
            stacklevel=2,
        )
    start, present = 0, None
    if box is None:
        path = find_truth(folder, len(colors))
        boxes, present, start = read_truth(path, colors.numbers, colors.size)
        check_first_box(boxes[start], colors.size, str(path))
        boxes, present = boxes[start:], present[start:]
    else:
        check_first_box(np.asarray(box, float), colors.size, "--box")
        boxes = np.full((len(colors), 4), np.nan)
        boxes[0] = box
    way = Image.Resampling.BOX if wide > width else Image.Resampling.BILINEAR

    @lru_cache(maxsize=4)
    def frame(i: int) -> np.ndarray:
        color = np.asarray(colors.read(start + i)).transpose(2, 0, 1)
        gray = np.asarray(heat.read(start + i).resize((width, height), way))
        return np.concatenate([color, gray[None]])

    name = folder.resolve().name or "video"
    return Sequence(name, boxes, frame, (height, width), present=present), start


def at_size(video: Sequence, target: float | None) -> tuple[Sequence, float]:
    """(sequence, scale): frames and boxes resized by `scale`, so that the first box has the size
    sqrt(w h) = `target` pixels, which the miniature's trackers are made for; None: as they are.

    No frame becomes longer than LONGEST, or narrower than NARROWEST.
    """
    if target is None:
        return video, 1.0
    scale = target / float(np.sqrt(video.boxes[0, 2:].prod()))
    scale = min(scale, max(1.0, LONGEST / max(video.size)))
    scale = max(scale, NARROWEST / min(video.size))
    height, width = (round(side * scale) for side in video.size)
    way = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR

    @lru_cache(maxsize=4)
    def frame(i: int) -> np.ndarray:
        whole = video.frame(i)
        color = Image.fromarray(np.ascontiguousarray(whole[:3].transpose(1, 2, 0)))
        color = np.asarray(color.resize((width, height), way)).transpose(2, 0, 1)
        gray = np.asarray(Image.fromarray(whole[3]).resize((width, height), way))
        return np.concatenate([color, gray[None]])

    boxes, size = video.boxes * scale, (height, width)
    return Sequence(video.name, boxes, frame, size, present=video.present), scale


def check_first_box(box: np.ndarray, size: tuple[int, int], name: str) -> None:
    """SettingError, named `name`, if no target can have the box (x, y, w, h) in a frame of `size`
    (width, height); it says what the numbers look like.
    """
    (x, y, w, h), (width, height) = box, size
    fits = SMALLEST <= w <= width and SMALLEST <= h <= height
    if fits and 0 <= x + w / 2 <= width and 0 <= y + h / 2 <= height:
        return
    hint = ""
    if (np.abs(box) <= 1).all() and w > 0 and h > 0:
        hint = f". It looks normalised: multiply x, w by {width} and y, h by {height}"
    elif x < w <= width + 1 and y < h <= height + 1:
        hint = ". Are these two corners? Then w = x2 - x1, h = y2 - y1"
    numbers = ",".join(f"{value:g}" for value in box)
    raise SettingError(
        f"{name}: the first box is {numbers}; expected x, y, w, h in pixels of frames of "
        f"{width} x {height}, with its middle in the frame, no smaller than {SMALLEST:g} pixels "
        f"and no larger than the frame{hint}"
    )


def _check_pairs(rgb: Images, thermal: Images) -> None:
    """SettingError, with names, if images lack their partners; a warning where frame numbers do not
    tell.
    """
    a, b = rgb.numbers, thermal.numbers
    if a == b:
        return
    whole = isinstance(a[0], int) and isinstance(b[0], int)
    words = (
        f"{rgb.folder.parent}: {rgb.folder.name}/ has {len(a)} images numbered {a[0]} to {a[-1]}, "
    )
    words += f"{thermal.folder.name}/ has {len(b)} numbered {b[0]} to {b[-1]}"
    # Of the numberings that may be meant (the same; the first or the last with the other's) the one
    # in which most images have partners.
    shifts, pairs = [0], -1
    if whole:
        shifts += [b[0] - a[0], b[-1] - a[-1]]
    for shift in shifts:
        shifted = [number + shift for number in a] if shift else a
        common = len(set(shifted) & set(b))
        if common > pairs:
            pairs, moved = common, shifted
    if len(a) == len(b) and (_in_step(a, b) if whole else 2 * pairs <= len(a)):
        warnings.warn(
            f"{words}: taken for pairs in their order, the first with the first", stacklevel=3
        )
        return
    words += ": expected pairs with equal frame numbers"
    if 2 * pairs > min(len(a), len(b)):
        alone = [p for p, number in zip(rgb.files, moved, strict=True) if number not in b]
        alone += [p for p, number in zip(thermal.files, b, strict=True) if number not in moved]
        names = ", ".join(f"{p.parent.name}/{p.name}" for p in alone[:3])
        words += f". Without a partner in the other folder: {names}" + ", ..." * (len(alone) > 3)
        words += ". Get their partners, or remove them"
    raise SettingError(words)


def _in_step(a: list[int], b: list[int]) -> bool:
    """Whether the k-th images of both cameras may be of one moment, for all k: by clocks that begin
    anywhere, and may tick otherwise, they never move apart by a whole image.
    """
    rate = (b[-1] - b[0]) / max(1, a[-1] - a[0])
    if 0.9 < rate < 1.1:
        rate = 1.0  # one clock, and an image more or less at an end
    same, other = np.array(a, float) * rate, np.array(b, float)
    step = min(np.diff(numbers).min(initial=np.inf) for numbers in (same, other))
    return bool(np.ptp(other - same) < step)
