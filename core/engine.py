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

import json
import os
import random
import shlex
import time
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from . import color, delivery, frame_io, output_folder, plate_files, share
from .checkpoints import load_model, locate_model
from .claims import Claims
from .errors import JobError, OutputError
from .files import real_places
from .footage import IMAGE_EXTENSIONS, Footage, Frame, file_identity, is_movie
from .job import Job, Source, checked_path
from .job_plate import FootageReader, JobPlate, LaidPlate, StoppedError, read_plate_early
from .masks import MaskReader
from .matting import Matte, Matter, choose_devices
from .memory import reused_memory
from .output_folder import OutputFolder, hash_file, make_folders
from .plate import plate_from_clip
from .plate.alignment import MovingPlateAligner
from .plate.doctor import (
    Finding,
    diagnose,
    find_black,
    find_hidden_place,
    find_subject_of_shot,
    find_wrong_place,
    is_blank,
    is_same_picture,
)
from .plate.from_clip import Relight
from .plate.photometric import PhotometricFit
from .queues import ReadAhead, WriteBehind
from .region import SUBJECT

SEGMENT = 200  # frames between two fresh starts of a recurrent network
ASTRAY = 0.35  # residual of a plate above which it may be of another place
DOCTOR_FRAMES = 6  # frames that the plate doctor looks at
SELDOM, MUCH = 0.2, 0.02  # shares of pictures and of the plate: so much of it seen empty so seldom is worth a warning
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
    plate = JobPlate(job, footage, numbers, warn)
    masks = MaskReader(job.masks, footage, numbers)
    for message in masks.warnings:
        warn(message)
    results = OutputFolder(job, footage, plate, masks)
    if not device:
        places = list(real_places((*footage.files, *plate.files, *masks.files)))
        results.check_folder()
        results.check_inputs(places, numbers)
        delivery.check_inputs(results.folder, job.output.deliver, places)

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


def _deliver(job: Job, numbers: list[int], results: OutputFolder, rate: _Rate, listener: _Listener) -> dict[str, str]:
    """Make the job's deliveries, once the last of its frames is there (a farm's machines each bring a part)."""
    if missing := sorted(set(numbers) - results.up_to_date(numbers)):
        names, is_one = ",".join(job.output.deliver), len(missing) == 1
        listener.on_warning(
            f"No delivery yet: it is made once {'frame' if is_one else 'frames'} {delivery.in_words(missing)} "
            f"{'is' if is_one else 'are'} there, too. "
            f"To deliver what is there now: python -m core deliver {shlex.quote(str(results.folder))} --deliver {names}"
        )
        return {}
    try:
        return delivery.deliver(
            delivery.read_finished(results.folder, numbers),
            job.output.deliver,
            job.output.fps,
            job.plate,
            on_frame=rate.note_alive,
            on_warning=listener.on_warning,
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
        MattingError: any member; JobError where `folder` is the job's, which would take the frame for finished.
    """
    if os.path.realpath(folder) == os.path.realpath(job.output.folder):
        raise JobError("a folder of the preview's own", f"{folder}, which is the job's", "Choose another")
    with ThreadPoolExecutor(2) as readers:
        plate_read = readers.submit(read_plate_early, job)
        footage = _open_footage(job.footage)
        numbers = _select(footage, (frame_number, frame_number))
        coming = readers.submit(_read_frame, job.footage, frame_number, footage.identity(frame_number))
        wait([plate_read])
        plate = JobPlate(job, footage, numbers, lambda message: None)
        matter = _warm_matter(job)
        masks = MaskReader(job.masks, footage, numbers)
        results = OutputFolder(job, footage, plate, masks, folder)
        results.check_inputs(real_places((*footage.files, *plate.files, *masks.files)), numbers)
        results.make_folders()
        frame = coming.result()
        laid = plate.under(frame_number, frame, None)
        matte, notes = _matte_frame(matter, laid, masks, frame_number)
        writing = readers.submit(results.write, frame_number, frame, matte, notes)
        _check_place(laid, matter, on_warning)
        _check_bars(frame_number, laid, masks, on_warning)
        writing.result()
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
    A plate that is there already stays, with what lies beside it, until the new one is to be written. One that another
    engine is making of the same frames is waited for, and taken: frames that it has matted by then stay up to date.

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
    if frame_io.is_numbered_as(path, footage.path):
        raise JobError(
            "a plate in a file of its own", f"{path}, which would be a frame of the footage", "Choose another name"
        )
    make_folders(path.parent)  # before all the work
    asked = json.dumps([str(footage.path), source.color_space, reader.numbers[0], reader.numbers[-1], path.name])
    number, claims, before = zlib.crc32(asked.encode()), Claims(path.parent), _changed(path)
    while not claims.take(number, number):
        if cancelled():
            return {"plate": "", "coverage": 0.0, "cancelled": True}
        on_progress(Progress(0, 100))
        time.sleep(random.uniform(0.2, 0.5))
    try:
        if _changed(path) == before:
            return _make_plate(source, footage, reader, path, on_progress, cancelled, on_warning)
        coverage = frame_io.read_image(plate_files.coverage_path(path)).mean() / 255
        return {"plate": str(path), "coverage": round(float(coverage), 4), "cancelled": False}
    finally:
        claims.release()


def _changed(path: Path) -> int:
    """When a file was last changed, in nanoseconds; 0 where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else 0


def _make_plate(
    source: Source,
    footage: Footage,
    reader: FootageReader,
    path: Path,
    on_progress: Callable[[Progress], None],
    cancelled: Cancelled,
    on_warning: Callable[[str], None],
) -> dict[str, Any]:
    """The work of `make_plate`."""
    for other in path.parent.glob("*.*"):
        if other.stem == path.stem and other.suffix.lower() in IMAGE_EXTENSIONS - {path.suffix.lower()}:
            on_warning(
                f"What is written beside the plate, as {plate_files.coverage_path(path).name}, would be taken for "
                f"{other.name}'s, too. Rename one of the two if both are plates."
            )

    def note_progress(share: float, step: str = "") -> None:
        if cancelled():
            raise StoppedError
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
    except StoppedError:
        return {"plate": "", "coverage": 0.0, "cancelled": True}
    doubtful = np.count_nonzero(plate.coverage < SELDOM) / plate.coverage.size
    if doubtful > MUCH:
        on_warning(
            f"{doubtful:.0%} of the plate was seen empty in less than {SELDOM:.0%} of the pictures (dark in "
            f"{plate_files.coverage_path(path).name}): look at it there. A longer range of frames may show more."
        )
    pixels = plate.plate
    if path.suffix.lower() == ".exr" and not footage.is_float:
        # A float file of no named space, or of data, is read as scene-linear, one of a named space as the footage is
        space = color.seen_as(source.color_space, is_float=True)
        pixels = color.convert(pixels, footage.color_space, space)
    try:
        with TemporaryDirectory(prefix=".plate.", dir=path.parent, ignore_cleanup_errors=True) as folder:
            new = Path(folder) / path.name
            frame_io.write_image(plate_files.coverage_path(new), color.to_dtype(plate.coverage, np.dtype(np.uint8)))
            if not plate.locked_off:
                motions = {reader.numbers[index]: motion for index, motion in plate.motions.items()}
                plate_files.write_motion(new, plate_files.PlateMotion(footage.width, footage.height, motions))
            frame_io.write_image(new, pixels)
            # All is on disk, and the old one still whole. A plate without companions is whole, too, so none may be
            # there while they change: it goes first and comes last
            path.unlink(missing_ok=True)
            plate_files.motion_path(path).unlink(missing_ok=True)
            for file in sorted(Path(folder).iterdir(), key=lambda file: file == new):
                file.replace(path.with_name(file.name))
    except OSError as error:
        raise OutputError(
            f"to replace {path}", error.strerror or str(error), "Close what uses it, or choose another name"
        ) from None
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
    ones = (next(iter(footage.frames([number])))[1] for number in chosen)  # together, all between would be decoded
    frames = [(number, color.to_srgb(one.pixels, one.color_space)) for number, one in zip(chosen, ones, strict=True)]
    source = frame_io.open_plate(job.plate.path, job.plate.color_space, job.plate.moving)
    matte = _lone_matte(_warm_matter(job))
    if job.plate.moving:
        take = FootageReader(source, source.numbers, (source.width, source.height))
        finder = MovingPlateAligner(take)
        return asdict(diagnose(frames, [take.read(finder.find(src)) for _, src in frames], matte=matte))
    ((_, plate),) = source.frames(source.numbers[:1])
    coverage = plate_files.coverage_path(Path(job.plate.path))
    known = frame_io.read_image(coverage)[..., 0] > 0 if os.path.isfile(coverage) else None
    motion = plate_files.read_motion(Path(job.plate.path))
    starts = None if motion is None else [motion.at(number, footage.width, footage.height) for number in chosen]
    pixels = color.to_srgb(plate.pixels, plate.color_space)
    return asdict(diagnose(frames, pixels, matte=matte, known=known, starts=starts))


def _lone_matte(
    matter: Matter, cancelled: Cancelled = lambda: False
) -> Callable[[color.Floats, color.Floats | None], color.Floats]:
    """The network as the plate tools use it: one picture, no memory; the default one for those that need a plate."""

    def matte(src: color.Floats, bgr: color.Floats | None) -> color.Floats:
        if cancelled():
            raise StoppedError
        able = matter if matter.is_recurrent else _warm(Job(Source(), device=str(matter.device)), _load_beside)
        able.reset()
        return able.matte(src, bgr).pha

    return matte


@dataclass(frozen=True)
class _Run:
    """What the segments of a job have in common."""

    footage: Footage
    plate: JobPlate
    masks: MaskReader
    matter: Matter
    results: OutputFolder
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
        before = self.footage.numbers[max(0, first - output_folder.PREROLL) : first] if settle else []
        needs_all = self.matter.is_recurrent or self.plate.settles
        wanted = set(missing)
        lies = False  # the plate did under the frame before
        bars, own = not starts, False  # a frame had some; one was the plate itself
        numbers = [n for n in segment if n <= missing[-1]] if needs_all else missing
        with (
            ReadAhead(self.footage, before + numbers, spare=before) as frames,
            WriteBehind() as writer,
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
                if laid.bgr is not None and number in wanted and not own and is_same_picture(laid.src, laid.bgr):
                    own = True
                    _check_own_plate(number, laid, self.matter, self.listener.on_warning)
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
                    bars = bars or _check_bars(number, laid, self.masks, self.listener.on_warning)
                    writer.submit(partial(self.results.write, number, frame, matte, notes))
                    self.rate.note_done(number)


def _lay_ahead(
    frames: Iterator[tuple[int, Frame]], plate: JobPlate, layer: ThreadPoolExecutor
) -> Iterator[tuple[int, Frame, LaidPlate]]:
    """Each frame with its plate, while that of the frame after it is being laid.

    So a frame's subject is known by the matte of two frames before, and the second's by that of the first, whereupon
    the first plate that is laid ahead is the third's: the same mattes in every run, however fast its threads are.
    """
    waiting: list[tuple[int, Frame, Future[LaidPlate]]] = []
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


def _check_place(laid: LaidPlate, matter: Matter, on_warning: Callable[[str], None]) -> None:
    """Warn when the plate under a shot's first frame is of another place; call it before that frame is matted."""
    if laid.bgr is None:
        return
    finding = find_wrong_place(laid.src, laid.bgr, laid.valid, _lone_matte(matter))
    matter.reset()
    _warn(finding, on_warning)


def _check_own_plate(number: int, laid: LaidPlate, matter: Matter, on_warning: Callable[[str], None]) -> None:
    """Warn when someone is in a frame that is its plate; between two frames of a shot."""
    memory = matter.memory()
    finding = find_subject_of_shot(number, laid.src, _lone_matte(matter))
    matter.remember(memory)
    _warn(finding, on_warning)


def _check_bars(number: int, laid: LaidPlate, masks: MaskReader, on_warning: Callable[[str], None]) -> bool:
    """Warn of bars that the plate has not, but for what masks leave out; whether there are any."""
    if laid.bgr is None:
        return False
    known = masks.allowed(number) > SUBJECT if masks else laid.valid
    return _warn(find_black(number, laid.src, laid.bgr, known), on_warning)


def _warn(finding: Finding | None, on_warning: Callable[[str], None]) -> bool:
    """Whether there was one."""
    if finding:
        on_warning(f"{finding.message} {finding.remedy}.")
    return finding is not None


def _check_cut(number: int, laid: LaidPlate, subject: Matte | None, on_warning: Callable[[str], None]) -> None:
    """Warn when a frame shows nothing of the plate that lay under the frames before; `subject` is where one was."""
    assert laid.bgr is not None and laid.valid is not None
    known = laid.valid if subject is None else laid.valid & (subject.pha < SUBJECT)
    _warn(find_hidden_place(number, laid.src, laid.bgr, known), on_warning)


def _matte_frame(matter: Matter, laid: LaidPlate, masks: MaskReader, number: int) -> tuple[Matte, dict[str, Any]]:
    if laid.bgr is not None and is_blank(laid.src, laid.bgr):  # all of it would be taken for the subject
        nothing = np.zeros(laid.src.shape[:2], np.float32)
        matte = Matte(nothing, np.zeros(laid.src.shape, np.float32), nothing)
    else:
        matte = matter.matte(laid.src, laid.bgr, laid.valid)
    matte, forced = masks.force(number, laid.src, matte)
    return matte, laid.notes | forced


def _segments(numbers: list[int], devices: int) -> Iterator[list[int]]:
    """Portions of `SEGMENT` frames; several devices get shorter ones, so that each has one, down to twice `PREROLL`."""
    length = SEGMENT if devices == 1 else min(SEGMENT, max(2 * output_folder.PREROLL, -(-len(numbers) // devices)))
    for start in range(0, len(numbers), length):
        yield numbers[start : start + length]


def _open_footage(source: Source) -> Footage:
    path = checked_path(source.path)  # "" would be the folder we are in, and whatever pictures that holds
    if is_movie(path):
        return _open_movie(path, source.color_space, file_identity(path))
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
        f"{footage.path.name} has frames {first} to {last}; the other frames of {frames[0]} to {frames[1]} are left "
        "out."
    ]


def _select(footage: Footage, frames: tuple[int, int] | None) -> list[int]:
    first, last = frames or (footage.numbers[0], footage.numbers[-1])
    numbers = [n for n in footage.numbers if first <= n <= last]
    if not numbers and footage.numbers[0] < first and last < footage.numbers[-1]:
        gone = f"frame {first}" if first == last else f"frames {first} to {last}"
        raise JobError(
            f"footage with {gone}", f"no such file in {footage.path.parent}", "Put it back, or choose other frames"
        )
    if not numbers:
        raise JobError(
            f"frames within {footage.numbers[0]}-{footage.numbers[-1]}, which {footage.path.name} has",
            f"{first}-{last}",
            "Choose a range that overlaps",
        )
    return numbers


def _load(path: Path, stamp: int, device: str, precision: str, detail: float, refine_pixels: int) -> Matter:
    return Matter(load_model(path), device, precision, detail, refine_pixels)


_load_matter = lru_cache(maxsize=1)(_load)  # with its plate and memory it is large
_load_beside = lru_cache(maxsize=1)(_load)  # the default one, which serves the plate tools beside a paper's


def _warm_matter(job: Job) -> Matter:
    """The job's network on the first of its devices, loaded once per process; with the memory of no frame."""
    return _warm(job, _load_matter)


def _warm(job: Job, load: Any) -> Matter:
    path, device = locate_model(job.model), choose_devices(job.device)[0]
    matter: Matter = load(path, path.stat().st_mtime_ns, device, job.precision, job.detail, job.refine_pixels)
    if matter.stepped_down:  # for want of memory, of which there may be enough again
        load.cache_clear()
        return _warm(job, load)
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
    hash_file(path, path.stat().st_mtime_ns)


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
