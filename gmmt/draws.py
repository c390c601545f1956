"""Random numbers that do not depend on how a batch is cut up, or on the device."""

import torch
from torch import Tensor


class Draws:
    """Random numbers that do not depend on how a batch is cut up: to be given in a generator's
    place.

    In training every process draws those of the whole batch and keeps its share, so that any number
    of processes sees the same noise and the same steps. In tracking (`same`) all items get one
    noise, so that a sequence's result does not depend on those beside it.
    """

    def __init__(self, seed: int | None, rank: int = 0, world: int = 1, same: bool = False):
        """Starts at `seed`, for process `rank` of `world`; None: all noise is zero, which shows
        what a generator makes without any.
        """
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.rank, self.world, self.same = rank, world, same

    def noise(self, shape: torch.Size) -> Tensor:
        """Returns unit Gaussian noise [B, ...]."""
        if self.generator is None:
            return torch.zeros(shape)
        if self.same:
            return torch.randn(1, *shape[1:], generator=self.generator).expand(shape)
        return torch.randn(self.world * shape[0], *shape[1:], generator=self.generator)[
            self.rank * shape[0] : (self.rank + 1) * shape[0]
        ]


def random_steps(T: int, n: int, generator: torch.Generator | Draws | None) -> Tensor:
    """Returns random steps [n] in 0..T-1, on the CPU."""
    if isinstance(generator, Draws):
        return random_steps(T, generator.world * n, generator.generator)[
            generator.rank * n : (generator.rank + 1) * n
        ]
    return torch.randint(
        T, (n,), generator=generator, device=generator.device if generator else "cpu"
    ).cpu()


def unit_noise(like: Tensor, generator: torch.Generator | Draws | None) -> Tensor:
    """Returns Gaussian noise shaped like `like`, drawn on the generator's own device: the same
    seed, the same noise on any device.
    """
    if isinstance(generator, Draws):
        return generator.noise(like.shape).to(like.device, like.dtype)
    device = generator.device if generator else like.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=torch.float32).to(
        like.device, like.dtype
    )
