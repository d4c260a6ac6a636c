# SPDX-License-Identifier: GPL-3.0-or-later
"""The foreground's colour where the subject covers little, from where it covers more nearby."""

from __future__ import annotations

import torch
from torch import Tensor

from core.models.scales import blurred, halved, upsampled

_REACH = {3: 1.0, 9: 0.05, 31: 0.002}  # side in pixels at 1/4, and weight: wide ones count where small ones are empty
_NOTHING = 3e-4  # the weight of a pixel's own colour, which stays where nothing around is covered
_SURE = 0.9  # from this alpha on, the network's own colour stays


def extend_foreground(fgr: Tensor, pha: Tensor, traceable: bool = False) -> Tensor:
    """Blend a foreground with the alpha-weighted mean of its surroundings: the lower alpha, the more.

    At low alpha a pixel shows mostly its background, and so does the network's foreground: over a new background, hair
    and edges had the old one's colour. Weighted means of several sizes are how Forte 2021, "Approximate Fast Foreground
    Colour Estimation", finds a foreground; that method's last step is `fuse_foreground`, which is applied before.

    Args:
        fgr: (N, 3, H, W) straight, 0 to 1.
        pha: (N, 1, H, W), 0 to 1.
        traceable: use operators that every runtime has.

    Returns:
        (N, 3, H, W).
    """
    seen, weight = fgr[..., ::2, ::2], pha[..., ::2, ::2].square()  # every other pixel is enough for a mean
    own, weighted, weights = (halved(x) for x in (seen, seen * weight, weight))
    quarter = torch.cat([weighted, weights], dim=1)
    found = _NOTHING * torch.cat([own, torch.ones_like(weights)], dim=1)
    for size, share in _REACH.items():
        found = found.add_(blurred(quarter, size), alpha=share)
    color = found[:, :3] / found[:, 3:]
    height, width = pha.shape[-2:]
    color = upsampled(color, height, width, traceable=traceable).permute(0, 3, 1, 2)
    sure = (pha / _SURE).clamp(max=1).expand_as(fgr).contiguous(memory_format=torch.channels_last)
    return color.lerp_(fgr, sure)  # with a mask of one channel, this takes twice as long
