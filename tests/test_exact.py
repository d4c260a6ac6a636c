# SPDX-License-Identifier: GPL-3.0-or-later
"""Footage of every kind, encoded here, comes in as the colours that went in, and out again to the last bit."""

from __future__ import annotations

import struct
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import OpenEXR
import OpenImageIO as oiio
import pytest

from core import color, delivery, engine, frame_io
from core.errors import FootageError, JobError
from core.job import Job, Output, PlateSource, Source
from core.matting import Matte

COLORS = np.uint8([[200, 120, 40], [30, 160, 220], [128, 128, 128], [255, 255, 255], [0, 0, 0], [250, 20, 20]])
MATRICES = {"ITU601": 5, "ITU709": 1, "2020": 9}  # PyAV's name, its code in ITU-T H.273
LIMITED, FULL = 1, 2


def bars(frame: int, width: int = 96, height: int = 64) -> np.ndarray:
    """(H, W, 3) uint8: six bars of COLORS, which move on by one bar a frame."""
    order = np.roll(np.arange(6), -frame)
    return np.repeat(COLORS[order], width // 6, axis=0)[None].repeat(height, axis=0)


def centres(pixels: np.ndarray) -> np.ndarray:
    """(6, 3) the colours in the bars' middle, as 0 to 255."""
    values = color.to_float(pixels) * 255
    return values[values.shape[0] // 2, values.shape[1] // 12 :: values.shape[1] // 6]


def write_movie(
    path: Path,
    codec: str,
    pix_fmt: str,
    matrix: str | None = "ITU709",
    full_range: int | None = LIMITED,
    options: dict[str, str] | None = None,
    width: int = 96,
    aspect: Fraction | None = None,
) -> Path:
    """Three frames of bars at 24 frames a second, tagged with matrix and range unless these are None."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=24, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, 64 if width == 96 else 128, pix_fmt
        if matrix:
            stream.codec_context.colorspace = MATRICES[matrix]
        if full_range:
            stream.codec_context.color_range = full_range
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for index in range(3):
            pixels = bars(index, width, stream.height)
            if pix_fmt == "gbrp16le":
                picture = av.VideoFrame.from_ndarray(pixels.astype(np.uint16) * 257, format=pix_fmt)
            else:
                picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                    format=pix_fmt,
                    dst_colorspace=MATRICES[matrix or "ITU601"],
                    dst_color_range=full_range or LIMITED,
                    interpolation="POINT",
                )
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def check_movie(path: Path, dtype: type, tolerance: float) -> None:
    footage = frame_io.open_footage(path)
    assert footage.numbers == [1, 2, 3] and footage.fps == 24
    for number, frame in footage.frames([1, 2, 3]):
        expected = COLORS[np.roll(np.arange(6), 1 - number)]
        assert frame.pixels.dtype == dtype
        assert np.abs(centres(frame.pixels) - expected).max() <= tolerance, centres(frame.pixels)


@pytest.mark.parametrize("full_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(("pix_fmt", "dtype"), [("yuv420p", np.uint8), ("yuv444p10le", np.uint16)])
def test_matrix_and_range_come_from_the_tags(tmp_path, pix_fmt, dtype, matrix, full_range):
    path = write_movie(tmp_path / "a.mp4", "libx264", pix_fmt, matrix, full_range, {"crf": "1"})
    check_movie(path, dtype, 2.1 if dtype == np.uint8 else 1.1)


def test_untagged_is_bt601_limited_at_any_size(tmp_path):
    check_movie(write_movie(tmp_path / "a.mp4", "libx264", "yuv444p", None, None, {"crf": "1"}), np.uint8, 2)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "dtype", "tolerance", "options"),
    [
        ("a.mp4", "libx265", "yuv420p", np.uint8, 2.1, {"crf": "1", "x265-params": "log-level=none"}),
        ("a.mp4", "libx265", "yuv420p10le", np.uint16, 1.2, {"crf": "1", "x265-params": "log-level=none"}),
        ("a.mp4", "libx265", "yuv444p12le", np.uint16, 1.1, {"crf": "1", "x265-params": "log-level=none"}),
        ("a.mov", "prores_ks", "yuv422p10le", np.uint16, 1.1, {"profile": "3"}),
        ("a.mov", "prores_ks", "yuva444p10le", np.uint16, 1.1, {"profile": "4"}),
        ("a.mov", "dnxhd", "yuv422p", np.uint8, 2.1, {"profile": "dnxhr_hq"}),
        ("a.mxf", "dnxhd", "yuv422p10le", np.uint16, 1.1, {"profile": "dnxhr_hqx"}),
        ("a.mkv", "ffv1", "yuv422p12le", np.uint16, 1.1, None),
        ("a.webm", "libvpx-vp9", "yuv420p", np.uint8, 3, {"crf": "4", "b": "0"}),
    ],
)
def test_codecs_and_depths(tmp_path, name, codec, pix_fmt, dtype, tolerance, options):
    width = 258 if codec == "dnxhd" else 96
    check_movie(write_movie(tmp_path / name, codec, pix_fmt, options=options, width=width), dtype, tolerance)


@pytest.mark.parametrize(
    ("pix_fmt", "rows", "columns"),
    [
        ("yuv420p", 2, 2),
        ("yuv422p", 1, 2),
        ("yuv411p", 1, 4),
        ("yuv440p", 2, 1),
        ("yuv420p10le", 2, 2),
        ("yuv422p12le", 1, 2),
    ],
)
def test_chroma_is_repeated_not_blended(tmp_path, pix_fmt, rows, columns):
    """Even brightness, noisy chroma: one colour for all pixels that share a chroma sample, as Blender shows it."""
    picture = av.VideoFrame(96, 64, pix_fmt)
    scale = 1 << (picture.format.components[0].bits - 8)
    random = np.random.default_rng(2)
    for plane, low, high in zip(picture.planes, (100, 90, 90), (100, 160, 160), strict=True):
        samples = np.frombuffer(memoryview(plane), np.uint8 if scale == 1 else np.uint16)
        samples[:] = random.integers(low * scale, high * scale, samples.shape, endpoint=True)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    pixels = next(frame_io.open_footage(tmp_path / "a.mkv").frames([1]))[1].pixels
    blocks = pixels.reshape(64 // rows, rows, 96 // columns, columns, 3)
    assert (blocks == blocks[:, :1, :, :1]).all() and np.std(pixels[0, :, 2]) > 5


@pytest.mark.parametrize("full_range", [LIMITED, FULL])
@pytest.mark.parametrize(("pix_fmt", "planar"), [("uyvy422", "yuv422p"), ("yuyv422", "yuv422p"), ("nv12", "yuv420p")])
def test_uncompressed_samples_show_the_same_in_any_order(tmp_path, pix_fmt, planar, full_range):
    """A capture card's movies, whose chroma lies between the brightness, as those with planes of each."""
    noise = np.random.default_rng(2).integers(0, 255, (64, 96, 3), np.uint8, endpoint=True)
    samples = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=planar, dst_color_range=full_range)
    shown = []
    for order in (pix_fmt, planar):
        with av.open(str(tmp_path / f"{order}.mkv"), "w") as container:
            stream = container.add_stream("rawvideo", rate=24)
            stream.width, stream.height, stream.pix_fmt = 96, 64, order
            stream.codec_context.colorspace, stream.codec_context.color_range = MATRICES["ITU709"], full_range
            container.mux(stream.encode(samples.reformat(format=order)))
        shown.append(next(frame_io.open_footage(tmp_path / f"{order}.mkv").frames([1]))[1].pixels)
    assert np.array_equal(*shown)


@pytest.mark.parametrize(("pix_fmt", "dtype"), [("bgr0", np.uint8), ("gbrp16le", np.uint16)])
def test_rgb_movies_to_the_bit(tmp_path, pix_fmt, dtype):
    check_movie(write_movie(tmp_path / "a.mkv", "ffv1", pix_fmt, None, None), dtype, 1e-4)


def test_motion_jpeg_is_full_range_bt601(tmp_path):
    path = write_movie(tmp_path / "a.mov", "mjpeg", "yuvj422p", None, FULL, {"qmin": "1", "qmax": "1"})
    check_movie(path, np.uint8, 4)


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
    ids=["clockwise", "half", "counter-clockwise"],
)
def test_rotation_tag(tmp_path, matrix, turns):
    path = write_movie(tmp_path / "a.mp4", "libx264", "yuv444p", options={"crf": "1"})
    upright = next(frame_io.open_footage(path).frames([2]))[1].pixels
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # the track header's display matrix: a, b, u, c, d, v, x, y, w
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    footage = frame_io.open_footage(path)
    pixels = next(footage.frames([2]))[1].pixels
    assert (footage.height, footage.width) == pixels.shape[:2] == np.rot90(upright, turns).shape[:2]
    assert np.array_equal(pixels, np.rot90(upright, turns))


def test_sample_aspect_leaves_the_pixels_as_they_are_stored(tmp_path):
    path = write_movie(tmp_path / "a.mp4", "libx264", "yuv444p", options={"crf": "1"}, aspect=Fraction(4, 3))
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    footage = frame_io.open_footage(path)
    assert (footage.width, footage.height) == (96, 64)
    check_movie(path, np.uint8, 2)


def test_pq_without_a_named_space_is_warned_of(tmp_path):
    tags = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    options = {"crf": "1", "x265-params": f"log-level=none:{tags}"}
    path = write_movie(tmp_path / "a.mp4", "libx265", "yuv420p10le", "2020", LIMITED, options)
    assert "Rec.2100-PQ" in frame_io.open_footage(path).warnings[0]
    assert not frame_io.open_footage(path, "srgb").warnings


def test_an_interlaced_movie_is_warned_of(tmp_path):
    for flags, warned in (("+ildct+ilme", True), ("+global_header", False)):
        path = write_movie(tmp_path / f"{warned}.mov", "mpeg2video", "yuv420p", options={"flags": flags})
        warnings = frame_io.open_footage(path).warnings
        assert any("interlaced" in words for words in warnings) == warned


def write_still(
    path: Path, pixels: np.ndarray, kind: str, channels: tuple[str, ...] | None = None, **tags: Any
) -> Path:
    spec = oiio.ImageSpec(pixels.shape[1], pixels.shape[0], pixels.shape[2], kind)
    if channels:
        spec.channelnames = channels
    for name, value in tags.items():
        spec.attribute(name.replace("__", ":"), *(value if isinstance(value, tuple) else (value,)))
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec), output.geterror()
    assert output.write_image(pixels) and output.close(), output.geterror()
    return path


def noise(dtype: Any, channels: int = 3) -> np.ndarray:
    random = np.random.default_rng(5)
    if np.dtype(dtype).kind == "u":
        return random.integers(0, np.iinfo(dtype).max, (24, 32, channels), dtype, endpoint=True)
    return (random.random((24, 32, channels)) * 9 - 1).astype(dtype)


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [
        ("a.png", np.uint8, "uint8"),
        ("a.png", np.uint16, "uint16"),
        ("a.tif", np.uint8, "uint8"),
        ("a.tif", np.uint16, "uint16"),
        ("a.tif", np.float32, "float"),
        ("a.exr", np.float16, "half"),
        ("a.exr", np.float32, "float"),
        ("a.dpx", np.uint8, "uint8"),
        ("a.dpx", np.uint16, "uint16"),
        ("a.bmp", np.uint8, "uint8"),
        ("a.tga", np.uint8, "uint8"),
    ],
)
def test_stills_to_the_bit(tmp_path, name, dtype, kind):
    pixels = noise(dtype)
    read = frame_io.read_image(write_still(tmp_path / name, pixels, kind))
    assert read.dtype == dtype and np.array_equal(read, pixels)


@pytest.mark.parametrize("bits", [10, 12])
def test_dpx_codes(tmp_path, bits):
    """The file's own codes come back: x / (2^bits - 1), as 16 bits hold it."""
    codes = np.arange(24 * 32 * 3).reshape(24, 32, 3) % (1 << bits)
    stored = np.round(codes * 65535 / ((1 << bits) - 1)).astype(np.uint16)
    read = frame_io.read_image(write_still(tmp_path / "a.dpx", stored, "uint16", oiio__BitsPerSample=bits))
    assert read.dtype == np.uint16
    assert np.array_equal(np.round(read * (((1 << bits) - 1) / 65535)), codes)


@pytest.mark.parametrize("offset", [(0, 0), (7, 3)])
@pytest.mark.parametrize("original", [(4096, 3112), (32, 24), (16, 12), (0, 0)])
def test_where_a_dpx_or_tiff_lay_in_a_scan_changes_nothing(tmp_path, original, offset):
    """As in Blender: the picture is what is stored."""
    codes = noise(np.uint16)
    data = bytearray(write_still(tmp_path / "a.dpx", codes, "uint16").read_bytes())
    order = ">" if data.startswith(b"SDPX") else "<"
    struct.pack_into(f"{order}2I", data, 1408, *offset)
    struct.pack_into(f"{order}2I", data, 1424, *original)
    (tmp_path / "b.dpx").write_bytes(data)
    spec = oiio.ImageSpec(32, 24, 3, "uint16")
    spec.x, spec.y, spec.full_width, spec.full_height = *offset, *original
    output = oiio.ImageOutput.create("b.tif")
    assert output.open(str(tmp_path / "b.tif"), spec) and output.write_image(codes) and output.close()
    for name in ("b.dpx", "b.tif"):
        footage = frame_io.open_footage(tmp_path / name)
        assert (footage.width, footage.height) == (32, 24) and not footage.warnings
        assert np.array_equal(frame_io.read_image(tmp_path / name), codes)


@pytest.mark.parametrize(
    ("transfer", "warned"), [("Logarithmic", True), ("Printing density", True), ("ITU-R 709-4", False), ("", False)]
)
def test_log_dpx_without_a_named_space_is_warned_of(tmp_path, transfer, warned):
    path = write_still(tmp_path / "a.dpx", np.zeros((4, 6, 3), np.uint16), "uint16", dpx__Transfer=transfer)
    assert any("tagged logarithmic" in words for words in frame_io.open_footage(path).warnings) == warned
    assert not frame_io.open_footage(path, "srgb").warnings


def test_exr_of_other_primaries_without_a_named_space_is_warned_of(tmp_path):
    aces = (0.713, 0.293, 0.165, 0.83, 0.128, 0.044, 0.32168, 0.33767)
    for name, primaries in (("aces.exr", aces), ("rec709.exr", frame_io._REC709), ("none.exr", None)):
        header = {"chromaticities": primaries} if primaries else {}
        OpenEXR.File(header, {"RGB": np.zeros((4, 6, 3), np.float16)}).write(str(tmp_path / name))
        warnings = frame_io.open_footage(tmp_path / name).warnings
        assert any("tagged with other primaries" in words for words in warnings) == (name == "aces.exr")
        assert not frame_io.open_footage(tmp_path / name, "linear").warnings


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
@pytest.mark.parametrize(
    ("profile", "warned"),
    [
        ((0.5151, 0.2412, -0.0011, 0.292, 0.6922, 0.0419, 0.1571, 0.0666, 0.7841), True),  # Display P3
        (frame_io._REC709_XYZ, False),
        (None, False),  # has none, as a printer's
    ],
)
def test_still_with_a_profile_of_other_primaries_is_warned_of(tmp_path, name, profile, warned):
    colors = zip((b"rXYZ", b"gXYZ", b"bXYZ"), np.reshape(profile or [], (-1, 3)), strict=False)
    tags = [(tag, struct.pack(">4s4x3i", b"XYZ ", *(round(65536 * v) for v in xyz))) for tag, xyz in colors]
    table = b"".join(struct.pack(">4sII", tag, 168 + 20 * i, 20) for i, (tag, _) in enumerate(tags)).ljust(36, b"\0")
    data = b"".join(xyz for _, xyz in tags).ljust(60, b"\0")
    head = struct.pack(">I4sI4s4s4s12x4s88xI", 228, b"lcms", 4 << 24, b"mntr", b"RGB ", b"XYZ ", b"acsp", len(tags))
    tag = oiio.TypeDesc("uint8[228]"), np.frombuffer(head + table + data, np.uint8)
    path = write_still(tmp_path / name, np.zeros((4, 6, 3), np.uint8), "uint8", ICCProfile=tag)
    assert any("tagged with other primaries" in words for words in frame_io.open_footage(path).warnings) == warned
    assert not frame_io.open_footage(path, "srgb").warnings


@pytest.mark.parametrize(("codes", "warned"), [((9, 16, 0, 1), True), ((1, 13, 0, 1), False)])
def test_png_tagged_with_other_primaries_is_warned_of(tmp_path, codes, warned):
    tag = oiio.TypeDesc("int[4]"), codes
    path = write_still(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint16), "uint16", CICP=tag)
    assert any("tagged with other primaries" in words for words in frame_io.open_footage(path).warnings) == warned


def test_jpeg(tmp_path):
    read = frame_io.read_image(write_still(tmp_path / "a.jpg", bars(0), "uint8", Compression="jpeg:99"))
    assert np.abs(centres(read) - COLORS).max() <= 3


def test_exr_parts_and_layers(tmp_path):
    light = noise(np.float16)
    write_still(tmp_path / "layers.exr", np.dstack([light[..., ::-1], light, light]), "half", (
        *("ViewLayer.AO.B", "ViewLayer.AO.G", "ViewLayer.AO.R"),
        *("ViewLayer.Combined.R", "ViewLayer.Combined.G", "ViewLayer.Combined.B"),
        *("Z.X", "Z.Y", "Z.Z"),
    ))  # fmt: skip
    assert np.array_equal(frame_io.read_image(tmp_path / "layers.exr"), light)

    names = ("B", *(f"Bx{i}.V" for i in range(20)), "G", "R")  # far apart: B and R with 20 layers between
    planes = [light[..., 2], *np.zeros((20, 24, 32), np.float16), light[..., 1], light[..., 0]]
    write_still(tmp_path / "apart.exr", np.dstack(planes), "half", names)
    assert np.array_equal(frame_io.read_image(tmp_path / "apart.exr"), light)

    specs = [oiio.ImageSpec(32, 24, 1, "float"), oiio.ImageSpec(32, 24, 3, "half")]
    specs[0].channelnames = ("Z",)
    for spec, name in zip(specs, ("depth", "rgb"), strict=True):
        spec.attribute("oiio:subimagename", name)
    output = oiio.ImageOutput.create("parts.exr")
    assert output.open(str(tmp_path / "parts.exr"), tuple(specs))
    output.write_image(np.zeros((24, 32, 1), np.float32))
    assert output.open(str(tmp_path / "parts.exr"), specs[1], "AppendSubimage")
    output.write_image(light)
    output.close()
    assert np.array_equal(frame_io.read_image(tmp_path / "parts.exr"), light)
    assert frame_io.open_footage(tmp_path / "parts.exr").is_float

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    channels = {"RGB": light, "Z": np.ones((24, 32), np.float32)}  # depth as renderers write it
    OpenEXR.File(header, channels).write(str(tmp_path / "depth.exr"))
    read = frame_io.read_image(tmp_path / "depth.exr")
    assert read.dtype == np.float16 and np.array_equal(read, light)


class OpaqueLeft:
    """In place of the network: alpha 1 in the left half, 0.99997 in the next quarter, 0.25 in the last."""

    is_recurrent = False
    overlapping = staticmethod(nullcontext)

    def reset(self) -> None: ...

    def matte(self, src: np.ndarray, *_: Any) -> Matte:
        pha = np.full(src.shape[:2], 0.25, np.float32)
        width = src.shape[1]
        pha[:, : width // 2] = 1
        pha[:, width // 2 : width * 3 // 4] = 0.99997
        return Matte(pha, np.full(src.shape, 0.5, np.float32), np.zeros_like(pha))


@pytest.fixture
def opaque_left(monkeypatch):
    monkeypatch.setattr(engine, "_warm_matter", lambda job: OpaqueLeft())


def read_rgba(path: str) -> np.ndarray:
    hints = oiio.ImageSpec()
    hints["oiio:UnassociatedAlpha"] = 1
    image = oiio.ImageInput.open(path, hints)
    return np.asarray(image.read_image(str(image.spec().format)))


@pytest.mark.parametrize("output_format", ["auto", "exr"])
@pytest.mark.parametrize(
    ("name", "dtype", "kind", "color_space"),
    [
        ("a.png", np.uint8, "uint8", "auto"),
        ("a.png", np.uint16, "uint16", "auto"),
        ("a.dpx", np.uint16, "uint16", "ACEScct"),
        ("a.dpx", np.uint16, "uint16", "linear"),
        ("a.jpg", np.uint8, "uint8", "auto"),
        ("a.tif", np.float32, "float", "srgb"),
        ("a.exr", np.float16, "half", "auto"),
        ("a.exr", np.float32, "float", "auto"),
        ("a.exr", np.float16, "half", "ACEScg"),
    ],
)
def test_where_alpha_is_one_the_foreground_is_the_source(
    tmp_path, opaque_left, name, dtype, kind, color_space, output_format
):
    """Bit for bit in the source's own encoding; else (EXR of encoded footage) as its exact light."""
    path = write_still(tmp_path / name, noise(dtype), kind)
    source = frame_io.read_image(path)
    job = Job(Source(str(path), color_space), output=Output(str(tmp_path / "out"), output_format, matte=True))
    result = engine.run_job(job)
    space = frame_io.open_footage(path, color_space).color_space
    alpha = frame_io.read_image(Path(result["alpha"]))[..., 0]
    exr = alpha.dtype == np.float16
    opaque = alpha == (1 if exr else 65535)
    assert opaque[:, :16].all() and not opaque[:, 24:].any()
    assert opaque[0, 20] == exr  # 0.99997 is 1 to a half float
    own = not exr or color.is_scene_linear(space)
    assert result["foreground_color_space"] == (space if own else "linear")
    written = frame_io.read_image(Path(result["foreground"]))
    expected = source if own else color.convert(source, space, "linear")
    if exr:
        expected = color.to_float(expected).astype(written.dtype)  # 8-bit codes as half, 16-bit ones as float
        assert written.dtype == (np.float16 if source.dtype in (np.uint8, np.float16) else np.float32)
    assert written.dtype == expected.dtype and np.array_equal(written[opaque], expected[opaque])
    rgba = read_rgba(result["matte"])
    full = 1 if rgba.dtype.kind == "f" else np.iinfo(rgba.dtype).max
    assert np.array_equal(rgba[rgba[..., 3] == full][:, :3], expected[rgba[..., 3] == full])


@pytest.mark.parametrize("name", ["a.png", "a.mov"])
def test_light_of_pq_is_what_blender_makes_of_it(tmp_path, opaque_left, name):
    """White is at 203 nits in stills of more than 8 bits, at 100 in movies: EXR for these, too."""
    space, still = "Rec.2100-PQ - Display", name == "a.png"
    if still:
        path = write_still(tmp_path / name, noise(np.uint16), "uint16")
    else:
        path = write_movie(tmp_path / name, "prores_ks", "yuv422p10le", options={"profile": "3"})
    job = Job(Source(str(path), space), output=Output(str(tmp_path / "out"), "exr" if still else "auto", matte=True))
    result = engine.run_job(job)
    _, frame = next(frame_io.open_footage(path, space).frames([1]))
    light = color.convert(frame.pixels, space, "linear") * (100 / 203 if still else 1)
    written = frame_io.read_image(Path(result["foreground"]))
    half = frame.pixels.shape[1] // 2
    assert written.dtype == np.float32 and light.max() > 40
    assert np.allclose(written[:, :half], light[:, :half], rtol=1e-5)
    grey = color.srgb_to_linear(np.float32(0.5)) * (100 / 203 if still else 1)  # what the network made up
    assert np.allclose(written[:, -2:], grey, rtol=1e-4)
    delivered = delivery.deliver(delivery.read_finished(tmp_path / "out"), ["rgba"])["rgba"]
    assert np.allclose(frame_io.read_image(Path(delivered))[:, :half], light[:, :half], rtol=1e-5)


def test_deliveries_of_a_pq_still_show_it_as_blender_does(tmp_path, opaque_left):
    space = "Rec.2100-PQ - Display"
    path = write_still(tmp_path / "a.png", noise(np.uint16), "uint16")
    engine.run_job(Job(Source(str(path), space), output=Output(str(tmp_path / "out"))))
    light = color.convert(frame_io.read_image(path), space, "linear") * (100 / 203)
    finished = delivery.read_finished(tmp_path / "out")
    made = delivery.deliver(finished, ["multilayer"], plate=PlateSource(str(path), space))["multilayer"]
    image = oiio.ImageBuf(made)
    layers = dict(zip(image.spec().channelnames, np.moveaxis(image.get_pixels(oiio.FLOAT), -1, 0), strict=True))
    assert np.allclose(layers["foreground.G"][:, :16], light[:, :16, 1], rtol=1e-5)
    assert np.allclose(layers["plate.G"], light[..., 1], rtol=1e-5)


@pytest.mark.parametrize("output_format", ["png", "exr"])
@pytest.mark.parametrize(("name", "dtype"), [("a.png", np.uint8), ("a.png", np.uint16), ("a.mkv", np.uint8)])
def test_data_is_seen_as_it_looks_and_comes_back_as_it_is(tmp_path, monkeypatch, name, dtype, output_format):
    """Integers of a space of data (Non-Color, Raw): the network sees their codes, Blender shows them as light."""
    seen = []

    class Seeing(OpaqueLeft):
        def matte(self, src: np.ndarray, *_: Any) -> Matte:
            seen.append(src)
            return super().matte(src)

    monkeypatch.setattr(engine, "_warm_matter", lambda job: Seeing())
    path = tmp_path / name
    if name == "a.mkv":
        write_movie(path, "ffv1", "bgr0", None, None)
    else:
        write_still(path, noise(dtype), np.dtype(dtype).name)
    job = Job(Source(str(path), "Raw"), output=Output(str(tmp_path / "out"), output_format))
    result = engine.run_job(job, frames=(1, 1))
    _, frame = next(frame_io.open_footage(path).frames([1]))
    assert np.array_equal(seen[0], frame.pixels) and seen[0].dtype == dtype
    assert result["foreground_color_space"] == "Raw"
    written, half = color.to_float(frame_io.read_image(Path(result["foreground"]))), frame.pixels.shape[1] // 2
    assert np.allclose(written[:, :half], color.to_float(frame.pixels)[:, :half], atol=3e-4)
    assert np.allclose(written[:, -2:], 0.5, atol=0.003)  # what the network made up
    finished = delivery.read_finished(tmp_path / "out")
    assert finished.color_space == "Raw"
    delivered = delivery.deliver(finished, ["multilayer"], plate=PlateSource(str(path), "Raw"))["multilayer"]
    image = oiio.ImageBuf(delivered)
    layers = dict(zip(image.spec().channelnames, np.moveaxis(image.get_pixels(oiio.FLOAT), -1, 0), strict=True))
    assert np.allclose(layers["foreground.G"][:, :half], color.to_float(frame.pixels)[:, :half, 1], atol=3e-4)
    assert np.allclose(layers["plate.G"], color.to_float(frame.pixels)[..., 1], atol=3e-4)


def test_movie_pixels_come_back(tmp_path, opaque_left):
    path = write_movie(tmp_path / "a.mov", "prores_ks", "yuv422p10le", options={"profile": "3"})
    engine.run_job(Job(Source(str(path)), output=Output(str(tmp_path / "out"))))
    for number, frame in frame_io.open_footage(path).frames([1, 2, 3]):
        written = frame_io.read_image(tmp_path / f"out/foreground/foreground.{number:04d}.png")
        assert written.dtype == np.uint16 and np.array_equal(written[:, :48], frame.pixels[:, :48])


def test_png_cannot_hold_floats_or_light(tmp_path, opaque_left):
    for name, kind, dtype, space in (("a.tif", "float", np.float32, "srgb"), ("a.png", "uint16", np.uint16, "ACEScg")):
        path = write_still(tmp_path / name, noise(dtype), kind)
        with pytest.raises(JobError, match="PNG cannot hold"):
            engine.run_job(Job(Source(str(path), space), output=Output(str(tmp_path / "out"), "png")))


def test_a_movie_that_changes_size_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.ts"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        other = av.CodecContext.create("libx264", "w")
        other.time_base, other.framerate = Fraction(1, 25), Fraction(25)
        for start, encoder, width in ((0, stream, 96), (5, other, 192)):
            encoder.width, encoder.height, encoder.pix_fmt = width, 64, "yuv420p"
            pictures = [av.VideoFrame.from_ndarray(bars(i, width), format="rgb24") for i in range(5)]
            for index, picture in enumerate([*pictures, None]):
                if picture:
                    picture.pts, picture.time_base = start + index, Fraction(1, 25)
                for packet in encoder.encode(picture):
                    packet.stream = stream
                    container.mux(packet)
    footage = frame_io.open_footage(tmp_path / "a.ts")
    words = r"every frame at 96 x 64, as .*a\.ts begins; got frame \d of another size, 192 x 64\. Export it at one size"
    with pytest.raises(FootageError, match=words):
        list(footage.frames(footage.numbers))
