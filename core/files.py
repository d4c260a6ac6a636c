# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import av

from .errors import OutputError


def real_places(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Each file's folder, by its real name, and its name; where it is a link, those of what it leads to, too."""
    real = cache(os.path.realpath)
    for path in files:  # thousands, before each preview: Path's own methods take three times as long
        folder, name = os.path.split(path)
        yield real(folder), name
        if os.path.islink(path):
            yield os.path.split(real(path))


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
