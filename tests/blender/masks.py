# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage and core masks of Blender's own, in the node."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import addon, connect, error_of, finish, half_mask, install, load_clip, matting_node, render, size_scene


def mask_size(group: bpy.types.NodeTree) -> list[int]:
    return [group.nodes["Core Mask"].inputs[name].default_value for name in ("Size X", "Size Y")]


def main() -> None:
    args = install()
    folder = Path(args["folder"])
    scene = bpy.context.scene
    clip = load_clip(args["footage"])
    size_scene(scene, 200, 100)  # not the clip's size
    bpy.ops.bgm.add_node(clip=clip.name)
    node = matting_node(scene)
    bgm = node.node_tree.bgm
    bgm.plate_source = "NONE"
    bgm.output_folder = str(folder / "out")
    bgm.garbage_mask, bgm.core_mask = half_mask("garbage", -1, 0.25), half_mask("core", 0.75, 2)
    assert not error_of(bpy.ops.bgm.matte_clip)
    size_scene(scene, *clip.size)
    renders = {}
    for output in ("Alpha", "Foreground"):
        connect(scene, node, output)
        renders[output] = render(scene, 3, folder / f"{output}.exr")
    bgm.garbage_mask = bgm.core_mask = None
    connect(scene, node, "Alpha")
    renders["without"] = render(scene, 3, folder / "without.exr")

    # New ones, ready to be drawn where they can be
    area = bpy.context.window_manager.windows[0].screen.areas[0]
    area.ui_type = "CLIP_EDITOR"
    space = area.spaces.active
    space.clip = clip
    assert not error_of(bpy.ops.bgm.new_mask, kind="core_mask")
    shown = [space.mode, space.mask]
    with bpy.context.temp_override(window=bpy.context.window_manager.windows[0], area=area):
        assert not error_of(bpy.ops.bgm.new_mask, kind="garbage_mask")
    new = [bgm.core_mask.name, bgm.garbage_mask.name, space.mode, space.mask == bgm.garbage_mask]

    # They are as large as the clip, which may be given footage of another size before it is matted
    bpy.ops.bgm.add_node(clip=clip.name)
    (group,) = set(addon("settings").matting_trees()) - {node.node_tree}
    larger = bpy.data.images.new("larger", 200, 100)
    larger.filepath_raw, larger.file_format = str(folder / "larger.0001.png"), "PNG"
    larger.save()
    sizes = [mask_size(group)]
    clip.filepath = larger.filepath_raw
    bpy.context.view_layer.update()
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "larger.blend"))
    sizes.append(mask_size(group))
    finish(renders=renders, shown=shown, new=new, sizes=sizes)


main()
