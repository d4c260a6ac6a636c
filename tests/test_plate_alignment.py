# SPDX-License-Identifier: GPL-3.0-or-later
"""Alignment against warps that are known to the last digit."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from core.errors import PlateError
from core.plate.alignment import MovingPlateAligner, PlateAligner, fit_motion, lay_plate
from core.plate.frames import FrameList, Matrix
from tests.plate_scenes import H, W, motion, scene, shoot, with_subject


def error(true: Matrix, found: Matrix, outside: NDArray[np.bool_]) -> float:
    """Mean distance in plate pixels over the background that the plate shows."""
    ys, xs = np.nonzero(outside[::4, ::4])
    points = np.stack([xs, ys], 1)[:, None].astype(np.float64) * 4
    a, b = (cv2.perspectiveTransform(points, matrix)[:, 0] for matrix in (true, found))
    inside = (a >= 0).all(axis=1) & (a[:, 0] < W) & (a[:, 1] < H)
    return float(np.linalg.norm(a - b, axis=1)[inside].mean())


@pytest.mark.parametrize("gain", [1.0, 0.7])
def test_large_misalignment_half_covered(gain: float) -> None:
    world = scene()
    pose = motion(0.05 * W, -0.04 * W, 3, 1.03)
    src, mask = with_subject(shoot(world, motion(), 1), 0.5)
    plate = (shoot(world, pose, 2) * gain).astype(np.uint8)
    aligned = PlateAligner(plate).align(src, mask)
    assert error(np.linalg.inv(pose), aligned.homography, ~mask) < 0.25
    assert aligned.residual < 0.6 * aligned.residual_before
    assert aligned.inliers > 50
    good = aligned.valid & ~mask
    assert np.abs(aligned.bgr[good] / gain - src[good]).mean() < 4
    assert 0.02 < np.mean(~aligned.valid) < 0.3


def test_exact_plate_is_left_alone_and_reused() -> None:
    world = scene()
    plate = shoot(world, motion(), 0)
    aligner = PlateAligner(plate)
    results = [aligner.align(*with_subject(shoot(world, motion(), i), 0.3)) for i in range(1, 8)]
    assert max(np.abs(result.homography - np.eye(3)).max() for result in results) < 0.1
    assert all(result.valid.mean() > 0.99 for result in results)
    assert [result.still for result in results[-2:]] == [True, True]
    moved = aligner.align(*with_subject(shoot(world, motion(3, 0), 9), 0.3))
    assert not moved.still
    assert error(motion(3, 0), moved.homography, np.ones((H, W), np.bool_)) < 0.3


def test_half_a_pixel_is_noticed_in_4k() -> None:
    wall = cv2.resize(scene()[:270, :480], (3840, 2160), interpolation=cv2.INTER_CUBIC)
    moved = cv2.warpAffine(wall, np.float32([[1, 0, 0.55], [0, 1, 0]]), (3840, 2160), borderMode=cv2.BORDER_REPLICATE)
    aligner = PlateAligner(wall)
    assert [aligner.align(wall).still for _ in range(5)][-2:] == [True, True]
    assert not aligner.align(moved).still


def test_blank_wall_stays_where_it_is() -> None:
    rng = np.random.default_rng(0)
    plate, src = (np.clip(rng.normal(128, 3, (H, W, 3)), 0, 255).astype(np.uint8) for _ in range(2))
    aligned = PlateAligner(plate).align(src)
    assert np.abs(aligned.homography - np.eye(3)).max() < 1e-9
    assert aligned.flow is None


def test_other_place_is_not_forced_on() -> None:
    aligned = PlateAligner(shoot(scene(7), motion())).align(shoot(scene(8), motion()))
    assert aligned.residual > 0.4
    assert aligned.residual <= aligned.residual_before


def test_handheld_shot_is_followed_without_jitter() -> None:
    world = scene()
    aligner = PlateAligner(shoot(world, motion(), 99))
    poses = [motion(8 * math.sin(i / 3), 5 * math.cos(i / 4), 0.5 * math.sin(i / 5)) for i in range(12)]
    errors = []
    for i, pose in enumerate(poses):
        src, mask = with_subject(shoot(world, pose, i), 0.3)
        errors.append(error(pose, aligner.align(src, mask).homography, ~mask))
    assert max(errors) < 0.3


def test_parallax_of_a_few_pixels_is_followed() -> None:
    world = scene()
    plate = shoot(world, motion(), 0)
    x, y = np.meshgrid(np.arange(W, dtype=np.float32), np.arange(H, dtype=np.float32))
    bulge = 3 * np.exp(-((x - 240) ** 2 + (y - 135) ** 2) / (2 * 70**2)).astype(np.float32)
    src = cv2.remap(shoot(world, motion(), 1), x + bulge, y, cv2.INTER_CUBIC)
    aligned = PlateAligner(plate).align(src)
    rigid = PlateAligner(plate, local_flow=False).align(src)
    assert aligned.flow is not None and rigid.flow is None
    inner = np.s_[20:-20, 20:-20]
    left, left_rigid = (np.abs(r.bgr[inner].astype(float) - src[inner]).mean() for r in (aligned, rigid))
    assert left < 0.6 * left_rigid


def test_track_drives_the_plate() -> None:
    world = scene()
    pose = motion(60, 0)
    aligner = PlateAligner(shoot(world, motion(), 0))
    aligned = aligner.align(shoot(world, pose, 1), homography=motion(59, 1))
    assert error(pose, aligned.homography, np.ones((H, W), np.bool_)) < 0.2


def test_moving_plate_is_matched_frame_by_frame() -> None:
    world = scene()
    pan = [motion(4 * i - 40, 0) for i in range(20)]
    aligner = MovingPlateAligner(FrameList([shoot(world, pose, 50 + i) for i, pose in enumerate(pan)]))
    for i in range(5, 11):  # the shot starts five frames into the plate's move, and a little higher
        src, mask = with_subject(shoot(world, pan[i] @ motion(0, 2), i), 0.3)
        aligned = aligner.align(src, mask)
        assert aligner.index == i
        assert error(motion(0, 2), aligned.homography, ~mask) < 0.3
    with pytest.raises(PlateError, match="at least one frame"):
        MovingPlateAligner(FrameList([]))


def test_a_moving_plate_is_read_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Going back in a movie may mean to decode hundreds of frames from the last key frame on."""
    world = scene()
    frames = [shoot(world, motion(4 * i - 40, 0), i) for i in range(24)]
    plates, read = FrameList(frames), []
    monkeypatch.setattr(FrameList, "read", lambda self, index: read.append(index) or frames[index])
    aligner = MovingPlateAligner(plates)
    for i, src in enumerate(frames[:20]):
        aligner.align(src)
        assert aligner.index == i
        if i == 10:
            read.clear()
    assert read == [14, 15, 16, 17, 18, 19, 20, 21, 22]


def test_plate_of_another_resolution_and_a_mosaic() -> None:
    world = scene()
    src = shoot(world, motion(), 1)
    half = cv2.resize(shoot(world, motion(), 0), (W // 2, H // 2), interpolation=cv2.INTER_AREA)
    assert PlateAligner(half).align(src).homography[0, 0] == pytest.approx(0.5, abs=0.01)
    mosaic = np.rint(world * 255).astype(np.uint8)
    start = np.array([[1, 0, 70], [0, 1, 85], [0, 0, 1.0]])
    found = PlateAligner(mosaic, start=start).align(src)
    np.testing.assert_allclose(found.homography[:2, 2], 80, atol=0.3)
    assert found.valid.all()


def test_guessed_pixels_are_not_valid() -> None:
    plate = shoot(scene(), motion())
    known = np.ones((H, W), np.bool_)
    known[100:120, 200:260] = False
    aligned = PlateAligner(plate, known=known).align(plate)
    assert not aligned.valid[105:115, 205:255].any()
    assert aligned.valid[:90].all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_lay_plate_shifts_whole_pixels_exactly(dtype: type) -> None:
    plate: NDArray[Any] = np.random.default_rng(0).integers(0, 200, (20, 30, 3)).astype(dtype)
    shift = np.array([[1, 0, 6], [0, 1, 0], [0, 0, 1.0]])
    for flow in (None, np.zeros((20, 30, 2), np.float32)):
        bgr, valid = lay_plate(plate, None, shift, flow, (20, 30))
        np.testing.assert_array_equal(bgr[:, :24], plate[:, 6:])
        np.testing.assert_array_equal(valid[0], [True] * 26 + [False] * 4)  # two are the continued border
    same, _ = lay_plate(plate, None, np.eye(3), None, (20, 30))
    assert same is plate


def test_fit_motion_takes_the_simplest_model() -> None:
    rng = np.random.default_rng(0)
    here = rng.uniform(0, 400, (80, 2)).astype(np.float32)
    there = here + np.array([3, -2], np.float32) + rng.normal(0, 0.1, here.shape).astype(np.float32)
    there[:20] += 40  # outliers
    found = fit_motion(here, there, (400, 400))
    assert found is not None
    matrix, inliers, sigma = found
    np.testing.assert_allclose(matrix[:2, :2], np.eye(2), atol=1e-9)
    np.testing.assert_allclose(matrix[:2, 2], [3, -2], atol=0.05)
    assert inliers == pytest.approx(60, abs=3) and sigma < 0.1


def test_frames_of_two_sizes_are_refused() -> None:
    aligner = PlateAligner(np.zeros((H, W, 3), np.uint8))
    aligner.align(np.zeros((H, W, 3), np.uint8))
    with pytest.raises(PlateError, match="100 x 50"):
        aligner.align(np.zeros((50, 100, 3), np.uint8))
    with pytest.raises(PlateError, match="RGB plate"):
        PlateAligner(np.zeros((H, W), np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_is_not_known_stays_so_where_parallax_bends_the_plate(dtype: Any) -> None:
    plate = np.full((60, 80, 3), 100, dtype)
    known = np.ones((60, 80), np.bool_)
    known[20:40, 30:50] = False
    flow = np.full((15, 20, 2), (3.0, -2.0), np.float32)
    _, valid = lay_plate(plate, known, np.eye(3), flow, (60, 80))
    expected = np.ones((60, 80), np.bool_)
    expected[22:42, 27:47] = False
    np.testing.assert_array_equal(valid[5:-5, 5:-5], expected[5:-5, 5:-5])
