"""Random numbers of the method: noise, and steps of the noise schedule."""

import torch
from torch import Tensor


class Draws:
    """Random numbers that do not depend on how a batch is cut up.

    In training each of `world` processes draws those of the whole batch and keeps its equal share,
    `rank`. In tracking (`same`) all items get one noise, so that a sequence's result does not
    depend on those beside it. With seed None all noise is zero.
    """

    def __init__(self, seed: int | None, rank: int = 0, world: int = 1, same: bool = False):
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.rank, self.world, self.same = rank, world, same

    def noise(self, shape: torch.Size) -> Tensor:
        """Unit Gaussian noise [B, ...] for this process's items, on the CPU."""
        if self.generator is None:
            return torch.zeros(shape)
        n, *item = shape
        if self.same:
            return torch.randn(1, *item, generator=self.generator).expand(shape)
        return torch.randn(self.world * n, *item, generator=self.generator)[self._share(n)]

    def steps(self, T: int, n: int) -> Tensor:
        """Random steps [n] in 0..T-1, on the CPU; ValueError without a seed."""
        if self.generator is None:
            raise ValueError("Draws(None) has no noise and no random steps: give it a seed")
        if self.same:
            return torch.randint(T, (1,), generator=self.generator).expand(n)
        return torch.randint(T, (self.world * n,), generator=self.generator)[self._share(n)]

    def _share(self, n: int) -> slice:
        """Where this process's n items are in the whole batch."""
        return slice(self.rank * n, (self.rank + 1) * n)


RandomSource = torch.Generator | Draws | None  # None: torch's own generator


def random_steps(T: int, n: int, generator: RandomSource) -> Tensor:
    """Random steps [n] in 0..T-1, on the CPU; a torch.Generator draws them on its own device."""
    if isinstance(generator, Draws):
        return generator.steps(T, n)
    device = "cpu" if generator is None else generator.device
    return torch.randint(T, (n,), generator=generator, device=device).cpu()


def unit_noise(x: Tensor, generator: RandomSource) -> Tensor:
    """Unit Gaussian noise with the shape, dtype and device of x [B, ...].

    A torch.Generator draws it in float32 on its own device: the same noise on any device.
    """
    if isinstance(generator, Draws):
        noise = generator.noise(x.shape)
    else:
        device = x.device if generator is None else generator.device
        noise = torch.randn(x.shape, generator=generator, device=device, dtype=torch.float32)
    return noise.to(x.device, x.dtype)
