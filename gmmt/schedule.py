"""The noise schedule: how a feature map is destroyed step by step, and the way back.

The paper counts steps t = 1..T; here t = 0..T-1, so that t indexes tensors, and t = -1 means "no
noise left". DDPM is Ho et al. (2020), DDIM is Song et al. (2020).
"""

import math

import torch
from torch import Tensor


def cosine_beta(T: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Tensor:
    """beta [T] of the cosine schedule (Nichol and Dhariwal, 2021, Eq. 17), float64."""
    t = torch.linspace(0, 1, T + 1, dtype=torch.float64, device="cpu")
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=beta_max)


def linear_beta(T: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """beta [T] (DDPM, Sec. 4), float64; the end points are scaled by 1000 / T."""
    scale = 1000 / T
    beta = torch.linspace(scale * first, scale * last, T, dtype=torch.float64, device="cpu")
    return beta.clamp(max=0.999)


class Schedule:
    """beta_t, alpha_t = 1 - beta_t and alpha_bar_t = alpha_0 * ... * alpha_t, each [T] in float64.

    alpha_bar_t is the share of the signal's variance that is left at step t; the rest is noise, so
    that unit variance stays unit variance.
    """

    def __init__(self, beta: Tensor):
        """Takes beta [T]; ValueError unless it is a vector of values in (0, 1)."""
        if beta.ndim != 1 or len(beta) == 0 or not bool(((beta > 0) & (beta < 1)).all()):
            raise ValueError(f"beta must be a vector of values in (0, 1), got {beta}")
        self.beta = beta.double()
        self.alpha = 1 - self.beta
        self.alpha_bar = torch.cumprod(self.alpha, 0)
        self._tables: dict[torch.device, Tensor] = {}

    @classmethod
    def cosine(cls, T: int = 1000) -> "Schedule":
        """The released code's."""
        return cls(cosine_beta(T))

    @classmethod
    def linear(cls, T: int = 1000) -> "Schedule":
        return cls(linear_beta(T))

    @property
    def T(self) -> int:
        return len(self.beta)

    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) at each t [T]."""
        return self.alpha_bar / (1 - self.alpha_bar)

    def levels(self, t: Tensor | int, x: Tensor) -> tuple[Tensor, Tensor]:
        """(sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)), shaped to multiply x [B, ...], in its dtype.

        t is one step, or one for each item [B]; -1 stands for alpha_bar = 1. ValueError for a step
        not in -1..T-1.
        """
        alpha_bar = self.alpha_bar_at(t, x.device)
        shape = (-1, *[1] * (x.ndim - 1))
        signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        return signal.to(x).reshape(shape), noise.to(x).reshape(shape)

    def alpha_bar_at(self, t: Tensor | int, device: torch.device | str = "cpu") -> Tensor:
        """alpha_bar [B] in float64 at steps t [B] or at one, on a device; -1 stands for 1.

        ValueError for a step not in -1..T-1. A GPU would have to be waited for to see that, so
        steps that are there already go unseen, or stop the program, and are not asked about.
        """
        device = torch.device(device)
        if device not in self._tables:  # t = -1 comes first
            table = torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar])
            self._tables[device] = table.to(device)
        if not isinstance(t, Tensor):
            t = torch.as_tensor(t, device="cpu")
        t = t.reshape(-1)
        if t.device.type == "cpu" and bool(((t < -1) | (t >= self.T)).any()):
            raise ValueError(f"steps must be in -1..{self.T - 1}, got {t.tolist()}")
        return self._tables[device].index_select(0, t.to(device) + 1)

    def q_sample(self, x_0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """x_t [B, ...], a draw of q(x_t | x_0) made with unit noise [B, ...]. Eq. (2)."""
        signal, sigma = self.levels(t, x_0)
        return signal * x_0 + sigma * noise

    def predict_x_0(self, x_t: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """The x_0 from which `noise` leads to x_t: Eq. (2) solved. Ill-posed near t = T-1."""
        signal, sigma = self.levels(t, x_t)
        return (x_t - sigma * noise) / signal

    def predict_noise(self, x_t: Tensor, t: Tensor | int, x_0: Tensor) -> Tensor:
        """The noise [B, ...] that leads from x_0 to x_t: Eq. (2) solved for the noise."""
        signal, sigma = self.levels(t, x_t)
        return (x_t - signal * x_0) / sigma

    def predict_v(self, x_0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """v [B, ...], well-posed at every t (Salimans and Ho, 2022)."""
        signal, sigma = self.levels(t, x_0)
        return signal * noise - sigma * x_0

    def x_0_from_v(self, x_t: Tensor, t: Tensor | int, v: Tensor) -> Tensor:
        """The x_0 [B, ...] that x_t and v imply."""
        signal, sigma = self.levels(t, x_t)
        return signal * x_t - sigma * v

    def weight_on_x_0(self, target: str) -> Tensor:
        """The weight [T] that a plain squared error on `target` ("x_0", "noise" or "v") puts on
        |x_0_hat - x_0|^2 at each t.

        The released code predicts x_0 and takes the squared error of the noise derived from it,
        which has the weights of "noise".
        """
        if target == "x_0":
            return torch.ones_like(self.alpha_bar)
        if target == "noise":
            return self.snr()
        if target == "v":
            return 1 / (1 - self.alpha_bar)
        raise ValueError(f"target must be 'x_0', 'noise' or 'v', got {target!r}")

    def posterior(self, t: int) -> tuple[float, float, float]:
        """Of q(x_{t-1} | x_t, x_0): (coefficient of x_0, of x_t, variance). DDPM, Eq. (7)."""
        alpha_bar, before = self._alpha_bar(t), self._alpha_bar(t - 1)
        alpha, beta = self.alpha[t].item(), self.beta[t].item()
        scale = 1 / (1 - alpha_bar)
        on_x_0, on_x_t = math.sqrt(before) * beta * scale, math.sqrt(alpha) * (1 - before) * scale
        return on_x_0, on_x_t, beta * (1 - before) * scale

    def posterior_as_printed(self, t: int) -> tuple[float, float, float]:
        """The same as the paper's Eq. (3) has it: with sqrt(alpha_bar) in sqrt(alpha)'s place."""
        on_x_0, _, variance = self.posterior(t)
        alpha_bar, before = self._alpha_bar(t), self._alpha_bar(t - 1)
        return on_x_0, math.sqrt(alpha_bar) * (1 - before) * (1 / (1 - alpha_bar)), variance

    def _alpha_bar(self, t: int) -> float:
        if not -1 <= t < self.T:
            raise ValueError(f"steps must be in -1..{self.T - 1}, got {t}")
        return 1.0 if t == -1 else self.alpha_bar[t].item()

    def grid(self, steps: int) -> list[int]:
        """The `steps` (1..T, else ValueError) time steps at which a sampler calls U, from T-1
        downwards, evenly spaced: 1 -> [999], 2 -> [999, 499].
        """
        if not 1 <= steps <= self.T:
            raise ValueError(f"steps must be in 1..{self.T}, got {steps}")
        # linspace(-1, T-1, steps + 1) without its first, rounded down, in whole numbers
        return [i * self.T // steps - 1 for i in range(steps, 0, -1)]

    def ddim_step(
        self,
        x_t: Tensor,
        x_0: Tensor,
        t: int,
        t_next: int,
        eta: float = 0.0,
        noise: Tensor | None = None,
    ) -> Tensor:
        """x [B, ...] at the less noisy step `t_next` (-1: no noise). DDIM, Eq. (12).

        x_0 is a prediction of the clean map. `eta` in 0..1: 0 is deterministic; 1 draws as much new
        noise, made of unit `noise`, as DDPM's ancestral sampling. The coefficients are float64
        numbers: in bf16 one minus the ratio of two neighbouring alpha_bar would be 0. ValueError
        for other steps or eta.
        """
        if not -1 <= t_next < t < self.T:
            raise ValueError(f"a step goes from t in 0..T-1 to a smaller one, got {t} -> {t_next}")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in 0..1, got {eta}")
        alpha_bar, alpha_bar_next = self._alpha_bar(t), self._alpha_bar(t_next)

        # 1. The noise in x_t, if the prediction of x_0 is right: Eq. (2) solved for it.
        noise_hat = (x_t - math.sqrt(alpha_bar) * x_0) / math.sqrt(1 - alpha_bar)

        # 2. How much of the noise at t_next is drawn anew: DDIM, Eq. (16).
        share = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar))
        sigma = eta * share * math.sqrt(1 - alpha_bar / alpha_bar_next)

        # 3. Back to the signal's share at t_next, with the rest of the noise: DDIM, Eq. (12), its
        #    "predicted x_0" and its "direction pointing to x_t".
        direction = math.sqrt(max(0.0, 1 - alpha_bar_next - sigma**2)) * noise_hat
        x_next = math.sqrt(alpha_bar_next) * x_0 + direction

        # 4. The new noise: DDIM, Eq. (12), its "random noise".
        if sigma == 0:
            return x_next
        return x_next + sigma * noise
