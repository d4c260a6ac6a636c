# SPDX-License-Identifier: GPL-3.0-or-later
"""Render a file in a Blender that has never heard of the add-on."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import arguments, finish, render


def main() -> None:
    args = arguments()
    bpy.ops.wm.open_mainfile(filepath=args["blend"])
    assert not hasattr(bpy.types.NodeTree, "bgm")
    folder = Path(args["folder"])
    renders = {str(frame): render(bpy.context.scene, frame, folder / f"plain.{frame}.exr") for frame in args["frames"]}
    finish(renders=renders)


main()
