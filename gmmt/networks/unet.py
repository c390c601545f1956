"""The conditional UNet (Ho et al., 2020; supplement, Sec. F)."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.networks.embedding import sinusoidal


class ResidualBlock(nn.Module):
    """Two convolutions, each after norm and SiLU, and the time's shift of every channel between."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        time_dim: int,
        groups: int,
        attention: bool = False,
    ):
        super().__init__()
        self.shift = nn.Linear(time_dim, channels_out)
        self.norm_1 = nn.GroupNorm(groups, channels_in)
        self.conv_1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm_2 = nn.GroupNorm(groups, channels_out)
        self.conv_2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.match = nn.Identity()
        if channels_in != channels_out:
            self.match = nn.Conv2d(channels_in, channels_out, 1)
        self.attention = SelfAttention(channels_out, groups) if attention else nn.Identity()

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """[B, C_out, H, W] from x [B, C_in, H, W] and the time's [B, D]; None where folded."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        if time is not None:
            h = h + self.shift(time)[:, :, None, None]
        h = self.conv_2(F.silu(self.norm_2(h)))
        return self.attention(h + self.match(x))


class SelfAttention(nn.Module):
    """One head of attention between all positions of a map, added to it."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # [B, H * W, 3 C]
        q, k, v = tokens.chunk(3, dim=2)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).reshape(x.shape))


class Resize(nn.Module):
    """A convolution that halves a map (stride 2), or that follows its enlargement to `size`."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self.conv(x if size is None else F.interpolate(x, size=size, mode="nearest"))


class UNet(nn.Module):
    """U of GMMT(U): predicts [B, C, H, W] from a noisy map, the time and the conditions; H, W >= 4.

    Two forms:
        paper: n/3 blocks a level on the way down and as many on the way up, one in the middle,
            skips between equal depths (supp. Fig. 2d).
        released: one block more a level on the way up, two in the middle, skips from the inlet and
            the halvings too; f_rgb is added before one more convolution and a last GroupNorm. With
            n = 9 this is 9 down, 12 up, 2 middle.
    """

    def __init__(
        self,
        channels: int,
        n_blocks: int = 9,
        conditions: int = 2,
        inner: int | None = None,
        groups: int = 32,
        multipliers: tuple[float, ...] = (1, 1.5, 2),
        attention_levels: tuple[int, ...] = (1,),
        form: str = "paper",
    ):
        """Makes U for maps of C = `channels`; ValueError for what cannot be.

        `n_blocks` is n, on each side, a multiple of the number of levels. `conditions` counts the
        maps beside the noisy one: m modalities, and the released extra condition. `inner` channels
        (C unless given) times a level's multiplier are its width, which `groups` of every GroupNorm
        must divide. `attention_levels` count from 0, full resolution; the released code has
        attention at 8 x 8. `form` is "paper" or "released".
        """
        super().__init__()
        inner = inner or channels
        widths = [int(inner * m) for m in multipliers]
        levels = range(len(widths))
        if n_blocks < 1 or n_blocks % len(levels):
            raise ValueError(
                f"n_blocks must be a multiple of the {len(levels)} levels, got {n_blocks}"
            )
        if any(level not in levels for level in attention_levels):
            raise ValueError(f"attention_levels must be in 0..{levels[-1]}, got {attention_levels}")

        # What the two forms differ in, beside the outlet.
        blocks_down = n_blocks // len(levels)  # of each level
        if form == "paper":
            blocks_middle, blocks_up = 1, blocks_down
        elif form == "released":
            blocks_middle, blocks_up = 2, blocks_down + 1
        else:
            raise ValueError(f"form must be 'paper' or 'released', got {form!r}")
        self.form, self.inner = form, inner
        self.every_layer_skips = form == "released"  # the inlet and the halvings, too

        def block(channels_in: int, channels_out: int, attention: bool) -> ResidualBlock:
            return ResidualBlock(channels_in, channels_out, inner, groups, attention)

        def outlet(channels_in: int) -> nn.ModuleDict:
            norm = nn.GroupNorm(groups, channels_in)
            conv = nn.Conv2d(channels_in, channels, 3, padding=1)
            return nn.ModuleDict({"norm": norm, "conv": conv})

        self.time = nn.Sequential(
            nn.Linear(inner, 4 * inner), nn.SiLU(), nn.Linear(4 * inner, inner)
        )
        self.inlet = nn.Conv2d((1 + conditions) * channels, inner, 3, padding=1)
        self.down, self.middle, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()

        width = inner
        skips = [width] if self.every_layer_skips else []  # channels of what is handed across
        for level in levels:
            for _ in range(blocks_down):
                self.down.append(block(width, widths[level], level in attention_levels))
                width = widths[level]
                skips.append(width)
            if level < levels[-1]:
                self.down.append(Resize(width, stride=2))
                if self.every_layer_skips:
                    skips.append(width)
        for i in range(blocks_middle):
            self.middle.append(block(width, width, attention=i == 0))
        for level in reversed(levels):
            for _ in range(blocks_up):
                width += skips.pop()
                self.up.append(block(width, widths[level], level in attention_levels))
                width = widths[level]
            if level > 0:
                self.up.append(Resize(width, stride=1))

        self.outlet = nn.ModuleList([outlet(width)])
        if form == "released":
            self.outlet.append(outlet(channels))
            self.norm = nn.GroupNorm(groups, channels)

    def forward(
        self, x: Tensor, t: Tensor, *conditions: Tensor, residual: Tensor | None = None
    ) -> Tensor:
        """[B, C, H, W] from x and the conditions [B, C, H, W] each and t [B], step or noise level.

        The released form adds `residual` near its end: unless given, the last but one condition,
        f_rgb.
        """
        # 1. The time's features; none where the time is folded away.
        time = None
        if self.time is not None:
            time = self.time(sinusoidal(t.to(x.device), self.inner, x.dtype))

        # 2. Down, keeping what is handed across.
        h = self.inlet(torch.cat([x, *conditions], dim=1))
        skips = [h] if self.every_layer_skips else []
        for layer in self.down:
            is_block = isinstance(layer, ResidualBlock)
            h = layer(h, time) if is_block else layer(h)
            if is_block or self.every_layer_skips:
                skips.append(h)

        # 3. The middle, and up again to the size of each skip connection.
        for layer in self.middle:
            h = layer(h, time)
        for layer in self.up:
            if isinstance(layer, ResidualBlock):
                h = layer(torch.cat([h, skips.pop()], dim=1), time)
            else:
                h = layer(h, size=skips[-1].shape[-2:])

        # 4. Back to C channels.
        h = self._leave(0, h)
        if self.form == "released":
            h = h + (conditions[-2] if residual is None else residual)
            h = self.norm(self._leave(1, h))
        return h

    def _leave(self, i: int, h: Tensor) -> Tensor:
        return self.outlet[i]["conv"](F.silu(self.outlet[i]["norm"](h)))

    def folded(self, t: float) -> "UNet":
        """A copy for the one time t, in whose biases the time's shifts are: for s = 1."""
        weight = self.inlet.weight
        with torch.no_grad():
            features = sinusoidal(torch.tensor([t], device=weight.device), self.inner, weight.dtype)
            time = self.time(features)
            net = copy.deepcopy(self)
            for layer in net.modules():
                if isinstance(layer, ResidualBlock):
                    layer.conv_1.bias += layer.shift(time)[0]
                    layer.shift = None
            net.time = None
        return net
