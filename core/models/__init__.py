# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks: tensors in, tensors out; no files, no frames."""

from core.models.recurrent import RecurrentMatting, RecurrentOutput

__all__ = ["RecurrentMatting", "RecurrentOutput"]
