# SPDX-License-Identifier: GPL-3.0-or-later
"""Interruptions at any moment, full disks, nonsense, and long runs."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from core import frame_io, protocol
from tests.test_worker import Process

ROOT = Path(__file__).parent.parent
KILLS = 50


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.png") if not p.name.startswith(".")}


def is_whole(path: Path) -> bool:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None and path.read_bytes().endswith(b"IEND\xaeB`\x82")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_at_fifty_random_moments(shot, tmp_path):
    """Killed with SIGKILL again and again, a job ends with the bytes of one that was left alone."""
    footage = shot.write_movie(tmp_path / "a.mkv", 40)
    plate = shot.write_plate(tmp_path / "plate.png")
    runner = [sys.executable, str(ROOT / "tests/killed_runs.py"), str(footage), str(plate)]
    subprocess.run([*runner, str(tmp_path / "whole"), "0"], cwd=ROOT, check=True, timeout=300)
    done = subprocess.run(
        [*runner, str(tmp_path / "out"), str(KILLS)], cwd=ROOT, check=True, timeout=900, stdout=subprocess.PIPE
    )
    assert json.loads(done.stdout) >= KILLS
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert all(is_whole(tmp_path / "out" / name) for name in files_of(tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.part.*"))


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounts a small file system")
@pytest.mark.parametrize("ballast", [560_000, 640_000], ids=["at the memory", "at a frame"])
def test_a_full_disk(shot, tmp_path, ballast):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a file system here")
    try:
        footage = shot.write_movie(tmp_path / "a.mkv", 8)
        (disk / "ballast").write_bytes(b"x" * ballast)
        command = [sys.executable, "-m", "core", "matte", "--footage", str(footage), "--output", str(disk / "out")]
        failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert failed.returncode == 5 and "No space left" in failed.stderr and "Traceback" not in failed.stderr
        written = list((disk / "out").rglob("*.png"))
        assert 0 < len(written) < 24 and all(is_whole(path) for path in written)
        (disk / "ballast").unlink()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        shutil.copytree(disk / "out", tmp_path / "resumed")
        subprocess.run([*command[:-1], str(tmp_path / "whole")], cwd=ROOT, check=True, capture_output=True)
        assert files_of(tmp_path / "resumed") == files_of(tmp_path / "whole")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_dead_engine_s_claim_is_taken_over_at_once(tmp_path):
    from core.claims import Claims

    code = (
        "import os; from pathlib import Path; from core.claims import Claims;"
        f"Claims(Path({str(tmp_path)!r})).take(1, 9); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert len(list(tmp_path.glob("*.claim"))) == 1
    assert Claims(tmp_path).take(1, 9)


def test_ten_thousand_messages_of_nonsense():
    """Each is answered by an error naming its id, or done; then the worker still works."""
    seed = random.Random(0)
    scalars = [None, True, -1, 0, 3.5, 1e308, "", "1-5", "a.mov", "\x00", "ü" * 50, [], {}, [1], {"a": 1}, 10**30]
    names = [c.type for c in protocol.COMMANDS if c is not protocol.Shutdown] + ["done", "", "fly"]
    keys = ["job", "frames", "seconds", "frame_number", "output", "footage", "target", "color_space", "x"]
    lines = []
    for i in range(10_000):
        record = {"id": str(i), "type": seed.choice(names)}
        record |= {seed.choice(keys): seed.choice(scalars) for _ in range(seed.randrange(4))}
        if record["type"] == "dry_run":
            record |= {"frames": seed.choice([0, -3, "x"]), "seconds": 0.0}
        line = json.dumps(record).encode()
        kind = seed.randrange(10)
        if kind == 0:
            line = line[: seed.randrange(len(line))]
        elif kind == 1:
            line = bytes(seed.randrange(1, 256) for _ in range(40)).replace(b"\n", b"?")
        lines.append(line)
    last = protocol.encode(protocol.DryRun(1, 0.0), "last")
    worker = Process()
    writer = threading.Thread(target=lambda: worker.send_line(b"\n".join(lines) + b"\n" + last))
    writer.start()
    got: dict[str, list[protocol.Message]] = {}
    while protocol.Done("finished") not in got.get("last", []):
        id, message = worker.read()
        got.setdefault(id, []).append(message)
    writer.join()
    assert worker.close() == 0
    for i, line in enumerate(lines):
        try:
            protocol.decode(line)
        except protocol.ProtocolError as error:
            if error.id:
                assert isinstance(got[error.id][0], protocol.Error)
        else:
            assert isinstance(got[str(i)][-1], protocol.Done | protocol.Error), line


MEASURED_JOB = """
import json, sys
import psutil
from core import engine
from core.job import Job, Output, Source

process, usage = psutil.Process(), []

def note(progress):
    if progress.done in (900, 4900):
        usage.append((process.memory_info().rss, len(process.open_files())))

output = Output(sys.argv[2], foreground=False, error=False)
result = engine.run_job(Job(Source(sys.argv[1]), output=output), on_progress=note)
print(json.dumps([result["frames"], *usage]))
"""


@pytest.mark.slow
def test_five_thousand_frames_in_flat_memory(tmp_path):
    """Memory and open files after 4,900 frames are what they were after 900, in a process that does nothing else."""
    picture = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    (tmp_path / "in").mkdir()
    frame_io.write_image(tmp_path / "in/f.0001.png", picture)
    for i in range(2, 5001):
        os.link(tmp_path / "in/f.0001.png", tmp_path / f"in/f.{i:04d}.png")
    command = [sys.executable, "-c", MEASURED_JOB, str(tmp_path / "in/f.0001.png"), str(tmp_path / "out")]
    found = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    frames, (before, files_before), (after, files_after) = json.loads(found.stdout.splitlines()[-1])
    assert frames == 5000
    assert after - before < 30 << 20
    assert abs(files_after - files_before) <= 4


def test_no_orphan_is_left_when_the_parent_is_killed(tmp_path):
    code = (
        "import subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-m', 'core', 'worker'], stdin=subprocess.PIPE);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    parent.wait()
    parent.stdout.close()
    gone, alive = psutil.wait_procs([child], timeout=20)
    assert not alive
