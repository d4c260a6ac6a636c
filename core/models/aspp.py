# SPDX-License-Identifier: GPL-3.0-or-later
"""Atrous spatial pyramid pooling (Chen et al. 2017), with the rates that Lin et al. 2021 give for matting."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WIDTH = 256
_RATES = (3, 6, 9)  # dilation of each 3x3 branch


def _conv_bn_relu(in_channels: int, kernel: int, dilation: int) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [
        nn.Conv2d(in_channels, _WIDTH, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(_WIDTH),
        nn.ReLU(inplace=True),
    ]


class ASPP(nn.Module):
    """One 1x1 branch, one 3x3 branch per rate and one over the whole image's mean, merged by a 1x1 convolution.

    Args:
        in_channels: channels of the coarsest features.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        branches = [nn.Sequential(*_conv_bn_relu(in_channels, kernel=1, dilation=1))]
        branches += [nn.Sequential(*_conv_bn_relu(in_channels, kernel=3, dilation=rate)) for rate in _RATES]
        branches += [nn.Sequential(nn.AdaptiveAvgPool2d(1), *_conv_bn_relu(in_channels, kernel=1, dilation=1))]
        self.convs = nn.ModuleList(branches)
        self.project = nn.Sequential(*_conv_bn_relu(_WIDTH * len(branches), kernel=1, dilation=1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, in_channels, H, W) into (B, 256, H, W)."""
        branches: list[Tensor] = []
        for branch in self.convs:
            y = branch(x)
            branches.append(y.expand(-1, -1, x.shape[2], x.shape[3]))  # one mean for all pixels; others are that size
        out: Tensor = self.project(torch.cat(branches, dim=1))
        return out
