# SPDX-License-Identifier: GPL-3.0-or-later
"""A job's output folder: which of its frames are up to date, and how a frame is written. No bpy."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors
from safetensors.torch import save
from torch import Tensor

from . import color, delivery, frame_io
from .checkpoints import locate_model
from .claims import Claims
from .errors import CheckpointError, JobError, MattingError, OutputError
from .files import write_whole
from .footage import Footage, Frame
from .job import Job, job_text, read_job
from .job_plate import JobPlate
from .masks import MaskReader
from .matting import Matte

VERSION = 27  # raise when the same job gives other pixels: finished frames are then redone
PREROLL = 12  # frames run before a segment to settle the plate, and the memory where none is stored
KINDS = "alpha", "foreground", "matte", "error"  # of files, and their folders
RIM = 8  # pixels around the subject where the foreground goes on: who scales it down looks beyond the edge
REPORT = -1  # what is claimed to write the report: no frame's number
RECORD = {"frame_number": int, "key": str, "files": dict, "written": float}  # what a frame's record must hold


class OutputFolder:
    """The output folder: which frames are up to date, and how a frame is written."""

    def __init__(
        self, job: Job, footage: Footage, plate: JobPlate, masks: MaskReader, folder: Path | None = None
    ) -> None:
        self.folder = folder or Path(job.output.folder)
        self.output = job.output
        self._footage = footage
        self._plate = plate
        self._masks = masks
        is_linear = color.is_scene_linear(footage.color_space)
        needs_exr = is_linear or footage.is_float
        white = color.white_of_stills(footage.color_space, np.dtype(np.uint16))
        is_hdr_movie = footage.fps > 0 and white != 1  # whose codes would be darker in a still
        suits = ".exr" if needs_exr or is_hdr_movie else ".png"
        self.extension = {"auto": suits}.get(job.output.format, "." + job.output.format)
        if self.extension == ".png" and needs_exr:
            raise JobError(
                "EXR output for scene-linear or floating point footage, which PNG cannot hold",
                "format png",
                "Use --format exr or auto",
            )
        is_data = color.is_data(job.footage.color_space)
        converts = self.extension == ".exr" and not is_linear and not is_data
        self.color_space = "linear" if converts else footage.color_space
        # What the files' numbers are said to be
        self._named = job.footage.color_space if is_data else self.color_space
        self._white = white if converts and not footage.fps else 1.0  # of EXRs of more than 8 bits
        model = locate_model(job.model)
        self._settings = json.dumps(
            [
                VERSION,
                str(model.name),
                hash_file(model, model.stat().st_mtime_ns),
                job.precision,
                job.detail,
                job.refine_pixels,
                asdict(job.plate) | {"path": plate.identity, "track": ""},  # see `JobPlate.track_identity`
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
            other = frame_io.open_footage(source.path, source.color_space)
        except MattingError:
            return  # no job, or of footage that has moved away
        theirs = {other.identity(number) for number in other.numbers}
        if theirs.isdisjoint(self._footage.identity(number) for number in self._footage.numbers):
            raise OutputError(
                f"a folder for {self._footage.path}",
                f"{self.folder}, which holds the matte of {other.path}",
                "Choose another folder, or delete that one",
            )

    def check_inputs(self, places: Iterable[tuple[str, str]], numbers: list[int]) -> None:
        """Refuse to write over what the job is made of, as a mask that is an earlier matte in this folder.

        Args:
            places: of all that the job reads, see `real_places`.

        Raises:
            OutputError: one of these frames would be written there.
        """
        kinds = {os.path.realpath(self.folder / name): name for name in self._names()}
        ours = cache(lambda kind: {self.path(kind, number).name for number in numbers})
        for folder, name in places:
            kind = kinds.get(folder)
            if kind and name in ours(kind):
                raise OutputError(
                    "a folder whose files the job does not read",
                    f"{self.folder}, where {name} would be overwritten",
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
        write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))

    def sweep(self, numbers: list[int]) -> None:
        """Remove what killed runs left half-written of these frames; call it with their claim held, or at the end."""
        ours = {path.name for number in numbers for path in (*self._files(number), self._memory_path(number))}
        for folder in (*self._names(), "records"):
            with suppress(OSError):  # they are in nobody's way
                for unfinished in (self.folder / folder).glob(".*.part.*"):
                    if unfinished.name.partition(".part.")[2] in ours:
                        unfinished.unlink(missing_ok=True)

    def make_folders(self) -> None:
        make_folders(self.folder, *(self.folder / name for name in (*self._names(), "records")))

    def _names(self) -> list[str]:
        return [kind for kind in KINDS if kind == "alpha" or getattr(self.output, kind)]

    def path(self, name: str, number: int) -> Path:
        extension = ".png" if name == "error" else self.extension
        return self.folder / _place(name, number, extension)

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
        write_whole(path, lambda part: part.write_bytes(content))

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
            "color_space": self._named,
            "coverage": round(coverage, 5),
            "expected_error": round(expected_error, 5),
            **notes,
            # Later than what it replaces, whose writer's clock may be fast: the latest record is the one that counts
            "written": max(time.time(), known["written"] + 0.001),
        }
        try:
            with self._lock, open(f"{self._log}.jsonl", "a", encoding="utf-8") as log:
                # On a line of its own, whatever was cut off before: in a container the killed run had the same number
                log.write("\n" * (log.tell() > 0) + json.dumps(record))
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
        if self._white != 1 and frame.pixels.dtype != np.uint8:
            source, foreground = (pixels * pixels.dtype.type(self._white) for pixels in (source, foreground))
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
        report, ours = self.folder / "report.json", set(self._footage.numbers)
        with Claims(self.folder / "claims").held(REPORT):  # else an engine that has seen less might write over it
            records = self._read_records()
            older = [  # or of frames that the footage no longer has
                n
                for n in sorted(records)
                if (n not in ours or records[n]["key"] != self.key(n)) and self._is_whole(records[n]["files"])
            ]
            content = {
                "foreground_color_space": self._named,
                "fps": self._footage.fps,
                "of_older_settings": older,
                "frames": [records[n] for n in sorted(records)],
            }
            text = json.dumps(content, indent=1)
            write_whole(report, lambda part: part.write_text(text, encoding="utf-8"), sync=False)
        if older:
            on_warning(delivery.older_words(older))
        if left := self._left_over({n: records[n]["files"] for n in records.keys() & ours - set(older)}):
            on_warning(
                f"Beside these frames, {self.folder} holds files of earlier runs with other settings, {len(left)} in "
                f"{', '.join(sorted({file.partition('/')[0] for file in left}))}: {left[0]} first. Delete them."
            )
        return {
            "folder": str(self.folder),
            "first": numbers[0],
            "last": numbers[-1],
            "frames": sum(n in records for n in numbers),
            **self.paths(numbers[0]),
            "width": self._footage.width,
            "height": self._footage.height,
            "foreground_color_space": self._named,
            "matte_alpha": "premultiplied" if self.extension == ".exr" else "straight",
            "report": str(report),
        }

    def _left_over(self, files: dict[int, dict[str, int]]) -> list[str]:
        """What earlier runs made of these frames, and the last one did not: of another format, or not asked for now.

        Args:
            files: of each frame's record.
        """
        names = {_place(kind, n, end): n for n in files for kind in KINDS for end in (".png", ".exr")}
        found: list[str] = []
        for kind in KINDS:
            with suppress(OSError):  # none of this kind
                found += (f"{kind}/{name}" for name in os.listdir(self.folder / kind))
        return sorted(file for file in found if file in names and file not in files[names[file]])


def _place(kind: str, number: int, extension: str) -> str:
    """A file's name from the output folder on, as records have it."""
    return f"{kind}/{kind}.{number:04d}{extension}"


def _rgba(foreground: color.Pixels, source: color.Pixels, pha: color.Floats) -> color.Pixels:
    """(H, W, 4): premultiplied in EXR, straight in PNG, as their readers expect; the source where opaque."""
    alpha = color.to_dtype(pha, foreground.dtype)
    if foreground.dtype.kind == "u":
        opaque = (alpha == np.iinfo(alpha.dtype).max)[..., None]
        return np.dstack([np.where(opaque, source, foreground), alpha])
    premultiplied = foreground.astype(np.float32) * pha[..., None]
    return np.dstack([np.where((alpha == 1)[..., None], foreground, premultiplied.astype(foreground.dtype)), alpha])


def make_folders(folder: Path, *inside: Path) -> None:
    """Make a folder, see that it can be written, and make those inside.

    Raises:
        OutputError: that does not go.
    """
    made = folder
    try:
        made.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=made):  # without a name, where that goes: a kill leaves nothing
            pass
        for made in inside:
            made.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            "a folder that can be written", f"{made}: {error.strerror}", "Choose another output folder"
        ) from None


@cache
def hash_file(path: Path, stamp: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
