"""Small things to look at: an RGB / thermal pair, real where one is at hand, a hand-made feature map of it, and toy scenes."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gmmt.data import synthetic
from gmmt.files import data_dir

ROADSCENE = "FLIR_09512"
"""One of the 221 pairs of RoadScene: headlights blind the camera, and two people show in the thermal image only."""


def example_pair() -> tuple[np.ndarray, np.ndarray, str]:
    """Returns (RGB [H, W, 3], thermal [H, W], both in 0..1, whose it is): a pair of RoadScene if it was fetched, else a rendered one."""
    root = data_dir() / "roadscene"
    paths = root / "crop_LR_visible" / f"{ROADSCENE}.jpg", root / "cropinfrared" / f"{ROADSCENE}.jpg"
    if not all(p.is_file() for p in paths):
        scene = synthetic.scene("val", 15)
        dazzled = scene.frame(int(scene.attributes["HI"].argmax())) / 255  # a lamp blinds the camera, two things are warm
        return dazzled[:3].transpose(1, 2, 0), dazzled[3], "a rendered scene of the miniature (fetch roadscene for a real one)"
    rgb, tir = (np.asarray(Image.open(p).convert(mode), dtype=np.float64) / 255 for p, mode in zip(paths, ("RGB", "L"), strict=True))
    return rgb, tir, "a real pair of RoadScene (Xu et al., 2020)"


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
