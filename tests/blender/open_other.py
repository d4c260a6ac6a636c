# SPDX-License-Identifier: GPL-3.0-or-later
"""Open a file of another Blender: its node's settings, and its render."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import finish, install, matting_node, render


def main() -> None:
    args = install()
    bpy.ops.wm.open_mainfile(filepath=args["blend"])
    scene = bpy.context.scene
    bgm = matting_node(scene).node_tree.bgm
    names = (
        "is_matting",
        "plate_source",
        "use_matte",
        "frame_range",
        "output_folder",
        "result_first",
        "status",
        "detail",
    )
    settings = {name: getattr(bgm, name) for name in names}
    finish(settings={**settings, "clip": bgm.clip.name}, image=render(scene, 10, Path(args["folder"]) / "opened.exr"))


main()
