# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies beside a clean plate on disk: how often each pixel was seen, and where the frames lie in it. No bpy."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import JobError, PlateError
from .files import write_whole

Homography = NDArray[np.float64]  # (3, 3), frame pixel -> plate pixel, pixel centres at whole numbers


@dataclass(frozen=True)
class PlateMotion:
    """Where footage lies in the plate that was made of it with a moving camera, and that is larger than a frame.

    Attributes:
        width, height: the footage's size in pixels.
        frames: frame number: frame pixel -> plate pixel, for the frames that the plate was made of.
    """

    width: int
    height: int
    frames: dict[int, Homography]

    def at(self, number: int, width: int, height: int) -> Homography:
        """Where about a frame lies: between the known frames next to it. For the same footage at another size, too."""
        numbers = sorted(self.frames)
        known = np.stack([self.frames[n] / self.frames[n][2, 2] for n in numbers]).reshape(-1, 9)
        matrix = np.array([np.interp(number, numbers, entry) for entry in known.T]).reshape(3, 3)
        x, y = self.width / width, self.height / height
        return np.asarray(matrix @ np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]]))


def coverage_path(plate: Path) -> Path:
    """Where a plate made from a clip keeps what share of its samples showed each pixel empty (grey, 0 is a guess)."""
    return plate.with_name(f"{plate.stem}.coverage.png")


def motion_path(plate: Path) -> Path:
    """Where a plate made from a clip with a moving camera keeps its `PlateMotion`."""
    return plate.with_name(f"{plate.stem}.motion.json")


def write_motion(plate: Path, motion: PlateMotion) -> None:
    """Write the motion beside its plate.

    Raises:
        OutputError: it cannot be written.
    """
    frames = {str(number): matrix.ravel().tolist() for number, matrix in motion.frames.items()}
    content = {"width": motion.width, "height": motion.height, "frames": frames}
    text = json.dumps(content, indent=1)
    write_whole(motion_path(plate), lambda part: part.write_text(text, encoding="utf-8"))


def read_motion(plate: Path) -> PlateMotion | None:
    """The motion that lies beside a plate; None where the plate has the view of a frame.

    Raises:
        PlateError: the file is there and is none.
    """
    path = motion_path(plate)
    if not os.path.isfile(path):  # whose name may be longer than a plate's can be
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        motion = PlateMotion(int(data["width"]), int(data["height"]), _matrices(data["frames"]))
        if min(motion.width, motion.height) < 1 or not motion.frames:
            raise ValueError("no size or no frames")
        motion.at(0, 1, 1)  # numbers beyond computing with fail here
        return motion
    except (OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        raise PlateError(
            "the frames' places in the plate, as they are written when it is made from the clip",
            f"{path}: {error}",
            "Make the plate again, or delete that file if the plate shows no more than a frame does",
        ) from None


def read_track(path: Path) -> dict[int, Homography]:
    """Frame number: homography from a JSON file of nine numbers each.

    Raises:
        JobError: the file is none of these.
    """
    try:
        return _matrices(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        expected = 'a JSON file {"frame number": [nine numbers, row by row], ...}'
        raise JobError(expected, f"{path}: {error}", "Export the track again") from None


def _matrices(data: Any) -> dict[int, Homography]:
    matrices = {int(number): np.array(values, np.float64).reshape(3, 3) for number, values in data.items()}
    for number, matrix in matrices.items():
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
            raise ValueError(f"a singular matrix at frame {number}")
    return matrices
