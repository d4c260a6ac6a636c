# SPDX-License-Identifier: GPL-3.0-or-later
"""What cameras, light and codecs do to a picture: the augmentations that every dataset here shares.

Images are (H, W, C) float32, sRGB-encoded, 0 to 1, unless a name says otherwise. Randomness comes from the generator
that is passed, so the same generator gives the same picture.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]  # (3, 3), maps (x, y, 1) of the input to the output, in pixels

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


# geometry ------------------------------------------------------------------------------------------------------------


def affine(
    angle: float = 0.0,
    scale: float = 1.0,
    shear: float = 0.0,
    move: tuple[float, float] = (0.0, 0.0),
    about: tuple[float, float] = (0.0, 0.0),
    mirror: bool = False,
) -> Matrix:
    """Mirror, shear, scale and turn about a point, then move.

    Args:
        angle: degrees, clockwise in the image.
        move: pixels to the right and down.
        about: the point (x, y) that all but `move` leave in place.
    """
    radians = np.deg2rad(angle)
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    linear = scale * turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.asarray(about) + move - linear @ np.asarray(about)
    return matrix


def warp(image: NDArray[Any], matrix: Matrix, size: tuple[int, int], border: int = cv2.BORDER_CONSTANT) -> NDArray[Any]:
    """The image under a matrix, of `size` (width, height); the input's dtype stays.

    Pixel centres are at whole numbers, so the identity changes nothing.
    """
    warped = cv2.warpAffine(image, matrix[:2], size, flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(warped).reshape(size[1], size[0], -1)


def wobble(image: Floats, amplitude: float, length: float, rng: np.random.Generator) -> Floats:
    """The image displaced by a smooth random field: leaves in a breeze, heat haze.

    Args:
        amplitude: pixels, standard deviation.
        length: pixels over which the displacement changes.
    """
    height, width = image.shape[:2]
    field = smooth_noise((height, width), length, rng, channels=2) * amplitude
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved = cv2.remap(
        image, columns + field[..., 0], rows + field[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(moved, np.float32).reshape(image.shape)


# fields and noise ----------------------------------------------------------------------------------------------------


def smooth_noise(shape: tuple[int, int], length: float, rng: np.random.Generator, channels: int = 1) -> Floats:
    """Random field (H, W, channels) with mean about 0 and deviation about 1 that changes over `length` pixels."""
    coarse = (max(2, int(shape[0] / length) + 2), max(2, int(shape[1] / length) + 2), channels)
    field = cv2.resize(rng.standard_normal(coarse, np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(field, np.float32).reshape(*shape, channels)


@cache
def _grain() -> Floats:
    """Normal noise to cut pieces from: drawing it anew for each frame would take longer than everything else."""
    return np.random.default_rng(0).standard_normal((1024, 1024 + 512, 3), np.float32)


def add_noise(image: Floats, read: float, shot: float, rng: np.random.Generator) -> Floats:
    """A sensor's noise: deviation `read` in the dark, sqrt(read^2 + shot^2 * value) where there is light."""
    height, width = image.shape[:2]
    grain = _grain()
    if height < grain.shape[0] and width < grain.shape[1]:
        top, left = rng.integers(grain.shape[0] - height), rng.integers(grain.shape[1] - width)
        noise = grain[top : top + height, left : left + width]
        if rng.random() < 0.5:
            noise = noise[::-1]
    else:
        noise = rng.standard_normal(image.shape, np.float32)
    deviation = np.sqrt(np.float32(shot**2) * np.maximum(image, 0) + np.float32(read**2)) if shot else np.float32(read)
    return image + noise * deviation


# optics --------------------------------------------------------------------------------------------------------------


def blur(image: Floats, sigma: float) -> Floats:
    """Gaussian blur of `sigma` pixels; for a cut-out, pass premultiplied colour."""
    if sigma < 0.2:
        return image
    blurred = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.float32).reshape(image.shape)


def defocus(image: Floats, radius: float) -> Floats:
    """Blur by a lens's round aperture of `radius` pixels; for a cut-out, pass premultiplied colour."""
    if radius < 0.5:
        return image
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return _filtered(image, disc)


def motion_blur(image: Floats, motion: tuple[float, float]) -> Floats:
    """Blur along `motion` (x, y), the pixels travelled while the shutter is open; premultiplied, as for `blur`."""
    length = float(np.hypot(*motion))
    if length < 1:
        return image
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    steps = np.linspace(-0.5, 0.5, 4 * reach)
    for step in steps:  # bilinear splats
        x, y = reach + step * motion[0], reach + step * motion[1]
        column, row = int(x), int(y)
        right, down = x - column, y - row
        kernel[row : row + 2, column : column + 2] += np.outer([1 - down, down], [1 - right, right])
    return _filtered(image, kernel)


def _filtered(image: Floats, kernel: Floats) -> Floats:
    found = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(found, np.float32).reshape(image.shape)


def sharpen(image: Floats, amount: float) -> Floats:
    """Unsharp mask, as cameras do; not clipped."""
    return image + np.float32(amount) * (image - blur(image, 1.0))


# light and colour ----------------------------------------------------------------------------------------------------


def color_table(
    rng: np.random.Generator, exposure: float = 0.0, balance: float = 0.0, contrast: float = 0.0, gamma: float = 0.0
) -> NDArray[np.uint8]:
    """A random tone curve (256, 3) for 8-bit images; each argument is the standard deviation of its effect.

    Args:
        exposure, balance: relative gain of all channels, and of each.
        contrast: relative change of the distance to mid-grey.
        gamma: logarithm of the exponent.
    """
    return table_of(
        gain=np.exp(rng.normal(0, exposure) + rng.normal(0, balance, 3)),
        contrast=float(np.exp(rng.normal(0, contrast))),
        gamma=float(np.exp(rng.normal(0, gamma))),
    )


def table_of(gain: NDArray[np.float64] | float = 1.0, contrast: float = 1.0, gamma: float = 1.0) -> NDArray[np.uint8]:
    """A tone curve (256, 3): gain, then gamma, then contrast about mid-grey."""
    values = np.linspace(0, 1, 256)[:, None] * np.broadcast_to(gain, 3)
    values = np.clip(values, 0, 1) ** gamma
    values = (values - 0.5) * contrast + 0.5
    return np.asarray((255 * np.clip(values, 0, 1)).round(), np.uint8)


def apply_table(image: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """8-bit colour (H, W, 3) or straight RGBA (H, W, 4) through a tone curve; alpha is left alone."""
    if image.shape[2] == 4:
        table = np.hstack([table, np.arange(256, dtype=np.uint8)[:, None]])
    return np.asarray(cv2.LUT(image, np.ascontiguousarray(table[None])), np.uint8)


def recolor(image: Floats, saturation: float = 1.0, hue: float = 0.0) -> Floats:
    """Colours moved away from grey (saturation above 1) or towards it, and turned about it by `hue` degrees."""
    if saturation == 1 and hue == 0:
        return image
    radians = np.deg2rad(hue)
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = np.cos(radians) * np.eye(3) + np.sin(radians) * cross + (1 - np.cos(radians)) * axis
    weights = (1 - saturation) * np.tile(LUMINANCE, (3, 1)) + saturation * np.eye(3)
    return np.clip(cv2.transform(image, (weights @ turn).astype(np.float32)), 0, 1)


def cast_shadow(
    pha: Floats, offset: tuple[float, float], softness: float, lean: float = 0.0, squash: float = 1.0
) -> Floats:
    """A subject's shadow: the share of light (H, W, 1), 0 to 1, that its alpha keeps from the background.

    Args:
        pha: (H, W, 1).
        offset: pixels by which the shadow lies to the right and below.
        softness: pixels, sigma of its blur.
        lean: shear about the subject's foot.
        squash: the shadow's height divided by the subject's.
    """
    height, width = pha.shape[:2]
    step = int(np.clip(softness / 2, 1, 4)) if min(height, width) >= 128 else 1  # a blurred shadow needs few pixels
    small = cv2.resize(pha, (width // step, height // step), interpolation=cv2.INTER_AREA)
    rows = np.nonzero(small.max(axis=1) > 0.2)[0]
    foot = float(rows[-1]) if len(rows) else 0.0
    matrix = np.array(
        [[1, lean, offset[0] / step - lean * foot], [0, squash, offset[1] / step + foot * (1 - squash)], [0, 0, 1]]
    )
    cast = warp(small, matrix, (small.shape[1], small.shape[0]))
    return np.asarray(cv2.resize(blur(cast, softness / step), (width, height)), np.float32)[..., None]


# codecs --------------------------------------------------------------------------------------------------------------


def to_bytes(image: Floats) -> NDArray[np.uint8]:
    """0 to 1 as rounded, clipped 8 bits."""
    return np.asarray(cv2.convertScaleAbs(np.maximum(image, 0), alpha=255.0), np.uint8).reshape(image.shape)


def compress(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """RGB 8-bit through JPEG with colour at half resolution, as movies have it."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
