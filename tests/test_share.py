# SPDX-License-Identifier: GPL-3.0-or-later
"""One job on several devices: a process for each, seen as one. The processor stands in for the cards, twice."""

import json
import os
import pickle
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from core import __main__ as command_line
from core import engine, frame_io, protocol
from core.claims import drop_claims, process_name
from core.errors import CheckpointError, DeviceError, FootageError, MattingError, error_in_words
from core.job import Job, Output, Source, read_job
from core.matting import choose_devices

ROOT = Path(__file__).parent.parent


def make_job(footage: Path, folder: Path, device: str = "cpu,cpu") -> Job:
    return Job(Source(str(footage)), output=Output(str(folder), foreground=False, error=False), device=device)


def writers_of(folder: Path) -> dict[int, list[str]]:
    """Frame number: the processes that wrote it."""
    writers: dict[int, list[str]] = {}
    for log in (folder / "records").glob("*.jsonl"):
        for line in log.read_text().splitlines():
            writers.setdefault(json.loads(line)["frame_number"], []).append(log.stem)
    return writers


def children() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # nor a zombie's command line
            if "worker" in child.cmdline():
                found.append(child)
    return found


def test_devices_by_name(monkeypatch):
    assert choose_devices("cpu, cpu") == ["cpu", "cpu"] and choose_devices() == choose_devices("auto")
    assert choose_devices("all") == choose_devices("auto")[:1]  # without a card
    with pytest.raises(DeviceError, match="cuda:9"):
        choose_devices("cpu,cuda:9")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert choose_devices("all") == ["cuda:0", "cuda:1", "cuda:2"]


def test_segments_are_shorter_for_several_devices():
    numbers = list(range(1, 301))
    assert [len(s) for s in engine._segments(numbers, 1)] == [200, 100]
    assert [len(s) for s in engine._segments(numbers, 4)] == [75, 75, 75, 75]
    assert [len(s) for s in engine._segments(numbers[:30], 4)] == [24, 6]
    assert [len(s) for s in engine._segments(list(range(2000)), 4)] == [200] * 10


def test_two_devices_share_a_job(shot, tmp_path):
    """Each frame is written once, both processes write, and one stream of progress counts them all."""
    job = make_job(shot.write_movie(tmp_path / "a.mkv", 120), tmp_path / "out")
    progress, warnings = [], []
    result = engine.run_job(job, on_progress=progress.append, on_warning=warnings.append)
    assert result["frames"] == 120 and not result["cancelled"] and not warnings
    assert [p.done for p in progress if p.fps] == list(range(1, 121)) and {p.total for p in progress} == {120}
    writers = writers_of(tmp_path / "out")
    assert sorted(writers) == list(range(1, 121)) and all(len(names) == 1 for names in writers.values())
    assert len({name for names in writers.values() for name in names}) == 2
    assert len(json.loads(Path(result["report"]).read_text())["frames"]) == 120
    assert read_job(tmp_path / "out/job.yaml").device == "cpu,cpu" and not children()
    assert engine.run_job(job)["skipped"] == 120


def test_a_short_job_stays_in_this_process(shot, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.share, "run_on_devices", None)
    assert engine.run_job(make_job(shot.write_movie(tmp_path / "a.mkv"), tmp_path / "out"))["frames"] == 5


class SaysThese:
    """An engine that says what it is told to."""

    device, pid, words = "cpu", os.getpid(), ()

    def __init__(self, device, threads, answers):
        for word in self.words:
            answers.put((self, word))

    def send(self, message, id): ...

    def dismiss(self): ...

    def wait(self): ...


def test_frame_0_and_waiting_are_passed_on(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.share, "_Engine", SaysThese)
    alive = protocol.Progress(0, 50)
    computed = [protocol.Progress(done, 50, number, 9.0) for done, number in ((1, 0), (1, 0), (2, 7))]
    monkeypatch.setattr(SaysThese, "words", (alive, alive, *computed, protocol.Done("finished")))
    frames, signs = [], []
    engine.share.run_on_devices(
        ["cpu"], tmp_path, "0-49", tmp_path, frames.append, lambda: signs.append(1), print, lambda: False
    )
    assert frames == [0, 7] and len(signs) == 3


def test_a_signal_that_ends_all_processes_of_a_job_is_no_failure(tmp_path, monkeypatch):
    """They may be gone before the next look at whether the job is cancelled."""
    monkeypatch.setattr(engine.share, "_Engine", SaysThese)
    monkeypatch.setattr(SaysThese, "describe_end", lambda self: "killed by signal 15", raising=False)
    monkeypatch.setattr(SaysThese, "words", (None,))
    warnings, looks = [], iter([False])
    engine.share.run_on_devices(
        ["cpu", "cpu"], tmp_path, "1-9", tmp_path, print, print, warnings.append, lambda: next(looks, True)
    )
    assert not warnings


@pytest.mark.slow
def test_one_dies_and_the_other_finishes(shot, tmp_path):
    job = make_job(shot.write_movie(tmp_path / "a.mkv", 120), tmp_path / "out")
    progress, warnings, killed = [], [], []

    def kill_one(step):
        progress.append(step)
        if step.done >= 10 and not killed:
            (claim, *_) = (tmp_path / "out/claims").glob("*.claim")
            killed.append(int(claim.name.split("_")[2]))
            psutil.Process(killed[0]).kill()

    result = engine.run_job(job, on_progress=kill_one, on_warning=warnings.append)
    assert killed and result["frames"] == 120 and progress[-1].done == 120
    assert len(warnings) == 1 and warnings[0].startswith("cpu stopped, the others go on.")
    assert sorted(writers_of(tmp_path / "out")) == list(range(1, 121))
    assert not list((tmp_path / "out/claims").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_all_die(shot, tmp_path):
    job = make_job(shot.write_movie(tmp_path / "a.mkv", 120), tmp_path / "out")

    def kill_all(step):
        if step.done >= 5:
            for child in children():
                child.kill()

    with pytest.raises(MattingError, match=r"the engine on cpu to finish; got its end \(killed by signal 9\)"):
        engine.run_job(job, on_progress=kill_all)
    assert engine.run_job(job)["skipped"] >= 3


@pytest.mark.slow
def test_cancelled_as_one(shot, tmp_path):
    job = make_job(shot.write_movie(tmp_path / "a.mkv", 120), tmp_path / "out")
    seen = []
    result = engine.run_job(job, on_progress=seen.append, cancelled=lambda: any(p.done > 4 for p in seen))
    assert result["cancelled"] and 4 <= result["frames"] < 100
    assert not children() and not list((tmp_path / "out/claims").iterdir())
    assert engine.run_job(job)["frames"] == 120


@pytest.mark.slow
def test_what_no_device_can_do_is_said_once(shot, tmp_path, capsys):
    first = shot.write_sequence(tmp_path / "in", count=60)
    (tmp_path / "in/shot.0003.png").write_bytes(b"broken")
    job = make_job(first, tmp_path / "out")
    with pytest.raises(FootageError, match=r"shot\.0003\.png") as caught:
        engine.run_job(job)
    assert caught.value.exit_code == 3
    arguments = ["matte", "--footage", str(first), "--output", str(tmp_path / "cli"), "--device", "cpu,cpu"]
    assert command_line.main(arguments) == 3
    message = capsys.readouterr().err
    assert "shot.0003.png" in message and "Traceback" not in message


@pytest.mark.slow
def test_no_process_outlives_the_job_s(shot, tmp_path):
    footage = shot.write_movie(tmp_path / "a.mkv", 240)
    command = [sys.executable, "-m", "core", "matte", "--footage", footage, "--output", tmp_path / "out"]
    run = subprocess.Popen([*map(str, command), "--device", "cpu,cpu"], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/alpha/*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = psutil.Process(run.pid).children()
    assert len(workers) == 2
    run.kill()
    run.wait()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def test_an_error_keeps_its_kind_on_its_way():
    error = error_in_words("CheckpointError", "Expected a model; got a cat. Choose another.")
    assert isinstance(error, CheckpointError) and error.exit_code == 4 and str(error).endswith("Choose another.")
    assert type(error_in_words("InternalError", "Oh.")) is MattingError


def test_an_error_comes_out_of_a_pool_of_processes():
    """The benchmark measures each line in one; an error that cannot be unpickled breaks the pool."""
    error = pickle.loads(pickle.dumps(CheckpointError("a model", "a cat", "Choose another")))
    assert isinstance(error, CheckpointError) and str(error) == "Expected a model; got a cat. Choose another."


def test_a_still_has_one_device(tmp_path, shot):
    frame_io.write_image(tmp_path / "a.png", shot.frame(0))
    result = engine.preview_frame(make_job(tmp_path / "a.png", tmp_path / "out"), 1, tmp_path / "preview")
    assert Path(result["alpha"]).is_file()


def test_the_claims_of_a_process_that_ended_are_dropped(tmp_path):
    claims = {pid: tmp_path / f"{pid}_{pid}.abc_{process_name(pid)}.claim" for pid in (11, 111)}
    elsewhere = tmp_path / "1_2.abc_11_0.claim"
    for path in (*claims.values(), elsewhere):
        path.touch()
    drop_claims(tmp_path, 11)
    assert sorted(tmp_path.iterdir()) == sorted([claims[111], elsewhere])
