# SPDX-License-Identifier: GPL-3.0-or-later
import math
import os
import struct
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import OpenEXR
import OpenImageIO as oiio
import pytest

from bgm_blender_addon import footage as in_blender
from core import frame_io, movies
from core.errors import FootageError, OutputError
from core.files import write_whole
from core.movies import MovieFootage


def read_all(footage):
    return dict(footage.frames(footage.numbers))


def test_movie_frames_by_number(shot, tmp_path):
    footage = frame_io.open_footage(shot.write_movie(tmp_path / "a.mkv", 6))
    assert (footage.width, footage.height, footage.fps, footage.numbers) == (96, 64, 24.0, [1, 2, 3, 4, 5, 6])
    for number, frame in footage.frames([2, 5, 6]):
        assert np.array_equal(frame.pixels, shot.frame(number - 1))


@pytest.mark.parametrize("name", ["shot2_####.png", "shot2_%04d.png", "shot2_%d.png"])
def test_a_place_for_the_number_names_the_sequence(shot, tmp_path, name):
    for number in (8, 9, 10):
        shot.write_plate(tmp_path / f"shot2_{number:04}.png")
    shot.write_plate(tmp_path / "other_0001.png")
    assert frame_io.open_footage(tmp_path / name).numbers == [8, 9, 10]
    with pytest.raises(FootageError, match=r"numbered files like shot3_#\.png"):
        frame_io.open_footage(tmp_path / "shot3_#.png")


@pytest.mark.parametrize(
    ("name", "place", "numbers"),
    [
        ("shot_v2.1001.png", "shot_v2.####.png", [1001, 1002, 1003]),
        ("shot_1001_main.png", "shot_####_main.png", [1001, 1002, 1003]),
        ("a12b003.final.png", "a12b%03d.final.png", [3, 4, 5]),
        ("take#_7-left.png", "take#_#-left.png", [7, 8, 9]),
        ("0998.png", "####.png", [998, 999, 1000]),
        ("1703980799123.png", "1703980799123.png", [980799123, 980799124]),
        ("plate.png", "plate.png", []),
    ],
)
def test_engine_and_add_on_find_the_same_files_of_a_sequence(shot, tmp_path, name, place, numbers):
    for number in numbers or [1]:
        shot.write_plate(in_blender.with_number(tmp_path / name, number))
    shot.write_plate(tmp_path / "shot_1004_side.png")
    assert in_blender.numbered_like(tmp_path / name) == numbers
    for path in (tmp_path / name, tmp_path / place):
        found = frame_io.open_footage(path)
        assert found.numbers == (numbers or [1]) and found.numbers[0] == in_blender.file_number(tmp_path / name)


def test_a_name_that_only_looks_like_a_place_for_the_number(shot, tmp_path):
    shot.write_plate(tmp_path / "take#.png")
    assert frame_io.open_footage(tmp_path / "take#.png").numbers == [1]


@pytest.mark.parametrize("name", ["SHOT.0001.PNG", "sho\u0308t.0001.png"])
def test_a_name_as_a_forgiving_file_system_takes_it(tmp_path, monkeypatch, name):
    """As on Windows and macOS: in another case, or a letter and its accent as two characters."""
    (tmp_path / name).touch()
    plain = "sh\u00f6t" if "\u0308" in name else "shot"
    monkeypatch.setattr(os, "listdir", lambda folder: [f"{plain}.0001.png", f"{plain}.0002.png", "other.0003.png"])
    assert sorted(frame_io._sequence_files(tmp_path / name)) == [1, 2]
    (tmp_path / name).unlink()
    assert sorted(frame_io._sequence_files(tmp_path / name)) == []


def test_movie_with_a_varying_rate_repeats_what_is_on_screen(shot, tmp_path):
    footage = frame_io.open_footage(shot.write_movie(tmp_path / "a.mkv", 4, times=[0, 1, 5, 6]))
    frames = read_all(footage)
    shown = [next(i for i in range(4) if np.array_equal(f.pixels, shot.frame(i))) for f in frames.values()]
    assert shown == sorted(shown) and shown[0] == 0 and shown[-1] == 3
    assert len(shown) > 4 and "varies" in footage.warnings[0]


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
@pytest.mark.parametrize(
    ("times", "shown"),  # in 1/90000 s, at 30 frames a second; what Blender 5.2 shows of such files
    [
        (
            [0, 3186, 5751, 8807, 11842, 14808, 18180, 21221, 24049, 26723, 29756, 32899, 35959, 39072, 41987, 44858],
            [0, 0, 2, 3, 4, 5, 5, 6, 7, 9, 10, 11, 12, 12, 14, 15],
        ),
        ([3000 * i for i in range(30) if i != 12], [*range(12), 11, *range(12, 29)]),
    ],
)
def test_a_phones_movie_is_shown_as_blender_shows_it(tmp_path, name, times, shown):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 96, 64, "yuv420p", Fraction(1, 90000)
        stream.codec_context.time_base = stream.time_base
        for index, time in enumerate(times):
            picture = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 8 * index, np.uint8), format="rgb24")
            picture.pts, picture.time_base = time, stream.time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    footage = frame_io.open_footage(tmp_path / name)
    found = [round(float(frame.pixels.mean()) / 8) for frame in read_all(footage).values()]
    assert found == shown and footage.fps == 30


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "times", "by_index"),
    [
        ("a.mp4", "libx264", "yuv420p", range(30), True),  # reordered, at a constant rate
        ("a.mov", "prores_ks", "yuv422p10le", range(30), True),
        ("a.mov", "prores_ks", "yuv422p10le", [0, 1, 2, 5, 6, 9], True),  # not reordered: at any rate
        ("a.mp4", "libx264", "yuv420p", [0, 1, 2, 3, 4, 7, 8, 11, 12, 13, 14, 15], False),
        ("a.mkv", "libx264", "yuv420p", range(30), False),
        ("cut.mp4", "libx264", "yuv420p", range(30), False),  # the index comes first, the last pictures lack
    ],
)
def test_an_index_tells_when_pictures_are_shown(tmp_path, monkeypatch, name, codec, pix_fmt, times, by_index):
    with av.open(str(tmp_path / name), "w", options={"movflags": "faststart"} if name[0] == "c" else {}) as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        for time in times:
            picture = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 8 * time, np.uint8), format="rgb24")
            picture.pts = time
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    if name[0] == "c":
        os.truncate(tmp_path / name, (tmp_path / name).stat().st_size - 200)
    read, reads = MovieFootage._read_times, []
    monkeypatch.setattr(MovieFootage, "_read_times", lambda self, step: reads.append(step) or read(self, step))
    indexed = MovieFootage(tmp_path / name)
    assert bool(reads) != by_index
    monkeypatch.setattr(movies, "_indexed_times", lambda container, stream: None)
    assert indexed._pts == MovieFootage(tmp_path / name)._pts


def test_single_frames_in_any_order_are_those_of_a_run(shot, tmp_path, monkeypatch):
    path = shot.write_movie(tmp_path / "a.mp4", 30)
    footage = frame_io.open_footage(path)
    run = read_all(footage)
    opened, opening = [], MovieFootage._open
    monkeypatch.setattr(MovieFootage, "_open", lambda self, *a: opened.append(1) or opening(self, *a))
    for number in (7, 8, 9, 9, 12, 30, 2, 1, 1, 3, 29):
        ((found, frame),) = footage.frames([number])
        assert found == number
        assert np.array_equal(frame.pixels, run[number].pixels)
    assert len(opened) == 1  # to get back to the movie's first: not all files can be sought


@pytest.mark.parametrize("number", [1, 7])
@pytest.mark.parametrize(("name", "openings"), [("a.mp4", 1), ("a.mkv", 2)])  # where no index tells the times
def test_a_movies_first_frame_is_read_where_its_opening_ended(shot, tmp_path, monkeypatch, name, openings, number):
    run = read_all(frame_io.open_footage(shot.write_movie(tmp_path / name, 30)))
    opened, opening = [], MovieFootage._open
    monkeypatch.setattr(MovieFootage, "_open", lambda self, *a: opened.append(1) or opening(self, *a))
    ((_, frame),) = frame_io.open_footage(tmp_path / name).frames([number])
    assert np.array_equal(frame.pixels, run[number].pixels)
    assert len(opened) == openings


SEEKS = {  # codec, its options, the container's; pictures that lean on later ones, and containers without an index
    "closed.mp4": ("libx264", {"x264-params": "keyint=40:scenecut=0"}, {}),
    "open.mp4": ("libx264", {"x264-params": "keyint=40:scenecut=0:open-gop=1:bframes=3"}, {}),
    "open.mkv": ("libx264", {"x264-params": "keyint=40:scenecut=0:open-gop=1:bframes=3"}, {}),
    "hevc.mov": ("libx265", {"x265-params": "keyint=40:open-gop=1:bframes=3:log-level=none"}, {}),
    "fragments.mp4": ("libx264", {"g": "40"}, {"movflags": "frag_keyframe+empty_moov"}),
    "unedited.mp4": ("libx264", {"x264-params": "keyint=40:scenecut=0:bframes=3"}, {"use_editlist": "0"}),
    "asp.mp4": ("mpeg4", {"bf": "2", "g": "40"}, {}),
    "asp.avi": ("mpeg4", {"bf": "2", "g": "40"}, {}),
    "avc.avi": ("libx264", {"g": "40", "bf": "3"}, {}),
    "plain.avi": ("libx264", {"g": "40", "bf": "0"}, {}),
    "avc.ts": ("libx264", {"g": "40"}, {}),
    "avc.mxf": ("libx264", {"g": "40", "bf": "3"}, {}),
    "intra.mxf": ("libx264", {"g": "1", "bf": "0"}, {}),
    "mpeg2.mxf": ("mpeg2video", {"g": "12", "bf": "2"}, {}),
    "mpeg2.ts": ("mpeg2video", {"g": "12", "bf": "2"}, {}),
    "mpeg2.mpg": ("mpeg2video", {"g": "12", "bf": "2"}, {}),
}


@pytest.mark.parametrize("name", SEEKS)
def test_every_way_to_a_frame_gives_that_frame(tmp_path, name):
    """One by one in any order, or in a run from anywhere; each picture has its number as a row of dark and light."""
    codec, options, container_options = SEEKS[name]
    count, path = 130, tmp_path / name
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for number in range(1, count + 1):
            row = np.array([230 if number >> bit & 1 else 20 for bit in range(8)], np.uint8)
            picture = av.VideoFrame.from_ndarray(np.tile(row.repeat(16)[None, :, None], (64, 1, 3)), format="rgb24")
            picture.pts = number - 1
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))

    def number_in(frame):
        return sum(int(frame.pixels[20:44, 16 * bit + 4 : 16 * bit + 12].mean() > 125) << bit for bit in range(8))

    footage = frame_io.open_footage(path)
    assert footage.numbers == list(range(1, count + 1))
    assert [number_in(frame) for _, frame in footage.frames(footage.numbers)] == footage.numbers
    order = np.random.default_rng(1).permutation(footage.numbers).tolist()
    for number in order[:60] + [1, 2, count, 1]:
        ((_, frame),) = footage.frames([number])
        assert number_in(frame) == number
    for start in (2, 38, 39, 41, 79, 120, 128):
        run = footage.numbers[start - 1 : start + 3]
        assert [number_in(frame) for _, frame in footage.frames(run)] == run


def test_truncated_movie_says_where_and_keeps_what_is_whole(shot, tmp_path):
    path = shot.write_movie(tmp_path / "a.mkv", 20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    footage = frame_io.open_footage(path)
    assert 5 < len(read_all(footage)) < 20


@pytest.mark.parametrize(("codec", "pix_fmt"), [("mjpeg", "yuvj420p"), ("libx264", "yuv420p")])
def test_a_movie_that_lacks_pictures_of_its_index_is_told(shot, tmp_path, codec, pix_fmt):
    """Half a copy, which opens where the index comes first."""
    path = tmp_path / "a.mov"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=24, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = shot.width, shot.height, pix_fmt
        for i in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shot.frame(i), format="rgb24")))
        container.mux(stream.encode(None))
    assert not frame_io.open_footage(path).warnings
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    footage = frame_io.open_footage(path)
    (words,) = footage.warnings
    assert f"a.mov ends after {len(footage.numbers)} of the 20 pictures in its index" in words


def test_a_movie_with_a_broken_picture_is_no_other_kind_of_file(shot, tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = shot.width, shot.height, "yuv420p"
        for i in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shot.frame(i), format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        start = [packet.pos for packet in container.demux(container.streams.video[0])][3]
    data = bytearray(path.read_bytes())
    data[start : start + 4] = b"\xff" * 4  # says how long it is
    path.write_bytes(data)
    with pytest.raises(FootageError, match=r"decoded in .*a\.mp4; got an error at frame 4: Invalid data") as raised:
        read_all(frame_io.open_footage(path))
    assert "Errno" not in str(raised.value)


@pytest.mark.parametrize("name", ["text.mov", "text.png", "text.exr", "text.xyz"])
def test_a_file_that_is_no_picture(tmp_path, name):
    path = tmp_path / name
    path.write_text("no picture" * 100)
    with pytest.raises(FootageError, match=name):
        frame_io.open_footage(path)


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux([*stream.encode(sound), *stream.encode(None)])


@pytest.mark.parametrize("name", ["sound.wav", "sound.mov"])
def test_sound_is_told_from_pictures(tmp_path, name):
    write_sound(tmp_path / name)
    with pytest.raises(FootageError, match=r"a movie with pictures.*only sound.* Choose the file with the pictures"):
        frame_io.open_footage(tmp_path / name)


def test_half_a_movie_is_called_damaged_in_words(shot, tmp_path):
    path = shot.write_movie(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FootageError, match=r"a\.mp4: damaged, cut off") as raised:
        frame_io.open_footage(path)
    assert "Errno" not in str(raised.value)


@pytest.mark.parametrize("name", ["plate.png", "plate.mov"])
def test_a_plate_that_is_no_picture_is_called_the_plate(tmp_path, name):
    (tmp_path / name).write_text("no picture" * 100)
    with pytest.raises(FootageError, match=rf"for the plate a .*{name}"):
        frame_io.open_plate(tmp_path / name)


def test_a_folder_for_a_plate_is_called_one(shot, tmp_path):
    shot.write_sequence(tmp_path / "plates")
    with pytest.raises(FootageError, match="for the plate a file; got the folder .*plates. Name the file in it"):
        frame_io.open_plate(tmp_path / "plates")


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux only")
def test_an_image_s_name_in_another_encoding(shot, tmp_path):
    image = tmp_path / os.fsdecode(b"caf\xe9/shot.0001.png")
    image.parent.mkdir()
    os.rename(shot.write_sequence(tmp_path, count=1), image)
    for path in (image, image.parent):
        with pytest.raises(FootageError, match="file and folder names in UTF-8"):
            frame_io.open_footage(path)


def test_absent_footage(tmp_path):
    with pytest.raises(FootageError, match="no file"):
        frame_io.open_footage(tmp_path / "none.mov")


def test_what_a_folder_holds_beside_its_first_sequence_is_said(shot, tmp_path):
    shot.write_sequence(tmp_path / "in", count=2)
    assert frame_io.open_footage(tmp_path / "in").warnings == []
    frame_io.write_image(tmp_path / "in/take2.0001.png", shot.plate)
    footage = frame_io.open_footage(tmp_path / "in")
    (warning,) = footage.warnings
    assert footage.numbers == [1, 2] and "take2.0001.png first: 1 left out" in warning
    assert frame_io.open_footage(tmp_path / "in/take2.0001.png").warnings == []


def test_absurd_size_is_refused_before_reading(tmp_path):
    path = tmp_path / "huge.exr"
    spec = oiio.ImageSpec(40000, 40000, 1, "half")
    spec.tile_width = spec.tile_height = 64
    output = oiio.ImageOutput.create(str(path))
    output.open(str(path), spec)
    output.close()
    with pytest.raises(FootageError, match="40000"):
        frame_io.open_footage(path)


def test_sequence_numbers_start_anywhere_and_gaps_are_told(shot, tmp_path):
    first = shot.write_sequence(tmp_path, first=1001, count=5)
    (tmp_path / "shot.1003.png").unlink()
    (tmp_path / "other.1001.png").write_bytes(first.read_bytes())
    footage = frame_io.open_footage(first)
    assert footage.numbers == [1001, 1002, 1004, 1005]
    assert "lacks 1 of the frames 1001 to 1005" in footage.warnings[0]
    assert np.array_equal(read_all(footage)[1004].pixels, shot.frame(3))


def test_a_folder_that_may_not_be_listed(shot, tmp_path, monkeypatch):
    first = shot.write_sequence(tmp_path)

    def deny(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "listdir", deny)
    for path in (first, tmp_path):
        with pytest.raises(FootageError, match="can be listed; got .*Permission denied"):
            frame_io.open_footage(path)


def test_a_frame_of_another_size_is_named(shot, tmp_path):
    first = shot.write_sequence(tmp_path, count=3)
    frame_io.write_image(tmp_path / "shot.0002.png", np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(FootageError, match=r"shot\.0002\.png of 10 x 10"):
        read_all(frame_io.open_footage(first))


@pytest.mark.parametrize("order", [sorted, lambda names: sorted(names, reverse=True)])
def test_two_files_of_one_number_are_not_taken_for_each_other(tmp_path, monkeypatch, order):
    names = [f"shot.{number}.png" for number in ("1", "01", "2", "02", "10")]
    for value, name in enumerate(names):
        frame_io.write_image(tmp_path / name, np.full((8, 8, 3), value, np.uint8))
    monkeypatch.setattr(os, "listdir", lambda folder: order(names))  # which comes as the disk has it
    for named, values in (("1", [0, 2, 4]), ("01", [1, 3, 4])):
        footage = frame_io.open_footage(tmp_path / f"shot.{named}.png")
        assert [frame.pixels[0, 0, 0] for _, frame in footage.frames([1, 2, 10])] == values


def test_a_float_frame_among_whole_numbers_is_named(tmp_path):
    for number, dtype in enumerate((np.uint8, np.uint16, np.float32), 1):
        cv2.imwrite(str(tmp_path / f"shot.{number}.tif"), np.full((8, 8, 3), 0.5 if dtype == np.float32 else 99, dtype))
    footage = frame_io.open_footage(tmp_path / "shot.1.tif")
    with pytest.raises(FootageError, match=r"whole numbers, as shot.1.tif; got .*shot.3.tif in floats"):
        list(footage.frames([1, 2, 3]))
    with pytest.raises(FootageError, match=r"floats, as shot.3.tif; got .*shot.1.tif in whole numbers"):
        list(frame_io.open_footage(tmp_path / "shot.3.tif").frames([1]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_keeps_its_depth(tmp_path, dtype):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (7, 5, 3), dtype)
    frame_io.write_image(tmp_path / "a.png", pixels)
    assert np.array_equal(frame_io.read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_exr_keeps_values_above_one(tmp_path, dtype):
    pixels = (np.random.default_rng(0).random((7, 5, 3)) * 8 - 1).astype(dtype)
    frame_io.write_image(tmp_path / "a.exr", pixels)
    read = frame_io.read_image(tmp_path / "a.exr")
    assert read.dtype == dtype and np.array_equal(read, pixels)


@pytest.mark.parametrize("height, width", [(1, 1), (16, 3), (37, 50)])
@pytest.mark.parametrize("values", ["noise", "ramp", "nothing"])
def test_exr_s_every_bit_comes_back_in_another_reader(tmp_path, height, width, values):
    random = np.random.default_rng(0)

    def picture(dtype, *channels):
        shape = (height, width, *channels)
        if values == "noise":  # which deflating makes no smaller: kept plain
            return random.integers(0, 256, (*shape, dtype().itemsize), np.uint8).view(dtype)[..., 0]
        return np.linspace(0, 2 if values == "ramp" else 0, math.prod(shape), dtype=dtype).reshape(shape)

    layers = {"plate": picture(np.float32, 3), "RGBA": picture(np.float16, 4), "alpha.V": picture(np.float32)}
    frame_io.write_exr(tmp_path / "a.exr", layers)
    image = oiio.ImageInput.open(str(tmp_path / "a.exr"))
    planes = {"alpha.V": layers["alpha.V"]}
    planes |= {c: layers["RGBA"][..., i] for i, c in enumerate("RGBA")}
    planes |= {f"plate.{c}": layers["plate"][..., i] for i, c in enumerate("RGB")}
    assert set(image.spec().channelnames) == set(planes)
    for index, name in enumerate(image.spec().channelnames):
        kind = {"f2": "half", "f4": "float"}[planes[name].dtype.str[1:]]
        assert str(image.spec().channelformat(index)) == kind
        assert image.read_image(0, 0, index, index + 1, kind)[..., 0].tobytes() == planes[name].tobytes()


def test_a_png_s_bytes_are_the_same_wherever_the_stack_lies():
    """The promise of a run resumed to the same bytes: each thread's stack lies elsewhere, as each process's does."""
    y, x = np.mgrid[:360, :640]
    gate, made = threading.Barrier(150), []

    def encode(rows):
        gate.wait()
        made.append(frame_io._deflate(rows))

    for k in (7, 9, 10, 8):
        alpha = np.clip((80 + 4 * k - np.hypot(x - 200 - 20 * k, y - 180)) / 6 + 0.5, 0, 1)
        rows = np.round(alpha * 65535).astype(">u2").view(np.uint8).reshape(360, -1)
        rows = np.pad(np.diff(rows, axis=0, prepend=np.zeros((1, 1280), np.uint8)), ((0, 0), (1, 0)), constant_values=2)
        threads = [threading.Thread(target=encode, args=(rows,)) for _ in range(gate.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(made)) == 1
        made.clear()


def test_transparent_png_keeps_its_stored_color(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.uint8([[[10, 20, 200, 51]]]))
    assert frame_io.read_image(tmp_path / "a.png").tolist() == [[[200, 20, 10]]]


def test_grey_becomes_rgb(tmp_path):
    frame_io.write_image(tmp_path / "a.png", np.uint8([[5, 9]]))
    assert frame_io.read_image(tmp_path / "a.png").tolist() == [[[5] * 3, [9] * 3]]


def test_multilayer_exr_takes_the_color(tmp_path):
    spec = oiio.ImageSpec(1, 1, 4, "half")
    spec.channelnames = ("depth.Z", "beauty.B", "beauty.G", "beauty.R")
    output = oiio.ImageOutput.create(str(tmp_path / "a.exr"))
    output.open(str(tmp_path / "a.exr"), spec)
    output.write_image(np.float16([[[9, 1, 2, 3]]]))
    output.close()
    assert frame_io.read_image(tmp_path / "a.exr").tolist() == [[[3, 2, 1]]]


def test_exr_with_a_smaller_data_window_fills_its_display_window(tmp_path):
    spec = oiio.ImageSpec(2, 1, 3, "half")
    spec.x, spec.y, spec.full_width, spec.full_height = 1, 1, 4, 3
    output = oiio.ImageOutput.create(str(tmp_path / "a.exr"))
    output.open(str(tmp_path / "a.exr"), spec)
    output.write_image(np.ones((1, 2, 3), np.float16))
    output.close()
    pixels = frame_io.read_image(tmp_path / "a.exr")
    assert pixels.shape == (3, 4, 3) and pixels.sum() == 6 and pixels[1, 1:3].min() == 1


def test_whole_numbers_of_32_bits_are_refused(tmp_path):
    """As 16-bit colour, which they were read as, an object's number is black."""
    codes = np.arange(6, dtype=np.uint32).reshape(2, 3)
    OpenEXR.File({}, dict.fromkeys("RGB", codes)).write(str(tmp_path / "a.exr"))
    with pytest.raises(FootageError, match="up to 16 bits, or floats; got .*a.exr of wider ones"):
        frame_io.open_footage(tmp_path / "a.exr")


def test_a_volume_is_refused(tmp_path):
    path = tmp_path / "volume.png"  # DDS, 4 x 4 x 3, of 32 bits
    header = struct.pack("<7I44x", 124, 0x80100F, 4, 4, 16, 3, 0)
    pixel_format = struct.pack("<8I", 32, 0x41, 0, 32, 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    path.write_bytes(b"DDS " + header + pixel_format + struct.pack("<5I", 0x1008, 0x200000, 0, 0, 0) + bytes(4 * 48))
    with pytest.raises(FootageError, match="volume of 3 slices"):
        frame_io.open_footage(path)
    with pytest.raises(FootageError, match="volume of 3 slices"):
        frame_io.read_image(path)


def test_truncated_image(shot, tmp_path):
    path = shot.write_plate(tmp_path / "a.png")
    whole = path.read_bytes()
    for size, words in ((2000, "a whole"), (10, "a readable")):
        path.write_bytes(whole[:size])
        with pytest.raises(FootageError, match=words) as raised:
            frame_io.read_image(path)
        assert "\n" not in str(raised.value)


def test_a_jpeg_that_is_cut_off_is_not_read_as_half_grey(shot, tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), shot.plate)
    whole = (tmp_path / "a.jpg").read_bytes()
    pixels = frame_io.read_image(tmp_path / "a.jpg")
    thumbnail = b"\xff\xff\xe1\x00\x0bExif\x00\xff\xda\xff\xd9"  # with its own begin and end
    for data in (whole + b"a phone's movie", whole[:2] + thumbnail + whole[2:]):
        (tmp_path / "a.jpg").write_bytes(data)
        assert np.array_equal(frame_io.read_image(tmp_path / "a.jpg"), pixels)
        (tmp_path / "a.jpg").write_bytes(data[: len(whole) * 2 // 3])
        with pytest.raises(FootageError, match=r"whole, readable image; got .*a\.jpg, which ends in the middle"):
            frame_io.read_image(tmp_path / "a.jpg")


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="to write"):
        frame_io.write_image(tmp_path / "absent" / "a.png", np.zeros((2, 2, 3), np.uint8))
    taken = tmp_path / "a.png"
    taken.mkdir()
    with pytest.raises(OutputError):
        frame_io.write_image(taken, np.zeros((2, 2, 3), np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_part_that_another_engine_has_swept_is_written_again(tmp_path):
    """It does that to an engine whose claim has expired, as a machine's that slept."""
    parts = []

    def write(part):
        parts.append(part)
        part.write_text("whole")
        if len(parts) == 1:
            part.unlink()

    assert write_whole(tmp_path / "a.txt", write) == 5
    assert len(parts) == 2 and [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_plate_with_digits_in_its_name_is_one_still(shot, tmp_path):
    shot.write_sequence(tmp_path, count=3)
    assert frame_io.open_plate(Path(tmp_path / "shot.0002.png")).numbers == [1]


def write_with_cover(path: Path, movie: bool) -> Path:
    """An MP4 whose first stream is cover art, as music players write it; the second is a movie, or sound."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24) if movie else container.add_stream("aac", rate=48000)
        if movie:
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame(32, 32, "yuvj420p")
        picture.pts = 0
        container.mux([*cover.encode(picture), *cover.encode(None)])
        for index in range(5):
            if movie:
                part = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 40 * index, np.uint8), format="rgb24")
                part.pts = index
            else:
                part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                part.rate, part.pts = 48000, 1024 * index
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    start = data.index(b"moov") + 4
    boxes, place = {}, start
    while place < len(data):
        size = int.from_bytes(data[place : place + 4])
        boxes[data[place + 4 : place + 8]] = data[place : place + size]
        place += size
    order = sorted(boxes, key=lambda name: (name != b"mvhd", name != b"udta"))  # the cover before the tracks
    path.write_bytes(data[:start] + b"".join(boxes[name] for name in order))
    return path


def test_cover_art_is_no_movie(tmp_path):
    footage = frame_io.open_footage(write_with_cover(tmp_path / "a.mp4", movie=True))
    assert footage.numbers == [1, 2, 3, 4, 5] and (footage.width, footage.height) == (96, 64)
    for numbers in ([1, 2, 3, 4, 5], [4], [2]):
        for number, frame in footage.frames(numbers):
            assert np.abs(frame.pixels.astype(int) - 40 * (number - 1)).max() < 4
    with pytest.raises(FootageError, match=r"only sound in it"):
        frame_io.open_footage(write_with_cover(tmp_path / "a.m4a", movie=False))


def test_a_data_window_of_its_own_is_warned_of(tmp_path):
    """Blender's clips show the data window alone: the matte of the display window does not lie on it."""
    for x, width, warned in ((0, 8, False), (3, 4, True), (-2, 12, True), (3, 8, True)):
        spec = oiio.ImageSpec(width, 6, 3, "half")
        spec.x, spec.full_x, spec.full_width, spec.full_height = x, 0, 8, 6
        path = tmp_path / f"{width}.exr"
        output = oiio.ImageOutput.create(str(path))
        assert output.open(str(path), spec) and output.write_image(np.ones((6, width, 3), np.float32))
        output.close()
        warnings = frame_io.open_footage(path).warnings
        words = f"data window of {width} x 6 at {x}, 0 in a picture of 8 x 6"
        assert any(words in warning for warning in warnings) == warned
        assert not frame_io.open_plate(path).warnings


@pytest.mark.parametrize(
    "names",
    [("depth.Z", "normal.X", "normal.Y", "normal.Z"), ("N.X", "N.Y", "N.Z"), ("R", "G"), ("alpha.V", "error.V")],
)
def test_exr_without_colour_is_refused_by_its_channels(tmp_path, names):
    """Depth beside two parts of a normal was taken for red, green and blue."""
    channels = {name: np.full((4, 6), 0.5, np.float16) for name in names}
    OpenEXR.File({"type": OpenEXR.scanlineimage}, channels).write(str(tmp_path / "a.exr"))
    with pytest.raises(FootageError, match=rf"an image with R, G and B, or Y.*channels {', '.join(names)}"):
        frame_io.open_footage(tmp_path / "a.exr")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("Y",), "YYY"),
        (("A", "Y"), "YYY"),
        (("beauty.Y",), "YYY"),
        (("beauty.A", "beauty.Y", "depth.Z"), "YYY"),
        (("A", "beauty.Y", "normal.X", "normal.Y", "normal.Z"), "YYY"),
        (("beauty.A", "beauty.B", "beauty.G", "beauty.R"), "RGB"),
        (("beauty.red", "beauty.green", "beauty.blue"), "rgb"),
        (("matte.V",), "VVV"),
        (("A",), "AAA"),
        (("Z",), "ZZZ"),
    ],
)
def test_exr_layers_of_any_name(tmp_path, names, shown):
    values = {name: np.float16(0.1 * index + 0.1) for index, name in enumerate(names)}
    channels = {name: np.full((4, 6), value, np.float16) for name, value in values.items()}
    OpenEXR.File({"type": OpenEXR.scanlineimage}, channels).write(str(tmp_path / "a.exr"))
    wanted = [next(v for n, v in values.items() if n.rpartition(".")[2][0] == c and "normal" not in n) for c in shown]
    assert np.array_equal(frame_io.read_image(tmp_path / "a.exr")[0, 0], wanted)


def test_x_y_and_z_are_shown_as_colours_and_warned_of(tmp_path):
    """As Blender shows them: CIE XYZ of a cinema's master, or places in the scene. Y alone was read as grey."""
    channels = {name: np.full((4, 6), value, np.float16) for name, value in (("X", 0.1), ("Y", 0.2), ("Z", 0.3))}
    OpenEXR.File({"type": OpenEXR.scanlineimage}, channels).write(str(tmp_path / "a.exr"))
    footage = frame_io.open_footage(tmp_path / "a.exr")
    ((_, frame),) = footage.frames([1])
    assert np.array_equal(frame.pixels[0, 0], np.float16([0.1, 0.2, 0.3]))
    assert footage.warnings == ["a.exr is tagged X, Y and Z, but read as R, G and B. Name its colour space."]
    assert not frame_io.open_footage(tmp_path / "a.exr", "ACEScg").warnings
