# SPDX-License-Identifier: GPL-3.0-or-later
"""Weight files: our own safetensors, whose metadata say which network they are for. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor, nn

from core.errors import CheckpointError
from core.models import MattingBase, MattingRefine, RecurrentMatting

_ARCHITECTURES: dict[str, type[nn.Module]] = {
    architecture.__name__: architecture for architecture in (MattingBase, MattingRefine, RecurrentMatting)
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
    path = bundled if name_or_path in list_models() else Path(name_or_path)
    if not path.is_file():
        raise CheckpointError("a model file, or one of " + ", ".join(list_models()), str(path), "Check the path")
    return path


def load_model(name_or_path: str | Path = "default") -> nn.Module:
    """The network a weight file is for, with its weights, in eval mode, on the CPU, in float32.

    Args:
        name_or_path: "default" for the weights that ship, else a file.

    Raises:
        CheckpointError: no such file, no model, an unknown architecture, or keys that do not fit.
    """
    path = locate_model(name_or_path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError("a weight file", f"{path}: {error}", "Choose a file made by this project") from error
    architecture = _ARCHITECTURES.get(metadata.get("architecture", ""))
    if architecture is None:
        raise CheckpointError(
            f"an architecture among {sorted(_ARCHITECTURES)}",
            f"{metadata.get('architecture')!r} in {path}",
            "Choose a file made by this project",
        )
    model = architecture(**json.loads(metadata.get("arguments", "{}")))
    keys = model.state_dict().keys()
    if keys != state.keys():
        missing, unexpected = sorted(keys - state.keys()), sorted(state.keys() - keys)
        raise CheckpointError(
            f"the weights of {metadata['architecture']}",
            f"{path} with {len(missing)} missing ({missing[:3]}) and {len(unexpected)} unexpected ({unexpected[:3]})",
            "Choose a file of this version",
            missing=missing,
            unexpected=unexpected,
        )
    model.load_state_dict(state)
    return model.eval()


def half_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Large tensors in float16, the others as they are.

    Rounding everything moves alpha by up to 0.04 at edges, nearly all of it by way of the first layers and the biases;
    with these kept, a tenth of all weights, it moves by 0.003.
    """
    return {key: value.half() if value.numel() > 32768 else value for key, value in state.items()}


def save_model(model: nn.Module, path: str | Path, metadata: Mapping[str, Any], *, half: bool = False) -> None:
    """Write a model's weights, whole or not at all.

    Args:
        metadata: "architecture", the class's name, and "arguments", the dictionary it is made with; further entries are
            kept. What is no string is stored as JSON.
        half: write what `half_weights` makes of them, at half the size, to ship them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    state = half_weights(model.state_dict()) if half else model.state_dict()
    tensors = {key: value.detach().contiguous().cpu() for key, value in state.items()}
    strings = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    save_file(tensors, partial, strings)
    partial.replace(path)
