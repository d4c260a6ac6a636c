# SPDX-License-Identifier: GPL-3.0-or-later
"""Strips that are matted twice, graded, animated, renamed, and read in another colour space than their clip."""

import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import addon, draw_sequencer, error_of, finish, install, load_clip, matte_strip, start_edit, strips_of


def main() -> None:
    args = install()
    scene = start_edit(args["folder"], 16, 16)
    sequencer = addon("sequencer")
    strips = strips_of(scene)
    result: dict = {}

    def movie_strip(name: str, channel: int, start: int) -> bpy.types.Strip:
        return strips.new_movie(name=name, filepath=args["movie"], channel=channel, frame_start=start)

    def matte(strip: bpy.types.Strip) -> bpy.types.Strip | None:
        """Matte a strip; returns the cut-out that has been added, if one has."""
        return next(iter(matte_strip(scene, strip)), None)

    def warnings() -> list[str]:
        return [words for words in addon("runner").task.warnings if "fake engine" not in words]

    def place(strip: bpy.types.Strip) -> list[int]:
        return [strip.channel, strip.frame_final_start, strip.frame_final_end, int(strip.frame_start)]

    movie = movie_strip("movie", 2, 20)
    sequencer.set_frames(movie, 23, 27)
    sequencer.group_for_strip(scene, movie).bgm.plate_source = "NONE"
    strips.new_effect(name="after it", type="COLOR", channel=3, frame_start=28, **args["effect_end"]).mute = True
    cut_out = matte(movie)
    result["once"] = place(cut_out)
    cut_out.blend_alpha, cut_out.transform.offset_x, cut_out.mute = 0.5, 7, True
    sequencer.set_frames(movie, 21, 30)
    assert matte(movie) is None
    result["again"] = [
        *place(cut_out),
        cut_out.blend_alpha,
        cut_out.transform.offset_x,
        cut_out.mute,
        cut_out.blend_type,
    ]
    result["images"] = [element.filename for element in cut_out.elements]
    assert [Path(cut_out.strip_elem_from_frame(f).filename).stem[-2:] for f in (21, 29)] == ["02", "10"]
    above = movie_strip("above", 6, 22)  # the same footage at the same time, beside it in the picture
    over = matte(above)
    result["above"] = place(over)
    assert matte(movie) is None and matte(above) is None
    result["both"] = [place(cut_out), place(over)]
    movie.frame_start += 100
    cut_out.frame_start += 100
    assert matte(movie) is None
    result["moved"] = place(cut_out)
    piece = cut_out.split(frame=126, split_method="SOFT")
    sequencer.set_frames(piece, 127, 130)  # without a frame that the editor wants not
    assert matte(movie) is None
    named = (strip.strip_elem_from_frame(frame).filename for strip, frame in ((cut_out, 121), (piece, 129)))
    result["cut"] = [place(cut_out), place(piece), [Path(name).stem[-2:] for name in named]]
    strips.remove(piece)

    # The source is cut: its cut-out goes on showing what both pieces show; a piece that is slipped has its own
    source = movie_strip("in two", 2, 1000)
    whole = matte(source)
    piece = source.split(frame=1005, split_method="SOFT")
    sequencer.set_frames(piece, 1005, 1010)
    assert matte(source) is None and matte(piece) is None
    result["source cut"] = [place(whole)]
    piece.frame_start -= 2
    sequencer.set_frames(piece, 1005, 1010)
    piece.channel = 2  # from which it gave way to the other
    own = matte(piece)
    assert matte(source) is None
    result["source cut"] += [place(whole), place(own)]
    for strip in (source, piece, whole, own):
        strips.remove(strip)

    # Effect strips go on showing the footage
    shown = movie
    for name, kind in (("fast", "SPEED"), ("soft", "GAUSSIAN_BLUR")):
        shown = strips.new_effect(name=name, type=kind, channel=8, frame_start=120, input1=shown, **args["effect_end"])
    matte(movie)
    result["effects"] = [warnings()]
    for name in ("soft", "fast"):
        strips[name].mute = True
    matte(movie)
    result["effects"].append(warnings())
    for name in ("soft", "fast"):
        strips.remove(strips[name])

    # A new clip is read as its strip is, and its path is relative where the strip's is; one that the file has already
    # stays as it is
    linear = strips.new_movie(name="linear", filepath=args["copy"], channel=2, frame_start=300)
    linear.filepath = bpy.path.relpath(args["copy"])
    linear.colorspace_settings.name = "Linear Rec.709"
    clip = load_clip(args["footage"])
    clip.colorspace_settings.name = "Non-Color"
    images = strips.new_image(name="images", filepath=args["footage"], channel=2, frame_start=400)
    spaces = []
    for strip in (linear, images):
        scene.sequence_editor.active_strip = strip
        assert not error_of(bpy.ops.bgm.set_up_strip)
        tree = sequencer.find_group(strip)
        tree.bgm.plate_source = "NONE"
        added = matte(strip)
        spaces.append([tree.bgm.clip.colorspace_settings.name, added.colorspace_settings.name, warnings()])
    assert tree.bgm.clip == clip
    result["spaces"] = spaces
    result["paths"] = [sequencer.find_group(strip).bgm.clip.filepath for strip in (linear, images)]

    # What can be copied is; of the rest the artist is told, until the cut-out has it too
    if hasattr(bpy.context.workspace, "sequencer_scene"):  # 5.0.1 crashes without
        bpy.context.workspace.sequencer_scene = scene
    graded = movie_strip("graded", 2, 500)
    look = {"blend_alpha": 0.5, "color_multiply": 2.0, "multiply_alpha": True, "color_saturation": 0.25}
    for name, value in look.items():
        setattr(graded, name, value)
    graded.transform.filter = "NEAREST"
    graded.transform.offset_x = 40
    for frame in (500, 510):
        graded.transform.keyframe_insert("offset_x", frame=frame)
    graded.modifiers.new(name="bright", type="BRIGHT_CONTRAST")
    cut_out = matte(graded)
    result["copied"] = {name: getattr(cut_out, name) == value for name, value in look.items()}
    result["copied"]["filter"] = cut_out.transform.filter == "NEAREST"
    result["copied"]["offset"] = cut_out.transform.offset_x == 40
    result["told"] = [warnings()]
    cut_out.modifiers.new(name="bright", type="BRIGHT_CONTRAST")
    matte(graded)
    result["told"].append(warnings())
    cut_out.driver_add("blend_alpha")
    matte(graded)
    result["told"].append(warnings())
    graded.modifiers.clear()
    cut_out.driver_remove("blend_alpha")
    strips.remove(above)
    strips.remove(movie)
    bpy.ops.bgm.add_strip(group=sequencer.find_group(graded).name)

    # Strip and scene get other names during the job, and another strip of the same footage has the old one
    runner = addon("runner")
    wait, runner._pump_until_done = runner._pump_until_done, lambda: None
    before = set(strips)
    scene.sequence_editor.active_strip = renamed = movie_strip("interview", 2, 600)
    assert not error_of(bpy.ops.bgm.matte_strip)
    renamed.name, images.name, scene.name = "interview A", "interview", "Edit"
    graded.select, renamed.select = False, True
    while runner.pump() is not None:
        time.sleep(0.02)
    runner._pump_until_done = wait
    assert runner.task.state == "finished", runner.task.message
    (added,) = set(strips) - before - {renamed}
    result["renamed"] = place(added)

    # It is deleted during the job, and others of the same footage stay as they are
    before = {strip.name: strip.mute for strip in strips}
    scene.sequence_editor.active_strip = movie_strip("deleted", 2, 700)
    runner._pump_until_done = lambda: None
    assert not error_of(bpy.ops.bgm.matte_strip)
    strips.remove(strips["deleted"])
    while runner.pump() is not None:
        time.sleep(0.02)
    runner._pump_until_done = wait
    result["deleted"] = [runner.task.message, {strip.name: strip.mute for strip in strips} == before]

    # Its handle is moved during the job, over frames that are not matted
    scene.sequence_editor.active_strip = longer = movie_strip("longer", 2, 800)
    sequencer.set_frames(longer, 800, 804)
    shutil.rmtree(addon("node").result_folder(sequencer.find_group(longer)))
    runner._pump_until_done = lambda: None
    assert not error_of(bpy.ops.bgm.matte_strip)
    sequencer.set_frames(longer, 800, 806)
    while runner.pump() is not None:
        time.sleep(0.02)
    runner._pump_until_done = wait
    result["longer"] = warnings()

    # A strip that is no footage
    scene.sequence_editor.active_strip = strips["after it"]
    layout = draw_sequencer(scene)
    labels = [text for text, _ in layout.labels]
    result["no footage"] = [layout.operators, labels, error_of(bpy.ops.bgm.matte_strip)]

    # There is no channel above the last
    scene.sequence_editor.active_strip = top = movie_strip("top", 128, 900)
    before = set(strips)
    result["top"] = [error_of(bpy.ops.bgm.matte_strip), set(strips) == before, top.mute]
    top.channel, longer.select = 127, True
    assert not error_of(bpy.ops.bgm.add_strip, group=sequencer.find_group(top).name)
    (added,) = set(strips) - before
    result["below it"] = place(added)

    # Its cut-out, which lies on top, stands for it
    sequencer.set_frames(top, 902, 908)
    scene.sequence_editor.active_strip = added
    result["of a cut-out"] = [draw_sequencer(scene).operators, error_of(bpy.ops.bgm.matte_strip), place(added)]

    # What is matted can be laid again while its footage is out of reach
    Path(args["movie"]).rename(away := Path(args["movie"]).with_name("away.mp4"))
    top.filepath = args["movie"]
    strips.remove(added)
    scene.sequence_editor.active_strip = top
    assert top.fps == 0
    assert not error_of(bpy.ops.bgm.add_strip, group=sequencer.find_group(top).name)
    (added,) = set(strips) - before
    result["out of reach"] = place(added)
    away.rename(args["movie"])
    strips.remove(top)
    result["without its source"] = error_of(bpy.ops.bgm.set_up_strip)

    # A long cut-out is laid again as quickly as at first
    names, seconds = [f"matte.{number:04d}.png" for number in range(4000)], []
    for _ in range(2):
        start = time.monotonic()
        sequencer._fill(added, names, 900)
        seconds.append(time.monotonic() - start)
    result["long"] = [[element.filename for element in added.elements] == names, *seconds]
    sequencer._fill(added, names[5:9], 900)
    result["short again"] = [[element.filename for element in added.elements] == names[5:9], int(added.frame_start)]

    # What was cut out with an older matte is not laid
    tree = sequencer.find_group(graded)
    tree.bgm.use_matte = False
    assert not error_of(bpy.ops.bgm.matte_clip, group=tree.name)
    result["older"] = error_of(bpy.ops.bgm.add_strip, group=tree.name)
    finish(**result)


main()
