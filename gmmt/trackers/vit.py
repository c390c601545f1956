"""The one-stream tracker (OSTrack, Ye et al., 2022): a ViT in which the tokens of template and search patch attend to each other.

As they do so in every layer, nothing of the template can be kept from frame to frame but its patch embedding. Parameters have the official
names, so that official weights load; two that are only leftovers of pre-training (cls_token, pos_embed) are not made.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.data.crops import area_side
from gmmt.trackers.base import Tracker
from gmmt.trackers.heads import CentreHead, centre_loss, decode_centre

ELIMINATION: Mapping[int, float] = {3: 0.7, 6: 0.7, 9: 0.7}
"""In which of the official models' blocks (from 0) what share of search tokens stays: those that the template's middle looks at most."""


def patch_embedding(dim: int, patch: int) -> nn.Module:
    """Returns the convolution that makes a token of each patch."""
    return nn.Sequential(OrderedDict(proj=nn.Conv2d(3, dim, patch, patch)))


def perceptron(dim: int) -> nn.Module:
    """Returns a transformer's two-layer perceptron."""
    return nn.Sequential(OrderedDict(fc1=nn.Linear(dim, 4 * dim), act=nn.GELU(), fc2=nn.Linear(4 * dim, dim)))


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Returns the tokens [B, k, D] of x [B, N, D] at index [B, k]."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[-1]))


class Block(nn.Module):
    """A transformer block, which can eliminate search tokens."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), perceptron(dim)

    def forward(self, x: Tensor, order: Tensor, n_z: int, keep: float | None, watch: list[int], skip: int) -> tuple[Tensor, Tensor]:
        """Returns (tokens, order), see ViT.layer: all but the first `skip`, and of n search tokens the ceil(keep * n) most watched."""
        y, d, qkv = self.norm1(x), x.shape[-1], self.attn["qkv"]
        if skip:  # these tokens are attended to, but do not ask
            q, k, v = F.linear(y[:, skip:], qkv.weight[:d], qkv.bias[:d]), *F.linear(y, qkv.weight[d:], qkv.bias[d:]).chunk(2, -1)
        else:
            q, k, v = qkv(y).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        x = x[:, skip:] + self.attn["proj"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        if keep:  # of the attention map only the rows of the tokens `watch` are needed
            seen = (q[:, :, watch] @ k.mT / math.sqrt(q.shape[-1])).softmax(-1).mean((1, 2))[:, n_z:]
            n, rank = seen.shape[1], seen.argsort(dim=1, descending=True)
            order = torch.cat([order[:, :n].gather(1, rank), order[:, n:]], dim=1)
            x = torch.cat([x[:, :n_z], pick(x[:, n_z:], rank[:, : math.ceil(keep * n)])], dim=1)
        return x + self.mlp(self.norm2(x)), order


class ViT(nn.Module):
    """The backbone: patch embedding, position embeddings of template and search patch, blocks, and a norm."""

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
        """Makes ViT-B/16 for crops of 128 and 256 pixels, as OSTrack-256 has it, or a smaller one; `keep`: see ELIMINATION.

        Raises:
            ValueError: tokens are to be eliminated in or after the last block.
        """
        super().__init__()
        if max(keep, default=-1) >= depth - 1:
            raise ValueError(f"keep = {dict(keep)} names blocks from the last of {depth} on: give others, or keep={{}}")
        side = template // patch
        self.n_z, self.keep, self.sizes = side**2, keep, (template, search, patch)
        self.watch = [(side - 1) // 2 * (side + 1)]  # the template's middle (OSTrack: CTR_POINT)
        self.pos_embed_z = nn.Parameter(0.02 * torch.randn(1, self.n_z, dim))
        self.pos_embed_x = nn.Parameter(0.02 * torch.randn(1, (search // patch) ** 2, dim))
        self.patch_embed = patch_embedding(dim, patch)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def embed(self, images: Tensor, position: Tensor) -> Tensor:
        """Returns tokens [B, N, D] of normalised images [B, 3, H, W]; position: pos_embed_z or pos_embed_x."""
        return self.patch_embed(images).flatten(2).mT + position

    def start(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the tokens [B, n_z + N, D] of template and search patch, and `order` [B, N] (see `layer`)."""
        return torch.cat([z, x], dim=1), torch.arange(x.shape[1], device=x.device).expand(len(x), -1)

    def layer(self, i: int, tokens: Tensor, order: Tensor, whole: bool) -> tuple[Tensor, Tensor]:
        """Returns tokens and order after block i.

        tokens [B, n_z + k, D] hold k search tokens; their places are order[:, :k], behind which stand those of the eliminated, the latest
        first. From the last block only search tokens come, [B, k, D], unless the `whole` is wanted: no head asks for the template's.
        """
        skip = self.n_z if i == len(self.blocks) - 1 and not whole else 0
        return self.blocks[i](tokens, order, self.n_z, self.keep.get(i), self.watch, skip)

    def spread(self, tokens: Tensor, order: Tensor, n_z: int) -> Tensor:
        """Returns tokens [B, n_z + N, D]: after the first n_z the search tokens, at their places, with zeros where one was eliminated."""
        if not self.keep:
            return tokens
        z, x = tokens[:, :n_z], tokens[:, n_z:]
        index = order[:, : x.shape[1], None].expand_as(x)
        return torch.cat([z, x.new_zeros(len(x), order.shape[1], x.shape[2]).scatter(1, index, x)], dim=1)

    def finish(self, tokens: Tensor, order: Tensor, whole: bool) -> Tensor:
        """Returns normed search tokens [B, N, D] at their places, behind those of the template if the `whole` is wanted."""
        return self.spread(self.norm(tokens), order, self.n_z if whole else 0)

    def forward(self, z: Tensor, x: Tensor, whole: bool = False) -> Tensor:
        """Returns search tokens [B, N, D] from embedded template z [B, n_z, D] and patch x [B, N, D]; the template's, too, if `whole`."""
        tokens, order = self.start(z, x)
        for i in range(len(self.blocks)):
            tokens, order = self.layer(i, tokens, order, whole)
        return self.finish(tokens, order, whole)


class OneStream(Tracker):
    """What OSTrack, ViPT and TBSI share: crops, normalisation, the centre head, and how its maps are read."""

    side, fill = staticmethod(area_side), 0.0
    reading: Mapping = {"penalty": 0.0, "window": None, "rate": None}

    def __init__(self, backbone: ViT, hidden: int, modes: tuple[str, ...] = ("base", "stage2")):
        super().__init__()
        self.backbone, self.channels = backbone, backbone.norm.weight.numel()
        self.template_size, self.search_size, self.stride = backbone.sizes
        self.head = nn.ModuleDict({mode: CentreHead(self.channels, hidden) for mode in modes})

    def inherit(self, foundation: "OSTrack") -> None:
        """Takes backbone and head of an OSTrack of the same size, from which ViPT and TBSI start."""
        self.backbone.load_state_dict(foundation.backbone.state_dict(), strict=False)
        self.head["base"].load_state_dict(foundation.head["rgb"].state_dict())

    def images(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Returns RGB and thermal images [B, 3, H, W] with ImageNet's mean and spread, from crops [B, 4, H, W] in 0..255."""
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], device=crops.device)[..., None, None] * 255
        dtype = self.backbone.norm.weight.dtype
        return ((crops[:, :3] - mean) / std).to(dtype), ((crops[:, 3:] - mean) / std).to(dtype)

    def map(self, tokens: Tensor) -> Tensor:
        """Returns a map [B, C, S, S] of search tokens [B, S * S, C]."""
        return tokens.mT.unflatten(2, (self.search_size // self.stride, -1))

    def answer(self, template: Tensor, x: Tensor, mode: str) -> tuple[Tensor, Tensor, Tensor]:
        """Returns score [B, 1, S, S], size [B, 2, S, S] and offset [B, 2, S, S]; the template has no further part in it."""
        return self.head[mode](x)

    def loss(self, answer: tuple[Tensor, ...], boxes: Tensor) -> dict[str, Tensor]:
        """Returns OSTrack's loss, see `heads.centre_loss`."""
        return centre_loss(*answer, boxes, self.stride)

    def decode(self, score: Tensor, size: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scores [B, S, S] and boxes [B, 4, S, S]."""
        return score[:, 0], decode_centre(size, offset, self.stride)


class OSTrack(OneStream):
    """OSTrack on RGB alone, the ancestor of both RGB-T trackers: it has one mode, "rgb", and nothing to fuse."""

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
        return self.map(self.backbone(template, self.backbone.embed(self.images(crops)[0], self.backbone.pos_embed_x)))
