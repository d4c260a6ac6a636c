# SPDX-License-Identifier: GPL-3.0-or-later
"""Homographies from Blender's tracking, on stand-ins for its datablocks; tests/blender/tracks.py asks the real ones."""

from types import SimpleNamespace

import numpy as np
import pytest

from bgm_blender_addon import tracks
from bgm_blender_addon.errors import UserError

WIDTH, HEIGHT, LENS, ASPECT = 640, 360, 500.0, 1.5


def turned(yaw, pitch):
    """Camera to world, Blender's way: it looks down -Z, Y is up."""
    c, s = np.cos(yaw), np.sin(yaw)
    around_y = np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]])
    c, s = np.cos(pitch), np.sin(pitch)
    return around_y @ np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])


def project(camera, direction):
    """Pixel of a far point, centres at whole numbers, from the top left."""
    x, y, z = camera[:3, :3].T @ direction
    return np.array([WIDTH / 2 + LENS * x / -z - 0.5, HEIGHT / 2 - LENS * ASPECT * y / -z - 0.5])


@pytest.fixture
def clip():
    poses = {1: turned(0.1, -0.02), 7: turned(-0.05, 0.04)}
    cameras = SimpleNamespace(
        find_frame=lambda frame: poses.get(frame) is not None or None,
        matrix_from_frame=lambda frame: poses[frame],
    )
    camera = SimpleNamespace(focal_length_pixels=LENS, principal_point=(0.0, 0.0), pixel_aspect=ASPECT)
    tracking = SimpleNamespace(reconstruction=SimpleNamespace(is_valid=True, cameras=cameras), camera=camera)
    return SimpleNamespace(tracking=tracking, poses=poses)


def test_a_camera_on_a_tripod(clip):
    matrix = tracks.homography(clip, (WIDTH, HEIGHT), "CAMERA", "", 1, 7)
    for direction in ([0.1, 0.05, -1], [-0.2, 0.1, -1], [0.0, -0.1, -1]):
        x, y, w = matrix @ [*project(clip.poses[7], np.array(direction)), 1]
        assert np.allclose([x / w, y / w], project(clip.poses[1], np.array(direction)), atol=1e-6)


def test_a_frame_that_is_not_solved(clip):
    with pytest.raises(UserError, match="frame 3"):
        tracks.homography(clip, (WIDTH, HEIGHT), "CAMERA", "", 1, 3)


def test_stabilization_of_wide_pixels():
    turn = np.array([[np.cos(0.2), np.sin(0.2)], [-np.sin(0.2), np.cos(0.2)]])
    here = np.array([[0.2, 0.3], [0.7, 0.4], [0.5, 0.8]])  # 0 to 1, from the bottom left
    world = np.array([WIDTH * ASPECT, HEIGHT])
    there = (here * world) @ turn / world + [0.05, -0.02]
    markers = [{1: at, 7: to} for at, to in zip(here, there, strict=True)]
    known = [lambda frame, exact, own=own: SimpleNamespace(mute=False, co=own[frame]) for own in markers]
    stabilized = SimpleNamespace(tracks=[SimpleNamespace(markers=SimpleNamespace(find_frame=find)) for find in known])
    tracking = SimpleNamespace(stabilization=stabilized, camera=SimpleNamespace(pixel_aspect=ASPECT))
    size = (WIDTH, HEIGHT)
    matrix = tracks.homography(SimpleNamespace(tracking=tracking), size, "STABILIZATION", "", 7, 1)
    mapped = np.column_stack([tracks._pixels(size, here), np.ones(3)]) @ matrix.T
    assert np.allclose(mapped[:, :2], tracks._pixels(size, there))


def test_a_plane_whose_corners_turn_and_move():
    here = np.array([[10.0, 10], [100, 12], [98, 80], [8, 70]])
    there = here @ [[0.9, 0.1], [-0.1, 0.9]] + [5, -3]
    matrix = tracks._from_corners(here, there)
    mapped = np.column_stack([here, np.ones(4)]) @ matrix.T
    assert np.allclose(mapped[:, :2] / mapped[:, 2:], there)


@pytest.mark.parametrize("flat", [[[0.1, 0.2]] * 4, [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3], [0.4, 0.4]]])
@pytest.mark.parametrize("frames", [(1, 2), (2, 1)])
def test_corners_on_one_line_are_refused(flat, frames):
    corners = {1: [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]], 2: flat}
    markers = SimpleNamespace(
        find_frame=lambda frame, exact: SimpleNamespace(mute=False, corners=corners[frame]),
    )
    tracking = SimpleNamespace(plane_tracks={"wall": SimpleNamespace(name="wall", markers=markers)})
    with pytest.raises(UserError, match="on one line"):
        tracks.homography(SimpleNamespace(tracking=tracking), (WIDTH, HEIGHT), "PLANE", "wall", *frames)
