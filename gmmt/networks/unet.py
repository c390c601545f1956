"""The conditional UNet: residual convolution blocks over three resolutions, with skip connections
(Ho et al., 2020; supplement, Sec. F).
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.networks.embedding import sinusoidal


class ResidualBlock(nn.Module):
    """Two convolutions, each after norm and SiLU; time shifts every channel in between; optionally
    attention over all positions.
    """

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
        self.match = (
            nn.Conv2d(channels_in, channels_out, 1)
            if channels_in != channels_out
            else nn.Identity()
        )
        self.attention = SelfAttention(channels_out, groups) if attention else nn.Identity()

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """Returns [B, C_out, H, W] from x [B, C_in, H, W] and the time's features [B, D]; None
        where the time is folded into conv_1.
        """
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
        """Returns [B, C, H, W]."""
        q, k, v = (
            self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        )  # each [B, H*W, C]
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).reshape(x.shape))


class Resize(nn.Module):
    """A convolution that halves a map (stride 2), or that follows an enlargement to the size of the
    skip connection.
    """

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Returns the map at half its size, or at `size`."""
        return self.conv(x if size is None else F.interpolate(x, size=size, mode="nearest"))


class UNet(nn.Module):
    """U of GMMT(U): predicts [B, C, H, W] from a noisy map, the time, and the modalities' features,
    for any H, W >= 4.

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
        """Makes the network; ValueError if n_blocks, groups or form cannot be.

        Args:
            channels: C of the noisy map, of each condition and of the output.
            n_blocks: n, blocks on each side; a multiple of the number of levels.
            conditions: how many maps are given beside the noisy one (m modalities, and the released
                extra condition).
            inner: channels at full resolution; C unless given.
            groups: groups of every GroupNorm; they must divide every level's channels.
            multipliers: channels of each level over `inner`.
            attention_levels: levels with attention (0: full resolution); the released code has it
                at 8 x 8.
            form: "paper" or "released".
        """
        super().__init__()
        inner = inner or channels
        levels = [int(inner * m) for m in multipliers]
        if n_blocks < 1 or n_blocks % len(levels):
            raise ValueError(
                f"n_blocks must be a multiple of the {len(levels)} levels, got {n_blocks}"
            )
        if form not in ("paper", "released"):
            raise ValueError(f"form must be 'paper' or 'released', got {form!r}")
        normed = {*levels, channels} if form == "released" else {*levels}
        if any(width % groups for width in normed):
            raise ValueError(f"groups = {groups} must divide the channels {sorted(normed)}")
        self.form, self.inner = form, inner
        per_level = n_blocks // len(levels)

        def block(a: int, b: int, attention: bool = False) -> ResidualBlock:
            return ResidualBlock(a, b, inner, groups, attention)

        self.time = nn.Sequential(
            nn.Linear(inner, 4 * inner), nn.SiLU(), nn.Linear(4 * inner, inner)
        )
        self.inlet = nn.Conv2d((1 + conditions) * channels, inner, 3, padding=1)
        self.down, self.middle, self.up, width = (
            nn.ModuleList(),
            nn.ModuleList(),
            nn.ModuleList(),
            inner,
        )
        skips = [inner] if form == "released" else []
        for level, wider in enumerate(levels):
            for _ in range(per_level):
                self.down.append(block(width, wider, level in attention_levels))
                width = wider
                skips.append(width)
            if level < len(levels) - 1:
                self.down.append(Resize(width, stride=2))
                if form == "released":
                    skips.append(width)
        self.middle.extend(
            block(width, width, attention=i == 0) for i in range(1 + (form == "released"))
        )
        for level in reversed(range(len(levels))):
            for _ in range(per_level + (form == "released")):
                self.up.append(block(width + skips.pop(), levels[level], level in attention_levels))
                width = levels[level]
            if level:
                self.up.append(Resize(width, stride=1))
        outlets = [(width, channels)] + [(channels, channels)] * (form == "released")
        self.outlet = nn.ModuleList(
            nn.ModuleDict({"norm": nn.GroupNorm(groups, a), "conv": nn.Conv2d(a, b, 3, padding=1)})
            for a, b in outlets
        )
        self.norm = nn.GroupNorm(groups, channels) if form == "released" else None

    def forward(
        self, x: Tensor, t: Tensor, *conditions: Tensor, residual: Tensor | None = None
    ) -> Tensor:
        """Returns [B, C, H, W] from x [B, C, H, W], the time t [B] (a step or a noise level) and
        the conditions [B, C, H, W] each.

        The released form adds `residual` [B, C, H, W] near its end: the last but one condition,
        f_rgb, unless another is given.
        """
        time = self.time(sinusoidal(t, self.inner, like=x)) if self.time is not None else None
        h = self.inlet(torch.cat([x, *conditions], dim=1))
        skips = [h] if self.form == "released" else []
        for layer in self.down:
            is_block = isinstance(layer, ResidualBlock)
            h = layer(h, time) if is_block else layer(h)
            if is_block or self.form == "released":
                skips.append(h)
        for layer in self.middle:
            h = layer(h, time)
        for layer in self.up:
            if isinstance(layer, ResidualBlock):
                h = layer(torch.cat([h, skips.pop()], dim=1), time)
            else:
                h = layer(h, size=skips[-1].shape[-2:])
        for i, outlet in enumerate(self.outlet):
            h = h if i == 0 else h + (conditions[-2] if residual is None else residual)
            h = outlet["conv"](F.silu(outlet["norm"](h)))
        return h if self.norm is None else self.norm(h)

    def folded(self, t: float) -> "UNet":
        """Returns a copy for the one time t, in which the time's shifts are biases: the same output
        with fewer parameters, for s = 1.
        """
        with torch.no_grad():
            time = self.time(sinusoidal(torch.tensor([t]), self.inner, like=self.inlet.weight))
            net = copy.deepcopy(self)
            for layer in net.modules():
                if isinstance(layer, ResidualBlock):
                    layer.conv_1.bias += layer.shift(time)[0]
                    layer.shift = None
            net.time = None
        return net
