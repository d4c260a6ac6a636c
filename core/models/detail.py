# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the coarse network may have missed something fine beside the subject."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from core.models.scales import blurred, largest

_DIFFERENT = 0.02  # at least, of 0 to 1
_UNUSUAL = 3.5  # times the frame's usual fine difference, which comes of noise, compression and a plate that is off
_STRIKING = 0.05  # fine differences count for no more than this in the usual one
_WIDTH = 13  # pixels: what differs from the plate alike over this distance is nothing fine
_STEP, _STEPS = 8, 3  # pixels, and steps of two: how far around the subject is looked at
_LOW, _HIGH = 0.3, 0.5  # alpha below which something may be missed, and above which there is a subject


def missed_detail(src: Tensor, bgr: Tensor, pha: Tensor) -> Tensor:
    """Find fine differences from the plate beside the subject, such as single hairs, which the coarse network misses.

    Args:
        src, bgr: (N, 3, h, w) source and plate, at the coarse size, 0 to 1.
        pha: (N, 1, h, w) coarse alpha.

    Returns:
        (N, 1, h, w): 1 where there is such a difference or one next to it, and alpha is low, else 0.
    """
    change = src - bgr
    fine = change.abs().minimum((change - blurred(change, _WIDTH)).abs()).amax(1, keepdim=True)
    low = (pha < _LOW).to(pha.dtype)
    total, area = (x.sum((2, 3), keepdim=True) for x in (fine.clamp(max=_STRIKING) * low, low))
    found = (fine > (_UNUSUAL * total / (area + 1)).clamp(min=_DIFFERENT)).to(pha.dtype)
    near = F.max_pool2d((pha > _HIGH).to(pha.dtype), _STEP, ceil_mode=True)
    for _ in range(_STEPS):
        near = largest(near)
    height, width = pha.shape[-2:]
    near = near.repeat_interleave(_STEP, 2).repeat_interleave(_STEP, 3)[..., :height, :width]
    return (blurred(found * low * near, 3) > 0).to(pha.dtype)
