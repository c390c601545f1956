"""The supplement's Siamese baseline (Sec. C): SiamBAN once for each modality, a convolution that
fuses both, one head; and GMMT on it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.networks.norm import SyncBatchNorm2d
from gmmt.trackers.base import Tracker
from gmmt.trackers.heads import DepthwiseBAN, decode, track_loss

MODES = ("rgb", "tir", "base", "stage2")


class SmallBackbone(nn.Module):
    """Five convolutions, stride 4: what the miniature can afford."""

    stride, out_channels = 4, 32

    def __init__(self):
        super().__init__()
        widths, strides = (3, 16, 32, 32, 32, 32), (2, 2, 1, 1, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, s, 1, bias=False), SyncBatchNorm2d(b))
            for a, b, s in zip(widths[:-1], widths[1:], strides, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns [B, 32, H/4, W/4] from images [B, 3, H, W]."""
        for layer in self.layers[:2]:
            x = layer(x).relu()
        a, b, c = self.layers[2:]
        x = (x + b(a(x).relu())).relu()
        return (x + c(x)).relu()


class Bottleneck(nn.Module):
    """A block of ResNet-50 with torchvision's names, so that its weights load; a halving
    convolution does not pad, as in SiamBAN.
    """

    def __init__(self, a: int, width: int, stride: int = 1, dilation: int = 1, downsample: int = 0):
        """`downsample`: kernel size of the convolution on the shortcut, 0 for none."""
        super().__init__()
        pad = dilation if stride == 1 else 0
        self.conv1, self.bn1 = nn.Conv2d(a, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = (
            nn.Conv2d(width, width, 3, stride, pad, dilation, bias=False),
            nn.BatchNorm2d(width),
        )
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        shortcut = (
            nn.Conv2d(a, 4 * width, downsample, stride, pad if downsample == 3 else 0, bias=False)
            if downsample
            else None
        )
        self.downsample = (
            nn.Sequential(shortcut, nn.BatchNorm2d(4 * width)) if downsample else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns [B, 4 * width, H', W']."""
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


class ResNet50(nn.Module):
    """ResNet-50 to its third stage, as SiamBAN has it: dilated to stride 8, 255 -> 31 and 127 ->
    15.
    """

    stride, out_channels = 8, 1024

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, bias=False), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(
            Bottleneck(64, 64, downsample=1), *(Bottleneck(256, 64) for _ in range(2))
        )
        self.layer2 = nn.Sequential(
            Bottleneck(256, 128, stride=2, downsample=3), *(Bottleneck(512, 128) for _ in range(3))
        )
        self.layer3 = nn.Sequential(
            Bottleneck(512, 256, downsample=3),
            *(Bottleneck(1024, 256, dilation=2) for _ in range(5)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns [B, 1024, H/8, W/8] from images [B, 3, H, W]."""
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        return self.layer3(self.layer2(self.layer1(x)))


class Siamese(Tracker):
    """Both modalities' feature extractors, the fusion block, the heads of each stage, and in stage
    2 GMMT.

    What stage 2 changes: the SEARCH features are fused by GMMT (supplement, Sec. C). The TEMPLATE's
    keep the frozen fusion block of stage 1.2: GMMT's U is trained to give what that block gives, so
    both sides of the correlation live in one space, and the template is made once from one clean
    frame, where a generator has nothing to add but its noise. (The paper says that the old block is
    discarded at test, and leaves open what then fuses the template.)
    """

    loss_of = staticmethod(track_loss)

    def __init__(
        self,
        backbone: str = "small",
        channels: int = 32,
        hidden: int = 32,
        template: int = 32,
        search: int = 64,
    ):
        """Makes the trackers of stages 1.1 and 1.2; `channels` is C of f_rgb, f_tir and fused;
        sizes are those of the crops in pixels.
        """
        super().__init__()
        make = {"small": SmallBackbone, "resnet50": ResNet50}[backbone]
        self.backbone = nn.ModuleDict({m: make() for m in ("rgb", "tir")})
        width, self.stride = self.backbone["rgb"].out_channels, self.backbone["rgb"].stride
        self.neck = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.Conv2d(width, channels, 1, bias=False), SyncBatchNorm2d(channels)
                )
                for m in ("rgb", "tir")
            }
        )
        self.fuse = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.head = nn.ModuleDict({mode: DepthwiseBAN(channels, hidden) for mode in MODES})
        self.channels, self.template_size, self.search_size = channels, template, search
        self.margin = (
            4 if backbone == "resnet50" else 1
        )  # cells at the border of the template's map, cut off: 15 -> 7, 8 -> 6

    def features(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (f_rgb, f_tir) [B, C, H, W] of crops [B, 4, H', W'] in 0..255."""
        return self.modality("rgb", crops), self.modality("tir", crops)

    def modality(self, mode: str, crops: Tensor) -> Tensor:
        """Returns f_rgb or f_tir alone; thermal is repeated to three channels."""
        x = (crops.float() - 115) / 64
        x = x[:, :3] if mode == "rgb" else x[:, 3:].expand(-1, 3, -1, -1)
        return self.neck[mode](self.backbone[mode](x))

    def fused(self, f_rgb: Tensor, f_tir: Tensor) -> Tensor:
        """Returns the baseline's own fused features [B, C, H, W]: one convolution of the
        concatenated ones.
        """
        return self.fuse(torch.cat([f_rgb, f_tir], dim=1))

    def encode_template(self, crops: Tensor, mode: str) -> Tensor:
        """Returns the template's features [B, C, h, w], without the border."""
        x = (
            self.modality(mode, crops)
            if mode in ("rgb", "tir")
            else self.fused(*self.features(crops))
        )
        m = self.margin
        return x[:, :, m:-m, m:-m]

    def stages(self) -> dict[str, list[nn.Module]]:
        """Returns what each stage trains (supplement, Table 2)."""
        alone = {f"1.1 {m}": [self.backbone[m], self.neck[m], self.head[m]] for m in ("rgb", "tir")}
        return alone | {"1.2": [self.head["base"], self.fuse]} | super().stages()

    def streams(
        self, template: Tensor, crops: Tensor, fused: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns (f_rgb, f_tir, fused or None) [B, C, H, W]; the template has no part in them."""
        f_rgb, f_tir = self.features(crops)
        return f_rgb, f_tir, self.fused(f_rgb, f_tir) if fused else None

    def encode(self, template: Tensor, crops: Tensor, mode: str) -> Tensor:
        """Returns one modality's features or the fused ones [B, C, H, W]."""
        return (
            self.modality(mode, crops)
            if mode in ("rgb", "tir")
            else super().encode(template, crops, mode)
        )

    def decode(self, cls: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scores [B, S, S] and boxes [B, 4, S, S]."""
        return cls.float().softmax(1)[:, 1], decode(loc, self.stride)
