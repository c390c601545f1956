"""Training pairs from sequences on a disk: as many as one likes, each drawn from its number alone.

Pair k of a training is a pure function of (key, k). So batches do not depend on how many worker
processes cut them, or how many processes train, and a training that goes on where it was stopped
gets what it would have got.
"""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gmmt.config import Data
from gmmt.data.augment import ostrack_item, siamban_item
from gmmt.data.crops import CropRule
from gmmt.data.pairs import Batch, share_of
from gmmt.data.sampling import draw_pair
from gmmt.data.sequence import Sequence
from gmmt.errors import GmmtError, SettingError

TRIES = 1000  # frames drawn for one item before the data are taken to be unfit


class Samples:
    """Template and search patches for training, read and cut while the network learns."""

    def __init__(
        self,
        sequences: list[Sequence],
        crops: CropRule,
        data: Data,
        device: torch.device | str = "cpu",
    ):
        """Takes sequences that can be pickled; draws and cuts pairs as the released code does that
        `crops.whole_pixels` names, in `data.workers` processes (0: in this one).

        SettingError: it names none.
        """
        if crops.whole_pixels == "no":
            raise SettingError(
                "pairs of a data set are drawn and cut as released code does: expected a tracker "
                'with whole_pixels "ostrack" or "siamban", not "no"'
            )
        self.sequences, self.crops, self.data = sequences, crops, data
        self.device = torch.device(device)
        self.visible = [
            s.present & np.isfinite(s.boxes).all(1) & (s.boxes[:, 2:] > 0).all(1) for s in sequences
        ]

    def batches(
        self, key: tuple[int, ...], first: int, last: int, n: int, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Yields process `rank`'s share of n pairs for each step from `first` to `last` - 1:
        template [b, C, t, t] and search [b, C, s, s] in 0..255, boxes [b, 4] (x1, y1, x2, y2), on
        the device.

        Boxes are in pixels of the search patch around its middle; with corners exchanged where it
        shows another target. GmmtError: a frame cannot be read, or no pair be drawn, or n is not a
        multiple of `world`.
        """
        loader = DataLoader(
            _Steps(self, key, n, share_of(n, rank, world)),
            batch_size=None,  # a step is one item for it
            sampler=range(first, last),
            num_workers=self.data.workers,
            multiprocessing_context=_context() if self.data.workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it draws from torch's own, for nothing
        )
        for answer in loader:
            if isinstance(answer, GmmtError):
                raise answer
            template, search, boxes = (v.to(self.device, non_blocking=True) for v in answer)
            yield template.float(), search.float(), boxes

    def item(self, key: tuple[int, ...], k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns pair k: template [C, t, t] and search [C, s, s] in whole levels, the box [4]."""
        rng = np.random.default_rng((*key, k))
        for _ in range(TRIES):
            pair = draw_pair(rng, self.visible, self.crops.whole_pixels, self.data)
            frames = (
                *self._look(pair.template_sequence, pair.template_frame),
                *self._look(pair.search_sequence, pair.search_frame),
            )
            sides = self.crops.template, self.crops.search
            if self.crops.whole_pixels == "ostrack":
                item = ostrack_item(rng, *frames, *sides, self.data, self.crops.wider)
                kind = torch.uint8
            else:  # SiamBAN's noise goes beyond 0..255
                item = siamban_item(rng, *frames, *sides, self.data, pair.negative)
                kind = torch.int16
            if item is not None:
                template, search, box = item
                return template.round_().to(kind), search.round_().to(kind), box
        raise SettingError(
            f"no training pair could be cut in {TRIES} tries: the last was of "
            f"{self.sequences[pair.search_sequence].name}, frame {pair.search_frame}. Are its "
            "boxes in pixels of its frames?"
        )

    def _look(self, sequence: int, i: int) -> tuple[np.ndarray, np.ndarray]:
        """A frame [C, H, W] and its box; with `data.reduced` at 1/2, 1/4 or 1/8 of their size where
        that leaves a patch at least as many pixels as it gets.
        """
        video = self.sequences[sequence]
        box = video.boxes[i]
        if not self.data.reduced:
            return video.frame(i), box
        scale = float(self.crops.scale(torch.from_numpy(box[None, 2:])))
        shrink = max(s for s in (1, 2, 4, 8) if s <= max(scale, 1))
        return video.frame.reduced(i, shrink), box / shrink


@dataclass(frozen=True)
class _Steps(Dataset):
    """A process's share of every step of a training, by the step's number."""

    samples: Samples
    key: tuple[int, ...]
    n: int  # pairs in a step, over all processes
    share: slice  # of them

    def __getitem__(self, step: int) -> Batch | GmmtError:
        """Patches in whole levels: a quarter, or half, of the bytes that go between processes and
        to a GPU. An error is an answer, too: DataLoader would bury its words in a traceback.
        """
        numbers = range(step * self.n, (step + 1) * self.n)[self.share]
        try:
            items = [self.samples.item(self.key, k) for k in numbers]
        except GmmtError as error:
            return error
        return tuple(torch.stack(parts) for parts in zip(*items, strict=True))


def _context() -> multiprocessing.context.BaseContext:
    """How workers start: never as a copy (fork) of a process that has threads, locks, perhaps a
    GPU; a server forks them that has imported this module, once for all, and nothing else.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context
