# SPDX-License-Identifier: GPL-3.0-or-later
import numpy as np
import pytest

from core import color
from core.errors import JobError


def test_srgb_values_by_hand():
    values = np.float32([0.0, 0.04045, 0.5, 1.0])
    assert np.allclose(color.srgb_to_linear(values), [0.0, 0.0031308, 0.2140411, 1.0], atol=1e-6)


def test_linear_keeps_values_above_one_and_below_zero():
    values = np.float32([-0.2, 0.001, 0.18, 4.0])
    assert np.allclose(color.srgb_to_linear(color.linear_to_srgb(values)), values, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_survive_the_round_trip(dtype):
    pixels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    assert np.array_equal(color.to_dtype(color.to_float(pixels), np.dtype(dtype)), pixels)


def test_srgb_integers_reach_the_network_untouched():
    pixels = np.full((2, 2, 3), 200, np.uint8)
    assert color.to_srgb(pixels, "srgb") is pixels


def test_the_network_sees_linear_footage_clipped():
    pixels = np.float32([[[7.0, -1.0, np.nan]]])
    assert np.allclose(color.to_srgb(pixels, "linear"), [[[1, 0, 0]]])


def test_half_linear_keeps_every_8_bit_code():
    """EXR output of an 8-bit source: half-float linear light still tells all 256 codes apart."""
    codes = np.arange(256, dtype=np.uint8)
    half = color.convert(codes, "srgb", "linear").astype(np.float16)
    back = color.to_dtype(color.linear_to_srgb(half.astype(np.float32)), np.dtype(np.uint8))
    assert np.array_equal(back, codes)


def test_named_color_space_round_trip():
    pixels = np.float32([[[0.4, 0.42, 0.41]]])
    srgb = color.to_srgb(pixels, "ACEScct")
    assert not np.allclose(srgb, pixels, atol=0.01)
    assert np.allclose(color.from_srgb(srgb, "ACEScct"), pixels, atol=1e-3)


def test_unknown_color_space_lists_the_known_ones():
    with pytest.raises(JobError, match="ACEScg"):
        color.check_color_space("Kodak 2000")
