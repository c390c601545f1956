"""ViPT (Zhu et al., 2023): thermal prompts enter a frozen OSTrack before every block."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.trackers.base import Streams, TrainingStage
from gmmt.trackers.vit import ELIMINATION, OneStream, ViT, patch_embedding, pick


class Prompt(nn.Module):
    """The fusion block: what the stream shows most of, and the last prompt, make the next one."""

    def __init__(self, dim: int, hidden: int = 8):
        super().__init__()
        self.conv0_0 = nn.Conv2d(dim, hidden, 1)
        self.conv0_1 = nn.Conv2d(dim, hidden, 1)
        self.conv1x1 = nn.Conv2d(hidden, dim, 1)
        self.fovea = nn.ParameterDict({"smooth": nn.Parameter(torch.full((1,), 10.0))})

    def forward(self, stream: Tensor, prompt: Tensor) -> Tensor:
        """The next prompt [B, N, D]; both are all N tokens of ONE patch, as the softmax runs over
        its places.
        """

        def linear(conv: nn.Conv2d, x: Tensor) -> Tensor:  # a 1 x 1 convolution needs no map
            return F.linear(x, conv.weight.flatten(1), conv.bias)

        shown = linear(self.conv0_0, stream)
        most = shown * (shown * self.fovea["smooth"]).softmax(1)
        return linear(self.conv1x1, most + linear(self.conv0_1, prompt))


class PromptedViT(ViT):
    """The ViT with a prompt before each block ("vipt_deep")."""

    def __init__(self, dim: int, depth: int, heads: int, patch: int, *sizes):  # see ViT
        super().__init__(dim, depth, heads, patch, *sizes)
        self.patch_embed_prompt = patch_embedding(dim, patch)
        self.prompt_blocks = nn.ModuleList(Prompt(dim) for _ in range(depth))
        self.prompt_norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in range(depth))

    def embed_pair(self, rgb: Tensor, tir: Tensor, position: Tensor) -> Tensor:
        """The stream with its first prompt, and that, [B, 2, N, D], of images [B, 3, H, W]."""
        x = self.patch_embed(rgb).flatten(2).mT
        heat = self.patch_embed_prompt(tir).flatten(2).mT
        norm = self.prompt_norms[0]
        prompt = self.prompt_blocks[0](norm(x), norm(heat))
        return torch.stack([x + prompt + position, prompt], dim=1)

    def forward(self, z: Tensor, x: Tensor, fused: bool = True) -> Streams:
        """(stream, prompt, tokens) [B, n_z + N, D] from embedded pairs z [B, 2, n_z, D] and x
        [B, 2, N, D]: what the last fusion block gets, and what comes out at the end; without
        `fused` that block and the last of the ViT are left out.
        """
        n_z, (tokens, prompt) = self.n_z, torch.cat([z, x], dim=2).unbind(1)
        places = torch.arange(x.shape[2], device=x.device).expand(len(x), -1)
        tokens, places = self.layer(0, tokens, places)
        for i in range(1, len(self.blocks)):
            # 1. What the fusion block gets.
            stream = self.prompt_norms[i - 1](self.spread(tokens, places))
            last = self.prompt_norms[i](prompt)
            if i == len(self.blocks) - 1 and not fused:
                return stream, last, None
            # 2. The next prompt, of template and search patch each by itself.
            of_z = self.prompt_blocks[i](stream[:, :n_z], last[:, :n_z])
            of_x = self.prompt_blocks[i](stream[:, n_z:], last[:, n_z:])
            prompt = torch.cat([of_z, of_x], dim=1)
            # 3. It joins the tokens that are still there.
            tokens = tokens + torch.cat([of_z, pick(of_x, places)], dim=1)
            tokens, places = self.layer(i, tokens, places)
        return stream, last, self.spread(self.norm(tokens), places)


class ViPT(OneStream):
    """ViPT, and GMMT on it.

    Which of its tensors are f_rgb and f_tir the paper does not say, and the released code has no
    ViPT. Here they are stream and prompt as the LAST fusion block (prompt block 12) gets them after
    its two norms: the tracker fuses them last, and the supplement's Fig. 2b takes GMMT's input
    there. Neither is of one modality; fused is what the tracker's own head gets. What follows:
    U stands in for the last block of the ViT, too, which at test is not run; and where search
    tokens were eliminated, f_rgb is the norm's bias and fused is zero.
    """

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
        """Makes the official ViPT-deep, or a smaller one; arguments as for OSTrack."""
        backbone = PromptedViT(dim, depth, heads, patch, template, search, keep)
        super().__init__(backbone, hidden, template, search, patch, whole_pixels)

    def stages(self) -> dict[str, TrainingStage]:
        """What each stage trains: in 1.2 all that makes prompts."""
        b = self.backbone
        prompts = [b.patch_embed_prompt, b.prompt_blocks, b.prompt_norms]
        return {"1.2": TrainingStage("base", prompts)} | super().stages()

    def encode_template(self, crops: Tensor, mode: str) -> Tensor:
        """The template's tokens and its first prompt [B, 2, n_z, C]."""
        return self.backbone.embed_pair(*self.images(crops), self.backbone.pos_embed_z)

    def streams(self, template: Tensor, crops: Tensor, fused: bool = True) -> Streams:
        """(f_rgb, f_tir, fused or None) [B, C, S, S]."""
        search = self.backbone.embed_pair(*self.images(crops), self.backbone.pos_embed_x)
        f_rgb, f_tir, x = self.backbone(template, search, fused)
        return self.map(f_rgb), self.map(f_tir), None if x is None else self.map(x)
