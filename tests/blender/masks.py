# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage and core masks of Blender's own, in the node."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import arguments, connect, error_of, finish, install, load_clip, matting_node, render, size_scene


def half(name: str, left: float, right: float) -> bpy.types.Mask:
    """A mask over the full height, from a share of the width to another."""
    mask = bpy.data.masks.new(name)
    spline = mask.layers.new().splines.new()
    spline.points.add(3)
    spline.use_cyclic = True
    for point, (x, y) in zip(spline.points, ((left, -1), (right, -1), (right, 2), (left, 2)), strict=True):
        point.co = (x, y)
        point.handle_type = "VECTOR"
    return mask


def main() -> None:
    args = arguments()
    install(args["zip"])
    folder = Path(args["folder"])
    scene = bpy.context.scene
    clip = load_clip(args["footage"])
    size_scene(scene, 200, 100)  # not the clip's size
    bpy.ops.bgm.add_node(clip=clip.name)
    node = matting_node(scene)
    bgm = node.node_tree.bgm
    bgm.plate_source = "NONE"
    bgm.output_folder = str(folder / "out")
    bgm.garbage_mask, bgm.core_mask = half("garbage", -1, 0.25), half("core", 0.75, 2)
    assert not error_of(bpy.ops.bgm.matte_clip)
    size_scene(scene, *clip.size)
    renders = {}
    for output in ("Alpha", "Foreground"):
        connect(scene, node, output)
        renders[output] = render(scene, 3, folder / f"{output}.exr")
    bgm.garbage_mask = bgm.core_mask = None
    connect(scene, node, "Alpha")
    renders["without"] = render(scene, 3, folder / "without.exr")
    finish(renders=renders)


main()
