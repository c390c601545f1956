"""Small examples for teaching: one pair of images, and scenes that two cameras see half of."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gmmt.data.synthetic import scene
from gmmt.files import data_dir

ROADSCENE = "FLIR_09512"
"""One of the 221 pairs of RoadScene: headlights blind the camera, and two people show in the
thermal image only.
"""


def example_pair() -> tuple[np.ndarray, np.ndarray, str]:
    """Returns (RGB [H, W, 3], thermal [H, W], both in 0..1, whose it is): a pair of RoadScene if it
    was fetched, else a rendered one.
    """
    root = data_dir() / "roadscene"
    paths = (
        root / "crop_LR_visible" / f"{ROADSCENE}.jpg",
        root / "cropinfrared" / f"{ROADSCENE}.jpg",
    )
    if not all(p.is_file() for p in paths):
        val = scene("val", 15)
        dazzled = (
            val.frame(int(val.attributes["HI"].argmax())) / 255
        )  # a lamp blinds the camera, two things are warm
        return (
            dazzled[:3].transpose(1, 2, 0),
            dazzled[3],
            "a rendered scene of the miniature (fetch roadscene for a real one)",
        )
    rgb, tir = (
        np.asarray(Image.open(p).convert(mode), dtype=np.float64) / 255
        for p, mode in zip(paths, ("RGB", "L"), strict=True)
    )
    return rgb, tir, "a real pair of RoadScene (Xu et al., 2020)"


def half_blind(
    n: int, generator: torch.Generator, size: int = 16, gap: int = 6, radius: float = 2.0
) -> tuple[Tensor, ...]:
    """Returns n toy scenes: (scene, f_1, f_2) [n, 1, size, size] in -1..1, and which discs are
    hidden from both cameras [n].

    A scene is one bright disc on a dark ground. Camera 1 sees the left part, camera 2 the right,
    and neither the `gap` columns in between.
    """
    axis = torch.arange(size).float()
    center = torch.rand(n, 2, generator=generator) * (size - 5) + 2
    rows, columns = axis[:, None] - center[:, :1, None], axis - center[:, 1:, None]
    scene = ((radius - (rows**2 + columns**2).sqrt()) * 2).clamp(-1, 1)[:, None]
    left, right = (axis < (size - gap) / 2).float(), (axis >= (size + gap) / 2).float()
    f_1, f_2 = scene * left, scene * right
    hidden = ~((f_1 > -1) & (left > 0) | (f_2 > -1) & (right > 0)).flatten(1).any(1)
    return scene, f_1, f_2, hidden
