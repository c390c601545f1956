"""The conditional UViT: a transformer with long skip connections as in a U (Bao et al., 2023)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.networks.embedding import sinusoidal
from gmmt.networks.norm import SyncBatchNorm2d


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each after a LayerNorm and added; `skip` merges a connection."""

    def __init__(self, dim: int, heads: int, skip: bool = False):
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.norm_2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.merge = nn.Linear(2 * dim, dim) if skip else None

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Tokens [B, N, D] from x and, if the block merges one, a skip connection of that shape."""
        if self.merge is not None:
            x = self.merge(torch.cat([x, skip], dim=-1))
        b, n, d = x.shape
        heads = self.qkv(self.norm_1(x)).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each [B, heads, N, D / heads]
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, n, d))
        return x + self.mlp(self.norm_2(x))


class UViT(nn.Module):
    """U of GMMT(V): every position is a token, the time is one more.

    Two forms:
        paper: ends in the 3 x 3 convolution of UViT.
        released: ends in a BatchNorm, whose running statistics average over all times, and adds
            f_rgb to what comes out.
    """

    def __init__(
        self,
        channels: int,
        n_blocks: int = 8,
        conditions: int = 2,
        dim: int | None = None,
        heads: int = 12,
        size: int = 16,
        form: str = "paper",
    ):
        """Makes U for maps of C = `channels`; ValueError for what cannot be.

        n = `n_blocks` are on each side, one more in the middle; `conditions` maps are beside the
        noisy one. Tokens have width `dim`, 1.5625 C (1200 at C = 768) unless given, which `heads`
        must divide. Position embeddings are learned for H = W = `size` and interpolated to others.
        `form` is "paper" or "released".
        """
        super().__init__()
        dim = dim or channels * 1200 // 768
        if n_blocks < 1:
            raise ValueError(f"n_blocks must be 1 at least, got {n_blocks}")
        if heads < 1 or dim % heads:
            raise ValueError(f"heads = {heads} must divide dim = {dim}")
        if form not in ("paper", "released"):
            raise ValueError(f"form must be 'paper' or 'released', got {form!r}")
        self.dim, self.size = dim, size
        self.position = nn.Parameter(0.02 * torch.randn(1, 1 + size * size, dim))
        self.inlet = nn.Linear((1 + conditions) * channels, dim)
        self.down = nn.ModuleList(TransformerBlock(dim, heads) for _ in range(n_blocks))
        self.middle = TransformerBlock(dim, heads)
        self.up = nn.ModuleList(TransformerBlock(dim, heads, skip=True) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(dim)
        self.outlet = nn.Linear(dim, channels)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_out = SyncBatchNorm2d(channels) if form == "released" else None

    def forward(
        self, x: Tensor, t: Tensor, *conditions: Tensor, residual: Tensor | None = None
    ) -> Tensor:
        """[B, C, H, W], as `UNet.forward`; the released form adds `residual` at its very end."""
        b, _, height, width = x.shape

        # 1. A token for the time, and one for each position.
        tokens = self.inlet(torch.cat([x, *conditions], dim=1).flatten(2).transpose(1, 2))
        time = sinusoidal(t.to(x.device), self.dim, x.dtype, cosine_first=True).to(tokens.dtype)
        h = torch.cat([time.expand(b, -1)[:, None], tokens], dim=1)
        h = h + self._positions(height, width)

        # 2. The blocks; the last gets the first one's result, the last but one the second's, ...
        skips = []
        for block in self.down:
            h = block(h)
            skips.append(h)
        h = self.middle(h)
        for block in self.up:
            h = block(h, skips.pop())

        # 3. Back to a map, without the time's token.
        h = self.outlet(self.norm(h))[:, 1:].transpose(1, 2).reshape(b, -1, height, width)
        h = self.smooth(h)
        if self.norm_out is None:
            return h
        return self.norm_out(h) + (conditions[-2] if residual is None else residual)

    def _positions(self, height: int, width: int) -> Tensor:
        """[1, 1 + H * W, D]; the time's comes first."""
        if (height, width) == (self.size, self.size):
            return self.position
        grid = self.position[:, 1:].transpose(1, 2).reshape(1, self.dim, self.size, self.size)
        grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([self.position[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
