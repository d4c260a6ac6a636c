# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast the engine is on this machine, and how far that is from what the machine could do.

    python scripts/benchmark.py [--json FILE] [--sizes hd 4k] [--networks default ...] [--growth] [--start]

Each line is measured in a process of its own (so that peak memory is that line's), all in one run, since times on a
shared machine compare only within one. "floor" is the network's arithmetic over this machine's measured matrix rate and
its inputs, outputs and weights over its measured copy rate: nothing on this machine can be faster. "published" is
the paper's network as its authors define it, restated plainly in tests/reference, with the same weights; "rvm" is
RobustVideoMatting's published ONNX at its recommended settings. A job decodes real files, lays the plate, runs the
network and writes real files; its share is its frames/s over those of its network alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from core.errors import ending_in_words  # noqa: E402
from core.threads import wait_briefly  # noqa: E402

wait_briefly()

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from core import color, engine, frame_io, protocol  # noqa: E402
from core.checkpoints import load_model  # noqa: E402
from core.job import PRECISIONS, Job, Output, PlateSource, Source  # noqa: E402
from core.matting import Matte, Matter  # noqa: E402
from core.memory import reused_memory  # noqa: E402
from core.models import MattingRefine  # noqa: E402

SIZES = {"480p": (848, 480), "720p": (1280, 720), "hd": (1920, 1080), "1440p": (2560, 1440), "4k": (3840, 2160)}
BACKBONES = ("mobilenetv2", "resnet50", "resnet101")
WARM = 3  # first frames of a job, which look for the plate and load the network
Line = dict[str, Any]


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print line by line, and return everything."""
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)  # before all the work
    machine = isolated(measure_machine)
    print(
        f"machine: {machine['threads']} threads, {machine['gflops']:.0f} GFLOP/s, {machine['gbytes']:.1f} GB/s copied"
    )
    lines = []

    def measure(function: Callable[..., Line], *arguments: Any) -> None:
        line = isolated(function, *arguments)
        if "flops" in line:
            floor = line["flops"] / machine["gflops"] / 1e9 + line["bytes"] / machine["gbytes"] / 1e9
            line["floor_seconds"] = floor
        lines.append(line)
        print(describe(line), flush=True)

    for size in args.sizes:
        for name in args.networks:
            for precision in args.precisions:
                measure(measure_network, name, size, precision, args.device, args.runs)
        if not args.no_baselines:
            for backbone in set(args.networks) & set(BACKBONES):
                measure(measure_published, backbone, size, args.runs)
            measure(measure_rvm, size, args.runs)
        for source, kind in (("movie", "png"), ("exr", "exr")) if args.frames else ():
            measure(measure_job, size, source, kind, args.device, args.frames)
    if args.start:
        for size in args.sizes:
            measure(measure_start, size, args.device, args.runs)
    if args.growth:
        for size in SIZES:
            measure(measure_network, "default", size, "auto", args.device, args.runs)
        for pixels in (0, 20_000, 80_000, 320_000):
            measure(measure_network, "mobilenetv2", "hd", "fp32", args.device, args.runs, pixels)
        for frames in (25, 50, 100, 200):
            measure(measure_job, "480p", "movie", "png", args.device, frames)
    result = {"machine": machine, "lines": lines}
    if args.json:
        args.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def isolated(function: Callable[..., Line], *arguments: Any) -> Line:
    """Call it in a new process, and add that process's peak memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_memory, function, arguments).result()


def _with_memory(function: Callable[..., Line], arguments: tuple[Any, ...]) -> Line:
    line = function(*arguments)
    unit = 1 if sys.platform == "darwin" else 1024
    return line | {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def describe(line: Line) -> str:
    """One line of the printed table."""
    text = f"{line['size']:>5}  {line['what']:<34} {1000 * line['seconds']:8.1f} ms"
    text += f"  floor {1000 * line['floor_seconds']:7.1f}" if "floor_seconds" in line else " " * 15
    text += f"  {line['peak_bytes'] / 2**20:6.0f} MB"
    text += f"  MAD from fp32 {line['mad_from_fp32']:.2f}" if line.get("mad_from_fp32") else ""
    if "ready_seconds" in line:
        text += (
            f"  network alone {1000 * line['network_seconds']:.1f} ms, first preview {1000 * line['first_seconds']:.0f}"
        )
        text += f" ms, worker ready after {line['ready_seconds']:.2f} s"
    if "share" in line:
        work, network = 1000 * line["processor_seconds"], 1000 * line["network_processor_seconds"]
        text += (
            f"  {line['share']:.0%} of its network's speed; processor time {work:.0f} ms, its network's {network:.0f}"
        )
    return text


def timed(step: Callable[[], Any], runs: int) -> float:
    """Median seconds of a step, after two that warm up."""
    seconds = []
    for _ in range(runs + 2):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def measure_machine() -> Line:
    """What the processor multiplies and copies at its best, measured."""
    a, b = torch.rand(1536, 1536), torch.rand(1536, 1536)
    source, target = torch.rand(1 << 26), torch.empty(1 << 26)
    matrix, copy = timed(lambda: a @ b, 8), timed(lambda: target.copy_(source), 5)
    return {
        "threads": torch.get_num_threads(),
        "gflops": 2 * 1536**3 / matrix / 1e9,
        "gbytes": source.nbytes / copy / 1e9,  # read and written once each
    }


def build(name: str, size: str, sample_pixels: int | None = None) -> nn.Module:
    """The shipped network, or one of the paper's at its published settings with fixed random weights."""
    if name not in BACKBONES:
        return load_model(name)
    torch.manual_seed(0)
    large = max(SIZES[size]) > 2048
    pixels = sample_pixels if sample_pixels is not None else 320_000 if large else 80_000
    model = MattingRefine(name, 1 / 8 if large else 1 / 4, "sampling", pixels).eval()
    with torch.no_grad():
        model.decoder.conv4.bias[4] = 0.5  # type: ignore[index]  # an error everywhere: all patches are used
    return model


def pictures(size: str, count: int = 2) -> list[Any]:
    """(H, W, 3) uint8: a figure before a wall, the same wall without it last; all with camera noise.

    The wall has texture: a plate without any is laid anew under each frame, as nothing says where it lies.
    """
    width, height = SIZES[size]
    random = np.random.default_rng(0)

    def texture(rows: int, contrast: float) -> Any:
        return frame_io.resize(random.random((rows, rows * 16 // 9, 3)).astype(np.float32) * contrast, width, height)

    wall = 60 + texture(9, 80) + texture(72, 30) + texture(360, 30)
    figure = wall.copy()
    for y, radii, paint in ((0.3, (0.12, 0.16), (200, 150, 130)), (1.0, (0.35, 0.55), (40, 60, 110))):
        centre, axes = (width // 2, round(y * height)), (round(radii[0] * height), round(radii[1] * height))
        cv2.ellipse(figure, centre, axes, 0, 0, 360, paint, -1, cv2.LINE_AA)
    scenes = [figure] * (count - 1) + [wall]
    return [np.clip(scene + random.normal(0, 4, scene.shape), 0, 255).astype(np.uint8) for scene in scenes]


def arrays(matte: Matte) -> tuple[Any, ...]:
    """Wait for a matte that is on its way from a card."""
    return matte.pha, matte.fgr, matte.err


def measure_network(
    name: str, size: str, precision: str, device: str, runs: int, sample_pixels: int | None = None
) -> Line:
    """One frame through the network, arrays to arrays; how far its alpha is from fp32's, mean times 1000."""
    src, bgr = pictures(size)
    model = build(name, size, sample_pixels)
    matter = Matter(model, device, precision)
    rounded = matter.dtype != torch.float32
    difference = isolated(compare_with_fp32, name, size, precision, device, sample_pixels)["mad"] if rounded else 0.0
    matter.matte(src, bgr)  # a shot's first frame: what is computed once is no part of the floor
    with FlopCounterMode(display=False) as counter:
        matter.matte(src, bgr)
    with reused_memory():  # as in a job; the published networks get what they ask for themselves
        seconds = timed(lambda: arrays(matter.matte(src, bgr)), runs)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    pixels = src.shape[0] * src.shape[1]
    what = f"{name} {precision}" + (f" {sample_pixels} pixels" if sample_pixels is not None else "")
    return {
        "what": what,
        "size": size,
        "seconds": seconds,
        "mad_from_fp32": 1000 * difference,
        "flops": counter.get_total_flops(),
        "bytes": weights + pixels * (3 + 3 + 4 * 5),  # 8-bit source and plate in; float alpha, foreground, error out
    }


def compare_with_fp32(name: str, size: str, precision: str, device: str, sample_pixels: int | None) -> Line:
    """How far a precision's alpha is from fp32's, mean; by itself, since its memory is not the measured network's."""
    src, bgr = pictures(size)
    model = build(name, size, sample_pixels)
    exact, rounded = (Matter(model, device, each).matte(src, bgr).pha for each in ("fp32", precision))
    return {"mad": float(np.abs(exact - rounded).mean())}


def measure_start(size: str, device: str, runs: int) -> Line:
    """A worker process: from its start until it has said what it is, its first preview, later ones, the network alone.

    The footage is H.264, with a plate that lies still. "Alone" is one frame through the network, which also looks at
    the plate anew: what a preview needs at least.
    """
    with tempfile.TemporaryDirectory(prefix="bgm-benchmark-") as name:
        folder = Path(name)
        *shots, bgr = pictures(size, 5)
        plate = {"path": str(folder / "plate.png"), "align": "off", "match": False}
        frame_io.write_image(folder / "plate.png", bgr)
        footage = {"path": str(_write_movie(folder / "shot.mp4", shots, 8))}
        job = {"footage": footage, "plate": plate, "device": device, "output": {"folder": str(folder / "out")}}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        start = time.perf_counter()
        command = [sys.executable, "-m", "core", "worker"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
            _ask(worker, protocol.Hello())
            ready = time.perf_counter() - start
            time.sleep(3.0)  # it warms up, as it does in Blender while the artist looks for the button
            previews = []
            for i in range(runs + 1):
                start = time.perf_counter()
                _ask(worker, protocol.Preview(str(folder / "job.json"), 1 + i % 8, str(folder / "preview")))
                previews.append(time.perf_counter() - start)
            assert worker.stdin is not None
            worker.stdin.close()
    matter = Matter(load_model(), device)

    def alone() -> None:
        matter.reset()
        arrays(matter.matte(shots[1], bgr.copy()))

    with reused_memory():  # as in a worker
        network_seconds = timed(alone, runs)
    return {
        "what": "preview by a warm worker",
        "size": size,
        "seconds": statistics.median(previews[1:]),
        "ready_seconds": ready,
        "first_seconds": previews[0],
        "network_seconds": network_seconds,
    }


def _ask(worker: subprocess.Popen[bytes], command: protocol.Message) -> None:
    """Send a command and wait until it is done."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(protocol.encode(command))
    worker.stdin.flush()
    for line in worker.stdout:
        answer = protocol.decode(line)[1]
        if isinstance(answer, protocol.Error):
            raise RuntimeError(answer.message)
        if isinstance(answer, protocol.Done):
            return
    raise RuntimeError("The worker ended.")


def measure_published(backbone: str, size: str, runs: int) -> Line:
    """The paper's network without any of our optimisations."""
    from tests.reference.published import matting_refine

    model = build(backbone, size)
    assert isinstance(model, MattingRefine)
    state, scale = model.state_dict(), model.backbone_scale
    pixels = model.arguments["refine_sample_pixels"]
    src, bgr = (torch.from_numpy(p).permute(2, 0, 1)[None].float().div(255).contiguous() for p in pictures(size))
    with torch.inference_mode():
        seconds = timed(lambda: matting_refine(state, backbone, src, bgr, scale, "sampling", pixels), runs)
    return {"what": f"{backbone} published", "size": size, "seconds": seconds}


def measure_rvm(size: str, runs: int) -> Line:
    """RobustVideoMatting's published ONNX, with its memory."""
    from scripts.convert_rvm import find_onnx
    from scripts.evaluate import RobustVideoMatting

    network = RobustVideoMatting(find_onnx())
    src, bgr = pictures(size)
    truth = np.zeros(src.shape[:2], np.float32)
    return {"what": "rvm onnx", "size": size, "seconds": timed(lambda: network.predict(src, bgr, truth), runs)}


def measure_job(size: str, source: str, kind: str, device: str, frames: int) -> Line:
    """Seconds per frame of a whole job from files to files, and its share of the network's own speed."""
    with tempfile.TemporaryDirectory(prefix="bgm-benchmark-") as name:
        folder = Path(name)
        *shots, bgr = pictures(size, 5)
        plate = folder / ("plate.exr" if source == "exr" else "plate.png")
        if source == "exr":  # in linear light the same pictures, on which the network is measured: in half floats
            *shots, bgr = (color.convert_to(p, "srgb", "linear", np.dtype(np.float16)) for p in (*shots, bgr))
        frame_io.write_image(plate, bgr)
        if source == "exr":
            footage = folder / "shot.0001.exr"
            for i in range(frames):
                frame_io.write_image(folder / f"shot.{i + 1:04d}.exr", shots[i % 4])
        else:
            footage = _write_movie(folder / "shot.mp4", shots, frames)
        job = Job(
            Source(str(footage)), PlateSource(str(plate)), output=Output(str(folder / "out"), kind), device=device
        )
        moments: list[tuple[float, float]] = []

        def note(progress: engine.Progress) -> None:
            if progress.fps:  # a frame was computed; else it only says that it lives
                moments.append((time.perf_counter(), time.process_time()))

        engine.run_job(job, on_progress=note)
        seconds, work = ((b - a) / (len(moments) - 1 - WARM) for a, b in zip(moments[WARM], moments[-1], strict=True))
        matter = Matter(load_model(), device)
        src, bgr = pictures(size)
        start = time.process_time()
        alone = timed(lambda: arrays(matter.matte(src, bgr)), runs := max(3, frames // 4))
        network_work = (time.process_time() - start) / (runs + 2)
    line = {"what": f"job {source} to {kind}, {frames} frames", "size": size, "seconds": seconds}
    line |= {"network_seconds": alone, "share": alone / seconds}
    return line | {"processor_seconds": work, "network_processor_seconds": network_work}


def _write_movie(path: Path, shots: list[Any], frames: int) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "18", "preset": "ultrafast"})
        stream.height, stream.width = shots[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shots[i % len(shots)], format="rgb24")))
        container.mux(stream.encode(None))
    return path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["hd", "4k"])
    parser.add_argument("--networks", nargs="*", default=["default", *BACKBONES], help="default, a file, or a backbone")
    parser.add_argument("--precisions", nargs="+", default=["auto"], choices=PRECISIONS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each network")
    parser.add_argument("--frames", type=int, default=24, help="length of the jobs; 0 leaves them out")
    parser.add_argument("--no-baselines", action="store_true", help="leave out the published networks and rvm")
    parser.add_argument(
        "--growth", action="store_true", help="also measure growth with frame size, patches and clip length"
    )
    parser.add_argument("--start", action="store_true", help="also measure a worker's start and its previews")
    args = parser.parse_args(argv)
    if args.runs < 1:
        parser.error(f"--runs: expected 1 or more; got {args.runs}")
    if 0 < args.frames < WARM + 2:
        parser.error(f"--frames: expected 0 or at least {WARM + 2}, of which {WARM} are not counted; got {args.frames}")
    return args


if __name__ == "__main__":
    with ending_in_words():
        main(parse_args())
