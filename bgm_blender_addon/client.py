# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's side of the engine process: start it, send commands, collect answers without ever waiting. No bpy.

A command that cannot be answered any more, because the engine died or fell silent, is answered here by an `Error` in
words and a `Done`: whoever reads `drain()` sees one kind of ending only.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

if __package__ == "bgm_blender_addon":  # a checkout, tests
    from core import protocol
else:  # installed as bl_ext.<repository>.<id>.bgm_blender_addon
    from ..core import protocol  # type: ignore[import-not-found,no-redef]

from .errors import UserError

__all__ = ["EngineClient", "describe_exit", "protocol", "start_process", "stop_process"]

log = logging.getLogger(__name__)

MAX_LOG_BYTES = 4 << 20  # a longer log starts afresh with the next engine
LOG_TAIL_LINES = 6
# What the engine says in its command line's words, as patterns: where the same is set in Blender
_IN_BLENDER = {
    r"Use --device auto": "Set Device to Automatic, under Engine or in the preferences",
    r"Close other programs or use --device cpu": "Close other programs, or set Device to CPU, under Engine or in the "
    "preferences",
    r"Run the job again with --verbose, or without this device": "Press the button again, or choose another Device, "
    "under Engine or in the preferences",
    r"Use --format exr or auto": "Set Format to OpenEXR or Automatic under Output",
    r"Set the precision to fp32, or choose another model": "Set Precision to Full, or choose another Model, under "
    "Engine",
    r"foreground: true for deliveries, which hold it; got false\. Write the foreground too": "Foreground for "
    "deliveries, which hold it; got none. Switch it on under Output",
    r"run the job for all frames": "matte the whole clip",
    r"To deliver what is there now: python -m core deliver .*": "To deliver what is there now, press Deliver Now under "
    "Output.",
}
STANDSTILL = 10.0  # seconds between two drains: Blender itself stood still, in a machine that slept, say


class EngineClient:
    """One engine process. Not thread-safe: call it from Blender's main thread.

    Args:
        python: interpreter of the engine's environment.
        root: folder that holds `core`.
        log_path: file that takes the engine's log.
        command: arguments after the interpreter; tests put their own engine here.
        variables: what to add to its environment variables.
        patience: seconds of silence, while a command waits for its answer, after which the engine counts as stuck.
    """

    def __init__(
        self,
        python: Path,
        root: Path,
        log_path: Path,
        command: tuple[str, ...] = ("-m", "core", "worker"),
        variables: Mapping[str, str] | None = None,
        patience: float = 600.0,
    ) -> None:
        """Start the process.

        Raises:
            UserError: it cannot be started.
        """
        self.python = python
        self.root = root
        self.log_path = log_path
        self.patience = patience
        self._killed = False
        self._pending: dict[str, protocol.Message] = {}
        self._ids = itertools.count(1)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._last_heard = self._last_drained = time.monotonic()
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            too_long = log_path.exists() and log_path.stat().st_size > MAX_LOG_BYTES
            with log_path.open("wb" if too_long else "ab") as log_file:
                self._log_start = log_file.tell()
                self._process = start_process(
                    [str(python), "-u", *command], root, log_file, stdin=subprocess.PIPE, variables=variables
                )
        except OSError as error:
            raise UserError(f"The engine cannot be started with {python}: {error}.") from None
        self._reader = threading.Thread(target=self._read, name="bgm engine reader", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return not self._killed and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: protocol.Message) -> str:
        """Send a command and return its id; its answers come out of `drain()`."""
        id = str(next(self._ids))
        if not self._pending:
            self._last_heard = time.monotonic()
            if id != "1":  # whose words begin with the engine's own: it may not even start
                self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._pending[id] = message
        self._write(protocol.encode(message, id))
        return id

    def cancel(self, id: str) -> None:
        """Ask for the end of a command after its current frame; its own `Done` says when."""
        if id in self._pending:
            self._write(protocol.encode(protocol.Cancel(target=id), ""))

    def drain(self) -> list[tuple[str, protocol.Message]]:
        """Every answer since the last call, as (id of the command, message); never waits."""
        dead, now = not self.alive, time.monotonic()
        if now - self._last_drained > STANDSTILL:
            self._last_heard = now
        self._last_drained = now
        if dead:
            self._reader.join(timeout=1.0)  # what it still said before it died
        answers = []
        while not self._lines.empty():
            self._last_heard = now
            line = self._lines.get()
            try:
                id, message = protocol.decode(line)
            except protocol.ProtocolError as error:
                log.warning("the engine printed a line that is no message (%s): %r", error, line[:200])
                continue
            if isinstance(message, protocol.Error | protocol.Warning):
                message = dataclasses.replace(message, message=in_blender(message.message))
            if isinstance(message, protocol.Done):
                self._pending.pop(id, None)
            answers.append((id, message))
        if self._pending and dead:
            answers += self._fail(self._describe_death(self._process.returncode))
        elif self._pending and now - self._last_heard > self.patience:
            self.kill()
            answers += self._fail(f"The engine gave no answer for {self.patience:.0f} seconds and was stopped.")
        return answers

    def shutdown(self, timeout: float = 3.0) -> None:
        """End the engine: ask, and after `timeout` seconds make it."""
        self._pending.clear()
        if self.alive:
            self._write(protocol.encode(protocol.Shutdown()))
            self._close_stdin()  # which ends it, too
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        self._close_stdin()
        self._reader.join(timeout=1.0)

    def kill(self) -> None:
        """End the engine and its children at once."""
        self._killed = True
        stop_process(self._process)
        self._close_stdin()

    def log_tail(self) -> str:
        """The last lines that this engine logged since the running command began."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(self._log_start, self.log_path.stat().st_size - 16384))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join([line for line in lines if line.strip()][-LOG_TAIL_LINES:])

    def _describe_death(self, code: int) -> str:
        sentence = f"The engine ended unexpectedly ({describe_exit(code)})."
        if code < 0:
            sentence += (
                " Finished frames are kept: press the button again. If it happens again, the machine may be out of "
                "memory: close other programs, or choose a smaller Coarse Size under Engine."
            )
        return sentence

    def _describe_missing(self, words: str) -> str:
        """What to do about a Python that is old or lacks a package; empty where the engine's last words are others."""
        if old := re.search(r"^The engine needs Python .*$", words, re.MULTILINE):
            return f"{old[0]} In the preferences choose another, or Own Environment."
        match = re.search(r"^ModuleNotFoundError: No module named '([^']+)'$", words, re.MULTILINE)
        if match is None:
            return ""
        return (
            f"{self.python} lacks packages that the engine needs (no module named {match[1]}). In the preferences "
            "choose Own Environment and press Make Environment, or install them: "
            f"{self.python} -m pip install -r {self.root / 'core' / 'requirements.txt'}"
        )

    def _fail(self, sentence: str) -> list[tuple[str, protocol.Message]]:
        tail = self.log_tail()
        words = f"Its last words:\n{tail}" if tail else f"It gave no reason; its log is {self.log_path}."
        text = self._describe_missing(tail) or f"{sentence} {words}"
        answers: list[tuple[str, protocol.Message]] = []
        for id in self._pending:
            answers.append((id, protocol.Error(text, kind="EngineError")))
            answers.append((id, protocol.Done("failed")))
        self._pending.clear()
        return answers

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        with stdout:
            for line in iter(lambda: stdout.readline(protocol.MAX_LINE + 1), b""):
                self._lines.put(line)

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except (OSError, ValueError):  # it has gone: drain() says so
            log.info("the engine no longer reads")

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass


def start_process(
    command: list[str],
    folder: Path,
    stderr: IO[bytes] | int,
    stdin: int = subprocess.DEVNULL,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a Python of its own: in its own process group, free of Blender's PYTHON* variables, output piped."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment.update(variables or {})
    own_group: dict[str, object]
    if sys.platform == "win32":
        own_group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    else:
        own_group = {"start_new_session": True}
    return subprocess.Popen(  # type: ignore[call-overload]
        command, cwd=folder, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, **own_group
    )


def stop_process(process: subprocess.Popen[bytes], timeout: float = 5.0) -> None:
    """Kill a process of `start_process` and whatever it started."""
    if process.poll() is None:
        if sys.platform == "win32":
            process.kill()
        else:
            with suppress(ProcessLookupError):  # another thread has waited for it meanwhile
                os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # it ends when a driver that hangs lets go of it
            process.wait(timeout)


def in_blender(words: str) -> str:
    """A sentence of the engine's that names, instead of its command line's options, where they are in Blender."""
    for pattern, ours in _IN_BLENDER.items():
        words = re.sub(pattern, ours, words)
    return words


def describe_exit(code: int | None) -> str:
    """An exit status in words: "exit code 3", "killed by SIGSEGV"."""
    if code is not None and code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"
