# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepare a model's weights for inference."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Model = TypeVar("Model", bound=nn.Module)


def fused(model: Model) -> Model:
    """A copy for inference: batch norms folded into the convolutions before them, weights in channels-last layout.

    Its outputs are the model's in eval mode, but its state dict no longer fits a checkpoint.
    """
    model = copy.deepcopy(model).eval()
    for parent in list(model.modules()):
        for (name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return model.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def cast_convolutions(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep the convolutions' weights in the precision that autocast gives them, rather than cast them each frame."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
