# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies, read through PyAV: each frame number's picture as Blender shows it. No bpy."""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np

from .color import Pixels, seen_as
from .errors import FootageError
from .footage import IMAGE_EXTENSIONS, MAX_FRAMES, MAX_PIXELS, MOVIE_EXTENSIONS, Frame, check_size, file_identity

NEAR = 4  # frames on, at most, that are decoded on the way rather than sought: a key frame may be far before

# Containers that hold their own pictures: no playlists (HLS, DASH, concat), which name other files and addresses
_CONTAINERS = "mov,mp4,matroska,webm,avi,mxf,mpeg,mpegts,mpegvideo,m4v,h264,hevc,ivf,ogg,asf,dv"
_UNTIMED = {"mpeg", "mpegvideo"}  # containers whose pictures have no times, or not all
# Uncompressed video's ways to lay brightness and chroma beside each other, and the planes that hold the same samples
_PLANAR = {"uyvy422": "yuv422p", "yuyv422": "yuv422p", "yvyu422": "yuv422p", "nv12": "yuv420p", "nv21": "yuv420p"}
_HDR_CURVES = {16: "Rec.2100-PQ", 18: "Rec.2100-HLG"}  # transfer characteristics of ITU-T H.273: Blender's names


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
        self.color_space = seen_as(color_space, is_float=False)
        self.warnings: list[str] = []
        try:
            with ExitStack() as opened:
                container = opened.enter_context(self._open())
                stream = _pictures_of(container)
                context = stream.codec_context
                rate = stream.guessed_rate or stream.average_rate  # as Blender asks for it
                if not rate or not stream.time_base or not context.width:
                    raise self._error("no frame rate or size in its header")
                check_size(context.width, context.height, path)
                self.fps = float(rate)
                self.is_float = "f32" in (context.pix_fmt or "")
                first = _first(container.decode(stream))
                coded = _indexed_times(container, stream) or self._read_times(1 / (rate * stream.time_base))
                times = sorted(coded)
                self._pts = self._presentation_times(times, stream, rate)
                if not self._pts:
                    raise self._error("no frames in it")
                curve = _HDR_CURVES.get(context.color_trc)
                # What knows no times of presentation is counted from its start
                kind = container.format.name
                # FFmpeg's own MXF of H.264 says of reordered pictures only when they are decoded
                lacks_times = context.has_b_frames and (kind == "avi" or kind == "mxf" and coded == times)
                self._order = times if lacks_times or kind in _UNTIMED else None
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
                container.seek(target, stream=_pictures_of(container))
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
            raise self._broken(number, error) from None
        except StopIteration:
            raise FootageError(
                f"{len(self._pts)} frames in {self.path}, as its header says",
                f"nothing decodable from frame {number} on",
                f"Re-export the movie, or matte only frames up to {number - 1}",
            ) from None
        if (picture.width, picture.height) != self._size:
            raise FootageError(
                f"every frame at {self._size[0]} x {self._size[1]}, as {self.path} begins",
                f"frame {number} of another size, {picture.width} x {picture.height}",
                "Export it at one size, or split it where the size changes",
            )
        return picture

    def _convert(self, picture: Any, number: int) -> Frame:
        try:
            return Frame(_picture_to_rgb(picture), self.color_space)
        except (av.error.FFmpegError, ValueError) as error:
            raise self._broken(number, error) from None

    def identity(self, number: int) -> str:
        return self._identity

    def _read_times(self, step: Fraction) -> list[int]:
        """When each picture is on screen, in the order of the whole file; one every `step` where it does not tell."""
        with self._open() as container:
            stream = _pictures_of(container)
            promised, found, times = len(stream.index_entries), 0, []
            for packet in container.demux(stream):
                found += packet.size > 0 or packet.dts is not None  # but for the last, which says that this is the end
                if packet.size and not packet.is_discard:
                    times.append(packet.dts if packet.pts is None else packet.pts)
            if "mp4" in container.format.name and found < promised:
                self.warnings.append(
                    f"{self.path.name} ends after {found} of the {promised} pictures in its index: it was cut off, as "
                    "by a copy that has not ended. Copy or export it again."
                )
            if container.format.name in _UNTIMED:
                return [round(i * step) for i in range(len(times))]
        return [time for time in times if time is not None]

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
            stream = _pictures_of(container)
            if stream is None or stream.codec_context is None:
                container.close()
                raise self._error("only sound in it, or pictures of an unknown codec")
            stream.thread_type = threads
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            return container
        except av.error.FFmpegError as error:
            raise self._error(_what_it_is(error)) from None

    def _broken(self, number: int, error: Exception) -> FootageError:
        words = error.strerror if isinstance(error, av.error.FFmpegError) else ""
        return FootageError(
            f"pictures that can be decoded in {self.path}",
            f"an error at frame {number}: {words or error}",
            "Copy or export it again, or leave out the frames that are broken",
        )

    def _error(self, actual: str) -> FootageError:
        return FootageError(
            f"a movie with pictures, or an image ({', '.join(sorted(MOVIE_EXTENSIONS | IMAGE_EXTENSIONS))})",
            f"{self.path}: {actual}",
            "Choose the file with the pictures, or export it again if it does not play",
        )


def _pictures_of(container: Any) -> Any:
    """The first stream of pictures that is no cover art, as Blender takes it; None where there is none."""
    streams = container.streams.video
    return next((s for s in streams if not s.disposition & av.stream.Disposition.attached_pic), None)


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
    for index, picture in enumerate(container.decode(_pictures_of(container))):
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
        in_planes = len(picture.planes) >= 3 or picture.format.name in _PLANAR
        subsampled = in_planes and (components[1].width, components[1].height) != (picture.width, picture.height)
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
    planar = _PLANAR.get(picture.format.name)
    picture = picture.reformat(format=planar) if planar else picture
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
