# SPDX-License-Identifier: GPL-3.0-or-later
"""How the plate tools see frames: a reader, and one view of any precision as sRGB-encoded 0 to 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]  # (H, W, 3) RGB; uint8, uint16 or float32
Plane = NDArray[np.float32]  # (H, W)
Mask = NDArray[np.bool_]  # (H, W)
Matrix = NDArray[np.float64]  # (3, 3)
View = Callable[[Image], NDArray[np.float32]]  # a frame as the file holds it -> (H, W, 3) sRGB-encoded, 0 to 1
Matte = Callable[[NDArray[np.float32], NDArray[np.float32] | None], Plane]  # src, bgr -> pha (H, W), 0 to 1


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


def as_srgb(frame: Image) -> NDArray[np.float32]:
    """Scale an already sRGB-encoded frame to float32, 0 to 1 (the default `View`)."""
    if frame.dtype == np.uint8:
        return np.asarray(frame, np.float32) * np.float32(1 / 255)
    if frame.dtype == np.uint16:
        return np.asarray(frame, np.float32) * np.float32(1 / 65535)
    return np.clip(frame, 0, 1).astype(np.float32, copy=False)
