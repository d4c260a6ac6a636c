# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames in and out: movies (PyAV), image sequences and stills (OpenImageIO), at the precision the file has. No bpy.

Frame numbers are the footage's own: an image sequence's are its files' numbers, a movie's count from 1. Pixels are
those that Blender reads from the same file: as stored, whatever their sample aspect; a movie's turned by its rotation
tag, converted by its tagged matrix and range (BT.601 and limited where untagged), chroma repeated rather than blended.
Nothing here trusts a file: what it claims is checked before memory is taken for it, and no file opens another.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import threading
import unicodedata
import uuid
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import cv2
import numpy as np
import OpenEXR
import OpenImageIO as oiio
from isal import isal_zlib

from .color import Pixels
from .errors import FootageError, OutputError

MOVIE_EXTENSIONS = {".avi", ".mkv", ".mov", ".mp4", ".m4v", ".mxf", ".webm", ".mpg", ".mpeg", ".ogv", ".ts", ".wmv"}
IMAGE_EXTENSIONS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".exr", ".dpx", ".cin", ".bmp", ".tga", ".webp", ".hdr"}
MAX_SIDE = 32768  # pixels; a larger claim is refused before anything is allocated
MAX_PIXELS = 1 << 27  # 15360 x 8640 is the largest frame that cameras give
MAX_FRAMES = 1 << 21  # a day at 24 frames a second
MAX_PARTS = 64  # of a multipart EXR that are searched for colour
MAX_SPAN = 8  # channels that are decoded at once to get at R, G and B among them
NEAR = 4  # frames on, at most, that are decoded on the way rather than sought: a key frame may be far before

# Containers that hold their own pictures: no playlists (HLS, DASH, concat), which name other files and addresses
_CONTAINERS = "mov,mp4,matroska,webm,avi,mxf,mpeg,mpegts,mpegvideo,m4v,h264,hevc,ivf,ogg,asf,dv"
_UNTIMED = {"mpeg", "mpegvideo"}  # containers whose pictures have no times, or not all
_WIDE = {"int", "uint", "int64", "uint64"}  # OpenImageIO's names for more than 16 bits
_LOG = {"KodakLog", "Printing density"}  # what OpenImageIO and DPX call film's encodings
_REC709 = 0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329  # x and y of red, green, blue and white
_HDR_CURVES = {16: "Rec.2100-PQ", 18: "Rec.2100-HLG"}  # transfer characteristics of ITU-T H.273: Blender's names

oiio.attribute("openexr:core", 1)  # OpenEXR's newer reader: a quarter less time where each row is deflated by itself

# Blender's rule: the last digits before the ending, as in shot_v2.1001.exr and shot_1001_main.exr
_NUMBERED = re.compile(r"^(?P<prefix>.*?)(?P<number>\d{1,9})(?P<suffix>\D*\.[^.]+)$")  # longer is a time
_PLACE_OF_NUMBER = re.compile(r"(#+|%0?\d*d)(?=[^\d#%]*\.[^.]+$)")  # as in shot.####.png and shot_%04d_main.png


@dataclass(frozen=True)
class Frame:
    """One picture: (H, W, 3) RGB uint8, uint16, float16 or float32, encoded as `color_space` says."""

    pixels: Pixels
    color_space: str


class Footage(Protocol):
    """A movie, a sequence or a still, opened: what it is, and its frames by number."""

    path: Path
    width: int
    height: int
    color_space: str
    is_float: bool  # frames are float16 or float32
    fps: float  # 0 for image sequences, which do not say
    numbers: list[int]  # of the frames that exist, ascending
    warnings: list[str]  # what the user should know about this file
    files: Collection[Path]  # that it is read from

    def frames(self, numbers: list[int]) -> Iterator[tuple[int, Frame]]:
        """The frames of these ascending numbers, in order, decoded as they are asked for."""
        ...

    def identity(self, number: int) -> str:
        """Changes when the frame's file changes."""
        ...


def open_footage(path: str | Path, color_space: str = "auto") -> Footage:
    """Open a movie, an image sequence (any one of its files, its folder, or shot.####.png) or a still image.

    Raises:
        FootageError: absent, of an unknown kind, empty, or damaged beyond reading its header.
    """
    path = Path(path)
    images: list[Path] = []
    if os.path.isdir(path):  # pathlib raises an OSError at names that are too long
        names = _names(path)
        images = sorted(path / n for n in names if Path(n).suffix.lower() in IMAGE_EXTENSIONS and n[0] != ".")
        if not images:
            raise FootageError("a folder with images", f"{path}, which holds none", "Name the footage itself")
        path = images[0]
    elif os.path.isdir(path.parent) and not os.path.exists(path) and (place := _PLACE_OF_NUMBER.search(path.name)):
        numbered = path.with_name(path.name[: place.start()] + "0" + path.name[place.end() :])
        files = _sequence_files(numbered)
        if not files:
            raise FootageError(f"numbered files like {path.name}", f"none in {path.parent}", "Name one of the files")
        path = files[min(files)]
    _check_exists(path)
    if path.suffix.lower() not in IMAGE_EXTENSIONS:
        return MovieFootage(path, color_space)
    footage = SequenceFootage(path, _sequence_files(path), color_space)
    if others := sorted(set(images) - set(footage.files)):
        footage.warnings.append(
            f"{path.parent} holds other images than {path.name} and those numbered like it, {others[0].name} first: "
            f"{len(others)} left out. Name the one that is the footage."
        )
    return footage


def open_plate(path: str | Path, color_space: str = "auto", moving: bool = False) -> Footage:
    """Open a clean plate: a still (that file only, whatever its name's digits, unless it is `moving`), or a movie.

    Raises:
        FootageError: as `open_footage`.
    """
    path = Path(path)
    with named("plate"):
        _check_exists(path)
        if moving and path.suffix.lower() in IMAGE_EXTENSIONS:
            return SequenceFootage(path, _sequence_files(path), color_space)
        return open_file(path, color_space)


def open_file(path: Path, color_space: str = "auto") -> Footage:
    """Open this file only, whatever its name's digits: a still or a movie.

    Raises:
        FootageError: as `open_footage`.
    """
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        return SequenceFootage(path, {1: path}, color_space)
    return MovieFootage(path, color_space)


@contextmanager
def named(role: str) -> Iterator[None]:
    """Errors within say what they are of, as the plate: not of the footage."""
    try:
        yield
    except FootageError as error:
        raise FootageError(f"for the {role} {error.expected}", error.actual, error.remedy) from None


def _check_exists(path: Path) -> None:
    if not os.path.isfile(path):
        raise FootageError("a file that exists", f"no file {path}", "Check the path")


class SequenceFootage:
    """Numbered image files, or one still as frame 1."""

    def __init__(self, path: Path, files: dict[int, Path], color_space: str = "auto") -> None:
        self.path = path
        self._files = files
        self._identities: dict[int, str] = {}
        self.files: Collection[Path] = files.values()
        self.numbers = sorted(files)
        self.fps = 0.0
        self.warnings: list[str] = []
        with _opened(path) as (_, spec, _):
            self.width, self.height = spec.full_width, spec.full_height
            self.is_float = str(spec.format) in ("half", "float", "double")
            if spec.get_int_attribute("Orientation", 1) > 1:
                self.warnings.append(
                    f"{path.name} is tagged to be turned or mirrored when it is shown. It is read as it is stored, as "
                    "in Blender: save it turned."
                )
            if color_space == "auto" and (tag := _color_tag(spec)):
                self.warnings.append(f"{path.name} is tagged {tag}. Name its colour space.")
        self.color_space = ("linear" if self.is_float else "srgb") if color_space == "auto" else color_space
        missing = self.numbers[-1] - self.numbers[0] + 1 - len(self.numbers)
        if missing:
            self.warnings.append(
                f"{path.parent} lacks {missing} of the frames {self.numbers[0]} to {self.numbers[-1]}; "
                "they are skipped, and Blender shows them as transparent."
            )

    def frames(self, numbers: list[int]) -> Iterator[tuple[int, Frame]]:
        for number in numbers:
            path = self._files[number]
            self.identity(number)
            pixels = read_image(path)
            if (pixels.dtype.kind == "f") != self.is_float:
                kinds = ("whole numbers", "floats")
                raise FootageError(
                    f"every frame in {kinds[self.is_float]}, as {self.path.name}",
                    f"{path} in {kinds[not self.is_float]}",
                    "Replace that frame or split the sequence",
                )
            if pixels.shape[:2] != (self.height, self.width):
                raise FootageError(
                    f"every frame at {self.width} x {self.height}, the size of {self.path.name}",
                    f"{path} of {pixels.shape[1]} x {pixels.shape[0]}",
                    "Replace that frame or split the sequence",
                )
            yield number, Frame(pixels, self.color_space)

    def identity(self, number: int) -> str:
        """As it was before the frame was first read: a file that is replaced during a job is a changed one after it."""
        if number not in self._identities:
            self._identities[number] = file_identity(self._files[number])
        return self._identities[number]


class _Kept(NamedTuple):
    """An open movie and where it stands."""

    container: Any
    pictures: Iterator[Any] | None  # those to come; None: not known, it stands elsewhere
    number: int  # of the frame that `picture` shows
    picture: Any


class MovieFootage:
    """A movie; frame n is what is on screen (n - 1) / fps seconds after the start, as in Blender."""

    def __init__(self, path: Path, color_space: str = "auto") -> None:
        self.path = path
        self.files: Collection[Path] = (path,)
        self.color_space = "srgb" if color_space == "auto" else color_space
        self.warnings: list[str] = []
        try:
            with ExitStack() as opened:
                container = opened.enter_context(self._open())
                stream = container.streams.video[0]
                context = stream.codec_context
                rate = stream.guessed_rate or stream.average_rate  # as Blender asks for it
                if not rate or not stream.time_base or not context.width:
                    raise self._error("no frame rate or size in its header")
                _check_size(context.width, context.height, path)
                self.fps = float(rate)
                self.is_float = "f32" in (context.pix_fmt or "")
                first = _first(container.decode(stream))
                times = _indexed_times(container, stream) or self._read_times(1 / (rate * stream.time_base))
                self._pts = self._presentation_times(times, stream, rate)
                if not self._pts:
                    raise self._error("no frames in it")
                curve = _HDR_CURVES.get(context.color_trc)
                # What knows no times of presentation is counted from its start
                lacks_times = container.format.name == "avi" and context.has_b_frames
                self._order = times if lacks_times or container.format.name in _UNTIMED else None
                opened.pop_all()
        except av.error.FFmpegError as error:
            raise self._error(_what_it_is(error)) from None
        if self._order:
            self.warnings.append(
                f"{path.name} does not say when its pictures are shown, so every preview reads it from the start. "
                "Convert it to MP4 or MOV for speed."
            )
        if curve and color_space == "auto":
            self.warnings.append(f"{path.name} is tagged {curve}, but read as sRGB. Name its colour space.")
        if first is not None and first.interlaced_frame:
            self.warnings.append(
                f"{path.name} is tagged interlaced. Where something moves, the matte will show combing: deinterlace it "
                "first."
            )
        self.numbers = list(range(1, len(self._pts) + 1))
        self._size = (context.width, context.height)
        turned = first is not None and int(first.rotation) % 360 in (90, 270)
        self.width, self.height = self._size[::-1] if turned else self._size
        self._identity = file_identity(path)
        self._lock = threading.Lock()
        self._kept: _Kept | None = _Kept(container, None, 0, None)
        if first is not None and (self._order or first.pts == self._pts[0]):
            first.pts = self._pts[0]
            self._kept = _Kept(container, None, 1, first)

    def frames(self, numbers: list[int]) -> Iterator[tuple[int, Frame]]:
        if len(numbers) == 1:
            yield numbers[0], self._frame(numbers[0])
        elif numbers:
            container, pictures = self._seek(numbers[0], threads="AUTO")
            with container:
                shown = None
                for number in numbers:
                    picture = self._picture(pictures, number, shown)
                    if picture is not shown:
                        shown, frame = picture, self._convert(picture, number)
                    yield number, frame

    def _frame(self, number: int) -> Frame:
        """One frame by itself, as previews ask for it.

        The file stays open, which at 4K takes as long to open as a frame to decode, and a frame soon after the one
        before is reached from there, not from the last key frame, which may be hundreds of frames back.
        """
        with self._lock:
            kept, self._kept = self._kept, None  # not again what failed
            if kept and (number == kept.number or (kept.pictures and kept.number < number < kept.number + NEAR)):
                container, pictures, _, shown = kept
            else:
                (container, pictures), shown = self._seek(number, kept.container if kept else None), None
            picture = self._picture(pictures or iter(()), number, shown)
            self._kept = _Kept(container, pictures, number, picture)
        return self._convert(picture, number)

    def _seek(self, number: int, container: Any = None, threads: str = "SLICE") -> tuple[Any, Iterator[Any]]:
        """The open movie, and its pictures from one at or before this frame on.

        A seek may end too late: at a key frame whose group's first pictures need the group before, or where there is no
        index. So it is tried from ever further back, at last without one.
        """
        fresh, back, wanted = container is None, 0, self._pts[number - 1]
        container = container or self._open(threads)
        while self._order is None and (target := self._pts[max(0, number - 1 - back)]) > self._pts[0]:
            fresh = False
            try:
                container.seek(target, stream=container.streams.video[0])
                pictures = _decode(container)
                first = next(pictures, None)
            except av.error.FFmpegError:
                first = None
            if first is not None and first.pts <= wanted:
                return container, chain([first], pictures)
            back = max(8, 2 * back)
        if not fresh:
            container.close()
            container = self._open(threads)
        return container, _decode(container, self._order)

    def _picture(self, pictures: Iterator[Any], number: int, picture: Any) -> Any:
        """What is on screen at this frame: the last picture, or one of those to come."""
        try:
            while picture is None or picture.pts < self._pts[number - 1]:
                picture = next(pictures)
        except (av.error.FFmpegError, ValueError) as error:
            raise self._error(f"an error at frame {number}: {error}") from None
        except StopIteration:
            raise FootageError(
                f"{len(self._pts)} frames in {self.path}, as its header says",
                f"nothing decodable from frame {number} on",
                f"Re-export the movie, or matte only frames up to {number - 1}",
            ) from None
        if (picture.width, picture.height) != self._size:
            raise self._error(f"frame {number} of another size, {picture.width} x {picture.height}")
        return picture

    def _convert(self, picture: Any, number: int) -> Frame:
        try:
            return Frame(_picture_to_rgb(picture), self.color_space)
        except (av.error.FFmpegError, ValueError) as error:
            raise self._error(f"an error at frame {number}: {error}") from None

    def identity(self, number: int) -> str:
        return self._identity

    def _read_times(self, step: Fraction) -> list[int]:
        """When each picture is on screen, by reading the whole file; where it does not tell, one every `step`."""
        with self._open() as container:
            packets = container.demux(container.streams.video[0])
            times = [p.dts if p.pts is None else p.pts for p in packets if p.size and not p.is_discard]
            if container.format.name in _UNTIMED:
                return [round(i * step) for i in range(len(times))]
        return sorted(time for time in times if time is not None)

    def _presentation_times(self, times: list[int], stream: Any, rate: Fraction) -> list[int]:
        """When each frame number's picture is shown, in the stream's time base: one entry a frame number.

        Blender shows the last picture that is due by the frame's time, rounded to the time base.
        """
        step = 1 / (rate * stream.time_base)
        count = math.floor((times[-1] - times[0]) / step + Fraction(1, 2)) + 1 if times else 0
        if count > MAX_FRAMES:
            raise self._error(f"{len(times)} pictures spread over {count} frames")
        due = (times[0] + math.floor(i * step + Fraction(1, 2)) for i in range(count))
        shown = [times[bisect_right(times, time) - 1] for time in due]
        if shown == times:
            return times
        self.warnings.append(
            f"The frame rate varies: {len(times)} pictures stand for {count} frames at {float(rate):g} a second; "
            "some are repeated or left out, as Blender does. Convert to a constant rate for exact work."
        )
        return shown

    def _open(self, threads: str = "SLICE") -> Any:
        try:
            container = av.open(
                str(self.path.absolute()),
                options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"},
                metadata_errors="replace",
            )
            if not container.streams.video or container.streams.video[0].codec_context is None:
                container.close()
                raise self._error("only sound in it, or pictures of an unknown codec")
            container.streams.video[0].thread_type = threads
            container.streams.video[0].codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            return container
        except av.error.FFmpegError as error:
            raise self._error(_what_it_is(error)) from None

    def _error(self, actual: str) -> FootageError:
        return FootageError(
            f"a movie with pictures, or an image ({', '.join(sorted(MOVIE_EXTENSIONS | IMAGE_EXTENSIONS))})",
            f"{self.path}: {actual}",
            "Choose the file with the pictures, or export it again if it does not play",
        )


def _what_it_is(error: av.error.FFmpegError) -> str:
    """Of a file that cannot be opened as a movie."""
    if isinstance(error, av.error.ArgumentError):  # not one of `_CONTAINERS`
        return "only sound, or a kind of file that movies do not come in"
    if isinstance(error, av.error.InvalidDataError):
        return "damaged, cut off, or no movie"
    return error.strerror or str(error)


def _indexed_times(container: Any, stream: Any) -> list[int] | None:
    """When each picture is on screen, from an MP4's or QuickTime's index; None where it does not tell.

    The index says when pictures are decoded. Where they are not reordered, or come at a constant rate, they are shown
    at those times, shifted. The first picture tells by how much, and the last one whether all this holds.
    """
    entries = list(stream.index_entries) if "mp4" in container.format.name else []
    if not entries or len(entries) != stream.frames or any(e.is_discard or not e.size for e in entries):
        return None
    times = sorted(entry.timestamp for entry in entries)
    steps = {after - before for before, after in pairwise(times)}
    if stream.codec_context.has_b_frames and len(steps) > 1:
        return None
    try:
        container.seek(times[0], stream=stream)
        first = next(container.demux(stream)).pts
        container.seek(times[-1], stream=stream)
        last = max((p.pts for p in container.demux(stream) if p.size and p.pts is not None), default=None)
    except av.error.FFmpegError:
        return None
    if first is None or last is None or last - first != times[-1] - times[0]:
        return None
    return [time + first - times[0] for time in times]


def _decode(container: Any, order: list[int] | None = None) -> Iterator[Any]:
    """The pictures from where the container stands, each with the time when it is on screen.

    Args:
        order: these times, where the container does not know them and stands at its start.
    """
    for index, picture in enumerate(container.decode(video=0)):
        if order is not None:
            picture.pts = order[min(index, len(order) - 1)]
        elif picture.pts is None:
            picture.pts = picture.dts
        if picture.pts is not None:
            yield picture


def _first(pictures: Iterator[Any]) -> Any:
    """The first of them, or None: the reader says which frame is broken when it comes to it."""
    try:
        return next(pictures, None)
    except av.error.FFmpegError:
        return None


def _picture_to_rgb(picture: Any) -> Pixels:
    components = picture.format.components
    if picture.format.name.startswith("gbr") and picture.format.name.endswith(("f32le", "f32be")):
        pixels: Pixels = picture.to_ndarray(format="gbrpf32le")
    elif max(c.bits for c in components) > 8:
        pixels = picture.to_ndarray(format="rgb48le", interpolation="POINT")  # of chroma: repeated
    else:
        subsampled = len(picture.planes) >= 3 and components[1].width < picture.width
        # Planar: swscale's vector code, three times as fast as its plain one for rgb24, with the same result
        pixels = (
            _merged(_full_chroma(picture).reformat(format="gbrp")) if subsampled else picture.to_ndarray(format="rgb24")
        )
    turns = int(picture.rotation) % 360 // 90
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _full_chroma(picture: Any) -> Any:
    """An 8-bit picture with its chroma repeated to full size, which swscale then converts as exactly as Blender's does:
    its short cut for subsampled pictures is up to 2 codes darker."""
    full = av.VideoFrame(picture.width, picture.height, "yuv444p")
    full.colorspace, full.color_range = picture.colorspace, picture.color_range
    for source, target in zip(picture.planes[:3], full.planes, strict=True):
        samples, wanted = _samples(source), _samples(target)
        rows, columns = -(-target.height // source.height), -(-target.width // source.width)
        wide = cv2.merge([samples] * columns).reshape(source.height, -1)
        for row in range(rows):
            part = wanted[row::rows]
            part[...] = wide[: part.shape[0], : part.shape[1]]
    return full


def _merged(picture: Any) -> Pixels:
    """(H, W, 3) of a "gbrp" picture; a third of the time of `to_ndarray`."""
    green, blue, red = (_samples(plane) for plane in picture.planes)
    return cv2.merge([red, green, blue])


def _samples(plane: Any) -> Pixels:
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width]


def _sequence_files(path: Path) -> dict[int, Path]:
    match = _NUMBERED.match(path.name)
    if not match:
        return {1: path}
    files: dict[int, Path] = {}
    names = _names(path.parent)
    # Where a file system takes a name in another case, or made of other characters, no file may be spelt as the path
    spelt = str if path.name in names or not path.exists() else _any_spelling
    ours = spelt(match["prefix"]), spelt(match["suffix"])
    for name in names:
        other = _NUMBERED.match(name)
        if other and (spelt(other["prefix"]), spelt(other["suffix"])) == ours:
            number = int(other["number"])
            # Of shot.1.png and shot.01.png the one with as many digits as the path has
            if number not in files or len(other["number"]) == len(match["number"]):
                files[number] = path.parent / name
    return files


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise FootageError(
            "a folder whose files can be listed", f"{folder}: {error.strerror}", "Check the drive and its permissions"
        ) from None


def _any_spelling(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def file_identity(path: Path) -> str:
    """Changes when the file does: its name, size and time of change."""
    try:
        stat = path.stat()
    except OSError as error:
        raise FootageError(f"the file {path}", error.strerror or str(error), "Put it back, or choose another") from None
    return f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any, tuple[int, int, int]]]:
    """An image at the part that holds its colour (the first, where none does): its reader, header and R, G, B."""
    hints = oiio.ImageSpec()
    hints["oiio:UnassociatedAlpha"] = 1  # colour as stored, not multiplied by an alpha that is not ours
    image = None
    try:
        if not _is_unicode(path):
            raise FootageError(
                "file and folder names in UTF-8, which reading images needs", str(path), "Rename files and folders"
            )
        image = oiio.ImageInput.open(str(path), hints)
        if image is None:
            raise FootageError("a readable image", f"{path}: {oiio.geterror()}", "Check that the file opens elsewhere")
        colorful = (i for i in range(MAX_PARTS) if image.seek_subimage(i, 0) and _find_rgb(image.spec().channelnames))
        image.seek_subimage(next(colorful, 0), 0)
        image.geterror()  # no part after the last: no failure
        spec = image.spec()
        _check_size(spec.full_width, spec.full_height, path)
        _check_size(spec.width, spec.height, path)
        if spec.deep:
            raise FootageError("a flat image", f"{path}, a deep one", "Flatten it")
        if spec.depth > 1:  # as DDS may be, whatever its name
            raise FootageError("a flat image", f"{path}, a volume of {spec.depth} slices", "Export one as a picture")
        channels = _find_rgb(spec.channelnames) or _fallback_rgb(spec.channelnames)
        if _WIDE.intersection(str(spec.channelformat(c)) for c in channels):
            raise FootageError(
                "whole numbers up to 16 bits, or floats", f"{path} of wider ones, as identifiers are", "Export as half"
            )
        yield image, spec, channels
    except UnicodeDecodeError:  # names and messages made of a damaged file's bytes
        raise FootageError("a readable image", f"{path}, whose header is damaged", "Render or copy it again") from None
    finally:
        if image is not None:
            image.close()


def _color_tag(spec: Any) -> str:
    """What an image's header says of its colours and nobody follows unless their space is named; "" for nothing."""
    if not _LOG.isdisjoint(spec.get_string_attribute(name) for name in ("oiio:ColorSpace", "dpx:Transfer")):
        return "logarithmic, but read as sRGB"
    primaries = spec.getattribute("chromaticities", oiio.TypeDesc("float[8]")) or _REC709
    if np.abs(np.subtract(primaries, _REC709)).max() > 0.01:
        return "with other primaries than Rec.709's, but read as if it had these"
    return ""


def _is_unicode(path: Path) -> bool:
    """Whether it can be written as UTF-8; on Linux names are any bytes, which old drives have."""
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def _check_size(width: int, height: int, path: Path) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise FootageError(
            f"pictures up to {MAX_SIDE} pixels a side and {MAX_PIXELS} in all",
            f"{path} of {width} x {height}",
            "Scale it down or check the file",
        )


def read_image(path: Path) -> Pixels:
    """Read a picture as (H, W, 3) RGB at the file's precision, its whole display window, alpha ignored.

    Raises:
        FootageError: unreadable, truncated, or absurdly large.
    """
    with _opened(path) as (image, spec, channels):
        formats = {str(spec.channelformat(c)) for c in channels}  # another layer's, as depth's, may be wider
        name = formats.pop() if len(formats) == 1 else str(spec.format)
        kind = {"uint8": "uint8", "half": "half", "float": "float", "double": "float"}.get(name, "uint16")
        first, last = min(channels), max(channels)
        part = image.current_subimage()
        if last - first < MAX_SPAN:
            block = image.read_image(part, 0, first, last + 1, kind)
            order = [c - first for c in channels]
            pixels = block if block is None or order == list(range(block.shape[-1])) else block[..., order]
        else:
            planes = [image.read_image(part, 0, c, c + 1, kind) for c in channels]
            pixels = None if any(plane is None for plane in planes) else np.concatenate(planes, -1)
        if pixels is None:
            raise FootageError(
                "a whole, readable image", f"{path}: {image.geterror()}", "Render or copy that frame again"
            )
    return _display_window(pixels, spec)


def _display_window(pixels: Pixels, spec: Any) -> Pixels:
    """Cut the stored pixels to the display window, black where there are none."""
    top, left = spec.y - spec.full_y, spec.x - spec.full_x
    height, width = spec.full_height, spec.full_width
    if (top, left, *pixels.shape[:2]) == (0, 0, height, width):
        return np.ascontiguousarray(pixels)
    window = np.zeros((height, width, 3), pixels.dtype)
    rows = slice(max(top, 0), max(min(top + pixels.shape[0], height), 0))
    columns = slice(max(left, 0), max(min(left + pixels.shape[1], width), 0))
    inside = window[rows, columns]
    inside[...] = pixels[rows.start - top :, columns.start - left :][: inside.shape[0], : inside.shape[1]]
    return window


def _find_rgb(names: tuple[str, ...]) -> tuple[int, int, int] | None:
    """Where R, G, B are: the plain ones, else a combined layer's (Blender's), else those of the first layer."""
    reds = [n for n in names if n.lower().endswith((".r", ".red"))]
    for red in ["R", *sorted(reds, key=lambda n: ".combined." not in n.lower())]:
        layer, dot, _ = red.rpartition(".")
        found = [next((i for i, n in enumerate(names) if n.lower() in _aliases(layer + dot, c)), -1) for c in "rgb"]
        if min(found) >= 0:
            return found[0], found[1], found[2]
    return None


def _fallback_rgb(names: tuple[str, ...]) -> tuple[int, int, int]:
    """Grey pictures, and channels without a name that tells."""
    if "Y" in names:
        return (names.index("Y"),) * 3
    return (0, 1, 2) if len(names) >= 3 else (0, 0, 0)


def _aliases(layer: str, channel: str) -> tuple[str, str]:
    long = {"r": "red", "g": "green", "b": "blue"}[channel]
    return layer.lower() + channel, layer.lower() + long


# Writing


def write_image(path: Path, pixels: Pixels) -> int:
    """Write a picture whole or not at all, losslessly: under another name first, then renamed.

    Args:
        path: ends in .png (uint8 or uint16) or .exr (float16 or float32).
        pixels: (H, W) one channel, (H, W, 3) RGB or (H, W, 4) RGBA; one-channel EXR is named Y.

    Returns:
        The file's size in bytes.

    Raises:
        OutputError: no space, no permission, or the folder is gone.
    """
    write = _write_png if path.suffix.lower() == ".png" else _write_exr
    return write_whole(path, lambda part: write(part, pixels))


def write_whole(path: Path, write: Callable[[Path], object], sync: bool = True) -> int:
    """Have `write` make a file under another name (same ending), and give it its name when it is whole and on disk.

    Args:
        sync: wait until it is on disk; else, after a power failure, it may be empty under its name.

    Returns:
        The file's size in bytes.

    Raises:
        OutputError: no space, no permission, or the folder is gone.
    """
    try:
        try:
            return _write_part(path, write, sync)
        except FileNotFoundError:  # swept by an engine that took this one for dead while the machine slept
            return _write_part(path, write, sync)
    except (OSError, av.error.FFmpegError) as error:
        raise OutputError(
            f"to write {path}", error.strerror or str(error), "Free space or choose another folder, then run again"
        ) from None


def _write_part(path: Path, write: Callable[[Path], object], sync: bool) -> int:
    partial = path.with_name(f".{uuid.uuid4().hex[:8]}.part.{path.name}")  # others may write the same
    try:
        write(partial)
        with open(partial, "r+b") as file:  # Windows syncs no file that is open for reading only
            if sync:
                os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        partial.replace(path)
        return size
    finally:
        with suppress(OSError):
            partial.unlink()


def _write_png(path: Path, pixels: Pixels) -> None:
    """Every row as its difference from the one above (filter 2), deflated by ISA-L: a sixth of libpng's time."""
    height, width = pixels.shape[:2]
    color_type = {1: 0, 3: 2, 4: 6}[pixels.size // (height * width)]
    rows = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, color_type, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in ((b"IHDR", header), (b"IDAT", _deflate(filtered)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(data)) + kind + data)
            file.write(struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind))))


def _deflate(rows: Pixels) -> bytes:
    """The same bytes each time, by a first portion of 8 of them: from a longer one, ISA-L 1.9.1 puts the third byte
    where an address on the stack says, and finds other matches in one picture of some hundreds."""
    encoder, data = isal_zlib.compressobj(1), rows.data.cast("B")
    start = encoder.compress(data[:8]) + encoder.flush(isal_zlib.Z_SYNC_FLUSH)
    return b"".join((start, encoder.compress(data[8:]), encoder.flush()))


def _write_exr(path: Path, pixels: Pixels) -> None:
    write_exr(path, {"Y" if pixels.ndim == 2 else "RGBA"[: pixels.shape[2]]: pixels})


def write_exr(path: Path, channels: dict[str, Pixels]) -> None:
    """Write float16 or float32 pictures of one size, losslessly.

    Args:
        channels: (H, W) as "Y" or "layer.V", (H, W, 3 or 4) as "RGB", "RGBA" or "layer", for layer.R and so on.

    Raises:
        OSError: the file cannot be written.
    """
    # Run lengths: less than half of the time of deflate and wavelets, for a third more on disk where it is grainy
    header = {"type": OpenEXR.scanlineimage, "compression": OpenEXR.RLE_COMPRESSION}
    contiguous = {name: np.ascontiguousarray(pixels) for name, pixels in channels.items()}  # it reads no other
    file = io.BytesIO()  # its own files do not notice a full disk at their end
    OpenEXR.File(header, contiguous).write(file)
    path.write_bytes(file.getbuffer())


def same_shape(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two sizes, height and width first, have the same proportions, so that scaling brings one to the other."""
    return abs(size[1] / size[0] * other[0] / other[1] - 1) <= 0.01


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resample a picture, (H, W, 3), to (height, width, 3) in its own precision and encoding."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = pixels.shape[0] > height
    source = pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels
    result = cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return result.astype(pixels.dtype)
