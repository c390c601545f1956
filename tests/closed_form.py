"""Weights and inputs by formula: the reference files hold outputs only, because both sides can
compute what goes in.

Value i of stream k is a 32-bit integer hash of (i, k), scaled to [-1, 1). Streams 0, 1, 2, ... fill
a network's parameters in their released order; streams 1000 + j are inputs, 2000 + j noise, 3000
the weights of a checksum.
"""

import math

import numpy as np
import torch

MASK = np.uint64(0xFFFFFFFF)


def stream(numel: int, k: int) -> np.ndarray:
    """Returns `numel` float64 values in [-1, 1) of stream k."""
    h = (
        np.arange(numel, dtype=np.uint64) * np.uint64(0x9E3779B1)
        + np.uint64((k * 0x85EBCA77 + 1) % 2**32)
    ) & MASK
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h ^= h >> np.uint64(shift)
        h = (h * np.uint64(factor)) & MASK
    h ^= h >> np.uint64(16)
    return h / 2.0**31 - 1.0


def weight(key: str, shape: tuple[int, ...], k: int) -> torch.Tensor:
    """Returns the float64 parameter or buffer `key` (a released name) as stream k, scaled so that
    activations keep their size.
    """
    x = stream(math.prod(shape), k)
    if key.endswith("num_batches_tracked"):
        x = 0 * x
    elif key.endswith("running_var"):
        x = 1 + 0.25 * x
    elif len(shape) == 1 and key.endswith("weight"):
        x = 1 + 0.1 * x
    elif (
        len(shape) <= 1 or key.endswith("running_mean") or "pos_embed" in key or "cls_token" in key
    ):
        x = 0.1 * x
    else:
        x = x * math.sqrt(3 * shape[0] / len(x))
    return torch.from_numpy(x.reshape(shape))


def state(order: list, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Returns the state dict of a reference file's `order`: [k, key, shape] each."""
    return {key: weight(key, tuple(shape), k).to(dtype) for k, key, shape in order}


def given(shape: tuple[int, ...], j: int) -> torch.Tensor:
    """Returns input number j, float32, unit variance."""
    return torch.from_numpy(
        stream(math.prod(shape), 1000 + j).reshape(shape) * math.sqrt(3)
    ).float()


def noise(shape: tuple[int, ...], j: int) -> torch.Tensor:
    """Returns noise number j, float32, unit variance."""
    return given(shape, 1000 + j)


def checksum(x: torch.Tensor) -> float:
    """Returns the order-sensitive sum that the files call dot_with_v(3000)."""
    x = x.detach().double().cpu().numpy().ravel()
    return float(x @ stream(len(x), 3000))
