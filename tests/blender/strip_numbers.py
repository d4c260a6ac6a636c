# SPDX-License-Identifier: GPL-3.0-or-later
"""Strips that do not show one number after the other: with gaps, repeats, and frames held beyond both ends."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import addon, error_of, finish, install, start_edit, strips_of


def main() -> None:
    args = install()
    folder, first = Path(args["folder"]), Path(args["footage"])
    scene = start_edit(args["folder"], 16, 16)
    sequencer = addon("sequencer")
    strips = strips_of(scene)
    shown, numbers, errors = {}, {}, {}

    def files_of(numbers: Iterable[int]) -> list[Path]:
        return [first.with_name(first.name.replace("1001", str(number))) for number in numbers]

    def image_strip(numbers: list[int], start: int) -> bpy.types.Strip:
        files = files_of(numbers)
        strip = strips.new_image(name="source", filepath=str(files[0]), channel=1, frame_start=start)
        for file in files[1:]:
            strip.elements.append(file.name)
        return strip

    def number_shown(strip: bpy.types.Strip, frame: int) -> str:
        return Path(strip.strip_elem_from_frame(frame).filename).stem.split(".")[-1]

    def matte(name: str, strip: bpy.types.Strip) -> None:
        """Note which numbers are matted, and what source and cut-out show at each of the source's frames."""
        tree = sequencer.group_for_strip(scene, strip)
        tree.bgm.plate_source = "NONE"
        tree.bgm.output_folder = f"//{name}/"
        scene.sequence_editor.active_strip = strip
        before = set(strips)
        errors[name] = error_of(bpy.ops.bgm.matte_strip)
        if errors[name]:
            strips.remove(strip)
            return
        (cut_out,) = set(strips) - before
        frames = range(strip.frame_final_start, strip.frame_final_end)
        assert (cut_out.frame_final_start, cut_out.frame_final_end) == (frames[0], frames[-1] + 1)
        if strip.type == "IMAGE":
            assert [number_shown(cut_out, f) for f in frames] == [number_shown(strip, f) for f in frames], name
        shown[name] = [int(number_shown(cut_out, frame)) for frame in frames]
        numbers[name] = json.loads((folder / name / "job.yaml").read_text())["frames"]
        strips.remove(cut_out)
        strips.remove(strip)

    matte("gaps", image_strip([1001, 1004, 1005, 1006, 1007, 1008], 1))
    strip = image_strip([1001, 1004, 1005, 1006, 1007, 1008], 100)
    sequencer.set_frames(strip, 101, 104)
    matte("gaps, trimmed", strip)
    matte("on twos", image_strip([1002, 1002, 1003, 1003], 200))
    strip = image_strip([1005], 300)
    sequencer.set_frames(strip, 300, 304)
    matte("a still", strip)
    strip = image_strip([1005, 1006, 1007], 400)
    sequencer.set_frames(strip, 398, 405)
    matte("held", strip)
    strip = image_strip([1005, 1006, 1007], 500)
    sequencer.set_frames(strip, 504, 506)
    matte("only held", strip)
    strip = strips.new_movie(name="movie", filepath=args["movie"], channel=1, frame_start=600)
    strip.animation_offset_end = 4
    sequencer.set_frames(strip, 605, 612)
    matte("a movie, held", strip)
    matte("unordered", image_strip([1005, 1003], 700))
    strip = image_strip([1007], 800)
    strip.elements.append("another.1008.png")
    matte("of two", strip)

    # A farm does what the strips show, in every scene; a clip that a compositor shows, as its node says
    second = bpy.data.scenes.new("Second")
    second.render.fps = 12
    elsewhere = strips_of(second)
    for number, count in ((1002, 2), (1001, 5)):
        strip = elsewhere.new_image(name="source", filepath=str(files_of([number])[0]), channel=1, frame_start=number)
        for file in files_of(range(number + 1, number + count)):
            strip.elements.append(file.name)
    tree = sequencer.group_for_strip(second, elsewhere[0])
    tree.bgm.plate_source, tree.bgm.output_folder = "NONE", "//farm/"
    farm = []
    for change in (
        lambda: None,
        lambda: setattr(elsewhere[0], "strobe", 2.0),
        lambda: setattr(elsewhere[0], "strobe", 1.0),
        lambda: addon("node").add_to_scene(scene, tree),
    ):
        change()
        assert addon("command").run(["matte", "--node", tree.name]) == 0
        job = json.loads((folder / "farm" / "job.yaml").read_text())
        farm.append([*job["frames"], job["output"]["fps"]])
    finish(shown=shown, numbers=numbers, errors=errors, farm=farm)


main()
