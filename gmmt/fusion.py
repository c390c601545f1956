"""Fusion of modalities' features as generation: how `fused` is learned, and how fused* is made at
test time.

Every variant has the same methods, so that a tracker need not know which one it holds:

    loss(fused, f_1, f_2, generator=g) -> (fused_star, terms)    training: a fused feature for the
    head, and the generative loss sample(f_1, f_2, steps=s, generator=g) -> fused_star         test

All features are [B, C, H, W]. What goes in and out, exactly:

| variant | into U | t | generative loss | fused_star in training | at test |
|---|---|---|---|---|---|
| DM | x_t, f_1, f_2 | random | on x_0, noise or v | x_0_hat at t, or at the last | s steps |
| CGAN | z, f_1, f_2 | 0 | LSGAN: D(fused or fused_star, ...) | the output | one call, z drawn |
| RAW | 0, f_1, f_2 | 0 | L2 to fused | the output | one call |
| NOISE control | z, f_1, f_2 | 0 | L2 to fused (RAW with z) | the output | one call, z drawn |
| TRK control | 0, f_1, f_2 | 0 | none (lam = 0) | the output | one call |

The paper keeps U for RAW and does not say what stands in the noise's place; here zeros do, so that
NOISE - RAW isolates the noise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.draws import random_steps, unit_noise
from gmmt.schedule import Schedule

VARIANTS = ("DM", "CGAN", "RAW", "NOISE", "TRK")


class Fusion(nn.Module):
    """What all variants share: the network U, and the normalisation of features, which is part of
    the module's state.

    Inside, every channel of `fused`, f_1, ... has mean 0 and variance 1 over the training set, as
    diffusion wants it; fused* leaves in the tracker's own units.
    """

    def __init__(self, network: nn.Module, channels: int, modalities: int = 2):
        """Wraps U(x, t, f_1, ..., f_m) for features with `channels` channels; until `fit` is called
        they are taken as they are.
        """
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.zeros(1 + modalities, channels))
        self.register_buffer("std", torch.ones(1 + modalities, channels))

    def fit(self, fused: Tensor, *features: Tensor) -> None:
        """Takes the mean and standard deviation of each channel from training features [N, C, H,
        W].
        """
        for i, x in enumerate((fused, *features)):
            self.mean[i] = x.mean((0, 2, 3))
            self.std[i] = x.std((0, 2, 3)).clamp(min=1e-6)

    def normalize(self, i: int, x: Tensor) -> Tensor:
        """Returns x [B, C, H, W] with standardised channels; i = 0 is `fused`, i = 1.. the
        modalities.
        """
        return (x - self.mean[i, :, None, None]) / self.std[i, :, None, None]

    def denormalize(self, x: Tensor) -> Tensor:
        """Returns fused* [B, C, H, W] in the tracker's units."""
        return x * self.std[0, :, None, None] + self.mean[0, :, None, None]

    def given(self, features: tuple[Tensor, ...]) -> list[Tensor]:
        """Returns the standardised conditions."""
        return [self.normalize(i, f) for i, f in enumerate(features, start=1)]

    def call(self, x: Tensor, t: Tensor, given: list[Tensor]) -> Tensor:
        """Returns U(x, t, f_1, ...) [B, C, H, W] in x's own precision, whatever the precision of
        U's weights.
        """
        dtype = next(self.network.parameters(), x).dtype
        return self.network(x.to(dtype), t, *(g.to(dtype) for g in given)).to(x.dtype)


class OneCall(Fusion):
    """RAW, NOISE and TRK: one call of U at a constant t, with zeros or noise in x_t's place, with
    or without the L2 to `fused`. Eq. (6).
    """

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        modalities: int = 2,
        noise: bool = False,
        supervised: bool = True,
    ):
        """Makes RAW; `noise=True` makes NOISE, `supervised=False` makes TRK, which only the
        tracker's own loss trains.
        """
        super().__init__(network, channels, modalities)
        self.noise, self.supervised = noise, supervised

    def _call(self, given: list[Tensor], generator: torch.Generator | None) -> Tensor:
        z = unit_noise(given[0], generator) if self.noise else torch.zeros_like(given[0])
        return self.call(z, z.new_zeros(len(z)), given)

    def loss(
        self, fused: Tensor, *features: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns fused* [B, C, H, W] and {"raw": squared error to `fused`}, or no term at all for
        TRK.
        """
        x = self._call(self.given(features), generator)
        terms = (
            {"raw": F.mse_loss(x.float(), self.normalize(0, fused).float())}
            if self.supervised
            else {}
        )
        return self.denormalize(x), terms

    def sample(
        self, *features: Tensor, steps: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """Returns fused* [B, C, H, W]; one call of U whatever `steps` is."""
        return self.denormalize(self._call(self.given(features), generator))


class CGANFusion(OneCall):
    """CGAN: U as generator, and a discriminator that is trained in turn with it, both by squared
    errors (LSGAN). Eq. (6), second line.
    """

    def __init__(
        self, network: nn.Module, discriminator: nn.Module, channels: int, modalities: int = 2
    ):
        """Wraps G = U(z, t, f_1, ...) and D(x, f_1, ...) -> [B] in (0, 1)."""
        super().__init__(network, channels, modalities, noise=True)
        self.discriminator = discriminator

    def discriminator_loss(
        self, fused: Tensor, *features: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Returns Loss_D = Loss_D0 + Loss_D1: D should answer 0 for fused*, 1 for `fused`. Step D
        with it first; G stays as it is.
        """
        given = self.given(features)
        with torch.no_grad():
            fake = self._call(given, generator)
        real = self.discriminator(self.normalize(0, fused), *given).float()
        fake = self.discriminator(fake, *given).float()
        return fake.square().mean() + (1 - real).square().mean()

    def loss(
        self, fused: Tensor, *features: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns fused* [B, C, H, W] and {"cgan": Loss_G}: D, held fixed, should answer 1 for
        fused*.
        """
        given = self.given(features)
        x = self._call(given, generator)
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        answer = torch.func.functional_call(self.discriminator, frozen, (x, *given)).float()
        return self.denormalize(x), {"cgan": (1 - answer).square().mean()}


class DiffusionFusion(Fusion):
    """DM: U restores `fused` from any amount of noise, given the modalities. Eqs. (2), (4) and (6),
    third line.
    """

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        modalities: int = 2,
        schedule: Schedule | None = None,
        target: str = "x_0",
        weighting: str = "plain",
        track_t: str = "random",
        time: str = "step",
    ):
        """Wraps U(x_t, t, f_1, ...); ValueError for another value, or for "released" weighting of
        another target than x_0.

        - `schedule` is cosine with T = 1000 unless given; `target` is what U predicts: "x_0",
          "noise" (the paper's text) or "v".
        - `weighting`: "plain" squared error on the target, or "released": U predicts x_0, the error
          is that of the noise derived from it.
        - `track_t`: the head gets x_0_hat at the "random" t of the loss (released), or at the
          "last" t from pure noise, as at test.
        - `time`: U is told the "step" t (paper), or the "level": sqrt(alpha_bar) in training but
          alpha_bar at test (released).
        """
        super().__init__(network, channels, modalities)
        self.schedule = schedule or Schedule.cosine()
        self.target, self.weighting, self.track_t, self.time = target, weighting, track_t, time
        known = {"target": ("x_0", "noise", "v"), "weighting": ("plain", "released")}
        known |= {"track_t": ("random", "last"), "time": ("step", "level")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {values}, got {getattr(self, name)!r}")
        if weighting == "released" and target != "x_0":
            raise ValueError("the released weighting is for target='x_0'")

    def _predict(
        self, x_t: Tensor, t: Tensor, given: list[Tensor], training: bool
    ) -> tuple[Tensor, Tensor]:
        """Returns U's output and the x_0_hat that it implies, both [B, C, H, W], for steps t
        [B].
        """
        time = t
        if self.time == "level":
            alpha_bar = self.schedule.alpha_bar[t.cpu()]
            time = alpha_bar.sqrt() if training else alpha_bar
        out = self.call(x_t, time.to(x_t.device), given)
        if self.target == "x_0":
            return out, out
        convert = self.schedule.predict_x_0 if self.target == "noise" else self.schedule.x_0_from_v
        return out, convert(x_t, t, out)

    def loss(
        self,
        fused: Tensor,
        *features: Tensor,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        generator=None,
    ):
        """Returns x_0_hat [B, C, H, W] for the head and {"dm": the loss at steps t [B] with noise
        [B, C, H, W]}, random unless given.
        """
        t = random_steps(self.schedule.T, len(fused), generator) if t is None else t
        noise = unit_noise(fused, generator) if noise is None else noise
        given, x_0 = self.given(features), self.normalize(0, fused)
        x_t = self.schedule.q_sample(x_0, t, noise)
        n = len(x_0)
        if self.track_t == "last":  # both calls in one batch
            x_t = torch.cat([x_t, unit_noise(x_0, generator)])
            t = torch.cat([t, torch.full((n,), self.schedule.T - 1)])
            given = [torch.cat([g, g]) for g in given]
        out, x_0_hat = self._predict(x_t, t, given, training=True)
        if self.weighting == "released":
            error = (
                self.schedule.predict_noise(x_t[:n], t[:n], x_0_hat[:n].float()) - noise
            ).square()
        else:
            goal = {"x_0": x_0, "noise": noise}.get(self.target)
            goal = self.schedule.predict_v(x_0, t[:n], noise) if goal is None else goal
            error = (out[:n].float() - goal).square()
        return self.denormalize(x_0_hat[-n:]), {"dm": error.mean()}

    def sample(
        self,
        *features: Tensor,
        steps: int = 1,
        generator: torch.Generator | None = None,
        eta: float = 0.0,
        sampler: str = "ddim",
    ) -> Tensor:
        """Returns fused* [B, C, H, W], made from pure noise in `steps` calls of U.

        `eta` is DDIM's fresh noise: 0 none, 1 as much as ancestral sampling of the sub-chain
        (released); at steps = 1 it has no effect.
        `sampler`: "ddim", or "recursion": the supplement's pseudo code, which feeds fused* back as
            the next x_t without noise.
        """
        if sampler not in ("ddim", "recursion"):
            raise ValueError(f"sampler must be 'ddim' or 'recursion', got {sampler!r}")
        given = self.given(features)
        x_t = unit_noise(given[0], generator)
        grid = self.schedule.grid(steps)
        for t, t_next in zip(grid, [*grid[1:], -1], strict=True):
            _, x_0 = self._predict(x_t, torch.full((len(x_t),), t), given, training=False)
            if sampler == "recursion":
                x_t = x_0
                continue
            fresh = unit_noise(x_t, generator) if eta and t_next >= 0 else None
            x_t = self.schedule.ddim_step(
                x_t, x_0, t, t_next, eta if fresh is not None else 0.0, fresh
            )
        return self.denormalize(x_t)


def make_fusion(
    variant: str,
    network: nn.Module,
    channels: int,
    discriminator: nn.Module | None = None,
    **options,
) -> Fusion:
    """Returns the variant (see the module's table) around U; raises ValueError for an unknown one,
    or a CGAN without a discriminator.
    """
    if variant == "DM":
        return DiffusionFusion(network, channels, **options)
    if variant == "CGAN":
        if discriminator is None:
            raise ValueError("CGAN needs a discriminator")
        return CGANFusion(network, discriminator, channels, **options)
    if variant in ("RAW", "NOISE", "TRK"):
        return OneCall(
            network, channels, noise=variant == "NOISE", supervised=variant != "TRK", **options
        )
    raise ValueError(f"unknown fusion {variant!r}; expected one of {', '.join(VARIANTS)}")
