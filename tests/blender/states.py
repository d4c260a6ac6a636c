# SPDX-License-Identifier: GPL-3.0-or-later
"""What a day brings: clips swapped, nodes deleted, groups copied, jobs stopped, footage out of reach, other scenes."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import addon, error_of, finish, install, load_clip, matting_node, outcome


def shown(tree: bpy.types.NodeTree) -> str:
    """The inner node whose alpha leaves the group."""
    return tree.nodes["Alpha Source"].inputs[0].links[0].from_node.name


def main() -> None:
    args = install()
    folder = Path(args["folder"])
    ops, scene = bpy.ops.bgm, bpy.context.scene
    settings, runner = addon("settings"), addon("runner")
    clip, other = load_clip(args["footage"]), load_clip(args["other"])
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "shot.blend"))
    result: dict = {}

    ops.add_node()
    tree = matting_node(scene).node_tree
    bgm = tree.bgm
    names = [tree.name]
    for bgm.clip in (other, clip):
        names.append([tree.name, bgm.output_folder])
    result["names"] = names

    def plate() -> str:
        return json.loads((settings.output_folder(bgm) / "job.yaml").read_text())["plate"]["path"]

    # Another clip is not shown with this one's matte, nor matted with its plate or into its folder. The default
    # folder follows the clip; one that was typed stays
    bgm.plate_source = "FROM_CLIP"
    assert not error_of(ops.matte_clip)
    plates, sources = [plate()], [shown(tree)]
    bgm.clip = other
    sources.append(shown(tree))
    result["followed"] = [tree.name, bgm.output_folder]
    bgm.output_folder = "//matting/Matting_shot_v2/"
    result["taken folder"] = error_of(ops.matte_clip)
    bgm.output_folder = "//matting/other/"
    assert not error_of(ops.matte_clip)
    plates.append(plate())
    sources.append(shown(tree))
    result["plates"], result["sources"] = plates, sources

    # The scene gets all frames of images with a gap
    fits = [settings.scene_fits(scene, other), error_of(ops.fit_scene), settings.scene_fits(scene, other)]
    result["with a gap"] = [*fits, scene.frame_start, scene.frame_end]
    scene.frame_end = 6
    result["with a gap"].append(settings.scene_fits(scene, other))

    # Findings are of one plate; the plate that is made is the one in use, and moves with the project
    assert not error_of(ops.check_plate)
    counts = [len(bgm.findings)]
    for _ in range(2):
        assert not error_of(ops.make_plate)
        result["made plate"] = [bgm.plate_source, bgm.plate_image.filepath[:2], bool(bgm.plate_image.packed_file)]
        bgm.plate_image.pack()  # as Automatically Pack Resources does
    counts.append(len(bgm.findings))
    assert not error_of(ops.check_plate)
    bgm.plate_source = "NONE"
    result["findings"] = [*counts, len(bgm.findings)]

    # A copy has results of its own
    copy = tree.copy()
    copy.bgm.output_folder = "//matting/copy/"
    assert not error_of(ops.matte_clip, group=copy.name)
    result["copy"] = [group.nodes["Alpha Matte"].image.filepath.split("/")[3] for group in (tree, copy)]
    bpy.data.node_groups.remove(copy)

    # A result that was switched off for some frames is not shown for any: those would be without the subject
    incomplete, bgm.output_folder, bgm.frame_range = [], "//matting/incomplete/", "CUSTOM"
    for frame, bgm.use_foreground in ((1, True), (2, False), (3, True), (2, True)):
        bgm.frame_first = bgm.frame_last = frame
        assert not error_of(ops.matte_clip)
        colors = tree.nodes["Foreground Source"].inputs[0].links[0].from_node.name
        incomplete.append([colors, *(words for words in runner.task.warnings if "without" in words)])
    result["incomplete"], bgm.frame_range = incomplete, "CLIP"

    # Given another clip, it is named after that
    copies = [original := addon("node").new_group(clip), original.copy()]
    copies.append(copies[1].copy())
    copies[2].name = "Hero"
    for copy in copies[1:]:
        copy.bgm.clip = other
    copies.append(addon("node").new_group(clip))  # again, as its node was deleted
    result["copies"] = [[copy.name, copy.bgm.output_folder] for copy in copies]
    for copy in copies:
        bpy.data.node_groups.remove(copy)

    # A clip that is given another file is as another clip; with its own again, its matte is shown
    own = load_clip(args["other"])
    group = addon("node").new_group(own)
    group.use_fake_user, group.bgm.plate_source, group.bgm.use_matte = True, "NONE", True
    assert not error_of(ops.matte_clip, group=group.name)
    relinked = []
    for own.filepath in (str(shutil.copy(args["footage"], folder / "v2.0007.png")), args["other"]):
        bpy.ops.wm.save_mainfile()  # in the window, follow_files runs at once
        has_cut_out = addon("sequencer").has_cut_out(group)
        relinked.append([shown(group), group.bgm.output_folder, group.bgm.status, has_cut_out])
    result["relinked"] = relinked
    bpy.data.node_groups.remove(group)

    # Accents stay in the folder's name; one that an older version named without them follows the clip, too
    accented = shutil.copy(args["footage"], folder / "Cafe\u0301 Nu\u00f1oa-2.1001.png")  # the first as macOS has it
    group = addon("node").new_group(load_clip(str(accented)))
    result["accents"] = [group.bgm.output_folder]
    group.bgm.output_folder = "//matting/Matting_Caf__Nu_oa-2/"
    group.bgm.clip = other
    result["accents"].append(group.bgm.output_folder)
    bpy.data.node_groups.remove(group)

    # A stopped job's frames are shown
    bgm.output_folder = "//matting/stopped/"
    os.environ["FAKE_WORKER"] = "crash"
    runner.stop_engine()
    assert "on purpose" in error_of(ops.matte_clip)
    os.environ["FAKE_WORKER"] = ""
    result["failed"] = [outcome(tree)[0]]
    ended = dict(runner.ended)
    runner.ended.clear()  # as in a file that is opened again
    result["failed"].append(outcome(tree)[0])
    runner.ended.update(ended)
    result["stopped"] = tree.nodes["Alpha Matte"].image.filepath.split("/")[3]

    # While the footage is out of reach, a saved node keeps the length of its results
    assert not error_of(ops.matte_clip)
    lengths = [tree.nodes["Alpha Matte"].frame_duration]
    footage = Path(args["other"]).parent
    footage.rename(footage.with_name("away"))
    bpy.ops.wm.save_mainfile()
    lengths.append(tree.nodes["Alpha Matte"].frame_duration)
    footage.with_name("away").rename(footage)
    result["lengths"] = lengths

    # The artist's own nodes outlast a deletion that breaks the group
    own = tree.nodes.new("CompositorNodeBlur").name
    tree.nodes.remove(tree.nodes["Core Mask"])
    result["broken"] = error_of(ops.matte_clip)
    assert own in tree.nodes and "Alpha Matte" in tree.nodes
    bgm.clip = clip
    result["broken status"] = bgm.status

    # The farm's command takes each group's own scene
    second = bpy.data.scenes.new("Second")
    second.frame_start, second.frame_end = 4, 5
    addon("node").add_to_scene(second, new := addon("node").new_group(clip))
    new.bgm.plate_source, new.bgm.frame_range, new.bgm.output_folder = "NONE", "SCENE", "//matting/second/"
    taken = settings.output_folder(new.bgm)  # by a job that failed before its first frame: free
    settings.JobRequest({"footage": {"path": args["other"]}}, taken, Path(args["other"]), None).write()
    assert addon("command").run(["matte", "--node", new.name]) == 0
    result["second scene"] = json.loads((settings.output_folder(new.bgm) / "job.yaml").read_text())["frames"]

    # In the window jobs wait for each other: each takes its own node only, and comes to its own end
    def pump() -> list[str]:
        while runner.pump() is not None:
            time.sleep(0.01)
        return [runner.ended[group.session_uid].state for group in queue]

    runner._pump_until_done = lambda: None
    queue = [addon("node").new_group(clip) for _ in range(3)]
    for group in queue:
        addon("node").add_to_scene(second, group)
        group.bgm.plate_source, group.bgm.output_folder = "NONE", f"//matting/{group.name}/"
        assert not error_of(ops.matte_clip, group=group.name)
    result["queue"] = [runner.progress()[2], *(runner.task_of(group).state for group in queue)]
    result["twice"] = error_of(ops.matte_clip, group=queue[2].name)
    assert not error_of(ops.cancel, group=queue[1].name)
    result["ends"] = [pump(), [shown(group) for group in queue], [outcome(group)[0] for group in queue]]

    stopped: list[str] = []
    runner.waiting.append(runner.Task("Never begun", [], str, queue[1].session_uid, lambda: stopped.append("stopped")))
    runner.cancel(queue[1])
    result["never begun"] = stopped  # there is nothing to show of it

    for group in queue[:2]:
        assert not error_of(ops.matte_clip, group=group.name)
    engine = os.environ["BGM_ENGINE_PYTHON"]
    os.environ["BGM_ENGINE_PYTHON"] = str(folder / "no-python")  # gone before the second job begins
    result["engine gone"] = [pump(), queue[1].bgm.status]
    os.environ["BGM_ENGINE_PYTHON"] = engine
    result["all"] = [error_of(ops.matte_all), len(runner.waiting), pump()]

    # Without a clip there is no footage to speak of
    queue[0].bgm.clip = None
    result["no clip"] = queue[0].bgm.status

    # A job does not outlive the add-on
    runner.task = runner.Task("Matte", [], lambda result: "", state="running")
    runner.unregister()
    result["busy"] = runner.busy()
    finish(**result)


main()
