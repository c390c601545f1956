"""The one-stream tracker (OSTrack, Ye et al., 2022): a ViT in which the tokens of template and
search patch attend to each other.

As they do so in every layer, nothing of the template can be kept from frame to frame but its patch
embedding. Parameters have the official names, so that official weights load; two that are only
leftovers of pre-training (cls_token, pos_embed) are not made.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.data.crops import area_side
from gmmt.networks.embedding import grid_positions
from gmmt.trackers.base import Tracker
from gmmt.trackers.heads import CentreHead, centre_loss, decode_centre

ELIMINATION: Mapping[int, float] = {3: 0.7, 6: 0.7, 9: 0.7}
"""In which of the official models' blocks (from 0) what share of search tokens stays: those that
the template's middle looks at most.
"""


def patch_embedding(dim: int, patch: int) -> nn.Module:
    """Returns the convolution that makes a token of each patch."""
    return nn.Sequential(OrderedDict(proj=nn.Conv2d(3, dim, patch, patch)))


def perceptron(dim: int) -> nn.Module:
    """Returns a transformer's two-layer perceptron."""
    return nn.Sequential(
        OrderedDict(fc1=nn.Linear(dim, 4 * dim), act=nn.GELU(), fc2=nn.Linear(4 * dim, dim))
    )


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Returns the tokens [B, k, D] of x [B, N, D] at index [B, k]."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[-1]))


class Block(nn.Module):
    """A transformer block, which can eliminate search tokens."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.attn = (
            nn.LayerNorm(dim, eps=1e-6),
            nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)}),
        )
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), perceptron(dim)

    def forward(
        self, x: Tensor, places: Tensor, n_z: int, keep: float | None, watch: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Returns (tokens, places), see ViT.layer: of n search tokens the ceil(keep * n) most
        watched, in that order.
        """
        q, k, v = (
            self.attn["qkv"](self.norm1(x))
            .unflatten(-1, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        x = x + self.attn["proj"](
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )
        if keep:  # of the attention map only the rows of the tokens `watch` are needed
            seen = (
                (q[:, :, watch] @ k.mT / math.sqrt(q.shape[-1])).softmax(-1).mean((1, 2))[:, n_z:]
            )
            best = seen.argsort(dim=1, descending=True)[:, : math.ceil(keep * seen.shape[1])]
            x, places = (
                torch.cat([x[:, :n_z], pick(x[:, n_z:], best)], dim=1),
                places.gather(1, best),
            )
        return x + self.mlp(self.norm2(x)), places


class ViT(nn.Module):
    """The backbone: patch embedding, position embeddings of template and search patch, blocks, and
    a norm.
    """

    def __init__(
        self,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch: int = 16,
        template: int = 128,
        search: int = 256,
        keep: Mapping[int, float] = MappingProxyType({}),
    ):
        """Makes ViT-B/16 for crops of 128 and 256 pixels, as OSTrack-256 has it, or a smaller one;
        `keep`: see ELIMINATION.
        """
        super().__init__()
        side = template // patch
        self.n_z, self.keep, self.sizes = side**2, keep, (template, search, patch)
        self.watch = [(side - 1) // 2 * (side + 1)]  # the template's middle (OSTrack: CTR_POINT)
        self.pos_embed_z, self.pos_embed_x = (
            nn.Parameter(grid_positions(n // patch, dim)) for n in (template, search)
        )
        self.patch_embed = patch_embedding(dim, patch)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def embed(self, images: Tensor, position: Tensor) -> Tensor:
        """Returns tokens [B, N, D] of normalised images [B, 3, H, W]; position: pos_embed_z or
        pos_embed_x.
        """
        return self.patch_embed(images).flatten(2).mT + position

    def layer(self, i: int, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Returns tokens [B, n_z + k, D], those of the template first, and the k search tokens'
        places [B, k] after block i.
        """
        return self.blocks[i](tokens, places, self.n_z, self.keep.get(i), self.watch)

    def spread(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Returns tokens [B, n_z + N, D] with the search tokens at their places, and zeros where
        one was eliminated.
        """
        if not self.keep:
            return tokens
        z, x = tokens[:, : self.n_z], tokens[:, self.n_z :]
        every = x.new_zeros(len(x), self.pos_embed_x.shape[1], x.shape[2])
        return torch.cat([z, every.scatter(1, places[:, :, None].expand_as(x), x)], dim=1)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Returns normed tokens [B, n_z + N, D] from embedded template z [B, n_z, D] and search
        patch x [B, N, D].
        """
        tokens, places = (
            torch.cat([z, x], dim=1),
            torch.arange(x.shape[1], device=x.device).expand(len(x), -1),
        )
        for i in range(len(self.blocks)):
            tokens, places = self.layer(i, tokens, places)
        return self.spread(self.norm(tokens), places)


class OneStream(Tracker):
    """What OSTrack, ViPT and TBSI share: crops, normalisation, the centre head, and how its maps
    are read.
    """

    side, fill, loss_of = staticmethod(area_side), 0.0, staticmethod(centre_loss)
    reading: Mapping = {"penalty": 0.0, "window": None, "rate": None}

    def __init__(self, backbone: ViT, hidden: int, modes: tuple[str, ...] = ("base", "stage2")):
        super().__init__()
        self.backbone, self.channels = backbone, backbone.norm.weight.numel()
        self.template_size, self.search_size, self.stride = backbone.sizes
        self.head = nn.ModuleDict({mode: CentreHead(self.channels, hidden) for mode in modes})

    def inherit(self, foundation: "OSTrack") -> None:
        """Takes backbone and head of an OSTrack of the same size, from which ViPT and TBSI
        start.
        """
        self.backbone.load_state_dict(foundation.backbone.state_dict(), strict=False)
        self.head["base"].load_state_dict(foundation.head["rgb"].state_dict())

    def images(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Returns RGB and thermal images [B, 3, H, W] with ImageNet's mean and spread, from crops
        [B, 4, H, W] in 0..255.
        """
        mean, std = (
            torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], device=crops.device)[
                ..., None, None
            ]
            * 255
        )
        dtype = self.backbone.norm.weight.dtype
        return ((crops[:, :3] - mean) / std).to(dtype), ((crops[:, 3:] - mean) / std).to(dtype)

    def map(self, tokens: Tensor) -> Tensor:
        """Returns a map [B, C, S, S] of the search tokens among tokens [B, n_z + S * S, C]."""
        return tokens[:, self.backbone.n_z :].mT.unflatten(2, (self.search_size // self.stride, -1))

    def decode(self, score: Tensor, size: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scores [B, S, S] and boxes [B, 4, S, S]."""
        return score[:, 0], decode_centre(size, offset, self.stride)


class OSTrack(OneStream):
    """OSTrack on RGB alone, the ancestor of both RGB-T trackers: it has one mode, "rgb", and
    nothing to fuse.
    """

    def __init__(self, hidden: int = 256, keep: Mapping[int, float] = ELIMINATION, **sizes: int):
        """Makes OSTrack-256, unless `keep` or `sizes` (see ViT) say otherwise."""
        super().__init__(ViT(keep=keep, **sizes), hidden, ("rgb",))

    def stages(self) -> dict[str, list[nn.Module]]:
        """Returns its one stage: everything on RGB."""
        return {"1.1 rgb": [self.backbone, self.head["rgb"]]}

    def encode_template(self, crops: Tensor, mode: str) -> Tensor:
        """Returns the template's embedding [B, n_z, C]."""
        return self.backbone.embed(self.images(crops)[0], self.backbone.pos_embed_z)

    def encode(self, template: Tensor, crops: Tensor, mode: str) -> Tensor:
        """Returns the search features [B, C, S, S]."""
        return self.map(
            self.backbone(
                template, self.backbone.embed(self.images(crops)[0], self.backbone.pos_embed_x)
            )
        )
