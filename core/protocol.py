# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages between Blender and the engine: one JSON object a line, commands on stdin, answers on stdout.

The one module that both sides import: standard library only. No bpy, no torch.

A command carries an id of the sender's choosing; every answer to it carries the same id, and `Done` is always the
last of them. Lines that the worker cannot read are answered by an `Error` with an empty id. Logs go to stderr.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any, ClassVar

VERSION = 1
MAX_LINE = 1 << 20  # bytes; a longer line is refused without being parsed


class ProtocolError(ValueError):
    """A line that is no message of this protocol; `id` names the command where it could be read."""

    def __init__(self, message: str, id: str = "") -> None:
        self.id = id
        super().__init__(message)


@dataclass(frozen=True)
class Message:
    type: ClassVar[str]


# Commands


@dataclass(frozen=True)
class Hello(Message):
    """Who are you? Answered by `Engine`."""

    type: ClassVar[str] = "hello"


@dataclass(frozen=True)
class Matte(Message):
    """Run a job file. Answered by `Progress` per frame, `Warning`s, and a `Result` holding the report's summary."""

    type: ClassVar[str] = "matte"
    job: str  # path of the job file (YAML or JSON)
    frames: str = ""  # "A-B", inclusive, in the footage's frame numbers; empty: all that the job names
    device: str = ""  # do a share of the frames on this one of the job's devices; empty: all, on all of them


@dataclass(frozen=True)
class Preview(Message):
    """Matte one frame of a job into a folder of its own, fast and stateless. Answered by `Warning`s and
    a `Result` with the paths."""

    type: ClassVar[str] = "preview"
    job: str
    frame_number: int
    output: str  # folder


@dataclass(frozen=True)
class MakePlate(Message):
    """Estimate a clean plate from the clip itself. Answered by `Progress` and a `Result` with the path."""

    type: ClassVar[str] = "plate"
    footage: str
    output: str  # image file to write
    color_space: str = "auto"
    frames: str = ""


@dataclass(frozen=True)
class Diagnose(Message):
    """Run the plate doctor over a job's footage and plate. Answered by a `Result` with the diagnosis."""

    type: ClassVar[str] = "diagnose"
    job: str


@dataclass(frozen=True)
class Deliver(Message):
    """Make deliveries of what is in an output folder. Answered by `Progress`, `Warning`s and a `Result` with each
    kind's path."""

    type: ClassVar[str] = "deliver"
    folder: str
    kinds: list[str]  # of core.job.DELIVERIES
    fps: float = 0.0  # of movies; 0: the footage's, or 24


@dataclass(frozen=True)
class DryRun(Message):
    """Exercise the whole path without a network: `frames` steps of `seconds` each. Answered like `Matte`."""

    type: ClassVar[str] = "dry_run"
    frames: int = 10
    seconds: float = 0.05  # per frame


@dataclass(frozen=True)
class Cancel(Message):
    """Stop the command `target`, running or waiting, after its current frame. The target's own `Done` says so."""

    type: ClassVar[str] = "cancel"
    target: str


@dataclass(frozen=True)
class Shutdown(Message):
    """Cancel everything and end the process."""

    type: ClassVar[str] = "shutdown"


# Answers


@dataclass(frozen=True)
class Engine(Message):
    """What the engine is and what it can run on."""

    type: ClassVar[str] = "engine"
    protocol: int
    version: str
    python: str
    torch: str
    devices: list[dict[str, Any]] = field(default_factory=list)  # {"id": "cuda:0", "name": "...", "memory": bytes}
    models: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Progress(Message):
    type: ClassVar[str] = "progress"
    done: int  # frames finished, those that were up to date included
    total: int  # 0: not known yet
    frame_number: int = 0  # the frame just finished, in the footage's numbers
    fps: float = 0.0  # frames per second; 0: none was computed since the message before
    seconds_left: float = 0.0
    stage: str = "matte"  # "plate", "matte", "deliver"


@dataclass(frozen=True)
class Warning(Message):
    type: ClassVar[str] = "warning"
    message: str


@dataclass(frozen=True)
class Result(Message):
    type: ClassVar[str] = "result"
    data: dict[str, Any]


@dataclass(frozen=True)
class Error(Message):
    """Why a command failed, as a sentence for the user."""

    type: ClassVar[str] = "error"
    message: str
    kind: str = "MattingError"  # class name in core.errors, or "InternalError"


@dataclass(frozen=True)
class Done(Message):
    """The last answer to a command."""

    type: ClassVar[str] = "done"
    outcome: str  # "finished", "cancelled" or "failed"


COMMANDS: tuple[type[Message], ...] = (Hello, Matte, Preview, MakePlate, Diagnose, Deliver, DryRun, Cancel, Shutdown)
ANSWERS: tuple[type[Message], ...] = (Engine, Progress, Warning, Result, Error, Done)
_BY_TYPE = {cls.type: cls for cls in COMMANDS + ANSWERS}


def encode(message: Message, id: str = "") -> bytes:
    """One line of UTF-8, newline included; non-finite numbers are refused, being no JSON."""
    record = {"id": id, "type": message.type, **dataclasses.asdict(message)}
    return json.dumps(record, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def decode(line: bytes | str) -> tuple[str, Message]:
    """Read one line.

    Returns:
        The command's id and the message.

    Raises:
        ProtocolError: too long, no JSON, no such type, a field that is missing, unknown or of a wrong type.
    """
    if len(line) > MAX_LINE:
        raise ProtocolError(f"a line of over {MAX_LINE} bytes")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"no JSON: {error}") from None
    if not isinstance(record, dict):
        raise ProtocolError("no JSON object")
    id = record.pop("id", "")
    if not isinstance(id, str):
        raise ProtocolError("'id' is no string")
    name = record.pop("type", None)
    cls = _BY_TYPE.get(name) if isinstance(name, str) else None
    if cls is None:
        raise ProtocolError(f"no message type {name!r}", id)
    hints = _field_types(cls)
    for key, value in record.items():
        if key not in hints:
            raise ProtocolError(f"{name}: no field {key!r}", id)
        if not _fits(value, hints[key]):
            raise ProtocolError(f"{name}: field {key!r} holds {type(value).__name__}", id)
    try:
        return id, cls(**record)
    except TypeError as error:
        raise ProtocolError(f"{name}: {error}", id) from None


def _field_types(cls: type[Message]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        return any(_fits(value, part) for part in typing.get_args(hint))
    kind = origin or hint
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float) and abs(value) < 1e300
    return isinstance(value, kind)
