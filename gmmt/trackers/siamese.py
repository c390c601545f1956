"""The supplement's Siamese baseline (Sec. C): two SiamBANs, a convolution fusing them, and GMMT."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmmt.data.crops import CropRule
from gmmt.data.sequence import split
from gmmt.draws import Draws
from gmmt.errors import SettingError
from gmmt.networks.norm import SyncBatchNorm2d
from gmmt.trackers.base import Streams, Tracker, TrainingStage
from gmmt.trackers.heads import DepthwiseBAN, decode, track_loss

MEAN, STD = 115.0, 64.0
"""By which grey levels 0..255 are standardised. (SiamBAN takes them as they are, and colours as
blue, green, red.)
"""


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
        """Features [B, 32, H/4, W/4] of images [B, 3, H, W]."""
        for layer in self.layers[:2]:
            x = layer(x).relu()
        a, b, c = self.layers[2:]
        x = (x + b(a(x).relu())).relu()
        return (x + c(x)).relu()


class Bottleneck(nn.Module):
    """ResNet-50's block, with torchvision's names; a halving one does not pad, as in SiamBAN."""

    def __init__(
        self, inputs: int, width: int, stride: int = 1, dilation: int = 1, shortcut: int = 0
    ):
        """`shortcut` is the kernel size of the convolution beside the three, 0 for none."""
        super().__init__()
        padding = dilation if stride == 1 else 0
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = SyncBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding, dilation, bias=False)
        self.bn2 = SyncBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = SyncBatchNorm2d(outputs)
        self.downsample = nn.Identity()
        if shortcut:
            beside = padding if shortcut == 3 else 0
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, shortcut, stride, beside, bias=False),
                SyncBatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, 4 * width, H', W'] of x [B, inputs, H, W]."""
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


class ResNet50(nn.Module):
    """ResNet-50 to its third stage, dilated to stride 8 as in SiamBAN: 255 -> 31, 127 -> 15."""

    stride, out_channels = 8, 1024

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, bias=False), SyncBatchNorm2d(64)
        self.layer1 = nn.Sequential(
            Bottleneck(64, 64, shortcut=1), *(Bottleneck(256, 64) for _ in range(2))
        )
        self.layer2 = nn.Sequential(
            Bottleneck(256, 128, stride=2, shortcut=3), *(Bottleneck(512, 128) for _ in range(3))
        )
        self.layer3 = nn.Sequential(
            Bottleneck(512, 256, shortcut=3), *(Bottleneck(1024, 256, dilation=2) for _ in range(5))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, 1024, H/8, W/8] of images [B, 3, H, W]."""
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        return self.layer3(self.layer2(self.layer1(x)))


class Siamese(Tracker):
    """Both modalities' feature extractors, the fusion block, the heads of each stage, and GMMT.

    What stage 2 changes: the SEARCH features are fused by GMMT (supplement, Sec. C). The TEMPLATE's
    keep the frozen fusion block of stage 1.2: GMMT's U is trained to give what that block gives, so
    both sides of the correlation live in one space. (The paper says that the old block is discarded
    at test, and leaves open what then fuses the template.)
    """

    loss_of = staticmethod(track_loss)
    reading: Mapping[str, float | str] = {
        "penalty": 0.04,
        "combine": "mix",
        "window": 0.44,
        "hann": "inside",
        "resize": "by score",
        "rate": 0.4,
        "clip": "centre",
        "margin": 0.0,
        "smallest": 4.0,
    }

    def __init__(
        self,
        backbone: str = "small",
        channels: int = 32,
        hidden: int = 32,
        template: int = 32,
        search: int = 64,
        whole_pixels: str = "no",
        mean: float = MEAN,
        std: float = STD,
        bgr: bool = False,
    ):
        """Makes the trackers of stages 1.1 and 1.2, and the head of stage 2.

        `backbone` is "small" (the miniature's) or "resnet50" (SiamBAN's), else SettingError;
        `hidden` are channels inside of the heads, `template` and `search` sides of crops in pixels.
        """
        super().__init__()
        if backbone == "small":
            make = SmallBackbone
            self.margin = 1  # cells at each border of the template's map, cut off: 8 -> 6
        elif backbone == "resnet50":
            make = ResNet50
            self.margin = 4  # 15 -> 7
        else:
            raise SettingError(f'backbone is "small" or "resnet50", not {backbone!r}')
        self.channels, self.stride = channels, make.stride
        self.crops = CropRule(template, search, whole_pixels=whole_pixels)
        self.mean, self.std, self.bgr = mean, std, bgr
        self.backbone = nn.ModuleDict({name: make() for name in self.modalities})

        def neck() -> nn.Module:
            conv = nn.Conv2d(make.out_channels, channels, 1, bias=False)
            return nn.Sequential(conv, SyncBatchNorm2d(channels))

        self.neck = nn.ModuleDict({name: neck() for name in self.modalities})
        self.fuse = nn.Conv2d(2 * channels, channels, 3, padding=1)
        modes = (*self.modalities, "base", "stage2")
        self.head = nn.ModuleDict({mode: DepthwiseBAN(channels, hidden) for mode in modes})

    def features(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """(f_rgb, f_tir) [B, C, H, W] of crops [B, 4, H', W'] in 0..255."""
        return self.modality("rgb", crops), self.modality("tir", crops)

    def modality(self, name: str, crops: Tensor) -> Tensor:
        """One modality's features, f_rgb or f_tir; a single channel is repeated to three."""
        x = split((crops.float() - self.mean) / self.std, self.modalities)[name]
        x = (x.flip(1) if self.bgr else x).expand(-1, 3, -1, -1)
        x = x.to(self.fuse.weight.dtype)
        return self.neck[name](self.backbone[name](x))

    def fused(self, f_rgb: Tensor, f_tir: Tensor) -> Tensor:
        """The baseline's own fused features [B, C, H, W]."""
        return self.fuse(torch.cat([f_rgb, f_tir], dim=1))

    def encode_template(self, crops: Tensor, mode: str) -> Tensor:
        """The template's features [B, C, h, w], without the border."""
        x = self.encode(None, crops, mode)
        return x[:, :, self.margin : -self.margin, self.margin : -self.margin]

    def stages(self) -> dict[str, TrainingStage]:
        """What each stage trains (supplement, Table 2)."""
        stages = {}
        for name in self.modalities:
            learns = [self.backbone[name], self.neck[name], self.head[name]]
            stages[f"1.1 {name}"] = TrainingStage(name, learns)
        stages["1.2"] = TrainingStage("base", [self.head["base"], self.fuse])
        return stages | super().stages()

    def streams(self, template: Tensor, crops: Tensor, fused: bool = True) -> Streams:
        """(f_rgb, f_tir, fused or None) [B, C, H, W]; the template has no part in them."""
        f_rgb, f_tir = self.features(crops)
        return f_rgb, f_tir, self.fused(f_rgb, f_tir) if fused else None

    def encode(self, template: Tensor | None, crops: Tensor, mode: str) -> Tensor:
        """One modality's features or the fused ones [B, C, H, W]."""
        if mode in self.modalities:
            return self.modality(mode, crops)
        return super().encode(template, crops, mode)

    def released_loss(
        self, answer: tuple[Tensor, Tensor], boxes: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """SiamBAN's loss, of points that are drawn."""
        cls, loc = answer
        numbers = draws.uniform(cls[:, 0].shape, cls.device)
        return track_loss(cls, loc, boxes, self.stride, numbers)

    def decode(self, cls: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, S, S] and boxes [B, 4, S, S]."""
        return cls.float().softmax(1)[:, 1], decode(loc, self.stride)


OFFICIAL_READING: Mapping[str, float | str] = Siamese.reading | {
    "penalty": 0.08513643,
    "window": 0.4632533,
    "hann": "whole",
    "rate": 0.4441818,
    "smallest": 10.0,
}
"""How the released SiamBAN reads its score map (its settings for VOT2018), with crops
CropRule(127, 255, whole_pixels="siamban").
"""
