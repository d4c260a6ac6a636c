# SPDX-License-Identifier: GPL-3.0-or-later
"""Resize and blur frames and features.

On a CPU, where there are few channels and no gradient is needed, OpenCV does it in a tenth of torch's time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cv2 import BORDER_REPLICATE, INTER_AREA, INTER_LINEAR, Error, blur, copyMakeBorder, error, resize
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[Any]  # (H, W, C) float32; OpenCV gives (H, W) for one channel

_FEW = 6  # channels


def average(x: Tensor, ratio: float) -> Tensor:
    """Smaller by a factor, in steps of 1/2 where possible, so that noise and texture average out (not so `shrunk`)."""
    while ratio < 1:
        step = max(0.5, ratio)
        if _suits_opencv(x):
            x = _to_size(x, int(x.shape[-2] * step), int(x.shape[-1] * step))
        else:
            x = F.interpolate(x, scale_factor=step, mode="bilinear", align_corners=False, recompute_scale_factor=True)
        ratio /= step
    return x


def shrunk(x: Tensor, ratio: float) -> Tensor:
    """Smaller by a factor, bilinear; the size is rounded down, as in the published network."""
    if ratio == 1:
        return x
    return F.interpolate(x, scale_factor=ratio, mode="bilinear", align_corners=False, recompute_scale_factor=False)


def doubled(x: Tensor, like: Tensor) -> Tensor:
    """Twice the size, cut to the size of `like` (whose odd sizes were rounded up on the way down)."""
    if _suits_opencv(x):
        x = _to_size(x, 2 * x.shape[-2], 2 * x.shape[-1])
    else:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return x[:, :, : like.shape[-2], : like.shape[-1]]


def halved(x: Tensor) -> Tensor:
    """The mean of each 2 x 2; sizes are rounded up, and an odd row or column at the end is its own mean."""
    if not _suits_opencv(x):
        return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    height, width = x.shape[-2:]

    def halve(image: Image) -> Image:
        if height % 2 or width % 2:
            image = copyMakeBorder(image, 0, height % 2, 0, width % 2, BORDER_REPLICATE)
        return resize(image, (-(-width // 2), -(-height // 2)), interpolation=INTER_AREA)

    return _each(x, halve)


def divisible(x: Tensor, by: int) -> Tensor:
    """With sides that `by` divides, by repeating the last row and column; whole frames are copied only for that."""
    height, width = x.shape[-2:]
    if not torch.jit.is_tracing() and height % by == 0 and width % by == 0:  # type: ignore[attr-defined,no-untyped-call]
        return x
    return F.pad(x, (0, -width % by, 0, -height % by), mode="replicate")


def pyramid(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The image at 1, 1/2, 1/4, 1/8, sizes rounded up."""
    half = halved(x)
    quarter = halved(half)
    return x, half, quarter, halved(quarter)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the size of `like`."""
    if _suits_opencv(x):
        return _to_size(x, like.shape[-2], like.shape[-1])
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def upsampled(x: Tensor, height: int, width: int, multiple: int = 1, traceable: bool = False) -> Tensor:
    """Upsample bilinearly, corners not aligned, into a frame whose sides `multiple` divides.

    Args:
        x: (B, C, h, w).
        traceable: use operators that every runtime has.

    Returns:
        (B, H, W, C), contiguous, H and W from `height` and `width` on; what lies behind those is undefined.
    """
    if traceable or x.device.type != "cpu" or x.requires_grad:
        full = F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
        return F.pad(full, (0, -width % multiple, 0, -height % multiple)).permute(0, 2, 3, 1).contiguous()
    frame = x.new_empty(x.shape[0], height + -height % multiple, width + -width % multiple, x.shape[1])
    for image, target in zip(x.permute(0, 2, 3, 1).contiguous().numpy(), frame.numpy(), strict=True):
        resize(image, (width, height), dst=target[:height, :width])  # torch takes five times as long
    return frame


def blurred(x: Tensor, size: int) -> Tensor:
    """The mean of `size` x `size` pixels around each, the edge repeated; `size` is odd."""
    if _suits_opencv(x):
        return _each(x, lambda image: blur(image, (size, size), borderType=BORDER_REPLICATE))
    return F.avg_pool2d(F.pad(x, [size // 2] * 4, mode="replicate"), size, 1)


def largest(x: Tensor) -> Tensor:
    """The largest of 5 x 5 pixels around each. (Pooling also notes where that is, in twenty times the time.)"""
    x = F.pad(x, [2] * 4, value=-torch.inf)
    for _ in range(2):  # along rows, then along columns
        two = torch.maximum(x[..., :-1], x[..., 1:])
        four = torch.maximum(two[..., :-2], two[..., 2:])
        x = torch.maximum(four[..., :-1], x[..., 4:]).transpose(2, 3)
    return x


def _suits_opencv(x: Tensor) -> bool:
    if torch.jit.is_tracing() or x.requires_grad:  # type: ignore[attr-defined,no-untyped-call]
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[1] <= _FEW


def _to_size(x: Tensor, height: int, width: int) -> Tensor:
    return _each(x, lambda image: resize(image, (width, height), interpolation=INTER_LINEAR))


def _each(x: Tensor, change: Callable[[Image], Image]) -> Tensor:
    """What OpenCV makes of each image of (B, C, H, W), in channels-last layout."""
    try:
        images = [change(image) for image in x.permute(0, 2, 3, 1).contiguous().numpy()]
    except error as failure:
        if failure.code != Error.StsNoMem:
            raise
        raise torch.OutOfMemoryError(str(failure)) from None  # as torch raises it: callers fall back on that
    joined = np.stack(images) if len(images) > 1 else images[0]
    # By reshaping, an axis of one gets the stride by which torch knows the layout
    return torch.from_numpy(joined.reshape(len(images), *images[0].shape[:2], x.shape[1])).permute(0, 3, 1, 2)
