"""Small things to look at: an RGB / thermal pair, real where one is at hand, a hand-made feature map of it, and toy scenes."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gmmt.errors import GmmtError
from gmmt.files import data_dir

ROADSCENE = "FLIR_09512"
"""One of the 221 pairs of RoadScene: headlights blind the camera, and two people show in the thermal image only."""


def example_pair(name: str = ROADSCENE) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns (RGB [H, W, 3], thermal [H, W], both in 0..1, whose it is): a pair of RoadScene if it was fetched, else a rendered one."""
    root = data_dir() / "roadscene"
    paths = root / "crop_LR_visible" / f"{name}.jpg", root / "cropinfrared" / f"{name}.jpg"
    if not all(p.is_file() for p in paths):
        return (*rendered_pair(), "a rendered street (fetch roadscene for a real one)")
    try:
        rgb, tir = (np.asarray(Image.open(p).convert(mode), dtype=np.float64) / 255 for p, mode in zip(paths, ("RGB", "L"), strict=True))
    except OSError as error:
        raise GmmtError(f"{paths[0].parent}: {name} cannot be read as an image ({error}); run `gmmt verify roadscene`") from None
    return rgb, tir, "a real pair of RoadScene (Xu et al., 2020)"


def rendered_pair(height: int = 288, width: int = 384) -> tuple[np.ndarray, np.ndarray]:
    """Returns (RGB [H, W, 3], thermal [H, W]) in 0..1 of a street at dusk: headlights blind the camera, walkers are warm."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(0)
    road = y > 0.55 * height
    shade = np.where(road, 0.25 + 0.1 * y / height, 0.45 - 0.3 * y / height) + 0.02 * rng.normal(size=(height, width))
    tir = np.where(road, 0.35, 0.12) + 0.02 * rng.normal(size=(height, width))
    for left, top, w, h, bright, warm in ((40, 60, 90, 110, 0.1, 0.25), (250, 40, 110, 130, 0.12, 0.22)):  # houses
        inside = (x >= left) & (x < left + w) & (y >= top) & (y < top + h)
        shade[inside], tir[inside] = bright, warm
        windows = inside & ((x - left) % 24 > 12) & ((y - top) % 30 > 16)
        shade[windows], tir[windows] = 0.6, 0.3
    for cx, foot, size in ((150, 215, 60), (235, 190, 42)):  # walkers, almost as dark as the road behind them
        head = (x - cx) ** 2 + (y - foot + 0.88 * size) ** 2 < (0.13 * size) ** 2
        body = (np.abs(x - cx) < 0.17 * size) & (y > foot - 0.75 * size) & (y < foot)
        shade[head | body] -= 0.06
        tir[body], tir[head] = 0.8, 0.95
    glare = sum(np.exp(-((x - cx) ** 2 + (y - 185) ** 2) / (2 * 14.0**2)) for cx in (285, 330))
    rgb = np.stack([shade + glare, shade + 0.95 * glare, shade * 1.1 + 0.7 * glare], axis=-1)
    return rgb.clip(0, 1), (tir + 0.25 * (glare > 0.5)).clip(0, 1)


def feature_map(image: np.ndarray, size: int = 32, orientations: int = 8) -> Tensor:
    """Returns features [1, C, size, size] of an image [H, W] or [H, W, 3] in 0..1, standardised over the map.

    It needs no weights: edges of each orientation, pooled over cells (Dalal and Triggs, 2005). C = `orientations`.
    """
    gray = torch.from_numpy(np.asarray(image, dtype=np.float64).mean(-1) if np.ndim(image) == 3 else np.asarray(image, dtype=np.float64))
    gray = F.interpolate(gray[None, None], size=(8 * size, 8 * size), mode="bilinear", antialias=True)
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
    gradient = F.conv2d(F.pad(gray, (1, 1, 1, 1), mode="replicate"), torch.stack([sobel, sobel.T])[:, None])
    angle = torch.arange(orientations, dtype=torch.float64) * 2 * torch.pi / orientations
    steered = angle.cos().view(-1, 1, 1) * gradient[:, :1] + angle.sin().view(-1, 1, 1) * gradient[:, 1:]
    pooled = F.avg_pool2d(steered.relu(), 8).sqrt()
    return ((pooled - pooled.mean()) / pooled.std()).float()


def half_blind(n: int, generator: torch.Generator, size: int = 16, gap: int = 6, radius: float = 2.0) -> tuple[Tensor, ...]:
    """Returns n toy scenes: (scene, f_1, f_2) [n, 1, size, size] in -1..1, and which discs are hidden from both cameras [n].

    A scene is one bright disc on a dark ground. Camera 1 sees the left part, camera 2 the right, and neither the `gap` columns in between.
    """
    axis = torch.arange(size).float()
    center = torch.rand(n, 2, generator=generator) * (size - 5) + 2
    rows, columns = axis[:, None] - center[:, :1, None], axis - center[:, 1:, None]
    scene = ((radius - (rows**2 + columns**2).sqrt()) * 2).clamp(-1, 1)[:, None]
    left, right = (axis < (size - gap) / 2).float(), (axis >= (size + gap) / 2).float()
    f_1, f_2 = scene * left, scene * right
    hidden = ~((f_1 > -1) & (left > 0) | (f_2 > -1) & (right > 0)).flatten(1).any(1)
    return scene, f_1, f_2, hidden
