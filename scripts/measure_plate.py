# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the plate tools on photographs and cut-outs: how well plates are made, aligned, matched and diagnosed.

    python scripts/measure_plate.py --photos PHOTOS --cutouts CUTOUTS [--only align,doctor]

Every shot is composed here, so that the truth is known: a photograph (never enlarged by more than it must be) under a
virtual camera, a cut-out with alpha in front of it, sensor noise on both takes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from core import color, evaluation  # noqa: E402
from core.errors import JobError, ending_in_words  # noqa: E402
from core.plate import FittedPlate, ShotPlate, plate_from_clip  # noqa: E402
from core.plate.alignment import PlateAligner  # noqa: E402
from core.plate.doctor import Diagnosis, diagnose  # noqa: E402
from core.plate.frames import Image, Mask, Matte, Plane  # noqa: E402
from core.plate.photometric import PhotometricFit  # noqa: E402

NOISE = 0.008  # sensor noise of every take, sRGB-encoded units
DOCTOR_SIZE = (960, 540)
MARGIN = 0.15  # share of the frame that the world reaches beyond it on each side


@dataclass(frozen=True)
class Take:
    """How one picture is taken."""

    x: float = 0.0  # shift, as a share of the frame's width
    y: float = 0.0
    degrees: float = 0.0  # about the middle
    scale: float = 1.0
    parallax: tuple[float, float] = (0.0, 0.0)  # pixels that the nearest depth moves
    light: PhotometricFit = PhotometricFit()
    blur: float = 0.0  # sigma, pixels
    noise: float = NOISE  # sigma, sRGB-encoded
    pan: float = 0.0  # degrees that a camera with a lens of 1.2 frame widths turns right


class World:
    """A photograph as a place to film in: larger than the frame, with a smooth depth for parallax."""

    def __init__(self, photo: Image, size: tuple[int, int], seed: int, margin: float = MARGIN) -> None:
        self.size = size
        self.random = np.random.default_rng(seed)
        W, H = size
        self.picture = cover(photo, round(W * (1 + 2 * margin)), round(H * (1 + 2 * margin))).astype(np.float32) / 255
        coarse = self.random.uniform(0, 1, (4, 5)).astype(np.float32)
        depth = cv2.resize(coarse, self.picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        self.depth = (depth - depth.min()) / (depth.max() - depth.min())

    def matrix(self, take: Take) -> NDArray[np.float64]:
        """Frame pixel -> world pixel, parallax apart."""
        W, H = self.size
        c, s = (take.scale * f(math.radians(take.degrees)) for f in (math.cos, math.sin))
        to_middle = np.array([[1, 0, -W / 2], [0, 1, -H / 2], [0, 0, 1]])
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        lens, (cosine, sine) = 1.2 * W, (f(math.radians(take.pan)) for f in (math.cos, math.sin))
        turn = turn @ np.array([[cosine, 0, lens * sine], [0, 1, 0], [-sine / lens, 0, cosine]])
        middle = (self.picture.shape[1] / 2 + take.x * W, self.picture.shape[0] / 2 + take.y * W)
        matrix = np.array([[1, 0, middle[0]], [0, 1, middle[1]], [0, 0, 1]]) @ turn @ to_middle
        return np.asarray(matrix / matrix[2, 2])

    def clean(self, take: Take) -> Image:
        """What the camera would see without noise: (H, W, 3) float32, sRGB-encoded."""
        W, H = self.size
        x, y = np.meshgrid(np.arange(W, dtype=np.float32), np.arange(H, dtype=np.float32))
        where = cv2.perspectiveTransform(np.stack([x, y], -1).reshape(-1, 1, 2), self.matrix(take)).reshape(H, W, 2)
        if any(take.parallax):  # two maps: with one, OpenCV 5 errs unless cubic
            depth = cv2.remap(
                self.depth, where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            where = where + depth[..., None] * np.asarray(take.parallax, np.float32)
        seen = cv2.remap(
            self.picture, where.astype(np.float32), np.empty(0), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
        if take.blur:
            seen = cv2.GaussianBlur(seen, (0, 0), take.blur)
        return relight(np.clip(seen, 0, 1), take.light)

    def expose(self, clean: Image, noise: float) -> Image:
        """Add sensor noise and write 8 bits."""
        noisy = clean + np.float32(noise) * self.random.standard_normal(clean.shape, np.float32)
        return np.asarray(np.rint(np.clip(noisy, 0, 1) * 255), np.uint8)

    def plate(self, take: Take = Take()) -> Image:  # noqa: B008
        """The empty place: (H, W, 3) uint8, with sensor noise."""
        return self.expose(self.clean(take), take.noise)

    def frame(self, subject: tuple[Image, Plane], take: Take = Take()) -> Image:  # noqa: B008
        """The same with a subject in front, fgr (H, W, 3) and pha (H, W) as `place` makes them."""
        fgr, pha = subject
        lit = relight(fgr, take.light)
        return self.expose(self.clean(take) * (1 - pha[..., None]) + lit * pha[..., None], take.noise)

    def shoot(self, subjects: Sequence[tuple[Image, Plane]], takes: Sequence[Take]) -> list[Image]:
        """The frames of a shot, each with its subject and its take."""
        return [self.frame(subject, take) for subject, take in zip(subjects, takes, strict=True)]


def relight(encoded: Image, light: PhotometricFit) -> Image:
    """Change exposure, white balance, gamma and vignetting in linear light, by the definition."""
    if light == PhotometricFit():
        return encoded
    H, W = encoded.shape[:2]
    y, x = np.mgrid[0:H, 0:W].astype(np.float32)
    r2 = ((x + 0.5 - W / 2) ** 2 + (y + 0.5 - H / 2) ** 2) / ((W * W + H * H) / 4)
    linear = color.srgb_to_linear(encoded) ** np.float32(light.gamma) * np.asarray(light.gain, np.float32)
    linear = linear * np.exp(light.falloff[0] * r2 + light.falloff[1] * r2 * r2)[..., None]
    return np.clip(color.linear_to_srgb(np.asarray(linear, np.float32)), 0, 1)


def kelvin(change: float) -> tuple[float, float, float]:
    """Gains of a white balance that is `change` kelvin off 6500, by the Planckian locus (Kim et al. 2002), sRGB."""

    def white(temperature: float) -> NDArray[np.float64]:
        t = 1000 / temperature
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
        if temperature < 4000:
            x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
        if temperature < 4000:
            y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
        xyz = np.array([x / y, 1, (1 - x - y) / y])
        to_srgb = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
        return np.asarray(to_srgb @ xyz)

    red, green, blue = white(6500 + change) / white(6500)
    return float(red / green), 1.0, float(blue / green)


def cover(image: Image, width: int, height: int) -> Image:
    """Scale and crop an image to fill `width` x `height`."""
    scale = max(width / image.shape[1], height / image.shape[0])
    size = (math.ceil(image.shape[1] * scale), math.ceil(image.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    x, y = (size[0] - width) // 2, (size[1] - height) // 2
    return image[y : y + height, x : x + width]


def place(cutout: Image, size: tuple[int, int], height: float, x: float) -> tuple[Image, Plane]:
    """A cut-out standing on the frame's lower edge.

    Args:
        cutout: (h, w, 4) straight RGBA, uint8.
        size: width and height of the frame.
        height: share of the frame's.
        x: where its middle stands, 0 (left) to 1.

    Returns:
        fgr (H, W, 3) and pha (H, W), float32, 0 to 1.
    """
    W, H = size
    scale = height * H / cutout.shape[0]
    small = cv2.resize(
        cutout, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    h, w = small.shape[:2]
    shift = np.array([[1, 0, x * W - w / 2], [0, 1, H - min(h, H)]], np.float32)
    fgr = cv2.warpAffine(small[..., :3], shift, (W, H), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    pha = cv2.warpAffine(small[..., 3], shift, (W, H), flags=cv2.INTER_LINEAR)
    return fgr.astype(np.float32) / 255, pha.astype(np.float32) / 255


@dataclass(frozen=True)
class Material:
    """Photographs (H, W, 3) and cut-outs (h, w, 4), uint8 RGB(A)."""

    photos: list[Image]
    cutouts: list[Image]
    network: Any  # core.matting.Matter, or None


def read_folder(folder: Path, flag: int) -> list[Image]:
    """All JPEGs and PNGs of a folder by name, as uint8 RGB, or RGBA where `flag` is cv2.IMREAD_UNCHANGED.

    Raises:
        JobError: no such folder.
    """
    if not folder.is_dir():
        raise JobError("a folder of pictures", f"{folder}", "Correct --photos or --cutouts")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in {".jpg", ".jpeg", ".png"})
    images = [cv2.imread(str(file), flag) for file in files]
    order = cv2.COLOR_BGRA2RGBA if flag == cv2.IMREAD_UNCHANGED else cv2.COLOR_BGR2RGB
    return [cv2.cvtColor(image, order) for image in images if image is not None]


def matte_clip(
    material: Material, frames: Sequence[Image], shot: ShotPlate, laid: list[FittedPlate] | None = None
) -> list[Plane]:
    """Matte a shot; its plate is laid under each frame as in the engine, by the matte of two frames before.

    Args:
        laid: gets the plate of each frame, if given.
    """
    material.network.reset()
    phas: list[Plane] = []
    for src in frames:
        fitted = shot.under(src, phas[-2:][0] if phas else None)
        phas.append(material.network.matte(src, fitted.bgr, fitted.valid).pha)
        if laid is not None:
            laid.append(fitted)
    return phas


def clip_mad(pred: Sequence[Plane], true: Sequence[Plane], regions: Sequence[Mask] | None = None) -> float:
    """Mean MAD x 1000 of a clip's frames, each in its region if there are any."""
    wheres: Sequence[Mask | None] = regions or [None] * len(pred)
    return float(np.mean([evaluation.mad(p, t, r) for p, t, r in zip(pred, true, wheres, strict=True)]))


def clip_dtssd(pred: Sequence[Plane], true: Sequence[Plane]) -> float:
    """Mean dtSSD x 100 of a clip's frames from the second on."""
    return float(np.mean([evaluation.dtssd(p, t) for p, t in zip(pairwise(pred), pairwise(true), strict=True)]))


def pairs_of(material: Material, count: int, size: tuple[int, int]) -> Iterator[tuple[int, World, Image]]:
    """`count` worlds with a cut-out each, spread over the material, the same ones every time."""
    for i in range(count):
        photo = material.photos[i * len(material.photos) // count % len(material.photos)]
        yield i, World(photo, size, seed=i), material.cutouts[i * 7 % len(material.cutouts)]


def measure_align(material: Material) -> dict[str, float]:
    """Plates off by up to 5 % of the width, 3 degrees, 3 % scale; 1080p; the subject on 10 to 50 % of the frame."""
    size, shares = (1920, 1080), []
    errors: dict[str, list[float]] = {"masked": [], "unmasked": []}
    for i, world, cutout in pairs_of(material, len(material.photos), size):
        r = world.random
        take = Take(r.uniform(-0.05, 0.05), r.uniform(-0.05, 0.05), r.uniform(-3, 3), r.uniform(0.97, 1.03))
        subject = place(cutout, size, r.uniform(0.7, 1.1), r.uniform(0.3, 0.7))
        while (subject[1] > 0.01).mean() > 0.5:
            subject = place(cutout, size, 0.85 * (subject[1] > 0.01).any(axis=1).mean(), 0.5)
        src, plate = world.frame(subject), world.plate(take)
        true = np.linalg.inv(world.matrix(take)) @ world.matrix(Take())
        covered = float((subject[1] > 0.01).mean())
        for name, mask in (("masked", subject[1]), ("unmasked", None)):
            aligned = PlateAligner(plate).align(src, mask)
            flow = np.zeros((1, 1, 2), np.float32) if aligned.flow is None else aligned.flow
            error = alignment_error(true, aligned.homography, flow, subject[1] < 0.01)
            errors[name].append(error)
            print(f"  photo {i:2d} {name:8s} covered {covered:.2f}: {error:8.3f} px", flush=True)
        shares.append(covered)
    result = {"covered_mean": float(np.mean(shares)), "covered_max": float(np.max(shares))}
    for name, values in errors.items():
        result |= {
            f"{name}_median_px": float(np.median(values)),
            f"{name}_share_under_half_px": float(np.mean(np.array(values) < 0.5)),
            f"{name}_worst_px": float(np.max(values)),
        }
    return result


def alignment_error(true: NDArray[np.float64], found: NDArray[np.float64], flow: Image, outside: Mask) -> float:
    """Mean distance over the background that the plate shows, in plate pixels."""
    H, W = outside.shape
    ys, xs = np.nonzero(outside[::8, ::8])
    points = np.stack([xs, ys], 1)[:, None].astype(np.float64) * 8
    local = cv2.resize(flow, (W, H), interpolation=cv2.INTER_LINEAR)[::8, ::8][ys, xs][:, None]
    there = cv2.perspectiveTransform(points, true)[:, 0]
    got = cv2.perspectiveTransform(points + local, found)[:, 0]
    shown = (there >= 0).all(axis=1) & (there[:, 0] < W) & (there[:, 1] < H)
    return float(np.linalg.norm(there - got, axis=1)[shown].mean())


def measure_matte(material: Material) -> dict[str, float]:
    """What alignment is worth: matte MAD with the exact plate, the displaced one aligned, and left alone."""
    takes = [
        Take(0.04, -0.02, 2, 1.02),
        Take(-0.05, 0.03, -3, 0.98),
        Take(0.015, 0.01, 0.5, 1.0),
        Take(0.03, 0, 0, 1.03),
    ]
    return compare_plates(material, takes)


def measure_light(material: Material) -> dict[str, float]:
    """What matching is worth: +-0.7 stop, +-800 K, vignetting of a stop."""
    lights = [
        PhotometricFit((2**0.7,) * 3),
        PhotometricFit((2**-0.7,) * 3),
        PhotometricFit(kelvin(800)),
        PhotometricFit(kelvin(-800)),
        PhotometricFit(falloff=(-0.5, -0.2)),
    ]
    return compare_plates(material, [Take(light=light) for light in lights])


def compare_plates(material: Material, takes: Sequence[Take], shots: int = 5, frames: int = 4) -> dict[str, float]:
    """Matte MAD with an exact plate, and with one of these takes fitted as in the engine, or left alone."""
    size = (1280, 720)
    results = []
    for i, world, cutout in pairs_of(material, shots, size):
        subjects = [place(cutout, size, 0.8, 0.4 + 0.01 * t) for t in range(frames)]
        srcs, phas = [world.frame(subject) for subject in subjects], [subject[1] for subject in subjects]
        exact, plate = world.plate(), world.plate(takes[i % len(takes)])
        laid: list[FittedPlate] = []
        by_exact = matte_clip(material, srcs, ShotPlate(exact, align=False, match=False))
        by_fitted = matte_clip(material, srcs, ShotPlate(plate), laid)
        covered = [one.valid for one in laid]
        alone = matte_clip(material, srcs, ShotPlate(plate, align=False, match=False))
        mads = {
            "exact": clip_mad(by_exact, phas),
            "fitted": clip_mad(by_fitted, phas),
            "left_alone": clip_mad(alone, phas),
            "exact_where_covered": clip_mad(by_exact, phas, covered),
            "fitted_where_covered": clip_mad(by_fitted, phas, covered),
        }
        print("  shot", i, {name: round(value, 2) for name, value in mads.items()}, flush=True)
        results.append({f"{name}_mad": value for name, value in mads.items()})
    means = evaluation.mean_scores(results)
    return means | {
        "fitted_over_exact": means["fitted_mad"] / means["exact_mad"],
        "fitted_over_exact_where_covered": means["fitted_where_covered_mad"] / means["exact_where_covered_mad"],
    }


def measure_handheld(material: Material, shots: int = 3, frames: int = 10) -> dict[str, float]:
    """A shaken camera with parallax against one plate, and the same shot locked off."""
    size = (1280, 720)
    results = []
    for i, world, cutout in pairs_of(material, shots, size):
        values: dict[str, float] = {}
        phase = world.random.uniform(0, 6, 6)

        def shake(t: int, phase: NDArray[np.float64] = phase) -> Take:
            waves = [math.sin(t * (0.35 + 0.13 * k) + phase[k]) for k in range(6)]
            return Take(
                0.012 * waves[0], 0.009 * waves[1], 0.5 * waves[2], 1 + 0.004 * waves[3], (2.5 * waves[4], 2 * waves[5])
            )

        subjects = [place(cutout, size, 0.8, 0.4 + 0.008 * t) for t in range(frames)]
        phas = [subject[1] for subject in subjects]
        plate = world.plate()
        for name, takes in (("locked_off", [Take()] * frames), ("handheld", [shake(t) for t in range(frames)])):
            srcs = world.shoot(subjects, takes)
            pred = matte_clip(material, srcs, ShotPlate(plate))
            alone = matte_clip(material, srcs, ShotPlate(plate, align=False, match=False))
            values |= {
                f"{name}_mad": clip_mad(pred, phas),
                f"{name}_dtssd": clip_dtssd(pred, phas),
                f"{name}_left_alone_mad": clip_mad(alone, phas),
                f"{name}_left_alone_dtssd": clip_dtssd(alone, phas),
            }
        results.append(values)
        print("  shot", i, {key: round(value, 2) for key, value in values.items()}, flush=True)
    means = evaluation.mean_scores(results)
    return means | {
        "mad_over_locked_off": means["handheld_mad"] / means["locked_off_mad"],
        "dtssd_over_locked_off": means["handheld_dtssd"] / means["locked_off_dtssd"],
    }


def measure_clip(material: Material, shots: int = 4, frames: int = 40) -> dict[str, float]:
    """Plates out of clips in which each pixel is seen empty at least 20 % of the time; two of them once more with an
    exposure that drifts by a third of a stop up and down."""
    size = (960, 540)
    results: dict[str, list[float]] = {"steady": [], "drifting": [], "drifting_unmatched": []}
    for i, world, cutout in pairs_of(material, shots, size):
        poses = [(0.9, 0.5 + 0.45 * math.sin(2 * math.pi * t / frames + i)) for t in range(frames)]
        subjects = [place(cutout, size, *pose) for pose in poses]
        empty = 1 - np.mean([subject[1] > 0.004 for subject in subjects], axis=0)
        handheld = i % 2 == 1
        takes = [
            Take(0.01 * math.sin(t / 3), 0.006 * math.cos(t / 4), 0.3 * math.sin(t / 5)) if handheld else Take()
            for t in range(frames)
        ]
        for name in results if i < 2 else ["steady"]:
            if name == "drifting":
                lights = [PhotometricFit((2 ** (math.sin(t / 6) / 3),) * 3) for t in range(frames)]
                takes = [replace(take, light=light) for take, light in zip(takes, lights, strict=True)]
            srcs = world.shoot(subjects, takes)
            relight = None if name == "drifting_unmatched" else PhotometricFit.apply
            started = time.perf_counter()
            made = plate_from_clip(srcs, matte=subject_finder(material), samples=24, relight=relight)
            seconds = time.perf_counter() - started
            psnr = psnr_of(made.plate, world.clean(takes[made.reference_index]), empty >= 0.2)
            results[name].append(psnr)
            print(
                f"  clip {i} {name}{' handheld' if handheld else ''}: {psnr:.1f} dB where seen at least 20 % "
                f"({100 * np.mean(empty >= 0.2):.0f} % of the frame, least {empty.min():.2f}), {seconds:.1f} s",
                flush=True,
            )
    means = {f"{name}_psnr_mean_db": float(np.mean(values)) for name, values in results.items()}
    return means | {"steady_psnr_worst_db": float(np.min(results["steady"]))}


def psnr_of(plate: Image, true: Image, where: Mask) -> float:
    """Of an 8-bit plate against (H, W, 3) from 0 to 1, in decibels."""
    return float(-10 * np.log10(np.square(plate.astype(np.float32) / 255 - true)[where].mean()))


def measure_pan(material: Material, shots: int = 3, frames: int = 36) -> dict[str, float]:
    """A camera that turns by 38 degrees, more than a frame's width, over a person: the plate from the clip, laid under
    each frame, and the mattes with it, with an exact plate for each frame, and without any."""
    size = (640, 360)
    results = []
    people = material.cutouts[-11:]
    for i in range(shots):
        world = World(material.photos[(3 + 9 * i) % len(material.photos)], size, seed=i, margin=0.75)
        takes = [
            Take(y=0.01 * math.sin(t / 4), degrees=0.3 * math.sin(t / 5), pan=38 * (t / (frames - 1) - 0.5))
            for t in range(frames)
        ]
        subjects = [place(people[-1 - 3 * i], size, 0.8, 0.5 + 0.2 * math.sin(t / 5)) for t in range(frames)]
        srcs = world.shoot(subjects, takes)
        phas = [subject[1] for subject in subjects]
        started = time.perf_counter()
        made = plate_from_clip(srcs, matte=subject_finder(material), samples=24, extend=True)
        seconds = time.perf_counter() - started
        shot = ShotPlate(made.plate, known=made.coverage > 0, start=made.motions[0])
        laid: list[FittedPlate] = []
        by_clip = matte_clip(material, srcs, shot, laid)
        by_exact, blind = [], []
        material.network.reset()
        for src, take in zip(srcs, takes, strict=True):
            by_exact.append(material.network.matte(src, world.plate(take)).pha)
        material.network.reset()
        for src in srcs:
            blind.append(material.network.matte(src, None).pha)
        psnrs = [psnr_of(one.bgr, world.clean(take), one.valid) for one, take in zip(laid, takes, strict=True)]
        values = {
            "psnr_db": float(np.mean(psnrs)),
            "uncovered_share": float(np.mean([~one.valid for one in laid])),
            "exact_mad": clip_mad(by_exact, phas),
            "clip_mad": clip_mad(by_clip, phas),
            "blind_mad": clip_mad(blind, phas),
            "exact_dtssd": clip_dtssd(by_exact, phas),
            "clip_dtssd": clip_dtssd(by_clip, phas),
        }
        results.append(values)
        height, width = made.plate.shape[:2]
        print(f"  pan {i}, plate {width} x {height} in {seconds:.0f} s:", end=" ")
        print({key: round(value, 3) for key, value in values.items()}, f"worst {min(psnrs):.1f} dB", flush=True)
    means = evaluation.mean_scores(results)
    return means | {"clip_over_exact": means["clip_mad"] / means["exact_mad"]}


def subject_finder(material: Material) -> Matte | None:
    """The network as `core.plate` wants it: each picture on its own."""
    if material.network is None:
        return None

    def matte(src: Image, bgr: Image | None) -> Plane:
        material.network.reset()
        pha: Plane = material.network.matte(src, bgr).pha
        return pha

    return matte


def seeded_defects() -> list[tuple[str, Callable[[World, Image], tuple[Take, list[Take]]]]]:
    """Kind of defect and how plate and frames are taken; the objects and persons are put in by `measure_doctor`."""

    def light(fit: PhotometricFit) -> Callable[[World, Image], tuple[Take, list[Take]]]:
        return lambda world, cutout: (Take(light=fit), [Take()] * 6)

    def plate(take: Take) -> Callable[[World, Image], tuple[Take, list[Take]]]:
        return lambda world, cutout: (take, [Take()] * 6)

    drift = [Take(light=PhotometricFit((2 ** (0.08 * t - 0.2),) * 3)) for t in range(6)]
    return [
        ("misaligned", plate(Take(0.03, 0.01))),
        ("misaligned", plate(Take(0, 0, 2, 1.02))),
        ("misaligned", plate(Take(0.006, -0.004))),
        ("parallax", plate(Take(parallax=(14, 6)))),
        ("parallax", plate(Take(parallax=(-12, 10)))),
        ("exposure", light(PhotometricFit((2**0.5,) * 3))),
        ("exposure", light(PhotometricFit((2**-0.7,) * 3))),
        ("exposure_drift", lambda world, cutout: (Take(), drift)),
        ("white_balance", light(PhotometricFit(kelvin(800)))),
        ("white_balance", light(PhotometricFit(kelvin(-800)))),
        ("vignetting", light(PhotometricFit(falloff=(-0.5, -0.2)))),
        ("noise", plate(Take(noise=0.04))),
        ("blur", plate(Take(blur=2.0))),
        ("blur", plate(Take(blur=1.3))),
        ("moved_object", plate(Take())),
        ("moved_object", plate(Take())),
        ("uncovered", plate(Take(0.09, 0))),
        ("wrong_place", plate(Take())),
        ("wrong_place", plate(Take())),
        ("subject_in_plate", plate(Take())),
    ]


def measure_doctor(material: Material) -> dict[str, float]:
    """Seeded defects it must name, and good plates at which it must be silent."""
    size, named, silent, seconds = DOCTOR_SIZE, 0, 0, []
    finder = subject_finder(material)
    people = material.cutouts[-11:]
    defects = seeded_defects()
    good = 10
    for i in range(len(defects) + good):
        kind, taking = defects[i] if i < len(defects) else ("", lambda world, cutout: (Take(), [Take()] * 6))
        photo = material.photos[i * 3 % len(material.photos)]
        world, cutout = World(photo, size, seed=i), people[i % len(people)]
        plate_take, takes = taking(world, cutout)
        plate = world.plate(plate_take)
        if kind == "wrong_place":
            plate = World(material.photos[(i * 3 + 5) % len(material.photos)], size, seed=i).plate()
        if kind == "subject_in_plate":
            plate = world.frame(place(cutout, size, 0.8, 0.3))
        if kind == "moved_object":
            plate = with_object(plate, world.random)
        frames = [
            (10 * t + 1, world.frame(place(cutout, size, 0.75, 0.25 + 0.1 * t), take)) for t, take in enumerate(takes)
        ]
        started = time.process_time()
        diagnosis = diagnose(frames, plate, matte=finder)
        seconds.append(time.process_time() - started)
        right = right_cause(kind, diagnosis)
        named += right and bool(kind)
        silent += right and not kind
        values = [(f.kind, f.value) for f in diagnosis.findings]
        print(f"  {kind or 'good plate':17s} {'ok ' if right else 'NO '} {seconds[-1]:4.1f} s {values}", flush=True)
    return {
        "named_of_20": named,
        "silent_of_10": silent,
        "processor_seconds_mean": float(np.mean(seconds)),
        "processor_seconds_worst": float(np.max(seconds)),
    }


def right_cause(kind: str, diagnosis: Diagnosis) -> bool:
    """The seeded kind is among the findings, with no other cause than its own consequences; none for a good plate."""
    found = {finding.kind for finding in diagnosis.findings}
    consequences = {"misaligned": {"uncovered"}, "uncovered": {"misaligned"}, "parallax": {"misaligned", "uncovered"}}
    allowed = {kind} | consequences.get(kind, set())
    return found <= allowed and (kind in found if kind else True)


def with_object(plate: Image, random: np.random.Generator) -> Image:
    """Stand a box with a lighter lid on the set that is not there in the shot."""
    H, W = plate.shape[:2]
    x, y = int(random.uniform(0.7, 0.85) * W), int(random.uniform(0.3, 0.6) * H)
    w, h = int(0.06 * W), int(0.15 * H)
    colour = random.uniform(20, 235, 3)
    plate = plate.copy()
    plate[y : y + h, x : x + w] = np.clip(colour + random.normal(0, 2, (h, w, 3)), 0, 255)
    plate[y : y + h // 5, x : x + w] = np.clip(255 - colour + random.normal(0, 2, (h // 5, w, 3)), 0, 255)
    return plate


def measure_cost(material: Material, frames: int = 12) -> dict[str, float]:
    """Processor seconds per 1080p frame, one thread: network, plate work on a locked-off and a handheld shot."""
    size = (1920, 1080)
    cv2.setNumThreads(1)
    world = World(material.photos[0], size, seed=0)
    subjects = [place(material.cutouts[-1], size, 0.8, 0.4 + 0.01 * t) for t in range(frames)]
    plate = world.plate()
    result = {}
    shake = [
        Take(0.01 * math.sin(t / 2), 0.008 * math.cos(t / 3), 0.4 * math.sin(t / 4), parallax=(3 * math.sin(t / 3), 0))
        for t in range(frames)
    ]
    for name, takes in (("locked_off", [Take()] * frames), ("handheld", shake)):
        light = PhotometricFit((1.2, 1.1, 1.0))
        srcs = world.shoot(subjects, [replace(take, light=light) for take in takes])
        shot = ShotPlate(plate)
        times = []
        for src, (_, pha) in zip(srcs, subjects, strict=True):
            started = time.process_time()
            shot.under(src, pha)
            times.append(time.process_time() - started)
        result[f"{name}_first_frame_s"] = times[0]
        result[f"{name}_s"] = float(np.median(times[1:]))
    if material.network is not None:
        torch.set_num_threads(1)
        material.network.reset()
        times = []
        for src in srcs[:6]:
            started = time.process_time()
            material.network.matte(src, plate)
            times.append(time.process_time() - started)
        result["network_s"] = float(np.median(times[1:]))
        for name in ("locked_off", "handheld"):
            result[f"{name}_share_of_network"] = result[f"{name}_s"] / result["network_s"]
    return result


MEASURES: dict[str, Callable[[Material], dict[str, float]]] = {
    "align": measure_align,
    "matte": measure_matte,
    "light": measure_light,
    "handheld": measure_handheld,
    "clip": measure_clip,
    "pan": measure_pan,
    "doctor": measure_doctor,
    "cost": measure_cost,
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, JPEG or PNG")
    parser.add_argument("--cutouts", type=Path, required=True, help="folder of RGBA cut-outs, people last, PNG")
    parser.add_argument("--model", default="default", help="network, as for `python -m core matte`; 'none' for none")
    parser.add_argument("--only", default=",".join(MEASURES), help="comma-separated: " + ", ".join(MEASURES))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args(argv)
    if unknown := set(args.only.split(",")) - MEASURES.keys():
        parser.error(f"--only: expected some of {', '.join(MEASURES)}; got {', '.join(sorted(unknown))}")
    return args


def main(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure what --only names; return the figures by measure and name."""
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)  # before all the work
    network = None
    if args.model != "none":
        from core.checkpoints import load_model
        from core.matting import Matter

        network = Matter(load_model(args.model), "cpu")
    material = Material(
        read_folder(args.photos, cv2.IMREAD_COLOR), read_folder(args.cutouts, cv2.IMREAD_UNCHANGED), network
    )
    results = {}
    for name in args.only.split(","):
        print(name, "-", MEASURES[name].__doc__, flush=True)
        results[name] = MEASURES[name](material)
        for key, value in results[name].items():
            print(f"  {key:28s} {value:.4g}")
        if args.json:
            args.json.write_text(json.dumps(results, indent=2) + "\n")
    return results


if __name__ == "__main__":
    with ending_in_words():
        main(parse_args())
