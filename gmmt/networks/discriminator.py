"""The discriminator of GMMT(CGAN) (supplement, Fig. 1)."""

import torch
from torch import Tensor, nn

from gmmt.networks.norm import SyncBatchNorm2d


class Discriminator(nn.Module):
    """The probability that `fused` is real: four convolutions of stride 2, and a sigmoid.

    The supplement's is made for 31 x 31 (31 -> 15 -> 7 -> 3 -> 1, no padding), which would take
    16 x 16 to nothing; so even sizes are padded by 1 (16 -> 8 -> 4 -> 2 -> 1). What is left of a
    larger map is averaged.

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
        """Makes D for `conditions` + 1 maps of C = `channels` and H = W = `size`.

        `widths` are the channels after each convolution but the last, which has one.
        """
        super().__init__()
        padding = 1 if size % 2 == 0 else 0
        layers, width = [], (1 + conditions) * channels
        for next_width in widths:
            layers.append(nn.Conv2d(width, next_width, 3, stride=2, padding=padding))
            layers += [SyncBatchNorm2d(next_width), nn.ReLU()]
            width = next_width
        layers.append(nn.Conv2d(width, 1, 3, stride=2, padding=padding))
        if last_norm:
            layers.append(SyncBatchNorm2d(1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """[B] from x and the conditions [B, C, H, W] each."""
        # In float32 under autocast, too: on CPUs the bf16 gradient of the last convolution (one
        # channel, 1 x 1 map) now and then is NaN.
        with torch.autocast(x.device.type, enabled=False):
            logits = self.layers(torch.cat([x, *conditions], dim=1).float())
            return logits.mean((1, 2, 3)).sigmoid()
