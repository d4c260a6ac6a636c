# SPDX-License-Identifier: GPL-3.0-or-later
"""A small data set to train on: `python tests/training_data.py DATA`.

DATA/{train,valid}/{fgr,pha,bgr} hold bright, soft-edged, textured ellipses and darker backgrounds of 96 pixels;
DATA/cases is four composites of others for scripts/evaluate.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

from core.frame_io import write_image

SIDE = 96  # pixels


def make_data(data: Path) -> Path:
    """Write the data set, always the same; return its folder."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 160), ("valid", 6)):
        for index in range(count):
            fgr, pha = _subject(rng)
            _write(data / split / "fgr" / f"{index:03d}.png", fgr)
            _write(data / split / "pha" / f"{index:03d}.png", pha)
            if index < 40:
                _write(data / split / "bgr" / f"{index:03d}.png", _background(rng))
    for index in range(4):
        (fgr, pha), bgr = _subject(rng), _background(rng)
        pictures = {"src": pha[..., None] * fgr + (1 - pha[..., None]) * bgr, "bgr": bgr, "pha": pha, "fgr": fgr}
        for kind, picture in pictures.items():
            _write(data / "cases" / kind / f"{index}.png", picture)
    return data


def _subject(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Colour (H, W, 3) and alpha (H, W), 0 to 1."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    center, radius = rng.uniform(0.4, 0.6, 2), rng.uniform(0.3, 0.5, 2)
    distance = np.hypot((x - center[0]) / radius[0], (y - center[1]) / radius[1])
    texture = cv2.resize(rng.uniform(-0.3, 0.3, (24, 24, 3)), (SIDE, SIDE))
    return (rng.uniform(0.6, 1, 3) + texture).clip(0, 1), ((1 - distance) * 8 + 0.5).clip(0, 1)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Darker than the subjects, so that a hundred steps teach something."""
    return cv2.resize(rng.uniform(0, 0.6, (12, 12, 3)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.rint(image * 255).astype(np.uint8))


if __name__ == "__main__":
    make_data(Path(sys.argv[1]))
