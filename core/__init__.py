# SPDX-License-Identifier: GPL-3.0-or-later
"""The matting engine: footage and a clean plate in, alpha and foreground out. No bpy."""

__version__ = "0.1.0"
