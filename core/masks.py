# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage and core masks: where the artist knows the matte better than the network. No bpy.

A mask is a picture, white inside, its values taken as they are stored (no colour space). Soft edges blend: garbage
multiplies alpha by what it leaves, core lifts alpha to at least its own value. Where both claim a pixel, core has it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from . import color, frame_io
from .color import Floats, Pixels
from .errors import FootageError, JobError
from .footage import Footage, Frame
from .job import Masks, MaskSource
from .matting import Matte

COLOUR = 0.05  # mean difference between a mask's channels from which it is taken for a photograph
DECIDED = 0.3  # share of a mask that is nearly black or white


class MaskReader:
    """A job's masks, frame by frame.

    Args:
        numbers: the footage's frame numbers that are to be matted.

    Attributes:
        warnings: sentences of what the artist may not have meant.

    Raises:
        FootageError: a mask that cannot be read, or is not of the footage's shape.
        JobError: a mask that lacks some of the frames.
    """

    def __init__(self, masks: Masks, footage: Footage, numbers: list[int]) -> None:
        size = footage.width, footage.height
        self._garbage = _Track(masks.garbage, size, numbers) if masks.garbage.path else None
        self._core = _Track(masks.core, size, numbers) if masks.core.path else None
        self.warnings = [words for track in (self._garbage, self._core) if track for words in track.warnings]

    @property
    def files(self) -> list[Path]:
        """That they are read from."""
        return [path for track in (self._garbage, self._core) if track for path in track.files]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._garbage or self._core)

    def identity(self, number: int) -> list[str]:
        """Changes when a mask of this frame does."""
        roles = {"garbage": self._garbage, "core": self._core}
        return [f"{role} {track.identity(number)}" for role, track in roles.items() if track]

    def force(self, number: int, src: Pixels, matte: Matte) -> tuple[Matte, dict[str, Any]]:
        """Put the masks of a frame upon its matte; frames are asked for in ascending order.

        Args:
            src: (H, W, 3) the frame, sRGB-encoded: what the foreground shows inside the core.

        Returns:
            The matte, and what the report says of it: the share of pixels that the masks changed.
        """
        if not self:
            return matte, {}  # which may be on its way
        pha, fgr, err = matte.pha, matte.fgr, matte.err
        if self._garbage:
            kept = 1 - self._garbage.at(number)
            pha, err = pha * kept, err * kept
        if self._core:
            core = self._core.at(number)
            pha, err = np.maximum(pha, core), err * (1 - core)
            fgr = fgr + core[..., None] * (color.to_float(src) - fgr)
        return Matte(pha, fgr, err), {"forced": round(float(np.mean(np.abs(pha - matte.pha) > 1 / 255)), 5)}

    def allowed(self, number: int) -> Floats:
        """(H, W) the most that the masks let alpha be, 0 to 1; for the frame of the last `force` or a later one."""
        garbage, core = (track.at(number) if track else np.float32(0) for track in (self._garbage, self._core))
        return np.asarray(np.maximum(1 - garbage, core), np.float32)


def _is_mask(pixels: Pixels) -> bool:
    """Whether a picture is about grey, and a good part of it nearly black or white."""
    values = np.clip(np.nan_to_num(color.to_float(pixels[::4, ::4])), 0, 1)
    least, most = values.min(axis=2), values.max(axis=2)
    return bool(np.mean(most - least) < COLOUR and np.mean((most < 0.1) | (least > 0.9)) > DECIDED)


class _Track:
    """One mask: a still for all frames, or a sequence or movie with a picture for each."""

    def __init__(self, source: MaskSource, size: tuple[int, int], numbers: list[int]) -> None:
        with frame_io.named("mask"):
            self._footage = frame_io.open_footage(source.path)
        self.files = self._footage.files
        self._size, self._invert = size, source.invert
        self._frames: Iterator[tuple[int, Frame]] = iter(())
        self._next = -1  # index of the number that `_frames` gives next; `_picture` is of the one before
        self._picture: Floats = np.zeros(0, np.float32)
        if not frame_io.same_shape((self._footage.height, self._footage.width), size[::-1]):
            raise FootageError(
                f"a mask of the footage's shape, {size[0]} x {size[1]}",
                f"{source.path} of {self._footage.width} x {self._footage.height}",
                "Render it at the footage's size",
            )
        self.warnings: list[str] = []
        if (self._footage.width, self._footage.height) != size:
            self.warnings.append(
                f"The mask {self._footage.path.name} is {self._footage.width} x {self._footage.height}; "
                f"it is scaled to the footage's {size[0]} x {size[1]}."
            )
        self._still = len(self._footage.numbers) == 1
        missing = sorted(set(numbers) - set(self._footage.numbers))
        if missing and not self._still:
            raise JobError(
                f"a mask for each of the footage's frames {numbers[0]} to {numbers[-1]}",
                f"{source.path}, which has {self._footage.numbers[0]} to {self._footage.numbers[-1]}"
                f" and lacks {len(missing)} of them, {missing[0]} first",
                "Render the missing frames. To use a still for all frames, move it away from files whose names differ "
                "only in the number",
            )
        ((_, first),) = self._footage.frames([self._footage.numbers[0] if self._still else numbers[0]])
        if not _is_mask(first.pixels):
            self.warnings.append(
                f"{self._footage.path.name} does not look like a mask: it has colours, or is hardly black or white "
                "anywhere. Its values are used as they are."
            )
        elif color.to_float(first.pixels).min() >= 1:
            self.warnings.append(
                f"{self._footage.path.name} is white all over: if its shape is in the alpha channel, which is not "
                "read, render it as black and white."
            )

    def identity(self, number: int) -> str:
        number = self._footage.numbers[0] if self._still else number
        # Frames before the job's first one, which only fill the network's memory, may have no mask
        return f"{self._footage.identity(number)} {self._invert}" if self._index(number) is not None else ""

    def at(self, number: int) -> Floats:
        """(H, W) the mask of a frame, 0 to 1, 1 inside; none where there is no picture of it."""
        if self._still:
            return self._still_picture
        index = self._index(number)
        if index is None:
            return np.zeros(self._size[::-1], np.float32)
        if index + 1 != self._next:  # else it is asked for again
            if index != self._next:
                self._frames = self._footage.frames(self._footage.numbers[index:])
            self._next = index + 1
            self._picture = self._read(next(self._frames)[1])
        return self._picture

    @cached_property
    def _still_picture(self) -> Floats:
        ((_, frame),) = self._footage.frames(self._footage.numbers)
        return self._read(frame)

    def _index(self, number: int) -> int | None:
        index = bisect_left(self._footage.numbers, number)
        return index if self._footage.numbers[index : index + 1] == [number] else None

    def _read(self, frame: Frame) -> Floats:
        pixels = frame_io.resize(frame.pixels, *self._size)
        values: Floats = np.clip(np.nan_to_num(color.to_float(pixels).max(axis=2)), 0, 1).astype(np.float32)
        return np.float32(1) - values if self._invert else values
