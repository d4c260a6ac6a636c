# SPDX-License-Identifier: GPL-3.0-or-later
"""What footage is: frames by number, from files whose claims are checked. No bpy."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .color import Pixels
from .errors import FootageError

MOVIE_EXTENSIONS = {".avi", ".mkv", ".mov", ".mp4", ".m4v", ".mxf", ".webm", ".mpg", ".mpeg", ".ogv", ".ts", ".wmv"}
IMAGE_EXTENSIONS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".exr", ".dpx", ".cin", ".bmp", ".tga", ".webp", ".hdr"}
MAX_SIDE = 32768  # pixels; a larger claim is refused before anything is allocated
MAX_PIXELS = 1 << 27  # 15360 x 8640 is the largest frame that cameras give
MAX_FRAMES = 1 << 21  # a day at 24 frames a second


@dataclass(frozen=True)
class Frame:
    """One picture: (H, W, 3) RGB uint8, uint16, float16 or float32, encoded as `color_space` says."""

    pixels: Pixels
    color_space: str


class Footage(Protocol):
    """A movie, a sequence or a still, opened: what it is, and its frames by number."""

    path: Path
    width: int
    height: int
    color_space: str
    is_float: bool  # frames are float16 or float32
    fps: float  # 0 for image sequences, which do not say
    numbers: list[int]  # of the frames that exist, ascending
    warnings: list[str]  # what the user should know about this file
    files: Collection[Path]  # that it is read from

    def frames(self, numbers: list[int]) -> Iterator[tuple[int, Frame]]:
        """The frames of these ascending numbers, in order, decoded as they are asked for."""
        ...

    def identity(self, number: int) -> str:
        """Changes when the frame's file changes."""
        ...


def is_movie(path: Path) -> bool:
    """Whether a path is a movie's: that of a file whose name does not end as an image's does."""
    return path.suffix.lower() not in IMAGE_EXTENSIONS and os.path.isfile(path)


def file_identity(path: Path) -> str:
    """Changes when the file does: its name, size and time of change."""
    try:
        stat = path.stat()
    except OSError as error:
        raise FootageError(f"the file {path}", error.strerror or str(error), "Put it back, or choose another") from None
    return f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}"


def check_size(width: int, height: int, path: Path) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise FootageError(
            f"pictures up to {MAX_SIDE} pixels a side and {MAX_PIXELS} in all",
            f"{path} of {width} x {height}",
            "Scale it down or check the file",
        )
