"""What the tests of fusion share: features, a small fusion of each variant, and one around a U that
can be worked out by hand.
"""

import numpy as np
import torch
from torch import nn

from gmmt.fusion import make_fusion
from gmmt.networks.discriminator import Discriminator
from gmmt.networks.unet import UNet

C = 4


def features(n=4, size=8, seed=0):
    f_1, f_2 = torch.randn(2, n, C, size, size, generator=torch.Generator().manual_seed(seed))
    return torch.tanh(f_1 + 0.5 * f_2), f_1, f_2


def network(seed=0, form="paper"):
    torch.manual_seed(seed)
    return UNet(C, 3, inner=8, groups=4, form=form)


def make(variant, **options):
    return make_fusion(
        variant,
        network(),
        C,
        **({"discriminator": Discriminator(C, size=8)} if variant == "CGAN" else {}),
        **options,
    )


def rng(seed):
    return torch.Generator().manual_seed(seed)


class Mix(nn.Module):
    """A U that can be worked out by hand: w_0 x + w_1 f_1 + w_2 f_2 + w_3 t."""

    def __init__(self, weights=(0.5, 0.3, -0.2, 1e-3)):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights, dtype=torch.float64))
        self.inputs = []

    def forward(self, x, t, f_1, f_2):
        self.inputs.append((x, t))
        w = self.w
        return w[0] * x + w[1] * f_1 + w[2] * f_2 + w[3] * t.to(x.dtype).reshape(-1, 1, 1, 1)


def in_units(n=5, seed=0):
    """(fused, f_1, f_2), float64, each channel of each in units of its own."""
    generator = rng(seed)
    scale = torch.tensor([[0.1, 1.0, 7.0, 30.0], [2.0, 0.5, 1.0, 4.0], [9.0, 3.0, 0.2, 1.0]])
    shift = torch.tensor([[5.0, -2.0, 0.0, 100.0], [1.0, 2.0, 3.0, 4.0], [-8.0, 0.0, 8.0, 1.0]])
    x = torch.randn(3, n, C, 3, 3, generator=generator, dtype=torch.float64)
    return tuple(x * scale[:, None, :, None, None] + shift[:, None, :, None, None])


def fitted(variant, **options):
    """A fusion around Mix that has seen a training set, and the statistics that it should have: two
    functions, to standardised channels and back.
    """
    data = in_units(n=40, seed=1)
    model = make_fusion(variant, Mix(), C, **options).double()
    model.fit(*data)
    mean = [torch.tensor(np.mean(x.numpy(), axis=(0, 2, 3))).view(C, 1, 1) for x in data]
    std = [torch.tensor(np.std(x.numpy(), axis=(0, 2, 3), ddof=1)).view(C, 1, 1) for x in data]
    for i in range(3):
        torch.testing.assert_close(model.mean[i].view(C, 1, 1), mean[i])
        torch.testing.assert_close(model.std[i].view(C, 1, 1), std[i])
    return model, lambda i, x: (x - mean[i]) / std[i], lambda x: x * std[0] + mean[0]


def gradients(loss, w):
    (gradient,) = torch.autograd.grad(loss, w, retain_graph=True)
    return gradient
