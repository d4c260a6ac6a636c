# SPDX-License-Identifier: GPL-3.0-or-later
"""ResNet-50 and ResNet-101 (He et al. 2016) as encoders that keep their features at five scales."""

from __future__ import annotations

from torch import Tensor, nn

_DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1 to `width` channels, 3x3, 1x1 to four times `width`, plus the input (projected where shapes differ)."""

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        out_channels = width * _EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y + shortcut)
        return out


class ResNetEncoder(nn.Module):
    """Features at 1/2, 1/4, 1/8 and 1/16 of the input; the last stage is dilated instead of strided (Lin et al. 2021).

    Args:
        in_channels: 6 for a source and its plate.
        variant: "resnet50" or "resnet101".
    """

    channels = (2048, 512, 256, 64)  # of the features at 1/16, 1/8, 1/4, 1/2

    def __init__(self, in_channels: int, variant: str) -> None:
        super().__init__()
        depths = _DEPTHS[variant]
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._stage(64, 64, depths[0], stride=1)
        self.layer2 = self._stage(256, 128, depths[1], stride=2)
        self.layer3 = self._stage(512, 256, depths[2], stride=2)
        # The block that would have carried the stride is not dilated yet: the ones after it are.
        self.layer4 = self._stage(1024, 512, depths[3], stride=1, dilation=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(in_channels: int, width: int, depth: int, stride: int, dilation: int = 1) -> nn.Sequential:
        blocks = [Bottleneck(in_channels, width, stride, dilation=1)]
        blocks += [Bottleneck(width * _EXPANSION, width, stride=1, dilation=dilation) for _ in range(depth - 1)]
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode (B, in_channels, H, W) into features at 1/16, 1/8, 1/4 and 1/2, the coarsest first."""
        x2 = self.relu(self.bn1(self.conv1(x)))
        x4 = self.layer1(self.maxpool(x2))
        x8 = self.layer2(x4)
        x16 = self.layer4(self.layer3(x8))
        return x16, x8, x4, x2
