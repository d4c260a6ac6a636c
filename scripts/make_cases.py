# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the evaluation cases from the pool's test split: always the same, with four kinds of plate.

    python scripts/make_cases.py --pool /data/pool --output /data/cases

OUTPUT/{people,objects,hair,glass,empty,clips}-{exact,realistic,hard,sun}/{src,bgr,pha,fgr}/NAME.png, for clips
NAME/0001.png and so on: what scripts/evaluate.py reads. All levels show the same subjects.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from core.data import procedural
from core.data.augmentation import Floats, Matrix, add_noise, affine, blur, cast_shadow, compress, to_bytes, warp
from core.data.compositing import Layer, compose, over, place
from core.data.pool import Bytes, Pool
from core.errors import ending_in_words
from core.frame_io import write_image

MARGIN = 32  # pixels of background around the frame, so that a plate that is off has something to show


@dataclass(frozen=True)
class Level:
    """How far plate and shot are from the ideal."""

    noise: float = 0.0  # deviation, 0 to 1
    drift: float = 0.0  # relative gain of the plate
    offset: float = 0.0  # pixels between plate and shot
    turn: float = 0.0  # degrees between them
    shadow: float = 0.0  # share of light that the subject takes from the background
    softness: float = 0.0  # of the shadow, by the frame's height
    jpeg: int = 0  # quality; 0 is uncompressed


LEVELS = {
    "exact": Level(),
    "realistic": Level(noise=0.01, drift=0.04, offset=0.7, shadow=0.3, softness=0.05, jpeg=92),
    "hard": Level(noise=0.02, drift=0.10, offset=3.0, turn=0.3, shadow=0.65, softness=0.02, jpeg=85),
    "sun": Level(noise=0.01, drift=0.04, offset=0.7, shadow=0.6, softness=0.002, jpeg=92),
}


@dataclass(frozen=True)
class Take:
    """One case before plate and camera spoil it: images of subjects, each with its way through the frame."""

    name: str
    background: Path
    actors: tuple[tuple[tuple[Bytes, ...], Callable[[int], Matrix]], ...]
    frames: int = 0  # 0 is a still


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--size", type=_size, default=(1280, 720), help="WIDTHxHEIGHT of every case")
    parser.add_argument("--frames", type=int, default=12, help="length of every clip")
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=list(SETS))
    return parser.parse_args(argv)


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = map(int, text.split("x"))
        if width < 1 or height < 1:
            raise ValueError
        return width, height
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, such as 1280x720; got {text!r}") from None


def _seeded_by(name: str) -> np.random.Generator:
    """A generator that depends on the case's name alone, so that a new case changes no other."""
    return np.random.default_rng(list(hashlib.sha256(name.encode()).digest()[:16]))


# the sets ------------------------------------------------------------------------------------------------------------


class Stage:
    """Places subjects of the pool before its photographs, in turn."""

    def __init__(self, pool: Pool, size: tuple[int, int], frames: int) -> None:
        self.pool, self.size, self.frames = pool, size, frames
        self._next = 0

    def backdrop(self) -> Path:
        """The photographs one after the other, in an order that does not follow their names."""
        ordered = sorted(self.pool.backgrounds, key=lambda path: hashlib.sha256(path.name.encode()).digest())
        self._next += 1
        return ordered[(self._next - 1) % len(ordered)]

    def figures(self, *kinds: str, prefix: tuple[str, ...] = ("",)) -> list[Path]:
        """Subjects of the given kinds whose names begin with one of `prefix`."""
        return [path for kind in kinds for path in self.pool.kinds.get(kind, []) if path.name.startswith(prefix)]

    def spread(self, kind: str, count: int) -> list[Path]:
        """At most `count` subjects of a kind, from all over its list."""
        found = self.figures(kind)
        return found[:: -(-len(found) // count) or 1]

    def standing(self, image: Bytes, name: str, height: float) -> Matrix:
        """Down to the frame's lower edge, `height` of the frame tall as far as its pixels reach, left to right."""
        rng = _seeded_by(name)
        scale = min(height * self.size[1] / image.shape[0], 1.1, 0.9 * self.size[0] / image.shape[1])
        x = rng.uniform(0.3, 0.7) * self.size[0]
        y = self.size[1] + 2 - image.shape[0] * scale / 2
        return self._put(image, scale, x, y, rng.random() < 0.5)

    def hanging(self, image: Bytes, name: str, height: float) -> Matrix:
        """Somewhere inside the frame, turned a little."""
        rng = _seeded_by(name)
        scale = min(height * self.size[1] / max(image.shape[:2]), 1.6)
        x, y = rng.uniform(0.3, 0.7) * self.size[0], rng.uniform(0.4, 0.6) * self.size[1]
        return self._put(image, scale, x, y, rng.random() < 0.5, float(rng.normal(0, 8)))

    def close(self, image: Bytes, name: str) -> Matrix:
        """So large that its pixels are the frame's, its upper end a little below the frame's."""
        scale = max(1.0, 0.95 * self.size[1] / image.shape[0])
        y = 0.06 * self.size[1] + image.shape[0] * scale / 2
        return self._put(image, scale, _seeded_by(name).uniform(0.4, 0.6) * self.size[0], y, False)

    def _put(self, image: Bytes, scale: float, x: float, y: float, mirror: bool, angle: float = 0.0) -> Matrix:
        middle = ((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2)
        return affine(angle, scale, 0, (x - middle[0], y - middle[1]), middle, mirror)

    def still(self, name: str, *actors: tuple[Bytes, Matrix]) -> Take:
        """A take of one frame."""
        return Take(name, self.backdrop(), tuple(((image,), _stay(matrix)) for image, matrix in actors))


def _stay(matrix: Matrix) -> Callable[[int], Matrix]:
    return lambda t: matrix


def people(stage: Stage) -> Iterable[Take]:
    """Real people twice each, once with a thing beside or before them; rendered ones once."""
    things = stage.figures("stamps", prefix=PHOTOGRAPHED)
    for number, path in enumerate(stage.figures("people")):
        image = stage.pool.subject(path, 4096)
        yield stage.still(path.stem, (image, stage.standing(image, path.stem, 0.92)))
        name = f"{path.stem}-with-thing"
        thing = stage.pool.subject(things[(5 * number + 3) % len(things)], 4096)
        held = stage.hanging(thing, name, 0.4)
        yield stage.still(name, (thing, held), (image, stage.standing(image, name, 0.8)))
    for path in stage.spread("rendered_people", 8):
        image = stage.pool.subject(path, 4096)
        yield stage.still(path.stem, (image, stage.standing(image, path.stem, 0.95)))


PHOTOGRAPHED = (
    "animals_birds-heron",
    "animals_mammals-giraffe",
    "animals_mammals_bovines-gnu-stand",
    "animals_mammals_deer",
    "animals_mammals_equines-zebra",
    "animals_mammals_rodents-rabbit.",
    "hobbies_music_string-violin",
    "household_tools-plyers",
    "plants-lavender",
    "plants_flowers-chemparathi",
    "plants_trees-birch",
    "plants_trees-liberia-palm",
    "vehicles-7spoke256",
)


def objects(stage: Stage) -> Iterable[Take]:
    """Animals, plants and things; photographed, rendered, and a few of the soft-edged drawn ones."""
    for path in stage.figures("animals"):
        image = stage.pool.subject(path, 4096)
        yield stage.still(path.stem, (image, stage.standing(image, path.stem, 0.8)))
    rendered = [*stage.spread("rendered_things", 8), *stage.spread("rendered_fur", 3)]
    for path in [*stage.figures("stamps", prefix=PHOTOGRAPHED), *stage.spread("objects", 4), *rendered]:
        image = stage.pool.subject(path, 4096)
        yield stage.still(path.stem, (image, stage.hanging(image, path.stem, 0.75)))


def hair(stage: Stage) -> Iterable[Take]:
    """Hair and fur, pixel by pixel."""
    heads = stage.figures("people", prefix=("person-09", "person-51", "person-d6"))
    for path in [
        *heads,
        *stage.figures("animals"),
        *stage.spread("rendered_people", 5),
        *stage.spread("rendered_fur", 3),
    ]:
        image = stage.pool.subject(path, 4096)
        if image.shape[0] >= 0.5 * stage.size[1]:  # a small picture made large has no hair to measure
            yield stage.still(path.stem, (image, stage.close(image, path.stem)))


def glass(stage: Stage) -> Iterable[Take]:
    """Things that let the background through: rendered with their true transmission, and drawn veils and panes."""
    for name, draw in [("veil", procedural.veil), ("pane", procedural.glass)]:
        for number in range(3):
            rng = _seeded_by(f"{name}{number}")
            texture = stage.pool.background(stage.backdrop(), 700)[:700, :700]
            side = min(texture.shape[:2])
            image = draw(np.ascontiguousarray(texture[:side, :side]), rng)
            yield stage.still(f"{name}-{number}", (image, stage.hanging(image, f"{name}{number}", 0.9)))
    for path in stage.spread("rendered_glass", 8):
        image = stage.pool.subject(path, 4096)
        yield stage.still(path.stem, (image, stage.hanging(image, path.stem, 0.85)))


def empty(stage: Stage) -> Iterable[Take]:
    """Nothing but the background."""
    for number in range(4):
        yield stage.still(f"empty-{number}")


def clips(stage: Stage) -> Iterable[Take]:
    """A person walking by, one who only sways before a sensor's noise, an animal crossing; rendered ones."""
    walker, swayer = stage.figures("people")[:2]
    animal = stage.figures("animals")[0]
    frame = stage.size[0]

    def walk(start: Matrix) -> Callable[[int], Matrix]:
        return lambda t: affine(move=(0.02 * frame * t - 0.12 * frame, 4 * float(np.sin(1.1 * t)))) @ start

    def sway(start: Matrix) -> Callable[[int], Matrix]:
        return lambda t: affine(0.6 * float(np.sin(0.5 * t)), about=(frame / 2, stage.size[1])) @ start

    def cross(start: Matrix) -> Callable[[int], Matrix]:
        return lambda t: affine(move=(0.75 * frame - 0.06 * frame * t, 0)) @ start

    for name, path, move in (("walk", walker, walk), ("sway", swayer, sway), ("cross", animal, cross)):
        image = stage.pool.subject(path, 4096)
        way = move(stage.standing(image, name, 0.85))
        yield Take(name, stage.backdrop(), (((image,), way),), stage.frames)
    for frames in stage.pool.clips[:2]:
        images = tuple(stage.pool.subject(path, 4096) for path in frames[: stage.frames])
        name = frames[0].parent.name
        way = _stay(stage.standing(images[0], name, 0.95))
        yield Take(name, stage.backdrop(), ((images, way),), len(images))


SETS: dict[str, Callable[[Stage], Iterable[Take]]] = {
    "people": people,
    "objects": objects,
    "hair": hair,
    "glass": glass,
    "empty": empty,
    "clips": clips,
}


# from a take to its files --------------------------------------------------------------------------------------------


def photograph(pool: Pool, path: Path, size: tuple[int, int]) -> Floats:
    """The middle of a photograph, filling the frame and MARGIN pixels around it."""
    width, height = size[0] + 2 * MARGIN, size[1] + 2 * MARGIN
    image = pool.background(path, 1e9)
    scale = max(width / image.shape[1], height / image.shape[0])
    # an image pixel's centre is half a pixel in: scaling about that keeps the middle in the middle
    middle = ((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2)
    sharp = blur(image.astype(np.float32), 0.4 / scale) if scale < 1 else image.astype(np.float32)
    matrix = affine(0, scale, 0, ((width - 1) / 2 - middle[0], (height - 1) / 2 - middle[1]), middle)
    return warp(sharp, matrix, (width, height), cv2.BORDER_REFLECT_101) * np.float32(1 / 255)


def shoot(take: Take, room: Floats, size: tuple[int, int], level: Level) -> Iterable[dict[str, NDArray[Any]]]:
    """The frames of a take: src, bgr, fgr (H, W, 3) uint8 and pha (H, W) uint16."""
    rng = _seeded_by(take.name)
    direction, gains = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1]) * rng.uniform(0.6, 1, 3)
    lean, reach = float(rng.normal(0, 0.3)), float(rng.normal(0, 0.06))
    turn = level.turn * rng.choice([-1, 1])
    move = (level.offset * float(np.cos(direction)), level.offset * float(np.sin(direction)))
    own = room[MARGIN:-MARGIN, MARGIN:-MARGIN]
    off = affine(turn, 1, 0, move, (size[0] / 2, size[1] / 2)) @ affine(move=(-MARGIN, -MARGIN))
    plate = warp(room, off, size, cv2.BORDER_REFLECT_101) * (1 + level.drift * gains).astype(np.float32)

    def develop(image: Floats) -> Bytes:
        pixels = to_bytes(add_noise(image, level.noise, 0, rng) if level.noise else image)
        return compress(pixels, level.jpeg) if level.jpeg else pixels

    bgr = develop(plate)
    for t in range(max(1, take.frames)):
        layer: Layer | None = None
        for images, way in take.actors:
            placed = place(images[t % len(images)], way(t), size)
            layer = placed if layer is None else over(layer, placed)
        behind = own
        if layer is None:
            layer = Layer(own, np.zeros((size[1], size[0], 1), np.float32))
        elif level.shadow:
            offset = (reach * size[0], 0.02 * size[1])
            shadow = cast_shadow(layer.pha, offset, level.softness * size[1], lean, 0.9)
            behind = own * (1 - np.float32(level.shadow) * shadow)
        yield {
            "src": develop(compose(layer, behind)),
            "bgr": bgr,
            "pha": (layer.pha[..., 0] * 65535).round().astype(np.uint16),
            "fgr": to_bytes(layer.fgr),
        }


def main(args: argparse.Namespace) -> dict[str, int]:
    """Write all sets at all levels; return the number of frames by set."""
    pool = Pool(args.pool, "test")
    counts: dict[str, int] = {}
    for kind in args.sets:
        takes = list(SETS[kind](Stage(pool, args.size, args.frames)))
        for take in tqdm(takes, desc=kind):
            room = photograph(pool, take.background, args.size)
            for level, values in LEVELS.items():
                folder = args.output / f"{kind}-{level}"
                for t, frame in enumerate(shoot(take, room, args.size, values)):
                    for part, image in frame.items():
                        moves = take.frames and part != "bgr"  # a clip's plate is one still for all its frames
                        path = folder / part / (f"{take.name}/{t + 1:04d}.png" if moves else f"{take.name}.png")
                        if moves or t == 0:
                            path.parent.mkdir(parents=True, exist_ok=True)
                            write_image(path, image)
                counts[f"{kind}-{level}"] = counts.get(f"{kind}-{level}", 0) + max(1, take.frames)
    for kind, count in counts.items():
        print(f"{count:5d} {kind}")
    return counts


if __name__ == "__main__":
    with ending_in_words():
        main(parse_args())
