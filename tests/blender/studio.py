# SPDX-License-Identifier: GPL-3.0-or-later
"""With the colour configuration that `OCIO` names: matte, preview, and a plate made from the clip."""

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import addon, error_of, finish, install, load_clip, matting_node


def main() -> None:
    args = install()
    ops, scene = bpy.ops.bgm, bpy.context.scene
    clip = load_clip(args["footage"])
    bpy.ops.wm.save_as_mainfile(filepath=str(Path(args["folder"]) / "shot.blend"))
    ops.add_node(clip=clip.name)
    tree = matting_node(scene).node_tree
    tree.bgm.plate_source = "FROM_CLIP"
    errors = [error_of(operator) for operator in (ops.matte_clip, ops.matte_frame, ops.make_plate)]
    preview = bpy.data.images["Matting Preview"]

    def read(space: str) -> str:
        """The space in which the foreground of a clip is read that is read in this one."""
        named = SimpleNamespace(colorspace_settings=SimpleNamespace(name=space))
        return addon("node").color_space("foreground", Path("foreground.1001.exr"), named)

    finish(
        errors=errors,
        alpha=tree.nodes["Alpha Matte"].image.colorspace_settings.is_data,
        foreground=tree.nodes["Foreground"].image.colorspace_settings.name,
        preview=preview.colorspace_settings.name,
        clip=clip.colorspace_settings.name,
        exr={space: read(space) for space in args["spaces"]},
        pixels=[round(value, 6) for value in preview.pixels[:8]],
    )


main()
