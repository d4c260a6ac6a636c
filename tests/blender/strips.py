# SPDX-License-Identifier: GPL-3.0-or-later
"""Matte strips of the sequencer: a trimmed movie, a trimmed image sequence, and a clip that has no strip."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import (
    addon,
    draw_sequencer,
    error_of,
    finish,
    install,
    load_clip,
    matte_strip,
    matting_node,
    render,
    size_scene,
    start_edit,
    strips_of,
)


def matte_over(scene: bpy.types.Scene, strip: bpy.types.Strip, **settings: object) -> bpy.types.Strip:
    """Matte a strip by the operator; returns the new strip."""
    sequencer = addon("sequencer")
    tree = sequencer.group_for_strip(scene, strip)
    assert tree.bgm.use_matte  # a farm, too, makes what the sequencer shows
    tree.bgm.plate_source = "NONE"
    (added,) = matte_strip(scene, strip)
    assert strip.mute
    return added


def main() -> None:
    args = install()
    folder = Path(args["folder"])
    scene = start_edit(args["folder"], *args["sizes"][0])
    sequencer = addon("sequencer")
    strips = strips_of(scene)
    renders, places, numbers = {}, {}, {}

    def matted(strip: bpy.types.Strip) -> list[int]:
        folder = addon("settings").output_folder(sequencer.find_group(strip).bgm)
        return json.loads((folder / "job.yaml").read_text())["frames"]

    movie = strips.new_movie(name="movie", filepath=args["movie"], channel=2, frame_start=20)
    sequencer.set_frames(movie, 23, 29)
    scene.render.fps = 30
    wrong_rate = error_of(lambda: setattr(scene.sequence_editor, "active_strip", movie) or bpy.ops.bgm.matte_strip())
    scene.render.fps = 24
    result: dict = {"before": draw_sequencer(scene).operators}
    result["no plate"] = error_of(bpy.ops.bgm.matte_strip)
    result["left behind"] = len(bpy.data.node_groups) + len(bpy.data.movieclips)
    assert not error_of(bpy.ops.bgm.set_up_strip)
    result["set up"] = draw_sequencer(scene).operators
    scene.render.fps = 30
    bpy.ops.bgm.fit_scene(group=sequencer.find_group(movie).name)
    assert scene.render.fps / scene.render.fps_base == 24
    strips.new_effect(name="in the way", type="COLOR", channel=3, frame_start=1, **args["effect_end"]).mute = True
    matte = matte_over(scene, movie)
    result["matted"] = draw_sequencer(scene).operators
    places["movie"] = (matte.channel, matte.frame_final_start, matte.frame_final_end, matte.frame_start)
    numbers["movie"] = matted(movie)
    renders["movie"] = render(scene, 25, folder / "movie.exr")
    for first in (21, 23):  # to frames that are not matted, and back
        sequencer.set_frames(movie, first, 29)
        assert not error_of(bpy.ops.bgm.add_strip)
    matte.mute = True

    size_scene(scene, *args["sizes"][1])
    files = sorted(Path(args["footage"]).parent.iterdir())[2:]  # an edit that begins with number 1003
    images = strips.new_image(name="images", filepath=str(files[0]), channel=5, frame_start=40)
    for file in files[1:]:
        images.elements.append(file.name)
    sequencer.set_frames(images, 42, 47)
    scene.sequence_editor.channels[6].mute = scene.sequence_editor.channels[7].lock = True
    matte = matte_over(scene, images)
    places["images"] = (matte.channel, matte.frame_final_start, matte.frame_final_end, matte.frame_start)
    numbers["images"] = matted(images)
    renders["images"] = render(scene, 44, folder / "images.exr")

    # What a farm wrote meanwhile, and what the compositor's button mattes again, the strips show, too
    tree = sequencer.find_group(images)
    written = Path(bpy.path.abspath(matte.directory))
    (written / "matte.1007.png").write_bytes((written / "matte.1005.png").read_bytes())
    assert not error_of(bpy.ops.bgm.use_results, group=tree.name)
    renders["of a farm"] = render(scene, 44, folder / "farm.exr")
    assert not error_of(bpy.ops.bgm.matte_clip, group=tree.name)
    renders["again"] = render(scene, 44, folder / "again.exr")
    matte.mute = True

    other = load_clip(args["other"], frame_start=60)
    bpy.ops.bgm.add_node(clip=other.name)
    tree = matting_node(scene).node_tree
    tree.bgm.plate_source = "NONE"
    tree.bgm.use_matte = True
    bpy.ops.bgm.matte_clip(group=tree.name)
    bpy.ops.bgm.add_strip(group=tree.name)
    matte = strips[f"{tree.name} Matte"]
    places["no source"] = (matte.channel, matte.frame_final_start, matte.frame_final_end, matte.frame_start)
    renders["no source"] = render(scene, 61, folder / "other.exr")
    # Footage beside the file's folder, not below it, and every path made relative
    scene.render.filepath = ""
    (folder / "edit").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "edit" / "edit.blend"))
    bpy.ops.file.make_paths_relative()
    assert movie.filepath.startswith("//.."), movie.filepath
    for strip in (movie, images):
        group = sequencer.find_group(strip)
        assert group is not None and sequencer.source_strip(scene, group) == strip
        matte = sequencer.add_matte_strip(scene, group, strip)
        assert Path(bpy.path.abspath(matte.directory), matte.elements[0].filename).is_file()

    # Flipped, cropped and turned about another point, inside a meta strip
    scene.render.fps = 24
    movie.use_reverse_frames = True
    scene.sequence_editor.active_strip = movie
    reverse = error_of(bpy.ops.bgm.matte_strip)
    movie.use_reverse_frames = False
    movie.use_flip_x, movie.crop.min_x, movie.transform.origin[0] = True, 5, 0.25
    meta = strips.new_meta(name="meta", channel=20, frame_start=20)
    movie.move_to_meta(meta)
    inside = set(meta.strips)
    assert not error_of(bpy.ops.bgm.matte_strip)
    (matte,) = set(meta.strips) - inside
    in_meta = {
        "flip": matte.use_flip_x,
        "crop": matte.crop.min_x,
        "origin": matte.transform.origin[0],
        "beside": matte.channel > movie.channel and matte.frame_final_start == movie.frame_final_start,
    }
    finish(
        renders=renders,
        places=places,
        numbers=numbers,
        wrong_rate=wrong_rate,
        reversed=reverse,
        **result,
        **{"in a meta strip": in_meta},
    )


main()
