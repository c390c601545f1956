"""The heads of SiamBAN (Chen et al., 2020) and OSTrack (Ye et al., 2022), losses, and boxes."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.networks.norm import SyncBatchNorm2d

LEAST_OVERLAP = 0.7
"""By how much a box whose centre is off by CornerNet's radius still overlaps the true one."""
SIGMAS_IN_DIAMETER = 6
"""The Gaussian's sigma is this part of its diameter 2 radius + 1."""
POSITIVES, NEGATIVES, NEGATIVES_OF_STRANGERS = 16, 48, 16
"""How many points SiamBAN draws on a target, in its background, and in a negative pair."""


def xcorr_depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """Cross-correlation [B, C, H', W'] of each channel of x [B, C, H, W] with its own kernel."""
    b, c, h, w = kernel.shape
    maps, kernels = x.reshape(1, b * c, *x.shape[2:]), kernel.reshape(b * c, 1, h, w)
    out = F.conv2d(maps, kernels, groups=b * c)
    return out.reshape(b, c, x.shape[2] - h + 1, -1)


class DepthwiseXCorr(nn.Module):
    """One branch: a convolution of each of both features, their correlation, two convolutions."""

    def __init__(self, channels: int, hidden: int, out: int):
        super().__init__()

        def conv(a: int, b: int, size: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, size, bias=False), SyncBatchNorm2d(b), nn.ReLU(inplace=True)]

        self.conv_kernel = nn.Sequential(*conv(channels, hidden, 3))
        self.conv_search = nn.Sequential(*conv(channels, hidden, 3))
        self.head = nn.Sequential(*conv(hidden, hidden, 1), nn.Conv2d(hidden, out, 1))

    def forward(self, template: Tensor, search: Tensor) -> Tensor:
        """A map [B, out, H', W'] of features [B, C, h, w] and [B, C, H, W]."""
        return self.head(xcorr_depthwise(self.conv_search(search), self.conv_kernel(template)))


class DepthwiseBAN(nn.Module):
    """SiamBAN's head: for each point, is it on the target, and how far are the box's sides?"""

    def __init__(self, channels: int, hidden: int, n_classes: int = 2):
        super().__init__()
        self.cls = DepthwiseXCorr(channels, hidden, n_classes)
        self.loc = DepthwiseXCorr(channels, hidden, 4)

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, 2, S, S] (1: target) and raw distances [B, 4, S, S], see `decode`, of features
        [B, C, h, w] and [B, C, H, W].
        """
        return self.cls(template, search), self.loc(template, search)


def points(size: int, stride: float, device: torch.device | str = "cpu") -> Tensor:
    """The centres [2, S, S] (x, y) of a score map's cells in pixels around the patch's middle."""
    axis = (torch.arange(size, device=device) - (size - 1) / 2) * stride
    return torch.stack([axis.expand(size, size), axis[:, None].expand(size, size)])


def decode(loc: Tensor, stride: int) -> Tensor:
    """Boxes [B, 4, S, S] (x1, y1, x2, y2) around the patch's middle; exp(loc): sides in strides."""
    distance = loc.float().clamp(max=8).exp() * stride
    p = points(loc.shape[-1], stride, loc.device)
    return torch.cat([p - distance[:, :2], p + distance[:, 2:]], dim=1)


def labels(boxes: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Which points [B, S, S] are on the target (within the ellipse with half axes w/4, h/4), and
    which background (outside of that with w/2, h/2): SiamBAN's.

    Boxes [B, 4] (x1, y1, x2, y2) are in pixels around the search patch's middle; NaN: no target.
    With exchanged corners, x2 < x1, it is another target than the template's: of such a negative
    pair the points within the small ellipse are background, and no others.
    """
    center, wh = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    offset = (points(size, stride, boxes.device) - center[:, :, None, None]) / wh[:, :, None, None]
    r = offset.square().sum(1)
    inside, stranger = r < 1 / 16, (wh < 0).any(1)[:, None, None]
    return inside & ~stranger, torch.where(stranger, inside, ~(r <= 1 / 4))


def drawn_points(
    on_target: Tensor, background: Tensor, boxes: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor]:
    """Which of the points [B, S, S] that `labels` names for the boxes SiamBAN's loss is made of:
    POSITIVES and NEGATIVES of them, or NEGATIVES_OF_STRANGERS without target, or all if there are
    less: those with the smallest random numbers [B, S, S].
    """

    def smallest(mask: Tensor, count: Tensor | int) -> Tensor:
        rank = torch.where(mask, numbers, torch.inf).flatten(1).argsort(1).argsort(1)
        return mask & (rank < count).view_as(mask)

    one_target = (boxes[:, 2:] > boxes[:, :2]).all(1, keepdim=True)
    negatives = torch.where(one_target, NEGATIVES, NEGATIVES_OF_STRANGERS)
    return smallest(on_target, POSITIVES), smallest(background, negatives)


def track_loss(
    cls: Tensor, loc: Tensor, boxes: Tensor, stride: int, numbers: Tensor | None = None
) -> dict[str, Tensor]:
    """SiamBAN's loss: {"cls": balanced cross-entropy, "loc": 1 - IoU on the target's points}, but
    for all points, not 64 drawn ones; each image counts alike, on whatever process it is.

    With uniform random numbers [B, S, S] it is the released one: for drawn_points, each of this
    process's batch counts alike, and the IoU is (I + 1) / (U + 1) in pixels of the patch. Two
    things differ: without positive points "loc" is 0 (the released one fails), and a batch's only
    positive (or negative) point counts in "cls" (the released one forgets it).
    """
    on_target, background = labels(boxes, cls.shape[-1], stride)
    together, more = (1, 2), 0.0
    if numbers is not None:
        on_target, background = drawn_points(on_target, background, boxes, numbers)
        together, more = (0, 1, 2), 1.0
    positive, negative = on_target.float(), background.float()
    surprise = F.cross_entropy(cls.float(), positive.long(), reduction="none")

    def each(values: Tensor, mask: Tensor) -> Tensor:
        return (values * mask).sum(together) / mask.sum(together).clamp(min=1)

    iou, _ = overlap(decode(loc, stride), boxes.nan_to_num()[:, :, None, None], more)
    return {
        "cls": 0.5 * (each(surprise, positive) + each(surprise, negative)).mean(),
        "loc": each(1 - iou, positive).mean(),
    }


def overlap(a: Tensor, b: Tensor, more: float = 0.0) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU [B, ...] of boxes a and b [B, 4, ...] (x1, y1, x2, y2); of the IoU,
    both intersection and union are taken for `more` than they are.
    """
    high, low = torch.minimum(a[:, 2:], b[:, 2:]), torch.maximum(a[:, :2], b[:, :2])
    inter = (high - low).clamp(min=0).prod(1)
    areas = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    union = (areas - inter).clamp(min=1e-6)
    high, low = torch.maximum(a[:, 2:], b[:, 2:]), torch.minimum(a[:, :2], b[:, :2])
    hull = (high - low).prod(1).clamp(min=1e-6)
    iou = (inter + more) / (union + more)
    return iou, iou - (hull - union) / hull


class CentreHead(nn.Module):
    """OSTrack's head: is the target's centre in a cell, where there, and how large is it?

    The template, which search features have met in the backbone, is taken and ignored.
    """

    def __init__(self, channels: int, hidden: int = 256):
        """Makes three branches, each layer half as wide as the last, with OSTrack's names."""
        super().__init__()
        widths = [channels, hidden, hidden // 2, hidden // 4, hidden // 8]
        for name, out in (("ctr", 1), ("offset", 2), ("size", 2)):
            for i, (a, b) in enumerate(pairwise(widths), start=1):
                layers = nn.Conv2d(a, b, 3, padding=1), SyncBatchNorm2d(b), nn.ReLU(inplace=True)
                self.add_module(f"conv{i}_{name}", nn.Sequential(*layers))
            self.add_module(f"conv5_{name}", nn.Conv2d(widths[-1], out, 1))

    def branch(self, name: str, x: Tensor) -> Tensor:
        for i in range(1, 6):
            x = getattr(self, f"conv{i}_{name}")(x)
        return x.float()

    def forward(self, template: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score [B, 1, S, S] in (0, 1), size [B, 2, S, S] in shares of the patch and offset
        [B, 2, S, S] in cells, from search features x [B, C, S, S].
        """
        score = self.branch("ctr", x).sigmoid().clamp(1e-4, 1 - 1e-4)
        size = self.branch("size", x).sigmoid().clamp(1e-4, 1 - 1e-4)
        return score, size, self.branch("offset", x)


def decode_centre(size: Tensor, offset: Tensor, stride: float) -> Tensor:
    """Boxes [B, 4, S, S] around the patch's middle; offset 0 is a cell's upper left corner."""
    s = size.shape[-1]
    middle = points(s, stride, size.device) + (offset - 0.5) * stride
    half = size * (s * stride / 2)
    return torch.cat([middle - half, middle + half], dim=1)


def centre_radius(wh: Tensor) -> Tensor:
    """CornerNet's radius [B], in whole cells, of targets with wh [B, 2] in cells: so far shifted, a
    box still overlaps the true one by LEAST_OVERLAP = o.

    CornerNet's third case, always the least: the root of a r^2 + b r + c = 0 with a = 4 o,
    b = -2 o (w + h), c = (o - 1) w h. The code that OSTrack took over divides the root's numerator
    by 2 instead of 2 a = 5.6; that is kept.
    """
    minus_b = 2 * LEAST_OVERLAP * wh.sum(1)
    minus_4ac = 16 * LEAST_OVERLAP * (1 - LEAST_OVERLAP) * wh.prod(1)
    return ((minus_b.square() + minus_4ac).sqrt() - minus_b).div(2).floor()


def centre_labels(boxes: Tensor, size: int, stride: float) -> Tensor:
    """A Gaussian [B, S, S] about each centre of boxes [B, 4], which is rounded to a cell's corner
    and has 1 there; zeros beyond centre_radius and without target (NaN). It is
    exp(-d^2 / (2 sigma^2)) at distance d in cells, sigma = (2 radius + 1) / SIGMAS_IN_DIAMETER.
    """
    wh = (boxes[:, 2:] - boxes[:, :2]).nan_to_num() / stride
    radius = centre_radius(wh)[:, None, None]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / stride + size / 2
    cell = centre.round().clamp(0, size - 1)
    axis = torch.arange(size, device=boxes.device)
    x, y = (axis - cell[:, :1]).abs()[:, None, :], (axis - cell[:, 1:]).abs()[:, :, None]
    steepness = SIGMAS_IN_DIAMETER**2 // 2  # 1 / (2 sigma^2) = steepness / (2 radius + 1)^2
    heat = torch.exp(-(x.square() + y.square()) * steepness / (2 * radius + 1).square())
    return torch.where(torch.maximum(x, y) <= radius, heat, 0.0)


def centre_loss(
    score: Tensor, size: Tensor, offset: Tensor, boxes: Tensor, stride: float, best: bool = False
) -> dict[str, Tensor]:
    """OSTrack's loss: {"focal": on the score map, "l1": 5 |box - true box|, "giou": 2 (1 - GIoU)},
    boxes in shares of the patch.

    The box is the true centre's cell's, or as released, with `best`, that of the highest score,
    which is the same only after pre-training. Images count alike; those without target (OSTrack has
    none) only in "focal".
    """
    # 1. The score map, by the focal loss of CornerNet.
    s, p = score.shape[-1], score[:, 0]
    heat = centre_labels(boxes, s, stride)
    at_centre, elsewhere = -((1 - p) ** 2) * p.log(), -((1 - heat) ** 4) * p**2 * (1 - p).log()
    focal = torch.where(heat == 1, at_centre, elsewhere).sum((1, 2))
    # 2. The box of one cell, in shares of the patch from its corner.
    cell = (p if best else heat).flatten(1).argmax(1)[:, None, None].expand(-1, 4, 1)
    every = decode_centre(size, offset, stride).flatten(2)
    found = every.gather(2, cell)[..., 0] / (s * stride) + 0.5
    truth = (boxes.nan_to_num() / (s * stride) + 0.5).clamp(0, 1)
    l1, giou = (found - truth).abs().mean(1), 1 - overlap(found, truth)[1]
    there = ~boxes.isnan().any(1)
    return {"focal": focal.mean(), "l1": 5 * (l1 * there).mean(), "giou": 2 * (giou * there).mean()}
