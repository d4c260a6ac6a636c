# SPDX-License-Identifier: GPL-3.0-or-later
"""Weight files: this project's safetensors, whose metadata say which network they are for, and what others publish."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from core.errors import CheckpointError
from core.files import write_whole
from core.foreign_weights import Weights, list_names, read_torch_file, recognise
from core.models import MattingBase, MattingRefine, RecurrentMatting
from core.models.review import REGRESSION, SHADING

log = logging.getLogger(__name__)

_ARCHITECTURES: dict[str, type[nn.Module]] = {
    architecture.__name__: architecture for architecture in (MattingBase, MattingRefine, RecurrentMatting)
}
_FIRST_LAYERS = ("backbone.conv1.weight", "backbone.features.0.0.weight")
# Channels that older files lack: the axis, where they stand on it, and how many they are
_GROWN = {
    # The refinement's least alpha
    "refiner.trunk.0.weight": (1, -1, 1),
    "refiner.head.0.weight": (1, -4, 4),
    "refiner.predict.weight": (0, -4, 4),
    "refiner.predict.bias": (0, -4, 4),
    # The shading
    **{f"decoder.up{n}.conv.plate_weight": (1, -SHADING, SHADING) for n in (2, 4, 8)},
    **{f"plate_review.{name}.weight": (1, REGRESSION, SHADING) for name in ("down4", "down8", "down16", "conv2a")},
    "plate_review.see_through.weigh.0.weight": (1, 16 + REGRESSION, SHADING),
}
_WEIGHTS = Path(__file__).parent / "weights"


def list_models() -> list[str]:
    """Names of the weights that ship."""
    return sorted(path.stem for path in _WEIGHTS.glob("*.safetensors"))


def locate_model(name_or_path: str | Path) -> Path:
    """The file behind "default" or a path.

    Raises:
        CheckpointError: no such file.
    """
    bundled = _WEIGHTS / f"{name_or_path}.safetensors"
    path = bundled if str(name_or_path) in list_models() else Path(name_or_path)
    if not os.path.isfile(path):
        raise CheckpointError("a model file, or one of " + ", ".join(list_models()), str(path), "Check the path")
    return path


def load_model(name_or_path: str | Path = "default", *, initialise: bool = False) -> nn.Module:
    """The network a weight file is for, with its weights, in eval mode, on the CPU, in float32.

    Formats: this project's safetensors; checkpoints and TorchScript archives of BackgroundMattingV2; checkpoints of
    2022-BackgroundMatting; with `initialise` also DeepLabV3, by DeepLabV3Plus-Pytorch or torchvision, and torchvision's
    ResNet and MobileNetV2, which make a MattingBase.

    Args:
        name_or_path: "default" or another name of `list_models`, else a file.
        initialise: take what fits in name and shape, and leave the rest of the network at its random start.

    Raises:
        CheckpointError: no such file, no model, an unknown architecture, or keys that do not fit.
    """
    path = locate_model(name_or_path)
    weights = _read(path)
    try:
        model = _ARCHITECTURES[weights.architecture](**weights.arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"one of {', '.join(_ARCHITECTURES)} with its settings",
            f"{weights.architecture!r} with {weights.arguments} in {path}",
            "Choose a file that was made for this version",
        ) from error
    if initialise:
        _initialise(model, weights, path)
        return model.eval()
    expected = model.state_dict()
    state = _complete(weights.state, expected)
    misfits = _misfits(state, expected)
    if misfits or expected.keys() - state.keys():
        missing = sorted(expected.keys() - state.keys())
        raise CheckpointError(
            f"the weights of {weights.architecture}",
            f"{path} ({weights.origin}) with {len(missing)} missing ({list_names(missing)}) "
            f"and {len(misfits)} unexpected ({list_names(misfits.values())})",
            "Choose a file of this network" if weights.is_whole else "Use it to initialise a training",
        )
    model.load_state_dict(state)  # in the model's own precision
    return model.eval()


def initialise_model(model: nn.Module, name_or_path: str | Path) -> list[str]:
    """Start a training from weights that fit in part: a base network's for the whole one, a DeepLabV3, a backbone.

    Returns:
        The names of the weights that stay as they are.

    Raises:
        CheckpointError: no such file, no model, or nothing in it fits.
    """
    path = locate_model(name_or_path)
    return _initialise(model, _read(path), path)


def _read(path: Path) -> Weights:
    """What a file holds. Whether it fits is for the caller to find out."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] != b"{":  # safetensors: the header's length, then its JSON
        return recognise(read_torch_file(path), path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
        arguments = json.loads(metadata.get("arguments", "{}"))
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise CheckpointError("a file of weights", f"{path}: {error}", "Choose a model file") from error
    if "architecture" not in metadata:
        return recognise(state, path)
    return Weights(state, metadata["architecture"], arguments, "this project's", is_whole=True)


def _initialise(model: nn.Module, weights: Weights, path: Path) -> list[str]:
    expected = model.state_dict()
    state = dict(weights.state)
    for key in _FIRST_LAYERS:
        if key in state and key in expected and state[key].shape == expected[key][:, :3].shape:
            # Made for an image alone: the source's channels take it, the plate's start at zero.
            state[key] = torch.cat([state[key], torch.zeros_like(state[key])], dim=1)
    misfits = _misfits(state, expected)
    fitting = {key: value for key, value in state.items() if key not in misfits}
    if not any(value.dim() > 1 for value in fitting.values()):
        raise CheckpointError(
            f"weights that {type(model).__name__} can start from",
            f"{path} ({weights.origin}), none of which fits",
            "Choose weights of the same backbone",
        )
    model.load_state_dict(fitting, strict=False)
    fresh = sorted(expected.keys() - fitting.keys())
    log.info("%s (%s): %d weights taken, %d left as they are", path, weights.origin, len(fitting), len(fresh))
    for reason, names in (("not in this network", misfits.values()), ("not in the file", fresh)):
        for name in names:
            log.debug("%s: %s", reason, name)
    return fresh


def _complete(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add what old checkpoints do not have: zeros for channels that came later, and the batch norms' counters."""
    counters = {key: value for key, value in expected.items() if key.endswith(".num_batches_tracked")}
    complete = counters | dict(state)
    for key, known in state.items():
        name = key.removeprefix("blind.")
        if name in _GROWN and key in expected:
            axis, place, count = _GROWN[name]
            place %= expected[key].shape[axis]
            before, later, behind = expected[key].tensor_split([place, place + count], dim=axis)
            if known.shape == torch.cat([before, behind], dim=axis).shape:
                before, behind = known.tensor_split([place], dim=axis)
                complete[key] = torch.cat([before, known.new_zeros(later.shape), behind], dim=axis)
    return complete


def _misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, str]:
    """The keys that a network does not have, or has in another shape, each with words for it."""
    misfits = {}
    for key, value in state.items():
        if key not in expected:
            misfits[key] = key
        elif value.shape != expected[key].shape:
            misfits[key] = f"{key} of {list(value.shape)} instead of {list(expected[key].shape)}"
    return misfits


def half_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Large tensors in float16, the others as they are.

    Rounding everything moves alpha by up to 0.04 at edges, nearly all of it by way of the first layers and the biases;
    with these kept, a tenth of all weights, it moves by 0.003.
    """
    return {key: value.half() if value.numel() > 32768 else value for key, value in state.items()}


def save_model(model: nn.Module, path: str | Path, metadata: Mapping[str, Any], *, half: bool = False) -> None:
    """Write a model's weights, whole or not at all, and make their folder.

    Args:
        metadata: "architecture", the class's name, and "arguments", the dictionary it is made with; further entries are
            kept. What is no string is stored as JSON.
        half: write what `half_weights` makes of them, at half the size, to ship them.

    Raises:
        OutputError: the file cannot be written.
    """
    state = half_weights(model.state_dict()) if half else model.state_dict()
    tensors = {key: value.detach().contiguous().cpu() for key, value in state.items()}
    strings = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    content = save(tensors, strings)  # written by safetensors itself, a full disk raises no OSError
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(Path(path), lambda part: part.write_bytes(content))
