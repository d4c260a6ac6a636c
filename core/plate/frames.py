# SPDX-License-Identifier: GPL-3.0-or-later
"""How the plate tools see frames: a reader, and one view of any precision as sRGB-encoded 0 to 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

# OpenCV's own annotations leave the element type open, so these names say what mypy cannot.
Image = NDArray[Any]  # (H, W, 3) RGB; uint8, uint16 or float32
Plane = NDArray[Any]  # (H, W) float32
Mask = NDArray[Any]  # (H, W) bool
Matrix = NDArray[Any]  # (3, 3) float64
View = Callable[[Image], Image]  # a frame as the file holds it -> (H, W, 3) float32, sRGB-encoded, 0 to 1
Matte = Callable[[Image, Image | None], Plane]  # src, bgr (float32, sRGB-encoded, 0 to 1) -> pha, 0 to 1


class FrameReader(Protocol):
    """Random access to footage; `core.frame_io` readers fit."""

    @property
    def count(self) -> int:
        """Number of frames."""

    def read(self, index: int) -> Image:
        """Frame `index`, 0 to count - 1, as (H, W, 3) RGB at the file's own precision."""


class FrameList:
    """A sequence of arrays as a FrameReader."""

    def __init__(self, frames: Sequence[Image]) -> None:
        self._frames = frames

    @property
    def count(self) -> int:
        return len(self._frames)

    def read(self, index: int) -> Image:
        return self._frames[index]


def as_srgb(frame: Image) -> Image:
    """Scale an already sRGB-encoded frame to float32, 0 to 1."""
    if frame.dtype == np.uint8:
        return np.asarray(frame, np.float32) * np.float32(1 / 255)
    if frame.dtype == np.uint16:
        return np.asarray(frame, np.float32) * np.float32(1 / 65535)
    return np.asarray(np.minimum(np.fmax(frame, 0), 1), np.float32)  # no number: 0


def as_dtype(values: Image, dtype: np.dtype[Any]) -> Image:
    """Round and clip to an integer dtype; floats pass as they are."""
    if dtype == np.uint8:
        return cv2.convertScaleAbs(np.maximum(values, 0))
    if dtype.kind == "u":
        values = np.clip(np.rint(values), 0, np.iinfo(dtype).max)
    return values.astype(dtype, copy=False)
