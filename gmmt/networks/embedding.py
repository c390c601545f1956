"""How a network is told the time, and a transformer the place of a token."""

import math

import torch
from torch import Tensor


def sinusoidal(
    t: Tensor, dim: int, dtype: torch.dtype = torch.float32, cosine_first: bool = False
) -> Tensor:
    """Sines and cosines [B, dim] of times t [B], with wavelengths from 2 pi to 10,000 * 2 pi
    (Vaswani et al., 2017, Sec. 3.5); an odd `dim` ends in a 0.

    It is made for steps 0..999. The released code feeds it a noise level in [0, 1], of which only
    the shortest wavelengths notice anything. UViT has cosines first, UNet sines.
    """
    half, exact = dim // 2, torch.promote_types(dtype, torch.float32)
    frequency = torch.arange(half, device=t.device, dtype=exact)
    frequency = torch.exp(-math.log(10_000) * frequency / half)
    angle = t.to(exact).reshape(-1, 1) * frequency
    parts = [angle.cos(), angle.sin()] if cosine_first else [angle.sin(), angle.cos()]
    return torch.cat([*parts, angle.new_zeros(len(angle), dim % 2)], dim=1).to(dtype)


def grid_positions(side: int, dim: int) -> Tensor:
    """Sines and cosines of the places of a side x side grid [1, side * side, dim], row by row: one
    half for y, one for x; dim is even (He et al., 2022: MAE).
    """
    axis = sinusoidal(torch.arange(side), dim // 2)
    return torch.cat([axis.repeat_interleave(side, 0), axis.repeat(side, 1)], dim=1)[None]
