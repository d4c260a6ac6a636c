# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the sample shot that ships with the repository, with its plate, its true alpha and a new background.

    python scripts/make_sample.py --people FOLDER --pictures FOLDER --hdri FOLDER

FOLDER of people: sweethome3d-furniture's Reallusion.sh3f, unzipped. A woman turns her head before a mountain lake;
Blender renders her with hair of curves and motion blur, the rest is a photograph with two takes of sensor noise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.environments import ROOT, rendering_python  # noqa: E402
from scripts.rendered_pixels import Array, develop, straighten  # noqa: E402

WIDTH, HEIGHT, FRAMES, FPS = 640, 360, 24, 24
NOISE = 0.010  # standard deviation of the sensor's noise in mid grey, sRGB-encoded


def main(args: argparse.Namespace) -> None:
    """Render in Blender's Python, then lay the frames over the plate and encode."""
    if args.render_to:
        render_subject(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        target = args.keep or Path(folder)
        command = [rendering_python(), __file__, "--render_to", target, "--people", args.people, "--hdri", args.hdri]
        subprocess.run([*map(str, command), "--threads", str(args.threads)], check=True)
        encode(args, target)


def render_subject(args: argparse.Namespace) -> None:
    """Write FRAMES files NNNN.npz, straight sRGB fgr (H, W, 3) and pha (H, W), to args.render_to; skip those there."""
    from scripts import render_subjects as stage

    rng = np.random.default_rng(7)
    stage.clear()
    body = stage.import_obj(args.people / "reallusion/holdingFemale01/holdingFemale01.obj")
    stage.make_matte(body, 0.55)
    body.modifiers.new("Smooth", "SUBSURF").render_levels = 1
    points = stage.vertices(body.data)
    head = stage.find_head(points)
    style = stage.HairStyle(
        length=0.34,
        strands=9000,
        points=16,
        lift=0.22,
        gravity=0.55,
        frizz=0.035,
        wave=0.010,
        turns=2.0,
        clumps=220,
        clumping=0.75,
        flyaways=0.025,
        radius=0.00017,
    )
    strands = stage.grow_hair(head, style, rng)
    hair = stage.add_strands(strands, style.radius, stage.make_hair_material(0.62, 0.6))
    along = np.tile(np.linspace(0, style.length, style.points, dtype=np.float32), len(strands))
    poses = [motion(stage, index / FPS) for index in range(FRAMES)]
    stage.animate_points(body, [stage.bend(points, pose, head) for pose in poses])
    flat = strands.reshape(-1, 3)
    stage.animate_points(hair, [stage.bend(flat, pose, head, hair=True, along=along) for pose in poses])
    stage.set_world(args.hdri / "immenstadter_horn_1k.hdr", turn=2.2)
    middle = head.middle + np.array([0.0, 0.0, -0.17], np.float32)
    stage.add_light(middle, 2.5, 0.7, power=140, size=0.8, colour=(1, 0.93, 0.82))
    stage.add_light(middle, -0.7, 0.5, power=45, size=1.5)
    stage.add_camera(middle + np.array([0.12, 0, 0], np.float32), 1.12, 0.0, 0.03, lens=60, f_stop=5.6)
    stage.set_render(WIDTH, HEIGHT, args.threads, shutter=0.5)
    args.render_to.mkdir(parents=True, exist_ok=True)
    for number in args.frames or range(1, FRAMES + 1):
        path = args.render_to / f"{number:04d}.npz"
        if path.exists():
            continue
        stage.set_frame(number)
        premul, alpha = stage.render(args.render_to, samples=12, alpha_samples=48)
        fgr = develop(straighten(premul, alpha), alpha, level=0.17)
        np.savez_compressed(
            path, fgr=np.round(255 * fgr).astype(np.uint8), pha=np.round(65535 * alpha).astype(np.uint16)
        )


def motion(stage: Any, seconds: float) -> Any:
    """She turns from her right to her left within a second, a little late with the shoulders, later with the hair."""

    def ease(late: float) -> float:
        t = min(max((seconds - late) / 0.75, 0.0), 1.0)
        return t * t * (3 - 2 * t)

    def speed(late: float) -> float:
        return (ease(late + 0.04) - ease(late - 0.04)) / 0.08

    return stage.Pose(
        head=(0.03 - 0.05 * ease(0.1), 0.06 - 0.1 * ease(0.05), -0.55 + 0.95 * ease(0.05)),
        torso=-0.22 + 0.34 * ease(0.15),
        lean=(-0.03 + 0.06 * ease(0.1), 0.0),
        swing=(-0.10 * speed(-0.02) + 0.06 * speed(0.3), 0.03 * speed(0.1), 0.0),
    )


def encode(args: argparse.Namespace, rendered: Path) -> None:
    """Write footage.mp4, plate.png, alpha.mkv and background.jpg into args.output."""
    import av
    import cv2

    rng = np.random.default_rng(11)
    lake = np.asarray(cv2.imread(str(args.pictures / "budgie-lake-sherburne.jpg")))
    lake = cv2.resize(lake, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    clean = cv2.GaussianBlur(lake, (0, 0), 1.2)[..., ::-1].astype(np.float32) / 255  # behind the depth of field
    args.output.mkdir(parents=True, exist_ok=True)
    with av.open(args.output / "footage.mp4", "w") as movie, av.open(args.output / "alpha.mkv", "w") as truth:
        video = movie.add_stream("libx264", FPS, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        video.options = {
            "crf": "13",
            "preset": "veryslow",
            "tune": "grain",
            "colorprim": "bt709",
            "colormatrix": "bt709",
        }
        video.codec_context.color_primaries = video.codec_context.color_trc = video.codec_context.colorspace = 1
        matte = truth.add_stream("ffv1", FPS, width=WIDTH, height=HEIGHT, pix_fmt="gray")
        matte.options = {"level": "3", "coder": "1", "context": "1", "g": "1"}
        video.time_base = matte.time_base = Fraction(1, FPS)
        for number in range(1, FRAMES + 1):
            with np.load(rendered / f"{number:04d}.npz") as frame:
                fgr, pha = frame["fgr"].astype(np.float32) / 255, frame["pha"].astype(np.float32) / 65535
            com = expose((clean + pha[..., None] * (fgr - clean)).astype(np.float32), rng)
            shot = av.VideoFrame.from_ndarray(np.round(255 * com).astype(np.uint8), "rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709", src_color_range="JPEG", dst_color_range="MPEG"
            )
            movie.mux(video.encode(shot))
            truth.mux(matte.encode(av.VideoFrame.from_ndarray(np.round(255 * pha).astype(np.uint8), "gray")))
        movie.mux(video.encode(None))
        truth.mux(matte.encode(None))
    plate = expose(clean.astype(np.float32), rng)
    cv2.imwrite(
        str(args.output / "plate.png"),
        np.round(255 * plate[..., ::-1]).astype(np.uint8),
        [cv2.IMWRITE_PNG_COMPRESSION, 9],
    )
    tea = np.asarray(cv2.imread(str(args.pictures / "budgie-tea-gardens.jpg")))[40:940]
    tea = cv2.resize(tea, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(args.output / "background.jpg"), tea, [cv2.IMWRITE_JPEG_QUALITY, 88])
    for path in sorted(args.output.iterdir()):
        print(f"{path.stat().st_size / 1e6:6.2f} MB  {path}")


def expose(picture: Array, rng: np.random.Generator) -> Array:
    """Add a sensor's noise to (H, W, 3) sRGB: grains wider than a pixel, more in blue, less in black and white."""
    import cv2

    grain = rng.normal(0, 1, picture.shape).astype(np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 0.55) * 1.55
    level = NOISE * np.sqrt(0.25 + 3 * picture * (1 - picture)) * np.array([1, 0.8, 1.3], np.float32)
    return np.clip(picture + level * grain, 0, 1).astype(np.float32)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Make the sample shot in scripts/sample.")
    parser.add_argument("--people", type=Path, required=True, help="folder with reallusion/, from Reallusion.sh3f")
    parser.add_argument("--hdri", type=Path, required=True, help="folder with immenstadter_horn_1k.hdr")
    parser.add_argument(
        "--pictures", type=Path, help="folder with budgie-lake-sherburne.jpg and budgie-tea-gardens.jpg"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "scripts/sample")
    parser.add_argument("--keep", type=Path, help="keep the rendered frames here and go on from those already there")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--render_to", type=Path, help=argparse.SUPPRESS
    )  # this script's second life in Blender's Python
    parser.add_argument("--frames", type=int, nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
