# SPDX-License-Identifier: GPL-3.0-or-later
"""Deliveries: what others want of a finished matte, made of the frames in its output folder. No bpy.

Into `delivery/`, by the names of core.job.DELIVERIES:

    rgba         rgba.####.exr        premultiplied, scene-linear
    multilayer   multilayer.####.exr  the same, and the layers alpha.V, foreground.RGB, error.V, plate.RGB
    prores       cutout.mov           ProRes 4444, 10 bits and alpha, straight, encoded as the footage is
    webm         cutout.webm          VP9 with alpha, straight, sRGB
    preview      preview.mp4          H.264, sRGB, over mid-grey

Movies run from the first frame to the last; a frame that is missing between them is transparent. Each file is written
whole or not at all, and written again only when the frames it is made of have changed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from . import color, frame_io, plate_files
from .color import Floats, Pixels
from .errors import FootageError, JobError, OutputError
from .files import real_places, write_whole
from .footage import MAX_FRAMES, file_identity, is_movie
from .job import DELIVERIES, Job, PlateSource, check_fps, read_job
from .plate.alignment import lay_plate

VERSION = 2  # raise when the same frames give another file
ABANDONED = 3600.0  # seconds after which a part that nobody writes to is taken for a killed engine's
SEQUENCE_FPS = 24.0  # of image sequences, which do not say
NTSC_ROUNDING = 0.005  # frames/s by which a rate of 1000/1001 is off as people write it: 23.98
H264_SIDE = 16384  # pixels; the encoder takes no larger pictures
GREY = np.float32(0.18)  # linear, behind the preview

_MOVIES = {
    "prores": ("cutout.mov", "prores_ks", "yuva444p10le", {"profile": "4444", "vendor": "apl0"}),
    "webm": ("cutout.webm", "libvpx-vp9", "yuva420p", {"crf": "18", "b": "0", "auto-alt-ref": "0", "cpu-used": "4"}),
    "preview": ("preview.mp4", "libx264", "yuv420p", {"crf": "18", "movflags": "faststart"}),
}
_FRAME = re.compile(r"[a-z]+\.(\d+)\.exr")
_BT709, _LIMITED = 1, 1  # in ITU-T H.273 and FFmpeg


class CancelledError(Exception):
    """The user cancelled; what was finished by then stays."""


@dataclass(frozen=True)
class Finished:
    """The frames of an output folder, as its report lists them."""

    folder: Path
    files: dict[int, dict[str, Path]]  # frame number: alpha, foreground and (optional) error
    color_space: str  # of the foreground
    fps: float  # of the footage; 0 for image sequences
    older: list[int]  # those that were made with other settings than the last run's

    def key(self, number: int) -> str:
        """Changes when a file of the frame does."""
        return " ".join(file_identity(path) for path in self.files[number].values())

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the first frame, and so of all."""
        height, width = frame_io.read_image(next(iter(self.files.values()))["alpha"]).shape[:2]
        return height, width

    def convert(self, pixels: Pixels, target: str) -> Floats:
        """A foreground as stored to another colour space; of a movie as bright as the movie is."""
        return (color.convert if self.fps else color.convert_still)(pixels, self.color_space, target)

    def read(self, number: int) -> tuple[Pixels, Floats]:
        """A frame's straight foreground (H, W, 3) as stored, and its alpha (H, W).

        Raises:
            JobError: it has another size than the first.
        """
        foreground, alpha = (frame_io.read_image(self.files[number][name]) for name in ("foreground", "alpha"))
        for pixels in (foreground, alpha):
            if pixels.shape[:2] != self.size:
                raise JobError(
                    f"frames of {self.size[1]} x {self.size[0]}, as the first is",
                    f"frame {number} of {pixels.shape[1]} x {pixels.shape[0]}",
                    "Matte all of them with the same footage",
                )
        return foreground, color.to_float(alpha[..., 0])


def read_finished(folder: Path, numbers: Sequence[int] | None = None) -> Finished:
    """What is in an output folder.

    Args:
        numbers: the frames to take; None: all that are there.

    Raises:
        JobError: no report, no frames with a foreground, or frames of several runs in different colour spaces.
    """
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        records = {int(record["frame_number"]): record for record in report["frames"]}
        wanted = sorted(records if numbers is None else records.keys() & set(numbers))
        space = str(report["foreground_color_space"])
        files = {}
        for number in wanted:
            paths: dict[str, Path] = {
                Path(name).parts[0]: folder / name for name in records[number]["files"] if ".." not in name
            }
            found: dict[str, Path] = {name: paths[name] for name in ("alpha", "foreground", "error") if name in paths}
            if len(found) > ("error" in found) + 1 and all(path.is_file() for path in found.values()):
                files[number] = found
                other = records[number].get("color_space", space)
                if other != space:
                    raise JobError(
                        f"frames in {space}, as the last run wrote them",
                        f"frame {number} in {other}",
                        "Matte all of them with the same settings",
                    )
        older = [int(number) for number in report.get("of_older_settings", []) if number in files]
        finished = Finished(folder, files, space, float(report["fps"]), older)
        if not 0 <= finished.fps < 1e6:
            raise ValueError(f"{finished.fps} frames a second")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise JobError(
            "an output folder with a report.json", f"{folder}: {error!r}", "Matte the footage first"
        ) from None
    if not files:
        raise JobError("finished frames with their foreground", f"none in {folder}", "Matte the footage first")
    return finished


def in_words(numbers: Sequence[int]) -> str:
    """Ascending frame numbers as ranges: "1-3, 7"."""
    known = set(numbers)
    firsts, lasts = ([n for n in numbers if n + step not in known] for step in (-1, 1))
    return _ranges_in_words(zip(firsts, lasts, strict=True))


def _ranges_in_words(ranges: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in ranges)


def older_words(numbers: Sequence[int]) -> str:
    """The warning of `Finished.older`."""
    which, what = f"Frames {in_words(numbers)} were", "them"
    if len(numbers) == 1:
        which, what = f"Frame {numbers[0]} was", "it"
    return f"{which} made with older settings or footage: run the job for all frames, or delete {what}."


def check_inputs(folder: Path, kinds: Sequence[str], places: Iterable[tuple[str, str]]) -> None:
    """Refuse deliveries over what the job in this folder is made of, as an earlier delivery that is now its footage.

    Args:
        places: of all that the job reads, see `real_places`.

    Raises:
        OutputError: one of the files is named as these deliveries are, and lies where they go.
    """
    ours = os.path.realpath(folder / "delivery")
    names = [_MOVIES[kind][0] if kind in _MOVIES else f"{kind}.*.exr" for kind in kinds]
    for place, name in places:
        if place == ours and any(Path(name).match(known) for known in names):
            raise OutputError(
                "a folder for deliveries whose files the job does not read",
                f"{ours}, where {name} would be written over",
                "Move that file elsewhere, or choose another output folder",
            )


def deliver(
    finished: Finished,
    kinds: Sequence[str],
    fps: float = 0.0,
    plate: PlateSource | None = None,
    on_frame: Callable[[int], None] = lambda number: None,
    on_warning: Callable[[str], None] = lambda message: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, str]:
    """Bring deliveries up to date. What earlier ones made of other frames stays, which a warning says.

    Args:
        kinds: names out of core.job.DELIVERIES.
        fps: of movies; 0: the footage's, or 24.
        plate: what the multilayer file's plate layer holds; None: no such layer.
        on_frame: called after each frame with its number.
        on_warning: called with a sentence.

    Returns:
        Each kind's movie, or its first frame's file.

    Raises:
        CancelledError: `cancelled` said so, between two frames.
        JobError: a kind that does not exist; a movie of frames whose numbers lie millions apart.
        OutputError: they cannot be written.
        FootageError: a frame or the plate cannot be read.
    """
    for kind in kinds:
        if kind not in DELIVERIES:
            raise JobError(f"deliveries out of {', '.join(DELIVERIES)}", repr(kind), "Choose some of them")
    rate = _exact_rate(fps or finished.fps or SEQUENCE_FPS)
    folder = finished.folder / "delivery"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            "a folder that can be written",
            f"{folder}: {error.strerror}",
            "Allow writing there, or move a file of that name",
        ) from None
    with suppress(OSError):  # another engine may have taken one away; the rest is for the next delivery
        for part in folder.glob(".*.part.*"):
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()
    made = {}

    def step(number: int) -> None:
        on_frame(number)
        if cancelled():
            raise CancelledError

    with _State(folder / "delivery.json") as state:
        for kind in kinds:
            if kind in _MOVIES:
                path = folder / _MOVIES[kind][0]
                key = [kind, str(rate), finished.color_space, *(finished.key(n) for n in finished.files)]
                write = partial(_write_movie, kind=kind, finished=finished, rate=rate, step=step)
                state.bring_up_to_date(path, key, write)
                made[kind] = str(path)
                continue
            layer = _read_plate(finished, plate) if kind == "multilayer" and plate and plate.path else None
            for number in finished.files:
                path = folder / f"{kind}.{number:04d}.exr"
                key = [kind, finished.color_space, finished.key(number), repr(plate) if layer is not None else ""]
                write = partial(_write_layers, kind=kind, finished=finished, number=number, plate=layer)
                state.bring_up_to_date(path, key, write)
                made.setdefault(kind, str(path))
                step(number)
            delivered = (_FRAME.fullmatch(path.name) for path in folder.glob(f"{kind}.*.exr"))
            if others := sorted({int(match[1]) for match in delivered if match} - finished.files.keys()):
                on_warning(
                    f"Beside these frames, {folder} holds {kind} frames of earlier deliveries: {in_words(others)}. "
                    "Delete those that are not wanted."
                )
    return made


def deliver_folder(
    folder: Path,
    kinds: Sequence[str],
    fps: float = 0.0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_warning: Callable[[str], None] = lambda message: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, str]:
    """The same for all that is in a job's output folder.

    Args:
        on_progress: called after each frame that was encoded with how many were, and how many that is at most.
    """
    check_fps(fps)
    job = read_job(folder / "job.yaml")
    check_inputs(folder, kinds, real_places(_files_of(job)))
    finished = read_finished(folder)
    if finished.older:
        on_warning(older_words(finished.older))
    # As ranges: one may be of millions of numbers
    gaps = _ranges_in_words((a + 1, b - 1) for a, b in itertools.pairwise(finished.files) if b > a + 1)
    if gaps:
        on_warning(f"{folder} has no foreground of {gaps}, where movies are transparent: run the job for them.")
    total = len(kinds) * (max(finished.files) - min(finished.files) + 1)
    count = itertools.count(1)
    return deliver(
        finished,
        kinds,
        fps or job.output.fps,
        job.plate,
        lambda number: on_progress(next(count), total),
        on_warning,
        cancelled,
    )


def _files_of(job: Job) -> Iterator[Path]:
    """What a job reads, as far as it is still there."""
    for source in (job.footage, job.plate, job.masks.garbage, job.masks.core):
        if is_movie(Path(source.path)):  # which need not be opened to be known
            yield Path(source.path)
        elif source.path:
            with suppress(FootageError):
                yield from frame_io.open_footage(source.path).files


def _exact_rate(fps: float) -> Fraction:
    """Of a rate as people write it: 23.976 and 29.97 are 24000/1001 and 30000/1001; 5 is 5."""
    ntsc = Fraction(1000 * round(fps * 1.001), 1001)
    is_ntsc = abs(fps - ntsc) < min(NTSC_ROUNDING, abs(fps - round(fps)))
    return ntsc if is_ntsc else Fraction(fps).limit_denominator(1001)


class _State:
    """What each delivered file was made of; kept on disk from the end of each delivery on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        self._keys: dict[str, str] = known if isinstance(known, dict) else {}

    def __enter__(self) -> _State:
        return self

    def __exit__(self, *exc: object) -> None:
        write_whole(self._path, lambda part: _write_text(part, json.dumps(self._keys)))

    def bring_up_to_date(self, path: Path, made_of: list[str], write: Callable[[Path], None]) -> None:
        key = hashlib.sha256(json.dumps([VERSION, *made_of]).encode()).hexdigest()
        if self._keys.get(path.name) != key or not path.is_file():
            write_whole(path, write)
            self._keys[path.name] = key


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_layers(path: Path, kind: str, finished: Finished, number: int, plate: Floats | None) -> None:
    stored, pha = finished.read(number)
    space = finished.color_space if color.is_scene_linear(finished.color_space) else "linear"
    foreground = finished.convert(stored, space)
    channels = {"RGBA": np.dstack([foreground * pha[..., None], pha])}
    if kind == "multilayer":
        channels |= {"alpha.V": pha, "foreground": foreground}
        if "error" in finished.files[number]:
            channels["error.V"] = color.to_float(frame_io.read_image(finished.files[number]["error"])[..., 0])
        if plate is not None:
            channels["plate"] = plate
    half = stored.dtype in (np.uint8, np.float16)  # which half floats hold exactly
    kept = np.dtype(np.float16 if half else np.float32)
    frame_io.write_exr(path, {name: color.to_dtype(values, kept) for name, values in channels.items()})


def _read_plate(finished: Finished, plate: PlateSource) -> Floats:
    """The plate's (first) picture at the frames' size, scene-linear like the other layers; of a pan its middle view."""
    source = frame_io.open_plate(plate.path, plate.color_space)
    ((_, frame),) = source.frames(source.numbers[:1])
    space = finished.color_space if color.is_scene_linear(finished.color_space) else "linear"
    size, motion = finished.size[::-1], plate_files.read_motion(Path(plate.path))
    stored_as = plate.color_space if color.is_data(plate.color_space) else source.color_space
    convert = color.convert if source.fps else color.convert_still
    if motion is None:
        return convert(frame_io.resize(frame.pixels, *size), stored_as, space)
    middle = motion.at(sorted(motion.frames)[len(motion.frames) // 2], *size)
    return lay_plate(convert(frame.pixels, stored_as, space), None, middle, None, finished.size)[0]


def _write_movie(path: Path, kind: str, finished: Finished, rate: Fraction, step: Callable[[int], None]) -> None:
    _, codec, pix_fmt, options = _MOVIES[kind]
    numbers = list(finished.files)
    if numbers[-1] - numbers[0] >= MAX_FRAMES:
        raise JobError(
            f"frames of one shot for {path.suffix} movies, which run from the first to the last",
            f"the numbers {numbers[0]} to {numbers[-1]}",
            "Matte each shot into a folder of its own",
        )
    height, width = finished.size
    if kind == "preview" and max(height, width) > H264_SIDE:
        raise JobError(
            f"frames of up to {H264_SIDE} pixels a side for H.264", f"{width} x {height}", "Deliver prores or webm"
        )
    with av.open(str(path.absolute()), "w") as container:  # else FFmpeg takes what is before a colon for a protocol
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        even = 2 if kind == "preview" else 1  # H.264 has no odd sizes
        stream.width, stream.height, stream.pix_fmt = -(-width // even) * even, -(-height // even) * even, pix_fmt
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        if kind == "webm":
            stream.metadata["alpha_mode"] = "1"  # without which players show it opaque
        transparent = np.zeros((height, width, 4), np.float32)
        for index, number in enumerate(range(numbers[0], numbers[-1] + 1)):
            rgba = _display(kind, finished, number) if number in finished.files else transparent
            if kind == "preview":
                rgba = np.pad(
                    _over_grey(rgba), ((0, stream.height - height), (0, stream.width - width), (0, 0)), "edge"
                )
            layout = "rgb48le" if kind == "preview" else "rgba64le"
            picture = av.VideoFrame.from_ndarray(color.to_dtype(rgba, np.dtype(np.uint16)), format=layout)
            picture = picture.reformat(format=pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG")
            picture.pts = index
            container.mux(stream.encode(picture))
            step(number)
        container.mux(stream.encode(None))


def _display(kind: str, finished: Finished, number: int) -> Floats:
    """(H, W, 4) straight, 0 to 1: sRGB-encoded, or as the footage is where ProRes keeps a log or display encoding."""
    stored, pha = finished.read(number)
    keeps = kind == "prores" and not color.is_scene_linear(finished.color_space)
    target = finished.color_space if keeps else "srgb"
    return np.dstack([np.clip(finished.convert(stored, target), 0, 1), pha])


def _over_grey(rgba: Floats) -> Floats:
    """Straight sRGB over grey, mixed in linear light, as (H, W, 3) sRGB."""
    pha = rgba[..., 3:]
    return color.linear_to_srgb(color.srgb_to_linear(rgba[..., :3]) * pha + GREY * (1 - pha))
