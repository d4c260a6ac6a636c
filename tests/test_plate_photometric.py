# SPDX-License-Identifier: GPL-3.0-or-later
"""Colour matching against changes of light that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core.plate.photometric import PhotometricFit, PhotometricLock, match_plate, noise
from tests.plate_scenes import H, W, motion, relit, scene, shoot


def clean_plate(seed: int = 0) -> NDArray[np.uint8]:
    return shoot(scene(seed), motion(), seed)


CASES = [
    PhotometricFit(gain=(1.62, 1.62, 1.62)),
    PhotometricFit(gain=(0.62, 0.62, 0.62)),
    PhotometricFit(gain=(1.25, 1.0, 0.8)),
    PhotometricFit(gain=(1.1, 1.0, 0.95), gamma=1.15),
    PhotometricFit(falloff=(-0.5, -0.2)),
    PhotometricFit(gain=(0.7, 0.8, 0.9), falloff=(-0.4, 0.0)),
]


@pytest.mark.parametrize("true", CASES)
def test_change_of_light_is_found_and_undone(true: PhotometricFit) -> None:
    plate = clean_plate()
    src = relit(plate, true)
    src[:, W // 3 : 2 * W // 3] = clean_plate(4)[:, W // 3 : 2 * W // 3]  # a subject that nobody masked
    outside = np.ones((H, W), np.bool_)
    outside[:, W // 3 : 2 * W // 3] = False
    for mask in (outside, None):
        fit = match_plate(plate, src, mask)
        left = np.abs(fit.apply(plate).astype(float) - src)[outside].mean()
        before = np.abs(plate.astype(float) - src)[outside].mean()
        assert before > 4 and left < (2.2 if mask is outside else 4)
    assert fit.residual < fit.residual_before


def test_nothing_to_match_is_the_identity() -> None:
    plate = clean_plate()
    fit = match_plate(plate, relit(plate, PhotometricFit()))
    assert fit.is_identity
    assert fit.apply(plate) is plate
    black = np.zeros((H, W, 3), np.uint8)
    assert match_plate(black, black).is_identity
    assert match_plate(plate, plate, np.zeros((H, W), np.bool_)).is_identity


def test_light_of_another_colour_in_each_place_is_left_alone() -> None:
    """A pixel with one wrong channel is a wrong pixel: here all are."""
    plate = clean_plate()
    gain = np.ones((1, plate.shape[1], 3))
    for channel, columns in enumerate(np.array_split(np.arange(plate.shape[1]), 3)):
        gain[:, columns, channel] = 1.6
    src = np.clip(plate * gain, 0, 255).astype(np.uint8)
    assert np.array_equal(match_plate(src, plate).apply(plate), plate)


def test_unrelated_pictures_are_not_forced_together() -> None:
    fit = match_plate(clean_plate(0), clean_plate(9))
    assert fit.is_identity


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_apply_keeps_the_precision(dtype: type) -> None:
    fit = PhotometricFit(gain=(2.0, 1.0, 0.5), falloff=(-0.3, 0.0))
    values = np.full((5, 7, 3), 0.5)
    top = 1.0 if dtype is np.float32 else float(np.iinfo(dtype).max)
    frame: NDArray[Any] = (values * top).astype(dtype)
    matched = fit.apply(frame)
    assert matched.dtype == dtype
    # sRGB 0.5 is 0.2140 linear; doubled and halved that is sRGB 0.6858 and 0.3605, in the middle
    np.testing.assert_allclose(matched[2, 3] / top, [0.6858, 0.5, 0.3605], atol=0.006)
    corner = np.exp(-0.3 / 2.2 * (2**2 + 3**2) / ((5**2 + 7**2) / 4))
    np.testing.assert_allclose(matched[0, 0] / top, matched[2, 3] / top * corner, atol=0.006)


def test_stops_cast_and_corners_read_as_a_photographer_would() -> None:
    assert PhotometricFit(gain=(2.0, 2.0, 2.0)).stops == pytest.approx(1)
    assert PhotometricFit(gain=(2.0, 1.0, 0.5)).cast == pytest.approx(1)
    assert PhotometricFit(falloff=(-0.6931, 0.0)).corner_stops == pytest.approx(-1, abs=1e-3)


def test_lock_averages_noise_and_follows_a_jump() -> None:
    plate = clean_plate()
    lock = PhotometricLock()
    rng = np.random.default_rng(0)
    singles, smoothed = [], []
    for _ in range(12):
        src = relit(plate, PhotometricFit(gain=(1 + rng.normal(0, 0.01),) * 3))
        singles.append(match_plate(plate, src).stops)
        smoothed.append(lock.update(plate, src).stops)
    assert np.std(np.diff(smoothed[4:])) < 0.4 * np.std(np.diff(singles[4:]))
    after_jump = lock.update(plate, relit(plate, PhotometricFit(gain=(2.0, 2.0, 2.0))))
    assert after_jump.stops == pytest.approx(1, abs=0.15)


def test_lock_follows_a_plate_that_moves() -> None:
    src, lock = clean_plate(), PhotometricLock()
    for stops in (0, 1):
        light = lock.update(relit(src, PhotometricFit(gain=(2.0**-stops,) * 3)), src)
        assert light.stops == pytest.approx(stops, abs=0.15)


@pytest.mark.parametrize("sigma", [0.004, 0.015, 0.04])
def test_noise_is_measured_through_texture(sigma: float) -> None:
    frame = np.asarray(scene()[:H, :W], np.float32)
    frame = frame + np.random.default_rng(0).normal(0, sigma, frame.shape).astype(np.float32)
    assert noise(frame) == pytest.approx(sigma, rel=0.35, abs=0.003)
