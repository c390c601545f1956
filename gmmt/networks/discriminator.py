"""The discriminator of GMMT(CGAN): real `fused` or generated fused*, given both modalities
(supplement, Fig. 1).
"""

import torch
from torch import Tensor, nn


class Discriminator(nn.Module):
    """Four convolutions of stride 2 that take a map to one number, and a sigmoid: the probability
    of being real.

    It is conditional by concatenation: D(x, f_1, f_2). The supplement's is made for 31 x 31 (31 ->
    15 -> 7 -> 3 -> 1, no padding); the same stack would take 16 x 16 to nothing, so even sizes are
    padded by 1 (16 -> 8 -> 4 -> 2 -> 1). What is left of a larger map is averaged.

    The supplement's last norm is left out: on a 1 x 1 map in training mode it sets the mean logit
    of any all-real or all-fake batch to its own bias, whatever D has learned, and G gets no
    gradient through the mean. `last_norm=True` brings it back, to see that.
    """

    def __init__(
        self,
        channels: int,
        conditions: int = 2,
        size: int = 31,
        widths: tuple[int, ...] = (256, 64, 16),
        last_norm: bool = False,
    ):
        """Makes D for maps of about `size` x `size` with `channels` each."""
        super().__init__()
        layers: list[nn.Module] = []
        width = (1 + conditions) * channels
        for wider in (*widths, 1):
            layers.append(nn.Conv2d(width, wider, 3, stride=2, padding=1 - size % 2))
            if wider > 1:
                layers += [nn.BatchNorm2d(wider), nn.ReLU()]
            width = wider
        if last_norm:
            layers.append(nn.BatchNorm2d(1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Returns the probability [B] that x [B, C, H, W] is real, given the conditions [B, C, H,
        W] each.
        """
        # In float32 under autocast, too: on CPUs the bf16 gradient of the last convolution (one
        # channel, 1 x 1 map) now and then is NaN.
        with torch.autocast(x.device.type, enabled=False):
            return self.layers(torch.cat([x, *conditions], dim=1).float()).mean((1, 2, 3)).sigmoid()
