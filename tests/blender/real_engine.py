# SPDX-License-Identifier: GPL-3.0-or-later
"""Matte with the real engine into both formats, and render what it wrote."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import connect, error_of, finish, install, load_clip, matting_node, render, size_scene


def main() -> None:
    args = install()
    folder = Path(args["folder"])
    scene = bpy.context.scene
    clip = load_clip(args["footage"])
    size_scene(scene, *args["size"])
    plate = bpy.data.images.load(args["plate"])
    bpy.ops.bgm.add_node(clip=clip.name, plate=plate.name)
    node = matting_node(scene)
    bgm = node.node_tree.bgm
    renders: dict = {}
    for extension in ("png", "exr"):
        bgm.format = extension
        bgm.output_folder = str(folder / extension)
        error = error_of(bpy.ops.bgm.matte_clip)
        assert not error, error
        renders[extension] = {}
        for output in ("Alpha", "Image"):
            connect(scene, node, output)
            renders[extension][output] = render(scene, args["frame"], folder / f"{extension}_{output}.exr")
    bgm.clip = load_clip(args["plate"])  # as other footage
    finish(renders=renders, refused=error_of(bpy.ops.bgm.matte_clip))


main()
