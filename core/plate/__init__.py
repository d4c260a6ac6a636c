# SPDX-License-Identifier: GPL-3.0-or-later
"""The clean plate: made from the clip, aligned, matched in colour, diagnosed. Arrays in and out; no bpy, no torch."""

from core.plate.from_clip import ClipPlate, plate_from_clip
from core.plate.shot import FittedPlate, ShotPlate

__all__ = ["ClipPlate", "FittedPlate", "ShotPlate", "plate_from_clip"]
