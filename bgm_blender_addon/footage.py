# SPDX-License-Identifier: GPL-3.0-or-later
"""Which frame of the footage Blender shows when. No bpy: works on anything with a movie clip's attributes.

Two counts meet here. Scene frames are Blender's. Frame numbers are the footage's own: an image sequence's files'
numbers, a movie's frames from 1. A clip shows number `first + (scene - frame_start) + frame_offset`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

_NUMBERED = re.compile(r"^(?P<prefix>.*?)(?P<number>\d{1,9})(?P<suffix>\D*\.[^.]+)$")  # longer is a time


class Clip(Protocol):
    """What is used of `bpy.types.MovieClip`."""

    source: str  # MOVIE or SEQUENCE
    frame_start: int  # scene frame that shows the first frame
    frame_offset: int
    frame_duration: int


def file_number(path: Path) -> int:
    """The number in a sequence file's name, "shot_v2.1001.exr" -> 1001; 1 where there is none."""
    match = _NUMBERED.match(path.name)
    return int(match["number"]) if match else 1


def numbered_like(path: Path) -> list[int]:
    """The numbers of the files in the same folder that belong to the same sequence, ascending."""
    return sorted({file_number(other) for other in _files_like(path)})


def modified(clip: Clip, path: Path) -> float:
    """When the newest of the clip's files was written, in seconds since the epoch."""
    files = [path] if clip.source == "MOVIE" else [path, *_files_like(path)]
    return max(file.stat().st_mtime for file in files if file.is_file())


def _files_like(path: Path) -> list[Path]:
    """The files in the same folder that belong to the same sequence, in any order."""
    match = _NUMBERED.match(path.name)
    if not match or not path.parent.is_dir():
        return []
    others = ((other, _NUMBERED.match(other.name)) for other in path.parent.iterdir())
    ends = (match["prefix"], match["suffix"])
    return [other for other, match in others if match and (match["prefix"], match["suffix"]) == ends]


def first_number(clip: Clip, path: Path) -> int:
    """The frame number of the clip's first frame; `path` is its file, absolute."""
    return 1 if clip.source == "MOVIE" else file_number(path)


def last_number(clip: Clip, path: Path) -> int:
    """The frame number of the clip's last frame; Blender itself counts a sequence only up to its first gap."""
    first = first_number(clip, path)
    counted = first + max(clip.frame_duration, 1) - 1
    return counted if clip.source == "MOVIE" else max([counted, *numbered_like(path)])


def is_still(clip: Clip, path: Path) -> bool:
    """Whether the clip is one picture, without a number: Blender shows it at every scene frame."""
    return clip.source == "SEQUENCE" and not _NUMBERED.match(path.name)


def to_number(clip: Clip, path: Path, scene_frame: int) -> int:
    """The frame number that the clip shows at a scene frame, inside the clip or not."""
    if is_still(clip, path):
        return 1
    return first_number(clip, path) + scene_frame - clip.frame_start + clip.frame_offset


def to_scene(clip: Clip, path: Path, number: int) -> int:
    """The scene frame at which the clip shows a frame number; the inverse of `to_number`, but for a still."""
    return number - first_number(clip, path) + clip.frame_start - clip.frame_offset


def with_number(path: Path, number: int) -> Path:
    """The file of the same sequence with another number, padded as wide."""
    match = _NUMBERED.match(path.name)
    if not match:
        return path
    return path.with_name(f"{match['prefix']}{number:0{len(match['number'])}}{match['suffix']}")


def shot_name(path: Path, is_sequence: bool) -> str:
    """What people call the footage: "shot_v2.1001.exr" of a sequence -> "shot_v2", "take2.mp4" -> "take2"."""
    match = _NUMBERED.match(path.name) if is_sequence else None
    return readable((match["prefix"].rstrip("._- ") if match else "") or path.stem)


def readable(path: Path | str) -> str:
    """A path as Blender can show it: what is no UTF-8, in a name of an old file system, as question marks."""
    return str(path).encode("utf-8", "replace").decode()
