# SPDX-License-Identifier: GPL-3.0-or-later
import os
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_rounded_and_clipped(dtype):
    limit = np.iinfo(dtype).max
    values = np.float32([[-1, 0.4 / limit], [0.6 / limit, 2]])
    assert np.array_equal(color.to_dtype(values, np.dtype(dtype)), [[0, 0], [1, limit]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("target", ["linear", "ACEScg"])
def test_a_foreground_is_stored_as_computing_it_would(dtype, target):
    """By a table of 65536 codes: to half of one of them, and as the type rounds."""
    fgr = np.random.default_rng(0).random((32, 32, 3), np.float32)
    stored = color.matte_to(fgr, target, np.dtype(dtype))
    assert stored.dtype == dtype
    assert np.allclose(
        stored, color.convert(fgr, "srgb", target), rtol=5e-4 if dtype == np.float16 else 1e-6, atol=2e-5
    )


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
    assert np.allclose(color.convert(srgb, "srgb", "ACEScct"), pixels, atol=1e-3)


def test_unknown_color_space_lists_the_known_ones():
    for name in ("Kodak 2000", "half a \ud800"):
        with pytest.raises(JobError, match="ACEScg"):
            color.is_scene_linear(name)


def test_a_space_converts_to_itself_untouched():
    pixels = np.float16([[[7.0, -1.0, 0.18]]])
    assert np.array_equal(color.convert(pixels, "ACEScg", "ACEScg"), pixels.astype(np.float32))


def test_scene_linear_spaces():
    spaces = {"linear": True, "srgb": False, "ACEScg": True, "ACEScct": False, "lin_rec709": True}
    assert {space: color.is_scene_linear(space) for space in spaces} == spaces


def test_the_network_s_view_of_light_is_exact_to_11_bits():
    light = np.linspace(0, 1.2, 30000, dtype=np.float32).reshape(100, 100, 3)
    assert np.abs(color.to_srgb(light, "linear") - color.linear_to_srgb(light.clip(0, 1))).max() < 1 / 2048


@pytest.mark.parametrize(
    ("config", "words"), [("/none/config.ocio", "where the variable OCIO points"), ("ocio://cg-config-latest", "known")]
)
def test_the_environment_names_the_configuration(config, words):
    code = "from core import color; color.check_color_space('ACEScg'); print('known')"
    environment = {**os.environ, "OCIO": config}
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)
    assert words in done.stdout + done.stderr


def test_a_configuration_by_other_names(tmp_path):
    """Old and home-made ones: linear Rec.709 under their own name; one without it is said to be."""
    code = "import numpy; from core import color; print(color.convert(numpy.full((1, 1, 3), 0.5), 'two', 'linear'))"
    root = Path(__file__).parent.parent
    said = []
    for name in ("Utility - Linear - sRGB", "house"):
        (tmp_path / "config.ocio").write_text(
            "ocio_profile_version: 1\nroles: {default: raw}\ndisplays: {d: [!<View> {name: v, colorspace: raw}]}\n"
            f"colorspaces:\n  - !<ColorSpace> {{name: raw, isdata: true}}\n  - !<ColorSpace> {{name: {name}}}\n"
            "  - !<ColorSpace> {name: two, to_reference: !<ExponentTransform> {value: [2, 2, 2, 1]}}\n"
        )
        environment = {**os.environ, "OCIO": str(tmp_path / "config.ocio")}
        done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)
        said.append(done.stdout + done.stderr)
    assert "0.25 0.25 0.25" in said[0]
    assert "an OpenColorIO configuration with one of lin_rec709" in said[1]


def test_fast_conversions_are_numpy_s_own_to_the_bit():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[~np.isnan(halves)]
    with np.errstate(over="ignore"):
        floats = np.concatenate([np.random.default_rng(0).uniform(-70000, 70000, 10000), [0.1, 6e-8, 1e-9]]).astype(
            "f4"
        )
        assert np.array_equal(color.to_dtype(floats, np.dtype("f2")), floats.astype("f2"))
    assert np.array_equal(color.to_float(halves), halves.astype(np.float32))
    assert np.array_equal(color.to_dtype(halves.astype(np.float32), np.dtype("f2")), halves)
    codes = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(color.convert(codes, "srgb", "linear"), color.srgb_to_linear(color.to_float(codes)))
    light = halves[: halves.size // 3 * 3].reshape(1, -1, 3)
    expected = color.linear_to_srgb(np.clip(light.astype(np.float32), 0, 1))
    assert np.array_equal(color.to_srgb(light, "linear"), expected)
