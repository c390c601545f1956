"""Training pairs: a template and a search patch of one target, cut from frames in memory."""

import numpy as np
import torch
from torch import Tensor

from gmmt.data.crops import crop
from gmmt.errors import SettingError
from gmmt.trackers.base import Tracker


class Pairs:
    """Template and search patches for training, drawn from frames in memory; jitter as in SiamBAN,
    scaled to the patch.
    """

    def __init__(
        self,
        frames: np.ndarray,
        boxes: np.ndarray,
        template: int,
        search: int,
        negative: float = 0.2,
        like: type[Tracker] = Tracker,
    ):
        """Takes frames uint8 [S, F, 4, H, W] and boxes [S, F, 4]; a share `negative` of the pairs
        are of two different sequences.

        Crops are as wide, and filled up beyond the frame, as those of trackers `like` the one to be
        trained.
        """
        self.frames, self.boxes = torch.from_numpy(frames), torch.from_numpy(boxes).float()
        self.template, self.search, self.negative, self.like = template, search, negative, like

    def batch(
        self, n: int, seed: tuple[int, ...], rank: int = 0, world: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns process `rank`'s share of batch `seed`: template [b, 4, t, t], search [b, 4, s,
        s], boxes [b, 4] (x1, y1, x2, y2).

        Boxes are in pixels of the search patch around its middle; NaN where the target is not in
        it.
        """
        if n % world:
            raise SettingError(
                f"a batch of {n} cannot be shared by {world} processes: choose a multiple"
            )
        rng = np.random.default_rng(seed)
        s, f = self.boxes.shape[:2]
        which = torch.from_numpy(rng.integers(0, s, (2, n)))
        at = torch.from_numpy(rng.integers(0, f, (2, n)))
        negative = torch.from_numpy(rng.random(n) < self.negative)
        which[1] = torch.where(negative, which[1], which[0])
        moved, scaled = (torch.from_numpy(rng.uniform(-1, 1, (2, n, k))).float() for k in (2, 1))
        own = slice(rank * n // world, (rank + 1) * n // world)
        which, at, moved, scaled = (drawn[:, own] for drawn in (which, at, moved, scaled))
        negative = negative[own] & (which[0] != which[1])

        def cut(k: int, size: int, shift: float, stretch: float) -> tuple[Tensor, Tensor]:
            box = self.boxes[which[k], at[k]]
            center, wh = box[:, :2] + box[:, 2:] / 2, box[:, 2:]
            side = self.like.side(wh) * (size / self.template) * (1 + stretch * scaled[k, :, 0])
            offset = moved[k] * shift * side[:, None]
            patch = crop(self.frames[which[k], at[k]], center + offset, side, size, self.like.fill)
            half = wh / 2 * (size / side)[:, None]
            middle = -offset * (size / side)[:, None]
            return patch, torch.cat([middle - half, middle + half], dim=1)

        template, _ = cut(0, self.template, 0.03, 0.05)
        search, boxes = cut(1, self.search, 0.25, 0.18)
        return template, search, torch.where(negative[:, None], torch.nan, boxes)
