"""TBSI (Hui et al., 2023): one ViT for both modalities, whose search patches talk to each other
through a template of both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.networks.norm import SyncBatchNorm2d
from gmmt.trackers.vit import OneStream, ViT, perceptron


class Bridge(nn.Module):
    """Cross-attention and a perceptron, for the asking tokens alone.

    The official block asks with some tokens, but runs its perceptron on the answering ones too and
    throws the result away: 1536 tokens in a layer of which 768 are used. Same weights, same answer,
    half the work.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.scale = (dim / heads) ** -0.5
        self.norm1, self.attn_reshape = (
            nn.LayerNorm(dim, eps=1e-6),
            nn.ModuleDict({"proj": nn.Linear(dim, dim)}),
        )
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), perceptron(dim)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """Returns the asking tokens x [B, N, D], enriched by the source's [B, M, D]."""
        key = self.norm1(source)
        y = F.scaled_dot_product_attention(self.norm1(x), key, key, scale=self.scale)
        # The released attention has neither query, key and value projections nor heads; what is
        # left of the heads is the scale, and a transposition that would have put them back
        # together. Without them it turns [N, D] into [D, N], and reading that memory as [N, D]
        # mixes tokens with channels: row i of the result holds channels of ALL tokens. The weights
        # are trained with it.
        y = y.mT.reshape(y.shape)
        x = x + self.attn_reshape["proj"](y)
        return x + self.mlp(self.norm2(x))


class TBSILayer(nn.Module):
    """Template-bridged search interaction: a fused template asks each modality's search patch and
    tells the other what it found.

    Names are the official ones: s search, t template, v visible, i infrared, f the fused template.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.t_fusion = nn.Sequential(nn.Linear(2 * dim, dim), nn.LayerNorm(dim), nn.GELU())
        for name in ("s2t_v2f", "t2s_f2i", "s2t_i2f", "t2s_f2v", "t2t_f2v", "t2t_f2i"):
            self.add_module(f"ca_{name}", Bridge(dim, heads))

    def forward(
        self, z_v: Tensor, x_v: Tensor, z_i: Tensor, x_i: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the four groups of tokens, templates [B, n_z, D] and search patches [B, N, D],
        each with news of the other modality.
        """
        f = self.ca_s2t_i2f(self.t_fusion(torch.cat([z_v, z_i], dim=2)), x_i)
        new_v = self.ca_t2s_f2v(x_v, f)
        f = self.ca_s2t_v2f(f, x_v)  # the old x_v
        return self.ca_t2t_f2v(z_v, f), new_v, self.ca_t2t_f2i(z_i, f), self.ca_t2s_f2i(x_i, f)


class BridgedViT(ViT):
    """The ViT on both modalities at once, stacked in the batch, with a TBSI layer after some
    blocks.
    """

    def __init__(self, at: tuple[int, ...] = (3, 6, 9), heads: int = 12, **sizes):
        """Makes the backbone with bridges after the blocks `at` (from 0); ValueError if there are
        too few blocks for it.
        """
        super().__init__(heads=heads, **sizes)
        if max(at) >= len(self.blocks):
            raise ValueError(f"bridges after blocks {at} need more than {len(self.blocks)} blocks")
        self.at = tuple(at)
        self.tbsi_layers = nn.ModuleList(
            TBSILayer(self.norm.weight.numel(), heads) for _ in self.at
        )

    def layer(self, i: int, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Returns tokens [2B, n_z + N, D], RGB's before thermal's, after block i and the bridge
        behind it, and places (see ViT.layer).
        """
        tokens, places = super().layer(i, tokens, places)
        if i in self.at:
            groups = [
                t for half in tokens.chunk(2) for t in (half[:, : self.n_z], half[:, self.n_z :])
            ]
            z_v, x_v, z_i, x_i = self.tbsi_layers[self.at.index(i)](*groups)
            tokens = torch.cat([torch.cat([z_v, z_i]), torch.cat([x_v, x_i])], dim=1)
        return tokens, places


class TBSI(OneStream):
    """TBSI, and GMMT on it: f_rgb and f_tir are both modalities' search tokens after the last norm,
    fused is one convolution of them.
    """

    def __init__(self, hidden: int = 256, **options):
        """Makes the official TBSI; `options` are those of BridgedViT and ViT."""
        super().__init__(BridgedViT(**options), hidden)
        c = self.channels
        self.fuse = nn.Sequential(nn.Conv2d(2 * c, c, 3, padding=1), SyncBatchNorm2d(c), nn.ReLU())

    def stages(self) -> dict[str, list[nn.Module]]:
        """Returns what each stage trains; the paper takes the official weights in the place of 1.2,
        which trains the whole tracker.
        """
        return {"1.2": [self.backbone, self.fuse, self.head["base"]]} | super().stages()

    def encode_template(self, crops: Tensor, mode: str) -> Tensor:
        """Returns the embedding of both modalities' templates [B, 2, n_z, C]."""
        tokens = self.backbone.embed(torch.cat(self.images(crops)), self.backbone.pos_embed_z)
        return tokens.unflatten(0, (2, -1)).transpose(0, 1)

    def streams(
        self, template: Tensor, crops: Tensor, fused: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns (f_rgb, f_tir, fused or None) [B, C, S, S]."""
        x = self.backbone.embed(torch.cat(self.images(crops)), self.backbone.pos_embed_x)
        f_rgb, f_tir = self.map(self.backbone(template.transpose(0, 1).flatten(0, 1), x)).chunk(2)
        return f_rgb, f_tir, self.fuse(torch.cat([f_rgb, f_tir], dim=1)) if fused else None
