"""The one-stream tracker (OSTrack, Ye et al., 2022): in every layer of a ViT, template and search
tokens attend to each other, so only the template's patch embedding is kept from frame to frame.
Parameters have the official names; cls_token and pos_embed, left from pre-training, are not made.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.data.crops import CropRule, area_side
from gmmt.data.sequence import split
from gmmt.draws import Draws
from gmmt.errors import SettingError
from gmmt.networks.embedding import grid_positions
from gmmt.trackers.base import Tracker, TrainingStage
from gmmt.trackers.heads import CentreHead, centre_loss, decode_centre

ELIMINATION: Mapping[int, float] = {3: 0.7, 6: 0.7, 9: 0.7}
"""The official models' blocks (from 0) -> share of search tokens that stay in each."""
ELIMINATION_EPOCHS: Mapping[str, tuple[int, int]] = {"ostrack": (20, 100), "vipt": (4, 20)}
"""Until which epoch all tokens stay in training, and from which on only that share; see
keep_rate."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""By which red, green and blue in 0..1 are standardised."""


@lru_cache
def grey_levels(
    statistics: tuple[tuple[float, ...], tuple[float, ...]], device: torch.device
) -> Tensor:
    """Mean and deviation [2, 3, 1, 1] in 0..255 of channels' (means, deviations) in 0..1. They are
    kept: a GPU would have to wait for them in every frame.
    """
    with torch.inference_mode(False):  # training may ask for them, too
        return torch.tensor(statistics, device=device)[..., None, None] * 255


def keep_rate(epoch: int, start: int, end: int, share: float = 0.7) -> float:
    """The share of search tokens that stay in an epoch of training (from 1): all until epoch
    `start`, then by half a cosine fewer and fewer, down to `share` from epoch `end` on. A training
    puts it into ViT.keep_rate.
    """
    passed = min(max((epoch - start) / (end - start), 0.0), 1.0)
    return share + (1 - share) * (1 + math.cos(math.pi * passed)) / 2


def patch_embedding(dim: int, patch: int) -> nn.Module:
    return nn.Sequential(OrderedDict(proj=nn.Conv2d(3, dim, patch, patch)))


def perceptron(dim: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(fc1=nn.Linear(dim, 4 * dim), act=nn.GELU(), fc2=nn.Linear(4 * dim, dim))
    )


def pick(x: Tensor, index: Tensor) -> Tensor:
    """The tokens [B, k, D] of x [B, N, D] at index [B, k]."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[-1]))


class Block(nn.Module):
    """A transformer block, which can eliminate search tokens."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), perceptron(dim)

    def forward(
        self, x: Tensor, places: Tensor, n_z: int, share: float, middle: slice
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, n_z + n, D], the template's first, and places [B, n] of the n search tokens,
        after the block.

        Of these the ceil(`share` n) stay that the template's `middle` looks at most, in that order;
        with share 1 all, in the order that they have.
        """
        # 1. Attention.
        qkv = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.attn["proj"](mixed)
        # 2. Elimination, for which only the middle's rows of the attention map are needed.
        if share < 1:
            attention = (q[:, :, middle] @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
            seen = attention.mean((1, 2))[:, n_z:]
            count = math.ceil(share * seen.shape[1])
            best = seen.argsort(dim=1, descending=True)[:, :count]
            x = torch.cat([x[:, :n_z], pick(x[:, n_z:], best)], dim=1)
            places = places.gather(1, best)
        # 3. The perceptron.
        return x + self.mlp(self.norm2(x)), places


class ViT(nn.Module):
    """The backbone; its defaults are those of ViT-B/16 in OSTrack-256."""

    def __init__(
        self,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch: int = 16,
        template: int = 128,
        search: int = 256,
        keep: Mapping[int, float] = {},
    ):
        """Makes `depth` blocks on tokens with `dim` channels of `patch` pixels a side.

        `template` and `search` are sides of crops in pixels. `keep` maps blocks (from 0) to shares
        in (0, 1] of search tokens that stay, else SettingError; as text or pairs, too.
        """
        super().__init__()
        self.keep = {int(block): float(share) for block, share in dict(keep).items()}
        for block, share in self.keep.items():
            if not (0 <= block < depth and 0 < share <= 1):
                raise SettingError(
                    f"keep maps blocks 0..{depth - 1} to shares in (0, 1], not {block} to {share}"
                )
        if dim % heads:
            raise SettingError(f"heads = {heads} must divide dim = {dim}")
        self.keep_rate: float | None = None  # while training: what stands for each share below 1
        side = template // patch
        self.n_z = side**2
        middle = (side - 1) // 2 * (side + 1)  # of the template (OSTrack: CTR_POINT)
        self.middle = slice(middle, middle + 1)
        self.pos_embed_z = nn.Parameter(grid_positions(side, dim))
        self.pos_embed_x = nn.Parameter(grid_positions(search // patch, dim))
        self.patch_embed = patch_embedding(dim, patch)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def embed(self, images: Tensor, position: Tensor) -> Tensor:
        """Tokens [B, N, D] of normalised images [B, 3, H, W]; position: pos_embed_z or _x."""
        return self.patch_embed(images).flatten(2).mT + position

    def layer(self, i: int, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, n_z + k, D], template's first, and k search tokens' places, after block i."""
        share = self.keep.get(i, 1.0)
        if share < 1 and self.keep_rate is not None:
            share = self.keep_rate
        return self.blocks[i](tokens, places, self.n_z, share, self.middle)

    def spread(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Tokens [B, n_z + N, D]: the search tokens at their places, zeros for eliminated ones."""
        if not self.keep:
            return tokens
        z, x = tokens[:, : self.n_z], tokens[:, self.n_z :]
        every = x.new_zeros(len(x), self.pos_embed_x.shape[1], x.shape[2])
        return torch.cat([z, every.scatter(1, places[:, :, None].expand_as(x), x)], dim=1)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Normed tokens [B, n_z + N, D] of embedded templates [B, n_z, D] and patches [B, N, D]."""
        tokens = torch.cat([z, x], dim=1)
        places = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        for i in range(len(self.blocks)):
            tokens, places = self.layer(i, tokens, places)
        return self.spread(self.norm(tokens), places)


class OneStream(Tracker):
    """What OSTrack, ViPT and TBSI share: crops, normalisation, head, and how its maps are read."""

    loss_of = staticmethod(centre_loss)
    modes = ("base", "stage2")
    reading: Mapping[str, float | str] = {
        "penalty": 0.0,
        "combine": "multiply",
        "window": 1.0,
        "hann": "inside",
        "resize": "at once",
        "rate": 1.0,
        "clip": "corners",
        "margin": 10.0,
        "smallest": 0.0,
    }

    def __init__(
        self, backbone: ViT, hidden: int, template: int, search: int, patch: int, whole_pixels: str
    ):
        super().__init__()
        self.backbone, self.channels, self.stride = backbone, backbone.norm.weight.numel(), patch
        self.crops = CropRule(template, search, area_side, 0.0, whole_pixels)
        self.statistics = dict.fromkeys(self.modalities, (IMAGENET_MEAN, IMAGENET_STD))
        self.head = nn.ModuleDict({mode: CentreHead(self.channels, hidden) for mode in self.modes})

    def released_loss(
        self, answer: tuple[Tensor, ...], boxes: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """OSTrack's loss, of the box with the highest score; nothing is drawn."""
        return centre_loss(*answer, boxes, self.stride, best=True)

    def inherit(self, foundation: "OSTrack") -> None:
        """Takes backbone and head of an OSTrack of the same size, as ViPT and TBSI start."""
        self.backbone.load_state_dict(foundation.backbone.state_dict(), strict=False)
        self.head["base"].load_state_dict(foundation.head["rgb"].state_dict())

    def images(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """RGB and thermal images [B, 3, H, W], standardised, of crops [B, 4, H, W] in 0..255."""
        parts, dtype = split(crops, self.modalities), self.backbone.norm.weight.dtype
        images = []
        for name in ("rgb", "tir"):
            mean, std = grey_levels(self.statistics[name], crops.device)
            images.append(((parts[name] - mean) / std).to(dtype))
        return images[0], images[1]

    def map(self, tokens: Tensor) -> Tensor:
        """A map [B, C, S, S] of the search tokens among tokens [B, n_z + S * S, C]."""
        side = self.crops.search // self.stride
        return tokens[:, self.backbone.n_z :].mT.unflatten(2, (side, -1))

    def decode(self, score: Tensor, size: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, S, S] and boxes [B, 4, S, S]."""
        return score[:, 0], decode_centre(size, offset, self.stride)


class OSTrack(OneStream):
    """OSTrack on RGB alone, the ancestor of both RGB-T trackers: one mode, nothing to fuse."""

    modes = ("rgb",)

    def __init__(
        self,
        hidden: int = 256,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch: int = 16,
        template: int = 128,
        search: int = 256,
        keep: Mapping[int, float] = ELIMINATION,
        whole_pixels: str = "no",
    ):
        """Makes OSTrack-256, or a smaller one; see ViT, CentreHead (`hidden`) and CropRule."""
        backbone = ViT(dim, depth, heads, patch, template, search, keep)
        super().__init__(backbone, hidden, template, search, patch, whole_pixels)

    def stages(self) -> dict[str, TrainingStage]:
        """Its one stage: everything on RGB."""
        return {"1.1 rgb": TrainingStage("rgb", [self.backbone, self.head["rgb"]])}

    def encode_template(self, crops: Tensor, mode: str) -> Tensor:
        """The template's embedding [B, n_z, C]."""
        return self.backbone.embed(self.images(crops)[0], self.backbone.pos_embed_z)

    def encode(self, template: Tensor, crops: Tensor, mode: str) -> Tensor:
        """The search features [B, C, S, S]."""
        x = self.backbone.embed(self.images(crops)[0], self.backbone.pos_embed_x)
        return self.map(self.backbone(template, x))
