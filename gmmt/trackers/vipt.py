"""ViPT (Zhu et al., 2023): OSTrack on RGB, frozen, into which prompts made of the thermal image are
fused before every block.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.trackers.vit import ELIMINATION, OneStream, ViT, patch_embedding, pick


class Prompt(nn.Module):
    """The fusion block: what the stream shows most of, in 8 channels, and the last prompt make the
    next prompt.
    """

    def __init__(self, dim: int, hidden: int = 8):
        super().__init__()
        self.conv0_0, self.conv0_1, self.conv1x1 = (
            nn.Conv2d(dim, hidden, 1),
            nn.Conv2d(dim, hidden, 1),
            nn.Conv2d(hidden, dim, 1),
        )
        self.fovea = nn.ParameterDict({"smooth": nn.Parameter(torch.full((1,), 10.0))})

    def forward(self, stream: Tensor, prompt: Tensor) -> Tensor:
        """Returns the next prompt [B, N, D]; stream and prompt are all N tokens of ONE patch, as
        the softmax runs over its places.
        """

        def linear(conv: nn.Conv2d, x: Tensor) -> Tensor:  # a 1 x 1 convolution needs no map
            return F.linear(x, conv.weight.flatten(1), conv.bias)

        a = linear(self.conv0_0, stream)
        return linear(
            self.conv1x1, a * (a * self.fovea["smooth"]).softmax(1) + linear(self.conv0_1, prompt)
        )


class PromptedViT(ViT):
    """The ViT with a prompt before each block ("vipt_deep")."""

    def __init__(self, **sizes):
        """Makes the backbone; `sizes` as for ViT."""
        super().__init__(**sizes)
        dim, depth, patch = self.norm.weight.numel(), len(self.blocks), self.sizes[2]
        self.patch_embed_prompt = patch_embedding(dim, patch)
        self.prompt_blocks = nn.ModuleList(Prompt(dim) for _ in range(depth))
        self.prompt_norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in range(depth))

    def embed_pair(self, rgb: Tensor, tir: Tensor, position: Tensor) -> Tensor:
        """Returns [B, 2, N, D]: the tokens of the stream, the first prompt in them, and that
        prompt, from images [B, 3, H, W].
        """
        x, prompt = (
            embed(v).flatten(2).mT
            for embed, v in ((self.patch_embed, rgb), (self.patch_embed_prompt, tir))
        )
        prompt = self.prompt_blocks[0](self.prompt_norms[0](x), self.prompt_norms[0](prompt))
        return torch.stack([x + prompt + position, prompt], dim=1)

    def forward(
        self, z: Tensor, x: Tensor, fused: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns (stream, prompt, tokens) [B, n_z + N, D] from embedded pairs z [B, 2, n_z, D] and
        x [B, 2, N, D].

        The first two are what the last fusion block gets; the third what comes out at the end.
        Without `fused` the last fusion block and the last block of the ViT are left out.
        """
        n_z, (tokens, prompt) = self.n_z, torch.cat([z, x], dim=2).unbind(1)
        places = torch.arange(x.shape[2], device=x.device).expand(len(x), -1)
        for i in range(len(self.blocks)):
            if i:
                stream, given = (
                    self.prompt_norms[i - 1](self.spread(tokens, places)),
                    self.prompt_norms[i](prompt),
                )
                if i == len(self.blocks) - 1 and not fused:
                    return stream, given, None
                parts = [
                    self.prompt_blocks[i](stream[:, p], given[:, p])
                    for p in (slice(n_z), slice(n_z, None))
                ]
                prompt = torch.cat(parts, dim=1)
                tokens = tokens + torch.cat([parts[0], pick(parts[1], places)], dim=1)
            tokens, places = self.layer(i, tokens, places)
        return stream, given, self.spread(self.norm(tokens), places)


class ViPT(OneStream):
    """ViPT, and GMMT on it.

    Which of its tensors are f_rgb and f_tir the paper does not say, and the released code has no
    ViPT. Here f_rgb is the stream and f_tir the prompt as the LAST fusion block (prompt block 12)
    gets them, after its two norms, and fused is what the tracker's own head gets.
    Why: these two are what the tracker fuses last, as in the Siamese one, and the supplement's Fig.
    2b takes GMMT's input at this place. Pure RGB and pure thermal features exist nowhere in ViPT:
    the stream holds eleven prompts by then, the prompt eleven glances at it. What follows: U also
    stands in for the last block of the ViT, which at test is not run; and where search tokens were
    eliminated, f_rgb is the norm's bias and fused is zero.
    """

    def __init__(self, hidden: int = 256, keep: Mapping[int, float] = ELIMINATION, **sizes: int):
        """Makes the official ViPT-deep, unless `keep` or `sizes` (see ViT) say otherwise."""
        super().__init__(PromptedViT(keep=keep, **sizes), hidden)

    def stages(self) -> dict[str, list[nn.Module]]:
        """Returns what each stage trains: in 1.2 all that makes prompts."""
        b = self.backbone
        return {"1.2": [b.patch_embed_prompt, b.prompt_blocks, b.prompt_norms]} | super().stages()

    def encode_template(self, crops: Tensor, mode: str) -> Tensor:
        """Returns the template's tokens and its first prompt [B, 2, n_z, C]."""
        return self.backbone.embed_pair(*self.images(crops), self.backbone.pos_embed_z)

    def streams(
        self, template: Tensor, crops: Tensor, fused: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns (f_rgb, f_tir, fused or None) [B, C, S, S]."""
        search = self.backbone.embed_pair(*self.images(crops), self.backbone.pos_embed_x)
        f_rgb, f_tir, x = self.backbone(template, search, fused)
        return self.map(f_rgb), self.map(f_tir), None if x is None else self.map(x)
