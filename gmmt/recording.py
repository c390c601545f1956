"""A frame's work on a GPU, recorded once and repeated: hundreds of launches become one.

At batch 1 a GPU waits for the processor, which starts its kernels one by one (CUDA graphs;
torch.cuda.graphs). What is recorded reads and writes fixed places in memory: the frame, the noise
and the targets' state are brought there.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gmmt.draws import Draws

WARM_UPS = 3  # before recording, so that libraries have chosen their kernels


class Recording:
    """The work of a frame on a GPU: called as the work is, and equal to it, but faster."""

    def __init__(
        self, work: Callable[[Tensor, Draws], Tensor], frame: np.ndarray, state: list[Tensor]
    ):
        """Records work(frame, draws) for frames uint8 [C, H, W] of one size; `state` are the
        tensors that it changes, which are as before afterwards.
        """
        device, before = state[0].device, [value.clone() for value in state]
        self.work = work  # what was recorded reads its tensors: they must stay
        self.frame = torch.from_numpy(np.ascontiguousarray(frame)).to(device)
        self.draws = HeldDraws()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            side = side_stream(device)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    work(self.frame, self.draws.again())
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(self.graph, stream=side):
                self.found = work(self.frame, self.draws.again())
        for value, old in zip(state, before, strict=True):
            value.copy_(old)

    def __call__(self, frame: Tensor, draws: Draws) -> Tensor:
        """What the work gives; it stays until the next call."""
        self.frame.copy_(frame)
        self.draws.take(draws)
        self.graph.replay()
        return self.found


@lru_cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which a device records: one, as each has a workspace of its own."""
    return torch.cuda.Stream(device)


class HeldDraws(Draws):
    """Noise in fixed places: as many as the work asks for, in the same order each time."""

    def __init__(self):
        super().__init__(None, same=True)
        self.places: list[Tensor] = []
        self.asked = 0

    def again(self) -> "HeldDraws":
        """Itself, for the work to begin anew."""
        self.asked = 0
        return self

    def noise(self, shape: torch.Size, device: torch.device | str = "cpu") -> Tensor:
        """The place [1, ...] for this noise, as many times as there are items."""
        if self.asked == len(self.places):
            with torch.inference_mode(False):  # else nothing could be written there afterwards
                self.places.append(torch.zeros(1, *shape[1:], device=device))
        self.asked += 1
        return self.places[self.asked - 1].expand(shape)

    def take(self, draws: Draws) -> None:
        """Fills all places with another's noise."""
        for place in self.places:
            place.copy_(draws.noise(place.shape, place.device))
