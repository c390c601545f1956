"""The anchor-free head of SiamBAN (Chen et al., 2020): for each point of a map, is it on the target, and how far are the box's sides?"""

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn


class SyncBatchNorm2d(nn.BatchNorm2d):
    """A batch norm whose batch is that of all processes, on CPUs too: training on several gives what training on one gives."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns [B, C, H, W]."""
        if not self.training or not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce  # differentiable

        count = x.numel() / x.shape[1] * torch.distributed.get_world_size()
        mean = all_reduce(x.sum((0, 2, 3))) / count
        centered = x - mean[:, None, None]
        variance = all_reduce(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scaled = centered * torch.rsqrt(variance + self.eps)[:, None, None]
        return scaled * self.weight[:, None, None] + self.bias[:, None, None]


def xcorr_depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """Returns the cross-correlation [B, C, H', W'] of each channel of x [B, C, H, W] with that of its own kernel [B, C, h, w]."""
    b, c, h, w = kernel.shape
    return F.conv2d(x.reshape(1, b * c, *x.shape[2:]), kernel.reshape(b * c, 1, h, w), groups=b * c).reshape(b, c, x.shape[2] - h + 1, -1)


class DepthwiseXCorr(nn.Module):
    """One branch of the head: template and search features through a convolution each, correlated, then two 1 x 1 convolutions."""

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
    """Classification and regression from template features [B, C, h, w] and search features [B, C, H, W]."""

    def __init__(self, channels: int, hidden: int, n_classes: int = 2):
        """Makes both branches; names of parameters are SiamBAN's."""
        super().__init__()
        self.cls = DepthwiseXCorr(channels, hidden, n_classes)
        self.loc = DepthwiseXCorr(channels, hidden, 4)

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits [B, 2, S, S] (1: target) and raw distances [B, 4, S, S]; a side's distance is their exp, times the stride."""
        return self.cls(template, search), self.loc(template, search)


def points(size: int, stride: int, device: torch.device | str = "cpu") -> Tensor:
    """Returns the centres [2, S, S] (x, y) of a score map's cells in pixels of the search patch, its middle being (0, 0)."""
    axis = (torch.arange(size, device=device) - (size - 1) / 2) * stride
    return torch.stack([axis.expand(size, size), axis[:, None].expand(size, size)])


def decode(loc: Tensor, stride: int) -> Tensor:
    """Returns boxes [B, 4, S, S] (x1, y1, x2, y2) in pixels around the patch's middle, from raw distances (left, top, right, bottom)."""
    distance = loc.float().clamp(max=8).exp() * stride
    p = points(loc.shape[-1], stride, loc.device)
    return torch.cat([p - distance[:, :2], p + distance[:, 2:]], dim=1)


def labels(boxes: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Returns which points [B, S, S] are on the target and which are background: SiamBAN's two ellipses.

    Inside the ellipse with half axes w/4, h/4 a point is on the target, outside that with w/2, h/2 it is background; between, neither.

    Args:
        boxes: [B, 4] (x1, y1, x2, y2) in pixels around the search patch's middle; NaN where there is no target.
    """
    center, wh = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    offset = (points(size, stride, boxes.device) - center[:, :, None, None]) / wh[:, :, None, None]
    r = offset.square().sum(1)
    return r < 1 / 16, ~(r <= 1 / 4)


def track_loss(cls: Tensor, loc: Tensor, boxes: Tensor, stride: int) -> dict[str, Tensor]:
    """Returns {"cls": balanced cross-entropy, "loc": 1 - IoU on the target's points}, as SiamBAN, but for all points, not 64 drawn ones.

    Each image counts alike, and the sums are divided by the batch's size: then the mean over processes is that of the whole batch.
    """
    positive, negative = (mask.float() for mask in labels(boxes, cls.shape[-1], stride))
    surprise = F.cross_entropy(cls.float(), positive.long(), reduction="none")

    def each(values: Tensor, mask: Tensor) -> Tensor:
        return (values * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)

    a, b = decode(loc, stride), boxes.nan_to_num()[:, :, None, None]
    inter = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inter
    return {
        "cls": 0.5 * (each(surprise, positive) + each(surprise, negative)).mean(),
        "loc": each(1 - inter / union.clamp(min=1e-6), positive).mean(),
    }
