"""A video with one target: what training, tracking and scoring ask of it, drawn or from a disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from torch import Tensor

from gmmt.errors import SettingError

Array = TypeVar("Array", np.ndarray, Tensor)
Modalities = Mapping[str, int]
"""Names of the modalities, in order, and how many of a frame's channels each has."""
RGBT: Modalities = {"rgb": 3, "tir": 1}


@dataclass(frozen=True)
class Sequence:
    """A video with one target; ValueError if the shapes of its fields do not fit."""

    name: str  # what result files are called
    boxes: np.ndarray  # truth [n, 4] (x, y, w, h) in pixels; rows of NaN where nobody annotated
    frame: Callable[[int], np.ndarray]  # frame(i) -> uint8 [C, H, W], all modalities' channels
    size: tuple[int, int]  # of every frame: (H, W)
    modalities: Modalities = field(default_factory=lambda: RGBT)
    present: np.ndarray | None = None  # bool [n], is the target in the frame; None: in all
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> bool [n]: acts

    def __post_init__(self):
        n = len(self.boxes)
        if n == 0 or self.boxes.shape != (n, 4):
            raise ValueError(f"{self.name}: expected boxes [n, 4], n > 0, got {self.boxes.shape}")
        if self.present is None:
            object.__setattr__(self, "present", np.ones(n, bool))
        if self.present.shape != (n,):
            raise ValueError(f"{self.name}: expected `present` for {n} frames, [n]")

    def __len__(self) -> int:
        return len(self.boxes)

    def frames(self) -> np.ndarray:
        """All frames, uint8 [n, C, H, W]."""
        return np.stack([self.frame(i) for i in range(len(self))])


def split(x: Array, modalities: Modalities) -> dict[str, Array]:
    """name -> its channels of x [..., C, H, W]; ValueError if the modalities' sum is not C."""
    if x.shape[-3] != sum(modalities.values()):
        c = sum(modalities.values())
        raise ValueError(f"expected {c} channels ({dict(modalities)}), got {x.shape[-3]}")
    parts, start = {}, 0
    for name, channels in modalities.items():
        parts[name] = x[..., start : start + channels, :, :]
        start += channels
    return parts


def check_box(box: np.ndarray, name: str) -> None:
    """SettingError, named `name`, if no track can start at a box (x, y, w, h)."""
    if not (np.isfinite(box).all() and (box[2:] > 0).all()):
        raise SettingError(
            f"{name}: the first box is {box}; expected x, y, w, h in pixels with a width and height"
        )
