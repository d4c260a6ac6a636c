# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension's preferences: the engine's environment and device, and what works, in words."""

from __future__ import annotations

import tempfile
from pathlib import Path

import bpy

from . import environment

# The extension's own name: its top package, "bl_ext.<repository>.<id>"; in a checkout this package itself
PACKAGE = __package__.rpartition(".")[0] or __package__

DEVICES = [
    ("auto", "Automatic", "The fastest device there is"),
    ("cpu", "CPU", "The processor"),
    ("cuda", "CUDA", "The first NVIDIA graphics card"),
    ("all", "All CUDA Cards", "Every NVIDIA graphics card, each on a part of the frames"),
    ("mps", "Metal", "An Apple graphics processor"),
]


class BGM_AP_preferences(bpy.types.AddonPreferences):
    bl_idname = PACKAGE

    engine_source: bpy.props.EnumProperty(
        name="Engine",
        description="The Python that the engine runs on",
        items=[
            ("MADE", "Own Environment", "An environment that this extension makes for itself"),
            ("NAMED", "My Python", "A Python of yours that has the engine's requirements installed"),
        ],
    )
    python: bpy.props.StringProperty(
        name="Python",
        description="A Python interpreter, or the folder of a virtual environment",
        subtype="FILE_PATH",
    )
    torch_index: bpy.props.StringProperty(
        name="PyTorch From",
        description="Package index for PyTorch's build, such as https://download.pytorch.org/whl/cpu. "
        "Empty: chosen for this machine; on Linux without an NVIDIA card, the one without CUDA",
    )
    device: bpy.props.EnumProperty(
        name="Device",
        description="What to compute on, unless a node says otherwise",
        items=DEVICES,
    )

    def draw(self, context: bpy.types.Context) -> None:
        from . import panels

        panels.draw_preferences(self.layout, self)


def get() -> BGM_AP_preferences | None:
    """None while the extension is registered without being enabled, as a test may do."""
    addon = bpy.context.preferences.addons.get(PACKAGE)
    return addon.preferences if addon else None


def device() -> str:
    chosen = get()
    return chosen.device if chosen else "auto"


def torch_index() -> str:
    chosen = get()
    return chosen.torch_index.strip() if chosen else ""


def engine_python() -> Path:
    """The engine's Python.

    Raises:
        UserError: there is none, in words that say what to do.
    """
    chosen = get()
    named = bpy.path.abspath(chosen.python) if chosen and chosen.engine_source == "NAMED" else None
    return environment.find_python(named, environment_folder())


def environment_folder() -> Path:
    """Where the environment lives that this extension makes; it outlasts an update of the extension."""
    return _user_folder() / "environment"


def log_path() -> Path:
    """The engine's log."""
    return _user_folder() / "engine.log"


def _user_folder() -> Path:
    try:
        return Path(bpy.utils.extension_path_user(PACKAGE))
    except ValueError:  # a checkout is no extension
        return Path(tempfile.gettempdir()) / "bgm_matting"


register, unregister = bpy.utils.register_classes_factory((BGM_AP_preferences,))
