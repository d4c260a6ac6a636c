# SPDX-License-Identifier: GPL-3.0-or-later
"""The base network's decoder (Lin et al. 2021, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Decoder(nn.Module):
    """Upsample step by step, taking in the encoder's features of each scale and, last, the input itself.

    Args:
        channels: the widths after ASPP and after each of the four steps.
        skip_channels: the encoder's widths at 1/8, 1/4, 1/2 and 1.
    """

    def __init__(self, channels: tuple[int, int, int, int, int], skip_channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels[0] + skip_channels[0], channels[1], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[1])
        self.conv2 = nn.Conv2d(channels[1] + skip_channels[1], channels[2], 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels[2])
        self.conv3 = nn.Conv2d(channels[2] + skip_channels[2], channels[3], 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels[3])
        self.conv4 = nn.Conv2d(channels[3] + skip_channels[3], channels[4], 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x16: Tensor, x8: Tensor, x4: Tensor, x2: Tensor, x1: Tensor) -> Tensor:
        """Decode features at 1/16 down to 1/2, and the input itself, into (B, channels[4], H, W)."""
        x = self.relu(self.bn1(self.conv1(_merge(x16, x8))))
        x = self.relu(self.bn2(self.conv2(_merge(x, x4))))
        x = self.relu(self.bn3(self.conv3(_merge(x, x2))))
        out: Tensor = self.conv4(_merge(x, x1))
        return out


def _merge(coarse: Tensor, skip: Tensor) -> Tensor:
    up = F.interpolate(coarse, size=skip.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat([up, skip], dim=1)
