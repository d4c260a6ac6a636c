# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights that others published for the paper's networks and their backbones: read without running them, renamed.

Files that torch wrote are pickles. They are read by torch's own weights-only reader, which knows tensors and plain
containers and nothing else; of TorchScript archives only the tensors are read, their code is not even looked at.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.errors import CheckpointError

_REMEDY = "Choose a model file, and one from a source that you trust"
_DEEPEST = 32  # modules within modules
_LARGEST_PICKLE = 1 << 26  # bytes: names and sizes only, the weights lie beside it
# What trainers leave beside the weights (numpy's scalars) and what TorchScript writes for its modules and attributes.
_INERT = re.compile(
    r"__torch__[\w.]*|torch\.jit\._pickle\.\w+|numpy\.(_?core\.multiarray\.scalar|dtype)|_codecs\.encode"
)
_CONTAINERS = ("model_state", "state_dict", "model")


class Weights(NamedTuple):
    """A state dict by this project's names, and the network that it is for."""

    state: dict[str, Tensor]
    architecture: str  # a class of core.models
    arguments: dict[str, Any]  # to make it with
    origin: str  # the format, in words
    is_whole: bool  # False: an initialisation, which leaves parts of the network as they are


class _Inert:
    """Stands for whatever else a file holds: takes any arguments, does nothing, keeps its attributes."""

    def __init__(self, *_: Any) -> None: ...

    def __new__(cls, *_: Any) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch wrote, by their names: a checkpoint's, or a TorchScript archive's.

    Raises:
        CheckpointError: no such file, or one that holds code or anything but weights.
    """
    try:
        if zipfile.is_zipfile(path):
            source, names = _open_archive(path)
        else:
            source, names = path, []
        with torch.serialization.safe_globals([(_Inert, name) for name in names]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickles that are no checkpoint: said in words below
            content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)|global:? (\S+)", str(error))
        name = next(filter(None, found.groups()), "") if found else ""
        actual = f"{path}, which holds code or objects ({name})" if name else f"{path}, which is not one"
        raise CheckpointError("a file of weights", actual, _REMEDY) from error
    except CheckpointError:
        raise
    except Exception as error:  # what a parser says to bytes that were made to confuse it has no end
        raise CheckpointError("a file of weights", f"{path}, which is not one", _REMEDY) from error
    if isinstance(content, _Inert):
        content = dict(_walk(content, "", 0))
    for name in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        raise CheckpointError("a file of named weights", f"{path} with a {type(content).__name__}", _REMEDY)
    others = [key for key, value in content.items() if not _is_plain(value)]
    if others:
        raise CheckpointError("nothing but weights", f"{path} with {list_names(others)}", _REMEDY)
    return dict(content)


def _is_plain(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.is_quantized or value.is_complex():
        return False
    return value.layout == torch.strided and value.device.type == "cpu"


def _open_archive(path: Path) -> tuple[Path | io.BytesIO, list[str]]:
    """A zip that torch's reader takes, and the names in it that may stand for nothing."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        index = records.get("data.pkl")
        if index is None or index.file_size > _LARGEST_PICKLE:
            raise CheckpointError("a file of weights", f"{path}, an archive without any", _REMEDY)
        # torch packs nothing but code, and lets no two records share their bytes; a bomb would
        stored = [info for info in archive.infolist() if not info.filename.partition("/")[2].startswith("code/")]
        packed = any(info.compress_type != zipfile.ZIP_STORED for info in stored)
        if packed or sum(info.file_size for info in stored) > path.stat().st_size:
            raise CheckpointError("tensors as torch stores them", f"{path} with them packed", _REMEDY)
        program = archive.read(index)
        names = [str(arg).replace(" ", ".") for code, arg, _ in pickletools.genops(program) if code.name == "GLOBAL"]
        inert = sorted({name for name in names if _INERT.fullmatch(name)})
        if "constants.pkl" not in records:
            return path, inert
        # TorchScript: torch would hand it to its interpreter. Pass on the tensors alone.
        plain = io.BytesIO()
        with zipfile.ZipFile(plain, "w") as copy:
            for name, info in records.items():
                if name in ("data.pkl", "version", "byteorder") or name.startswith("data/"):
                    copy.writestr(f"archive/{name}", archive.read(info))
        plain.seek(0)
        return plain, inert


def _walk(module: _Inert, prefix: str, depth: int) -> Iterable[tuple[str, Tensor]]:
    if depth > _DEEPEST:
        raise CheckpointError(f"at most {_DEEPEST} modules within each other", f"more in {prefix[:80]}...", _REMEDY)
    for name, value in module.__dict__.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Inert):
            yield from _walk(value, f"{prefix}{name}.", depth + 1)


def recognise(state: Mapping[str, Tensor], path: Path) -> Weights:
    """Tell by its keys what a state dict is, and rename them to this project's.

    Keys are renamed one by one and nothing is left out but what a format is known to have besides: a classifier's
    layers that matting has no use for. Whatever else is strange is kept, so that loading finds it.

    Raises:
        CheckpointError: no format that is known here.
    """
    for prefix in ("module.", "model."):  # of DataParallel; of the published TorchScript archives
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    is_whole = False
    if "decoder.conv4.weight" in state:
        state, origin, is_whole = *_from_matting(state), True
    elif "classifier.classifier.0.convs.0.0.weight" in state:
        origin = "DeepLabV3 by DeepLabV3Plus-Pytorch"
        state = _rename(
            state,
            {
                r"classifier\.classifier\.0\.(.*)": r"aspp.\1",
                r"classifier\.classifier\.[124]\..*": None,
                r"backbone\.(?:low|high)_level_features\.(.*)": r"backbone.features.\1",
            },
        )
    elif "classifier.0.convs.0.0.weight" in state:
        origin = "DeepLabV3 by torchvision"
        state = _rename(
            state, {r"classifier\.0\.(.*)": r"aspp.\1", r"classifier\.[124]\..*": None, r"aux_classifier\..*": None}
        )
    elif "layer1.0.conv1.weight" in state:
        origin = "ResNet by torchvision"
        state = _rename(state, {r"fc\..*": None, r"(.*)": r"backbone.\1"})
    elif "features.0.0.weight" in state:
        origin = "MobileNetV2 by torchvision"
        state = _rename(state, {r"features\.18\..*": None, r"classifier\..*": None, r"(.*)": r"backbone.\1"})
    else:
        raise CheckpointError(
            "the weights of MattingBase, MattingRefine, RecurrentMatting, or a DeepLabV3, ResNet or MobileNetV2",
            f"{path} with {list_names(state)}",
            _REMEDY,
        )
    arguments: dict[str, Any] = {"backbone": _name_backbone(state, path)}
    refiner = state.get("refiner.conv1.weight")
    if refiner is not None and refiner.shape[-1:] == (1,):
        arguments["refine_kernel_size"] = 1
    architecture = "MattingBase" if refiner is None else "MattingRefine"
    return Weights(dict(state), architecture, arguments, origin, is_whole)


def _from_matting(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The published networks; and this project's seed, whose output layers have no bias and whose `bn4` is idle."""
    if "decoder.conv4.bias" in state:
        return dict(state), "BackgroundMattingV2"
    state = _rename(state, {r"refine\.bn4\..*": None, r"refine\.(.*)": r"refiner.\1"})
    for layer, channels in (("decoder.conv4", 37), ("refiner.conv4", 4)):
        if f"{layer}.weight" in state:
            state.setdefault(f"{layer}.bias", torch.zeros(channels))
    return state, "2022-BackgroundMatting"


def _rename(state: Mapping[str, Tensor], rules: Mapping[str, str | None]) -> dict[str, Tensor]:
    """Rename every key by the first rule whose pattern is the whole of it; None leaves it out; no rule keeps it."""
    renamed = {}
    for key, value in state.items():
        new: str | None = key
        for pattern, replacement in rules.items():
            if match := re.fullmatch(pattern, key):
                new = None if replacement is None else match.expand(replacement)
                break
        if new is not None:
            renamed[new] = value
    return renamed


def _name_backbone(state: Mapping[str, Tensor], path: Path) -> str:
    if "backbone.features.0.0.weight" in state:
        return "mobilenetv2"
    depth = len({key.split(".")[2] for key in state if key.startswith("backbone.layer3.")})
    if depth not in (6, 23) or "backbone.layer1.0.conv3.weight" not in state:
        raise CheckpointError(
            "ResNet50, ResNet101 or MobileNetV2 as backbone",
            f"{path} with another ({depth} blocks in its third stage)",
            _REMEDY,
        )
    return "resnet50" if depth == 6 else "resnet101"


def list_names(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
