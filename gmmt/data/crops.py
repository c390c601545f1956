"""Template and search patches, as SiamFC and its heirs cut them: squares with context."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gmmt.errors import SettingError

CONTEXT = 0.5
"""How much SiamFC's square adds to width and height, in shares of their sum."""


def context_side(wh: Tensor) -> Tensor:
    """SiamFC's side [B] in pixels for wh [B, 2]: sqrt((w + p)(h + p)), p = CONTEXT (w + h)."""
    return (wh + CONTEXT * wh.sum(1, keepdim=True)).prod(1).sqrt()


def area_side(wh: Tensor) -> Tensor:
    """OSTrack's side [B] in pixels for wh [B, 2]: 2 sqrt(w h), whatever the target's shape."""
    return 2 * wh.prod(1).sqrt()


@dataclass(frozen=True)
class CropRule:
    """How a tracker cuts its patches: how much of a frame they show, and what lies beyond it.

    A template shows a square of `side(wh)` frame pixels, and a search patch shows `wider` times as
    many frame pixels in each of its own. SettingError if `whole_pixels` is unknown.
    """

    template: int  # sides of both patches, in pixels of the patch
    search: int
    side: Callable[[Tensor], Tensor] = context_side  # target's wh [B, 2] -> side [B]
    fill: float | None = None  # what lies outside of a frame; None: the mean of each channel
    whole_pixels: str = "no"  # or "ostrack", "siamban": how the official code rounds the square
    wider: float = 1.0

    def __post_init__(self):
        if self.whole_pixels not in ("no", "ostrack", "siamban"):
            raise SettingError(
                f'whole_pixels is "no", "ostrack" or "siamban", not {self.whole_pixels!r}'
            )

    def cut(self, frames: Tensor, center: Tensor, wh: Tensor, size: int) -> Tensor:
        """Patches [B, C, size, size] in 0..255 of frames [B, C, H, W], around targets with `center`
        and `wh` [B, 2] in pixels; ValueError if they are not finite, or have no size, unless they
        are on a GPU, which would have to be waited for.
        """
        on_cpu = center.device.type == "cpu"
        if on_cpu and not bool((center.isfinite() & (wh > 0) & wh.isfinite()).all()):
            raise ValueError(f"expected finite centres and sizes above 0, got {center} and {wh}")
        side = self.side(wh) * (size / self.template)
        if size == self.search:
            side = side * self.wider
        if self.whole_pixels == "no":
            return crop(frames, center, side, size, self.fill)
        if self.whole_pixels == "ostrack":
            side = side.ceil()
            corner = (center - side[:, None] / 2).round()  # half to even
            frames = _lose_last(frames.float(), corner + side[:, None], self.fill)
        else:
            side = side.round()
            # floor(c - (side + 1) / 2 + 0.5), where c counts from the middle of the first pixel
            corner = (center - (side[:, None] + 1) / 2).floor()
        return crop(frames, corner + side[:, None] / 2, side, size, self.fill, within=True)

    def scale(self, wh: Tensor) -> Tensor:
        """Frame pixels [B] in one of the search patch; only OSTrack's code rounds them."""
        if self.whole_pixels == "ostrack":
            side = self.side(wh) * (self.search / self.template) * self.wider
            return side.ceil() / self.search
        return self.side(wh) / self.template * self.wider


def crop(
    frames: Tensor,
    center: Tensor,
    side: Tensor,
    size: int,
    fill: float | None = None,
    within: bool = False,
) -> Tensor:
    """Squares of frames [B, C, H, W] around `center` [B, 2] with `side` [B], in pixels, resized by
    bilinear interpolation to [B, C, size, size], float32. Pixel (0, 0) covers x and y from 0 to 1.

    Args:
        fill: what lies outside of a frame; None: the mean of each channel.
        within: nothing from outside of a square is mixed in, as if it had been cut out before it
            was resized; else interpolation goes on beyond the middles of its outermost pixels.
    """
    frames = frames.float()
    mean = frames.mean((2, 3), keepdim=True) if fill is None else fill
    height, width = frames.shape[2:]
    axis = (torch.arange(size, device=frames.device) + 0.5) / size - 0.5
    x, y = center[:, :1] + axis * side[:, None], center[:, 1:] + axis * side[:, None]
    if within:
        low, high = center - (side[:, None] - 1) / 2, center + (side[:, None] - 1) / 2
        x = x.maximum(low[:, :1]).minimum(high[:, :1])
        y = y.maximum(low[:, 1:]).minimum(high[:, 1:])
    x, y = x * (2 / width) - 1, y * (2 / height) - 1  # as grid_sample wants it: -1..1
    grid = torch.stack(
        [x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1
    )
    return F.grid_sample(frames - mean, grid.float(), align_corners=False) + mean


def _lose_last(frames: Tensor, end: Tensor, fill: float) -> Tensor:
    """Frames whose last column (row) is `fill` where a square ends, `end` [B, 2], at or beyond the
    frame's right (lower) border: there OSTrack pads by one pixel too many.
    """
    height, width = frames.shape[2:]
    right, below = end[:, 0] >= width, end[:, 1] >= height
    frames = frames.clone()
    frames[..., -1] = torch.where(right[:, None, None], fill, frames[..., -1])
    frames[..., -1, :] = torch.where(below[:, None, None], fill, frames[..., -1, :])
    return frames


def upload(values: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on a device, which is not waited for."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
