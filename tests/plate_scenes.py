# SPDX-License-Identifier: GPL-3.0-or-later
"""Textured worlds, and frames that a camera takes of them, for the tests of the plate tools."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from core.plate.frames import Matrix
from core.plate.photometric import PhotometricFit

W, H = 480, 270


def scene(seed: int = 0, margin: int = 80) -> NDArray[np.float32]:
    """A textured picture larger than the frame by `margin` on each side, float32, 0.1 to 0.9."""
    rng = np.random.default_rng(seed)
    height, width = H + 2 * margin, W + 2 * margin
    image = np.zeros((height, width, 3), np.float32)
    for step in (3, 6, 12, 24, 48):
        noise = rng.normal(size=(height // step + 2, width // step + 2, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * step**0.3
    image -= image.min()
    return np.asarray(0.1 + 0.8 * image / image.max(), np.float32)


def motion(x: float = 0, y: float = 0, degrees: float = 0, scale: float = 1) -> Matrix:
    """Rotation and scale about the frame's middle, then a shift in pixels."""
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    turn = np.array([[c, -s, W / 2 + x], [s, c, H / 2 + y], [0, 0, 1]])
    return np.asarray(turn @ np.array([[1, 0, -W / 2], [0, 1, -H / 2], [0, 0, 1]]))


def shoot(world: NDArray[np.float32], pose: Matrix, seed: int = 0, noise: float = 0.005) -> NDArray[np.uint8]:
    """The frame that a camera at `pose` (frame pixel -> frame pixel of the plain view) takes of `world`."""
    margin = (world.shape[1] - W) // 2
    matrix = np.array([[1, 0, margin], [0, 1, margin], [0, 0, 1.0]]) @ pose
    frame = cv2.warpPerspective(world, matrix, (W, H), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    frame = frame + np.random.default_rng(seed).normal(0, noise, frame.shape)
    return np.asarray(np.rint(np.clip(frame, 0, 1) * 255), np.uint8)


def with_subject(frame: NDArray[np.uint8], share: float, seed: int = 3) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Cover `share` of the frame, from its middle outwards, with something else."""
    mask = np.zeros((H, W), np.bool_)
    half = round(W * share / 2)
    mask[:, W // 2 - half : W // 2 + half] = True
    other = shoot(scene(seed), motion())
    return np.where(mask[..., None], other, frame), mask


def relit(plate: NDArray[np.uint8], fit: PhotometricFit, sigma: float = 0.006) -> NDArray[np.uint8]:
    """A second take of the plate under other light, by the definition, in linear light."""
    encoded = plate / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    y, x = np.mgrid[0:H, 0:W]
    r2 = ((x + 0.5 - W / 2) ** 2 + (y + 0.5 - H / 2) ** 2) / ((W * W + H * H) / 4)
    linear = linear**fit.gamma * np.array(fit.gain) * np.exp(fit.falloff[0] * r2 + fit.falloff[1] * r2 * r2)[..., None]
    bent = 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, bent)
    encoded = encoded + np.random.default_rng(5).normal(0, sigma, encoded.shape)
    return np.asarray(np.rint(np.clip(encoded, 0, 1) * 255), np.uint8)
