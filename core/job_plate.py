# SPDX-License-Identifier: GPL-3.0-or-later
"""A job's clean plate as each frame needs it, and footage as the plate tools read it. No bpy."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import color, frame_io, plate_files
from .errors import JobError, PlateError
from .footage import IMAGE_EXTENSIONS, Footage, Frame, file_identity
from .job import Job
from .matting import Matte
from .plate import ShotPlate


@dataclass(frozen=True)
class LaidPlate:
    """A frame and its plate, as the network sees them.

    Attributes:
        src: (H, W, 3), sRGB-encoded.
        bgr: the same of the plate; None where there is none.
        valid: (H, W), where the plate has pixels; None: it has all.
        notes: what the report says of the plate.
    """

    src: color.Pixels
    bgr: color.Pixels | None
    valid: NDArray[np.bool_] | None
    notes: dict[str, Any]


class JobPlate:
    """The job's clean plate as each frame needs it: aligned, matched, at the footage's size, sRGB-encoded."""

    def __init__(self, job: Job, footage: Footage, numbers: list[int], on_warning: Callable[[str], None]) -> None:
        self.identity = ""
        self.files: Collection[Path] = ()  # that it is read from
        self.subject: Matte | None = None  # the last that is known
        self._options = job.plate
        self._known: NDArray[np.bool_] | None = None
        self._motion: plate_files.PlateMotion | None = None
        self._pixels = self._open(job, footage, on_warning) if job.plate.path else None
        self._track = plate_files.read_track(Path(job.plate.track)) if job.plate.track else {}
        if job.plate.track:
            if self._motion is not None or job.plate.moving:
                raise JobError(
                    "a plate with the view of one frame for a track to move",
                    f"{job.plate.path}, which moves by itself or holds all that a moving camera saw",
                    "Let the plate follow the picture, without a track",
                )
            missing = next((number for number in numbers if number not in self._track), None)
            if missing is not None:
                raise JobError(
                    f"a track for frames {numbers[0]} to {numbers[-1]}",
                    f"none for frame {missing} in {job.plate.track}",
                    "Export the track again, numbered as the footage is",
                )
        self._align = job.plate.align != "off" or self._motion is not None
        self.settles = self._pixels is not None and (self._align or job.plate.match or job.plate.moving)
        self.reset()

    def _open(self, job: Job, footage: Footage, on_warning: Callable[[str], None]) -> color.Pixels | FootageReader:
        source = frame_io.open_plate(job.plate.path, job.plate.color_space, job.plate.moving)
        if job.plate.moving or not source.fps:  # else of a movie's later frames, which are not used
            for message in source.warnings:
                on_warning(message)
        self.files = source.files
        self.identity = "".join(dict.fromkeys(source.identity(number) for number in source.numbers))
        self._motion = None if job.plate.moving else plate_files.read_motion(Path(job.plate.path))
        if self._motion is None:
            width, height = source.width, source.height
        else:
            self.identity += file_identity(plate_files.motion_path(Path(job.plate.path)))
            width, height = self._motion.width, self._motion.height
        if not frame_io.same_shape((height, width), (footage.height, footage.width)):
            raise PlateError(
                f"a plate of the footage's shape, {footage.width} x {footage.height}",
                f"{source.path.name} of {width} x {height}",
                "Crop it to the footage's frame, or choose the right plate",
            )
        if (width, height) != (footage.width, footage.height):
            on_warning(
                f"The plate is {width} x {height}; it is scaled to the footage's {footage.width} x {footage.height}."
            )
        size = (footage.width, footage.height) if self._motion is None else (source.width, source.height)
        if job.plate.moving:
            return FootageReader(source, source.numbers, size)
        coverage = plate_files.coverage_path(Path(job.plate.path))
        if os.path.isfile(coverage):
            self.identity += file_identity(coverage)
            self._known = frame_io.resize(frame_io.read_image(coverage), *size)[..., 0] > 0
        return _read_plate(Path(job.plate.path), job.plate.color_space, size, source.identity(source.numbers[0]))

    @property
    def is_fitted(self) -> bool:
        """Whether each frame gets a plate of its own, rather than all the same or none."""
        return self.settles or bool(self._track) or self._known is not None or isinstance(self._pixels, FootageReader)

    def reset(self) -> None:
        """The next frame is the first of a shot or segment."""
        self.subject = None
        self._shot: ShotPlate | None = None

    def _start(self, number: int, src: color.Pixels) -> ShotPlate:
        assert self._pixels is not None
        start = None if self._motion is None else self._motion.at(number, src.shape[1], src.shape[0])
        return ShotPlate(self._pixels, known=self._known, align=self._align, match=self._options.match, start=start)

    def track_identity(self, number: int) -> list[str]:
        """Changes when the track lays the plate elsewhere under this frame; nothing where there is no track."""
        matrix = self._tracked(number)
        return [] if matrix is None else [f"track {number} {matrix.tobytes().hex()}"]

    def _tracked(self, number: int) -> plate_files.Homography | None:
        """Where the track has the plate; frames before a range's first, for the memory's sake, need not be in it."""
        if number not in self._track:
            number = min(self._track, key=lambda known: abs(known - number), default=number)
        return self._track.get(number)

    def note_matte(self, matte: Matte) -> None:
        """Tell where the subject is, for the plates that are asked for from now on."""
        if self.is_fitted:  # else nobody needs it
            self.subject = matte

    def under(self, number: int, frame: Frame, subject: Matte | None) -> LaidPlate:
        """The plate for the next frame; waits for a `subject` that is on its way."""
        src = color.to_srgb(frame.pixels, frame.color_space)
        if self._pixels is None:
            return LaidPlate(src, None, None, {})
        if isinstance(self._pixels, np.ndarray) and not self.is_fitted:
            return LaidPlate(src, self._pixels, None, {})
        self._shot = self._shot or self._start(number, src)
        where = None if subject is None else subject.pha
        fitted = self._shot.under(src, where, homography=self._tracked(number))
        notes = {
            "plate_residual": round(fitted.aligned.residual, 4),
            "plate_coverage": round(np.count_nonzero(fitted.valid) / fitted.valid.size, 4),
            "plate_stops": round(fitted.light.stops, 3),
        }
        return LaidPlate(src, fitted.bgr, fitted.valid, notes)


def read_plate_early(job: Job) -> None:
    """Have a plate in memory that has the footage's size, as most have, while the footage is still being opened.

    Not a movie: to open it takes as long.
    """
    if Path(job.plate.path).suffix.lower() in IMAGE_EXTENSIONS and not job.plate.moving:
        source = frame_io.open_plate(job.plate.path, job.plate.color_space)
        size = (source.width, source.height)
        _read_plate(Path(job.plate.path), job.plate.color_space, size, source.identity(source.numbers[0]))


@lru_cache(maxsize=2)  # of its own size and of the footage's
def _read_plate(path: Path, color_space: str, size: tuple[int, int], identity: str) -> color.Pixels:
    """A still plate, sRGB-encoded. The next preview gets the same array, which the network then knows already."""
    source = frame_io.open_plate(path, color_space)
    with frame_io.named("plate"):
        return FootageReader(source, source.numbers[:1], size).read(0)


class FootageReader:
    """Footage as core.plate reads it: by index, in any order, sRGB-encoded where a size is given."""

    def __init__(
        self,
        footage: Footage,
        numbers: list[int],
        size: tuple[int, int] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._footage, self.numbers, self._size, self._cancelled = footage, numbers, size, cancelled
        self.count = len(numbers)

    def read(self, index: int) -> color.Pixels:
        if self._cancelled():
            raise StoppedError
        ((_, frame),) = self._footage.frames([self.numbers[index]])
        if self._size is None:
            return frame.pixels
        return color.to_srgb(frame_io.resize(frame.pixels, *self._size), frame.color_space)


class StoppedError(Exception):
    """The user cancelled."""
