# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's tracking as the plate's motion: for each frame, where its pixels lie in the reference frame.

Pixels are counted as the engine counts them: centres at whole numbers, from the top left. Blender's markers run from 0
to 1, from the bottom left, and their frames count from 1 at the clip's first frame. No bpy but for types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import UserError

if TYPE_CHECKING:
    import bpy

Homography = NDArray[np.float64]  # (3, 3)
Size = tuple[int, int]


def homography(
    clip: bpy.types.MovieClip, size: Size, kind: str, plane_track: str, reference: int, frame: int
) -> Homography:
    """What takes a frame's pixels to the reference frame's.

    Args:
        size: the clip's width and height, which Blender does not always know.
        kind: "PLANE" (a plane track's corners), "STABILIZATION" (the 2D stabilization's location tracks) or "CAMERA"
            (a solved camera that turns on a tripod).
        plane_track: name, for "PLANE".
        reference: clip frame (1 is the first) that the plate shows.
        frame: clip frame.

    Raises:
        UserError: there is no such track or solution, or it does not cover the frame, or is flat there.
    """
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            matrix = _homography(clip, size, kind, plane_track, reference, frame)
            if abs(np.linalg.det(matrix)) > 1e-12:  # the engine takes no flatter ones
                return matrix
    except np.linalg.LinAlgError:
        pass
    raise UserError(f"The track's points lie on one line at frame {frame} or {reference} of the clip. Fix it there.")


def _homography(
    clip: bpy.types.MovieClip, size: Size, kind: str, plane_track: str, reference: int, frame: int
) -> Homography:
    if kind == "PLANE":
        track = clip.tracking.plane_tracks.get(plane_track)
        if track is None:
            raise UserError("There is no plane track of that name in the clip. Choose one under Plate Tools.")
        return _from_corners(_plane(track, size, frame), _plane(track, size, reference))
    if kind == "STABILIZATION":
        return _from_points(clip, size, frame, reference)
    return _from_camera(clip, size, frame, reference)


def _pixels(size: Size, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 2) from Blender's 0 to 1 to pixels."""
    return points * [size[0], -size[1]] + [-0.5, size[1] - 0.5]


def _plane(track: bpy.types.MovieTrackingPlaneTrack, size: Size, frame: int) -> NDArray[np.float64]:
    marker = track.markers.find_frame(frame, exact=False)
    if marker is None or marker.mute:
        raise UserError(f"The plane track {track.name} has no corners at frame {frame} of the clip. Track it there.")
    return _pixels(size, np.array([list(corner) for corner in marker.corners]))


def _from_corners(here: NDArray[np.float64], there: NDArray[np.float64]) -> Homography:
    """The homography through four pairs of points."""
    rows = []
    for (x, y), (u, v) in zip(here, there, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.append(np.linalg.solve(np.array(rows), there.ravel()), 1.0).reshape(3, 3)


def _from_points(clip: bpy.types.MovieClip, size: Size, frame: int, reference: int) -> Homography:
    """Shift, turn and scale that the stabilization's tracks show; a shift alone where there is one track."""
    pairs = []
    for track in clip.tracking.stabilization.tracks:
        markers = [track.markers.find_frame(number, exact=True) for number in (frame, reference)]
        if all(marker is not None and not marker.mute for marker in markers):
            pairs.append([list(marker.co) for marker in markers])
    if not pairs:
        raise UserError(
            f"No track of the 2D stabilization is visible at both frame {frame} and frame {reference} of the clip. "
            "Add tracks to the stabilization in the clip editor."
        )
    here, there = (_pixels(size, np.array(points)) for points in zip(*pairs, strict=True))
    aspect = clip.tracking.camera.pixel_aspect  # a pixel's width by its height: what turns keeps its shape in the world
    z, w = (points @ [1, 1j / aspect] for points in (here, there))
    spread = z - z.mean()
    turn = np.vdot(spread, w - w.mean()) / np.vdot(spread, spread) if len(z) > 1 else 1.0
    shift = w.mean() - turn * z.mean()
    square = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1.0]])
    return np.diag([1, aspect, 1]) @ square @ np.diag([1, 1 / aspect, 1])


def _from_camera(clip: bpy.types.MovieClip, size: Size, frame: int, reference: int) -> Homography:
    """How the picture turns with a camera that stands still."""
    tracking = clip.tracking
    cameras = tracking.reconstruction.cameras
    if not tracking.reconstruction.is_valid:
        raise UserError("The clip's camera is not solved. Solve it in the clip editor, with Tripod switched on.")
    for number in (frame, reference):
        if cameras.find_frame(frame=number) is None:
            raise UserError(f"The solved camera does not cover frame {number} of the clip. Solve it there, too.")
    here, there = (np.array(cameras.matrix_from_frame(frame=number))[:3, :3] for number in (frame, reference))
    width, height = size
    lens = tracking.camera.focal_length_pixels  # in widths of a pixel
    tall = lens * tracking.camera.pixel_aspect  # in heights of one
    x, y = tracking.camera.principal_point  # -1 to 1
    to_pixel = np.array([[lens, 0, 0.5 - width * (1 + x) / 2], [0, -tall, 0.5 - height * (1 - y) / 2], [0, 0, -1.0]])
    return to_pixel @ there.T @ here @ np.linalg.inv(to_pixel)
