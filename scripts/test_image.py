# SPDX-License-Identifier: GPL-3.0-or-later
"""Matte images in front of their clean plates.

    python scripts/test_image.py SRC BCK com alp fgr err ref --pretrained_model model.pth --output_path results

SRC and BCK are images, or folders with the same number of images: the first belongs to the first by name, and so on; a
single BCK serves every SRC. For each NAME of SRC it writes, losslessly with 16 bits: NAME_com.png (RGBA: the foreground
and its alpha), NAME_alp.png (the alpha matte), NAME_fgr.png (the foreground), NAME_err.png (alpha's expected error) and
NAME_ref.png (where the network refined; the paper's MattingRefine only).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from core.checkpoints import load_model
from core.color import Floats, to_dtype, to_float
from core.errors import FootageError, JobError, ending_in_words
from core.footage import IMAGE_EXTENSIONS
from core.frame_io import write_image
from core.matting import Matter
from core.models import MattingRefine
from core.models.refiner import PATCH
from scripts.evaluate import read_srgb

OUTPUTS = ("com", "alp", "fgr", "err", "ref")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("src_path", type=Path, help="source image or folder")
    parser.add_argument("bck_path", type=Path, help="background image or folder")
    parser.add_argument(
        "output_type",
        nargs="+",
        choices=OUTPUTS,
        help="composite layer, alpha matte, foreground, error map, refinement map",
    )
    parser.add_argument("--pretrained_model", default="default", help="a model file (the weights that ship)")
    parser.add_argument("--output_path", type=Path, default=Path("../result/images"), help="output folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    """Matte every pair.

    Raises:
        FootageError: an image cannot be read, or the numbers of images differ.
        CheckpointError: the model does not load.
        JobError: a refinement map of a network that has none.
        ShapeError: a source and its plate differ in size.
    """
    pairs = find_pairs(args.src_path, args.bck_path)
    matter = Matter(load_model(args.pretrained_model), args.device)
    refined = RefinedWhere(matter.model) if "ref" in args.output_type else None
    for src_path, bck_path, name in tqdm(pairs, unit="image"):
        src, bgr = read_srgb(src_path), read_srgb(bck_path)
        matter.reset()  # every image is a shot of its own
        matte = matter.matte(src, bgr)
        fgr = np.where((matte.pha == 1)[..., None], to_float(src), matte.fgr)  # opaque: the source's own pixels
        pictures: dict[str, Floats] = {
            "com": np.dstack([fgr * (matte.pha != 0)[..., None], matte.pha]),
            "alp": matte.pha,
            "fgr": fgr,
            "err": matte.err,
        }
        if refined is not None:
            pictures["ref"] = refined.map(*matte.pha.shape)
        (args.output_path / name).parent.mkdir(parents=True, exist_ok=True)
        for output in args.output_type:
            write_image(args.output_path / f"{name}_{output}.png", to_dtype(pictures[output], np.dtype(np.uint16)))


def find_pairs(src_path: Path, bck_path: Path) -> list[tuple[Path, Path, Path]]:
    """Source, background, and the source's name inside its folder, without its ending.

    Raises:
        FootageError: no images, two sources of one name, or not as many backgrounds as sources.
    """
    sources, backgrounds = find_images(src_path), find_images(bck_path)
    if len(backgrounds) == 1:
        backgrounds *= len(sources)
    if len(sources) != len(backgrounds):
        extra = sources[len(backgrounds) :] + backgrounds[len(sources) :]
        raise FootageError(
            f"one background for each of the {len(sources)} images in {src_path}, or one for all",
            f"{len(backgrounds)} in {bck_path} (without a partner: {', '.join(path.name for path in extra[:4])})",
            "Add or remove images so that both folders pair up by name",
        )
    root = src_path if src_path.is_dir() else src_path.parent
    names = [src.relative_to(root).with_suffix("") for src in sources]
    if twice := {str(name) for name in names if names.count(name) > 1}:
        raise FootageError("one image of a name", f"two of {', '.join(sorted(twice))} in {root}", "Rename one of them")
    return list(zip(sources, backgrounds, names, strict=True))


def find_images(path: Path) -> list[Path]:
    """The image itself, or all images below a folder, sorted by name.

    Raises:
        FootageError: there is none.
    """
    if path.is_file():
        return [path]
    images = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_EXTENSIONS and file.name[0] != ".")
    if not images:
        raise FootageError("an image or a folder of images", str(path), "Check the path")
    return images


class RefinedWhere:
    """Records where MattingRefine refines, which a matte does not tell.

    Raises:
        JobError: another network.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, MattingRefine):
            raise JobError(
                "the paper's MattingRefine for a refinement map (ref)",
                f"{type(model).__name__}, which refines everywhere or nowhere",
                "Leave out ref, or name a MattingRefine with --pretrained_model",
            )
        self._ref: Tensor | None = None
        model.register_forward_hook(self._listen)

    def _listen(self, model: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        self._ref = outputs[5]

    def map(self, height: int, width: int) -> Floats:
        """(H, W): 1 where the last frame was refined, else 0."""
        assert self._ref is not None
        ref = self._ref[0, 0].repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1)
        return ref[:height, :width].to(torch.float32).cpu().numpy()


if __name__ == "__main__":
    with ending_in_words():
        main(parse_args())
