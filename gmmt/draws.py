"""Random numbers of the method: noise, and steps of the noise schedule."""

import torch
from torch import Tensor


class Draws:
    """Random numbers that do not depend on how a batch is cut up.

    In training each of `world` processes draws those of the whole batch and keeps its equal share,
    `rank`. In tracking (`same`) all items get one noise, so that a sequence's result does not
    depend on those beside it. With seed None all noise is zero.

    They are drawn where they are needed: a GPU draws its own in no time, and others than a CPU.
    """

    def __init__(self, seed: int | None, rank: int = 0, world: int = 1, same: bool = False):
        self.seed, self.rank, self.world, self.same = seed, rank, world, same
        self.generators: dict[torch.device, torch.Generator | None] = {}

    def noise(self, shape: torch.Size, device: torch.device | str = "cpu") -> Tensor:
        """Unit Gaussian noise [B, ...] for this process's items, float32."""
        if self.seed is None:
            return torch.zeros(shape, device=device)
        n, *item = shape
        where = {"generator": self._generator(device), "device": device}
        if self.same:
            return torch.randn(1, *item, **where).expand(shape)
        return torch.randn(self.world * n, *item, **where)[self._share(n)]

    def uniform(self, shape: torch.Size, device: torch.device | str = "cpu") -> Tensor:
        """Uniform random numbers [B, ...] in 0..1 for this process's items."""
        n, *item = shape
        where = {"generator": self._generator(device), "device": device}
        return torch.rand(self.world * n, *item, **where)[self._share(n)]

    def steps(self, T: int, n: int, device: torch.device | str = "cpu") -> Tensor:
        """Random steps [n] in 0..T-1; ValueError without a seed."""
        if self.seed is None:
            raise ValueError("Draws(None) has no noise and no random steps: give it a seed")
        where = {"generator": self._generator(device), "device": device}
        if self.same:
            return torch.randint(T, (1,), **where).expand(n)
        return torch.randint(T, (self.world * n,), **where)[self._share(n)]

    def _generator(self, device: torch.device | str) -> torch.Generator | None:
        """The generator of a device, seeded when it is first asked for."""
        device = torch.device(device)
        if device not in self.generators:
            made = None  # on "meta", which holds no numbers
            if device.type != "meta":
                made = torch.Generator(device).manual_seed(self.seed)
            self.generators[device] = made
        return self.generators[device]

    def _share(self, n: int) -> slice:
        """Where this process's n items are in the whole batch."""
        return slice(self.rank * n, (self.rank + 1) * n)


RandomSource = torch.Generator | Draws | None  # None: torch's own generator


def random_steps(
    T: int, n: int, generator: RandomSource, device: torch.device | str = "cpu"
) -> Tensor:
    """Random steps [n] in 0..T-1; a torch.Generator draws them where it is, `device` gets them."""
    if isinstance(generator, Draws):
        return generator.steps(T, n, device)
    place = device if generator is None else generator.device
    return torch.randint(T, (n,), generator=generator, device=place).to(device)


def unit_noise(x: Tensor, generator: RandomSource) -> Tensor:
    """Unit Gaussian noise with the shape, dtype and device of x [B, ...].

    A torch.Generator draws it in float32 where it is: a CPU's gives the same noise to any device.
    """
    if isinstance(generator, Draws):
        return generator.noise(x.shape, x.device).to(x.dtype)
    place = x.device if generator is None else generator.device
    noise = torch.randn(x.shape, generator=generator, device=place, dtype=torch.float32)
    return noise.to(x.device, x.dtype)
