# SPDX-License-Identifier: GPL-3.0-or-later
"""From a render's linear premultiplied light to a straight picture with colours beyond its edge.

NumPy only: it runs in Blender's Python, which has neither OpenCV nor the engine's other packages. No bpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

RELIABLE = 0.1  # below this alpha, premultiplied colour divided by alpha is mostly rounding and sample noise


def straighten(premul: Array, alpha: Array) -> Array:
    """Straight linear colour (H, W, 3) from premultiplied; where alpha is small, from neighbours with more of it."""
    colour = (premul / np.maximum(alpha, 1e-4)[..., None]).astype(np.float32)
    trust = np.clip((alpha - RELIABLE / 2) / (RELIABLE / 2), 0, 1).astype(np.float32)
    return extend_colours(colour, trust)


def extend_colours(colour: Array, trust: Array) -> Array:
    """Fill (H, W, 3) `colour` where (H, W) `trust` is under 1 from a pyramid of trusted averages (pull, then push)."""
    height, width = trust.shape
    if min(height, width) < 2:
        total = max(float(trust.sum()), 1e-6)
        mean = (colour * trust[..., None]).sum((0, 1)) / total
        return np.broadcast_to(mean, colour.shape).astype(np.float32)
    odd = ((0, height % 2), (0, width % 2))
    weighted = np.pad(np.where(trust[..., None] > 0, colour * trust[..., None], 0), (*odd, (0, 0)))
    weight = np.pad(trust, odd)
    half_weight = weight.reshape(weight.shape[0] // 2, 2, -1, 2).sum((1, 3))
    half = weighted.reshape(weighted.shape[0] // 2, 2, -1, 2, 3).sum((1, 3)) / np.maximum(half_weight, 1e-6)[..., None]
    coarse = extend_colours(half.astype(np.float32), np.minimum(half_weight, 1).astype(np.float32))
    behind = coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
    safe = np.where(trust[..., None] > 0, colour, 0)
    return (behind + trust[..., None] * (safe - behind)).astype(np.float32)


def develop(linear: Array, alpha: Array, level: float) -> Array:
    """sRGB-encoded 0..1 with the subject's mean luminance brought to `level` and highlights rolled off, not clipped."""
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    mean = float((luminance * alpha).sum() / max(float(alpha.sum()), 1e-6))
    x = linear * (level / max(mean, 1e-4))
    shoulder = 0.6
    x = np.where(x > shoulder, shoulder + (1 - shoulder) * (1 - np.exp(-(x - shoulder) / (1 - shoulder))), x)
    x = np.clip(x, 0, 1)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.asarray(encoded, np.float32)
