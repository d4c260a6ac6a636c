# SPDX-License-Identifier: GPL-3.0-or-later
"""Encodings: between what a file holds and what the networks want (sRGB-encoded RGB, 0 to 1). No bpy.

Two encodings are built in: "srgb" (IEC 61966-2-1, display-referred, 0 to 1 or the integer range) and "linear"
(scene-linear light with the same Rec.709 primaries, unbounded). Any other name is a colour space of the OpenColorIO
configuration that `$OCIO` names (the add-on names Blender's own there), or of the one built into OpenImageIO.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
import OpenImageIO as oiio
import torch
from numpy.typing import NDArray

from .errors import JobError

Pixels = NDArray[Any]  # (H, W, 3), uint8, uint16, float16 or float32
Floats = NDArray[np.float32]


def srgb_to_linear(srgb: Floats) -> Floats:
    """sRGB-encoded values to linear light, any shape; the curve is mirrored below 0."""
    size = np.abs(srgb)
    curve = size + 0.055
    curve /= 1.055
    curve **= 2.4
    linear = np.where(size <= 0.04045, size / 12.92, curve)
    return np.copysign(linear, srgb).astype(np.float32, copy=False)


def linear_to_srgb(linear: Floats) -> Floats:
    """Linear light to sRGB-encoded values, any shape; the inverse of `srgb_to_linear`."""
    size = np.abs(linear)
    srgb = np.where(size <= 0.0031308, size * 12.92, 1.055 * size ** (1 / 2.4) - 0.055)
    return np.copysign(srgb, linear).astype(np.float32, copy=False)


def to_float(pixels: Pixels) -> Floats:
    """Integers to 0 to 1 by their full range; floats as they are."""
    if pixels.dtype == np.float16:
        return torch.from_numpy(pixels).float().numpy()  # exact, like numpy's own, which takes several times as long
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32, copy=False)
    return pixels.astype(np.float32) * np.float32(1 / np.iinfo(pixels.dtype).max)


def to_dtype(values: Floats, dtype: np.dtype[Any]) -> Pixels:
    """The inverse of `to_float`: rounded and clipped for integers, plain for floats."""
    if dtype == np.float16:
        return torch.from_numpy(values).half().numpy()  # rounded like numpy's own, which takes ten times as long
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    row = np.ascontiguousarray(values, np.float32).reshape(1, -1)  # in one pass each, where numpy makes four
    if dtype == np.uint8:
        codes = cv2.convertScaleAbs(np.maximum(row, 0) if row.min(initial=0) < 0 else row, alpha=255)
    else:
        codes = cv2.multiply(row, 65535.0, dtype=cv2.CV_16U)  # type: ignore[call-overload]  # a number will do
    return np.asarray(codes).reshape(values.shape)


def to_srgb(pixels: Pixels, color_space: str) -> Pixels:
    """What the networks see: sRGB-encoded; 8 and 16-bit sRGB pass through untouched, the rest is float32, 0 to 1.

    Args:
        pixels: (H, W, 3) in `color_space`.

    Raises:
        JobError: a colour space that the configuration does not know.
    """
    if color_space == "srgb":
        return pixels if pixels.dtype.kind == "u" else np.clip(np.nan_to_num(to_float(pixels)), 0, 1)
    if color_space != "linear" or pixels.dtype != np.float16:  # beyond half's range: infinity, clipped like a highlight
        pixels = to_dtype(convert(pixels, color_space, "linear"), np.dtype(np.float16))
    return _look_up(_half_linear_to_srgb(), pixels.view(np.uint16))


@cache
def _half_linear_to_srgb() -> Floats:
    """sRGB, 0 to 1, for each of the 65536 half floats: 11 bits for the network, ten times as fast as computing them."""
    linear = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return linear_to_srgb(np.clip(np.nan_to_num(linear, nan=0.0, posinf=1.0, neginf=0.0), 0, 1))


def matte_to(fgr: Floats, color_space: str, dtype: np.dtype[Any]) -> Pixels:
    """A matte's foreground, sRGB-encoded floats from 0 to 1, to `color_space` as it is stored.

    Floats pass through 65536 codes, as many as a PNG's: of an estimate nobody sees more, and a table is much faster.
    """
    if color_space == "srgb":
        return to_dtype(fgr, dtype)
    return convert_to(to_dtype(fgr, np.dtype(np.uint16)), "srgb", color_space, dtype)


def convert_to(pixels: Pixels, source: str, target: str, dtype: np.dtype[Any]) -> Pixels:
    """As `convert`, to `dtype` as `to_dtype` does it."""
    if (source, target) == ("srgb", "linear") and pixels.dtype.kind == "u" and dtype.kind == "f":
        return _look_up(_linear_of_codes(pixels.dtype, dtype), pixels)
    return to_dtype(convert(pixels, source, target), dtype)


def convert(pixels: Pixels, source: str, target: str) -> Floats:
    """Pixels from one colour space to another as float, values outside 0 to 1 kept; to its own space: unchanged.

    Raises:
        JobError: a colour space that the configuration does not know.
    """
    if source == target:
        return to_float(pixels)
    if source == "srgb":
        is_code = pixels.dtype.kind == "u"
        table = _linear_of_codes(pixels.dtype, np.dtype(np.float32)) if is_code else None
        values = srgb_to_linear(to_float(pixels)) if table is None else _look_up(table, pixels)
    else:
        values = to_float(pixels) if source == "linear" else _convert(to_float(pixels), source, _linear())
    if target == "linear":
        return values
    return linear_to_srgb(values) if target == "srgb" else _convert(values, _linear(), target)


def convert_still(pixels: Pixels, source: str, target: str) -> Floats:
    """As `convert`, of a still, whose light is as bright as `white_of_stills` says."""
    white = white_of_stills(source, pixels.dtype)
    if white == 1 or source == target:
        return convert(pixels, source, target)
    return convert(convert(pixels, source, "linear") * np.float32(white), "linear", target)


def white_of_stills(color_space: str, dtype: np.dtype[Any]) -> float:
    """How bright Blender shows a still's light, as a share of what the configuration says.

    To Blender 5.0 and 5.2, white is at 203 nits in PQ and HLG stills of more than 8 bits, at 100 in all movies, as in
    its configuration (`colormanage_imbuf_make_linear`).
    """
    if dtype == np.uint8 or color_space in ("srgb", "linear"):
        return 1.0
    check_color_space(color_space)
    return 100 / 203 if _config().get_color_interop_id(color_space) in _HDR else 1.0


def _look_up(table: Pixels, codes: Pixels) -> Pixels:
    """`table[codes]`, for uint8 or uint16; a fifth of numpy's time."""
    return np.asarray(cv2.LUT(codes.reshape(1, -1), table.reshape(1, -1))).reshape(codes.shape)


@cache
def _linear_of_codes(dtype: np.dtype[Any], result: np.dtype[Any]) -> Pixels:
    return to_dtype(srgb_to_linear(to_float(np.arange(np.iinfo(dtype).max + 1).astype(dtype))), result)


def is_scene_linear(color_space: str) -> bool:
    """Whether values are proportional to light: "linear", and linear spaces of other primaries such as ACEScg.

    Raises:
        JobError: a colour space that the configuration does not know.
    """
    check_color_space(color_space)
    return color_space == "linear" or (color_space != "srgb" and _config().isColorSpaceLinear(color_space))


_HDR = {"pq_rec2020_display", "hlg_rec2020_display"}  # the Color Interop Forum's names


def is_data(color_space: str) -> bool:
    """Whether it is one of the configuration's spaces of data, as Non-Color or Raw, which convert as light would."""
    return _is_named(color_space) and bool(_config().isData(color_space))


def seen_as(color_space: str, is_float: bool) -> str:
    """The space that frames of `color_space` are looked at in: what is unnamed or data is sRGB, floats linear light."""
    return ("linear" if is_float else "srgb") if color_space == "auto" or is_data(color_space) else color_space


# OpenImageIO's own name for "linear", an alias in Blender's configurations and the ACES ones; those of older ones
_LINEAR = ("lin_rec709", "lin_srgb", "Linear Rec.709", "Utility - Linear - Rec.709", "Utility - Linear - sRGB")


@cache
def _linear() -> str:
    """What the configuration calls "linear".

    Raises:
        JobError: it has no such space.
    """
    for name in _LINEAR:
        if _config().getColorSpaceIndex(name) >= 0:
            return name
    raise JobError(
        f"an OpenColorIO configuration with one of {', '.join(_LINEAR)}",
        _config().configname() or "one without",
        "Set OCIO to another, or convert the footage to sRGB or linear light first",
    )


@cache
def _config() -> oiio.ColorConfig:
    config = oiio.ColorConfig()
    problem = config.geterror()
    if problem:
        raise JobError(
            "an OpenColorIO configuration where the variable OCIO points", problem, "Correct or remove that variable"
        )
    return config


def check_color_space(name: str) -> None:
    """Raise JobError unless `name` is auto, srgb, linear, or known to the OpenColorIO configuration."""
    if name not in ("auto", "srgb", "linear") and not _is_named(name):
        config = _config()
        raise JobError(
            f"a colour space of {config.configname() or 'the built-in configuration'}",
            repr(name),
            "Use auto, srgb, linear, or set OCIO to the configuration that has it. This one has: "
            + ", ".join(config.getColorSpaceNames()),
        )


def _is_named(color_space: str) -> bool:
    """Whether it is one of the configuration's."""
    if color_space in ("auto", "srgb", "linear"):
        return False
    try:
        return bool(_config().getColorSpaceIndex(color_space) >= 0)
    except TypeError:  # half a character
        return False


def _convert(values: Floats, source: str, target: str) -> Floats:
    check_color_space(source if target == _linear() else target)
    image = oiio.ImageBuf(np.ascontiguousarray(values, np.float32))
    result = oiio.ImageBufAlgo.colorconvert(image, source, target, colorconfig="")
    if result.has_error:
        raise JobError("a colour space that converts to linear Rec.709", result.geterror(), "Choose another")
    return np.asarray(result.get_pixels(oiio.FLOAT), np.float32)
