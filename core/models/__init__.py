# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks: tensors in, tensors out; no files, no frames."""

from core.models.matting_base import MattingBase
from core.models.matting_refine import MattingRefine
from core.models.recurrent import RecurrentMatting, RecurrentOutput

__all__ = ["MattingBase", "MattingRefine", "RecurrentMatting", "RecurrentOutput"]
