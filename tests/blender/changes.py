# SPDX-License-Identifier: GPL-3.0-or-later
"""What an artist swaps, deletes, pins and switches off after a matte, and what the node and the strips show then."""

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import addon, error_of, finish, install, load_clip, matte_strip, strips_of

args = install()
folder = Path(args["folder"])
ops = bpy.ops.bgm
result: dict = {}


def shown(tree: bpy.types.NodeTree, source: str = "Alpha Source") -> str:
    """The inner node whose alpha, or whose colours, leave the group."""
    return tree.nodes[source].inputs[0].links[0].from_node.name


def matted(path: str, name: str) -> bpy.types.NodeTree:
    """A group in the scene's compositor, with the matte of a clip of this file."""
    tree = addon("node").new_group(load_clip(path))
    addon("node").add_to_scene(bpy.context.scene, tree)
    tree.bgm.plate_source, tree.bgm.output_folder = "NONE", f"//matting/{name}/"
    error = error_of(ops.matte_clip, group=tree.name)
    assert not error, error
    return tree


def delete(tree: bpy.types.NodeTree) -> None:
    compositor = addon("node").find_compositor(bpy.context.scene)
    for node in [node for node in compositor.nodes if node.type == "GROUP" and node.node_tree == tree]:
        compositor.nodes.remove(node)
    bpy.data.node_groups.remove(tree)


def replaced_file() -> None:
    """A clip that is given another file has no matte yet, be the one before gone; one that moved keeps its own."""
    images = sorted(Path(args["footage"]).parent.iterdir())
    (folder / "old").mkdir()
    for image in images:
        shutil.copy2(image, folder / "old")
    tree = matted(str(folder / "old" / images[0].name), "replaced")
    (folder / "old").rename(folder / "moved")
    (folder / "newer").mkdir()
    (folder / "newer" / images[0].name).write_bytes(images[1].read_bytes() + b"longer")
    said = []
    for path in (Path(args["footage"]).parent / "gone.png", folder / "newer" / images[0].name, Path(args["other"])):
        tree.bgm.clip.filepath = str(path)
        bpy.ops.wm.save_mainfile()  # in the window, follow_files runs at once
        said.append([shown(tree), tree.bgm.status])
        tree.bgm.clip.filepath = str(folder / "moved" / images[0].name)
        bpy.ops.wm.save_mainfile()
        said.append(shown(tree))
    result["replaced file"] = said
    delete(tree)


def deleted_strip() -> None:
    """All nodes are matted, and what strips show; not what a strip showed that was deleted, unless it is named."""
    scene = bpy.context.scene
    scene.render.fps = 24
    strips = strips_of(scene)
    strip = strips.new_movie(name="take", filepath=args["movie"], channel=1, frame_start=1)
    tree = addon("sequencer").group_for_strip(scene, strip)
    tree.bgm.plate_source = "NONE"
    node_tree = matted(args["footage"], "a node")
    command = addon("command")
    command.tasks.matte_in_its_scene, matte = (lambda group: done.append(group.name)), command.tasks.matte_in_its_scene
    counts = []
    for deleted in (False, True):
        if deleted:  # and, from 5.0 on, the scene of another compositor, which the file keeps until it is saved
            strips.remove(strip)
            unused = bpy.data.node_groups.new("Unused", "CompositorNodeTree")
            addon("node").add_to_tree(unused, tree)
        for run in (ops.matte_all, lambda: command.run(["matte"]), lambda: command.run(["matte", "--node", tree.name])):
            done: list[str] = []
            run()
            counts.append([tree.name in done, node_tree.name in done])
    command.tasks.matte_in_its_scene = matte
    result["deleted strip"] = counts
    delete(node_tree)
    bpy.data.node_groups.remove(unused)
    bpy.data.node_groups.remove(tree)


def other_format() -> None:
    """Strips of a cut-out show the format that was written last, once all of their images are in it."""
    scene = bpy.context.scene
    strips = strips_of(scene)
    strip = strips.new_movie(name="take", filepath=args["movie"], channel=1, frame_start=1)
    tree = addon("sequencer").group_for_strip(scene, strip)
    tree.bgm.plate_source = "NONE"
    (cut_out,) = matte_strip(scene, strip)
    images = [path for name in ("alpha", "matte") for path in (addon("node").result_folder(tree) / name).glob("*.png")]
    gap = images[-1]  # between others, a frame that is missing; in the strip its name
    said = []
    for written in ([], [path for path in images if "0003" in path.name], [path for path in images if path != gap]):
        for path in written:
            shutil.copyfile(path, path.with_suffix(".exr"))  # Blender tells formats by their content
        if len(written) > 2:
            gap.unlink()
        assert not error_of(ops.use_results, group=tree.name)
        names = {Path(element.filename).suffix for element in cut_out.elements}
        said.append([*names, cut_out.alpha_mode, cut_out.colorspace_settings.name])
    result["other format"] = said
    strips.remove(cut_out)
    strips.remove(strip)
    bpy.data.node_groups.remove(tree)


def plates_and_outputs() -> None:
    """A tiled plate, a compositor with two outputs, a result that is switched off, a file that cannot be written."""
    tree = matted(args["footage"], "a node")
    bgm = tree.bgm
    tiled = bpy.data.images.new("tiles", 8, 8, tiled=True)
    tiled.filepath = str(folder / "tiles.<UDIM>.png")
    bgm.plate_source, bgm.plate_image = "IMAGE", tiled
    result["tiled"] = error_of(ops.matte_clip, group=tree.name)
    bgm.plate_source, bgm.plate_image = "NONE", None

    outer = bpy.data.node_groups.new("Two Outputs", "CompositorNodeTree")
    outer.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    old, new = (outer.nodes.new("NodeGroupOutput") for _ in range(2))
    new.is_active_output = True
    result["outputs"] = [addon("node").output_socket(outer).node == new, old.is_active_output]
    bpy.data.node_groups.remove(outer)

    wired = []
    for bgm.use_foreground, bgm.use_error in ((False, True), (True, False), (True, True)):
        assert not error_of(ops.use_results, group=tree.name)
        wired.append([shown(tree, "Foreground Source"), tree.nodes["Group Output"].inputs["Error"].is_linked])
    result["switched off"] = wired

    settings = addon("settings")
    job = settings.output_folder(bgm) / "job.yaml"
    job.unlink()
    job.mkdir()
    result["taken name"] = error_of(ops.matte_clip, group=tree.name)
    result["left behind"] = [path.name for path in job.parent.glob("*.part")]
    delete(tree)


def pinned_editor() -> None:
    """In a node editor that shows another scene's compositor, the buttons are about that scene."""
    tree = matted(args["footage"], "pinned")
    scene, second = bpy.context.scene, bpy.data.scenes.new("Second")
    scene.frame_start, scene.frame_end, second.frame_start, second.frame_end = 1, 8, 3, 4
    compositor = addon("node").compositor_tree(second)
    addon("node").add_to_tree(compositor, tree)
    tree.bgm.frame_range = "SCENE"
    window = bpy.context.window_manager.windows[0]
    area = window.screen.areas[0]
    area.ui_type, said = "CompositorNodeTree", []
    with bpy.context.temp_override(window=window, area=area, region=area.regions[-1]):
        space = bpy.context.space_data
        space.pin = True
        for space.node_tree in (compositor, addon("node").find_compositor(scene)):
            assert not error_of(ops.matte_clip)
            said.append(json.loads((addon("settings").output_folder(tree.bgm) / "job.yaml").read_text())["frames"])
        space.node_tree = compositor
        assert not error_of(ops.fit_scene)
        space.node_tree = None  # given by a script, 4.5 would keep it, and write to it, when its scene is gone
    result["pinned"] = [*said, scene.frame_end, second.frame_end]
    bpy.data.scenes.remove(second)
    delete(tree)


def still_and_nothing() -> None:
    """A scene keeps its frames with a clip of one picture, which is shown at all of them; no node is told of."""
    scene = bpy.context.scene
    result["nothing"] = error_of(ops.matte_all)
    tree = addon("node").new_group(load_clip(shutil.copy(args["footage"], str(folder / "still.png"))))
    addon("node").add_to_scene(scene, tree)
    scene.frame_start, scene.frame_end, scene.render.resolution_x = 5, 60, 99
    fits = [addon("settings").scene_fits(scene, tree.bgm.clip), error_of(ops.fit_scene, group=tree.name)]
    fits.append(addon("settings").scene_fits(scene, tree.bgm.clip))
    result["still"] = [*fits, scene.frame_start, scene.frame_end]
    delete(tree)


def linked_scene() -> None:
    """A scene of another file cannot be given the clip's size."""
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.read_homefile(use_empty=True)
    with bpy.data.libraries.load(str(folder / "shot.blend"), link=True) as (source, target):
        target.scenes = source.scenes
    ops.add_node(clip=load_clip(args["footage"]).name)
    with bpy.context.temp_override(scene=target.scenes[0]):
        result["linked scene"] = error_of(ops.fit_scene)


def main() -> None:
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "shot.blend"))
    replaced_file()
    deleted_strip()
    other_format()
    plates_and_outputs()
    pinned_editor()
    still_and_nothing()
    linked_scene()
    finish(**result)


main()
