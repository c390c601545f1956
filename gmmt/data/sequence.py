"""A video with one target: what training, tracking and scoring ask of it, drawn or from a disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sequence:
    """A video with one target."""

    name: str  # what result files are called
    boxes: (
        np.ndarray
    )  # ground truth [n, 4] (x, y, w, h) in pixels; rows of NaN where nobody annotated
    frame: Callable[[int], np.ndarray]  # frame(i) -> uint8 [4, H, W]: R, G, B, thermal
    attributes: Mapping[str, np.ndarray]  # name -> bool [n], in which frames it acts

    def __len__(self) -> int:
        return len(self.boxes)

    def frames(self) -> np.ndarray:
        """Returns all frames, uint8 [n, 4, H, W]."""
        return np.stack([self.frame(i) for i in range(len(self))])
