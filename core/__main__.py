# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's command line: `python -m core matte|deliver|plate|doctor|info|worker`. No bpy.

Exit status: 0 done; 2 a wrong job or argument; 3 footage or plate, or a plate that the doctor finds red; 4 model;
5 output; 6 device; 1 other failures; 130 cancelled.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import shlex
import signal
import sys
import threading
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .threads import wait_briefly

if __name__ == "__main__":  # quietly, while all that a command needs is imported, too
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
wait_briefly()

from .errors import JobError, MattingError, OutputError, PlateError  # noqa: E402
from .job import (  # noqa: E402
    DELIVERIES,
    FORMATS,
    PRECISIONS,
    Job,
    PlateSource,
    Source,
    job_from_dict,
    parse_frames,
    read_job,
)

if TYPE_CHECKING:
    from .engine import Progress


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    if sys.stderr is None:  # a service's, which has nobody to read it; the progress bar asks for one
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    args = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # Windows' pipes do not know all characters of a path
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        status = int(args.command(args))
        if args.command in (_doctor, _info) and isinstance(sys.stdout, _Unheard):  # whose words are all that they make
            sys.stdout.flush()
            if sys.stdout.is_lost:
                raise OutputError("to write the answer", "a full disk or a closed pipe", "Write it elsewhere")
        return status
    except MattingError as error:
        logging.getLogger(__name__).debug("", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m core", description="Background matting: footage and a clean plate."
    )
    parser.add_argument("--verbose", action="store_true", help="tracebacks and debug messages on stderr")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    matte = commands.add_parser("matte", help="alpha and foreground of footage", description=_matte.__doc__)
    matte.add_argument(
        "job",
        nargs="?",
        metavar="JOB.yaml",
        help="a job file; of the options below, only --frames and --output may be given with it",
    )
    matte.add_argument("--footage", help="movie, one file of an image sequence, its folder, or shot.####.png")
    matte.add_argument("--plate", help="clean plate; left out: matte without a plate")
    matte.add_argument("--output", help="folder for alpha/, foreground/, error/ and report.json")
    matte.add_argument(
        "--frames", default="", metavar="A-B", help="first and last, in the footage's numbers; default: all"
    )
    matte.add_argument("--model", default="default", help="default, or a checkpoint file")
    matte.add_argument("--device", default="auto", help="auto, cpu, mps, cuda or cuda:1; several: cuda:0,cuda:1 or all")
    matte.add_argument("--precision", default="auto", choices=PRECISIONS)
    matte.add_argument("--format", default="auto", choices=FORMATS, help="auto: PNG for integer footage, EXR for float")
    matte.add_argument("--color-space", default="auto", help="of footage and plate: auto, srgb, linear or an OCIO name")
    matte.add_argument("--detail", type=float, default=0.0, help="coarse pass as a share of the frame, 0 to 1")
    matte.add_argument(
        "--refine-pixels",
        type=int,
        default=0,
        metavar="N",
        help="MattingRefine: pixels to refine; 0: by the frame's size",
    )
    matte.add_argument("--garbage", help="mask of what is certainly background: still, sequence or movie")
    matte.add_argument("--core", help="mask of what is certainly the subject")
    matte.add_argument(
        "--deliver", type=_deliveries, default=(), metavar="KINDS", help=f"some of {','.join(DELIVERIES)}"
    )
    matte.add_argument(
        "--fps", type=float, default=0.0, help="frame rate of delivered movies; default: the footage's, or 24"
    )
    matte.add_argument("--matte", action="store_true", help="also write RGBA, premultiplied in EXR, straight in PNG")
    matte.set_defaults(command=partial(_matte, matte))

    deliver = commands.add_parser("deliver", help="movies and EXRs of finished frames", description=_deliver.__doc__)
    deliver.add_argument("folder", help="the output folder of a finished job")
    deliver.add_argument(
        "--deliver", type=_deliveries, required=True, metavar="KINDS", help=f"some of {','.join(DELIVERIES)}"
    )
    deliver.add_argument("--fps", type=float, default=0.0, help="frame rate of movies; default: the footage's, or 24")
    deliver.set_defaults(command=_deliver)

    plate = commands.add_parser("plate", help="estimate a clean plate from the clip", description=_plate.__doc__)
    plate.add_argument("--footage", required=True)
    plate.add_argument("--output", required=True, metavar="PLATE.png")
    plate.add_argument("--frames", default="", metavar="A-B")
    plate.add_argument("--color-space", default="auto")
    plate.set_defaults(command=_plate)

    doctor = commands.add_parser("doctor", help="is this plate good for this footage?", description=_doctor.__doc__)
    doctor.add_argument("--footage", required=True)
    doctor.add_argument("--plate", required=True)
    doctor.add_argument("--frames", default="", metavar="A-B")
    doctor.add_argument("--color-space", default="auto")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(command=_doctor)

    info = commands.add_parser("info", help="versions, devices, models", description=_info.__doc__)
    info.add_argument("--json", action="store_true")
    info.set_defaults(command=_info)

    worker = commands.add_parser("worker", help="serve Blender over stdin and stdout", description=_worker.__doc__)
    worker.set_defaults(command=_worker)
    return parser


def _matte(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Run a job file, or the job that the options describe. Running it again does only what is missing or changed."""
    from . import engine

    for name in ("footage", "plate", "garbage", "core", "output"):
        if getattr(args, name) == "":  # of an unset variable: no plate, or the job's own folder, is not what was meant
            raise JobError(f"a name after --{name}", "''", "Give one, or leave the option out")
    if args.job:
        kept = {"job", "frames", "output", "verbose"}
        extra = [name for name, value in vars(args).items() if name not in kept and value != parser.get_default(name)]
        if extra:
            raise JobError(
                "only --frames and --output beside a job file",
                ", ".join("--" + name.replace("_", "-") for name in extra),
                "Write it into the job, or give all of it as options",
            )
        job = read_job(args.job, args.output or "")
    elif args.footage and args.output:
        data = {
            "footage": {"path": args.footage, "color_space": args.color_space},
            "plate": {"path": args.plate or "", "color_space": args.color_space},
            "output": {
                "folder": args.output,
                "format": args.format,
                "matte": args.matte,
                "deliver": list(args.deliver),
                "fps": args.fps,
            },
            "masks": {"garbage": {"path": args.garbage or ""}, "core": {"path": args.core or ""}},
        }
        same = ("model", "device", "precision", "detail", "refine_pixels")
        job = job_from_dict(data | {name: getattr(args, name) for name in same}, Path())
    else:
        given = [name for name in ("footage", "output") if getattr(args, name)]
        came = f"--{given[0]} alone" if given else "neither"
        raise JobError("a job file, or --footage and --output", came, "See python -m core matte --help")
    with _Bar("matte") as bar:
        result = engine.run_job(job, parse_frames(args.frames), bar.show, bar.warn, _interrupted().is_set)
    if result["cancelled"]:
        print(f"cancelled; what is done stays in {result['folder']}: run the same command to go on", file=sys.stderr)
        return 130
    if not job.plate.path:
        print(
            "warning: without a plate only people in the foreground are found, and less exactly. A clip whose subject "
            f"moves can give one: python -m core plate --footage {shlex.quote(job.footage.path)} --output plate.png",
            file=sys.stderr,
        )
    frames = "1 frame" if result["frames"] == 1 else f"{result['frames']} frames"
    print(f"{frames} in {result['folder']} ({result['skipped']} up to date)")
    return 0


def _deliver(args: argparse.Namespace) -> int:
    """Make movies and EXRs of the frames in a job's output folder; running it again does only what has changed."""
    from . import delivery

    stopped = _interrupted()
    with _Bar("deliver") as bar:
        try:
            made = delivery.deliver_folder(
                Path(args.folder), args.deliver, args.fps, bar.step, bar.warn, stopped.is_set
            )
        except delivery.CancelledError:
            return 130
    for path in made.values():
        print(path)
    return 0


def _plate(args: argparse.Namespace) -> int:
    """Estimate a clean plate from the clip itself: what each pixel shows most of the time."""
    from . import engine

    source = Source(args.footage, args.color_space)
    with _Bar("plate", "%") as bar:
        result = engine.make_plate(
            source, Path(args.output), parse_frames(args.frames), bar.show, _interrupted().is_set, bar.warn
        )
    if result["cancelled"]:
        return 130
    print(result["plate"])
    return 0


def _doctor(args: argparse.Namespace) -> int:
    """Look at a handful of frames and say what is wrong with the plate, what that will do, and what to do about it.
    Exit status 3, footage or plate, when a finding is red."""
    from . import engine

    job = Job(
        Source(args.footage, args.color_space),
        PlateSource(args.plate, args.color_space),
        frames=parse_frames(args.frames),
    )
    diagnosis = engine.diagnose_plate(job)
    status = PlateError.exit_code if diagnosis["light"] == "red" else 0
    if args.json:
        print(json.dumps(diagnosis))
        return status
    print(f"{diagnosis['light']}, from frames {', '.join(map(str, diagnosis['frame_numbers']))}")
    for finding in diagnosis["findings"]:
        print(f"{finding['severity']}: {finding['message']} {finding['remedy']}.")
    return status


def _info(args: argparse.Namespace) -> int:
    """Versions, devices and models of this engine."""
    from .worker import describe_engine

    facts = asdict(describe_engine())
    if args.json:
        print(json.dumps(facts))
        return 0
    print(f"engine {facts['version']}, Python {facts['python']}, torch {facts['torch']}")
    for device in facts["devices"]:
        memory = f", {device['memory'] / 2**30:.0f} GB" if device["memory"] else ""
        print(f"device {device['id']}: {device['name']}{memory}")
    for model in facts["models"]:
        print(f"model {model}")
    return 0


def _worker(args: argparse.Namespace) -> int:
    """Serve Blender: commands on stdin, answers on stdout (core/protocol.py)."""
    from .worker import main as serve

    serve()
    return 0


def _deliveries(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = set(names) - set(DELIVERIES)
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r} is not made of {', '.join(DELIVERIES)}")
    return names


def _interrupted() -> threading.Event:
    """Set by Ctrl-C or a farm's SIGTERM: stop after the current frame. A second Ctrl-C stops at once."""
    event = threading.Event()

    def stop(number: int, frame: object) -> None:
        event.set()
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return event


class _Bar:
    """A progress bar on stderr, from the first progress on: how much is done, how fast, time left."""

    def __init__(self, name: str, unit: str = "frame") -> None:
        self._name, self._unit = name, unit
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, progress: Progress) -> None:
        if progress.total:  # else the footage is still being opened
            self.step(progress.done, progress.total)

    def step(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=total, initial=done, unit=self._unit, desc=self._name, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)

    def warn(self, message: str) -> None:
        from tqdm import tqdm

        tqdm.write(f"warning: {message}", file=sys.stderr)


class _Unheard(io.TextIOWrapper):
    """What is said beside the work: from where it cannot be written, on a full disk of logs or to a reader that the
    same Ctrl-C ended, it goes nowhere, and the work goes on."""

    is_lost = False  # whether some of it went nowhere

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._let_go()

    def _let_go(self) -> None:
        self.is_lost = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


if __name__ == "__main__":
    if sys.stderr is not None:
        sys.stderr = _Unheard(sys.stderr.buffer, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)
    if sys.stdout is not None:
        sys.stdout = _Unheard(sys.stdout.buffer, sys.stdout.encoding, sys.stdout.errors, line_buffering=True)
    sys.exit(main())
