# SPDX-License-Identifier: GPL-3.0-or-later
"""Alignment and colour matching together, as the engine calls them."""

from __future__ import annotations

import numpy as np

from core.plate import ShotPlate
from core.plate.frames import FrameList
from core.plate.photometric import PhotometricFit
from tests.plate_scenes import H, W, motion, relit, scene, shoot, with_subject


def test_other_place_and_other_light_at_once() -> None:
    world = scene()
    plate = (shoot(world, motion(12, -9, 1.5), 0) * 0.75).astype(np.uint8)
    src, mask = with_subject(shoot(world, motion(), 1), 0.4)
    fitted = ShotPlate(plate).under(src, mask)
    good = fitted.valid & ~mask
    assert np.abs(fitted.bgr[good].astype(float) - src[good]).mean() < 3.5
    assert fitted.light.stops > 0.5
    assert fitted.bgr.dtype == np.uint8


def test_locked_off_shot_keeps_one_array() -> None:
    world = scene()
    shot = ShotPlate((shoot(world, motion(), 0) * 0.8).astype(np.uint8))
    arrays = {id(shot.under(*with_subject(shoot(world, motion(), i), 0.3)).bgr) for i in range(1, 13)}
    assert len(arrays) <= 5  # while the averages settle; then nothing is resampled, matched or encoded again


def test_switched_off_it_leaves_the_plate_alone() -> None:
    world = scene()
    plate = shoot(world, motion(20, 0), 0)
    fitted = ShotPlate(plate, align=False, match=False).under(shoot(world, motion(), 1))
    assert fitted.bgr is plate
    assert fitted.valid.all()
    assert fitted.aligned.residual > 0.3  # but says how badly it lies


def test_moving_plate() -> None:
    world = scene()
    takes = FrameList([shoot(world, motion(3 * i), i) for i in range(6)])
    fitted = ShotPlate(takes).under(shoot(world, motion(9), 9))
    assert (
        np.abs(fitted.bgr[20 : H - 20, 20 : W - 20].astype(float) - takes.read(3)[20 : H - 20, 20 : W - 20]).mean() < 2
    )


def test_a_moving_plate_switched_off_gives_its_frames_as_they_are() -> None:
    world = scene()
    takes = FrameList([shoot(world, motion(3 * i), i) for i in range(6)])
    shot = ShotPlate(takes, align=False, match=False)
    for i in range(6):
        fitted = shot.under(shoot(world, motion(3 * i + 1), 9 + i))
        assert np.array_equal(fitted.bgr, takes.read(i)) and fitted.valid.all()


def test_what_a_brighter_plate_clips_is_no_plate() -> None:
    world = scene()
    world[80:150] = 0.8  # a bright sky
    frame = shoot(world, motion(), 1)
    brighter, darker = (relit(frame, PhotometricFit(gain=(gain,) * 3)) for gain in (2.5, 0.7))
    assert brighter[:60].min() > 250
    fitted = ShotPlate(brighter).under(frame)
    assert not fitted.valid[:60].any() and fitted.valid[80:].mean() > 0.5
    for src, plate in ((frame, darker), (frame, frame), (brighter, brighter)):
        assert ShotPlate(plate).under(src).valid.all()


def test_a_frame_that_was_taken_for_the_subject_does_not_keep_the_next_from_a_match() -> None:
    """As of a fade-in, whose first frame is black."""
    world = scene()
    plate, everything = shoot(world, motion(), 0), np.ones((H, W), np.float32)
    darker = relit(shoot(world, motion(), 1), PhotometricFit(gain=(0.25,) * 3))
    assert ShotPlate(plate).under(darker, everything).light.stops < -1.8
    close_up = relit(shoot(scene(7), motion(), 1), PhotometricFit(gain=(0.25,) * 3))
    assert ShotPlate(plate).under(close_up, everything).light.stops == 0
    speck = ShotPlate(np.zeros((1, 9, 3), np.uint8)).under(
        np.full((1, 9, 3), 200, np.uint8), np.ones((1, 9), np.float32)
    )
    assert speck.light.stops == 0
