# SPDX-License-Identifier: GPL-3.0-or-later
"""MobileNetV3-Large as an encoder for dense prediction: four scales, the last one dilated instead of strided."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ImageNet's mean and standard deviation, what the published weights were trained on.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class _Row(NamedTuple):
    """One line of table 1 of Howard et al. 2019, with the dilation that replaces its stride at the last scale."""

    kernel: int
    expanded: int  # channels
    out: int  # channels
    squeeze: bool
    hardswish: bool  # else ReLU
    stride: int = 1
    dilation: int = 1


_ROWS = (
    _Row(3, 16, 16, False, False),
    _Row(3, 64, 24, False, False, stride=2),
    _Row(3, 72, 24, False, False),
    _Row(5, 72, 40, True, False, stride=2),
    _Row(5, 120, 40, True, False),
    _Row(5, 120, 40, True, False),
    _Row(3, 240, 80, False, True, stride=2),
    _Row(3, 200, 80, False, True),
    _Row(3, 184, 80, False, True),
    _Row(3, 184, 80, False, True),
    _Row(3, 480, 112, True, True),
    _Row(3, 672, 112, True, True),
    _Row(5, 672, 160, True, True, dilation=2),
    _Row(5, 960, 160, True, True, dilation=2),
    _Row(5, 960, 160, True, True, dilation=2),
)
_TAPS = (0, 2, 5)  # the rows whose output is the feature at 1/2, 1/4 and 1/8; the head gives 1/16


def _squeezed(channels: int) -> int:
    """A quarter of `channels`, rounded to a multiple of 8 without losing more than a tenth (Howard et al. 2019)."""
    target = channels / 4
    rounded = max(8, int(target + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * target else rounded


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, _squeezed(channels), 1)
        self.expand = nn.Conv2d(_squeezed(channels), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(gate)


class _DepthwiseConv(nn.Conv2d):
    """Trained in fp32 on a CPU, whatever the autocast: bf16's backward takes oneDNN two to seven times as long."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


class _Bottleneck(nn.Module):
    """Inverted residual: expand, filter each channel, squeeze-excite, project; batch norm lives in the weights."""

    def __init__(self, channels: int, row: _Row) -> None:
        super().__init__()
        self.activation = F.hardswish if row.hardswish else F.relu_  # in place: its gradient needs no input
        self.residual = channels == row.out and row.stride == 1
        self.expand = nn.Conv2d(channels, row.expanded, 1) if row.expanded != channels else None
        self.filter = _DepthwiseConv(
            row.expanded,
            row.expanded,
            row.kernel,
            stride=row.stride,
            padding=row.kernel // 2 * row.dilation,
            dilation=row.dilation,
            groups=row.expanded,
        )
        self.squeeze = _SqueezeExcite(row.expanded) if row.squeeze else None
        self.project = nn.Conv2d(row.expanded, row.out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.expand is None else self.activation(self.expand(x))
        y = self.activation(self.filter(y))
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.project(y)
        return x + y if self.residual else y


class MobileNetV3Encoder(nn.Module):
    """MobileNetV3-Large (Howard et al. 2019) whose stride-32 stage is dilated to stay at 1/16."""

    channels = (16, 24, 40, 960)  # of the features at 1/2, 1/4, 1/8, 1/16

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor  # on the device with the weights, and no part of them
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        blocks, channels = [], 16
        for row in _ROWS:
            blocks.append(_Bottleneck(channels, row))
            channels = row.out
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(channels, self.channels[-1], 1)

    def forward(self, src: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of sRGB images.

        Args:
            src: (B, 3, H, W) sRGB-encoded, 0 to 1.

        Returns:
            (B, 16, H/2, W/2), (B, 24, H/4, W/4), (B, 40, H/8, W/8), (B, 960, H/16, W/16), sizes rounded up.
        """
        x = F.hardswish(self.stem((src - self.mean) / self.std))
        taps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _TAPS:
                taps.append(x)
        return taps[0], taps[1], taps[2], F.hardswish(self.head(x))
