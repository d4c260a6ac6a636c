# SPDX-License-Identifier: GPL-3.0-or-later
"""Match a plate's exposure, white balance, gamma and vignetting to a frame, and measure the frame's noise. No bpy.

Per channel c, in linear light, with r the distance from the middle (1 at the corners):
    log src_c = gain_c + gamma log bgr_c + fall_2 r^2 + fall_4 r^4
which is linear in its unknowns, so a robust least-squares fit on a small image is all it takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from core.color import linear_to_srgb, srgb_to_linear
from core.plate.frames import Image, Mask, Plane, as_dtype, as_srgb

FIT_WIDTH = 256  # pixels of the longer side that the fit looks at
DARK, BRIGHT = 0.03, 0.97  # sRGB-encoded values outside of which a pixel says nothing
ENOUGH = 4000  # pixels that a fit of six unknowns needs at most
FEW = 200  # pixels below which there is nothing to fit
SMOOTHING = 8.0  # frames over which the fit is averaged
NOISE_EVERY = 8  # frames between two measurements of noise
JUMP = 0.15  # change of log exposure that is a change of light, not noise: the average starts anew
ENCODING_POWER = 2.2  # turns a falloff in linear light into one of sRGB-encoded values
MOST_GAMMA = 0.35  # how far from 1 gamma may be
UNRELATED = 0.05  # mean difference that the same place, well matched, does not keep
MIN_GAIN_SHARE = 0.98  # the match must bring the difference below this share of what it was, or it is not used


@dataclass(frozen=True)
class PhotometricFit:
    """What turns the plate's colours into the frame's.

    Attributes:
        gain: red, green, blue in linear light; 2 is one stop brighter.
        gamma: exponent in linear light.
        falloff: r^2 and r^4 terms of the log vignetting, 0 in the middle.
        sigma: the frame's noise, sRGB-encoded units.
        residual_before, residual: mean difference outside the subject without and with the match, sRGB-encoded units.
        tone: linear value in whose neighbourhood the fit was made.
    """

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    falloff: tuple[float, float] = (0.0, 0.0)
    sigma: float = 0.0
    residual_before: float = 0.0
    residual: float = 0.0
    tone: float = 1.0

    @property
    def stops(self) -> float:
        """Exposure of the frame over the plate's, in stops, at the picture's own tone."""
        return float(np.mean(np.log2(self.gain))) + (self.gamma - 1) * math.log2(self.tone)

    @property
    def cast(self) -> float:
        """Largest deviation of a channel from the common exposure, in stops."""
        gains = np.log2(self.gain)
        return float(np.abs(gains - gains.mean()).max())

    @property
    def corner_stops(self) -> float:
        """Exposure in the frame's corners over its middle's, in stops, as the match adds it."""
        return sum(self.falloff) / math.log(2)

    @property
    def is_identity(self) -> bool:
        """Whether applying it would change no value by more than about half an 8-bit step."""
        nothing = max(abs(self.stops), self.cast, abs(self.corner_stops)) < 0.01
        return nothing and abs(self.gamma - 1) < 0.004

    def change_from(self, other: PhotometricFit) -> float:
        """Largest difference of log linear value that the two make: mid grey and white, middle and corner."""
        gains = np.log(self.gain) - np.log(other.gain)
        corner = sum(self.falloff) - sum(other.falloff)
        levels = (math.log(0.18), 0.0)
        changes = [gains + (self.gamma - other.gamma) * level + fall for level in levels for fall in (0.0, corner)]
        return float(np.abs(changes).max())

    def apply(self, bgr: Image) -> Image:
        """Match (H, W, 3) sRGB-encoded values, integers by their range or floats 0 to 1; keeps the dtype."""
        if self.is_identity:
            return bgr
        shaded = abs(self.corner_stops) >= 0.01
        if bgr.dtype == np.uint8:
            curves = self.curves(256).T[None] * np.float32(255)  # (1, 256, 3), as cv2.LUT wants it
            matched = cv2.LUT(bgr, curves if shaded else np.rint(np.minimum(curves, 255)).astype(np.uint8))
        else:
            curves = self.curves(65536)
            index = bgr if bgr.dtype == np.uint16 else np.rint(np.clip(bgr, 0, 1) * np.float32(65535)).astype(np.uint16)
            matched = np.stack([np.take(curves[c], index[..., c]) for c in range(3)], axis=-1)
            if bgr.dtype == np.uint16:
                matched = matched * np.float32(65535)
        if shaded:
            H, W = bgr.shape[:2]
            step = 4 if min(H, W) >= 512 else 1  # it is smooth
            small = self.shading((H // step, W // step))
            shading = cv2.resize(small, (W, H), interpolation=cv2.INTER_LINEAR)
            matched = matched * shading[..., None]
        return as_dtype(matched, bgr.dtype) if bgr.dtype.kind == "u" else np.minimum(matched, 1)

    def curves(self, size: int) -> Image:
        """(3, size) float32: the matched sRGB-encoded value for encoded values from 0 to 1, per channel."""
        linear = srgb_to_linear(np.linspace(0, 1, size, dtype=np.float32))
        return np.asarray(linear_to_srgb(np.asarray(self.gain)[:, None] * linear**self.gamma))

    def shading(self, shape: tuple[int, int]) -> Plane:
        """(H, W) float32 factor on encoded values that the vignetting makes."""
        r2 = _radius2(shape)
        return np.asarray(np.exp((self.falloff[0] * r2 + self.falloff[1] * r2 * r2) / ENCODING_POWER), np.float32)


class PhotometricLock:
    """Fits frame after frame of one shot and averages over time, so that the match does not flicker."""

    def __init__(self) -> None:
        self._mean: PhotometricFit | None = None
        self._count = 0
        self._plate: tuple[Image, Image] | None = None  # the last one, and how the fit looks at it

    def update(self, bgr: Image, src: Image, mask: Mask | None = None) -> PhotometricFit:
        """The smoothed match for the next frame; arguments as for `match_plate`."""
        known = self._mean.sigma if self._mean is not None and self._count % NOISE_EVERY else None
        if self._plate is None or self._plate[0] is not bgr:
            self._plate = bgr, _thumbnail(bgr, _fit_size(src.shape[:2]))
        fit = match_plate(self._plate[1], src, mask, sigma=known)
        if self._mean is not None and fit.change_from(self._mean) < JUMP:
            self._count += 1
            weight = max(1 / self._count, 1 / SMOOTHING)
            fit = _blend(self._mean, fit, weight)
        else:
            self._count = 1
        self._mean = fit
        return fit


def match_plate(bgr: Image, src: Image, mask: Mask | None = None, *, sigma: float | None = None) -> PhotometricFit:
    """Fit what turns the plate's colours into the frame's.

    Args:
        bgr: (h, w, 3) sRGB-encoded plate, aligned with the frame, of any size.
        src: (H, W, 3) frame.
        mask: (h, w) bool of any size, True where both show the same background; everything if None.
        sigma: the frame's noise where it is known; measured if None.

    Returns:
        The fit; the identity when the two cannot be compared or no match brings them closer.
    """
    size, keep = _fit_size(src.shape[:2]), None
    if mask is not None:
        keep = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.98
    a, b = (as_srgb(_thumbnail(image, size)) for image in (bgr, src))
    sigma = noise(src, mask) if sigma is None else sigma
    lit: Mask = np.asarray((np.minimum(a, b) > DARK).all(axis=2) & (np.maximum(a, b) < BRIGHT).all(axis=2))
    if keep is not None:
        lit = lit & keep
    # Edges that do not quite meet would pull the fit: flat surroundings only.
    flat = np.maximum(_gradient(a), _gradient(b))
    if np.count_nonzero(lit) >= 4 * FEW:
        lit = lit & (flat <= np.median(flat[lit]))
    if np.count_nonzero(lit) < FEW:
        return PhotometricFit(sigma=sigma)
    fit = _solve(a, b, lit & _thinned(lit), sigma)
    matched = fit.apply(a)
    before, after = _mean_difference(a, b, lit), _mean_difference(matched, b, lit)
    if after > MIN_GAIN_SHARE * before or after > UNRELATED:
        return PhotometricFit(sigma=sigma, residual_before=before, residual=before)
    return replace(fit, sigma=sigma, residual_before=before, residual=after)


def noise(frame: Image, mask: Mask | None = None) -> float:
    """Standard deviation of a frame's noise, sRGB-encoded units, from what neither edges nor slopes explain.

    A second difference in both directions (Immerkaer 1996) cancels smooth content; the quietest
    quarter of small blocks leaves texture out.
    """
    grey = cv2.cvtColor(as_srgb(_middle_rows(frame)), cv2.COLOR_RGB2GRAY)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    detail = np.abs(cv2.filter2D(grey, -1, kernel))
    blocks = (max(1, grey.shape[1] // 16), max(1, grey.shape[0] // 16))
    means = cv2.resize(detail, blocks, interpolation=cv2.INTER_AREA)
    if mask is not None:
        kept = cv2.resize(_middle_rows(mask).astype(np.float32), blocks, interpolation=cv2.INTER_AREA) > 0.99
        means = means[kept] if np.count_nonzero(kept) >= 8 else means
    quiet = float(np.quantile(means, 0.25))
    grey_to_channel = 1 / math.sqrt(0.299**2 + 0.587**2 + 0.114**2)
    return quiet * math.sqrt(math.pi / 2) / 6 * grey_to_channel


def _middle_rows(image: Image) -> Image:
    """The middle half: enough to measure noise, which no resampling may touch, at half the cost."""
    quarter = image.shape[0] // 4
    return image[quarter : image.shape[0] - quarter]


def _solve(a: Image, b: Image, lit: Mask, sigma: float) -> PhotometricFit:
    """Iteratively reweighted least squares on the log-linear values; see the module's first lines."""
    x, y = np.log(srgb_to_linear(a[lit])), np.log(srgb_to_linear(b[lit]))  # (N, 3)
    r2 = _radius2(lit.shape)[lit]
    N = len(x)
    rows = np.zeros((N, 3, 6), np.float64)
    for c in range(3):
        rows[:, c, c] = 1
    rows[:, :, 3] = x
    rows[:, :, 4] = r2[:, None]
    rows[:, :, 5] = (r2 * r2)[:, None]
    flat = rows.reshape(-1, 6)  # which numpy multiplies much faster
    # Gamma and the falloff stay at nothing unless the picture says otherwise.
    prior = np.diag([0.0, 0.0, 0.0, 0.2 * N, 0.002 * N, 0.002 * N])
    pull = np.array([0, 0, 0, 1.0, 0, 0])
    confidence = np.sqrt(np.minimum(a, b)[lit])  # noise weighs more on dark values, in logarithms
    solution = np.array([*np.median(y - x, axis=0), 1.0, 0, 0])
    for _ in range(8):
        error = y - (flat @ solution).reshape(N, 3)
        scale = max(1.4826 * float(np.median(np.abs(error))), 0.01)
        weight = confidence * np.clip(1 - (error / (4 * scale)) ** 2, 0, 1) ** 2
        fits = weight.min(axis=1) > 0  # a pixel with one wrong channel is a wrong pixel
        if np.count_nonzero(fits) < FEW:  # each place has its own light
            return PhotometricFit(sigma=sigma)
        weighted = (flat * (weight * fits[:, None]).reshape(-1, 1)).T
        left = weighted @ flat + prior
        right = weighted @ y.ravel() + prior @ pull
        solution = np.linalg.solve(left, right)
    gamma = float(np.clip(solution[3], 1 - MOST_GAMMA, 1 + MOST_GAMMA))
    if gamma != solution[3]:
        solution[:3] += np.average((solution[3] - gamma) * x, axis=0)
    red, green, blue = (float(np.exp(v)) for v in solution[:3])
    tone = float(np.exp(np.mean(x)))
    return PhotometricFit((red, green, blue), gamma, (float(solution[4]), float(solution[5])), sigma, tone=tone)


def _blend(a: PhotometricFit, b: PhotometricFit, weight: float) -> PhotometricFit:
    def mix(x: float, y: float) -> float:
        return x + weight * (y - x)

    red, green, blue = (math.exp(mix(math.log(x), math.log(y))) for x, y in zip(a.gain, b.gain, strict=True))
    return replace(
        b,
        gain=(red, green, blue),
        gamma=mix(a.gamma, b.gamma),
        falloff=(mix(a.falloff[0], b.falloff[0]), mix(a.falloff[1], b.falloff[1])),
        sigma=mix(a.sigma, b.sigma),
    )


def _thumbnail(image: Image, size: tuple[int, int]) -> Image:
    """Reduce to `size` (w, h), reading every other pixel at most where there are plenty."""
    step = max(1, image.shape[1] // (2 * size[0]))
    return np.asarray(cv2.resize(image[::step, ::step], size, interpolation=cv2.INTER_AREA))


def _thinned(where: Mask) -> Mask:
    """Every n-th row, so that about ENOUGH of the pixels that hold are left."""
    rows = np.zeros((where.shape[0], 1), np.bool_)
    rows[:: max(1, round(np.count_nonzero(where) / ENOUGH))] = True
    return rows


def _fit_size(shape: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, FIT_WIDTH / max(shape))
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def _radius2(shape: tuple[int, int]) -> Plane:
    """Squared distance from the middle, 1 at the corners: (H, W) float32."""
    H, W = shape
    y = (np.arange(H, dtype=np.float32)[:, None] + np.float32(0.5 - H / 2)) ** 2
    x = (np.arange(W, dtype=np.float32)[None, :] + np.float32(0.5 - W / 2)) ** 2
    return (x + y) / np.float32((H * H + W * W) / 4)


def _gradient(image: Image) -> Plane:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.blur(np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1)), (3, 3))


def _mean_difference(a: Image, b: Image, where: Mask) -> float:
    """Median over pixels: what stands in the frame and is not masked does not count."""
    return float(np.median(np.abs(a - b)[where].mean(axis=1)))
