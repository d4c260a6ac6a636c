# SPDX-License-Identifier: GPL-3.0-or-later
"""Small footage that tests make for themselves."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from core.threads import wait_briefly  # noqa: E402

wait_briefly()

import av  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from core import frame_io  # noqa: E402


class Shot:
    """A textured plate of 96 x 64, and frames in which a bright disc moves over it."""

    width, height = 96, 64

    def __init__(self) -> None:
        random = np.random.default_rng(3)
        ramp = np.linspace(40, 160, self.width, dtype=np.float32)[None, :, None]
        self.plate = np.clip(ramp + random.normal(0, 12, (self.height, self.width, 3)), 0, 255).astype(np.uint8)

    def frame(self, index: int) -> np.ndarray:
        """(64, 96, 3) uint8; the disc's centre moves 3 pixels a frame."""
        y, x = np.mgrid[: self.height, : self.width]
        inside = (x - 20 - 3 * index) ** 2 + (y - 32) ** 2 < 15**2
        return np.where(inside[..., None], np.uint8([235, 60, 200]), self.plate).astype(np.uint8)

    def write_plate(self, path: Path) -> Path:
        frame_io.write_image(path, self.plate)
        return path

    def write_sequence(self, folder: Path, first: int = 1, count: int = 5) -> Path:
        """Numbered PNGs; returns the first."""
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            frame_io.write_image(folder / f"shot.{first + i:04d}.png", self.frame(i))
        return folder / f"shot.{first:04d}.png"

    def write_movie(self, path: Path, count: int = 5, times: list[int] | None = None) -> Path:
        """A lossless RGB movie at 24 frames a second; `times` places the frames elsewhere than at 0, 1, 2 ..."""
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=24)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, "bgr0"
            for i in range(count):
                picture = av.VideoFrame.from_ndarray(self.frame(i), format="rgb24")
                picture.pts = times[i] if times else i
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        return path


@pytest.fixture(scope="session")
def shot() -> Shot:
    return Shot()
