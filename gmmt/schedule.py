"""The noise schedule: how a feature map is destroyed step by step, and the formulas that take it
back.

The paper counts steps t = 1..T; here t = 0..T-1, so that t indexes tensors, and t = -1 means "no
noise left".
"""

import math

import torch
from torch import Tensor


def cosine_beta(T: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Tensor:
    """Returns beta [T] of the cosine schedule (Nichol and Dhariwal, 2021, Eq. 17), clipped at
    `beta_max`, float64.
    """
    t = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=beta_max)


def linear_beta(T: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Returns beta [T] of the linear schedule (Ho et al., 2020, Sec. 4), float64; its end points
    are scaled by 1000 / T.
    """
    scale = 1000 / T
    return torch.linspace(scale * first, scale * last, T, dtype=torch.float64).clamp(max=0.999)


class Schedule:
    """A noise schedule: beta_t, alpha_t = 1 - beta_t and alpha_bar_t, the product of
    alpha_0..alpha_t, each [T] in float64.

    alpha_bar_t is the share of the signal's variance that is left at step t; the rest is noise, so
    that unit variance stays unit variance.
    """

    def __init__(self, beta: Tensor):
        if beta.ndim != 1 or not bool(((beta > 0) & (beta < 1)).all()):
            raise ValueError(
                f"beta must be a vector of values in (0, 1), got shape {tuple(beta.shape)}"
            )
        self.beta = beta.double()
        self.alpha = 1 - self.beta
        self.alpha_bar = torch.cumprod(self.alpha, 0)

    @classmethod
    def cosine(cls, T: int = 1000) -> "Schedule":
        """Returns the cosine schedule, which the released code uses."""
        return cls(cosine_beta(T))

    @classmethod
    def linear(cls, T: int = 1000) -> "Schedule":
        """Returns the linear schedule of DDPM."""
        return cls(linear_beta(T))

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.beta)

    def snr(self) -> Tensor:
        """Returns the signal-to-noise ratio alpha_bar / (1 - alpha_bar) at each t [T]."""
        return self.alpha_bar / (1 - self.alpha_bar)

    def levels(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)) in the dtype and on the device of
        `like` [B, ...], shaped to multiply it.

        t is one step for the whole batch, or one for each item [B]; -1 stands for alpha_bar = 1.
        """
        t = torch.as_tensor(t, device="cpu").reshape(-1)
        alpha_bar = torch.where(
            t >= 0, self.alpha_bar[t.clamp(min=0)], torch.ones((), dtype=torch.float64)
        )
        shape = (-1, *[1] * (like.ndim - 1))
        signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        return signal.to(like).reshape(shape), noise.to(like).reshape(shape)

    def q_sample(self, x_0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """Returns x_t [B, ...], a draw of q(x_t | x_0) made with unit noise [B, ...]. Eq. (2)."""
        signal, sigma = self.levels(t, x_0)
        return signal * x_0 + sigma * noise

    def predict_x_0(self, x_t: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """Returns the x_0 [B, ...] from which `noise` leads to x_t: Eq. (2) solved for x_0.
        Ill-posed near t = T-1.
        """
        signal, sigma = self.levels(t, x_t)
        return (x_t - sigma * noise) / signal

    def predict_noise(self, x_t: Tensor, t: Tensor | int, x_0: Tensor) -> Tensor:
        """Returns the noise [B, ...] that leads from x_0 to x_t: Eq. (2) solved for the noise."""
        signal, sigma = self.levels(t, x_t)
        return (x_t - signal * x_0) / sigma

    def predict_v(self, x_0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """Returns v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0 [B, ...], well-posed at every
        t (Salimans and Ho, 2022).
        """
        signal, sigma = self.levels(t, x_0)
        return signal * noise - sigma * x_0

    def x_0_from_v(self, x_t: Tensor, t: Tensor | int, v: Tensor) -> Tensor:
        """Returns the x_0 [B, ...] that x_t and v imply."""
        signal, sigma = self.levels(t, x_t)
        return signal * x_t - sigma * v

    def weight_on_x_0(self, target: str) -> Tensor:
        """Returns the weight [T] that a plain squared error on `target` ("x_0", "noise" or "v")
        puts on |x_0_hat - x_0|^2 at each t.

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
        """Returns (coefficient of x_0, coefficient of x_t, variance) of q(x_{t-1} | x_t, x_0).
        DDPM, Eq. (7).
        """
        alpha_bar, before = self.alpha_bar[t].item(), self.alpha_bar[t - 1].item() if t else 1.0
        alpha, beta = self.alpha[t].item(), self.beta[t].item()
        scale = 1 / (1 - alpha_bar)
        return (
            math.sqrt(before) * beta * scale,
            math.sqrt(alpha) * (1 - before) * scale,
            beta * (1 - before) * scale,
        )

    def posterior_as_printed(self, t: int) -> tuple[float, float, float]:
        """Returns the same three numbers as the paper's Eq. (3) has them: with sqrt(alpha_bar)
        where the posterior has sqrt(alpha).
        """
        alpha_bar, before = self.alpha_bar[t].item(), self.alpha_bar[t - 1].item() if t else 1.0
        beta, scale = self.beta[t].item(), 1 / (1 - alpha_bar)
        return (
            math.sqrt(before) * beta * scale,
            math.sqrt(alpha_bar) * (1 - before) * scale,
            beta * (1 - before) * scale,
        )

    def grid(self, steps: int) -> list[int]:
        """Returns the `steps` time steps at which a sampler evaluates U, from T-1 downwards, evenly
        spaced: 1 -> [999], 2 -> [999, 499].

        ValueError if `steps` is not in 1..T.
        """
        if not 1 <= steps <= self.T:
            raise ValueError(f"steps must be in 1..{self.T}, got {steps}")
        return [
            i * self.T // steps - 1 for i in range(steps, 0, -1)
        ]  # linspace(-1, T-1, steps+1), rounded down without rounding errors

    def ddim_step(
        self,
        x_t: Tensor,
        x_0: Tensor,
        t: int,
        t_next: int,
        eta: float = 0.0,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Returns x at the less noisy step `t_next` (-1: clean), given x_t and a prediction of x_0,
        all [B, ...]. DDIM, Eq. (12).

        eta = 0 is deterministic; 1 draws as much new noise as DDPM's ancestral sampling (DDIM, Eq.
        16); it is made of the unit `noise`.
        """
        signal, sigma = self.levels(t, x_t)
        signal_next, sigma_next = self.levels(t_next, x_t)
        fresh = eta * (sigma_next / sigma) * (1 - signal**2 / signal_next**2).clamp(min=0).sqrt()
        direction = (sigma_next**2 - fresh**2).clamp(min=0).sqrt() * self.predict_noise(x_t, t, x_0)
        x_next = signal_next * x_0 + direction
        if eta == 0:
            return x_next
        if noise is None:
            raise ValueError("eta > 0 draws new noise: pass it")
        return x_next + fresh * noise
