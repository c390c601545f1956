"""The smallest conditional network that is still a U in spirit: see what is given, see the noise, know the time."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def time_embedding(t: Tensor, channels: int) -> Tensor:
    """Returns sinusoidal features [B, channels] of integer steps t [B]: wavelengths from 2 pi to 10,000 * 2 pi (Vaswani et al., 2017)."""
    half = channels // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class TinyNet(nn.Module):
    """Three residual convolution blocks over the concatenation of noise and conditions, told the time by a shift of every channel."""

    def __init__(self, channels: int, conditions: int = 2, width: int = 32, blocks: int = 3):
        """Makes a network from (1 + conditions) * channels inputs to `channels` outputs.

        Args:
            channels: C of x_t and of each condition.
            conditions: number of modalities m.
            width: channels inside.
            blocks: residual blocks; each widens what a pixel sees by 8 (dilation 1 and 3).
        """
        super().__init__()
        self.width = width
        self.inlet = nn.Conv2d((1 + conditions) * channels, width, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, blocks * width))
        self.near = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.far = nn.ModuleList(nn.Conv2d(width, width, 3, padding=3, dilation=3) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for _ in range(blocks))
        self.outlet = nn.Conv2d(width, channels, 1)

    def forward(self, x_t: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:
        """Returns the prediction [B, C, H, W] from x_t [B, C, H, W], steps t [B] and the modalities' features [B, C, H, W] each."""
        h = self.inlet(torch.cat([x_t, *conditions], dim=1))
        shifts = self.time(time_embedding(t, self.width)).chunk(len(self.near), dim=1)
        for near, far, norm, shift in zip(self.near, self.far, self.norms, shifts, strict=True):
            h = h + far(F.silu(near(F.silu(norm(h) + shift[:, :, None, None]))))
        return self.outlet(h)
