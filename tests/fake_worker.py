# SPDX-License-Identifier: GPL-3.0-or-later
"""An engine without a network: speaks core.protocol and writes mattes whose every pixel a test can work out.

Where it runs, `FAKE_WORKER` says how it misbehaves: "crash" in the middle of a job, "silent" after a command, "noise"
on stdout, "deaf" to Shutdown, "strict" with plates, of which it may find a "red" one.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from core import protocol  # noqa: E402

SECONDS_PER_FRAME = float(os.environ.get("FAKE_WORKER_SECONDS", "0"))
MANNER = os.environ.get("FAKE_WORKER", "")


def alpha_of(number: int, width: int, height: int) -> NDArray[Any]:
    """(H, W), another one for every frame number, different at every border."""
    y, x = np.mgrid[:height, :width]
    return ((x * 997 + y * 3571 + number * 7919) % 65536).astype(np.uint16)


def foreground_of(number: int, width: int, height: int) -> NDArray[Any]:
    """(H, W, 3) RGB."""
    y, x = np.mgrid[:height, :width]
    return np.stack([(x * 3 + number) % 256, (y * 5 + number) % 256, (x + y) % 256], -1).astype(np.uint8)


def send(message: protocol.Message, id: str) -> None:
    sys.stdout.buffer.write(protocol.encode(message, id))
    sys.stdout.buffer.flush()


def write_frame(folder: Path, number: int, size: tuple[int, int], names: list[str]) -> dict[str, str]:
    alpha, foreground = alpha_of(number, *size), foreground_of(number, *size)
    bgr = foreground[..., ::-1]
    pictures: dict[str, NDArray[Any]] = {
        "alpha": alpha,
        "foreground": bgr,
        "error": (alpha >> 8).astype(np.uint8),
        "matte": np.dstack([bgr.astype(np.uint16) * 257, alpha]),
    }
    paths = {}
    for name in names:
        path = folder / name / f"{name}.{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pictures[name])
        paths[name] = str(path)
    return paths


def footage_size(path: str) -> tuple[int, int]:
    ok, picture = cv2.VideoCapture(path).read() if Path(path).suffix == ".mp4" else (True, cv2.imread(path))
    assert ok and picture is not None, path
    return picture.shape[1], picture.shape[0]


def run(id: str, command: protocol.Message, cancelled: set[str]) -> str:
    if isinstance(command, protocol.Hello):
        device = {"id": "cpu", "name": "Fake processor", "memory": 0}
        send(protocol.Engine(protocol.VERSION, "0.0", "3.11", "none", [device], ["default"]), id)
    elif isinstance(command, protocol.Preview):
        if MANNER == "strict":
            send(protocol.Error("Expected a plate of the footage's shape; got another. Choose the right plate."), id)
            return "failed"
        size = footage_size(json.loads(Path(command.job).read_text())["footage"]["path"])
        paths = write_frame(Path(command.output), command.frame_number, size, ["alpha", "foreground"])
        send(protocol.Result({**paths, "frame_number": command.frame_number}), id)
    elif isinstance(command, protocol.MakePlate):
        width, height = footage_size(command.footage)
        assert cv2.imwrite(command.output, np.full((height, width, 3), 77, np.uint8))
        send(protocol.Result({"plate": command.output}), id)
    elif isinstance(command, protocol.Diagnose):
        if MANNER == "strict":
            print("the fake engine met another plate", file=sys.stderr, flush=True)
            send(protocol.Error("Expected a plate of this place; got another. Choose the right plate."), id)
            return "failed"
        light = "red" if MANNER == "red" else "amber"
        finding = {"kind": "misaligned", "severity": light, "action": "align", "region": None, "value": 9.0}
        finding |= {"message": "The plate is 9 pixels off.", "remedy": "Turn alignment on"}
        send(protocol.Result({"light": light, "findings": [finding], "frame_numbers": [1]}), id)
    elif isinstance(command, protocol.Deliver):
        send(protocol.Progress(1, 2, stage="deliver"), id)
        made = {kind: str(Path(command.folder) / "delivery" / f"{kind} at {command.fps}") for kind in command.kinds}
        send(protocol.Result(made), id)
    elif isinstance(command, protocol.Matte):
        job = json.loads(Path(command.job).read_text())
        first, last = map(int, command.frames.split("-")) if command.frames else job["frames"]
        output = job["output"]
        names = ["alpha"] + [name for name in ("foreground", "matte", "error") if output[name]]
        report = Path(output["folder"]) / "report.json"
        known = json.loads(report.read_text())["frames"] if report.is_file() else []
        made = {record["frame_number"]: record["files"] for record in known}
        for number in range(first, last + 1):
            if id in cancelled:
                return "cancelled"
            if MANNER == "crash" and number == first + 1:
                print("the fake engine dies on purpose", file=sys.stderr, flush=True)
                os._exit(3)
            time.sleep(SECONDS_PER_FRAME)
            paths = write_frame(Path(output["folder"]), number, footage_size(job["footage"]["path"]), names)
            made[number] = {f"{name}/{Path(path).name}": Path(path).stat().st_size for name, path in paths.items()}
            total = last - first + 1
            send(protocol.Progress(number - first + 1, total, number, fps=10.0, seconds_left=(last - number) / 10), id)
        report.write_text(json.dumps({"frames": [{"frame_number": n, "files": made[n]} for n in sorted(made)]}))
        send(protocol.Warning("The fake engine has no network."), id)
        counts = {"folder": output["folder"], "first": first, "last": last, "frames": last - first + 1, "skipped": 0}
        send(protocol.Result({**counts, **paths, "foreground_color_space": "srgb"}), id)
    return "finished"


def main() -> None:
    cancelled: set[str] = set()
    commands: list[tuple[str, protocol.Message]] = []
    waiting = threading.Condition()

    def serve() -> None:
        while True:
            with waiting:
                waiting.wait_for(lambda: bool(commands))
                id, command = commands.pop(0)
            if MANNER == "silent":
                time.sleep(3600)
            if MANNER == "noise":
                print("a library prints this", flush=True)
            send(protocol.Done(run(id, command, cancelled)), id)

    threading.Thread(target=serve, daemon=True).start()
    for line in sys.stdin.buffer:
        id, command = protocol.decode(line)
        if isinstance(command, protocol.Shutdown) and MANNER != "deaf":
            return
        if isinstance(command, protocol.Cancel):
            cancelled.add(command.target)
        else:
            with waiting:
                commands.append((id, command))
                waiting.notify()
    if MANNER == "deaf":
        time.sleep(3600)


if __name__ == "__main__":
    main()
