# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's process, spoken to as Blender does."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from core import delivery, engine, frame_io, memory, protocol
from core import worker as worker_module
from core.worker import Worker
from tests.test_delivery import write_finished

ROOT = Path(__file__).parent.parent


class Process:
    def __init__(self) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "core", "worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._watchdog = threading.Timer(60, self.popen.kill)
        self._watchdog.start()

    def send(self, message: protocol.Message, id: str) -> None:
        self.send_line(protocol.encode(message, id))

    def send_line(self, line: bytes) -> None:
        self.popen.stdin.write(line)
        self.popen.stdin.flush()

    def read(self) -> tuple[str, protocol.Message]:
        return protocol.decode(self.popen.stdout.readline())

    def answers(self, id: str) -> list[protocol.Message]:
        """Everything up to and including this command's Done."""
        messages = []
        while True:
            got, message = self.read()
            if got == id:
                messages.append(message)
                if isinstance(message, protocol.Done):
                    return messages

    def close(self) -> int:
        self._watchdog.cancel()
        self.popen.stdin.close()
        status = self.popen.wait(20)
        self.popen.stdout.close()
        return status


@pytest.fixture
def worker():
    process = Process()
    yield process
    process.close()


def test_hello(worker):
    worker.send(protocol.Hello(), "1")
    engine, done = worker.answers("1")
    assert engine.protocol == protocol.VERSION and engine.torch.startswith("2.") and "default" in engine.models
    assert engine.devices[-1]["id"] == "cpu" and done.outcome == "finished"


def test_a_job_and_its_answers(worker, shot, tmp_path):
    job = {"footage": {"path": str(shot.write_movie(tmp_path / "a.mkv"))}, "output": {"folder": str(tmp_path / "out")}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    worker.send(protocol.Matte(str(tmp_path / "job.yaml"), "2-4"), "7")
    *progress, result, done = worker.answers("7")
    assert [p.done for p in progress] == [0, 1, 2, 3] and progress[-1].fps > 0
    assert result.data["frames"] == 3 and Path(result.data["alpha"]).name == "alpha.0002.png"
    worker.send(protocol.Preview(str(tmp_path / "job.yaml"), 1, str(tmp_path / "preview")), "8")
    result, done = worker.answers("8")
    assert Path(result.data["alpha"]).is_file()


def test_a_delivery_and_its_answers(worker, tmp_path):
    folder = write_finished(tmp_path / "out", [1, 2])
    worker.send(protocol.Deliver(str(folder), ["preview", "rgba"]), "1")
    error, _ = worker.answers("1")
    assert error.kind == "JobError" and "job.yaml" in error.message
    (folder / "job.yaml").write_text("footage: {path: a.mov}")
    worker.send(protocol.Deliver(str(folder), ["preview", "rgba"]), "2")
    *progress, result, done = worker.answers("2")
    assert [(p.stage, p.done, p.total) for p in progress] == [("deliver", n, 4) for n in (1, 2, 3, 4)]
    assert [Path(path).name for path in result.data.values()] == ["preview.mp4", "rgba.0001.exr"]
    assert done.outcome == "finished"
    with pytest.raises(delivery.CancelledError):
        delivery.deliver_folder(folder, ["rgba"], cancelled=lambda: True)


@pytest.mark.skipif(memory._glibc() is None, reason="no glibc")
def test_a_preview_uses_the_memory_of_the_one_before(worker, tmp_path):
    frame_io.write_image(tmp_path / "a.png", np.full((1080, 1920, 3), 127, np.uint8))
    job = {"footage": {"path": str(tmp_path / "a.png")}, "output": {"folder": str(tmp_path / "out")}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    faults = []
    for index in range(5):
        worker.send(protocol.Preview(str(tmp_path / "job.yaml"), 1, str(tmp_path / "preview")), str(index))
        worker.answers(str(index))
        stat = Path(f"/proc/{worker.popen.pid}/stat").read_text().rpartition(")")[2]
        faults.append(int(stat.split()[7]))  # pages of 4 KB fetched from the system so far
    assert min(np.diff(faults)) < 1000  # each takes some 30 000 otherwise


@pytest.mark.parametrize("folder", ["", "a\0b", "\ud800"])
def test_a_folder_that_is_none_is_refused_in_words(worker, shot, tmp_path, folder):
    """An empty one would be the worker's own, which is the engine's."""
    job = {"footage": {"path": str(shot.write_sequence(tmp_path / "src"))}, "output": {"folder": str(tmp_path)}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    footage, name = str(tmp_path / "src"), f"{folder}.png" if folder else ""
    for id, message in (
        ("1", protocol.Preview(str(tmp_path / "job.yaml"), 1, folder)),
        ("2", protocol.MakePlate(footage, name)),
    ):
        worker.send(message, id)
        *_, error, done = worker.answers(id)
        assert error.kind == "JobError" and "path that a file system can hold" in error.message
    worker.send(protocol.DryRun(1, -1.0), "3")
    assert worker.answers("3")[-1].outcome == "finished"


def test_failure_is_a_sentence_and_the_worker_lives_on(worker):
    worker.send(protocol.Matte("/none/job.yaml"), "1")
    error, done = worker.answers("1")
    assert error.kind == "JobError" and "readable job file" in error.message and done.outcome == "failed"
    worker.send(protocol.DryRun(2, 0.0), "2")
    assert [type(m) for m in worker.answers("2")][-1] is protocol.Done


def test_cancel_a_running_and_a_waiting_command(worker):
    worker.send(protocol.DryRun(1000, 0.02), "long")
    worker.send(protocol.DryRun(1000, 0.02), "waiting")
    worker.read()
    worker.send(protocol.Cancel("waiting"), "c1")
    worker.send(protocol.Cancel("long"), "c2")
    assert worker.answers("long")[-1].outcome == "cancelled"
    assert [m.type for m in worker.answers("waiting")] == ["done"]


def test_cancels_of_what_does_not_run_or_wait_are_forgotten():
    messages = (protocol.DryRun(1, 0.0), "1"), (protocol.Cancel("1"), "2"), (protocol.Cancel("none"), "3")
    worker = Worker(io.BytesIO(b"".join(protocol.encode(message, id) for message, id in messages)), io.BytesIO())
    worker._read_commands()
    assert worker._cancelled == {"1"}
    worker._queue.put(None)
    worker._run_commands()
    assert not worker._cancelled and b'"cancelled"' in worker._answers.getvalue()


def test_nonsense_is_answered_and_survived(worker):
    for line in (b"nonsense\n", b'{"id": "9", "type": "fly"}\n', b"\xff\xfe\n", b"x" * (protocol.MAX_LINE * 2) + b"\n"):
        worker.send_line(line)
        _, error = worker.read()
        assert isinstance(error, protocol.Error) and error.kind == "ProtocolError"
    worker.send_line(b"\n")
    worker.send(protocol.DryRun(1, 0.0), "1")
    assert worker.answers("1")[-1].outcome == "finished"


def test_closing_stdin_ends_it_even_in_the_middle_of_a_command(worker):
    worker.send(protocol.DryRun(100_000, 0.01), "1")
    worker.read()
    assert worker.close() == 0


def test_shutdown(worker):
    worker.send(protocol.Shutdown(), "1")
    assert worker.answers("1") == [protocol.Done("finished")]
    assert worker.popen.wait(20) == 0


def test_an_answer_that_is_no_json_is_an_error_and_the_worker_lives_on(monkeypatch):
    monkeypatch.setattr(Worker, "_do_diagnose", lambda *_: protocol.Result({"light": float("nan")}))
    commands = protocol.encode(protocol.Diagnose("job"), "1") + protocol.encode(protocol.DryRun(2, 0.0), "2")
    answers = io.BytesIO()
    worker = Worker(io.BytesIO(commands), answers)
    worker._read_commands()
    worker._queue.put(None)
    worker._run_commands()
    got = [protocol.decode(line) for line in answers.getvalue().splitlines()]
    assert got[0][1].kind == "InternalError" and got[1] == ("1", protocol.Done("failed"))
    assert got[-1] == ("2", protocol.Done("finished"))


@pytest.mark.skipif(memory._glibc() is None, reason="no glibc")
def test_memory_goes_back_when_no_command_follows(monkeypatch):
    """What is freed is kept for the next command, but not for long. Here the test stands in for the C library."""
    libc, returned = memory._glibc(), threading.Event()
    monkeypatch.setattr(libc, "malloc_trim", lambda pad: returned.set())
    monkeypatch.setattr(memory, "_glibc", lambda: libc)
    monkeypatch.setattr(worker_module, "IDLE", 0.2, raising=False)
    worker = Worker(io.BytesIO(), io.BytesIO())
    for id in "12":
        worker._queue.put((id, protocol.DryRun(1, 0.0)))
    thread = threading.Thread(target=worker._run_commands, daemon=True)
    thread.start()
    while worker._answers.getvalue().count(b'"finished"') < 2:
        time.sleep(0.001)
    assert not returned.is_set()
    assert returned.wait(5)
    worker._queue.put(("3", protocol.DryRun(1, 0.0)))
    worker._queue.put(None)
    thread.join(5)
    assert worker._answers.getvalue().count(b'"finished"') == 3


def test_it_warms_up_while_it_has_nothing_to_do(monkeypatch):
    """Once it has said what it is; what goes wrong meanwhile is the next command's to say."""
    warmed = threading.Event()

    def fail():
        warmed.set()
        raise RuntimeError("no network")

    monkeypatch.setattr(engine, "warm_up", fail)
    reading, writing = os.pipe()
    answers = io.BytesIO()
    with os.fdopen(reading, "rb") as commands, os.fdopen(writing, "wb", buffering=0) as sender:
        thread = threading.Thread(target=Worker(commands, answers).run)
        thread.start()
        sender.write(protocol.encode(protocol.Hello(), "1"))
        assert warmed.wait(30)
        sender.write(protocol.encode(protocol.DryRun(2, 0.0), "2") + protocol.encode(protocol.Shutdown(), "3"))
        thread.join(30)
    got = [protocol.decode(line) for line in answers.getvalue().splitlines()]
    assert ("1", protocol.Done("finished")) in got and [id for id, _ in got].count("2") > 0
