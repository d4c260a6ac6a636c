# SPDX-License-Identifier: GPL-3.0-or-later
"""A job from footage to files: decode, plate, network and encode side by side; resumable, shareable. No bpy.

How a recurrent network's state is restored: a run's frames are cut into segments of `SEGMENT` from its first frame,
and what the network remembers at a segment's end is stored beside the results. The next segment starts from there, in
the same process or another; where nothing is stored (a range from the middle of a shot, a segment whose forerunner
another engine has not finished) it starts from an empty memory `PREROLL` frames early. The plate's alignment and match
always start afresh, as early. So a run that was interrupted, even in the middle of a segment, starts that segment
again, writes what is missing, and gives the same files, bit for bit. Segments are also what engines on one folder share
out among themselves (see `claims`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import queue
import random
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from . import color, delivery, frame_io, plate_files, share
from .checkpoints import load_model, locate_model
from .claims import Claims
from .errors import CheckpointError, JobError, MattingError, OutputError, PlateError
from .frame_io import Footage, Frame
from .job import Job, Source, job_text, read_job
from .masks import MaskReader
from .matting import Matte, Matter, choose_devices
from .memory import reused_memory
from .plate import ShotPlate, plate_from_clip
from .plate.doctor import diagnose, find_hidden_place, find_wrong_place
from .plate.from_clip import Relight
from .plate.photometric import PhotometricFit
from .region import SUBJECT

SEGMENT = 200  # frames between two fresh starts of a recurrent network
PREROLL = 12  # frames run before a segment to settle the plate, and the memory where none is stored
VERSION = 18  # raise when the same job gives other pixels: finished frames are then redone
ASTRAY = 0.35  # residual of a plate above which it may be of another place
RIM = 8  # pixels around the subject where the foreground goes on: who scales it down looks beyond the edge
DOCTOR_FRAMES = 6  # frames that the plate doctor looks at
SELDOM, MUCH = 0.2, 0.02  # shares of pictures and of the plate: so much of it seen empty so seldom is worth a warning
READ_AHEAD = 4  # frames decoded before the network asks
WRITERS = min(8, max(2, (os.cpu_count() or 2) // 2))  # threads that encode: a card gives them more than two can do
WRITE_BEHIND = WRITERS + 4  # mattes being encoded or waiting for it
RECORD = {"frame_number": int, "key": str, "files": dict, "written": float}  # what a frame's record must hold
ALIVE = 10.0  # seconds between two signs of life while footage is being opened

Cancelled = Callable[[], bool]


@dataclass(frozen=True)
class Progress:
    done: int
    total: int
    frame_number: int = 0
    fps: float = 0.0  # frames per second, of those computed in this run
    seconds_left: float = 0.0


@dataclass(frozen=True)
class _Listener:
    on_progress: Callable[[Progress], None]
    on_warning: Callable[[str], None]
    cancelled: Cancelled


@reused_memory()
def run_job(
    job: Job,
    frames: tuple[int, int] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_warning: Callable[[str], None] = lambda message: None,
    cancelled: Cancelled = lambda: False,
    device: str = "",
) -> dict[str, Any]:
    """Bring a job's output folder up to date.

    Args:
        frames: first and last, inclusive, a part of the job's own range; None: all of it.
        cancelled: asked before each frame; what is written by then stays.
        device: do a share on this one of the job's devices, beside the processes that serve the others; report and
            deliveries are left to the caller. "": all of it, on all of them.

    Returns:
        The `Result` of core.protocol.Matte: where the files are, how many, and `cancelled`; nothing for a share.

    Raises:
        MattingError: any member; frames already written stay and are not redone.
    """
    listener = _Listener(on_progress, on_warning, cancelled)
    devices = choose_devices(job.device)
    footage = _open_in_sight(job.footage, on_progress)
    numbers = _select(footage, frames or job.frames)
    warn = (lambda message: None) if device else on_warning  # of what the caller has seen, too
    for message in (*footage.warnings, *_missing_words(footage, frames or job.frames)):
        warn(message)
    plate = _Plate(job, footage, numbers, warn)
    masks = MaskReader(job.masks, footage, numbers)
    for message in masks.warnings:
        warn(message)
    results = _Results(job, footage, plate, masks)
    if not device:
        results.check_folder()
        results.check_inputs((*footage.files, *plate.files, *masks.files), numbers)

    segments = list(_segments(numbers, len(devices)))
    todo = set(numbers) - results.up_to_date(numbers)
    skipped = len(numbers) - len(todo)
    if not device:  # a device more than there are segments to do would only watch
        devices = devices[: max(1, sum(not todo.isdisjoint(segment) for segment in segments))]
    here = device or (devices[0] if len(devices) == 1 else "")
    matter = _warm_matter(replace(job, device=here)) if here else None
    results.make_folders()
    if not device:
        results.note_job(job)
    rate = _Rate(len(numbers), skipped, listener)
    if matter is not None:
        matter.on_warning = on_warning
        _Run(footage, plate, masks, matter, results, rate, listener).run(segments, todo)
    else:
        share.run_on_devices(
            devices,
            (results.folder / "job.yaml").absolute(),
            f"{numbers[0]}-{numbers[-1]}",
            results.folder / "claims",
            rate.note_done,
            rate.note_alive,
            on_warning,
            cancelled,
        )
    if device:
        return {}
    if not cancelled():  # all of them are there, and nobody writes them any more
        results.sweep(numbers)
    summary = results.summary(numbers, on_warning)
    if job.output.deliver and not cancelled():
        summary["deliveries"] = _deliver(job, _select(footage, job.frames), results, rate, listener)
    return {**summary, "skipped": skipped, "cancelled": cancelled()}


def _deliver(job: Job, numbers: list[int], results: _Results, rate: _Rate, listener: _Listener) -> dict[str, str]:
    """Make the job's deliveries, once the last of its frames is there (a farm's machines each bring a part)."""
    if missing := sorted(set(numbers) - results.up_to_date(numbers)):
        names = ",".join(job.output.deliver)
        listener.on_warning(
            f"No delivery yet: it is made once the frames {delivery.in_words(missing)} are there, too. "
            f"For one of what is there now: python -m core deliver {results.folder} --deliver {names}"
        )
        return {}
    try:
        return delivery.deliver(
            delivery.read_finished(results.folder, numbers),
            job.output.deliver,
            job.output.fps,
            job.plate,
            on_frame=rate.note_alive,
            cancelled=listener.cancelled,
        )
    except delivery.CancelledError:
        return {}


def preview_frame(
    job: Job, frame_number: int, folder: Path, on_warning: Callable[[str], None] = lambda message: None
) -> dict[str, Any]:
    """Matte one frame by itself, without memory, into `folder`.

    Returns:
        The `Result` of core.protocol.Preview.

    Raises:
        MattingError: any member.
    """
    with ThreadPoolExecutor(2) as readers:
        plate_read = readers.submit(_read_plate_early, job)
        footage = _open_footage(job.footage)
        numbers = _select(footage, (frame_number, frame_number))
        coming = readers.submit(_read_frame, job.footage, frame_number, footage.identity(frame_number))
        wait([plate_read])
        plate = _Plate(job, footage, numbers, lambda message: None)
        matter = _warm_matter(job)
        masks = MaskReader(job.masks, footage, numbers)
        results = _Results(job, footage, plate, masks, folder)
        results.make_folders()
        frame = coming.result()
    laid = plate.under(frame_number, frame, None)
    _check_place(laid, matter, on_warning)
    matte, notes = _matte_frame(matter, laid, masks, frame_number)
    results.write(frame_number, frame, matte, notes)
    return {**results.paths(frame_number), "frame_number": frame_number}


def make_plate(
    source: Source,
    path: Path,
    frames: tuple[int, int] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    cancelled: Cancelled = lambda: False,
    on_warning: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Estimate a clean plate from the clip itself and write it, at the footage's precision, to `path`.

    Where the camera moves, the plate holds all that it saw, and a file beside it says where the frames lie in it.
    A plate that is there already stays, with what lies beside it, until the new one is to be written.

    Returns:
        The `Result` of core.protocol.MakePlate: the file, its coverage (0 to 1), and `cancelled`.

    Raises:
        MattingError: any member.
    """
    footage = _open_in_sight(source, on_progress)
    reader = FootageReader(footage, _select(footage, frames), cancelled=cancelled)
    if reader.count == 1:
        on_warning("A plate of one picture is that picture, subject and all. Give a clip in which the subject moves.")
    needs_exr = footage.is_float or color.is_scene_linear(footage.color_space)
    if path.suffix.lower() not in ((".exr",) if needs_exr else (".png", ".exr")):
        raise JobError("an .exr plate, or .png for integer footage", path.name, "Change the name's ending")
    if os.path.exists(path) and any(path.samefile(file) for file in footage.files if os.path.exists(file)):
        raise JobError("a plate in a file of its own", f"{path}, which is footage", "Choose another name")
    _make_folders(path.parent)  # before all the work

    def note_progress(share: float, step: str = "") -> None:
        if cancelled():
            raise _StoppedError
        on_progress(Progress(round(share * 100), 100))

    try:
        plate = plate_from_clip(
            reader,
            matte=_lone_matte(_warm_matter(Job(source)), cancelled),
            extend=True,
            view=lambda pixels: color.to_float(color.to_srgb(pixels, footage.color_space)),
            relight=_relight(footage.color_space),
            progress=note_progress,
        )
        note_progress(1.0)
    except _StoppedError:
        return {"plate": "", "coverage": 0.0, "cancelled": True}
    doubtful = np.count_nonzero(plate.coverage < SELDOM) / plate.coverage.size
    if doubtful > MUCH:
        on_warning(
            f"{doubtful:.0%} of the plate was seen empty in less than {SELDOM:.0%} of the pictures (dark in "
            f"{plate_files.coverage_path(path).name}): look at it there. A longer range of frames may show more."
        )
    # A plate without companions is whole, too, so none may be there while they change: it goes first and comes last
    try:
        path.unlink(missing_ok=True)
        plate_files.motion_path(path).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"to replace {path}", error.strerror or str(error), "Close what uses it, or choose another name"
        ) from None
    frame_io.write_image(plate_files.coverage_path(path), color.to_dtype(plate.coverage, np.dtype(np.uint8)))
    if not plate.locked_off:
        motions = {reader.numbers[index]: motion for index, motion in plate.motions.items()}
        plate_files.write_motion(path, plate_files.PlateMotion(footage.width, footage.height, motions))
    pixels = plate.plate
    if path.suffix.lower() == ".exr" and not footage.is_float:
        # A float file of no named space is read as scene-linear, one of a named space as the footage is
        space = "linear" if source.color_space == "auto" else footage.color_space
        pixels = color.convert(pixels, footage.color_space, space)
    frame_io.write_image(path, pixels)
    return {"plate": str(path), "coverage": round(float(plate.coverage.mean()), 4), "cancelled": False}


def _relight(color_space: str) -> Relight | None:
    """How the light of footage in this encoding changes; None where that is not known."""
    if color_space == "srgb":
        return PhotometricFit.apply
    if not color.is_scene_linear(color_space):
        return None

    def relight(light: PhotometricFit, pixels: color.Pixels) -> color.Pixels:
        gain = np.asarray(light.gain, np.float32) * np.float32(light.tone ** (light.gamma - 1))
        return np.asarray(pixels * gain, pixels.dtype)

    return relight


def diagnose_plate(job: Job) -> dict[str, Any]:
    """Have the plate doctor look at a handful of the job's frames.

    Returns:
        The `Result` of core.protocol.Diagnose: a `core.plate.Diagnosis` as plain data.

    Raises:
        MattingError: any member; JobError where the job has no plate.
    """
    if not job.plate.path:
        raise JobError("a job with a plate", "none", "Choose a plate, or make one from the clip")
    footage = _open_footage(job.footage)
    numbers = _select(footage, job.frames)
    chosen = sorted({numbers[i] for i in np.linspace(0, len(numbers) - 1, DOCTOR_FRAMES).round().astype(int)})
    frames = [(number, color.to_srgb(frame.pixels, frame.color_space)) for number, frame in footage.frames(chosen)]
    source = frame_io.open_plate(job.plate.path, job.plate.color_space)
    ((_, plate),) = source.frames(source.numbers[:1])
    coverage = plate_files.coverage_path(Path(job.plate.path))
    known = frame_io.read_image(coverage)[..., 0] > 0 if os.path.isfile(coverage) else None
    motion = plate_files.read_motion(Path(job.plate.path))
    starts = None if motion is None else [motion.at(number, footage.width, footage.height) for number in chosen]
    pixels = color.to_srgb(plate.pixels, plate.color_space)
    return asdict(diagnose(frames, pixels, matte=_lone_matte(_warm_matter(job)), known=known, starts=starts))


def _lone_matte(
    matter: Matter, cancelled: Cancelled = lambda: False
) -> Callable[[color.Floats, color.Floats | None], color.Floats] | None:
    """The network as the plate tools use it: one picture, no memory. None for networks that need a plate."""
    if not matter.is_recurrent:
        return None

    def matte(src: color.Floats, bgr: color.Floats | None) -> color.Floats:
        if cancelled():
            raise _StoppedError
        matter.reset()
        return matter.matte(src, bgr).pha

    return matte


class _StoppedError(Exception):
    """The user cancelled."""


class FootageReader:
    """Footage as core.plate reads it: by index, in any order, sRGB-encoded where a size is given."""

    def __init__(
        self,
        footage: Footage,
        numbers: list[int],
        size: tuple[int, int] | None = None,
        cancelled: Cancelled = lambda: False,
    ) -> None:
        self._footage, self.numbers, self._size, self._cancelled = footage, numbers, size, cancelled
        self.count = len(numbers)

    def read(self, index: int) -> color.Pixels:
        if self._cancelled():
            raise _StoppedError
        ((_, frame),) = self._footage.frames([self.numbers[index]])
        if self._size is None:
            return frame.pixels
        return color.to_srgb(frame_io.resize(frame.pixels, *self._size), frame.color_space)


@dataclass(frozen=True)
class _Run:
    """What the segments of a job have in common."""

    footage: Footage
    plate: _Plate
    masks: MaskReader
    matter: Matter
    results: _Results
    rate: _Rate
    listener: _Listener

    def run(self, segments: list[list[int]], todo: set[int]) -> None:
        """Claim and run one segment after another until all are done, by this engine or others on the folder."""
        claims, waiting = Claims(self.results.folder / "claims"), list(segments)
        try:
            while waiting and not self.listener.cancelled():
                for segment in list(waiting):
                    if not todo.isdisjoint(segment) and not claims.take(segment[0], segment[-1]):
                        continue  # another engine is on it
                    missing = [n for n in segment if n in todo]
                    fresh = self.results.up_to_date(missing)  # by another engine, while this one was elsewhere
                    missing = [n for n in missing if n not in fresh]
                    if missing:
                        self._run_segment(segment, missing, starts=segment is segments[0])
                    self.rate.note_up_to_date(sum(n in todo for n in segment) - len(missing))
                    todo.difference_update(segment)
                    claims.release()
                    waiting.remove(segment)
                    if self.listener.cancelled():
                        break
                else:
                    if waiting:  # another engine is at work; its claim ends or expires
                        self.rate.note_alive()
                        time.sleep(random.uniform(0.2, 1.0))
        finally:
            claims.release()

    def _run_segment(self, segment: list[int], missing: list[int], starts: bool) -> None:
        """Run a segment's frames up to the last missing one through network; write the missing ones.

        Args:
            starts: it is the first of them all, where the plate's place is checked.
        """
        self.results.sweep(missing)
        self.matter.reset()
        self.plate.reset()
        first = bisect_left(self.footage.numbers, segment[0])
        kept = first and self.matter.is_recurrent and not self.matter.stepped_down  # else it is of another size
        memory = self.results.load_memory(self.footage.numbers[first - 1]) if kept else {}
        settle = self.plate.settles or (self.matter.is_recurrent and not memory)
        before = self.footage.numbers[max(0, first - PREROLL) : first] if settle else []
        needs_all = self.matter.is_recurrent or self.plate.settles
        wanted = set(missing)
        lies = False  # the plate did under the frame before
        numbers = [n for n in segment if n <= missing[-1]] if needs_all else missing
        with (
            _ReadAhead(self.footage, before + numbers) as frames,
            _WriteBehind() as writer,
            ThreadPoolExecutor(1) as layer,
            # A matte that is forced is waited for
            nullcontext() if self.masks else self.matter.overlapping(),
        ):
            for number, frame, laid in _lay_ahead(frames, self.plate, layer):
                if self.listener.cancelled():
                    return
                if starts:
                    _check_place(laid, self.matter, self.listener.on_warning)
                    starts = False
                astray = laid.notes.get("plate_residual", 0.0) > ASTRAY
                if lies and astray and number in wanted:
                    _check_cut(number, laid, self.plate.subject, self.listener.on_warning)
                lies = not astray
                if number == segment[0] and memory:
                    self.matter.remember(memory)
                start = time.perf_counter()
                matte, notes = _matte_frame(self.matter, laid, self.masks, number)
                self.plate.note_matte(matte)
                if number == segment[-1] and self.matter.is_recurrent and not self.matter.stepped_down:
                    # before its record is: whole segments are not run again
                    self.results.save_memory(number, self.matter.memory())
                if number in wanted:
                    notes["seconds"] = round(time.perf_counter() - start, 4)
                    writer.submit(partial(self.results.write, number, frame, matte, notes))
                    self.rate.note_done(number)


def _lay_ahead(
    frames: Iterator[tuple[int, Frame]], plate: _Plate, layer: ThreadPoolExecutor
) -> Iterator[tuple[int, Frame, _Laid]]:
    """Each frame with its plate, while that of the frame after it is being laid.

    So a frame's subject is known by the matte of two frames before, and the second's by that of the first, whereupon
    the first plate that is laid ahead is the third's: the same mattes in every run, however fast its threads are.
    """
    waiting: list[tuple[int, Frame, Future[_Laid]]] = []
    failure: Exception | None = None
    for index in count():
        try:
            number, frame = next(frames)
        except StopIteration:
            break
        except Exception as error:  # raised when the frames before have had their turn
            failure = error
            break
        waiting.append((number, frame, layer.submit(plate.under, number, frame, plate.subject)))
        if index != 1:
            number, frame, laid = waiting.pop(0)
            yield number, frame, laid.result()
    for number, frame, laid in waiting:
        yield number, frame, laid.result()
    if failure is not None:
        raise failure


def _check_place(laid: _Laid, matter: Matter, on_warning: Callable[[str], None]) -> None:
    """Warn when the plate under a shot's first frame is of another place; call it before that frame is matted."""
    if laid.bgr is None:
        return
    finding = find_wrong_place(laid.src, laid.bgr, laid.valid, _lone_matte(matter))
    matter.reset()
    if finding:
        on_warning(f"{finding.message} {finding.remedy}.")


def _check_cut(number: int, laid: _Laid, subject: Matte | None, on_warning: Callable[[str], None]) -> None:
    """Warn when a frame shows nothing of the plate that lay under the frames before; `subject` is where one was."""
    assert laid.bgr is not None and laid.valid is not None
    known = laid.valid if subject is None else laid.valid & (subject.pha < SUBJECT)
    if finding := find_hidden_place(number, laid.src, laid.bgr, known):
        on_warning(f"{finding.message} {finding.remedy}.")


def _matte_frame(matter: Matter, laid: _Laid, masks: MaskReader, number: int) -> tuple[Matte, dict[str, Any]]:
    matte, forced = masks.force(number, laid.src, matter.matte(laid.src, laid.bgr, laid.valid))
    return matte, laid.notes | forced


def _segments(numbers: list[int], devices: int) -> Iterator[list[int]]:
    """Portions of `SEGMENT` frames; several devices get shorter ones, so that each has one, down to twice `PREROLL`."""
    length = SEGMENT if devices == 1 else min(SEGMENT, max(2 * PREROLL, -(-len(numbers) // devices)))
    for start in range(0, len(numbers), length):
        yield numbers[start : start + length]


def _open_footage(source: Source) -> Footage:
    path = Path(source.path)
    if path.suffix.lower() in frame_io.MOVIE_EXTENSIONS and os.path.isfile(path):
        return _open_movie(path, source.color_space, frame_io.file_identity(path))
    return frame_io.open_footage(path, source.color_space)


def _open_in_sight(source: Source, on_progress: Callable[[Progress], None]) -> Footage:
    """Open footage with signs of life: what has no index is read whole, which a large movie far away takes long for."""
    with ThreadPoolExecutor(1) as opener:
        opening = opener.submit(_open_footage, source)
        while wait([opening], ALIVE).not_done:
            on_progress(Progress(0, 0))
    return opening.result()


@lru_cache(maxsize=4)
def _open_movie(path: Path, color_space: str, identity: str) -> Footage:
    """Kept for the next preview: to know a movie's frames means to read all of it."""
    return frame_io.open_footage(path, color_space)


@lru_cache(maxsize=1)
def _read_frame(source: Source, number: int, identity: str) -> Frame:
    """Kept for the next preview, which is often of the same frame with other settings."""
    ((_, frame),) = _open_footage(source).frames([number])
    return frame


def _missing_words(footage: Footage, frames: tuple[int, int] | None) -> list[str]:
    """That a range reaches beyond the footage; nothing where it does not."""
    first, last = footage.numbers[0], footage.numbers[-1]
    if frames is None or (first <= frames[0] and frames[1] <= last):
        return []
    return [
        f"{footage.path.name} has the frames {first} to {last}; of {frames[0]} to {frames[1]} the others are left out."
    ]


def _select(footage: Footage, frames: tuple[int, int] | None) -> list[int]:
    first, last = frames or (footage.numbers[0], footage.numbers[-1])
    numbers = [n for n in footage.numbers if first <= n <= last]
    if not numbers and footage.numbers[0] < first and last < footage.numbers[-1]:
        gone = f"frame {first}" if first == last else f"frames {first} to {last}"
        raise JobError(
            f"footage with {gone}", f"{footage.path.parent}, where no such file is", "Put it there, or choose others"
        )
    if not numbers:
        raise JobError(
            f"frames within {footage.numbers[0]}-{footage.numbers[-1]}, which {footage.path.name} has",
            f"{first}-{last}",
            "Choose a range that overlaps",
        )
    return numbers


@lru_cache(maxsize=1)  # with its plate and memory it is large
def _load_matter(path: Path, stamp: int, device: str, precision: str, detail: float, refine_pixels: int) -> Matter:
    return Matter(load_model(path), device, precision, detail, refine_pixels)


def _warm_matter(job: Job) -> Matter:
    """The job's network on the first of its devices, loaded once per process; with the memory of no frame."""
    path, device = locate_model(job.model), choose_devices(job.device)[0]
    matter = _load_matter(path, path.stat().st_mtime_ns, device, job.precision, job.detail, job.refine_pixels)
    if matter.stepped_down:  # for want of memory, of which there may be enough again
        _load_matter.cache_clear()
        return _warm_matter(job)
    matter.reset()
    return matter


def warm_up() -> None:
    """Bring what most jobs begin with into memory: the default network, on the fastest device, having run once."""
    matter, grey = _warm_matter(Job(Source())), np.full((1080, 1920, 3), 127, np.uint8)
    subject = grey.copy()
    subject[400:700, 800:1100] = 200  # for the refinement to have something to do
    for plate in (grey, None):
        matter.matte(subject, plate)
    matter.reset()
    path = locate_model("default")
    _hash_file(path, path.stat().st_mtime_ns)


def _make_folders(*folders: Path) -> None:
    """Make them, and see that the last of them can be written.

    Raises:
        OutputError: that does not go.
    """
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        probe = folders[-1] / f".{os.getpid()}.part.probe"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            "a folder that can be written", f"{folders[-1]}: {error.strerror}", "Choose another output folder"
        ) from None


@dataclass(frozen=True)
class _Laid:
    """A frame and its plate, as the network sees them.

    Attributes:
        src: (H, W, 3), sRGB-encoded.
        bgr: the same of the plate; None where there is none.
        valid: (H, W), where the plate has pixels; None: it has all.
        notes: what the report says of the plate.
    """

    src: color.Pixels
    bgr: color.Pixels | None
    valid: NDArray[np.bool_] | None
    notes: dict[str, Any]


class _Plate:
    """The job's clean plate as each frame needs it: aligned, matched, at the footage's size, sRGB-encoded."""

    def __init__(self, job: Job, footage: Footage, numbers: list[int], on_warning: Callable[[str], None]) -> None:
        self.identity = ""
        self.files: Collection[Path] = ()  # that it is read from
        self.subject: Matte | None = None  # the last that is known
        self._options = job.plate
        self._known: NDArray[np.bool_] | None = None
        self._motion: plate_files.PlateMotion | None = None
        self._pixels = self._open(job, footage, on_warning) if job.plate.path else None
        self._track = plate_files.read_track(Path(job.plate.track)) if job.plate.track else {}
        if self._track:
            if self._motion is not None or job.plate.moving:
                raise JobError(
                    "a plate with the view of one frame for a track to move",
                    f"{job.plate.path}, which moves by itself or holds all that a moving camera saw",
                    "Let the plate follow the picture, without a track",
                )
            missing = next((number for number in numbers if number not in self._track), None)
            if missing is not None:
                raise JobError(
                    f"a track of the frames {numbers[0]} to {numbers[-1]}",
                    f"none of frame {missing} in {job.plate.track}",
                    "Export the track again, numbered as the footage is",
                )
        self._align = job.plate.align != "off" or self._motion is not None
        self.settles = self._pixels is not None and (self._align or job.plate.match or job.plate.moving)
        self.reset()

    def _open(self, job: Job, footage: Footage, on_warning: Callable[[str], None]) -> color.Pixels | FootageReader:
        source = frame_io.open_plate(job.plate.path, job.plate.color_space, job.plate.moving)
        self.files = source.files
        self.identity = "".join(dict.fromkeys(source.identity(number) for number in source.numbers))
        self._motion = None if job.plate.moving else plate_files.read_motion(Path(job.plate.path))
        if self._motion is None:
            width, height = source.width, source.height
        else:
            self.identity += frame_io.file_identity(plate_files.motion_path(Path(job.plate.path)))
            width, height = self._motion.width, self._motion.height
        if abs(width / height * footage.height / footage.width - 1) > 0.01:
            raise PlateError(
                f"a plate of the footage's shape, {footage.width} x {footage.height}",
                f"{source.path.name} of {width} x {height}",
                "Crop it to the footage's frame, or choose the right plate",
            )
        if (width, height) != (footage.width, footage.height):
            on_warning(
                f"The plate is {width} x {height}; it is scaled to the footage's {footage.width} x {footage.height}."
            )
        size = (footage.width, footage.height) if self._motion is None else (source.width, source.height)
        if job.plate.moving:
            return FootageReader(source, source.numbers, size)
        coverage = plate_files.coverage_path(Path(job.plate.path))
        if os.path.isfile(coverage):
            self.identity += frame_io.file_identity(coverage)
            self._known = frame_io.resize(frame_io.read_image(coverage), *size)[..., 0] > 0
        return _read_plate(Path(job.plate.path), job.plate.color_space, size, source.identity(source.numbers[0]))

    @property
    def is_fitted(self) -> bool:
        """Whether each frame gets a plate of its own, rather than all the same or none."""
        return self.settles or bool(self._track) or self._known is not None or isinstance(self._pixels, FootageReader)

    def reset(self) -> None:
        """The next frame is the first of a shot or segment."""
        self.subject = None
        self._shot: ShotPlate | None = None

    def _start(self, number: int, src: color.Pixels) -> ShotPlate:
        assert self._pixels is not None
        start = None if self._motion is None else self._motion.at(number, src.shape[1], src.shape[0])
        return ShotPlate(self._pixels, known=self._known, align=self._align, match=self._options.match, start=start)

    def track_identity(self, number: int) -> list[str]:
        """Changes when the track lays the plate elsewhere under this frame; nothing where there is no track."""
        matrix = self._tracked(number)
        return [] if matrix is None else [f"track {number} {matrix.tobytes().hex()}"]

    def _tracked(self, number: int) -> plate_files.Homography | None:
        """Where the track has the plate; frames before a range's first, for the memory's sake, need not be in it."""
        if number not in self._track:
            number = min(self._track, key=lambda known: abs(known - number), default=number)
        return self._track.get(number)

    def note_matte(self, matte: Matte) -> None:
        """Tell where the subject is, for the plates that are asked for from now on."""
        if self.is_fitted:  # else nobody needs it
            self.subject = matte

    def under(self, number: int, frame: Frame, subject: Matte | None) -> _Laid:
        """The plate for the next frame; waits for a `subject` that is on its way."""
        src = color.to_srgb(frame.pixels, frame.color_space)
        if self._pixels is None:
            return _Laid(src, None, None, {})
        if isinstance(self._pixels, np.ndarray) and not self.is_fitted:
            return _Laid(src, self._pixels, None, {})
        self._shot = self._shot or self._start(number, src)
        where = None if subject is None else subject.pha
        fitted = self._shot.under(src, where, homography=self._tracked(number))
        notes = {
            "plate_residual": round(fitted.aligned.residual, 4),
            "plate_coverage": round(np.count_nonzero(fitted.valid) / fitted.valid.size, 4),
            "plate_stops": round(fitted.light.stops, 3),
        }
        return _Laid(src, fitted.bgr, fitted.valid, notes)


def _read_plate_early(job: Job) -> None:
    """Have a plate in memory that has the footage's size, as most have, while the footage is still being opened.

    Not a movie: to open it takes as long.
    """
    if Path(job.plate.path).suffix.lower() in frame_io.IMAGE_EXTENSIONS and not job.plate.moving:
        source = frame_io.open_plate(job.plate.path, job.plate.color_space)
        size = (source.width, source.height)
        _read_plate(Path(job.plate.path), job.plate.color_space, size, source.identity(source.numbers[0]))


@lru_cache(maxsize=2)  # of its own size and of the footage's
def _read_plate(path: Path, color_space: str, size: tuple[int, int], identity: str) -> color.Pixels:
    """A still plate, sRGB-encoded. The next preview gets the same array, which the network then knows already."""
    source = frame_io.open_plate(path, color_space)
    with frame_io.as_plate():
        return FootageReader(source, source.numbers[:1], size).read(0)


@cache
def _hash_file(path: Path, stamp: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Results:
    """The output folder: which frames are up to date, and how a frame is written."""

    def __init__(
        self, job: Job, footage: Footage, plate: _Plate, masks: MaskReader, folder: Path | None = None
    ) -> None:
        self.folder = folder or Path(job.output.folder)
        self.output = job.output
        self._footage = footage
        self._plate = plate
        self._masks = masks
        is_linear = color.is_scene_linear(footage.color_space)
        needs_exr = is_linear or footage.is_float
        self.extension = {"auto": ".exr" if needs_exr else ".png"}.get(job.output.format, "." + job.output.format)
        if self.extension == ".png" and needs_exr:
            raise JobError(
                "EXR output for scene-linear or floating point footage, which PNG cannot hold",
                "format png",
                "Use --format exr or auto",
            )
        self.color_space = "linear" if self.extension == ".exr" and not is_linear else footage.color_space
        model = locate_model(job.model)
        self._settings = json.dumps(
            [
                VERSION,
                str(model.name),
                _hash_file(model, model.stat().st_mtime_ns),
                job.precision,
                job.detail,
                job.refine_pixels,
                asdict(job.plate) | {"path": plate.identity, "track": ""},  # see `_Plate.track_identity`
                job.footage.color_space,
                self.extension,
            ]
        )
        self._records: dict[int, dict[str, Any]] = {}
        self._log = self.folder / "records" / f"{platform.node()}-{os.getpid()}"
        self._lock = threading.Lock()

    def check_folder(self) -> None:
        """Refuse a folder with the matte of other footage that is still there: reports and deliveries would mix both.

        Raises:
            OutputError: it is one.
        """
        try:
            source = read_job(self.folder / "job.yaml").footage
            if Path(source.path) == self._footage.path or not self._read_records():
                return
            other = _open_footage(source)
        except MattingError:
            return  # no job, or of footage that has moved away
        theirs = {other.identity(number) for number in other.numbers}
        if theirs.isdisjoint(self._footage.identity(number) for number in self._footage.numbers):
            raise OutputError(
                f"a folder for {self._footage.path}",
                f"{self.folder}, which holds the matte of {other.path}",
                "Choose another folder, or delete that one",
            )

    def check_inputs(self, files: Iterable[Path], numbers: list[int]) -> None:
        """Refuse to write over what the job is made of, as a mask that is an earlier matte in this folder."""
        real, kinds = cache(os.path.realpath), {os.path.realpath(self.folder / name): name for name in self._names()}
        ours = cache(lambda kind: {self.path(kind, number).name for number in numbers})
        for path in files:
            kind = kinds.get(real(path.parent))
            if kind and path.name in ours(kind):
                raise OutputError(
                    "a folder whose files the job does not read",
                    f"{self.folder}, where {path.name} would be written over",
                    "Choose another output folder",
                )

    def note_job(self, job: Job) -> None:
        """Write the job beside its results, unless a file that says the same is there: a person may have written it."""
        path = self.folder / "job.yaml"
        try:
            if read_job(path) == job:
                return
        except MattingError:
            pass  # none, or no job
        text = job_text(job, path.parent)
        frame_io.write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))

    def sweep(self, numbers: list[int]) -> None:
        """Remove what killed runs left half-written of these frames; call it with their claim held, or at the end."""
        ours = {path.name for number in numbers for path in (*self._files(number), self._memory_path(number))}
        for folder in (*self._names(), "records"):
            with suppress(OSError):  # they are in nobody's way
                for unfinished in (self.folder / folder).glob(".*.part.*"):
                    if unfinished.name.partition(".part.")[2] in ours:
                        unfinished.unlink(missing_ok=True)

    def make_folders(self) -> None:
        _make_folders(*(self.folder / name for name in (*self._names(), "records")), self.folder)

    def _names(self) -> list[str]:
        optional = {"foreground": self.output.foreground, "matte": self.output.matte, "error": self.output.error}
        return ["alpha", *(name for name, wanted in optional.items() if wanted)]

    def path(self, name: str, number: int) -> Path:
        extension = ".png" if name == "error" else self.extension
        return self.folder / name / f"{name}.{number:04d}{extension}"

    def _files(self, number: int) -> list[Path]:
        return [self.path(name, number) for name in self._names()]

    def paths(self, number: int) -> dict[str, str]:
        return {path.parent.name: str(path) for path in self._files(number)}

    def key(self, number: int) -> str:
        """Hash of all that this frame's files come from: settings, plate; the frames, masks and tracks seen by then."""
        index = bisect_left(self._footage.numbers, number)
        before = self._footage.numbers[max(0, index - PREROLL) : index + 1]
        seen = {
            text
            for n in before
            for text in (self._footage.identity(n), *self._masks.identity(n), *self._plate.track_identity(n))
        }
        return hashlib.sha256(json.dumps([self._settings, sorted(seen), number]).encode()).hexdigest()[:16]

    def up_to_date(self, numbers: list[int]) -> set[int]:
        """Those of `numbers` whose record has today's key and whose files are there, whole."""
        self._records = self._read_records()
        fresh = set()
        for number in numbers:
            record = self._records.get(number)
            if record and record["key"] == self.key(number) and self._is_whole(record["files"]):
                fresh.add(number)
        return fresh

    def _is_whole(self, files: dict[str, int]) -> bool:
        try:
            return all((self.folder / path).stat().st_size == size for path, size in files.items()) and all(
                any(path.startswith(name + "/") for path in files) for name in self._names()
            )
        except OSError:
            return False

    def _read_records(self) -> dict[int, dict[str, Any]]:
        records: dict[int, dict[str, Any]] = {}
        folder = self.folder / "records"
        try:
            logs = list(folder.glob("*.jsonl")) if os.path.isdir(folder) else []  # glob itself fails at too long a name
            texts = [log.read_text(encoding="utf-8", errors="replace") for log in logs]
        except OSError as error:
            raise OutputError(
                f"to read what is done in {folder}", str(error), "Check the drive and the files' permissions"
            ) from None
        for text in texts:
            for line in text.splitlines():
                try:
                    record = json.loads(line)
                    if not all(isinstance(record[name], kind) for name, kind in RECORD.items()):
                        continue
                except (ValueError, KeyError, TypeError):
                    continue  # a line cut off by a crash: its frame is done again
                known = records.get(record["frame_number"])
                if known is None or known["written"] <= record["written"]:
                    records[record["frame_number"]] = record
        return records

    def save_memory(self, number: int, memory: dict[str, Tensor]) -> None:
        """Store what the network remembers after this frame, for the segment that follows."""
        path = self._memory_path(number)
        content = save(memory, {"key": self.key(number)})  # safetensors' own writing has no OSError for a full disk
        frame_io.write_whole(path, lambda part: part.write_bytes(content))

    def load_memory(self, number: int) -> dict[str, Tensor]:
        """What was stored after this frame under today's settings and inputs; empty if nothing was."""
        try:
            with safetensors.safe_open(self._memory_path(number), framework="pt") as file:
                if (file.metadata() or {}).get("key") != self.key(number):
                    return {}
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except (OSError, safetensors.SafetensorError):
            return {}

    def _memory_path(self, number: int) -> Path:
        return self.folder / "records" / f"memory.{number:04d}.safetensors"

    def write(self, number: int, frame: Frame, matte: Matte, notes: dict[str, Any]) -> None:
        """Encode and write one frame's files, then its record."""
        coverage, expected_error = float(matte.pha.mean()), float(matte.err.mean())
        if not math.isfinite(coverage + expected_error):
            raise CheckpointError(
                "a network whose mattes are numbers",
                f"none for frame {number}",
                "Set the precision to fp32, or choose another model",
            )
        sizes = {}
        for name, pixels in self._pictures(frame, matte).items():
            path = self.path(name, number)
            sizes[f"{name}/{path.name}"] = frame_io.write_image(path, pixels)
        known = self._records.get(number, {"written": 0.0})
        record = {
            "frame_number": number,
            "key": self.key(number),
            "files": sizes,
            "color_space": self.color_space,
            "coverage": round(coverage, 5),
            "expected_error": round(expected_error, 5),
            **notes,
            # Later than what it replaces, whose writer's clock may be fast: the latest record is the one that counts
            "written": max(time.time(), known["written"] + 0.001),
        }
        try:
            with self._lock, open(f"{self._log}.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
        except OSError as error:
            raise OutputError(
                f"to note a frame in {self._log}.jsonl", error.strerror or str(error), "Free space, then run again"
            ) from None

    def _pictures(self, frame: Frame, matte: Matte) -> dict[str, color.Pixels]:
        """The frame's outputs as they go to disk.

        Where alpha is 1, the foreground is the source pixel itself; more than `RIM` pixels from where it is above 0,
        black, which costs nothing to encode.
        """
        exr = self.extension == ".exr"
        alpha = color.to_dtype(matte.pha, np.dtype(np.float16 if exr else np.uint16))
        pictures: dict[str, color.Pixels] = {"alpha": alpha}
        wanted = self._names()
        if "error" in wanted:
            pictures["error"] = color.to_dtype(matte.err, np.dtype(np.uint8))
        if "foreground" not in wanted and "matte" not in wanted:
            return pictures
        codes = alpha.view(np.uint16)  # half floats, of which none is negative, compare alike and faster
        left, top, width, height = cv2.boundingRect((codes > 0).view(np.uint8))
        # All the rest is black
        part = np.s_[max(0, top - RIM) : top + height + RIM, max(0, left - RIM) : left + width + RIM]
        codes = codes[part]
        around = cv2.dilate((codes > 0).view(np.uint8), np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8))

        def whole(pixels: color.Pixels) -> color.Pixels:
            canvas = np.zeros((*alpha.shape, *pixels.shape[2:]), pixels.dtype)
            canvas[part] = pixels
            return canvas

        source = np.ascontiguousarray(frame.pixels[part])
        if exr:
            full = source.dtype.kind == "u" and source.dtype.itemsize > 1 or source.dtype == np.float32
            if source.dtype != np.float16 or frame.color_space != self.color_space:
                dtype = np.dtype("f4" if full else "f2")
                source = color.convert_to(source, frame.color_space, self.color_space, dtype)
        foreground = color.matte_to(np.ascontiguousarray(matte.fgr[part]), self.color_space, source.dtype)
        foreground = cv2.copyTo(source, (codes == (0x3C00 if exr else 0xFFFF)).view(np.uint8), foreground)
        foreground = cv2.copyTo(foreground, around)
        if "foreground" in wanted:
            pictures["foreground"] = whole(foreground)
        if "matte" in wanted:
            pictures["matte"] = whole(_rgba(foreground, source, matte.pha[part]))
        return pictures

    def summary(self, numbers: list[int], on_warning: Callable[[str], None]) -> dict[str, Any]:
        """Write report.json over every record here, and say what the command's `Result` says.

        Warn of frames that were made otherwise than today's settings say: they would be taken for this run's.
        """
        records = self._read_records()
        ours = set(self._footage.numbers)
        older = [  # or of frames that the footage no longer has
            n
            for n in sorted(records)
            if (n not in ours or records[n]["key"] != self.key(n)) and self._is_whole(records[n]["files"])
        ]
        if older:
            on_warning(delivery.older_words(older))
        report = self.folder / "report.json"
        content = {
            "foreground_color_space": self.color_space,
            "fps": self._footage.fps,
            "of_older_settings": older,
            "frames": [records[n] for n in sorted(records)],
        }
        text = json.dumps(content, indent=1)
        frame_io.write_whole(report, lambda part: part.write_text(text, encoding="utf-8"), sync=False)
        return {
            "folder": str(self.folder),
            "first": numbers[0],
            "last": numbers[-1],
            "frames": sum(n in records for n in numbers),
            **self.paths(numbers[0]),
            "width": self._footage.width,
            "height": self._footage.height,
            "foreground_color_space": self.color_space,
            "matte_alpha": "premultiplied" if self.extension == ".exr" else "straight",
            "report": str(report),
        }


def _rgba(foreground: color.Pixels, source: color.Pixels, pha: color.Floats) -> color.Pixels:
    """(H, W, 4): premultiplied in EXR, straight in PNG, as their readers expect; the source where opaque."""
    alpha = color.to_dtype(pha, foreground.dtype)
    if foreground.dtype.kind == "u":
        opaque = (alpha == np.iinfo(alpha.dtype).max)[..., None]
        return np.dstack([np.where(opaque, source, foreground), alpha])
    premultiplied = foreground.astype(np.float32) * pha[..., None]
    return np.dstack([np.where((alpha == 1)[..., None], foreground, premultiplied.astype(foreground.dtype)), alpha])


class _Rate:
    """Counts frames and tells the listener how fast they come and when they will be done."""

    def __init__(self, total: int, done: int, listener: _Listener) -> None:
        self._total, self._done, self._listener = total, done, listener
        self._computed = 0
        self._start = time.perf_counter()
        listener.on_progress(Progress(done, total))

    def note_done(self, number: int) -> None:
        self._done += 1
        self._computed += 1
        fps = self._computed / max(time.perf_counter() - self._start, 1e-6)
        left = (self._total - self._done) / fps
        self._listener.on_progress(Progress(self._done, self._total, number, fps, left))

    def note_alive(self, number: int = 0) -> None:
        """Work on a frame that is done, or none for now: silence would be taken for a stuck engine."""
        self._listener.on_progress(Progress(self._done, self._total, number))

    def note_up_to_date(self, count: int) -> None:
        """Frames that another engine has finished meanwhile."""
        self._done += count
        if count:
            self.note_alive()


class _ReadAhead:
    """Decodes on a thread of its own, at most READ_AHEAD frames before they are asked for."""

    def __init__(self, footage: Footage, numbers: list[int]) -> None:
        self._queue: queue.Queue[tuple[int, Frame] | Exception | None] = queue.Queue(READ_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(footage, numbers), daemon=True)

    def _read(self, footage: Footage, numbers: list[int]) -> None:
        try:
            for item in footage.frames(numbers):
                self._put(item)
                if self._stop.is_set():
                    return
            self._put(None)
        except Exception as error:
            self._put(error)

    def _put(self, item: tuple[int, Frame] | Exception | None) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue

    def __enter__(self) -> Iterator[tuple[int, Frame]]:
        self._thread.start()
        return iter(self)

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


class _WriteBehind:
    """Encodes on a few threads; the first failure reaches the caller at its next submit, or at the end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WRITERS)
        self._pending: list[Future[None]] = []

    def submit(self, task: Callable[[], None]) -> None:
        self._pending.append(self._pool.submit(task))
        while len(self._pending) > WRITE_BEHIND or (self._pending and self._pending[0].done()):
            self._pending.pop(0).result()

    def __enter__(self) -> _WriteBehind:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            for future in self._pending:
                future.result()
