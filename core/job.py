# SPDX-License-Identifier: GPL-3.0-or-later
"""The job description: one file that Blender writes, the engine runs, and a farm runs again. No bpy.

YAML or JSON (which is YAML). Relative paths are relative to the job file's folder. Example:

    version: 1
    footage: {path: ../shot.mov, color_space: auto}   # movie, one file of an image sequence, shot.####.png
    frames: [1, 100]                                  # inclusive, the footage's numbers; absent: all
    plate: {path: ../plate.png, color_space: auto}    # absent path: matte without a plate
    model: default
    device: auto                                      # cpu, mps, cuda, cuda:1; "cuda:0,cuda:1" or all: several at once
    precision: auto
    masks:                                            # stills, sequences or movies, white inside, frame for frame
      garbage: {path: ../rig.0001.png}                # what is certainly background: alpha 0
      core: {path: ../body.0001.png, invert: false}   # what is certainly the subject: alpha 1
    output:
      folder: .                                       # the job file's own folder or one below it
      format: auto
      foreground: true
      matte: false
      error: true
      deliver: [prores, preview]                      # made of the finished frames, see core/delivery.py
      fps: 0                                          # of delivered movies; 0: the footage's, 24 for sequences
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import JobError

FILE_VERSION = 1
FORMATS = ("auto", "png", "exr")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
DELIVERIES = ("rgba", "multilayer", "prores", "webm", "preview")
MAX_JOB_BYTES = 1 << 20
FOOTAGE_OR_JOB = "Name a job file, or the footage by --footage"
_PADDED = re.compile(r"^0\d+$")


@dataclass(frozen=True)
class Source:
    """A movie, an image sequence (any one of its files) or a still."""

    path: str = ""
    color_space: str = "auto"  # auto, srgb, linear, or a colour space of the OpenColorIO configuration


@dataclass(frozen=True)
class PlateSource(Source):
    align: str = "auto"  # auto, off
    match: bool = True  # follow exposure and white balance outside the subject
    moving: bool = False  # a second take, matched frame by frame, rather than one still
    # JSON file {"frame number": [a homography's nine numbers]}: frame pixel -> pixel of the plate at the frame's size
    track: str = ""


@dataclass(frozen=True)
class MaskSource:
    """A still that serves every frame, or a sequence or movie with the footage's frame numbers; white is inside."""

    path: str = ""
    invert: bool = False


@dataclass(frozen=True)
class Masks:
    garbage: MaskSource = field(default_factory=MaskSource)  # inside it alpha is 0
    core: MaskSource = field(default_factory=MaskSource)  # inside it alpha is 1, garbage or not


@dataclass(frozen=True)
class Output:
    folder: str = "."
    format: str = "auto"  # png for integer footage, exr for float
    foreground: bool = True
    matte: bool = False  # premultiplied RGBA
    error: bool = True
    deliver: tuple[str, ...] = ()  # of DELIVERIES
    fps: float = 0.0  # of delivered movies; 0: the footage's, 24 for image sequences


@dataclass(frozen=True)
class Job:
    """What to matte, how, and where to. Paths are absolute once read."""

    footage: Source
    plate: PlateSource = field(default_factory=PlateSource)
    output: Output = field(default_factory=Output)
    frames: tuple[int, int] | None = None  # first and last, inclusive, the footage's numbers
    model: str = "default"
    device: str = "auto"  # auto, cpu, mps, cuda, cuda:N; all: every card; several, with commas: a process on each
    precision: str = "auto"
    masks: Masks = field(default_factory=Masks)
    detail: float = 0.0  # size of the coarse pass as a share of the frame, 0 < detail <= 1; 0: chosen
    refine_pixels: int = 0  # that a MattingRefine refines; 0: what its file says, else chosen by frame size
    version: int = FILE_VERSION


def parse_frames(text: str) -> tuple[int, int] | None:
    """ "A-B" or "A", inclusive; empty means all.

    Raises:
        JobError: not of that form, or B before A.
    """
    if not text:
        return None
    first, dash, last = text.partition("-")
    try:
        frames = (int(first), int(last) if dash else int(first))
    except ValueError:
        raise JobError("frames as A-B, two whole numbers", repr(text), "Write for example --frames 1-100") from None
    return _checked_range(frames)


def check_fps(fps: float) -> None:
    """The rate of delivered movies.

    Raises:
        JobError: none that a movie can have.
    """
    if fps and not 0.01 <= fps <= 1000:
        raise JobError("fps from 0.01 to 1000", str(fps), "Use 0 for the footage's own")


def checked_path(text: str) -> Path:
    """A path as a job or a message names it.

    Raises:
        JobError: none, or what no file system can hold.
    """
    try:
        if text and b"\0" not in os.fsencode(text):
            return Path(text)
    except ValueError:  # half a character
        pass
    raise JobError("a path that a file system can hold", repr(text), "Correct it")


def read_job(path: str | Path, output: str = "") -> Job:
    """Read and check a job file.

    Args:
        output: folder to write to instead of the job's.

    Raises:
        JobError: unreadable, no YAML, an unknown or missing field, a wrong type or value, or an output folder that is
            neither the job file's nor below it: a job from elsewhere does not choose what it overwrites.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise JobError("a job file", f"the folder {path}", "Name the file in it, as job.yaml")
        if not path.is_file():
            raise JobError("a readable job file", f"no file {path}", "Check the path")
        if path.stat().st_size > MAX_JOB_BYTES:
            raise JobError("a job file of a few kilobytes", f"{path.stat().st_size} bytes", FOOTAGE_OR_JOB)
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin files with a mark
    except UnicodeDecodeError:
        raise JobError("a job file in YAML or JSON", f"{path}, which is no text", FOOTAGE_OR_JOB) from None
    except OSError as error:
        raise JobError("a readable job file", f"{path}: {error}", "Check the path and its permissions") from None
    try:
        data = _parse(text)
    except Exception as error:  # the days, numbers and tags that YAML knows fail in a dozen ways
        raise JobError("a job file in YAML or JSON", f"{path}: {error}", "Correct the file") from None
    job = job_from_dict(data, folder=path.parent)
    if output:
        folder = str(Path(output).absolute())
        return dataclasses.replace(job, output=dataclasses.replace(job.output, folder=folder))
    if not Path(job.output.folder).resolve().is_relative_to(path.parent.resolve()):
        raise JobError(
            f"an output folder in {path.parent}, where the job file is",
            job.output.folder,
            "Move the job file there, or name the folder by --output",
        )
    return job


def _parse(text: str) -> Any:
    """JSON, as this module and the add-on write it, or else YAML, in which some of JSON means something else."""
    try:
        return json.loads(text, object_pairs_hook=_without_twins)
    except ValueError:
        return yaml.load(text, Loader=_PlainLoader)


def _without_twins(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping none of whose fields comes twice, else the last of them would hold; YAML then says where they are."""
    if len(fields) > len(mapping := dict(fields)):
        raise ValueError("a field twice")
    return mapping


def job_text(job: Job, folder: Path) -> str:
    """A job file, for `folder`; in its own output folder, that folder is "." and may be moved.

    It is JSON, which is YAML: the add-on reads it in Blender's Python, which has no YAML.
    """
    data = dataclasses.asdict(job)
    data["frames"] = list(job.frames) if job.frames else None
    data["output"]["deliver"] = list(job.output.deliver)
    if folder == Path(job.output.folder):
        data["output"]["folder"] = "."
    text = json.dumps(data, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file's name in another encoding
        return json.dumps(data, indent=2)
    return text


def job_from_dict(data: Any, folder: Path) -> Job:
    """Check a job's plain data and resolve its paths against `folder`.

    Raises:
        JobError: an unknown or missing field, a wrong type or value.
    """
    data = _mapping(data, "the job")
    version = data.get("version", FILE_VERSION)
    if version != FILE_VERSION:
        raise JobError(f"job version {FILE_VERSION}", repr(version), "Update the extension or write the job again")
    data["footage"] = _fill(Source, data.get("footage", {}), "footage")
    plate = _mapping(data.get("plate") or {}, "plate")
    if plate.get("align") is False:  # which off is to YAML
        plate["align"] = "off"
    data["plate"] = _fill(PlateSource, plate, "plate")
    masks = _mapping(data.get("masks") or {}, "masks")
    sources = {key: _fill(MaskSource, value or {}, f"masks: {key}") for key, value in masks.items()}
    data["masks"] = _fill(Masks, sources, "masks")
    data["output"] = _output(data.get("output") or {})
    frames = data.get("frames")
    if frames is not None:
        if not (isinstance(frames, list) and len(frames) == 2 and all(type(n) is int for n in frames)):
            raise JobError("frames: [first, last]", repr(frames), "Give two whole numbers")
        data["frames"] = _checked_range((frames[0], frames[1]))
    job: Job = _fill(Job, data, "the job")
    if not job.model:
        raise JobError("a model", "''", "Use default, or name a checkpoint's file")
    if not job.footage.path:
        raise JobError("footage: path", "none", "Name a movie or one file of an image sequence")
    _one_of("output: format", job.output.format, FORMATS)
    _one_of("precision", job.precision, PRECISIONS)
    _one_of("plate: align", job.plate.align, ("auto", "off"))
    if not 0 <= job.detail <= 1:
        raise JobError("detail between 0 and 1", str(job.detail), "Use 0 to have it chosen by the frame size")
    if job.refine_pixels < 0:
        raise JobError(
            "refine_pixels of 0 or more", str(job.refine_pixels), "Use 0 to have it chosen by the frame size"
        )
    for name in job.output.deliver:
        _one_of("output: deliver", name, DELIVERIES)
    if job.output.deliver and not job.output.foreground:
        raise JobError("foreground: true for deliveries, which hold it", "false", "Write the foreground too")
    check_fps(job.output.fps)

    def absolute(path: str) -> str:
        return str((folder / checked_path(path)).absolute()) if path else ""

    return dataclasses.replace(
        job,
        footage=dataclasses.replace(job.footage, path=absolute(job.footage.path)),
        plate=dataclasses.replace(job.plate, path=absolute(job.plate.path), track=absolute(job.plate.track)),
        masks=Masks(
            garbage=dataclasses.replace(job.masks.garbage, path=absolute(job.masks.garbage.path)),
            core=dataclasses.replace(job.masks.core, path=absolute(job.masks.core.path)),
        ),
        output=dataclasses.replace(job.output, folder=absolute(job.output.folder or ".")),
        model=job.model
        if job.model.isidentifier()
        else absolute(job.model),  # the name of weights that ship, or a file
    )


def _output(data: Any) -> Output:
    data = _mapping(data, "output")
    deliver = data.get("deliver") or []
    if not isinstance(deliver, list) or not all(isinstance(name, str) for name in deliver):
        raise JobError("output: deliver as a list of names", repr(deliver), f"Use some of {', '.join(DELIVERIES)}")
    output: Output = _fill(Output, data | {"deliver": tuple(deliver)}, "output")
    return output


class _PlainLoader(yaml.SafeLoader):
    """YAML without tags' objects (as safe), without aliases, which a few bytes can blow up to gigabytes, and without
    fields that come twice in a mapping, of which the last would hold."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not used in job files")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} is there twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        """Frames as files are numbered: to YAML, 0100 is octal, 64, and 0108 is no number."""
        return int(node.value) if _PADDED.match(node.value) else super().construct_yaml_int(node)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:int", _PADDED, ["0"])


def _checked_range(frames: tuple[int, int]) -> tuple[int, int]:
    if frames[1] < frames[0]:
        raise JobError("a first frame before the last", f"{frames[0]}-{frames[1]}", "Give at least one frame")
    return frames


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise JobError(f"{name} of {', '.join(choices)}", repr(value), "Choose one of them")


def _mapping(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise JobError(f"{where} as a mapping of fields", type(data).__name__, "See core/README.md, A job")
    return dict(data)


def _fill(cls: type, data: Any, where: str) -> Any:
    data = _mapping(data, where)
    hints = typing.get_type_hints(cls)
    for key, value in data.items():
        if key not in hints:
            raise JobError(f"{where} with the fields {', '.join(hints)}", f"{key!r}", "Correct or remove it")
        hint = hints[key]
        if hint in (str, bool, int, float):
            kind = int | float if hint is float else hint
            if not isinstance(value, kind) or (hint in (int, float) and isinstance(value, bool)):
                raise JobError(f"{where}: {key} as {hint.__name__}", repr(value), "Correct it")
    return cls(**data)
