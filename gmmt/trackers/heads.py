"""The anchor-free heads of SiamBAN (Chen et al., 2020) and of OSTrack (Ye et al., 2022), their
losses, and their boxes.
"""

from itertools import pairwise

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.networks.norm import SyncBatchNorm2d


def xcorr_depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """Returns the cross-correlation [B, C, H', W'] of each channel of x [B, C, H, W] with that of
    its own kernel [B, C, h, w].
    """
    b, c, h, w = kernel.shape
    return F.conv2d(
        x.reshape(1, b * c, *x.shape[2:]), kernel.reshape(b * c, 1, h, w), groups=b * c
    ).reshape(b, c, x.shape[2] - h + 1, -1)


class DepthwiseXCorr(nn.Module):
    """One branch of the head: template and search features through a convolution each, correlated,
    then two 1 x 1 convolutions.
    """

    def __init__(self, channels: int, hidden: int, out: int):
        super().__init__()

        def conv(a: int, b: int, size: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, size, bias=False), SyncBatchNorm2d(b), nn.ReLU(inplace=True)]

        self.conv_kernel = nn.Sequential(*conv(channels, hidden, 3))
        self.conv_search = nn.Sequential(*conv(channels, hidden, 3))
        self.head = nn.Sequential(*conv(hidden, hidden, 1), nn.Conv2d(hidden, out, 1))

    def forward(self, template: Tensor, search: Tensor) -> Tensor:
        """Returns [B, out, H', W']."""
        return self.head(xcorr_depthwise(self.conv_search(search), self.conv_kernel(template)))


class DepthwiseBAN(nn.Module):
    """SiamBAN's head: for each point, is it on the target, and how far are the box's sides?"""

    def __init__(self, channels: int, hidden: int, n_classes: int = 2):
        """Makes both branches; names of parameters are SiamBAN's."""
        super().__init__()
        self.cls = DepthwiseXCorr(channels, hidden, n_classes)
        self.loc = DepthwiseXCorr(channels, hidden, 4)

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits [B, 2, S, S] (1: target) and raw distances [B, 4, S, S]; a side's distance
        is their exp, times the stride.

        Features: template [B, C, h, w], search [B, C, H, W].
        """
        return self.cls(template, search), self.loc(template, search)


def points(size: int, stride: float, device: torch.device | str = "cpu") -> Tensor:
    """Returns the centres [2, S, S] (x, y) of a score map's cells in pixels of the search patch,
    its middle being (0, 0).
    """
    axis = (torch.arange(size, device=device) - (size - 1) / 2) * stride
    return torch.stack([axis.expand(size, size), axis[:, None].expand(size, size)])


def decode(loc: Tensor, stride: int) -> Tensor:
    """Returns boxes [B, 4, S, S] (x1, y1, x2, y2) in pixels around the patch's middle, from raw
    distances (left, top, right, bottom).
    """
    distance = loc.float().clamp(max=8).exp() * stride
    p = points(loc.shape[-1], stride, loc.device)
    return torch.cat([p - distance[:, :2], p + distance[:, 2:]], dim=1)


def labels(boxes: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Returns which points [B, S, S] are on the target and which are background: SiamBAN's two
    ellipses.

    Inside the ellipse with half axes w/4, h/4 a point is on the target, outside that with w/2, h/2
    it is background; between, neither. Boxes [B, 4] (x1, y1, x2, y2) are in pixels around the
    search patch's middle; NaN where there is no target.
    """
    center, wh = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    offset = (points(size, stride, boxes.device) - center[:, :, None, None]) / wh[:, :, None, None]
    r = offset.square().sum(1)
    return r < 1 / 16, ~(r <= 1 / 4)


def track_loss(cls: Tensor, loc: Tensor, boxes: Tensor, stride: int) -> dict[str, Tensor]:
    """Returns {"cls": balanced cross-entropy, "loc": 1 - IoU on the target's points}, as SiamBAN,
    but for all points, not 64 drawn ones.

    Each image counts alike, and the sums are divided by the batch's size: then the mean over
    processes is that of the whole batch.
    """
    positive, negative = (mask.float() for mask in labels(boxes, cls.shape[-1], stride))
    surprise = F.cross_entropy(cls.float(), positive.long(), reduction="none")

    def each(values: Tensor, mask: Tensor) -> Tensor:
        return (values * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)

    iou, _ = overlap(decode(loc, stride), boxes.nan_to_num()[:, :, None, None])
    return {
        "cls": 0.5 * (each(surprise, positive) + each(surprise, negative)).mean(),
        "loc": each(1 - iou, positive).mean(),
    }


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the IoU and the generalised IoU [B, ...] of boxes a and b [B, 4, ...] (x1, y1, x2,
    y2).
    """
    inter = (
        (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    )
    union = ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inter).clamp(min=1e-6)
    hull = (
        (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2]))
        .prod(1)
        .clamp(min=1e-6)
    )
    return inter / union, inter / union - (hull - union) / hull


class CentreHead(nn.Module):
    """OSTrack's head: for each cell, is the target's centre in it, how large is the target, and
    where about the cell is the centre?
    """

    def __init__(self, channels: int, hidden: int = 256):
        """Makes three branches of four convolutions, each half as wide as the last, and one 1 x 1;
        names of parameters are OSTrack's.
        """
        super().__init__()
        widths = [channels, hidden, hidden // 2, hidden // 4, hidden // 8]
        for name, out in (("ctr", 1), ("offset", 2), ("size", 2)):
            for i, (a, b) in enumerate(pairwise(widths), start=1):
                layers = nn.Conv2d(a, b, 3, padding=1), SyncBatchNorm2d(b), nn.ReLU(inplace=True)
                self.add_module(f"conv{i}_{name}", nn.Sequential(*layers))
            self.add_module(f"conv5_{name}", nn.Conv2d(widths[-1], out, 1))

    def branch(self, name: str, x: Tensor) -> Tensor:
        """Returns one branch's map, in float32."""
        for i in range(1, 6):
            x = getattr(self, f"conv{i}_{name}")(x)
        return x.float()

    def forward(self, template: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns score [B, 1, S, S] in (0, 1), size [B, 2, S, S] in shares of the patch and offset
        [B, 2, S, S] in cells.

        Features x: [B, C, S, S]; the template has no further part in it.
        """
        score, size = (
            self.branch(name, x).sigmoid().clamp(1e-4, 1 - 1e-4) for name in ("ctr", "size")
        )
        return score, size, self.branch("offset", x)


def decode_centre(size: Tensor, offset: Tensor, stride: float) -> Tensor:
    """Returns boxes [B, 4, S, S] (x1, y1, x2, y2) in pixels around the patch's middle; offset 0 is
    a cell's upper left corner.
    """
    s = size.shape[-1]
    middle, half = points(s, stride, size.device) + (offset - 0.5) * stride, size * (s * stride / 2)
    return torch.cat([middle - half, middle + half], dim=1)


def centre_labels(boxes: Tensor, size: int, stride: float) -> Tensor:
    """Returns a Gaussian [B, S, S] about each centre, which is rounded to a cell's corner and has 1
    there; no target, zeros.

    CornerNet's radius is that by which a box may be shifted and still overlap the true one by 0.7.
    Of its three cases the third is always the least, and the code that OSTrack took over divides it
    by 2 where the root has 2a = 5.6; that is kept.
    """
    wh = (boxes[:, 2:] - boxes[:, :2]).nan_to_num() / stride
    total = 1.4 * wh.sum(1)
    radius = ((total.square() + 3.36 * wh.prod(1)).sqrt() - total).div(2).floor()[:, None, None]
    at = ((boxes[:, :2] + boxes[:, 2:]) / 2 / stride + size / 2).round().clamp(0, size - 1)
    axis = torch.arange(size, device=boxes.device)
    x, y = (axis - at[:, :1]).abs()[:, None, :], (axis - at[:, 1:]).abs()[:, :, None]
    heat = torch.exp(
        -(x.square() + y.square()) * 18 / (2 * radius + 1).square()
    )  # sigma: a sixth of the diameter
    return torch.where(torch.maximum(x, y) <= radius, heat, 0.0)


def centre_loss(
    score: Tensor, size: Tensor, offset: Tensor, boxes: Tensor, stride: float
) -> dict[str, Tensor]:
    """Returns OSTrack's loss: {"focal": on the score map, "l1": 5 |box - true box|, "giou": 2 (1 -
    GIoU)}, boxes in shares of the patch.

    The box is that of the true centre's cell: OSTrack reads the cell with the highest score, which
    is the same only after pre-training. Each image counts alike; one without target (which OSTrack
    never sees) only in the focal loss.
    """
    s, p = score.shape[-1], score[:, 0]
    heat = centre_labels(boxes, s, stride)
    focal = torch.where(
        heat == 1, -((1 - p) ** 2) * p.log(), -((1 - heat) ** 4) * p**2 * (1 - p).log()
    ).sum((1, 2))
    at = heat.flatten(1).argmax(1)[:, None, None].expand(-1, 4, 1)
    found = (
        decode_centre(size, offset, stride).flatten(2).gather(2, at)[..., 0] / (s * stride) + 0.5
    )
    truth, there = (boxes.nan_to_num() / (s * stride) + 0.5).clamp(0, 1), ~boxes.isnan().any(1)
    l1, giou = (found - truth).abs().mean(1), 1 - overlap(found, truth)[1]
    return {"focal": focal.mean(), "l1": 5 * (l1 * there).mean(), "giou": 2 * (giou * there).mean()}
