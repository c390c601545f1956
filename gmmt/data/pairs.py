"""Training pairs: a template and a search patch of one target, cut from frames in memory."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gmmt.config import Data
from gmmt.data.crops import CropRule, crop, upload
from gmmt.errors import SettingError

Batch = tuple[Tensor, Tensor, Tensor]  # template and search patches, boxes


class Pairs:
    """Template and search patches for training; jitter as in SiamBAN, scaled to the patch."""

    def __init__(
        self,
        frames: np.ndarray,
        boxes: np.ndarray,
        crops: CropRule,
        data: Data,
        device: torch.device | str = "cpu",
    ):
        """Takes frames uint8 [S, F, C, H, W] and boxes [S, F, 4] (x, y, w, h); cuts as `crops`, the
        rule of the tracker to be trained, says, with the jitter that `data` names. The frames rest
        on the device, as bytes, and are cut there.

        SettingError: a box is not finite or has no area, or the rule wants whole pixels.
        """
        if crops.whole_pixels != "no":
            raise SettingError(
                f"training crops are not cut in whole pixels, expected whole_pixels='no', not "
                f"{crops.whole_pixels!r}"
            )
        fine = np.isfinite(boxes).all(-1) & (boxes[..., 2:] > 0).all(-1)
        if not fine.all():
            s, f = np.argwhere(~fine)[0]
            raise SettingError(
                f"training sequence {s}, frame {f}: the box is {boxes[s, f]}; "
                f"expected x, y, w, h with a width and a height: leave such frames out"
            )
        self.frames = torch.from_numpy(frames).to(device)
        self.boxes = torch.from_numpy(boxes).float().to(device)
        self.crops, self.data = crops, data

    def batches(
        self, key: tuple[int, ...], first: int, last: int, n: int, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Yields process `rank`'s share of n pairs for each step from `first` to `last` - 1."""
        for step in range(first, last):
            yield self.batch(n, (*key, step), rank, world)

    def batch(self, n: int, seed: tuple[int, ...], rank: int = 0, world: int = 1) -> Batch:
        """Returns process `rank`'s share of batch `seed`: template [b, C, t, t], search
        [b, C, s, s], boxes [b, 4] (x1, y1, x2, y2).

        Boxes are in pixels of the search patch around its middle; NaN where the target is not in
        it. SettingError: n is not a multiple of `world`.
        """
        # 1. Draw for the whole batch, so that any number of processes sees the same one.
        rng = np.random.default_rng(seed)
        sequences, frames = self.boxes.shape[:2]
        sequence = rng.integers(0, sequences, (2, n))  # of template and search
        frame = rng.integers(0, frames, (2, n))
        negative = rng.random(n) < self.data.negative
        sequence[1] = np.where(negative, sequence[1], sequence[0])
        moved, scaled = rng.uniform(-1, 1, (2, n, 2)), rng.uniform(-1, 1, (2, n, 1))

        # 2. Keep this process's share, and send it to the frames: in one piece.
        share = share_of(n, rank, world)
        parts = (*sequence, *frame, *moved.transpose(0, 2, 1).reshape(4, n), *scaled[..., 0])
        drawn = upload(np.stack(parts)[:, share], self.frames.device)
        sequence, frame = drawn[:4].long().unflatten(0, (2, 2))
        moved, scaled = drawn[4:8].float().unflatten(0, (2, 2)).mT, drawn[8:].float()
        # By chance both halves of a "negative" pair may be of the same sequence.
        negative = sequence[0] != sequence[1]

        # 3. Cut both patches.
        def cut(k: int, size: int, shift: float, stretch: float) -> tuple[Tensor, Tensor]:
            box = self.boxes[sequence[k], frame[k]]
            center, wh = box[:, :2] + box[:, 2:] / 2, box[:, 2:]
            side = self.crops.side(wh) * (size / self.crops.template) * (1 + stretch * scaled[k])
            offset = moved[k] * shift * side[:, None]
            images = self.frames[sequence[k], frame[k]]
            patch = crop(images, center + offset, side, size, self.crops.fill)
            half = wh / 2 * (size / side)[:, None]
            middle = -offset * (size / side)[:, None]
            return patch, torch.cat([middle - half, middle + half], dim=1)

        d = self.data
        template, _ = cut(0, self.crops.template, d.template_shift, d.template_scale)
        search, boxes = cut(1, self.crops.search, d.search_shift, d.search_scale)
        return template, search, torch.where(negative[:, None], torch.nan, boxes)


def share_of(n: int, rank: int, world: int) -> slice:
    """Returns where process `rank`'s items are in a batch of n; SettingError: it cannot be shared
    equally.
    """
    if n % world:
        raise SettingError(
            f"a batch of {n} cannot be shared by {world} processes: choose a multiple"
        )
    return slice(rank * n // world, (rank + 1) * n // world)
