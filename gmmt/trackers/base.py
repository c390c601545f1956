"""What training and tracking ask of a tracker, whichever it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from gmmt.data.crops import CropRule
from gmmt.data.sequence import RGBT, Modalities
from gmmt.draws import Draws
from gmmt.errors import SettingError, did_you_mean
from gmmt.fusion import Fusion

Streams = tuple[Tensor, Tensor, Tensor | None]  # f_1, f_2 and, unless left out, fused


@dataclass(frozen=True)
class TrainingStage:
    """A stage of training: which head answers, and what learns; all else is frozen."""

    mode: str  # "rgb", "tir", "base" or "stage2"
    learns: list[nn.Module]


class Tracker(nn.Module):
    """A tracker with a head for each mode, and a place for GMMT.

    A mode says what the head gets: "rgb" or "tir" one modality's features, "base" the tracker's own
    fused ones, "stage2" those that GMMT makes (without GMMT, the tracker's own under a new head).

    Each tracker sets these attributes:

        crops         CropRule: how its template and search patches are cut
        channels      C of f_1, f_2 and fused
        stride        pixels of the search patch between two cells of its maps
        head          ModuleDict, a head for each mode
        reading       of the class: all fields of tracking.Reading, how its score map is read
        modalities    of the class: names and channels of what its crops hold, in order

    and has these methods, where z, x are crops [B, C', H', W'] in 0..255, of all modalities:

        encode_template(z, mode) -> template     what can be kept of a template for a whole sequence
        streams(template, x, fused=True)
            -> f_1, f_2, fused [B, C, H, W]      features of search patches; without `fused` None
                                                 stands in its place, and is not computed
        head[mode](template, features)           maps, the mode's answer. Every head is called so;
            -> answer                            OSTrack's (CentreHead) ignores the template, which
                                                 has met the search patch in the backbone
        loss_of(*answer, boxes, stride) -> terms of the tracking loss, which add up; boxes [B, 4]
                                                 (x1, y1, x2, y2) around the search patch's middle
        released_loss(answer, boxes, draws)      the same as the released code has it
            -> terms
        decode(*answer) -> scores, boxes         scores [B, S, S] in 0..1 and boxes [B, 4, S, S] in
                                                 pixels around the search patch's middle
    """

    crops: CropRule
    channels: int
    stride: int
    head: nn.ModuleDict
    reading: Mapping[str, float | str]
    modalities: Modalities = RGBT
    loss_of: Callable[..., dict[str, Tensor]]

    def __init__(self):
        super().__init__()
        self.fusion: Fusion | None = None

    def check_mode(self, mode: str) -> None:
        """SettingError if there is no head for a mode."""
        if mode not in self.head:
            raise SettingError(
                f"{type(self).__name__} has no mode {mode!r}: expected one of "
                f"{', '.join(self.head)}.{did_you_mean(mode, self.head)}"
            )

    def stages(self) -> dict[str, TrainingStage]:
        """The stages of training by name, in order; here the last, which all that fuse share."""
        learns = [self.head["stage2"]]
        if self.fusion is not None:
            learns.append(self.fusion)
        return {"2": TrainingStage("stage2", learns)}

    def encode(self, template: Tensor, crops: Tensor, mode: str) -> Tensor:
        """What a mode's head gets [B, C, H, W] where GMMT has no part in it."""
        return self.streams(template, crops)[2]

    def search(
        self, template: Tensor, crops: Tensor, mode: str, steps: int = 1, draws: Draws | None = None
    ) -> tuple[Tensor, ...]:
        """The head's answer at test time; in mode "stage2" GMMT, if any, fuses in `steps` steps."""
        self.check_mode(mode)
        if mode != "stage2" or self.fusion is None:
            return self.head[mode](template, self.encode(template, crops, mode))
        f_1, f_2, _ = self.streams(template, crops, fused=False)
        return self.head[mode](template, self.fusion.sample(f_1, f_2, steps=steps, generator=draws))
