# SPDX-License-Identifier: GPL-3.0-or-later
"""One shot's plate as the engine uses it: aligned with each frame, matched to its light. No bpy."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from core.plate.alignment import AlignedPlate, MovingPlateAligner, PlateAligner, working_size
from core.plate.doctor import CERTAIN, likeness
from core.plate.frames import FrameReader, Image, Mask, Matrix, Plane
from core.plate.photometric import PhotometricFit, PhotometricLock

CLIPPED = 0.98  # share of the plate's range from which on it may be clipped
DARKER = 0.25  # stops by which a frame must be darker than its plate for clipping to matter
LEAST = 0.05  # share of the frame beside the subject; a matte that leaves less may be a mistake
SAME_LIGHT = 0.006  # change of log exposure below which the plate of the frame before is good enough


@dataclass(frozen=True)
class FittedPlate:
    """The plate for one frame.

    Attributes:
        bgr: (H, W, 3), the plate's dtype; the same array as for the frame before while nothing has changed.
        valid: (H, W), False where there is no plate, or a clipped one under a darker frame: there the matte must do
            without.
        aligned: how the plate was laid.
        light: how it was matched.
    """

    bgr: Image
    valid: Mask
    aligned: AlignedPlate
    light: PhotometricFit


class ShotPlate:
    """Brings a plate under the frames of one shot, in order.

    Args:
        plate: (Hp, Wp, 3) sRGB-encoded picture, or the frames of a second take with the same camera move.
        known: (Hp, Wp), False where a still plate's pixels are guessed.
        align: follow position; otherwise the plate is taken as it lies.
        match: follow exposure, white balance, gamma and vignetting.
        start: frame pixel -> plate pixel before alignment, see `PlateAligner`.
    """

    def __init__(
        self,
        plate: Image | FrameReader,
        *,
        known: Mask | None = None,
        align: bool = True,
        match: bool = True,
        start: Matrix | None = None,
    ) -> None:
        self._aligner: PlateAligner | MovingPlateAligner
        if isinstance(plate, np.ndarray):
            self._aligner = PlateAligner(plate, known=known, start=start, enabled=align)
        else:
            self._aligner = MovingPlateAligner(plate, enabled=align)
        self._lock = PhotometricLock() if match else None
        self._used: tuple[Image, PhotometricFit, Image] | None = None  # laid plate, its match, the result

    def under(
        self, src: Image, subject: Plane | Mask | None = None, *, homography: Matrix | None = None
    ) -> FittedPlate:
        """The plate as it would look from `src`'s place in `src`'s light.

        Args:
            src: (H, W, 3) the next frame.
            subject: (h, w) of any size, 0 to 1 or bool: roughly where the subject is; the matte of one or two frames
                before will do.
            homography: frame pixel -> plate pixel from a camera or plane track, where the plate is a still picture.
        """
        if subject is not None:  # full size once, not for each of those who look at less
            size = working_size(src.shape[:2])
            subject = cv2.resize(subject.astype(np.float32, copy=False), size, interpolation=cv2.INTER_AREA)
        if isinstance(self._aligner, PlateAligner):
            aligned = self._aligner.align(src, subject, homography=homography)
        else:
            aligned = self._aligner.align(src, subject)
        if self._lock is None:
            return FittedPlate(aligned.bgr, aligned.valid, aligned, PhotometricFit())
        background = _background(aligned.valid, subject)
        if (
            np.count_nonzero(background) < LEAST * background.size
            and CERTAIN <= likeness(src, aligned.bgr, aligned.valid) < 1
        ):
            # Other light, as in a fade, was taken for the subject: that must not keep the next frame from a match
            background = _background(aligned.valid, None)
        light = self._lock.update(aligned.bgr, src, background)
        if self._used is None or self._used[0] is not aligned.bgr or light.change_from(self._used[1]) > SAME_LIGHT:
            self._used = aligned.bgr, light, light.apply(aligned.bgr)
        valid = aligned.valid & ~_clipped(aligned.bgr) if light.stops < -DARKER else aligned.valid
        return FittedPlate(self._used[2], valid, aligned, light)


def _clipped(bgr: Image) -> Mask:
    """Where a plate does not tell how bright a darker exposure would be."""
    most = 1.0 if bgr.dtype.kind == "f" else float(np.iinfo(bgr.dtype).max)
    return np.asarray(cv2.inRange(bgr, (0.0,) * 3, (CLIPPED * most,) * 3) == 0)


def _background(valid: Mask, subject: Plane | None) -> Mask:
    """Where plate and frame can be compared, at a size that is enough for it."""
    size = (max(8, valid.shape[1] // 4), max(8, valid.shape[0] // 4))
    where: Mask = cv2.resize(valid.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    if subject is None:
        return where
    small = cv2.resize(subject, size, interpolation=cv2.INTER_AREA)
    margin = 2 * max(1, size[0] // 100) + 1
    return where & (cv2.dilate(small, np.ones((margin, margin), np.uint8)) < 0.02)
