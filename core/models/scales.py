# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames and features at other sizes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def average(x: Tensor, ratio: float) -> Tensor:
    """Smaller by a factor, by halves as long as that goes: unlike in `shrunk`, noise and fine texture average out."""
    while ratio < 1:
        step = max(0.5, ratio)
        x = F.interpolate(x, scale_factor=step, mode="bilinear", align_corners=False, recompute_scale_factor=True)
        ratio /= step
    return x


def shrunk(x: Tensor, ratio: float) -> Tensor:
    """Bilinear by a factor; the size is rounded down, as the published network does it."""
    if ratio == 1:
        return x
    return F.interpolate(x, scale_factor=ratio, mode="bilinear", align_corners=False, recompute_scale_factor=False)


def doubled(x: Tensor, like: Tensor) -> Tensor:
    """Twice the size, cut to the size of `like` (whose odd sizes were rounded up on the way down)."""
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return x[:, :, : like.shape[-2], : like.shape[-1]]


def halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def pyramid(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The image at 1, 1/2, 1/4, 1/8, sizes rounded up."""
    half = halved(x)
    quarter = halved(half)
    return x, half, quarter, halved(quarter)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the size of `like`."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
