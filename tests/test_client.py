# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on's bpy-free half: the client against a fake engine and the real one, the environment, the frame counts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bgm_blender_addon import environment, footage
from bgm_blender_addon.client import EngineClient, in_blender, start_process, stop_process
from bgm_blender_addon.errors import UserError
from core import protocol
from core.errors import JobError
from core.job import job_from_dict

ROOT = Path(__file__).resolve().parent.parent
FAKE = (str(ROOT / "tests" / "fake_worker.py"),)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., EngineClient]]:
    """Starts engines, the fake one by default, and sees that none stays."""
    clients: list[EngineClient] = []

    def start_engine(command: tuple[str, ...] = FAKE, manner: str = "", **options: Any) -> EngineClient:
        variables = {"FAKE_WORKER": manner, "FAKE_WORKER_SECONDS": "0.02"}
        log = tmp_path / "engine.log"
        clients.append(EngineClient(Path(sys.executable), ROOT, log, command, variables=variables, **options))
        return clients[-1]

    yield start_engine
    for client in clients:
        client.shutdown(timeout=2)
        assert not client.alive


def answers_to(client: EngineClient, id: str, timeout: float = 60.0) -> list[protocol.Message]:
    """The answers to a command, its Done included."""
    answers: list[protocol.Message] = []
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        answers += [message for answer_id, message in client.drain() if answer_id == id]
        if answers and isinstance(answers[-1], protocol.Done):
            return answers
        time.sleep(0.01)
    raise AssertionError(f"no Done within {timeout} s: {answers}")


def write_job(folder: Path, frames: list[int]) -> str:
    import cv2
    import numpy as np

    assert cv2.imwrite(str(folder / "a.1001.png"), np.zeros((8, 12, 3), np.uint8))
    output = {"folder": str(folder / "out"), "foreground": True, "matte": False, "error": True}
    job = {"footage": {"path": str(folder / "a.1001.png")}, "frames": frames, "output": output}
    path = folder / "job.yaml"
    path.write_text(__import__("json").dumps(job))
    return str(path)


def test_matte(start: Callable[..., EngineClient], tmp_path: Path) -> None:
    client = start(manner="noise")  # what a library prints on stdout is no answer
    *progress, warning, result, done = answers_to(
        client, client.send(protocol.Matte(write_job(tmp_path, [1001, 1004])))
    )
    assert [p.frame_number for p in progress] == [1001, 1002, 1003, 1004]  # type: ignore[attr-defined]
    assert isinstance(warning, protocol.Warning)
    assert isinstance(result, protocol.Result) and result.data["frames"] == 4
    assert done == protocol.Done("finished")
    assert sorted(p.name for p in (tmp_path / "out" / "alpha").iterdir())[0] == "alpha.1001.png"


def test_cancel(start: Callable[..., EngineClient], tmp_path: Path) -> None:
    client = start()
    id = client.send(protocol.Matte(write_job(tmp_path, [1, 500])))
    while not any(isinstance(message, protocol.Progress) for _, message in client.drain()):
        time.sleep(0.01)
    client.cancel(id)
    assert answers_to(client, id)[-1] == protocol.Done("cancelled")


def test_death_is_told_in_words(start: Callable[..., EngineClient], tmp_path: Path) -> None:
    client = start(manner="crash")
    *_, error, done = answers_to(client, client.send(protocol.Matte(write_job(tmp_path, [1, 9]))))
    assert isinstance(error, protocol.Error)
    assert "ended unexpectedly (exit code 3)" in error.message
    assert "the fake engine dies on purpose" in error.message  # its log's tail
    assert done == protocol.Done("failed")
    assert not client.alive
    *_, error, done = answers_to(client, client.send(protocol.Hello()))  # and it stays told
    assert isinstance(error, protocol.Error) and done == protocol.Done("failed")


def test_the_engines_words_name_what_blender_has(tmp_path: Path) -> None:
    """In the sources of all that Blender asks of the engine: no option of its command line is left."""
    told = 0
    for path in sorted((ROOT / "core").glob("*.py")):
        # The command line itself, and what only a job that a person has written can bring about
        if path.stem in ("__main__", "job"):
            continue
        for line in path.read_text().splitlines():
            if re.search(r'".*(--[a-z]|python -m)', line):
                told += 1
                assert not re.search("--[a-z]|python -m", in_blender(line)), line
    assert told
    assert in_blender("Expected a device; got 'x'. Use --device auto.") == (
        "Expected a device; got 'x'. Set Device to Automatic, under Engine or in the preferences."
    )
    with pytest.raises(JobError) as refused:
        job_from_dict({"footage": {"path": "a"}, "output": {"deliver": ["webm"], "foreground": False}}, tmp_path)
    assert "Switch it on under Output." in in_blender(str(refused.value))


def test_a_python_that_is_too_old(start: Callable[..., EngineClient]) -> None:
    client = start(("-c", "import sys; sys.version_info = (3, 10, 12); import core"))
    error, _ = answers_to(client, client.send(protocol.Hello()))
    assert isinstance(error, protocol.Error)
    assert error.message.startswith(f"The engine needs Python 3.11 or newer; {sys.executable} is ")
    assert error.message.endswith(". In the preferences choose another, or Own Environment.")


def test_an_engine_killed_from_outside(start: Callable[..., EngineClient]) -> None:
    client = start()
    id = client.send(protocol.Hello())
    answers_to(client, id)
    os.kill(client.pid, 9)
    id = client.send(protocol.Hello())
    error, _ = answers_to(client, id)
    assert isinstance(error, protocol.Error)
    assert "SIGKILL" in error.message


def test_last_words_are_those_of_the_running_command(start: Callable[..., EngineClient]) -> None:
    client = start(manner="strict")
    answers_to(client, client.send(protocol.Diagnose("")))
    assert "another plate" in client.log_tail()
    os.kill(client.pid, 9)
    error, _ = answers_to(client, client.send(protocol.Hello()))
    assert isinstance(error, protocol.Error)
    assert "another plate" not in error.message and str(client.log_path) in error.message
    assert "Finished frames are kept: press the button again." in error.message and "memory" in error.message


def test_silence_counts_as_stuck(start: Callable[..., EngineClient]) -> None:
    client = start(manner="silent", patience=0.5)
    error, done = answers_to(client, client.send(protocol.Hello()))
    assert isinstance(error, protocol.Error) and "gave no answer for 0 seconds" in error.message.replace("1 s", "0 s")
    assert done == protocol.Done("failed")
    assert not client.alive


def test_patience_outlasts_a_sleep(start: Callable[..., EngineClient], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept for a night, Blender and engine with it: on Windows its clock went on."""
    client = start(manner="silent", patience=600.0)
    client.send(protocol.DryRun(frames=1))
    assert client.drain() == []
    woken, second = time.monotonic() + 8 * 3600, 0
    monkeypatch.setattr("bgm_blender_addon.client.time", SimpleNamespace(monotonic=lambda: woken + second))
    while not client.drain():
        second += 5
    assert second == 605  # from when it woke


def test_patience_begins_with_the_command(start: Callable[..., EngineClient]) -> None:
    client = start()
    answers_to(client, client.send(protocol.Hello()))
    client.patience = 0.2
    time.sleep(0.5)  # idle for longer than that is no fault
    assert client.drain() == [] and client.alive
    client.send(protocol.Hello())
    client.drain()
    assert client.alive  # nor is it, as soon as a command waits


def test_shutdown_ends_an_engine_that_does_not_listen(start: Callable[..., EngineClient]) -> None:
    client = start(manner="deaf")
    answers_to(client, client.send(protocol.Hello()))
    begin = time.monotonic()
    client.shutdown(timeout=0.5)
    assert not client.alive and time.monotonic() - begin < 5


def test_an_engine_that_cannot_be_killed(start: Callable[..., EngineClient], monkeypatch: pytest.MonkeyPatch) -> None:
    """A graphics driver that hangs keeps it in the kernel: its job has failed all the same, the next needs another."""
    client = start(manner="silent", patience=0.2)
    process = client._process

    def wait(timeout: float) -> None:
        raise subprocess.TimeoutExpired("engine", timeout)

    with monkeypatch.context() as hung:
        hung.setattr(process, "wait", wait)
        hung.setattr(process, "kill", lambda: None)
        hung.setattr("os.killpg", lambda *what: None, raising=False)
        error, done = answers_to(client, client.send(protocol.Hello()))
        assert isinstance(error, protocol.Error) and "gave no answer" in error.message
        assert done == protocol.Done("failed") and process.poll() is None
        assert not client.alive
    stop_process(process)


def test_no_such_python(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be started"):
        EngineClient(tmp_path / "nowhere", ROOT, tmp_path / "engine.log")


def test_python_variables_do_not_reach_the_engine(
    start: Callable[..., EngineClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nonsense")  # as Blender has it in some builds
    assert isinstance(answers_to(c := start(), c.send(protocol.Hello()))[0], protocol.Engine)


def test_a_long_log_starts_afresh(start: Callable[..., EngineClient], tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_bytes(b"x" * (5 << 20))
    client = start()
    answers_to(client, client.send(protocol.Hello()))
    assert log.stat().st_size < 1000


@pytest.mark.slow
def test_the_real_engine(start: Callable[..., EngineClient]) -> None:
    client = start(("-m", "core", "worker"))
    hello, done = answers_to(client, client.send(protocol.Hello()))
    assert isinstance(hello, protocol.Engine) and hello.protocol == protocol.VERSION
    assert done == protocol.Done("finished")
    answers = answers_to(client, client.send(protocol.DryRun(frames=3, seconds=0.01)))
    assert [a.done for a in answers if isinstance(a, protocol.Progress)] == [1, 2, 3]
    error, done = answers_to(client, client.send(protocol.Matte("/nowhere/job.yaml")))
    assert isinstance(error, protocol.Error) and error.kind == "JobError"
    id = client.send(protocol.DryRun(frames=1000, seconds=0.05))
    client.cancel(id)
    assert answers_to(client, id)[-1] == protocol.Done("cancelled")


# The environment


def test_find_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.PYTHON_VARIABLE, raising=False)
    with pytest.raises(UserError, match="no environment yet"):
        environment.find_python(None, tmp_path)
    with pytest.raises(UserError, match="name none"):
        environment.find_python("", tmp_path)
    with pytest.raises(UserError, match="There is no Python at"):
        environment.find_python(str(tmp_path / "python"), tmp_path)
    assert environment.find_python(sys.executable, tmp_path) == Path(sys.executable)
    folder = Path(sys.executable).parent.parent
    assert environment.find_python(f'"{folder}" ', tmp_path) == environment.environment_python(folder)
    (tmp_path / "python.exe").touch()
    assert environment.find_python(str(tmp_path), tmp_path) == tmp_path / "python.exe"
    monkeypatch.setenv(environment.PYTHON_VARIABLE, sys.executable)
    assert environment.find_python(None, tmp_path) == Path(sys.executable)
    monkeypatch.setenv(environment.PYTHON_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(UserError, match=environment.PYTHON_VARIABLE):
        environment.find_python(None, tmp_path)


def make(folder: Path, requirements: Path) -> environment.EnvironmentMaker:
    maker = environment.EnvironmentMaker(folder, folder.with_suffix(".log"), Path(sys.executable), requirements)
    end = time.monotonic() + 120
    while not maker.finished and time.monotonic() < end:
        maker.poll()
        time.sleep(0.02)
    assert maker.finished
    return maker


@pytest.mark.slow
def test_make_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.PYTHON_VARIABLE, raising=False)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# nothing to download\n")
    monkeypatch.setattr(environment, "_requirements", lambda: requirements)
    folder = tmp_path / "environment"
    maker = make(folder, requirements)
    assert maker.error == ""
    assert maker.message == "The engine's environment is ready"
    assert environment.find_python(None, folder) == environment.environment_python(folder)
    requirements.write_text("# another release wants something else\n")
    with pytest.raises(UserError, match="incomplete or outdated"):
        environment.find_python(None, folder)
    requirements.write_text("no-such-package-in-this-folder==1.0\n--no-index\n")
    maker = make(folder, requirements)
    assert "Installing failed (exit code 1)" in maker.error and "no-such-package" in maker.error
    assert not environment.is_made(folder)


def test_cancelling_an_environment_while_a_step_is_being_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting, cancelled = threading.Event(), threading.Event()

    def start(command: list[str], *rest: Any) -> subprocess.Popen[bytes]:
        starting.set()
        assert cancelled.wait(10)
        return start_process([sys.executable, "-c", "import time; time.sleep(10)"], *rest)

    monkeypatch.setattr(environment, "start_process", start)
    maker = environment.EnvironmentMaker(tmp_path / "environment", tmp_path / "log")
    assert starting.wait(10)
    maker.cancel()
    cancelled.set()
    maker._thread.join(5)
    maker.poll()
    assert maker.finished and maker.error == "Cancelled." and not maker.failed


@pytest.mark.parametrize(
    ("platform", "card", "config", "index"),
    [
        ("linux", False, "", environment.CPU_INDEX),
        ("linux", False, "global.timeout='60'\n", environment.CPU_INDEX),
        ("linux", True, "", ""),
        ("linux", False, "global.index-url='https://mirror.studio/simple'\n", ""),
        ("linux", False, ":env:.find-links='/wheels'\n", ""),
        ("win32", False, "", ""),
        ("darwin", False, "", ""),
    ],
)
def test_where_pytorch_comes_from(
    monkeypatch: pytest.MonkeyPatch, platform: str, card: bool, config: str, index: str
) -> None:
    monkeypatch.setattr(environment, "has_nvidia_card", lambda: card)
    monkeypatch.setattr(environment.sys, "platform", platform)
    assert environment.choose_torch_index(config) == index


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script for nvidia-smi")
def test_has_nvidia_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        assert environment.has_nvidia_card()
        return
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not environment.has_nvidia_card()
    tool = tmp_path / "nvidia-smi"
    for script, found in (
        ("echo 'GPU 0: NVIDIA RTX'", True),
        ("echo 'No devices were found'", False),
        ("echo 'GPU 0'; exit 9", False),
    ):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        assert environment.has_nvidia_card() == found


@pytest.mark.parametrize("named", ["", "https://download.pytorch.org/whl/cu130"])
def test_the_command_that_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """pip is asked for its configuration, then told where PyTorch comes from."""
    ran: list[list[str]] = []
    monkeypatch.setattr(environment, "choose_torch_index", lambda config: environment.CPU_INDEX)
    monkeypatch.setattr(environment.EnvironmentMaker, "_say", lambda self, command: "")
    monkeypatch.setattr(environment.EnvironmentMaker, "_run", lambda self, what, command: ran.append(command))
    maker = environment.EnvironmentMaker(tmp_path / "env", tmp_path / "log", torch_index=named)
    maker._thread.join()
    index = ran[-1].index("--extra-index-url")
    assert ran[-1][index + 1] == (named or environment.CPU_INDEX)
    assert ran[-1][ran[-1].index("-r") + 1].endswith("requirements.txt")


def test_parse_progress() -> None:
    assert environment.parse_progress("Progress 25 of 100") == 0.25
    assert environment.parse_progress("Progress 25 of 0") is None
    assert environment.parse_progress("Collecting torch") is None
    assert environment.shorten("Downloading https://x.org/a/torch-2.13.0-cp311-cp311-linux.whl (190 MB)") == (
        "Downloading torch-2.13.0 (190 MB)"
    )


# Frame counts


@pytest.mark.parametrize(
    "name, number, renamed",
    [
        ("shot_v2.1001.exr", 1001, "shot_v2.0007.exr"),
        ("0042.png", 42, "0007.png"),
        ("a12b3_final.png", 3, "a12b7_final.png"),
        ("plate.png", 1, "plate.png"),
        ("IMG_20231231235959.png", 231235959, "IMG_20231000000007.png"),  # Blender's numbers have 32 bits
    ],
)
def test_file_number(name: str, number: int, renamed: str) -> None:
    assert footage.file_number(Path(name)) == number
    assert footage.with_number(Path(name), 7).name == renamed


def test_shot_name() -> None:
    assert footage.shot_name(Path("shot_v2.1001.exr"), is_sequence=True) == "shot_v2"
    assert footage.shot_name(Path("0042.png"), is_sequence=True) == "0042"
    assert footage.shot_name(Path("take2.mp4"), is_sequence=False) == "take2"


def test_scene_frames_and_numbers(tmp_path: Path) -> None:
    for number in (1001, 1002, 1005):
        (tmp_path / f"s.{number}.png").touch()
    (tmp_path / "other.2000.png").touch()
    path = tmp_path / "s.1001.png"
    clip: Any = SimpleNamespace(source="SEQUENCE", frame_start=10, frame_offset=2, frame_duration=2)
    assert (footage.first_number(clip, path), footage.last_number(clip, path)) == (1001, 1005)
    assert footage.to_number(clip, path, 10) == 1003
    assert footage.to_scene(clip, path, 1003) == 10
    movie: Any = SimpleNamespace(source="MOVIE", frame_start=1, frame_offset=0, frame_duration=50)
    assert (footage.first_number(movie, Path("take2.mp4")), footage.last_number(movie, Path("take2.mp4"))) == (1, 50)
    assert footage.to_number(movie, Path("take2.mp4"), 1) == 1


@pytest.mark.parametrize("source, newest", [("SEQUENCE", 3000), ("MOVIE", 2000)])
def test_when_footage_was_modified(source: str, newest: float, tmp_path: Path) -> None:
    for name, seconds in {"s.1001.png": 2000, "s.1002.png": 3000, "other.1001.png": 4000}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    (tmp_path / "s.1003.png").symlink_to(tmp_path / "gone")
    clip: Any = SimpleNamespace(source=source)
    assert footage.modified(clip, tmp_path / "s.1001.png") == newest
