"""From two frames with boxes to a training item, as OSTrack (with ViPT and TBSI) and SiamBAN do it.

An item is a template [C, t, t] and a search patch [C, s, s], float32 in 0..255, and the target's
box in the search patch: float32 [4] (x1, y1, x2, y2) in pixels around its middle.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter1d
from torch import Tensor

from gmmt.config import Data
from gmmt.data.crops import context_side

Item = tuple[Tensor, Tensor, Tensor]

TEMPLATE_FACTOR = 2.0
"""The side of OSTrack's template is so many times the square root of the target's area."""
TOKEN = 16
"""OSTrack looks at every 16th pixel for what a crop shows: one for each token."""
BRIGHTNESS = 0.2
"""OSTrack's brightness goes from 1 - BRIGHTNESS to 1 + BRIGHTNESS."""
PATCH = 511
"""The side of the patches that SiamBAN cuts before training, from which it takes its crops."""
BLUR = 0.2
"""The share of SiamBAN's search patches that are blurred, and by how much:"""
BLUR_SIZES = np.arange(5, 46, 2)
COLOUR = np.array(
    [
        [-0.55919361, 0.98062831, -0.41940627],
        [1.72091413, 0.19879334, -1.82968581],
        [4.64467907, 4.73710203, 4.88324118],
    ]
)
"""SiamBAN's noise of colours: how red, green and blue answer to three unit Gaussian numbers."""


# --- cutting --------------------------------------------------------------------------------------


def cut_square(
    frame: np.ndarray, x1: int, y1: int, side: int, size: int, fill: float | None = None
) -> Tensor:
    """Returns a square of whole pixels of a frame, resized by bilinear interpolation to
    [C, size, size], float32. Nothing from outside of the square is mixed in.

    Args:
        frame: uint8 [C, H, W].
        x1, y1, side: the square's first column and row, and its side, in pixels.
        fill: what lies outside of the frame; None: the mean of each channel.
    """
    middle = _middles(side, size)
    return _sample(frame, x1 + middle, y1 + middle, fill)


def cut_rectangle(
    frame: np.ndarray, corners: np.ndarray, size: int, fill: float | None = None
) -> Tensor:
    """Returns what lies between the corners (x1, y1, x2, y2) of a rectangle in a frame, stretched
    by bilinear interpolation to [C, size, size], float32.

    The corners are where the middles of the first and the last pixel of the result are, counted
    from the middle of the frame's first pixel; for the rest see cut_square.
    """
    x1, y1, x2, y2 = corners
    return _sample(frame, np.linspace(x1, x2, size), np.linspace(y1, y2, size), fill)


def _middles(side: int, size: int) -> np.ndarray:
    """Where the middles of `size` pixels are in `side` pixels, counted from that of the first."""
    return ((np.arange(size) + 0.5) * (side / size) - 0.5).clip(0, side - 1)


def _sample(frame: np.ndarray, x: np.ndarray, y: np.ndarray, fill: float | None) -> Tensor:
    """Grey levels [C, len(y), len(x)] at columns x and rows y, counted from pixels' middles."""
    # 1. The part of the frame in which they are, so that the rest of it costs nothing, with one
    # pixel around the frame for all that is beyond.
    height, width = frame.shape[1:]
    left, right = _range(x, width)
    top, bottom = _range(y, height)
    part = np.empty((len(frame), bottom - top, right - left), np.float32)
    if left < 0 or top < 0 or right > width or bottom > height:
        part[:] = frame.mean((1, 2))[:, None, None] if fill is None else fill
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    part[:, y1 - top : y2 - top, x1 - left : x2 - left] = frame[:, y1:y2, x1:x2]
    # 2. Places in it, as grid_sample wants them: its borders are -1 and 1.
    across = torch.from_numpy((x + 0.5 - left) * (2 / (right - left)) - 1).float()
    down = torch.from_numpy((y + 0.5 - top) * (2 / (bottom - top)) - 1).float()
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)
    part = torch.from_numpy(part)[None]
    return F.grid_sample(part, grid[None], padding_mode="border", align_corners=False)[0]


def _range(x: np.ndarray, length: int) -> tuple[int, int]:
    """The first pixel that places in order, x, touch, and that after the last: -1 and `length` are
    all that is beyond a frame of this length.
    """
    first, last = math.floor(x[0]), math.floor(x[-1]) + 1
    return min(max(first, -1), length), min(max(last, -1), length) + 1


# --- OSTrack --------------------------------------------------------------------------------------


def ostrack_item(
    rng: np.random.Generator,
    template_frame: np.ndarray,
    template_box: np.ndarray,
    search_frame: np.ndarray,
    search_box: np.ndarray,
    template: int,
    search: int,
    data: Data,
    wider: float = 1.0,
) -> Item | None:
    """Returns an item of two frames uint8 [C, H, W] with boxes [4] (x, y, w, h), or None where
    OSTrack draws another: a box has no area, or a crop shows nothing of its frame.

    `template` and `search` are the crops' sides in pixels; a pixel of the latter shows `wider`
    times as much. `data` says how crops are moved and scaled, see jittered_box.
    """
    # 1. Both frames are flipped, or none.
    if rng.random() < 0.5:
        template_box = flipped(template_box, template_frame.shape[2])
        search_box = flipped(search_box, search_frame.shape[2])
        template_frame, search_frame = template_frame[:, :, ::-1], search_frame[:, :, ::-1]

    def crop_of(
        frame: np.ndarray, box: np.ndarray, size: int, shift: float, scale: float, more: float
    ) -> tuple[Tensor, np.ndarray] | None:
        if not _has_area(box):
            return None
        # 2. A crop about a box that is not quite the true one.
        about = jittered_box(box, rng.standard_normal(2), rng.random(2), shift, scale)
        factor = TEMPLATE_FACTOR * size / template * more
        side = math.ceil(math.sqrt(about[2] * about[3]) * factor)
        x1, y1 = np.round(about[:2] + about[2:] / 2 - side / 2).astype(int)  # half to even
        columns = made_of_frame(x1, side, size, frame.shape[2])
        rows = made_of_frame(y1, side, size, frame.shape[1])
        if not (columns[::TOKEN].any() and rows[::TOKEN].any()):
            return None
        crop = ostrack_crop(frame, x1, y1, side, size)
        found = box_in_crop(box, about, size / side, size)
        # 3. Its brightness is changed, and it is flipped by itself.
        crop = brightened(crop, rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS))
        if rng.random() < 0.5:
            crop, found = crop.flip(2), mirrored(found)
        return crop, found

    z = crop_of(template_frame, template_box, template, data.template_shift, data.template_scale, 1)
    x = crop_of(search_frame, search_box, search, data.search_shift, data.search_scale, wider)
    if z is None or x is None:
        return None
    return z[0], x[0], torch.from_numpy(x[1]).float()


def flipped(box: np.ndarray, width: int) -> np.ndarray:
    """Returns a box (x, y, w, h) in the mirror image of a frame; OSTrack's, one pixel too far to
    the left.
    """
    x, y, w, h = box
    return np.array([width - 1 - (x + w), y, w, h])


def mirrored(box: np.ndarray) -> np.ndarray:
    """Returns a box (x1, y1, x2, y2) around a crop's middle in the mirror image of the crop."""
    x1, y1, x2, y2 = box
    return np.array([-x2, y1, -x1, y2])


def jittered_box(
    box: np.ndarray, normal: np.ndarray, uniform: np.ndarray, shift: float, scale: float
) -> np.ndarray:
    """Returns a box (x, y, w, h) near another: its sides are multiplied by exp(`scale` * `normal`),
    then its centre moves by up to shift / 2 square roots of its area, with `uniform` in 0..1.
    """
    wh = box[2:] * np.exp(normal * scale)
    center = box[:2] + box[2:] / 2 + (uniform - 0.5) * shift * np.sqrt(wh.prod())
    return np.concatenate([center - wh / 2, wh])


def ostrack_crop(frame: np.ndarray, x1: int, y1: int, side: int, size: int) -> Tensor:
    """Returns a square of a frame, resized to [C, size, size], without what OSTrack loses."""
    bottom, right = _kept(y1, side, frame.shape[1]), _kept(x1, side, frame.shape[2])
    return cut_square(frame[:, :bottom, :right], x1, y1, side, size, fill=0.0)


def made_of_frame(start: int, side: int, size: int, length: int) -> np.ndarray:
    """Returns which of a crop's `size` columns (or rows) are made of nothing but the frame: where
    OSTrack's attention map is 0. The crop shows `side` of the frame's `length` columns, from
    `start` on.
    """
    middle = start + _middles(side, size)
    first, last = np.floor(middle), np.ceil(middle)
    return (first >= 0) & (last < _kept(start, side, length))


def _kept(start: int, side: int, length: int) -> int:
    """How many of a frame's columns (or rows) OSTrack keeps: it pads by one pixel too many, so that
    the last is lost to a square which reaches the right (or lower) border.
    """
    return length - 1 if start + side >= length else length


def box_in_crop(box: np.ndarray, about: np.ndarray, scale: float, size: int) -> np.ndarray:
    """Returns a box (x, y, w, h) of a frame as (x1, y1, x2, y2) around the middle of a crop that is
    cut about another box, `scale` pixels of the crop for one of the frame.

    To OSTrack the centre of the box `about` is (size - 1) / 2, half a pixel from the middle.
    """
    moved = box[:2] + box[2:] / 2 - about[:2] - about[2:] / 2
    center, half = moved * scale - 0.5, box[2:] / 2 * scale
    return np.concatenate([center - half, center + half])


def brightened(crop: Tensor, factor: float) -> Tensor:
    """Returns a crop whose grey levels are multiplied by a factor, and cut to 0..255."""
    return (crop * factor).clamp_(0, 255)


# --- SiamBAN --------------------------------------------------------------------------------------


def siamban_item(
    rng: np.random.Generator,
    template_frame: np.ndarray,
    template_box: np.ndarray,
    search_frame: np.ndarray,
    search_box: np.ndarray,
    template: int,
    search: int,
    data: Data,
    negative: bool = False,
) -> Item | None:
    """Returns an item of two frames uint8 [C, H, W] with boxes [4] (x, y, w, h), or None if a box
    has no area. In a negative pair there is another target; its box's corners are exchanged, which
    tells heads.labels that nothing is to be found there.

    `template` and `search` are the crops' sides in pixels; `data` says by how many of these pixels
    crops are moved, and in which share they are scaled.
    """
    if not (_has_area(template_box) and _has_area(search_box)):
        return None

    def crop_of(
        frame: np.ndarray, box: np.ndarray, size: int, shift: float, scale: float
    ) -> tuple[Tensor, np.ndarray]:
        # 1. The patch of 511 pixels about the target, and a crop in it: not cut, only computed.
        side = context_side(torch.from_numpy(box[None, 2:])).item()
        in_patch = crop511_box(box[2:], side, template)
        corners, found = shift_and_scale(in_patch, rng.uniform(-1, 1, 4), shift, scale, size)
        # 2. The crop. The middles of the patch's first and last pixel are its square's borders, so
        # that targets are by 1 / 511 smaller than their boxes.
        step = side / template * PATCH / (PATCH - 1)
        center = np.tile(box[:2] + box[2:] / 2 - 0.5, 2)
        crop = cut_rectangle(frame, center + (corners - PATCH // 2) * step, size)
        # 3. The noise of its colours; a thermal image has none.
        crop[:3] -= torch.from_numpy(COLOUR @ rng.standard_normal(3)).float()[:, None, None]
        return crop, found - (size - 1) / 2

    z, _ = crop_of(template_frame, template_box, template, data.template_shift, data.template_scale)
    x, found = crop_of(search_frame, search_box, search, data.search_shift, data.search_scale)
    if rng.random() < BLUR:
        x = blurred(x, int(rng.choice(BLUR_SIZES)), rng.random())
    if negative:
        found = found[[2, 3, 0, 1]]
    return z, x, torch.from_numpy(found).float()


def crop511_box(wh: np.ndarray, side: float, template: int) -> np.ndarray:
    """Returns the box (x1, y1, x2, y2) of a target with sides `wh` in its patch of 511 pixels,
    where a square of `side` pixels of the frame has `template`.
    """
    half = wh / 2 * (template / side)
    return PATCH // 2 + np.concatenate([-half, half])


def shift_and_scale(
    box: np.ndarray, numbers: np.ndarray, shift: float, scale: float, size: int, patch: int = PATCH
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the corners (x1, y1, x2, y2) of a crop in a patch, and where a box of the patch is in
    that crop. Both have the middles of the first and last pixels as corners.

    Args:
        box: (x1, y1, x2, y2).
        numbers: four in -1..1: for the scale of width and height, for the shift of x and y.
        shift: the largest, in pixels; the crop stays within the patch.
        scale: the largest change of a side, as a share.
        size, patch: sides of crop and patch.
    """
    middle = patch // 2
    stretch = np.minimum(1 + numbers[:2] * scale, patch / (size - 1))
    half = stretch * (size - 1) / 2
    moved = np.maximum(half - middle, np.minimum(patch - 1 - middle - half, numbers[2:] * shift))
    corners = middle + np.concatenate([moved - half, moved + half])
    return corners, (box - np.tile(corners[:2], 2)) / np.tile(stretch, 2)


def blurred(crop: Tensor, size: int, upright: float) -> Tensor:
    """Returns a crop each of whose pixels is the mean of `size` pixels of its column, with the
    weight `upright`, and of its row; beyond its borders the crop is mirrored.
    """
    column, row = (uniform_filter1d(crop.numpy(), size, axis, mode="mirror") for axis in (1, 2))
    return torch.from_numpy(upright * column + (1 - upright) * row)


def _has_area(box: np.ndarray) -> bool:
    return bool(np.isfinite(box).all() and (box[2:] > 0).all())
