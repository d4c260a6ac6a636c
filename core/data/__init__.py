# SPDX-License-Identifier: GPL-3.0-or-later
"""What the networks are trained on: a pool of cut-outs and photographs, composites made from it, folders of pairs."""

from .clips import ClipDataset, Mix
from .pairs import ImagePairDataset

__all__ = ["ClipDataset", "ImagePairDataset", "Mix"]
