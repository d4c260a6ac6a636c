# SPDX-License-Identifier: GPL-3.0-or-later
"""Composites that look like footage, made on the fly: what the default network is trained on.

    clips = ClipDataset(pool=Path("/data/pool"), split="train", size=256, frames=2, seed=0)
    clip = clips[7]  # always the same clip, in whichever process and order it is asked for

A clip is a dict of float32 tensors, RGB sRGB-encoded, 0 to 1, T = frames, H = W = size:
    src (T, 3, H, W)   the shot, 8-bit exact, with its noise and compression
    bgr (T, 3, H, W)   its clean plate, as imperfect as plates are; the same frame T times where nothing moves
    pha (T, 1, H, W)   true alpha
    fgr (T, 3, H, W)   true straight colour; equal to src where pha is 0
    has_plate ()       bool; if False, the network must do without bgr, and the subjects are people
The default collate function makes batches (B, T, C, H, W). Nothing is shared between workers but the pool's cache on
disk; `valid` and `test` give a few hundred fixed clips.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..color import to_float
from . import procedural
from .augmentation import (
    Floats,
    Matrix,
    add_noise,
    affine,
    apply_table,
    blur,
    cast_shadow,
    color_table,
    compress,
    motion_blur,
    sharpen,
    smooth_noise,
    to_bytes,
    warp,
    wobble,
)
from .compositing import Layer, compose, compose_in_light, filtered, over, place, spilled
from .pool import Bytes, Pool

PEOPLE = ("people", "rendered_people")
FIGURES = (*PEOPLE, "animals", "rendered_fur", "rendered_clips")
LENGTHS = {"train": 1_000_000, "valid": 256, "test": 256}


@dataclass(frozen=True)
class Mix:
    """How often each thing happens: shares of all clips unless a field says otherwise."""

    no_plate: float = 0.05
    no_subject: float = 0.07
    two_subjects: float = 0.22
    three_subjects: float = 0.07
    distractors: float = 0.65  # one to three things that are in the plate as well
    ghost: float = 0.06  # a thing that is in the plate only
    # weights of the kinds of subject; kinds that the pool lacks are left out
    people: float = 0.2
    animals: float = 0.1
    rendered_people: float = 0.2
    rendered_fur: float = 0.06
    rendered_glass: float = 0.14
    rendered_things: float = 0.08
    rendered_clips: float = 0.1
    stamps: float = 0.1
    objects: float = 0.12
    drawn: float = 0.26
    loose_hairs: float = 0.0  # of all figures and drawn subjects: with single hairs around
    pierced: float = 0.0  # of all subjects: with small gaps all over
    thinned: float = 0.07  # of all subjects: partly transparent
    camouflage: float = 0.18  # of all subjects: coloured like what is behind them
    fills_frame: float = 0.08  # of all subjects
    moving_camera: float = 0.35
    wrong_plate: float = 0.07  # tens of pixels off; subjects are people
    exact_plate: float = 0.12  # no drift, no misalignment
    pristine: float = 0.1  # exact, and neither noise nor compression: rendered footage
    misaligned: float = 0.45  # the engine aligns the plate and matches its light before the network sees it
    drift: float = 0.5
    refocused: float = 0.15  # the plate is softer than the shot
    shadow: float = 0.6
    light_change: float = 0.2  # the subject shades or lights the room softly
    spill: float = 0.2  # the room lights the subject's rim, a green screen in green
    breeze: float = 0.1
    plain_background: float = 0.1
    soft_background: float = 0.25
    in_linear_light: float = 0.15
    dark_scene: float = 0.09
    bright_scene: float = 0.05
    compressed: float = 0.4
    sharpened: float = 0.15
    noise: float = 0.75
    plate_averaged: float = 0.4  # of the noisy clips: a plate averaged from many frames has next to no noise
    flicker: float = 0.15
    soft_lens: float = 0.1


@dataclass(frozen=True)
class Actor:
    """A subject, its appearance and its path through the frame."""

    images: list[Bytes]  # one, or one per frame
    path: Callable[[float], Matrix]  # at frame t, from the image to the frame
    table: Bytes
    saturation: float
    hue: float  # degrees
    shutter: float  # share of a frame's motion that blurs
    focus: float  # pixels

    def at(self, t: int, camera: Callable[[float], Matrix], size: int) -> Layer:
        """The layer at frame t."""
        image = self.images[t % len(self.images)]
        matrix = camera(t) @ self.path(t)
        centre = np.array([image.shape[1] / 2, image.shape[0] / 2, 1.0])
        motion = (camera(t + self.shutter) @ self.path(t + self.shutter) - matrix) @ centre
        travel = (float(motion[0]), float(motion[1]))
        return place(image, matrix, (size, size), self.table, self.saturation, self.hue, travel, self.focus)


class ClipDataset(Dataset[dict[str, Tensor]]):
    """Clips by index; the module's docstring says what a clip holds.

    Args:
        pool: folder of the pool (see `Pool`).
        split: "train", "valid" or "test".
        size: pixels, side of the square frames.
        frames: T, at least 1.
        seed: another seed gives other clips.
        mix: shares of all effects.

    Raises:
        FootageError: a pool without this split.
    """

    def __init__(self, pool: Path, split: str, size: int, frames: int, seed: int, mix: Mix | None = None) -> None:
        self.pool = Pool(Path(pool), split)
        self.split, self.size, self.frames, self.seed = split, size, frames, seed
        self.mix = mix or Mix()

    def __len__(self) -> int:
        return LENGTHS[self.split]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        cv2.setNumThreads(1)  # the loader's processes are the parallelism
        key = [self.seed, index, sum(map(ord, self.split)), self.frames]
        scene = _Scene(self.pool, self.mix, self.size, self.frames, np.random.default_rng(key))
        clip = {name: _to_tensor(frames) for name, frames in scene.shoot().items()}
        return clip | {"has_plate": torch.tensor(scene.has_plate)}


def _to_tensor(frames: list[NDArray[Any]]) -> Tensor:
    stacked = np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2), np.float32)
    if frames[0].dtype == np.uint8:
        stacked *= np.float32(1 / 255)
    return torch.from_numpy(stacked)


class _Scene:
    """One clip: its random draws, in a fixed order, and the frames that follow from them."""

    def __init__(self, pool: Pool, mix: Mix, size: int, frames: int, rng: np.random.Generator) -> None:
        self.pool, self.mix, self.size, self.frames, self.rng = pool, mix, size, frames, rng
        self.has_plate = not self._chance(mix.no_plate)
        self.wrong_plate = self.has_plate and self._chance(mix.wrong_plate)
        self.people_only = not self.has_plate or self.wrong_plate
        self.margin = size // 8
        self.camera = self._camera()

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def shoot(self) -> dict[str, list[NDArray[Any]]]:
        """src and bgr as lists of T uint8 frames, pha and fgr as lists of T float32 ones."""
        mix, rng, size = self.mix, self.rng, self.size
        room, room_plate = self._rooms()
        actors = self._actors(room)
        pristine = self._chance(mix.pristine) and not self.wrong_plate
        exact = pristine or (self._chance(mix.exact_plate) and not self.wrong_plate)
        breeze = rng.uniform(0.3, 1.5) * size / 256 if self._chance(mix.breeze) and not exact else 0.0
        shade = self._shade(exact)
        composed = compose_in_light if self._chance(mix.in_linear_light) else compose
        exposure = self._exposure()
        develop = self._film(pristine)
        flicker = rng.uniform(0.003, 0.02) if self._chance(mix.flicker) else 0.0
        look_plate = self._plates(exact)
        lens = rng.uniform(0.4, 1.6) if self._chance(mix.soft_lens) else 0.0
        spill = rng.uniform(0.05, 0.4) if self._chance(mix.spill) else 0.0
        rim = rng.uniform(0.005, 0.03) * size

        found: dict[str, list[NDArray[Any]]] = {"src": [], "bgr": [], "pha": [], "fgr": []}
        pan = rng.uniform(0, 0.8)
        for t in range(self.frames):
            bgr = self._look(room, self.camera(t))
            travel = (self.camera(t + pan) - self.camera(t))[:2, 2]
            bgr = motion_blur(bgr, (float(travel[0]), float(travel[1])))
            if breeze:
                bgr = wobble(bgr, breeze, size / 10, rng)
            layers = [actor.at(t, self.camera, size) for actor in actors]
            layer = reduce(over, layers) if layers else Layer(bgr, np.zeros((size, size, 1), np.float32))
            if lens:
                layer, bgr = filtered(layer, lambda image: blur(image, lens)), blur(bgr, lens)
            if spill:
                layer = spilled(layer, bgr, spill, rim)
            bgr = shade(bgr, layer.pha)
            gain = np.float32(exposure * (1 + flicker * rng.standard_normal()))
            layer, bgr = Layer(np.minimum(layer.fgr * gain, 1), layer.pha), np.minimum(bgr * gain, 1)
            src = composed(layer, bgr)
            found["src"].append(develop(src, False))
            found["pha"].append(layer.pha)
            fgr = np.where(layer.pha > 0, layer.fgr, to_float(found["src"][-1]))
            found["fgr"].append(fgr.astype(np.float32))
        plates: dict[bytes, Bytes] = {}
        for t in range(self.frames):
            matrix = look_plate(t)
            if matrix.tobytes() not in plates:
                plate = self._look(room_plate, matrix)
                if breeze:
                    plate = wobble(plate, breeze, size / 10, rng)
                plate = blur(plate, lens)
                plates[matrix.tobytes()] = self._drifted(np.minimum(plate * np.float32(exposure), 1), exact, develop)
            found["bgr"].append(plates[matrix.tobytes()])
        return found

    # the room ----------------------------------------------------------------------------------------------------

    def _rooms(self) -> tuple[Floats, Floats]:
        """The background as the shot and as the plate have it, larger than the frame by a margin all around."""
        mix, rng = self.mix, self.rng
        side = self.size + 2 * self.margin
        if self._chance(mix.plain_background):
            room = self._plain_room(side)
        else:
            room = to_float(self._crop(side))
            if self._chance(mix.soft_background):
                room = blur(room, float(rng.uniform(0.5, 5) * self.size / 256))
        plate = room
        if self._chance(mix.distractors):
            for _ in range(int(rng.integers(1, 4))):
                room = compose(self._prop(side), room)
            plate = room
        if self._chance(mix.ghost):
            plate = compose(self._prop(side), plate)
        return room, plate

    def _crop(self, side: int) -> Bytes:
        """A square of a photograph, (side, side, 3)."""
        rng = self.rng
        path = self.pool.backgrounds[rng.integers(len(self.pool.backgrounds))]
        zoom = float(np.exp(rng.uniform(0, np.log(2.6))))  # 1 shows the photograph's whole shorter side
        image = self.pool.background(path, side * zoom)
        height, width = image.shape[:2]
        scale = max(side * zoom / min(height, width), side / min(height, width) + 1e-6)
        reach = int(side / scale)
        top, left = rng.integers(height - reach + 1), rng.integers(width - reach + 1)
        piece = cv2.resize(image[top : top + reach, left : left + reach], (side, side), interpolation=cv2.INTER_AREA)
        if self._chance(0.5):
            piece = piece[:, ::-1]
        table = color_table(rng, exposure=0.2, balance=0.08, contrast=0.12, gamma=0.12)
        return apply_table(np.ascontiguousarray(piece), table)

    def _plain_room(self, side: int) -> Floats:
        """A wall, a studio backdrop, a green screen: one colour with a gradient and some unevenness."""
        rng = self.rng
        color = rng.uniform(0.05, 0.95, 3) if self._chance(0.4) else np.full(3, rng.uniform(0.03, 0.97))
        if self._chance(0.2):
            color = np.array([0.1, 0.75, 0.2] if self._chance(0.7) else [0.1, 0.25, 0.8])
        light = 1 + rng.uniform(0, 0.25) * smooth_noise((side, side), side * rng.uniform(0.5, 2), rng)
        texture = rng.uniform(0, 0.02) * smooth_noise((side, side), rng.uniform(1.5, 8), rng)
        return np.asarray(np.clip(color * light + texture, 0, 1), np.float32)

    def _prop(self, side: int) -> Layer:
        kind = self._kind((*PEOPLE, "rendered_clips") if self.people_only else ())
        actor = self._actor(kind, None, side, scale=(0.12, 0.9))
        return actor.at(0, lambda t: np.eye(3), side)

    def _look(self, room: Floats, camera: Matrix) -> Floats:
        """The frame that a camera sees of the room."""
        shift = affine(move=(-self.margin, -self.margin))
        if np.array_equal(camera, np.eye(3)):
            return room[self.margin : -self.margin, self.margin : -self.margin]
        return warp(room, camera @ shift, (self.size, self.size), cv2.BORDER_REFLECT_101)

    def _camera(self) -> Callable[[float], Matrix]:
        """The camera's move from frame 0's view to that at t: still, a hand's tremor, a pan."""
        rng, size = self.rng, self.size
        middle = (size / 2, size / 2)
        if not self._chance(self.mix.moving_camera):
            return lambda t: np.eye(3)
        pan = rng.normal(0, 0.008 * size, 2) * (rng.random() < 0.5)
        shake, rate = rng.normal(0, 0.004 * size, 2), rng.uniform(0.3, 2.5, 2)
        turn, zoom = rng.normal(0, 0.15), rng.normal(0, 0.002)

        def at(t: float) -> Matrix:
            move = pan * t + shake * (np.sin(rate * t))
            return affine(turn * np.sin(rate[0] * t), np.exp(zoom * t), 0, (move[0], move[1]), middle)

        return at

    # the plate ---------------------------------------------------------------------------------------------------

    def _plates(self, exact: bool) -> Callable[[int], Matrix]:
        """Where the plate was taken from, for each frame: the frame's own view, more or less."""
        rng, size = self.rng, self.size
        middle = (size / 2, size / 2)
        if exact:
            return self.camera
        if self.wrong_plate:
            away = rng.uniform(8, 40) * size / 256 * np.array([np.cos(a := rng.uniform(0, 2 * np.pi)), np.sin(a)])
            wrong = affine(rng.normal(0, 1.5), np.exp(rng.normal(0, 0.02)), 0, (away[0], away[1]), middle)
            return (lambda t: wrong @ self.camera(t)) if self._chance(0.5) else (lambda t: wrong)
        if not self._chance(self.mix.misaligned):
            return self.camera
        reach = rng.choice([0.4, 1.5, 5.0], p=[0.6, 0.28, 0.12])
        offset = rng.normal(0, reach / 1.5, 2)
        turn, zoom = rng.normal(0, 0.15), rng.normal(0, 0.0015)
        still = np.array_equal(self.camera(1), np.eye(3))
        errors = np.zeros((self.frames, 2)) if still else rng.normal(0, 0.3 * reach, (self.frames, 2))

        def at(t: int) -> Matrix:
            move = offset + errors[t]
            return affine(turn, np.exp(zoom), 0, (move[0], move[1]), middle) @ self.camera(t)

        return at

    def _drifted(self, plate: Floats, exact: bool, develop: Callable[[Floats, bool], Bytes]) -> Bytes:
        """The plate under another exposure and white balance, with its own noise and focus."""
        rng = self.rng
        if not exact and self._chance(self.mix.drift):
            gain = 1 + rng.uniform(-0.12, 0.12) + rng.uniform(-0.04, 0.04, 3)
            plate = np.clip(plate, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.05))) * gain.astype(np.float32)
            if self._chance(0.2):
                y, x = np.mgrid[-1 : 1 : self.size * 1j, -1 : 1 : self.size * 1j]
                plate = plate * (1 - rng.uniform(0, 0.15) * (x**2 + y**2)[..., None]).astype(np.float32)
        if not exact and self._chance(self.mix.refocused):
            plate = blur(plate, float(rng.uniform(0.3, 1.5)))
        return develop(plate, True)

    # light and film ----------------------------------------------------------------------------------------------

    def _shade(self, exact: bool) -> Callable[[Floats, Floats], Floats]:
        """What the subject does to the light on the background: shadows, contact shadows, soft changes."""
        mix, rng, size = self.mix, self.rng, self.size
        shadows = []
        if self._chance(mix.shadow):
            offset = (float(rng.normal(0, 0.14 * size)), float(rng.uniform(-0.02, 0.12) * size))
            strength = rng.uniform(0.15, 0.85)
            sharpest = 0.001 if self._chance(2 / 3) else 0.02  # the sun's; a window's
            softness = float(np.exp(rng.uniform(np.log(sharpest), np.log(0.08)))) * size
            shadows.append((strength, offset, softness, rng.normal(0, 0.4), rng.uniform(0.3, 1)))
            if self._chance(0.5):
                contact = (0.0, float(rng.uniform(0, 0.02) * size))
                shadows.append((rng.uniform(0.2, 0.7), contact, rng.uniform(0.01, 0.03) * size, 0.0, 1.0))
        tint = (1 + rng.normal(0, 0.05, 3)).astype(np.float32)
        change = None
        if self._chance(mix.light_change) and not exact:
            change = 1 + np.float32(rng.uniform(0.02, 0.08)) * smooth_noise((size, size), size / rng.uniform(1, 3), rng)

        def shade(bgr: Floats, pha: Floats) -> Floats:
            for strength, offset, softness, lean, squash in shadows:
                cast = cast_shadow(pha, offset, softness, lean, squash)
                bgr = bgr * (1 - np.float32(strength) * cast * tint).clip(0, 1)
            return bgr if change is None else bgr * change

        return shade

    def _exposure(self) -> float:
        rng = self.rng
        if self._chance(self.mix.dark_scene):
            return float(rng.uniform(0.25, 0.65))
        return float(rng.uniform(1.1, 1.8)) if self._chance(self.mix.bright_scene) else 1.0

    def _film(self, pristine: bool) -> Callable[[Floats, bool], Bytes]:
        """From light to 8 bits: noise, sharpening, compression; the same camera for shot and plate."""
        if pristine:
            return lambda image, plate: to_bytes(image)
        mix, rng = self.mix, self.rng
        noisy = self._chance(mix.noise)
        read, shot = (rng.uniform(0, 0.02), rng.uniform(0, 0.03)) if noisy else (0.0, 0.0)
        grain = rng.uniform(0.3, 0.9) if self._chance(0.3) else 0.0  # a codec's or demosaicer's softer noise
        plate_noise = rng.uniform(0, 0.3) if self._chance(mix.plate_averaged) else 1.0
        sharpness = rng.uniform(0.2, 0.8) if self._chance(mix.sharpened) else 0.0
        quality = int(rng.integers(45, 96)) if self._chance(mix.compressed) else 0
        plate_quality = quality if self._chance(0.7) else int(rng.integers(60, 98))

        def develop(image: Floats, plate: bool) -> Bytes:
            level = plate_noise if plate else 1.0
            if noisy and level:
                noise = add_noise(image, read * level, shot * level, rng)
                image = image + 2 * blur(noise - image, grain) if grain else noise
            if sharpness:
                image = sharpen(image, sharpness)
            pixels = to_bytes(image)
            return compress(pixels, plate_quality if plate else quality) if quality else pixels

        return develop

    # the subjects ------------------------------------------------------------------------------------------------

    def _kind(self, without: tuple[str, ...]) -> str:
        kinds = [*self.pool.kinds, "drawn", *(["rendered_clips"] if self.pool.clips else [])]
        weights = {kind: getattr(self.mix, kind) for kind in kinds if kind not in without}
        if not weights:
            return "drawn"
        shares = np.array(list(weights.values()))
        return str(self.rng.choice(list(weights), p=shares / shares.sum()))

    def _actors(self, room: Floats) -> list[Actor]:
        mix, rng, size = self.mix, self.rng, self.size
        draw = rng.random()
        count = 0 if draw < mix.no_subject else 1
        if count and draw > 1 - mix.two_subjects - mix.three_subjects:
            count = 3 if draw > 1 - mix.three_subjects else 2
        actors: list[Actor] = []
        for number in range(count):
            if self.people_only:
                kind = self._kind(tuple({*self.pool.kinds, "drawn", "rendered_clips"} - {*PEOPLE}))
            elif number and self._chance(0.5):  # beside or in the hands of the first
                kind = self._kind(FIGURES)
            else:
                kind = self._kind(())
            actors.append(self._actor(kind, room, size))
        return actors

    def _actor(self, kind: str, room: Floats | None, size: int, scale: tuple[float, float] = (0.3, 1.9)) -> Actor:
        """A subject of a kind.

        Args:
            room: what it may be coloured like; None for a prop, which stays where it is.
            size: pixels of the frame.
            scale: range of its longer side, as a share of the frame's.
        """
        mix, rng = self.mix, self.rng
        figure = kind in FIGURES
        if room is not None and self._chance(mix.fills_frame):
            share = rng.uniform(1.6, 2.6)
        elif figure:
            share = np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1])))
        else:
            share = np.exp(rng.uniform(np.log(0.1), np.log(min(1.3, scale[1]))))
        longest = share * size
        if kind == "drawn":
            images = [procedural.draw(self._crop(int(np.clip(longest, 64, 1.25 * size))), rng)]
        elif kind == "rendered_clips":
            files = self.pool.clips[rng.integers(len(self.pool.clips))]
            first, step = int(rng.integers(len(files))), int(rng.choice([-1, 1]))
            there_and_back = [*range(len(files)), *range(len(files) - 2, 0, -1)]
            order = [there_and_back[(first + step * t) % len(there_and_back)] for t in range(self.frames)]
            images = [self.pool.subject(files[number], longest) for number in order]
        else:
            files = self.pool.kinds[kind]
            images = [self.pool.subject(files[rng.integers(len(files))], longest)]
        # asked first: a chance of 0 would draw, too, and change all clips that are made without
        if mix.loose_hairs and (figure or kind == "drawn") and len(images) == 1 and self._chance(mix.loose_hairs):
            before = max(images[0].shape[:2])
            images = [procedural.loose_hairs(images[0], rng)]
            longest *= max(images[0].shape[:2]) / before
        if mix.pierced and len(images) == 1 and self._chance(mix.pierced):
            images = [procedural.pierce(images[0], rng)]
        if self._chance(mix.thinned) and len(images) == 1:
            images = [procedural.thin_out(images[0], rng)]
        height, width = images[0].shape[:2]
        matrix = self._stand(figure, width, height, longest, size)
        moving = room is not None and self._chance(0.75)
        table = color_table(rng, exposure=0.2, balance=0.06, contrast=0.1, gamma=0.12)
        if room is not None and self._chance(mix.camouflage):
            table = self._camouflage(images[0], matrix, room)
        return Actor(
            images,
            self._path(matrix, width, height, size) if moving else lambda t: matrix,
            table,
            float(rng.uniform(0.4, 1.4)) if self._chance(0.4) else 1.0,
            float(rng.uniform(-180, 180) if kind in ("objects", "drawn") else rng.normal(0, 12)) * self._chance(0.3),
            float(rng.uniform(0, 1)) if self._chance(0.6) else 0.0,
            float(rng.uniform(0.5, 3.5) * size / 256) if self._chance(0.1) else 0.0,
        )

    def _stand(self, figure: bool, width: int, height: int, longest: float, size: int) -> Matrix:
        """Where it is at frame 0: figures mostly upright and down to the frame's edge, things anywhere."""
        rng = self.rng
        middle = (width / 2, height / 2)
        scale = longest / max(width, height)
        tall = height * scale
        turn = rng.normal(0, 5) if figure else rng.normal(0, 25) if self._chance(0.8) else rng.uniform(0, 360)
        x = rng.uniform(0.15, 0.85) * size
        if figure and self._chance(0.7):
            y = size * rng.uniform(0.9, 1.05) - tall / 2 if tall < size else size * rng.uniform(0, 0.15) + tall / 2
        else:
            y = rng.uniform(0.1, 0.9) * size
        if self._chance(0.1):  # on its way in or out
            x = rng.choice([-0.1, 1.1]) * size
        move = (x - middle[0], y - middle[1])
        return affine(turn, scale, rng.normal(0, 0.05), move, middle, mirror=self._chance(0.5))

    def _path(self, start: Matrix, width: int, height: int, size: int) -> Callable[[float], Matrix]:
        """From its place at frame 0 on: drifting, turning, growing, swaying."""
        rng = self.rng
        speed = rng.choice([0.004, 0.015, 0.05], p=[0.4, 0.45, 0.15]) * size
        velocity, turn, growth = rng.normal(0, speed, 2) * [1, 0.5], rng.normal(0, 0.8), rng.normal(0, 0.008)
        sway, rate, phase = rng.normal(0, 0.01), rng.uniform(0.2, 1.5), rng.uniform(0, 6)
        foot = (start @ [width / 2, height, 1])[:2]

        def at(t: float) -> Matrix:
            lean = sway * (np.sin(rate * t + phase) - np.sin(phase))
            move = velocity * t
            return affine(turn * t, np.exp(growth * t), lean, (move[0], move[1]), (foot[0], foot[1])) @ start

        return at

    def _camouflage(self, image: Bytes, matrix: Matrix, room: Floats) -> Bytes:
        """A tone curve that gives the subject the brightness and contrast of what is behind it."""
        height, width = image.shape[:2]
        corners = matrix @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
        left, top = np.clip(corners[:2].min(1) + self.margin, 0, room.shape[0] - 8).astype(int)
        right, bottom = np.clip(corners[:2].max(1) + self.margin, 8, room.shape[0]).astype(int)
        behind = room[top : max(bottom, top + 8), left : max(right, left + 8)]
        step = max(1, max(height, width) // 64)
        seen = image[::step, ::step].reshape(-1, 4)
        seen = seen[seen[:, 3] > 127, :3] if (seen[:, 3] > 127).any() else seen[:, :3]
        mean, spread = seen.mean(0) / 255, seen.std() / 255 + 0.02
        target, target_spread = behind.mean((0, 1)), behind.std() + 0.02
        strength = self.rng.uniform(0.6, 1)
        ratio = np.clip(target_spread / spread, 0.4, 1.6) ** strength
        values = np.linspace(0, 1, 256)[:, None]
        matched = (values - mean) * ratio + mean + strength * (target - mean)
        return np.asarray((255 * matched.clip(0, 1)).round(), np.uint8)
