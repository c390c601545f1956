"""What training and tracking ask of a tracker, whichever it is."""

from collections.abc import Mapping

from torch import Tensor, nn

from gmmt.data.crops import context_side, crop
from gmmt.fusion import Draws, Fusion


class Tracker(nn.Module):
    """A tracker with a head for each mode, and a place for GMMT.

    A mode says what the head gets: "rgb" or "tir" one modality's features, "base" the tracker's own fused ones, "stage2" those that GMMT
    makes (without GMMT, the tracker's own under a new head). `channels` is C of f_1, f_2 and fused; sizes are the crops' sides in pixels.
    """

    channels: int
    stride: int
    template_size: int
    search_size: int
    head: nn.ModuleDict
    side = staticmethod(context_side)
    fill: float | None = None
    reading: Mapping = {}
    """Options of `tracking.Search` that differ from its defaults."""

    def __init__(self):
        super().__init__()
        self.fusion: Fusion | None = None

    def stages(self) -> dict[str, list[nn.Module]]:
        """Returns what each stage of training trains; all else is frozen."""
        return {"2": [self.head["stage2"]] + ([self.fusion] if self.fusion is not None else [])}

    def crop(self, frames: Tensor, center: Tensor, wh: Tensor, size: int) -> Tensor:
        """Returns crops [B, 4, size, size] around `center` [B, 2] for a target of `wh` [B, 2] pixels, in 0..255."""
        return crop(frames, center, self.side(wh) * (size / self.template_size), size, self.fill)

    def encode_template(self, crops: Tensor, mode: str) -> Tensor:
        """Returns what can be kept of the template's crops [B, 4, H, W] for a whole sequence."""
        raise NotImplementedError

    def streams(self, template: Tensor, crops: Tensor, fused: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns (f_1, f_2, fused) [B, C, H, W] of search crops [B, 4, H', W'] in 0..255; without `fused`, None in its place."""
        raise NotImplementedError

    def encode(self, template: Tensor, crops: Tensor, mode: str) -> Tensor:
        """Returns what the head of a mode gets where GMMT has no part in it: the tracker's own fused features."""
        return self.streams(template, crops)[2]

    def answer(self, template: Tensor, x: Tensor, mode: str) -> tuple[Tensor, ...]:
        """Returns the maps of a mode's head for search features x [B, C, H, W]."""
        raise NotImplementedError

    def loss(self, answer: tuple[Tensor, ...], boxes: Tensor) -> dict[str, Tensor]:
        """Returns the terms of the tracking loss, which add up, for boxes [B, 4] (x1, y1, x2, y2) around the patch's middle."""
        raise NotImplementedError

    def decode(self, *answer: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scores [B, S, S] in 0..1 and boxes [B, 4, S, S] (x1, y1, x2, y2) in pixels around the patch's middle."""
        raise NotImplementedError

    def search(self, template: Tensor, crops: Tensor, mode: str, steps: int = 1, draws: Draws | None = None) -> tuple[Tensor, ...]:
        """Returns the head's maps at test time; in mode "stage2" GMMT, if any, fuses in `steps` steps."""
        if mode == "stage2" and self.fusion is not None:
            f_1, f_2, _ = self.streams(template, crops, fused=False)
            x = self.fusion.sample(f_1, f_2, steps=steps, generator=draws)
        else:
            x = self.encode(template, crops, mode)
        return self.answer(template, x, mode)
