# SPDX-License-Identifier: GPL-3.0-or-later
"""What cannot be seen at a soft edge, from nearby: the foreground's colour, and the light on the plate behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from core.models.scales import blurred, halved, upsampled

_REACH = {3: 1.0, 9: 0.05, 31: 0.002}  # side in pixels at 1/4, and weight
_NOTHING = 3e-4  # the weight of a pixel's own colour, which stays where nothing around is covered
_SURE = 0.9  # from this alpha on, the network's own colour stays
_EMPTY = 0.1  # alpha below which a pixel shows the plate, mostly: the lower, the more
_AS_SHOT = 3e-4  # the weight of the plate as it is, at a brightness of 1: it stays where nothing of it is seen around
_DARKEST, _BRIGHTEST = 0.1, 1.5  # light that a subject leaves or throws on the plate
_SLIGHT = 0.05  # differences that may be a few hairs, which the coarse alpha lacks, rather than a shadow


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
    found = _around(torch.cat([weighted, weights], dim=1))
    found = found.add_(torch.cat([own, torch.ones_like(weights)], dim=1), alpha=_NOTHING)
    color = found[:, :3] / found[:, 3:]
    height, width = pha.shape[-2:]
    color = upsampled(color, height, width, traceable=traceable).permute(0, 3, 1, 2)
    sure = (pha / _SURE).clamp(max=1).expand_as(fgr).contiguous(memory_format=torch.channels_last)
    return color.lerp_(fgr, sure)  # with a mask of one channel, this takes twice as long


def extend_light(src: Tensor, bgr: Tensor, pha: Tensor, traceable: bool = False) -> Tensor:
    """How much of the plate's light reaches it in the source, where the subject stands before it and around.

    A subject darkens what is next to it. Where it is hair or a soft edge, what shines through is therefore darker than
    the plate, and alpha cannot be solved with the plate as it is. Beside the subject the light can be measured.

    Args:
        src, bgr: (N, 3, h, w) source and plate, 0 to 1.
        pha: (N, 1, h, w), 0 to 1.
        traceable: use operators that every runtime has.

    Returns:
        (N, 3, h, w): a factor for each of the plate's channels; 1 where nothing differs.
    """
    empty = (1 - pha / _EMPTY).clamp_min(0)
    seen = _around(halved(halved(torch.cat([src * empty, bgr * empty], dim=1))))
    lit, unlit = (seen + _AS_SHOT).tensor_split(2, dim=1)
    off = (lit / unlit).clamp(_DARKEST, _BRIGHTEST) - 1
    light = 1 + off**3 / (off**2 + _SLIGHT**2)
    height, width = pha.shape[-2:]
    return upsampled(light, height, width, traceable=traceable).permute(0, 3, 1, 2)


def _around(quarter: Tensor) -> Tensor:
    """The sum of surroundings of several sizes: wide ones count where small ones are empty."""
    found = torch.zeros_like(quarter)
    for size, share in _REACH.items():
        found = found.add_(blurred(quarter, size), alpha=share)
    return found
