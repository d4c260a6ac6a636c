# SPDX-License-Identifier: GPL-3.0-or-later
"""Convert a published checkpoint, or a TorchScript archive's weights, to this project's safetensors.

python scripts/convert_checkpoint.py pytorch_mobilenetv2.pth mobilenetv2.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from core.checkpoints import load_model, save_model
from core.errors import JobError, ending_in_words
from core.models import MattingBase


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("input", type=Path, help="a checkpoint of BackgroundMattingV2 or 2022-BackgroundMatting")
    parser.add_argument("output", type=Path, help="NAME.safetensors")
    parser.add_argument("--half", action="store_true", help="store large tensors with 16 bits, at half the size")
    parser.add_argument(
        "--initialise", action="store_true", help="also take DeepLabV3, ResNet and MobileNetV2: the rest is random"
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    """Load strictly, write whole.

    Raises:
        CheckpointError: the input is no model, or does not match.
        JobError: the output has another ending, or the model is already in this project's format.
    """
    if args.output.suffix != ".safetensors":
        raise JobError("an output NAME.safetensors", str(args.output), "Name it so")
    model = load_model(args.input, initialise=args.initialise)
    if not isinstance(model, MattingBase):
        raise JobError(
            "a network of the paper", f"{type(model).__name__} in {args.input}", "Use that file: it is converted"
        )
    save_model(model, args.output, {"architecture": type(model).__name__, "arguments": model.arguments}, half=args.half)
    print(f"{args.output}: {type(model).__name__} with {model.arguments}")


if __name__ == "__main__":
    with ending_in_words():
        main(parse_args())
