# SPDX-License-Identifier: GPL-3.0-or-later
"""The plate out of the clip: known backgrounds, known subjects, known holes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from core.errors import FootageError, OutputError
from core.plate import from_clip
from core.plate.frames import Image, Mask
from core.plate.from_clip import fill, plate_from_clip, sample_indices
from core.plate.photometric import PhotometricFit
from tests.plate_scenes import H, W, motion, relit, scene, shoot


def texture(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Random texture with detail at every scale, float32, 0.1 to 0.9."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for step in (2, 4, 8, 16, 32, 64):
        noise = rng.normal(size=(height // step + 2, width // step + 2, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * step**0.5
    image -= image.min()
    return np.asarray(0.1 + 0.8 * image / image.max(), np.float32)


def clip_with_walker(
    plate: NDArray[np.float32], count: int, width: int, noise: float = 0.01
) -> list[NDArray[np.uint8]]:
    """A flickering bar `width` pixels wide that crosses the frame, over a noisy plate."""
    rng = np.random.default_rng(1)
    W = plate.shape[1]
    frames = []
    for i in range(count):
        frame = plate + rng.normal(0, noise, plate.shape)
        x = round((W + width) * i / count) - width
        frame[:, max(0, x) : max(0, x + width)] = rng.uniform(0, 1, 3)
        frames.append(np.rint(np.clip(frame, 0, 1) * 255).astype(np.uint8))
    return frames


def psnr(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def test_walker_leaves_no_ghost() -> None:
    true = texture(72, 96)
    result = plate_from_clip(clip_with_walker(true, 40, 40))
    assert result.plate.dtype == np.uint8
    assert psnr(result.plate / np.float32(255), true) > 38
    assert result.coverage.all()
    assert result.sigma == pytest.approx(0.01, rel=0.3)


@pytest.mark.parametrize("first", [np.uint8, np.uint16])
def test_frames_of_another_depth_are_seen_as_they_are(first: type) -> None:
    true = np.rint(texture(72, 96) * 65535).astype(np.uint16)
    frames = [np.rint(true / 257).astype(np.uint8) if i % 2 == (first is np.uint16) else true for i in range(8)]
    result = plate_from_clip(frames)
    assert result.plate.dtype == first
    assert np.abs(result.plate / np.iinfo(first).max - true / 65535).max() < 1 / 255


@pytest.mark.parametrize("across", [0.0, pytest.param(66.0, marks=pytest.mark.slow)])
def test_half_floats_of_a_still_and_of_a_moving_camera(across: float) -> None:
    world = scene(margin=250)
    frames = [shoot(world, motion(across * (i - 2)), i) for i in range(5)]
    large = [cv2.resize(frame, (2 * W, 2 * H), interpolation=cv2.INTER_CUBIC) for frame in frames]
    made, half = (
        plate_from_clip([to(f) for f in large]) for to in (np.asarray, lambda f: (f / 255).astype(np.float16))
    )
    assert half.plate.dtype == np.float16 and half.plate.shape == made.plate.shape
    assert psnr(half.plate.astype(np.float32), made.plate / np.float32(255)) > 38


@pytest.mark.parametrize("across", [0.0, 66.0])
def test_one_picture_without_a_number_spoils_no_plate(across: float) -> None:
    """Rendered footage has infinite highlights here and there, and pixels that are no numbers."""
    world = scene(margin=250)
    world[300:] = 1  # blown out: infinity looks like it
    frames = [(shoot(world, motion(across * (i - 2)), i) / 255).astype(np.float16) for i in range(5)]
    whole = plate_from_clip(frames).plate.astype(np.float32)
    for i, value in enumerate((np.inf, np.nan, -np.inf, np.inf, np.nan)):
        frames[i][10 + 8 * i :: 60, 10::60] = value
    plate = plate_from_clip(frames).plate.astype(np.float32)
    assert np.isfinite(plate).all() and psnr(plate, whole) > 38


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not on this system")
def test_no_room_for_samples_is_said_before_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(from_clip, "SPILL_BYTES", 1000)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="TMPDIR"):
        plate_from_clip([np.zeros((40, 48, 3), np.uint8)] * 3)


def test_background_seen_a_fifth_of_the_time_wins() -> None:
    true = texture(64, 64)
    rng = np.random.default_rng(2)
    frames = []
    for i in range(40):
        frame = true + rng.normal(0, 0.005, true.shape)
        if i % 5:
            frame[16:48, 16:48] = texture(32, 32, seed=i)
        frames.append(np.rint(np.clip(frame, 0, 1) * 255).astype(np.uint8))
    result = plate_from_clip(frames)
    assert psnr(result.plate / np.float32(255), true) > 38
    assert result.coverage[20:44, 20:44].mean() == pytest.approx(0.2, abs=0.1)
    assert result.coverage[:16].mean() > 0.95


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_precision_is_kept(dtype: type) -> None:
    scale = 1.0 if dtype is np.float32 else float(np.iinfo(dtype).max)
    frame: NDArray[Any] = (texture(40, 48) * scale).astype(dtype)
    result = plate_from_clip([frame] * 5)
    assert result.plate.dtype == dtype
    np.testing.assert_allclose(result.plate, frame, rtol=1e-6)


def test_tiles_and_temporary_file_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = clip_with_walker(texture(50, 64), 20, 20)
    whole = plate_from_clip(frames)
    monkeypatch.setattr(from_clip, "SPILL_BYTES", 1000)
    monkeypatch.setattr(from_clip, "TILE_BYTES", 20 * 64 * 40 * 7)
    np.testing.assert_array_equal(plate_from_clip(frames).plate, whole.plate)


@pytest.mark.skipif(os.name != "posix", reason="an open file keeps its name there")
def test_a_killed_run_leaves_no_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_clip, "SPILL_BYTES", 1000)
    stack = from_clip._new_stack((2, 20, 30, 3), np.dtype(np.uint8), tmp_path)
    stack[:] = 7
    assert isinstance(stack, np.memmap) and (stack == 7).all() and not list(tmp_path.iterdir())


def test_hole_continues_its_surroundings() -> None:
    ramp = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None, :, None], 64, axis=0).repeat(3, axis=2)
    hole = np.zeros((64, 64), np.bool_)
    hole[24:40, 24:40] = True
    broken = np.where(hole[..., None], np.float32(0), ramp)
    mended = fill(broken, hole)
    assert np.abs(mended - ramp).max() < 0.15
    np.testing.assert_array_equal(mended[~hole], ramp[~hole])


def with_statue(frame: Image, x: int) -> Image:
    """A grey figure, always the same shade, its left edge at `x`."""
    frame = frame.copy()
    frame[60:, x : x + 90] = 150
    return frame


def find_statue(src: Image, bgr: Image | None) -> Mask:
    """What a network would: the figure, a little ragged."""
    grey = np.abs(src - np.float32(150 / 255)).max(axis=2) < 0.012
    return cv2.morphologyEx(grey.astype(np.float32), cv2.MORPH_OPEN, np.ones((7, 7)))


def test_subject_that_stays_longest_is_left_out_by_its_matte() -> None:
    world = scene()
    frames = [with_statue(shoot(world, motion(), i), 200 if i % 4 else 20) for i in range(12)]
    true = world[80 : 80 + H, 80 : 80 + W]
    kept = plate_from_clip(frames)
    left_out = plate_from_clip(frames, matte=find_statue)
    region = np.s_[70:, 210:280]
    assert psnr(kept.plate[region] / np.float32(255), true[region]) < 25  # three quarters of the time it stands there
    assert psnr(left_out.plate / np.float32(255), true) > 38
    assert left_out.coverage[region].mean() == pytest.approx(0.25, abs=0.05)
    assert left_out.coverage.all()


def test_never_seen_part_is_filled_and_marked() -> None:
    frames = [with_statue(shoot(scene(), motion(), i), 200) for i in range(6)]
    made = plate_from_clip(frames, matte=find_statue)
    assert not made.coverage[80:, 210:280].any() and made.coverage[:, :180].all()
    assert not (made.plate[100:, 220:270] == 150).all(axis=2).any()


def test_handheld_clip_is_aligned_first() -> None:
    world = scene()
    poses = [motion(5 * np.sin(i), 4 * np.cos(2 * i), 0.4 * np.sin(3 * i)) for i in range(11)]
    poses[5] = motion()
    frames = [with_statue(shoot(world, pose, i), 40 * i) for i, pose in enumerate(poses)]
    made = plate_from_clip(frames, matte=find_statue)
    assert not made.locked_off and made.reference_index == 5
    true = world[80 : 80 + H, 80 : 80 + W]
    inner = np.s_[12:-12, 12:-12]
    assert psnr(made.plate[inner] / np.float32(255), true[inner]) > 36


def test_pan_is_laid_out_as_one_picture() -> None:
    world = scene(margin=240)
    frames = [shoot(world, motion(60 * (i - 3)), i) for i in range(7)]
    made = plate_from_clip(frames, extend=True)
    assert made.plate.shape[1] == pytest.approx(W + 6 * 60, abs=4)
    x, y = made.motions[made.reference_index][:2, 2].astype(int)
    true = np.asarray(world[240 : 240 + H, 240 - x : 240 - x + made.plate.shape[1]])
    rows = np.s_[8 : H - 8]
    assert psnr(made.plate[y:][rows] / np.float32(255), true[rows]) > 34


@pytest.mark.slow
def test_a_pan_past_people_who_stay_in_the_frame_is_followed() -> None:
    world = scene(margin=240)
    frames = [with_statue(shoot(world, motion(40 * (i - 5)), i), 150 + 20 * (i % 3)) for i in range(11)]
    made = plate_from_clip(frames, matte=find_statue, extend=True)
    for i, found in made.motions.items():
        there = np.linalg.inv(made.motions[5]) @ found
        np.testing.assert_allclose(there / there[2, 2], motion(40 * (i - 5)), atol=1)
    assert made.sigma == pytest.approx(0.005, rel=0.3)


@pytest.mark.parametrize("step", [0, pytest.param(40, marks=pytest.mark.slow)])
def test_drifting_exposure_is_matched_before_the_estimate(step: int) -> None:
    world = scene(margin=240)
    lights = [PhotometricFit((2 ** (math.sin(i) / 3),) * 3) for i in range(11)]
    frames = [relit(shoot(world, motion(step * (i - 5)), i), light, 0) for i, light in enumerate(lights)]
    true = relit(shoot(world, motion(), noise=0), lights[5], 0) / np.float32(255)
    unmatched, made = (plate_from_clip(frames, relight=relight) for relight in (None, PhotometricFit.apply))
    inner = np.s_[8:-8, 8:-8]
    assert psnr(unmatched.plate[inner] / np.float32(255), true[inner]) < 36
    assert psnr(made.plate[inner] / np.float32(255), true[inner]) > 42
    assert made.sigma == pytest.approx(0.005, rel=0.3) and unmatched.sigma > 0.01


def test_steady_light_is_left_alone() -> None:
    frames = [shoot(scene(), motion(), i) for i in range(7)]
    with_match, without = (plate_from_clip(frames, relight=relight) for relight in (PhotometricFit.apply, None))
    np.testing.assert_array_equal(with_match.plate, without.plate)


def test_samples_span_the_clip() -> None:
    assert sample_indices(10_000, 3) == [0, 5000, 9999]
    assert sample_indices(2, 48) == [0, 1]


def test_empty_and_mixed_footage_are_refused() -> None:
    with pytest.raises(FootageError, match="at least one frame"):
        plate_from_clip([])
    with pytest.raises(FootageError, match="8 x 4 at frame 1"):
        plate_from_clip([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 8, 3), np.uint8)])
