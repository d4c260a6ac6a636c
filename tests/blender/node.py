# SPDX-License-Identifier: GPL-3.0-or-later
"""Add a node, matte a clip in the background, render every output at several frames, save the file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import connect, error_of, finish, install, load_clip, matting_node, render, size_scene


def main() -> None:
    args = install()
    folder = Path(args["folder"])
    scene = bpy.context.scene
    clip = load_clip(args["footage"], args["frame_start"], args["frame_offset"])
    size_scene(scene, *clip.size)
    blend = folder / "shot.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))

    assert bpy.ops.bgm.add_node(clip=clip.name) == {"FINISHED"}
    node = matting_node(scene)
    bgm = node.node_tree.bgm
    renders = {"before": render(scene, args["frames"][3], folder / "before.exr")}
    bgm.plate_source = "NONE"
    bgm.use_matte = True
    bgm.detail = 0.25
    error = error_of(bpy.ops.bgm.matte_clip)
    assert not error, error
    for output in ("Image", "Alpha", "Foreground", "Error"):
        connect(scene, node, output)
        for frame in args["frames"]:
            renders[f"{output} {frame}"] = render(scene, frame, folder / f"{output}.{frame}.exr")
    connect(scene, node, "Image")
    node.inputs["Background"].default_value = (0.25, 0.5, 0.75, 1.0)
    renders["over"] = render(scene, args["frames"][3], folder / "over.exr")
    node.inputs["Background"].default_value = (0.0, 0.0, 0.0, 0.0)
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    finish(renders=renders, blend=str(blend), status=bgm.status, first=bgm.result_first, last=bgm.result_last)


main()
