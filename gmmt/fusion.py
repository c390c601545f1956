"""Fusion of modalities' features as generation: how `fused` is learned, and fused* made at test.

Every variant has the same methods, so that a tracker need not know which one it holds:

    loss(fused, f_1, f_2, generator=g) -> (fused_star, terms)
        training: a fused feature for the head, and the terms of the generative loss
    sample(f_1, f_2, steps=s, generator=g) -> fused_star
        test

All features are [B, C, H, W]. What goes in and out, exactly:

| variant | into U | t | generative loss | fused_star in training | at test |
|---|---|---|---|---|---|
| DM | x_t, f_1, f_2 | random | on x_0, noise or v | x_0_hat at that t, or the last | s calls |
| CGAN | z, f_1, f_2 | 0 | LSGAN: D(fused_star, f_1, f_2) to 1 | the output | one call |
| RAW | zeros, f_1, f_2 | 0 | squared error to fused | the output | one call |
| NOISE control | z, f_1, f_2 | 0 | squared error to fused | the output | one call |
| TRK control | zeros, f_1, f_2 | 0 | none: the tracker's alone | the output | one call |

z is unit noise, drawn anew in every call of `loss` and `sample`, as is the x_t that DM starts from
at test. A CGAN's D learns in its own turn: D(fused, f_1, f_2) to 1, D(fused_star, f_1, f_2) to 0.
The paper keeps U for RAW and does not say what stands in the noise's place; here zeros do, so that
NOISE - RAW isolates the noise.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.draws import RandomSource, random_steps, unit_noise
from gmmt.schedule import Schedule

Network = Callable[..., Tensor]
VARIANTS = ("DM", "CGAN", "RAW", "NOISE", "TRK")


class Fusion(nn.Module):
    """What all variants share: the network U, and the normalisation of features as module state.

    Inside, every channel of `fused`, f_1, ... has mean 0 and variance 1 over the training set, as
    diffusion wants it; fused* leaves in the tracker's own units.
    """

    turns: tuple[str, ...] = ("all",)
    """Who learns, one after the other, within one training step."""

    def __init__(self, network: nn.Module, channels: int, modalities: int = 2):
        """Wraps U, from x and m `modalities` [B, C, H, W] each and t [B] to [B, C, H, W].

        Until `fit` is called, features are taken as they are.
        """
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.zeros(1 + modalities, channels))
        self.register_buffer("std", torch.ones(1 + modalities, channels))

    def parameters_of(self, turn: str) -> list[nn.Parameter]:
        """What learns in one of the `turns` (ValueError: another): in "all" no discriminator."""
        if turn not in self.turns:
            raise ValueError(f"turn must be one of {self.turns}, got {turn!r}")
        return list(self.parameters())

    def fit(self, fused: Tensor, *features: Tensor) -> None:
        """Takes each channel's mean and deviation from training features [N, C, H, W].

        ValueError for another number or shape of features, or if these are not finite.
        """
        self._check(features, fused)
        for i, x in enumerate((fused, *features)):
            mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3))
            if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
                name = "fused" if i == 0 else f"f_{i}"
                raise ValueError(f"{name} has no finite mean and deviation in some channel")
            self.mean[i] = mean
            self.std[i] = std.clamp(min=1e-6)

    def normalize(self, i: int, x: Tensor) -> Tensor:
        """x [B, C, H, W] with standardised channels; i = 0 is `fused`, i = 1.. the modalities."""
        return (x - self.mean[i, :, None, None]) / self.std[i, :, None, None]

    def denormalize(self, x: Tensor) -> Tensor:
        """fused* [B, C, H, W] in the tracker's units."""
        return x * self.std[0, :, None, None] + self.mean[0, :, None, None]

    def conditions(self, features: tuple[Tensor, ...], fused: Tensor | None = None) -> list[Tensor]:
        """The standardised features of the modalities; ValueError unless all, `fused` too, fit."""
        self._check(features, fused)
        return [self.normalize(i, f) for i, f in enumerate(features, start=1)]

    def _check(self, features: tuple[Tensor, ...], fused: Tensor | None) -> None:
        modalities, channels = len(self.mean) - 1, self.mean.shape[1]
        if len(features) != modalities:
            raise ValueError(f"made for {modalities} modalities, got {len(features)} features")
        shapes = [tuple(x.shape) for x in (fused, *features) if x is not None]
        if len(set(shapes)) > 1 or len(shapes[0]) != 4 or shapes[0][1] != channels:
            raise ValueError(f"all features must have one shape [B, {channels}, H, W]: {shapes}")

    def network_output(
        self, x: Tensor, t: Tensor, conditions: list[Tensor], network: Network | None = None
    ) -> Tensor:
        """U(x, t, f_1, ...) in U's own precision, returned in x's; `network` stands in for U."""
        dtype = next(self.network.parameters(), x).dtype
        call = self.network if network is None else network
        return call(x.to(dtype), t, *(f.to(dtype) for f in conditions)).to(x.dtype)


def held_fixed(module: nn.Module) -> Network:
    """The module as a function that hands gradients on to its inputs, but keeps its state.

    In training mode a batch norm still uses the statistics of the batch, as in its own turn.
    """
    state = {name: parameter.detach() for name, parameter in module.named_parameters()}
    state.update((name, buffer.clone()) for name, buffer in module.named_buffers())
    return lambda *inputs: torch.func.functional_call(module, state, inputs)


class OneCall(Fusion):
    """RAW, NOISE (`noise`) and TRK (not `supervised`): one call of U. Eq. (6), first line."""

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        modalities: int = 2,
        noise: bool = False,
        supervised: bool = True,
    ):
        super().__init__(network, channels, modalities)
        self.noise, self.supervised = noise, supervised

    def generate(
        self, conditions: list[Tensor], generator: RandomSource, network: Network | None = None
    ) -> Tensor:
        """U(0 or z, 0, f_1, ...), the standardised fused*; `network` stands in for U."""
        if self.noise:
            x = unit_noise(conditions[0], generator)
        else:
            x = torch.zeros_like(conditions[0])
        return self.network_output(x, x.new_zeros(len(x)), conditions, network)

    def loss(
        self, fused: Tensor, *features: Tensor, generator: RandomSource = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        conditions, x_0 = self.conditions(features, fused), self.normalize(0, fused)
        output = self.generate(conditions, generator)
        terms = {}
        if self.supervised:
            terms["raw"] = F.mse_loss(output.float(), x_0.float())
        return self.denormalize(output), terms

    def sample(self, *features: Tensor, steps: int = 1, generator: RandomSource = None) -> Tensor:
        """One call of U, whatever `steps` is."""
        fused_star = self.denormalize(self.generate(self.conditions(features), generator))
        return fused_star.to(features[0].dtype)


class CGANFusion(OneCall):
    """CGAN: U as generator, and a discriminator D(x, f_1, ...) -> [B] in (0, 1) that learns in its
    own turn, both by squared errors (LSGAN). Eq. (6), second line.
    """

    turns = ("D", "all")

    def __init__(
        self, network: nn.Module, discriminator: nn.Module, channels: int, modalities: int = 2
    ):
        super().__init__(network, channels, modalities, noise=True)
        self.discriminator = discriminator

    def parameters_of(self, turn: str) -> list[nn.Parameter]:
        every = super().parameters_of(turn)
        of_discriminator = set(self.discriminator.parameters())
        if turn == "D":
            return [p for p in every if p in of_discriminator]
        return [p for p in every if p not in of_discriminator]

    def discriminator_loss(
        self, fused: Tensor, *features: Tensor, generator: RandomSource = None
    ) -> Tensor:
        """Loss_D = Loss_D0 + Loss_D1: D should answer 0 for fused*, 1 for `fused`; G is fixed."""
        conditions, x_0 = self.conditions(features, fused), self.normalize(0, fused)
        with torch.no_grad():
            x = self.generate(conditions, generator, held_fixed(self.network))
        real = self.discriminator(x_0, *conditions).float()
        fake = self.discriminator(x, *conditions).float()
        return fake.square().mean() + (1 - real).square().mean()

    def loss(
        self, fused: Tensor, *features: Tensor, generator: RandomSource = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """fused* and {"cgan": Loss_G}: D, held fixed, should answer 1 for fused*."""
        conditions = self.conditions(features, fused)
        x = self.generate(conditions, generator)
        answer = held_fixed(self.discriminator)(x, *conditions).float()
        return self.denormalize(x), {"cgan": (1 - answer).square().mean()}


class DiffusionFusion(Fusion):
    """DM: U restores `fused` from any amount of noise. Eqs. (2), (4) and (6), third line."""

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
        """Wraps U(x_t, t, f_1, ...); ValueError for values that are not named here.

        Args:
            schedule: of the noise; cosine with T = 1000 unless given.
            target: what U predicts: "x_0", "noise" (the paper's text) or "v".
            weighting: "plain" squared error on the target, or "released": U predicts x_0, the error
                is that of the noise derived from it.
            track_t: the head gets x_0_hat at the "random" t of the loss (released), or at the
                "last" t from pure noise, as at test.
            time: U is told the "step" t (paper), or the "level": sqrt(alpha_bar) in training but
                alpha_bar at test (released).
        """
        super().__init__(network, channels, modalities)
        self.schedule = schedule or Schedule.cosine()
        self.target, self.weighting, self.track_t, self.time = target, weighting, track_t, time
        for name, value, known in (
            ("target", target, ("x_0", "noise", "v")),
            ("weighting", weighting, ("plain", "released")),
            ("track_t", track_t, ("random", "last")),
            ("time", time, ("step", "level")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        if weighting == "released" and target != "x_0":
            raise ValueError("the released weighting is for target='x_0'")

    def predict(
        self, x_t: Tensor, t: Tensor, conditions: list[Tensor], training: bool
    ) -> tuple[Tensor, Tensor]:
        """U's output and the x_0_hat that it implies, both [B, C, H, W], for steps t [B]."""
        time = t
        if self.time == "level":
            time = self.schedule.alpha_bar_at(t, x_t.device)
            if training:
                time = time.sqrt()
        output = self.network_output(x_t, time.to(x_t.device), conditions)
        if self.target == "x_0":
            return output, output
        if self.target == "noise":
            return output, self.schedule.predict_x_0(x_t, t, output)
        return output, self.schedule.x_0_from_v(x_t, t, output)

    def loss(
        self,
        fused: Tensor,
        *features: Tensor,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        generator: RandomSource = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """x_0_hat for the head, and {"dm": the loss}.

        Steps t [B] and unit noise [B, C, H, W] are drawn unless given; ValueError for other shapes.
        """
        conditions, x_0 = self.conditions(features, fused), self.normalize(0, fused)
        n = len(x_0)

        # 1. A step t and unit noise for each item.
        t = random_steps(self.schedule.T, n, generator, x_0.device) if t is None else t
        noise = unit_noise(fused, generator) if noise is None else noise
        if t.shape != (n,) or noise.shape != x_0.shape:
            raise ValueError(f"t must have shape {(n,)} and noise {tuple(x_0.shape)}")

        # 2. `fused` with that much noise: Eq. (2).
        x_t = self.schedule.q_sample(x_0, t, noise)

        # 3. What U makes of it. If the head is to get what it will meet at test, U is called in the
        #    same batch for pure noise of its own, at the last step.
        if self.track_t == "last":
            x_t = torch.cat([x_t, unit_noise(x_0, generator)])
            t = torch.cat([t, t.new_full((n,), self.schedule.T - 1)])
            conditions = [torch.cat([f, f]) for f in conditions]
        output, x_0_hat = self.predict(x_t, t, conditions, training=True)

        # 4. The error at the steps of 1: Eq. (6), third line, for target = "noise".
        x_t, t, prediction = x_t[:n], t[:n], output[:n].float()
        if self.weighting == "released":
            prediction, goal = self.schedule.predict_noise(x_t, t, prediction), noise
        elif self.target == "x_0":
            goal = x_0
        elif self.target == "noise":
            goal = noise
        else:
            goal = self.schedule.predict_v(x_0, t, noise)
        error = (prediction - goal).square()
        return self.denormalize(x_0_hat[-n:]), {"dm": error.mean()}

    def sample(
        self,
        *features: Tensor,
        steps: int = 1,
        generator: RandomSource = None,
        eta: float = 0.0,
        sampler: str = "ddim",
    ) -> Tensor:
        """fused*, made from pure noise in `steps` (1..T) calls of U. Eq. (4).

        `eta` in 0..1 is the share of new noise in a DDIM step: 0 none, 1 as much as ancestral
        sampling of the sub-chain (released); at steps = 1 it has no effect. The `sampler` is "ddim"
        or "recursion": the supplement's Table 1, which feeds fused* back as the next x_t, without
        noise. ValueError for other values.
        """
        if sampler not in ("ddim", "recursion"):
            raise ValueError(f"sampler must be 'ddim' or 'recursion', got {sampler!r}")
        conditions = self.conditions(features)
        grid = self.schedule.grid(steps)

        # 1. Pure noise in the place of x_t at the last step.
        x_t = unit_noise(conditions[0], generator)
        for t, t_next in zip(grid, [*grid[1:], -1], strict=True):
            # 2. U's x_0_hat.
            now = torch.full((len(x_t),), t, device=x_t.device)
            _, x_0_hat = self.predict(x_t, now, conditions, training=False)

            # 3. It is the next x_t (recursion), or says where the next step lies: DDIM, Eq. (12).
            if sampler == "recursion":
                x_t = x_0_hat
            else:
                noise = unit_noise(x_t, generator) if eta > 0 and t_next >= 0 else None
                x_t = self.schedule.ddim_step(x_t, x_0_hat, t, t_next, eta, noise)
        return self.denormalize(x_t).to(features[0].dtype)


def make_fusion(
    variant: str,
    network: nn.Module,
    channels: int,
    discriminator: nn.Module | None = None,
    **options,
) -> Fusion:
    """The variant (see the module's table) around U; `options` are those of its class.

    `discriminator` is for CGAN alone. ValueError for an unknown variant.
    """
    if variant == "DM":
        return DiffusionFusion(network, channels, **options)
    if variant == "CGAN":
        return CGANFusion(network, discriminator, channels, **options)
    if variant == "RAW":
        return OneCall(network, channels, **options)
    if variant == "NOISE":
        return OneCall(network, channels, noise=True, **options)
    if variant == "TRK":
        return OneCall(network, channels, supervised=False, **options)
    raise ValueError(f"unknown fusion {variant!r}; expected one of {', '.join(VARIANTS)}")
