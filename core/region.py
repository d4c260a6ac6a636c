# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a frame shows something that its plate does not: all that the network has to look at. Arrays only, no bpy.

The network looks at a fixed number of pixels; of a frame that is mostly background, most of them are wasted. So it is
shown a box around what differs, which it sees the larger the smaller that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .color import Floats, Pixels, to_float

TOLERANCE = 0.04  # of 0 to 1: means of 3 x 3 reduced pixels that differ by less are noise, or what no matte would show
GRID = 24  # pixels that divide a box's edges: at shares of its size with this denominator reduced pixels stay in place
MARGIN = 0.05  # of the frame's geometric mean side, around what differs; half of it must remain while a box is kept
SUBJECT = 0.1  # alpha from which on a pixel is of what must be looked at in the next frame as well
WASTE = 2.0  # times the area that it would need, at which a box is given up for a smaller one


class Box(NamedTuple):
    """Rows and columns of a frame, the ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def contains(self, other: Box) -> bool:
        return (
            self.top <= other.top
            and other.bottom <= self.bottom
            and self.left <= other.left
            and other.right <= self.right
        )

    def joined(self, other: Box | None) -> Box:
        """The smallest box around both."""
        if other is None:
            return self
        return Box(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
        )

    def of(self, x: Tensor) -> Tensor:
        """This part of (..., H, W)."""
        return x[..., self.top : self.bottom, self.left : self.right]

    def of_picture(self, pixels: Pixels) -> Pixels:
        """This part of (H, W, C)."""
        return pixels[self.top : self.bottom, self.left : self.right]

    def placed(self, part: Tensor, height: int, width: int) -> Tensor:
        """(..., h, w), this part, in a frame (..., H, W) that is 0 elsewhere."""
        frame = part.new_empty(*part.shape[:-2], height, width)
        self.of(frame).copy_(part)
        beside = frame[..., self.top : self.bottom, :]
        for outside in (
            frame[..., : self.top, :],
            frame[..., self.bottom :, :],
            beside[..., : self.left],
            beside[..., self.right :],
        ):
            outside.zero_()
        return frame

    def grown(self, pixels: float, height: int, width: int) -> Box:
        """With so many pixels around it, rounded up to a multiple of `GRID`, as far as a frame of this size goes."""
        top, left = (max(0, int((edge - pixels) // GRID * GRID)) for edge in (self.top, self.left))
        bottom, right = (int(-(-(edge + pixels) // GRID) * GRID) for edge in (self.bottom, self.right))
        return Box(top, min(bottom, height), left, min(right, width))


class ReducedPlate:
    """A plate as it is compared with frames.

    Args:
        bgr: (H, W, 3) uint8, uint16 or float32 (0 to 1).
        ratio: the reduced size as a share of the frame's.
    """

    def __init__(self, bgr: Pixels, ratio: float) -> None:
        self._ratio = ratio
        self._bgr = _reduced(bgr, ratio)

    def differing(self, src: Pixels, valid: NDArray[np.bool_] | None = None) -> Box | None:
        """The smallest box around all that differs, in the frame's pixels; None where nothing does.

        Single reduced pixels are noise.

        Args:
            src: the frame, as the plate.
            valid: (H, W), False where the plate has no pixels and the frame is not judged; None where it has all.
        """
        difference = cv2.absdiff(_reduced(src, self._ratio), self._bgr)
        beyond: NDArray[Any] = cv2.bitwise_not(cv2.inRange(difference, (0.0,) * 3, (TOLERANCE,) * 3))
        if valid is not None:
            judged = cv2.resize(valid.view(np.uint8), beyond.shape[::-1], interpolation=cv2.INTER_NEAREST)
            beyond = cv2.bitwise_and(beyond, beyond, mask=judged)
        beyond = cv2.morphologyEx(beyond, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        return bounds(beyond, Box(0, src.shape[0], 0, src.shape[1]))


def bounds(mask: NDArray[Any], box: Box) -> Box | None:
    """The smallest box around what is not 0 in a mask of any size that lies on `box`; in the frame's pixels."""
    x, y, columns, rows = cv2.boundingRect(mask)
    if not rows:
        return None
    height, width = box.size
    tall, wide = height / mask.shape[0], width / mask.shape[1]
    return Box(
        box.top + int(y * tall),
        box.top + min(height, math.ceil((y + rows) * tall)),
        box.left + int(x * wide),
        box.left + min(width, math.ceil((x + columns) * wide)),
    )


def choose_box(needed: Box, kept: Box | None, height: int, width: int) -> Box:
    """The box to look at: the one before as long as it does, so that what is remembered need not be moved."""
    margin = MARGIN * math.sqrt(height * width)
    wanted = needed.grown(margin, height, width)
    if kept and kept.contains(needed.grown(margin / 2, height, width)) and kept.area < WASTE * wanted.area:
        return kept
    return wanted


def is_cut(pha: Tensor, box: Box, frame: Box) -> bool:
    """Whether a subject, (1, 1, h, w) in a box, reaches an edge of it that is not the frame's."""
    sides = pha[..., 0, :], pha[..., -1, :], pha[..., :, 0], pha[..., :, -1]
    ends = [side.flatten() for side, edge, last in zip(sides, box, frame, strict=True) if edge != last]
    return bool(ends) and bool((torch.cat(ends) > SUBJECT).any())


def moved(state: Tensor, before: Box, now: Box, size: Sequence[int]) -> Tensor:
    """What the network remembers of a box, (1, C, h, w), brought to `size` in another: nothing where that is new."""
    (top, _, left, _), (height, width) = before, before.size
    tall, wide = now.size[0] / height, now.size[1] / width
    theta = state.new_tensor(
        [
            [wide, 0, (2 * (now.left - left) + now.size[1]) / width - 1],
            [0, tall, (2 * (now.top - top) + now.size[0]) / height - 1],
        ],
        dtype=torch.float32,
    )
    grid = F.affine_grid(theta[None], [1, 1, *size], align_corners=False)
    there = F.grid_sample(state.float(), grid, align_corners=False)
    return there.to(state.dtype, memory_format=torch.channels_last)


def _reduced(pixels: Pixels, ratio: float) -> Floats:
    size = max(1, round(pixels.shape[1] * ratio)), max(1, round(pixels.shape[0] * ratio))
    reduced = to_float(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    return cv2.blur(reduced, (3, 3)).astype(np.float32, copy=False)
