# SPDX-License-Identifier: GPL-3.0-or-later
"""MobileNetV2 (Sandler et al. 2018) as an encoder that keeps its features at five scales."""

from __future__ import annotations

from torch import Tensor, nn

# Expansion, output channels, number of blocks, stride of the first block (Sandler et al. 2018, table 2).
# The 160-channel stage would reach stride 32; here it stays at 16 and its later blocks are dilated instead.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1))
_FIRST_DILATED_BLOCK = 15


def _conv_bn_relu6(
    in_channels: int, out_channels: int, kernel: int, stride: int, dilation: int, groups: int
) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel by 3x3, narrow by 1x1; add the input where the shapes allow it."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int, dilation: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_conv_bn_relu6(in_channels, wide, kernel=1, stride=1, dilation=1, groups=1))
        layers += [
            _conv_bn_relu6(wide, wide, kernel=3, stride=stride, dilation=dilation, groups=wide),
            nn.Conv2d(wide, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2Encoder(nn.Module):
    """Features at 1/2, 1/4, 1/8 and 1/16 of the input (Lin et al. 2021, section 3.2).

    Args:
        in_channels: 6 for a source and its plate.
    """

    channels = (320, 32, 24, 16)  # of the features at 1/16, 1/8, 1/4, 1/2

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_conv_bn_relu6(in_channels, 32, kernel=3, stride=2, dilation=1, groups=1)]
        width = 32
        for expansion, out_channels, count, first_stride in _STAGES:
            for i in range(count):
                dilation = 2 if len(blocks) >= _FIRST_DILATED_BLOCK else 1
                stride = first_stride if i == 0 else 1
                blocks.append(InvertedResidual(width, out_channels, expansion, stride, dilation))
                width = out_channels
        self.features = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode (B, in_channels, H, W) into features at 1/16, 1/8, 1/4 and 1/2, the coarsest first."""
        x2 = x4 = x8 = x
        for index, block in enumerate(self.features):
            x = block(x)
            if index == 1:
                x2 = x
            elif index == 3:
                x4 = x
            elif index == 6:
                x8 = x
        return x, x8, x4, x2
