# SPDX-License-Identifier: GPL-3.0-or-later
"""The colour of what is barely covered, from what is covered nearby."""

from __future__ import annotations

import torch
from torch import Tensor

from core.models.scales import blurred, halved, upsampled

_REACH = {3: 1.0, 9: 0.05, 31: 0.002}  # quarter pixels of neighbourhoods: the wide ones count where the near are empty
_NOTHING = 3e-4  # the weight of a pixel's own colour: it stays where nothing is covered around
_SURE = 0.9  # alpha from which on the network's own colour stays


def extend_foreground(fgr: Tensor, pha: Tensor, traceable: bool = False) -> Tensor:
    """Blend a foreground, the more the less alpha is, with the mean around that alpha weighs.

    At low alpha a pixel shows mostly its background, and so did the foreground there: over a new background, hair and
    edges had the old one's colour. Weighed means of several sizes are how Forte 2021, "Approximate Fast Foreground
    Colour Estimation", finds a foreground; its last step is `fuse_foreground`, which comes before.

    Args:
        fgr: (N, 3, H, W) straight, 0 to 1.
        pha: (N, 1, H, W), 0 to 1.
        traceable: use operators that every runtime has.

    Returns:
        (N, 3, H, W).
    """
    seen, weight = fgr[..., ::2, ::2], pha[..., ::2, ::2].square()  # every other pixel tells a mean as well
    own, weighed, weights = (halved(x) for x in (seen, seen * weight, weight))
    quarter = torch.cat([weighed, weights], dim=1)
    found = _NOTHING * torch.cat([own, torch.ones_like(weights)], dim=1)
    for size, share in _REACH.items():
        found = found.add_(blurred(quarter, size), alpha=share)
    color = found[:, :3] / found[:, 3:]
    height, width = pha.shape[-2:]
    color = upsampled(color, height, width, traceable=traceable).permute(0, 3, 1, 2)
    sure = (pha / _SURE).clamp(max=1).expand_as(fgr).contiguous(memory_format=torch.channels_last)
    return color.lerp_(fgr, sure)  # which takes twice as long if it has to repeat what one channel says
