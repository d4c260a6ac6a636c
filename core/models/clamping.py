# SPDX-License-Identifier: GPL-3.0-or-later
"""Clamping with a gradient outside of the range, so that wrong values there can still be trained away."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _ClampUnit(torch.autograd.Function):
    LEAK = 0.1  # share of the gradient that passes outside; all of it would pull rightly saturated values back inside

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward((x < 0) | (x > 1))
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (outside,) = ctx.saved_tensors
        return torch.where(outside, _ClampUnit.LEAK * gradient, gradient)


def clamp_unit(x: Tensor) -> Tensor:
    """Clamp to 0..1 with a small gradient outside.

    Clamping's own gradient is zero there, so wrong values would stay wrong: an alpha that is negative everywhere could
    never be trained away.
    """
    return _ClampUnit.apply(x) if x.requires_grad else x.clamp(0, 1)  # type: ignore[no-untyped-call]
