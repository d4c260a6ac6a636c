# SPDX-License-Identifier: GPL-3.0-or-later
"""The Blender extension: a compositor node, panels and operators around the matting engine, which runs apart.

Modules without bpy (client, environment, errors, footage) import anywhere; the rest is imported on `register()`.
"""

from __future__ import annotations

import atexit
import importlib
from types import ModuleType

_NAMES = ("preferences", "settings", "runner", "node", "operators", "panels", "command")  # in order of need
_registered: list[ModuleType] = []


def register() -> None:
    for name in _NAMES:
        module = importlib.import_module(f".{name}", __package__)
        module.register()
        _registered.append(module)
    atexit.register(unregister)  # Blender as a module can hang at exit over classes that stay registered


def unregister() -> None:
    atexit.unregister(unregister)
    while _registered:
        _registered.pop().unregister()
