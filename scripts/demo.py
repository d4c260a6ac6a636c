# SPDX-License-Identifier: GPL-3.0-or-later
"""From nothing to a matte made by the extension inside Blender, composited over a new background.

    python3 scripts/demo.py [--footage F [--plate P]] [--background B] [--frames A-B] [--output DIR]

Standard library only. Without arguments: the sample shot that comes with the repository, whose true alpha is known.
With footage but no plate, a plate is made from the clip itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from core.errors import ending_in_words  # noqa: E402
from scripts import build_extension, environments  # noqa: E402
from scripts.environments import ROOT  # noqa: E402

SAMPLE = ROOT / "scripts/sample"


def main(args: argparse.Namespace) -> None:
    """Set up, run Blender, measure, and say where everything is."""
    start = time.monotonic()
    for path in filter(None, (args.footage, args.plate, args.background)):
        if path.is_dir():
            sys.exit(f"{path} is a folder. Name the file in it.")
        if not path.is_file():
            sys.exit(f"There is no file {path}. Check the path.")
    sample = args.footage is None
    folder = args.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    step(1, "the engine's environment")
    engine = environments.engine_python()
    check_footage(str(engine), args.footage or SAMPLE / "footage.mp4")
    step(2, "a Blender")
    blender = environments.blender_command()
    step(3, "the extension")
    archive = build_extension.main(argparse.Namespace(blender=Path(blender[0]), output=ROOT / "dist"))
    step(4, "installing it in Blender, matting, rendering (the engine's log: see the preferences)")
    footage, plate = (SAMPLE / "footage.mp4", SAMPLE / "plate.png") if sample else (args.footage, args.plate)
    job = {
        "zip": str(archive),
        "footage": str(footage.resolve()),
        "plate": str(plate.resolve()) if plate else "",
        "background": str(args.background.resolve()),
        "frames": args.frames,
        "output": str(folder),
    }
    environment = {
        **os.environ,
        "BLENDER_USER_RESOURCES": str(folder / "blender-user"),  # a Blender of its own, your settings stay as they are
        "BGM_ENGINE_PYTHON": str(engine),
    }
    command = [
        *blender,
        str(ROOT / "scripts/demo_in_blender.py"),
        *(["--"] if len(blender) > 1 else []),
        json.dumps(job),
    ]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=environment, text=True, encoding="utf-8", **streams) as process:
        assert process.stdout
        for line in process.stdout:
            show(line)
    if process.returncode or not (folder / "sequencer").is_dir():
        sys.exit(f"Blender stopped with status {process.returncode}; what it said is above.")
    step(5, f"done in {time.monotonic() - start:.0f} s")
    print(f"  mattes           {folder}/matte/alpha, foreground, error; report.json")
    print(f"  composite        {folder}/compositor (by the matting node), {folder}/sequencer (by the strips)")
    print(f"  Blender file     {folder}/demo.blend")
    if sample:
        call = f"from scripts import demo; demo.print_error({str(folder / 'matte/alpha')!r})"
        subprocess.run([str(engine), "-c", call], cwd=ROOT, check=True)


def check_footage(engine: str, path: Path) -> None:
    """End in the engine's words where it cannot read the footage: Blender takes what it cannot read for empty."""
    call = "import sys; from core import errors, frame_io\nwith errors.ending_in_words():\n "
    call += "frame_io.open_footage(sys.argv[1])"
    if subprocess.run([engine, "-c", call, str(path.resolve())], cwd=ROOT).returncode:
        sys.exit(1)


def print_error(alpha: str) -> None:
    """Compare mattes with the sample's true alpha; runs in the engine's environment."""
    import numpy as np

    from core import frame_io
    from core.color import to_float

    truth = frame_io.open_footage(SAMPLE / "alpha.mkv")
    mattes = frame_io.open_footage(alpha)
    pairs = zip(truth.frames(mattes.numbers), mattes.frames(mattes.numbers), strict=True)
    errors = [float(np.abs(to_float(a.pixels) - to_float(b.pixels)).mean()) for (_, a), (_, b) in pairs]
    print(f"  alpha error      {1000 * np.mean(errors):.2f} (mean absolute difference x 1000, {len(errors)} frames)")


def step(number: int, what: str) -> None:
    print(f"[{number}/5] {what}", flush=True)


def show(line: str) -> None:
    """Pass on what Blender says, but for a line per rendered frame and the want of a screen."""
    line = line.rstrip()
    if (
        not line
        or "Saved: " in line
        or "EGL Error" in line
        or line.startswith(("Fra:", "Time:", "Append frame", " Time:"))
    ):
        return
    print(f"      {line}", flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A matte of footage, made by the extension inside Blender.")
    parser.add_argument("--footage", type=Path, help="movie or one file of an image sequence; default: the sample")
    parser.add_argument("--plate", type=Path, help="picture of the empty background; default: made from the clip")
    parser.add_argument("--background", type=Path, default=SAMPLE / "background.jpg", help="goes behind the subject")
    parser.add_argument("--frames", type=parse_range, metavar="A-B", help="scene frames, both included; default all")
    parser.add_argument("--output", type=Path, default=ROOT / "out/demo")
    return parser.parse_args(argv)


def parse_range(text: str) -> list[int]:
    first, _, last = text.partition("-")
    try:
        frames = [int(first), int(last or first)]
        if frames[1] < frames[0]:
            raise ValueError
        return frames
    except ValueError:
        raise argparse.ArgumentTypeError(f"two whole numbers as A-B are expected, such as 1-24; got {text!r}") from None


if __name__ == "__main__":
    with ending_in_words():
        main(parse_args())
