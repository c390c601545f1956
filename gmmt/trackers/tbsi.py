"""TBSI (Hui et al., 2023): one ViT, whose two search patches talk through a template."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.errors import SettingError
from gmmt.networks.norm import SyncBatchNorm2d
from gmmt.trackers.base import Streams, TrainingStage
from gmmt.trackers.vit import IMAGENET_MEAN, IMAGENET_STD, OneStream, ViT, perceptron


class Bridge(nn.Module):
    """Cross-attention and a perceptron, for the asking tokens alone.

    The official block runs its perceptron on the answering tokens too and throws the result away.
    Same weights, same answer, half the work.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.scale = (dim / heads) ** -0.5
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn_reshape = nn.ModuleDict({"proj": nn.Linear(dim, dim)})
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), perceptron(dim)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """The asking tokens x [B, N, D], enriched by the source's [B, M, D]."""
        key = self.norm1(source)
        y = F.scaled_dot_product_attention(self.norm1(x), key, key, scale=self.scale)
        # Of the heads that the released attention once had, the scale is left, and a transposition
        # that would have put them back together. Without them it turns [N, D] into [D, N], which
        # is read as [N, D]: each row of the result holds channels of ALL tokens. So it was trained.
        y = y.mT.reshape(y.shape)
        x = x + self.attn_reshape["proj"](y)
        return x + self.mlp(self.norm2(x))


class TBSILayer(nn.Module):
    """A fused template asks each modality's search patch and tells the other what it found.

    Official names: s search, t template, v visible, i infrared, f the fused template.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.t_fusion = nn.Sequential(nn.Linear(2 * dim, dim), nn.LayerNorm(dim), nn.GELU())
        for name in ("s2t_v2f", "t2s_f2i", "s2t_i2f", "t2s_f2v", "t2t_f2v", "t2t_f2i"):
            self.add_module(f"ca_{name}", Bridge(dim, heads))

    def forward(
        self, z_v: Tensor, x_v: Tensor, z_i: Tensor, x_i: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The groups of tokens [B, n, D], each with news of the other modality."""
        f = self.ca_s2t_i2f(self.t_fusion(torch.cat([z_v, z_i], dim=2)), x_i)
        new_v = self.ca_t2s_f2v(x_v, f)
        f = self.ca_s2t_v2f(f, x_v)  # the old x_v
        return self.ca_t2t_f2v(z_v, f), new_v, self.ca_t2t_f2i(z_i, f), self.ca_t2s_f2i(x_i, f)


class BridgedViT(ViT):
    """The ViT on both modalities, stacked in the batch, with a TBSI layer after some blocks."""

    def __init__(self, dim: int, depth: int, heads: int, *sizes, at: Sequence[int]):
        """`at`: blocks (from 0) with a bridge, numbers or text, else SettingError; see ViT."""
        super().__init__(dim, depth, heads, *sizes)
        self.bridged = tuple(int(block) for block in at)
        if not all(0 <= block < depth for block in self.bridged):
            raise SettingError(f"bridges after blocks {self.bridged} need more than {depth} blocks")
        self.tbsi_layers = nn.ModuleList(TBSILayer(dim, heads) for _ in self.bridged)

    def layer(self, i: int, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [2B, n_z + N, D], RGB's first, and places after block i and its bridge."""
        tokens, places = super().layer(i, tokens, places)
        if i not in self.bridged:
            return tokens, places
        visible, infrared = tokens.chunk(2)
        z_v, x_v = visible[:, : self.n_z], visible[:, self.n_z :]
        z_i, x_i = infrared[:, : self.n_z], infrared[:, self.n_z :]
        z_v, x_v, z_i, x_i = self.tbsi_layers[self.bridged.index(i)](z_v, x_v, z_i, x_i)
        return torch.cat([torch.cat([z_v, z_i]), torch.cat([x_v, x_i])], dim=1), places


class TBSI(OneStream):
    """TBSI, and GMMT on it: f_rgb and f_tir are normed search tokens, fused their convolution."""

    def __init__(
        self,
        hidden: int = 256,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch: int = 16,
        template: int = 128,
        search: int = 256,
        keep: Mapping[int, float] = {},
        at: Sequence[int] = (3, 6, 9),
        whole_pixels: str = "no",
        tir_mean: Sequence[float] = IMAGENET_MEAN,
        tir_std: Sequence[float] = IMAGENET_STD,
    ):
        """Makes TBSI of the official size, or a smaller one; see OSTrack and BridgedViT.

        `tir_mean` and `tir_std` standardise the thermal image's three equal channels in 0..1; the
        released TBSI has 0.449 and 0.226 for each.
        """
        backbone = BridgedViT(dim, depth, heads, patch, template, search, keep, at=at)
        super().__init__(backbone, hidden, template, search, patch, whole_pixels)
        self.statistics["tir"] = (tuple(tir_mean), tuple(tir_std))
        c = self.channels
        self.fuse = nn.Sequential(nn.Conv2d(2 * c, c, 3, padding=1), SyncBatchNorm2d(c), nn.ReLU())

    def stages(self) -> dict[str, TrainingStage]:
        """What each stage trains; the paper takes the official weights instead of training 1.2."""
        learns = [self.backbone, self.fuse, self.head["base"]]
        return {"1.2": TrainingStage("base", learns)} | super().stages()

    def encode_template(self, crops: Tensor, mode: str) -> Tensor:
        """The embedding of both modalities' templates [B, 2, n_z, C]."""
        tokens = self.backbone.embed(torch.cat(self.images(crops)), self.backbone.pos_embed_z)
        return tokens.unflatten(0, (2, -1)).transpose(0, 1)

    def streams(self, template: Tensor, crops: Tensor, fused: bool = True) -> Streams:
        """(f_rgb, f_tir, fused or None) [B, C, S, S]."""
        x = self.backbone.embed(torch.cat(self.images(crops)), self.backbone.pos_embed_x)
        f_rgb, f_tir = self.map(self.backbone(template.transpose(0, 1).flatten(0, 1), x)).chunk(2)
        return f_rgb, f_tir, self.fuse(torch.cat([f_rgb, f_tir], dim=1)) if fused else None
