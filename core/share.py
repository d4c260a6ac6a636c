# SPDX-License-Identifier: GPL-3.0-or-later
"""One job on several devices: a worker process for each, all on one folder, seen from outside as one. No bpy.

The processes share the frames out among themselves by claims (see `claims`), so one that dies costs no more than the
segment it was at, which another then finishes.
"""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from . import protocol
from .claims import drop_claims
from .errors import MattingError, error_in_words

log = logging.getLogger(__name__)

GRACE = 15.0  # seconds that a process has to end in once nothing is asked of it any more


def run_on_devices(
    devices: list[str],
    job: Path,
    frames: str,
    claims: Path,
    on_frame: Callable[[int], None],
    on_alive: Callable[[], None],
    on_warning: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> None:
    """Run a job's frames until all are done, or it is cancelled.

    Args:
        devices: one process for each; a device may come twice.
        job: the job's file in its output folder.
        frames: "A-B", inclusive.
        claims: the folder of claims, from which those of a process that died are removed.
        on_frame: told the number of each frame that is done.
        on_alive: called where they say no more than that they live, waiting for another's frames.

    Raises:
        MattingError: no process is left that could go on; what the first of them said.
    """
    answers: queue.SimpleQueue[tuple[_Engine, protocol.Message | None]] = queue.SimpleQueue()
    threads = max(1, (os.cpu_count() or 1) // max(1, devices.count("cpu")))
    engines = [_Engine(device, threads, answers) for device in devices]
    failures: list[MattingError] = []
    done: set[int] = set()  # one that died may not have written what it announced: another announces it again
    finished, stopping = False, False
    try:
        for engine in engines:
            engine.send(protocol.Matte(str(job), frames, engine.device), "matte")
        running = set(engines)
        while running:
            if cancelled() and not stopping:
                stopping = True
                for engine in running:
                    engine.send(protocol.Cancel("matte"), "cancel")
            try:
                engine, message = answers.get(timeout=0.1)
            except queue.Empty:
                continue
            if engine not in running:
                continue
            failure = None
            match message:
                case protocol.Progress() if message.fps and message.frame_number not in done:  # else none was computed
                    done.add(message.frame_number)
                    on_frame(message.frame_number)
                case protocol.Progress():
                    on_alive()
                case protocol.Warning():
                    on_warning(message.message)
                case protocol.Error():
                    failure = error_in_words(message.kind, message.message)
                case protocol.Done() if message.outcome != "failed":
                    running.discard(engine)
                    finished = finished or message.outcome == "finished"
                case None:
                    failure = MattingError(
                        f"the engine on {engine.device} to finish",
                        f"its end ({engine.describe_end()})",
                        "Run the job again with --verbose, or without this device",
                    )
                    drop_claims(claims, engine.pid)
            if failure is not None:
                running.discard(engine)
                failures.append(failure)
                if running and not cancelled():  # else the same signal ended it
                    on_warning(f"{engine.device} stopped, the others go on. {failure}")
    finally:
        for engine in engines:
            engine.dismiss()
        for engine in engines:
            engine.wait()
    if failures and not finished and not cancelled():
        raise failures[0]


class _Engine:
    """A worker process for one device, whose answers go to a queue; None when it has ended."""

    def __init__(
        self,
        device: str,
        threads: int,
        answers: queue.SimpleQueue[tuple[_Engine, protocol.Message | None]],
    ) -> None:
        self.device = device
        self._answers = answers
        variables = {"OMP_NUM_THREADS": str(threads)} if device == "cpu" else {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "core", "worker"],
            cwd=Path(__file__).resolve().parent.parent,
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if log.isEnabledFor(logging.INFO) else subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, message: protocol.Message, id: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(protocol.encode(message, id))
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended, which its reader says

    def describe_end(self) -> str:
        """How the process ended, once it has."""
        code = self._process.wait()
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def dismiss(self) -> None:
        """Have the process end: it does when its commands do."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass

    def wait(self) -> None:
        """Wait for its end, and hasten it if need be."""
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                try:
                    self._answers.put((self, protocol.decode(line)[1]))
                except protocol.ProtocolError:
                    continue  # cut off by its death
        self._answers.put((self, None))
