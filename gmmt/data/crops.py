"""Template and search patches, as SiamFC and its heirs cut them: squares around a box with half a
box of context on each side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CONTEXT = 0.5


def context_side(wh: Tensor) -> Tensor:
    """Returns the side [B] in pixels of the square that becomes the template: sqrt((w + p)(h + p)),
    p = (w + h) / 2. wh: [B, 2].
    """
    return (wh + CONTEXT * wh.sum(1, keepdim=True)).prod(1).sqrt()


def area_side(wh: Tensor) -> Tensor:
    """Returns the side [B] of OSTrack's template: 2 sqrt(w h), whatever the target's shape. wh: [B,
    2].
    """
    return 2 * wh.prod(1).sqrt()


def crop(
    frames: Tensor, center: Tensor, side: Tensor, size: int, fill: float | None = None
) -> Tensor:
    """Returns squares [B, 4, size, size] in 0..255 around `center` [B, 2] (x, y) with `side` [B]
    pixels of frames [B, 4, H, W].

    Pixel (0, 0) covers x and y from 0 to 1, as boxes have it. What lies outside of a frame is
    `fill`, its mean unless given.
    """
    frames = frames.float()
    mean = frames.mean((2, 3), keepdim=True) if fill is None else fill
    height, width = frames.shape[2:]
    axis = (torch.arange(size, device=frames.device) + 0.5) / size - 0.5
    x = (center[:, :1] + axis * side[:, None]) * (2 / width) - 1
    y = (center[:, 1:] + axis * side[:, None]) * (2 / height) - 1
    grid = torch.stack(
        [x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1
    )
    return (
        F.grid_sample(
            frames - mean, grid.float(), mode="bilinear", padding_mode="zeros", align_corners=False
        )
        + mean
    )
