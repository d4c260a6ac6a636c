# SPDX-License-Identifier: GPL-3.0-or-later
"""The clean plate: made from the clip, aligned, matched in colour, diagnosed. Arrays in and out; no bpy, no torch."""

from core.plate.from_clip import ClipPlate, plate_from_clip

__all__ = ["ClipPlate", "plate_from_clip"]
