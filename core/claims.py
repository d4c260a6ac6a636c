# SPDX-License-Identifier: GPL-3.0-or-later
"""Who works on which frames of an output folder: several engines, perhaps on several machines, share one. No bpy.

A claim is an empty file whose name holds all that it says, its first and last frame and its owner: there is no moment
at which it says less. It is touched while its owner lives. One that was not touched for `EXPIRY`, or whose process on
this machine is gone, is a dead engine's and is taken over.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import random
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError

EXPIRY = 60.0  # seconds without a sign of life
HEARTBEAT = 5.0  # seconds between two signs

_NAME = re.compile(r"^(-?\d+)_(-?\d+)\.(\w+)\.claim$")


class Claims:
    """One engine's claims in a folder; at most one at a time.

    Args:
        folder: made when the first claim is taken; local or on a network drive.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owner = f"{uuid.uuid4().hex[:12]}_{process_name(os.getpid())}"
        self._path: Path | None = None
        self._released = threading.Event()

    def take(self, first: int, last: int) -> bool:
        """Claim frames first to last, inclusive; False while a living engine holds any of them.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = self._folder / f"{first}_{last}.{self._owner}.claim"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            self._path = path
            if self._others(first, last):
                self.release()
                return False
        except OSError as error:
            raise OutputError("to write a claim", str(error), "Free space or choose another output folder") from None
        self._released = threading.Event()
        threading.Thread(target=self._beat, args=(path, self._released), daemon=True).start()
        return True

    @contextlib.contextmanager
    def held(self, number: int) -> Iterator[None]:
        """Within, this one number is claimed; waits while another living engine holds it.

        Raises:
            OutputError: the folder cannot be written.
        """
        while not self.take(number, number):
            time.sleep(random.uniform(0.05, 0.2))
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Give up the claim that is held, if any."""
        self._released.set()
        if self._path:
            with contextlib.suppress(OSError):  # on Windows while another engine reads it; its age will tell
                self._path.unlink(missing_ok=True)
            self._path = None

    def _beat(self, path: Path, released: threading.Event) -> None:
        while not released.wait(HEARTBEAT):
            try:
                os.utime(path)
            except FileNotFoundError:
                return  # taken over
            except OSError:
                continue  # a network drive's hiccup: silent for EXPIRY, it would be taken for dead

    def _others(self, first: int, last: int) -> bool:
        """Whether another living engine's claim overlaps.

        Each engine writes its claim before it looks, so of two that collide at least one sees the other. Both may
        withdraw; they try again at a moment of their own choosing. Ages are told by the folder's own clock.
        """
        try:
            now = self._path.stat().st_mtime if self._path else time.time()
        except OSError:
            return True  # removed by someone who took it for a dead engine's
        for path in self._folder.glob("*.claim"):
            match = _NAME.match(path.name)
            if not match or match[3] == self._owner or int(match[2]) < first or last < int(match[1]):
                continue
            try:
                age = now - path.stat().st_mtime
            except OSError:
                continue
            if age > EXPIRY or _is_orphan(match[3]):
                with contextlib.suppress(OSError):  # as in `release`
                    path.unlink(missing_ok=True)
            else:
                return True
        return False


def drop_claims(folder: Path, pid: int) -> None:
    """Remove the claims of a process of this machine that has ended."""
    for path in folder.glob(f"*_{process_name(pid)}.claim"):
        with contextlib.suppress(OSError):  # as in `release`
            path.unlink(missing_ok=True)


def process_name(pid: int) -> str:
    """A process's number, and where that means a process: on this machine, or in a container of it."""
    return f"{pid}_{hashlib.sha256(_host().encode()).hexdigest()[:12]}"


def _host() -> str:
    """Of this machine, or of a container on it, of which many may share a name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return platform.node()


def _is_orphan(owner: str) -> bool:
    """Whether a claim was made on this machine by a process that is no more."""
    if sys.platform == "win32":
        return False  # its age will tell
    pid = owner.split("_")[1] if owner.count("_") == 2 else ""
    if not pid.isdecimal() or not owner.endswith(process_name(int(pid))):
        return False  # likewise
    try:
        os.kill(int(pid), 0)  # signal 0 only asks
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
