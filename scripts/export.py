# SPDX-License-Identifier: GPL-3.0-or-later
"""Export a model to TorchScript (.pt) or ONNX (.onnx), for other programs to run.

    python scripts/export.py default matting.onnx --size 1920 1080
    python scripts/export.py model.pth matting.pt --backbone_scale 0.125 --refine_sample_pixels 320000 --size 3840 2160

The exported network takes frames of any size (the paper's: divisible by 4); --size is the one it is recorded at. The
paper's networks take src and bgr, (B, 3, H, W) sRGB-encoded from 0 to 1, and give what they give here. The recurrent
network also takes r1 to r4, its memory: zeros at a shot's first frame, then what it gave for the frame before. It
prints their shapes at --size and the downsample ratio, which it keeps. At another size, they are as high and wide as
the frame times that ratio (halved first as long as it is below 1/2; each time rounded down), halved once (r1) to four
times (r4), each time rounded up.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from core.checkpoints import load_model
from core.errors import JobError, ending_in_words
from core.files import write_whole
from core.matting import COARSE_PIXELS, coarse_ratio
from core.models import MattingRefine, RecurrentMatting
from core.models.fusing import fused
from core.models.matting_refine import LARGEST_SCALE
from core.models.refiner import PATCH

_OPSET = 17
_OUTPUTS = {
    "MattingBase": ("pha", "fgr", "err", "hid"),
    "MattingRefine": ("pha", "fgr", "pha_sm", "fgr_sm", "err_sm", "ref_sm"),
    "RecurrentMatting": ("pha", "fgr", "err", "r1o", "r2o", "r3o", "r4o"),
}
_OPTIONS = {
    "MattingRefine": ("backbone_scale", "refine_mode", "refine_sample_pixels", "refine_threshold"),
    "RecurrentMatting": ("downsample_ratio",),
}


class RecurrentStep(nn.Module):
    """The recurrent network as tensors in, tensors out: one frame, its plate and its memory."""

    def __init__(self, model: RecurrentMatting, downsample_ratio: float) -> None:
        super().__init__()
        self.model = model
        self.downsample_ratio = downsample_ratio

    def forward(self, src: Tensor, bgr: Tensor, r1: Tensor, r2: Tensor, r3: Tensor, r4: Tensor) -> tuple[Tensor, ...]:
        """Matte one frame (B, 3, H, W): pha, fgr, err and the four states for the next one."""
        pha, fgr, err, rec = self.model(src, bgr, (r1, r2, r3, r4), self.downsample_ratio)
        return pha, fgr, err, *rec


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help='a model file, or "default"')
    parser.add_argument("output", type=Path, help="NAME.onnx or NAME.pt")
    parser.add_argument("--size", type=int, nargs=2, default=(1920, 1080), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--backbone_scale", type=float, help="MattingRefine: size of the base network's frame")
    parser.add_argument("--refine_mode", choices=("sampling", "thresholding", "full"))
    parser.add_argument("--refine_sample_pixels", type=int)
    parser.add_argument("--refine_threshold", type=float)
    parser.add_argument(
        "--downsample_ratio",
        type=float,
        help=f"recurrent: scale of the coarse pass ({COARSE_PIXELS} pixels if left out)",
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    """Load, configure, record and write.

    Raises:
        CheckpointError: the model does not load.
        JobError: an output of neither kind, or a size or an option that the model does not take.
    """
    if args.output.suffix not in (".onnx", ".pt"):
        raise JobError("an output NAME.onnx or NAME.pt", str(args.output), "Name it so")
    for name, most in (("backbone_scale", LARGEST_SCALE), ("downsample_ratio", 1)):
        if (share := getattr(args, name)) is not None and not 0 < share <= most:
            raise JobError(f"--{name} above 0, at most {most:g}", f"{share:g}", "Leave it out to have one that suits")
    model = fused(load_model(args.model))
    kind = type(model).__name__
    theirs = (name for other, names in _OPTIONS.items() if other != kind for name in names)
    if given := ", ".join(f"--{name}" for name in theirs if getattr(args, name) is not None):
        raise JobError("options that the network has", f"{kind}, which has no {given}", "Leave them out")
    outputs = _OUTPUTS[kind]
    width, height = args.size
    refines = isinstance(model, MattingRefine | RecurrentMatting)
    if width < 1 or height < 1 or (refines and (width % PATCH or height % PATCH)):
        words = f"a size that divides by {PATCH}" if refines else "a size of at least a pixel"
        raise JobError(words, f"{width} x {height}", "Choose another --size")
    if args.refine_sample_pixels is not None and args.refine_sample_pixels < 0:
        raise JobError("--refine_sample_pixels of 0 or more", str(args.refine_sample_pixels), "Correct it")
    if isinstance(model, MattingRefine | RecurrentMatting):
        model.refiner.traceable = True
    if isinstance(model, MattingRefine):
        if args.backbone_scale is not None:
            model.backbone_scale = args.backbone_scale
        for name in ("mode", "sample_pixels", "threshold"):
            if (value := getattr(args, f"refine_{name}")) is not None:
                setattr(model.refiner, name, value)
    inputs = [torch.rand(1, 3, height, width), torch.rand(1, 3, height, width)]
    names = ["src", "bgr"]
    if isinstance(model, RecurrentMatting):
        ratio = args.downsample_ratio or coarse_ratio(height, width)
        with torch.inference_mode():
            rec = model(*inputs, None, ratio).rec
        model = RecurrentStep(model, ratio).eval()
        inputs += [torch.zeros(state.shape) for state in rec]
        names += ["r1", "r2", "r3", "r4"]
        print(f"downsample ratio {ratio:.6g}; " + ", ".join(f"r{i} {tuple(x.shape)}" for i, x in enumerate(rec, 1)))
    write(model, args.output, inputs, names, outputs)


def write(model: nn.Module, path: Path, inputs: list[Tensor], names: list[str], outputs: tuple[str, ...]) -> None:
    """Trace the network on these inputs, with sizes left open; the file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def record(partial: Path) -> None:
        if path.suffix == ".onnx":
            torch.onnx.export(
                model,
                tuple(inputs),
                str(partial),
                dynamo=False,
                opset_version=_OPSET,
                input_names=names,
                output_names=list(outputs),
                dynamic_axes={name: {0: "batch", 2: f"{name}_height", 3: f"{name}_width"} for name in names},
            )
        else:
            traced = torch.jit.trace(model, tuple(inputs), check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(torch.jit.freeze(traced), str(partial))

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every check on shapes, torch of its newer exporter
        write_whole(path, record)


if __name__ == "__main__":
    with ending_in_words():
        main(parse_args())
