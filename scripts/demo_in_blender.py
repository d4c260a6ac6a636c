# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's part inside Blender: install the extension, matte a clip with its node, render compositor and sequencer.

Run by scripts/demo.py; the last argument is JSON. What an artist does by hand in the same order is in the README.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import bpy


def main(args: dict[str, Any]) -> None:
    folder = Path(args["output"])
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.extensions.package_install_files(
        repo="user_default", filepath=args["zip"], enable_on_install=True, overwrite=True
    )
    scene = bpy.context.scene
    clip = bpy.data.movieclips.load(args["footage"])
    set_up_scene(scene, clip, args["frames"])
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "demo.blend"))

    plate = bpy.data.images.load(args["plate"]) if args["plate"] else None
    bpy.ops.bgm.add_node(clip=clip.name, plate=plate.name if plate else "")
    group = next(tree for tree in bpy.data.node_groups if tree.name.startswith("Matting"))
    group.bgm.plate_source = "IMAGE" if plate else "FROM_CLIP"
    group.bgm.output_folder = str(folder / "matte")
    group.bgm.use_matte = True  # the sequencer needs colour and alpha in one image
    group.bgm.frame_range = "SCENE"
    bpy.ops.bgm.matte_clip(group=group.name)

    background = bpy.data.images.load(args["background"])
    put_background_behind(scene, group, background)
    render(scene, folder / "compositor", sequencer=False)
    lay_strips(scene, group, args["background"])
    render(scene, folder / "sequencer", sequencer=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "demo.blend"))
    print(f"DONE in Blender {bpy.app.version_string}", flush=True)


def set_up_scene(scene: bpy.types.Scene, clip: bpy.types.MovieClip, frames: list[int] | None) -> None:
    scene.render.resolution_x, scene.render.resolution_y = clip.size
    scene.render.resolution_percentage = 100
    scene.render.fps = round(clip.fps) or 24
    scene.view_settings.view_transform = "Standard"  # footage is no scene light: show it as it was shot
    scene.frame_start, scene.frame_end = frames or (1, clip.frame_duration)
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):  # 5.0 on
        settings.media_type = "IMAGE"
    settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGB", "8"


def put_background_behind(scene: bpy.types.Scene, group: bpy.types.NodeTree, image: bpy.types.Image) -> None:
    """Link the image, scaled to the frame, to the matting node's Background."""
    tree = scene.compositing_node_group if hasattr(scene, "compositing_node_group") else scene.node_tree
    node = next(n for n in tree.nodes if n.type == "GROUP" and n.node_tree == group)
    source = tree.nodes.new("CompositorNodeImage")
    source.image = image
    scale = tree.nodes.new("CompositorNodeScale")
    if hasattr(scale, "space"):
        scale.space, scale.frame_method = "RENDER_SIZE", "CROP"
    else:  # 5.0 on
        scale.inputs["Type"].default_value = "Render Size"
        scale.inputs["Frame Type"].default_value = "Crop"
    tree.links.new(source.outputs["Image"], scale.inputs["Image"])
    tree.links.new(scale.outputs["Image"], node.inputs["Background"])


def lay_strips(scene: bpy.types.Scene, group: bpy.types.NodeTree, background: str) -> None:
    """New background below, the source strip muted, the matte over it in sync."""
    editor = scene.sequence_editor or scene.sequence_editor_create()
    below = editor.strips.new_image(
        name="Background", filepath=background, channel=1, frame_start=scene.frame_start, fit_method="FILL"
    )
    setattr(below, "right_handle" if hasattr(below, "right_handle") else "frame_final_end", scene.frame_end + 1)
    clip = group.bgm.clip
    path = bpy.path.abspath(clip.filepath)
    movie = clip.source == "MOVIE"
    new_strip = editor.strips.new_movie if movie else editor.strips.new_image
    source = new_strip(name="Footage", filepath=path, channel=2, frame_start=clip.frame_start)
    if not movie:
        names = sorted(p.name for p in Path(path).parent.glob("*" + Path(path).suffix) if p.name > Path(path).name)
        for name in names:
            source.elements.append(name)
    source.mute = True
    bpy.ops.bgm.add_strip(group=group.name)


def render(scene: bpy.types.Scene, folder: Path, sequencer: bool) -> None:
    scene.render.use_compositing, scene.render.use_sequencer = not sequencer, sequencer
    scene.render.filepath = str(folder / f"{folder.name}.")
    bpy.ops.render.render(animation=True)


main(json.loads(sys.argv[-1]))
