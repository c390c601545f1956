"""Fusion of two modalities' features as generation: how `fused` is learned, and how fused* is made at test time.

Every variant has the same two methods, so that a tracker need not know which one it holds:

    loss(fused, f_1, f_2, generator) -> (fused_star, terms)    training: a fused feature for the head, and the generative loss
    sample(f_1, f_2, steps, generator) -> fused_star           test

All features are [B, C, H, W]. This first slice holds two variants of Eq. (6): RAW, plain regression, and DM, diffusion with x_0 prediction.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.schedule import Schedule


class RawFusion(nn.Module):
    """RAW: the network regresses the original fused feature; no noise, no time. Eq. (6), first line."""

    def __init__(self, network: nn.Module):
        """Wraps a network U(x, t, f_1, f_2), which gets zeros and t = 0 in place of noise and time."""
        super().__init__()
        self.network = network

    def loss(self, fused: Tensor, f_1: Tensor, f_2: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns fused* [B, C, H, W] and {"raw": mean squared error to `fused`}."""
        fused_star = self.sample(f_1, f_2)
        return fused_star, {"raw": F.mse_loss(fused_star, fused)}

    def sample(self, f_1: Tensor, f_2: Tensor, steps: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Returns fused* [B, C, H, W]; one call of the network whatever `steps` is."""
        return self.network(torch.zeros_like(f_1), torch.zeros(len(f_1), dtype=torch.long, device=f_1.device), f_1, f_2)


class DiffusionFusion(nn.Module):
    """DM: the network restores `fused` from any amount of noise, given both modalities. Eqs. (2) and (6), third line.

    It predicts x_0, as the released code does; the paper's text predicts the noise.
    """

    def __init__(self, network: nn.Module, schedule: Schedule | None = None):
        """Wraps a network U(x_t, t, f_1, f_2); the schedule is cosine with T = 1000 unless given."""
        super().__init__()
        self.network = network
        self.schedule = schedule or Schedule.cosine()

    def loss(self, fused: Tensor, f_1: Tensor, f_2: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns x_0_hat [B, C, H, W] at a random t for each item and {"dm": its mean squared error to `fused`}."""
        t = torch.randint(self.schedule.T, (len(fused),), generator=generator, device=generator.device if generator else "cpu")
        noise = _unit_noise(fused, generator)
        x_t = self.schedule.q_sample(fused, t, noise)
        fused_star = self.network(x_t, t.to(fused.device), f_1, f_2)
        return fused_star, {"dm": F.mse_loss(fused_star, fused)}

    def sample(self, f_1: Tensor, f_2: Tensor, steps: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Returns fused* [B, C, H, W], sampled from pure noise in `steps` calls of the network (DDIM, eta = 0)."""
        x_t = _unit_noise(f_1, generator)
        grid = self.schedule.grid(steps)
        for t, t_next in zip(grid, [*grid[1:], -1], strict=True):
            x_0 = self.network(x_t, torch.full((len(f_1),), t, device=f_1.device), f_1, f_2)
            x_t = self.schedule.ddim_step(x_t, x_0, t, t_next)
        return x_t


def _unit_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Returns Gaussian noise shaped like `like`, drawn on the generator's own device: the same seed, the same noise on any device."""
    device = generator.device if generator else like.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)
