# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool of subjects and photographs on disk, decoded once into memory-mapped pyramids that all processes share.

POOL/{train,valid,test}/KIND/NAME.png are subjects (straight RGBA), rendered_clips/NAME/*.png moving ones, and
backgrounds/NAME.jpg photographs; see scripts/fetch_data.py and scripts/render_dataset.py, which make it.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import FootageError
from .split import SPLITS

Bytes = NDArray[np.uint8]  # (H, W, 3) RGB or (H, W, 4) straight RGBA, sRGB-encoded

# Kinds of the pictures in rendered/, by the first word of the name that scripts/render_dataset.py gives them.
RENDERED = {
    "hair": "rendered_people",
    "held": "rendered_people",
    "person": "rendered_people",
    "fur": "rendered_fur",
    "glass": "rendered_glass",
}
SMALLEST_LEVEL = 96  # pixels, longer side


class Pool:
    """One split of the pool.

    Args:
        root: the pool's folder; decoded images go to its `.cache`.
        split: "train", "valid" or "test".

    Attributes:
        kinds: the subjects' files by folder; those in rendered/ by RENDERED, or else as "rendered_things".
        clips: the frames' files of each moving subject.
        backgrounds: the photographs' files.

    Raises:
        FootageError: no such split, or one without subjects or without photographs.
    """

    def __init__(self, root: Path, split: str) -> None:
        if split not in SPLITS:
            raise FootageError(f"a split among {', '.join(SPLITS)}", f"'{split}'", "Name one of them")
        self.root = root
        folder = root / split
        self.kinds: dict[str, list[Path]] = {}
        for path in sorted(folder.glob("*/*.png")):
            kind = path.parent.name
            if kind == "rendered":
                kind = RENDERED.get(path.name.split("-")[0], "rendered_things")
            if kind != "backgrounds":
                self.kinds.setdefault(kind, []).append(path)
        self.clips = [
            frames for clip in sorted(folder.glob("rendered_clips/*")) if (frames := sorted(clip.glob("*.png")))
        ]
        self.backgrounds = sorted([*folder.glob("backgrounds/*.jpg"), *folder.glob("backgrounds/*.png")])
        if not (self.kinds or self.clips) or not self.backgrounds:
            raise FootageError(
                "subjects (KIND/*.png) and photographs (backgrounds/*.jpg)",
                f"{sum(map(len, self.kinds.values()))} and {len(self.backgrounds)} in {folder}",
                "Make the pool with scripts/fetch_data.py",
            )

    def subject(self, path: Path, longest: float) -> Bytes:
        """A subject (h, w, 4), the smallest stored size whose longer side is at least `longest` pixels.

        Its colour continues where alpha is 0, so colour and alpha may be resampled separately without a dark rim.
        """
        return self._level(path, longest, longer=True)

    def background(self, path: Path, shortest: float) -> Bytes:
        """A photograph (h, w, 3), the smallest stored size whose shorter side is at least `shortest` pixels."""
        return self._level(path, shortest, longer=False)

    def _level(self, path: Path, wanted: float, longer: bool) -> Bytes:
        levels = _open_pyramid(self.root, path)
        side = max if longer else min
        fitting = [level for level in levels if side(level.shape[:2]) >= wanted]
        return fitting[-1] if fitting else levels[0]


@lru_cache(maxsize=512)  # open files, not pixels: the system's page cache holds those
def _open_pyramid(root: Path, path: Path) -> list[Bytes]:
    """All sizes of an image, each half of the one before; made on first use, by whichever process comes first."""
    stored = (root / ".cache" / path.relative_to(root)).with_suffix("")
    levels = sorted(stored.glob("*.npy"))
    if not levels or levels[0].stat().st_mtime < path.stat().st_mtime:
        stored.mkdir(parents=True, exist_ok=True)
        made = [(stored / f"{number}.npy", level) for number, level in enumerate(make_pyramid(read_pixels(path)))]
        for name, level in reversed(made):  # level 0 last: with it the pyramid is whole
            partial = name.with_name(f"{name.name}.{os.getpid()}")
            with open(partial, "wb") as file:
                np.save(file, level)
            partial.replace(name)
        levels = [name for name, _ in made]
    return [np.load(level, mmap_mode="r") for level in levels]


def read_pixels(path: Path) -> Bytes:
    """An 8-bit image file as (H, W, 3) RGB, or (H, W, 4) straight RGBA where it has an alpha.

    Raises:
        FootageError: not an image.
    """
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3:
        raise FootageError("a colour image", f"{path}, which is not one", "Remove the file from the pool")
    if image.dtype == np.uint16:
        image = (image / 257).round().astype(np.uint8)
    swap = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(image, swap), np.uint8)


def make_pyramid(image: Bytes) -> list[Bytes]:
    """The image and its halves down to SMALLEST_LEVEL; colours of RGBA averaged by alpha and extended."""
    levels = [extend_colors(image) if image.shape[2] == 4 else image]
    while max(levels[-1].shape[:2]) >= 2 * SMALLEST_LEVEL:
        level = levels[-1]
        size = (max(1, level.shape[1] // 2), max(1, level.shape[0] // 2))
        if level.shape[2] == 4:
            alpha = level[..., 3:].astype(np.float32)
            small = cv2.resize(np.dstack([level[..., :3] * alpha, alpha]), size, interpolation=cv2.INTER_AREA)
            small[..., :3] = small[..., :3] / np.maximum(small[..., 3:], 1e-3)
            levels.append(extend_colors(small.round().clip(0, 255).astype(np.uint8)))
        else:
            levels.append(np.asarray(cv2.resize(level, size, interpolation=cv2.INTER_AREA), np.uint8))
    return levels


def extend_colors(image: Bytes) -> Bytes:
    """Continue the colour of straight RGBA (H, W, 4) smoothly to where alpha is below 4/255 (pull-push)."""
    alpha = image[..., 3:].astype(np.float32) / 255
    known = np.where(alpha >= 4 / 255, alpha, 0)
    pyramid = [np.dstack([image[..., :3] * known, known])]
    while min(pyramid[-1].shape[:2]) > 1:
        height, width = pyramid[-1].shape[:2]
        pyramid.append(cv2.resize(pyramid[-1], ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA))
    filled = pyramid[-1][..., :3] / np.maximum(pyramid[-1][..., 3:], 1e-6)
    for level in reversed(pyramid[:-1]):
        height, width = level.shape[:2]
        coarse = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, 3)
        weight = level[..., 3:]
        own = level[..., :3] / np.maximum(weight, 1e-6)
        trust = np.minimum(weight * 255 / 4, 1)
        filled = own * trust + coarse * (1 - trust)
    colors = np.where(known > 0, image[..., :3], filled.round().clip(0, 255))
    return np.dstack([colors, image[..., 3]]).astype(np.uint8)
