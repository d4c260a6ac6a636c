# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine as a process: commands on stdin, answers on stdout, one job at a time, until stdin closes. No bpy."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from . import __version__, protocol
from .errors import MattingError
from .memory import keep_memory, return_memory
from .protocol import Message

log = logging.getLogger(__name__)

GRACE = 10.0  # seconds that a running command has to stop in once stdin is closed
IDLE = 5.0  # seconds without a command after which memory goes back; a preview soon after another uses it again


def describe_engine() -> protocol.Engine:
    """What this engine is and what it can run on."""
    from .checkpoints import list_models
    from .matting import list_devices

    return protocol.Engine(
        protocol=protocol.VERSION,
        version=__version__,
        python=platform.python_version(),
        torch=importlib.metadata.version("torch"),
        devices=list_devices(),
        models=list_models(),
    )


class Worker:
    """Reads commands from one stream, answers on another.

    Args:
        commands: lines of core.protocol; the worker ends when it closes.
        answers: where the lines of answers go.
    """

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        self._commands = commands
        self._answers = answers
        self._lock = threading.Lock()
        self._queue: queue.Queue[tuple[str, Message] | None] = queue.Queue()
        self._known: set[str] = set()  # ids of commands that run or wait
        self._cancelled: set[str] = set()  # of these
        self._closing = threading.Event()

    def run(self) -> None:
        """Serve until Shutdown or the end of the commands; a command under way is cancelled and waited for."""
        runner = threading.Thread(target=self._run_commands, daemon=True)
        runner.start()
        self._read_commands()
        self._closing.set()
        self._queue.put(None)
        runner.join(GRACE)
        if runner.is_alive():
            log.warning("A command did not stop within %g s; leaving it.", GRACE)
            logging.shutdown()
            os._exit(1)

    def _read_commands(self) -> None:
        while line := self._commands.readline(protocol.MAX_LINE + 1):
            if len(line) > protocol.MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = self._commands.readline(protocol.MAX_LINE)
                self._send(protocol.Error(f"A line of over {protocol.MAX_LINE} bytes.", "ProtocolError"), "")
                continue
            if not line.strip():
                continue
            try:
                id, message = protocol.decode(line)
                if not isinstance(message, protocol.COMMANDS):
                    raise protocol.ProtocolError(f"{message.type} is an answer, not a command", id)
            except protocol.ProtocolError as error:
                self._send(protocol.Error(f"Not a command: {error}.", "ProtocolError"), error.id)
                continue
            if isinstance(message, protocol.Shutdown):
                self._send(protocol.Done("finished"), id)
                return
            if isinstance(message, protocol.Cancel):
                self._cancelled.update(self._known & {message.target})
                self._send(protocol.Done("finished"), id)
            else:
                self._known.add(id)
                self._queue.put((id, message))

    def _run_commands(self) -> None:
        while (item := self._next_command()) is not None:
            id, message = item
            try:
                if not self._is_cancelled(id):
                    self._run_command(id, message)
                outcome = "cancelled" if self._is_cancelled(id) else "finished"
            except MattingError as error:
                log.error("%s failed", message.type, exc_info=True)
                self._send(protocol.Error(str(error), type(error).__name__), id)
                outcome = "failed"
            except Exception as error:
                log.exception("%s failed in a way that is the engine's own fault", message.type)
                text = f"The engine failed: {type(error).__name__}: {error}. Its log says more; please report it."
                self._send(protocol.Error(text, "InternalError"), id)
                outcome = "failed"
            self._known.discard(id)
            self._cancelled.discard(id)
            self._send(protocol.Done(outcome), id)
            if isinstance(message, protocol.Hello) and self._queue.empty():
                self._warm_up()

    def _next_command(self) -> tuple[str, Message] | None:
        try:
            return self._queue.get(timeout=IDLE)
        except queue.Empty:
            return_memory()  # gigabytes, after a plate, that Blender may need
            return self._queue.get()

    def _warm_up(self) -> None:
        """Use the time until the first job comes, which then starts sooner."""
        from . import engine

        try:
            engine.warm_up()
        except Exception:  # the job that comes will say it in words
            log.warning("The engine could not warm up.", exc_info=True)

    def _run_command(self, id: str, message: Message) -> None:
        handler: Callable[[str, Message], Message | None] = getattr(self, f"_do_{message.type}")
        answer = handler(id, message)
        if answer is not None:
            self._send(answer, id)

    def _do_hello(self, id: str, message: protocol.Hello) -> Message:
        return describe_engine()

    def _do_matte(self, id: str, message: protocol.Matte) -> Message:
        from . import engine, job

        result = engine.run_job(
            job.read_job(message.job),
            job.parse_frames(message.frames),
            on_progress=lambda p: self._send(
                protocol.Progress(p.done, p.total, p.frame_number, p.fps, p.seconds_left), id
            ),
            on_warning=lambda text: self._send(protocol.Warning(text), id),
            cancelled=lambda: self._is_cancelled(id),
            device=message.device,
        )
        return protocol.Result(result)

    def _do_preview(self, id: str, message: protocol.Preview) -> Message:
        from . import engine, job

        return protocol.Result(
            engine.preview_frame(
                job.read_job(message.job),
                message.frame_number,
                job.checked_path(message.output),
                on_warning=lambda text: self._send(protocol.Warning(text), id),
            )
        )

    def _do_plate(self, id: str, message: protocol.MakePlate) -> Message:
        from . import engine, job

        result = engine.make_plate(
            job.Source(message.footage, message.color_space),
            job.checked_path(message.output),
            job.parse_frames(message.frames),
            on_progress=lambda p: self._send(protocol.Progress(p.done, p.total, stage="plate"), id),
            cancelled=lambda: self._is_cancelled(id),
            on_warning=lambda text: self._send(protocol.Warning(text), id),
        )
        return protocol.Result(result)

    def _do_diagnose(self, id: str, message: protocol.Diagnose) -> Message:
        from . import engine, job

        return protocol.Result(engine.diagnose_plate(job.read_job(message.job)))

    def _do_deliver(self, id: str, message: protocol.Deliver) -> Message:
        from . import delivery

        with suppress(delivery.CancelledError):  # which Done says
            return protocol.Result(
                delivery.deliver_folder(
                    Path(message.folder),
                    message.kinds,
                    message.fps,
                    lambda done, total: self._send(protocol.Progress(done, total, stage="deliver"), id),
                    lambda text: self._send(protocol.Warning(text), id),
                    lambda: self._is_cancelled(id),
                )
            )
        return protocol.Result({})

    def _do_dry_run(self, id: str, message: protocol.DryRun) -> Message:
        start = time.perf_counter()
        for done in range(1, message.frames + 1):
            if self._is_cancelled(id):
                break
            time.sleep(min(max(message.seconds, 0.0), 10.0))
            fps = done / max(time.perf_counter() - start, 1e-6)
            self._send(protocol.Progress(done, message.frames, done, fps, (message.frames - done) / fps), id)
        return protocol.Result({})

    def _is_cancelled(self, id: str) -> bool:
        return self._closing.is_set() or id in self._cancelled

    def _send(self, message: Message, id: str) -> None:
        line = protocol.encode(message, id)  # a number that is none is for whoever sends it to explain
        with self._lock:
            try:
                self._answers.write(line)
                self._answers.flush()
            except (OSError, ValueError):  # Blender is gone; stdin says so too
                self._closing.set()


def main() -> None:
    """Serve on this process's stdin and stdout; anything printed by mistake goes to stderr instead."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this, who then says what to do
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    keep_memory()  # before the thread that runs the commands
    # Forced: the command line has set up its own log by now.
    logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr, force=True)
    Worker(sys.stdin.buffer, answers).run()
