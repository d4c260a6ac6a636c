# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of foregrounds, alphas and backgrounds, composed and augmented as in Lin et al. 2021, section 4.

A folder holds images (PNG, JPEG, EXR and what else OpenImageIO reads), movies, or folders of both; a movie counts as
its frames. The public sets' layouts work as they are: VideoMatte240K's fgr/ and pha/, Distinctions-646, backgrounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..color import to_dtype, to_float, to_srgb
from ..errors import FootageError
from ..footage import IMAGE_EXTENSIONS, MOVIE_EXTENSIONS
from ..frame_io import open_file
from .augmentation import (
    Floats,
    Matrix,
    add_noise,
    affine,
    apply_table,
    blur,
    cast_shadow,
    color_table,
    recolor,
    sharpen,
    warp,
)
from .compositing import Layer, compose, place
from .pool import Bytes


class Picture(NamedTuple):
    """An image file, or one frame of a movie."""

    path: Path
    number: int  # of the frame; 1 for an image

    def __str__(self) -> str:
        return f"{self.path}" if self.path.suffix.lower() in IMAGE_EXTENSIONS else f"{self.path} frame {self.number}"


def find_pictures(path: Path) -> list[Picture]:
    """All images and movie frames of a file or folder, sorted by path; names that begin with a dot are left out.

    Raises:
        FootageError: nothing there.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.*"))
    pictures: list[Picture] = []
    for file in files:
        if file.name.startswith("."):
            continue
        if file.suffix.lower() in IMAGE_EXTENSIONS:
            pictures.append(Picture(file, 1))
        elif file.suffix.lower() in MOVIE_EXTENSIONS:
            pictures.extend(Picture(file, number) for number in open_file(file).numbers)
    if not pictures:
        raise FootageError("a folder with images or movies", f"none in {path}", "Check the path")
    return pictures


def match_pictures(fgr: list[Picture], pha: list[Picture], fgr_path: Path, pha_path: Path) -> None:
    """Check that foregrounds and alphas, each in sorted order, are one for one.

    Raises:
        FootageError: counts that differ; the message names files that have no partner.
    """
    if len(fgr) == len(pha):
        return

    def keys(pictures: list[Picture], root: Path) -> dict[tuple[str, int], Picture]:
        base = root if root.is_dir() else root.parent
        return {(p.path.relative_to(base).with_suffix("").as_posix(), p.number): p for p in pictures}

    by_fgr, by_pha = keys(fgr, fgr_path), keys(pha, pha_path)
    alone = [by_fgr[key] for key in by_fgr.keys() - by_pha.keys()] + [
        by_pha[key] for key in by_pha.keys() - by_fgr.keys()
    ]
    named = ", ".join(sorted(map(str, alone))[:10])
    raise FootageError(
        "as many foregrounds as alphas",
        f"{len(fgr)} in {fgr_path} and {len(pha)} in {pha_path}; without a partner: {named}",
        "Add or remove these files",
    )


def read_picture(picture: Picture) -> Bytes:
    """RGB (H, W, 3), sRGB-encoded, 8 bit; EXR is taken for scene-linear."""
    (_, frame) = next(_frames(picture))
    return np.asarray(to_dtype(to_float(to_srgb(frame.pixels, frame.color_space)), np.dtype(np.uint8)), np.uint8)


def read_alpha(picture: Picture) -> Bytes:
    """Alpha (H, W), 8 bit: the first channel as it is, without any decoding."""
    (_, frame) = next(_frames(picture))
    return np.asarray(to_dtype(to_float(frame.pixels[..., 0]), np.dtype(np.uint8)), np.uint8)


def _frames(picture: Picture) -> Iterator[Any]:
    return open_file(picture.path).frames([picture.number])


class ImagePairDataset(Dataset[dict[str, Tensor]]):
    """Composites of foreground and alpha pairs over backgrounds.

    An item holds float32 tensors, sRGB-encoded, 0 to 1: src, bgr, fgr (3, size, size) and pha (1, size, size).
    With `augment` the background and all augmentations are drawn from torch's generator (a worker's own in a
    loader), so that every epoch differs and a seeded run repeats; without, item i is always the same and exact.

    Args:
        fgr_path, pha_path: files or folders, matched in sorted order.
        bgr_path: file or folder of backgrounds.
        size: pixels, side of an item.
        seed: of all random draws; without `augment` it shifts the order of the backgrounds.

    Raises:
        FootageError: an empty folder, or foregrounds and alphas that differ in number.
    """

    def __init__(self, fgr_path: Path, pha_path: Path, bgr_path: Path, size: int, seed: int, augment: bool) -> None:
        self.fgr, self.pha, self.bgr = map(find_pictures, (fgr_path, pha_path, bgr_path))
        match_pictures(self.fgr, self.pha, fgr_path, pha_path)
        self.size, self.seed, self.augment = size, seed, augment

    def __len__(self) -> int:
        return len(self.fgr)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        draw = int(torch.randint(2**31, ()).item()) if self.augment else index
        rng = np.random.default_rng([self.seed, draw, int(self.augment)])
        fgr, pha = read_picture(self.fgr[index]), read_alpha(self.pha[index])
        if fgr.shape[:2] != pha.shape:
            raise FootageError(
                f"an alpha of the foreground's size, {fgr.shape[1]} x {fgr.shape[0]}",
                f"{self.pha[index]} of {pha.shape[1]} x {pha.shape[0]}",
                "Scale one of them",
            )
        behind = self.bgr[int(rng.integers(len(self.bgr))) if self.augment else (index + self.seed) % len(self.bgr)]
        images = self._compose(np.dstack([fgr, pha]), read_picture(behind), rng)
        return {
            name: torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))) for name, image in images.items()
        }

    def _compose(self, subject: Bytes, bgr: Bytes, rng: np.random.Generator) -> dict[str, Floats]:
        size = (self.size, self.size)
        cut, cover = _shrunk(subject, self.size)
        if not self.augment:
            layer = place(cut, cover, size)
            room, cover = _shrunk(bgr, self.size)
            plate = to_float(warp(room, cover, size, cv2.BORDER_REPLICATE))
            return _finished(compose(layer, plate), plate, layer)

        layer = place(
            cut,
            _moved(self.size, rng, (0.4, 1.0)) @ cover,
            size,
            color_table(rng, exposure=0.1, balance=0.03, contrast=0.1, gamma=0.08),
            saturation=float(rng.uniform(0.85, 1.15)),
            hue=float(rng.uniform(-15, 15)),
        )
        room, cover = _shrunk(bgr, self.size, zoom=2.0)
        tinted = apply_table(room, color_table(rng, exposure=0.1, balance=0.03, contrast=0.1, gamma=0.08))
        moved = warp(tinted, _moved(self.size, rng, (1.0, 2.0)) @ cover, size, cv2.BORDER_REFLECT_101)
        plate = recolor(to_float(moved), float(rng.uniform(0.85, 1.15)), float(rng.uniform(-15, 15)))
        behind = plate
        if rng.random() < 0.3:
            offset = (float(rng.normal(0, 0.05)) * self.size, float(rng.uniform(0, 0.08)) * self.size)
            strength, softness = np.float32(rng.uniform(0.2, 0.7)), float(rng.uniform(0.01, 0.06)) * self.size
            behind = plate * (1 - strength * cast_shadow(layer.pha, offset, softness))
        if rng.random() < 0.05:
            radius = float(rng.uniform(0.5, 2))
            behind, plate = blur(behind, radius), blur(plate, radius)
        src = compose(layer, behind)
        if rng.random() < 0.05:
            amount = float(rng.uniform(0.2, 0.8))
            src, plate = sharpen(src, amount), sharpen(plate, amount)
        if rng.random() < 0.8:
            table = color_table(rng, exposure=0.06, balance=0.02, contrast=0.05, gamma=0.04)
            plate = to_float(apply_table((255 * plate.clip(0, 1)).round().astype(np.uint8), table))
        if rng.random() < 0.3:
            move = rng.normal(0, 1.5, 2)
            middle = (self.size / 2, self.size / 2)
            off = affine(float(rng.normal(0, 0.3)), float(rng.normal(1, 0.002)), 0, (move[0], move[1]), middle)
            plate = warp(plate, off, size, cv2.BORDER_REFLECT_101)
        if rng.random() < 0.6:
            read, shot = float(rng.uniform(0, 0.02)), float(rng.uniform(0, 0.02))
            src, plate = add_noise(src, read, shot, rng), add_noise(plate, read, shot, rng)
        return _finished(src, plate, layer)


def _finished(src: Floats, bgr: Floats, layer: Layer) -> dict[str, Floats]:
    images = {"src": src, "bgr": bgr, "pha": layer.pha, "fgr": layer.fgr}
    return {name: np.clip(image, 0, 1).astype(np.float32) for name, image in images.items()}


def _shrunk(image: NDArray[np.uint8], size: int, zoom: float = 1.0) -> tuple[Bytes, Matrix]:
    """An image no more than `zoom` times as large as covers a square, and the matrix that centres it there."""
    scale = size * zoom / min(image.shape[:2])
    if scale < 1:
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    height, width = image.shape[:2]
    middle = ((width - 1) / 2, (height - 1) / 2)
    move = ((size - 1) / 2 - middle[0], (size - 1) / 2 - middle[1])
    return image, affine(0, size / min(height, width), 0, move, middle)


def _moved(size: int, rng: np.random.Generator, scale: tuple[float, float]) -> Matrix:
    """The paper's random affine: 5 degrees, a tenth of the frame, a shear of 5 degrees, mirrored or not."""
    move = rng.uniform(-0.1, 0.1, 2) * size
    return affine(
        float(rng.uniform(-5, 5)),
        float(rng.uniform(*scale)),
        float(np.tan(np.deg2rad(rng.uniform(-5, 5)))),
        (move[0], move[1]),
        ((size - 1) / 2, (size - 1) / 2),
        mirror=bool(rng.random() < 0.5),
    )
