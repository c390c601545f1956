"""How a network is told the time."""

import math

import torch
from torch import Tensor


def sinusoidal(t: Tensor, dim: int, like: Tensor, cosine_first: bool = False) -> Tensor:
    """Returns features [B, dim] of times t [B]: sines and cosines with wavelengths from 2 pi to
    10,000 * 2 pi (Vaswani et al., 2017).

    It is made for steps 0..999. The released code feeds it a noise level in [0, 1], of which only
    the shortest wavelengths notice anything. The features, of which an odd number ends in a 0, get
    the dtype and device of `like`; they are computed in float32 at least. UViT has cosines first,
    UNet sines.
    """
    half, dtype = dim // 2, torch.promote_types(like.dtype, torch.float32)
    frequency = torch.exp(
        -math.log(10_000) * torch.arange(half, device=like.device, dtype=dtype) / half
    )
    angle = t.to(like.device, dtype).reshape(-1, 1) * frequency
    parts = [angle.cos(), angle.sin()] if cosine_first else [angle.sin(), angle.cos()]
    return torch.cat([*parts, angle.new_zeros(len(angle), dim % 2)], dim=1).to(like.dtype)


def grid_positions(side: int, dim: int) -> Tensor:
    """Returns sines and cosines of the places of a side x side grid [1, side * side, dim], row by
    row: one half for y, one for x (MAE).
    """
    axis = sinusoidal(torch.arange(side), dim // 2, like=torch.zeros(()))
    return torch.cat([axis.repeat_interleave(side, 0), axis.repeat(side, 1)], dim=1)[None]
