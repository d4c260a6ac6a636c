# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers with exact alpha, laid over each other and over a background.

A layer is straight colour fgr (H, W, 3) and alpha pha (H, W, 1), float32, 0 to 1, sRGB-encoded. Composites satisfy
src = fgr * pha + bgr * (1 - pha) (Lin et al. 2021, equation 1) to the last bit of a float.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from ..color import to_float
from .augmentation import Floats, Matrix, apply_table, blur, defocus, motion_blur, recolor, warp
from .pool import Bytes

LEAST_ALPHA = 1 / 512  # below it, division by alpha does not give a layer's colour


class Layer(NamedTuple):
    """A subject in its frame."""

    fgr: Floats  # (H, W, 3), straight
    pha: Floats  # (H, W, 1)


def place(
    image: Bytes,
    matrix: Matrix,
    size: tuple[int, int],
    table: Bytes | None = None,
    saturation: float = 1.0,
    hue: float = 0.0,
    motion: tuple[float, float] = (0.0, 0.0),
    focus: float = 0.0,
) -> Layer:
    """A cut-out put into a frame.

    Args:
        image: (h, w, 4) straight RGBA with colour everywhere, as `Pool.subject` gives it.
        matrix: from the image's pixels to the frame's.
        size: width and height of the frame.
        table: tone curve (256, 3) of the cut-out; saturation, hue: as for `recolor`.
        motion: pixels (x, y) that it moves while the shutter is open; focus: radius of its defocus.
    """
    straight = np.asarray(warp(image[..., :3], matrix, size, cv2.BORDER_REPLICATE), np.uint8)
    pha = to_float(warp(image[..., 3], matrix, size))
    if table is not None:
        straight = apply_table(straight, table)
    fgr = recolor(to_float(straight), saturation, hue)
    if focus >= 0.5 or np.hypot(*motion) >= 1:
        return filtered(Layer(fgr, pha), lambda image: motion_blur(defocus(image, focus), motion))
    return Layer(fgr, pha)


def filtered(layer: Layer, blurring: Callable[[Floats], Floats]) -> Layer:
    """A layer after a filter of positive weights, which is given premultiplied colour and alpha (H, W, 4)."""
    mixed = blurring(np.dstack([layer.fgr * layer.pha, layer.pha]))
    pha = np.minimum(mixed[..., 3:], 1)
    pha = np.where(pha < LEAST_ALPHA, 0, pha)  # large kernels leave rounding errors everywhere
    return Layer(unpremultiply(mixed[..., :3], pha, layer.fgr), pha)


def unpremultiply(fgr_premul: Floats, pha: Floats, otherwise: Floats) -> Floats:
    """Straight colour, 0 to 1; `otherwise` where alpha is below LEAST_ALPHA."""
    straight = np.minimum(fgr_premul / np.maximum(pha, LEAST_ALPHA), 1)
    return np.where(pha < LEAST_ALPHA, otherwise, straight)


def spilled(layer: Layer, bgr: Floats, strength: float, width: float) -> Layer:
    """A layer with the light of what is behind on its rim.

    Args:
        bgr: (H, W, 3).
        strength: of that light, by the light behind.
        width: pixels, of the rim; the light comes from four times as far.
    """
    small = (max(1, bgr.shape[1] // 4), max(1, bgr.shape[0] // 4))
    pha, room = (cv2.resize(x, small, interpolation=cv2.INTER_AREA).astype(np.float32) for x in (layer.pha, bgr))
    inside = blur(pha, width / 4)[..., None]
    light = np.float32(strength) * np.clip(1.6 * (1 - inside), 0, 1) * blur(room, width) ** 2  # about sRGB's gamma
    lit = layer.fgr**2 + cv2.resize(light, bgr.shape[1::-1]).astype(np.float32)
    return Layer(np.asarray(np.sqrt(lit).clip(0, 1), np.float32), layer.pha)


def over(top: Layer, bottom: Layer) -> Layer:
    """Two layers as one."""
    rest = bottom.pha * (1 - top.pha)
    pha = top.pha + rest
    return Layer(unpremultiply(top.fgr * top.pha + bottom.fgr * rest, pha, top.fgr), pha)


def compose(layer: Layer, bgr: Floats) -> Floats:
    """src = fgr * pha + bgr * (1 - pha)."""
    return layer.fgr * layer.pha + bgr * (1 - layer.pha)


def compose_in_light(layer: Layer, bgr: Floats, gamma: float = 2.2) -> Floats:
    """The same in linear light, as a lens mixes; encoded again by 1 / gamma."""
    fgr_linear, bgr_linear = (np.asarray(cv2.pow(image, gamma), np.float32) for image in (layer.fgr, bgr))
    mixed = compose(Layer(fgr_linear, layer.pha), bgr_linear)
    return np.asarray(cv2.pow(np.maximum(mixed, 0), 1 / gamma), np.float32)
