"""What training and tracking ask of a tracker, whichever it is."""

from collections.abc import Mapping

from torch import Tensor, nn

from gmmt.data.crops import context_side, crop
from gmmt.draws import Draws
from gmmt.fusion import Fusion


class Tracker(nn.Module):
    """A tracker with a head for each mode, and a place for GMMT.

    A mode says what the head gets: "rgb" or "tir" one modality's features, "base" the tracker's own
    fused ones, "stage2" those that GMMT makes (without GMMT, the tracker's own under a new head).
    Each tracker has `channels` (C of f_1, f_2 and fused), `stride`, `template_size` and
    `search_size` (sides of the crops in pixels), `head` (by mode), and

        encode_template(crops, mode)        what can be kept of template crops [B, 4, H, W] in
            0..255 for a whole sequence
        streams(template, crops, fused)     (f_1, f_2, fused) [B, C, H, W] of search crops; None in
        the place of what is not to be `fused` head[mode](template, x)             the mode's answer
        for search features x [B, C, H, W]: some maps
        loss_of(*answer, boxes, stride)     the terms of the tracking loss, which add up; boxes [B,
            4] (x1, y1, x2, y2) around the middle
        decode(*answer)                     scores [B, S, S] in 0..1 and boxes [B, 4, S, S] in
            pixels around the patch's middle
    """

    side = staticmethod(context_side)
    fill: float | None = None
    reading: Mapping = {}  # options of tracking.Search, where its defaults are not the tracker's

    def __init__(self):
        super().__init__()
        self.fusion: Fusion | None = None

    def stages(self) -> dict[str, list[nn.Module]]:
        """Returns what each stage of training trains; all else is frozen."""
        return {"2": [self.head["stage2"]] + ([self.fusion] if self.fusion is not None else [])}

    def crop(self, frames: Tensor, center: Tensor, wh: Tensor, size: int) -> Tensor:
        """Returns crops [B, 4, size, size] around `center` [B, 2] for a target of `wh` [B, 2]
        pixels, in 0..255.
        """
        return crop(frames, center, self.side(wh) * (size / self.template_size), size, self.fill)

    def encode(self, template: Tensor, crops: Tensor, mode: str) -> Tensor:
        """Returns what a mode's head gets [B, C, H, W] where GMMT has no part in it."""
        return self.streams(template, crops)[2]

    def search(
        self, template: Tensor, crops: Tensor, mode: str, steps: int = 1, draws: Draws | None = None
    ) -> tuple[Tensor, ...]:
        """Returns the head's maps at test time; in mode "stage2" GMMT, if any, fuses in `steps`
        steps.
        """
        if mode != "stage2" or self.fusion is None:
            return self.head[mode](template, self.encode(template, crops, mode))
        f_1, f_2, _ = self.streams(template, crops, fused=False)
        return self.head[mode](template, self.fusion.sample(f_1, f_2, steps=steps, generator=draws))
