# SPDX-License-Identifier: GPL-3.0-or-later
"""What could be taken for another: plates, groups, folders, editors, files; also what changes while a job runs."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import (
    Drawn,
    addon,
    connect,
    error_of,
    finish,
    install,
    load_clip,
    matting_node,
    render,
    size_scene,
    strips_of,
)

args = install()
folder = Path(args["folder"])
ops = bpy.ops.bgm
result: dict = {}


def shown(tree: bpy.types.NodeTree) -> str:
    """The inner node whose alpha leaves the group."""
    return tree.nodes["Alpha Source"].inputs[0].links[0].from_node.name


def context(**space: object) -> SimpleNamespace:
    """A context with an editor of this kind."""
    return SimpleNamespace(space_data=SimpleNamespace(**space), scene=bpy.context.scene)


@contextmanager
def meanwhile() -> Iterator[None]:
    """A job that is begun in here goes on; it ends after what else is done."""
    runner = addon("runner")
    wait, runner._pump_until_done = runner._pump_until_done, lambda: None
    yield
    runner._pump_until_done = wait
    wait()


def plates(tree: bpy.types.NodeTree) -> None:
    """The plate from the clip is made of the whole clip, and again where the footage is newer."""
    runner, sent = addon("runner"), []
    send = runner._send_next

    def note(client, task) -> None:  # noqa: ANN001
        sent.append(" ".join([type(task.commands[0]).__name__, getattr(task.commands[0], "frames", "")]).strip())
        send(client, task)

    runner._send_next = note
    bgm = tree.bgm
    bgm.plate_source, bgm.frame_range, bgm.frame_first, bgm.frame_last = "FROM_CLIP", "CUSTOM", 1, 2
    assert not error_of(ops.make_plate)
    bgm.plate_source = "FROM_CLIP"
    assert not error_of(ops.matte_clip)
    bgm.frame_range = "CLIP"
    assert not error_of(ops.matte_clip)
    plate = json.loads((addon("settings").output_folder(bgm) / "job.yaml").read_text())["plate"]["path"]
    os.utime(plate, (0, 0))
    assert not error_of(ops.check_plate)
    assert not error_of(ops.matte_clip)
    runner._send_next = send
    bgm.plate_source = "NONE"
    result["plates"] = sent


def other_clip(tree: bpy.types.NodeTree, other: bpy.types.MovieClip) -> None:
    """A job's results are not shown with another clip, which an undo may bring back while it runs."""
    clip, said = tree.bgm.clip, {}
    for name, operator in {"matte": ops.matte_clip, "plate": ops.make_plate, "check": ops.check_plate}.items():
        tree.bgm.plate_source = "FROM_CLIP" if name == "check" else "NONE"
        with meanwhile():
            operator()
            tree.bgm.plate_source, tree.bgm.clip = "NONE", other
        said[name] = [tree.bgm.status, tree.bgm.plate_source, len(tree.bgm.findings)]
        tree.bgm.clip = clip
        said[name].append(shown(tree))
    result["other clip"] = said
    path = clip.filepath
    with meanwhile():
        ops.matte_clip()
        result["with a warm engine"] = addon("runner").task.message
        clip.filepath = other.filepath
    result["other file"], clip.filepath = tree.bgm.status, path


def folder_of_another(tree: bpy.types.NodeTree, other: bpy.types.MovieClip) -> None:
    """A node shows neither the matte nor the preview of another's clip."""
    assert not error_of(ops.matte_frame)
    group = addon("node").new_group(other)
    group.bgm.output_folder = tree.bgm.output_folder
    result["folder of another"] = error_of(ops.use_results, group=group.name)
    drawn = []

    def draw() -> None:
        for panel in (tree, group):
            layout = Drawn()
            layout.template_icon = lambda *args, panel=panel, **look: drawn.append(panel.name)
            addon("panels").draw_outcome(layout, bpy.context, panel)

    draw()
    group.use_fake_user, group.bgm.plate_source, group.bgm.output_folder = True, "NONE", str(folder / "its own")
    assert not error_of(ops.matte_frame, group=group.name)
    draw()
    result["previews"] = drawn
    bpy.data.node_groups.remove(group)


def image_editors() -> None:
    """The preview goes into one image editor that is free."""
    areas = bpy.context.window_manager.windows[0].screen.areas[:4]
    for area, kind in zip(areas, ("UV", "IMAGE_EDITOR", "IMAGE_EDITOR", "IMAGE_EDITOR"), strict=True):
        area.ui_type = kind
        area.spaces.active.image = bpy.data.images.new(f"{kind} {len(result)}", 8, 8)
        area.spaces.active.use_image_pin = area == areas[1]
    shows = []
    for _ in range(2):
        assert not error_of(ops.matte_frame)
        shows.append([area.spaces.active.image.name == "Matting Preview" for area in areas])
        areas[2].spaces.active.image, areas[3].spaces.active.image = (areas[i].spaces.active.image for i in (3, 2))
    result["image editors"] = shows


def shader_editor() -> None:
    window = bpy.context.window_manager.windows[0]
    area = window.screen.areas[0]
    area.ui_type = "ShaderNodeTree"
    before = len(bpy.data.node_groups)
    with bpy.context.temp_override(window=window, area=area, region=area.regions[-1]):
        result["shader editor"] = [ops.add_node.poll(), error_of(ops.add_node), len(bpy.data.node_groups) - before]


def status_bar() -> None:
    """What another add-on has put into the status bar stays there."""
    from bl_ui.space_statusbar import STATUSBAR_HT_header

    def draw_theirs(header: bpy.types.Header, context: bpy.types.Context) -> None:
        pass

    runner, workspace = addon("runner"), bpy.data.workspaces[0]
    workspace.status_text_set(draw_theirs)
    window = SimpleNamespace(screen=SimpleNamespace(areas=[]), workspace=workspace)
    manager = SimpleNamespace(windows=[window])
    runner.bpy = SimpleNamespace(app=SimpleNamespace(background=False), context=SimpleNamespace(window_manager=manager))
    runner._drawn = "news"
    runner.redraw()
    runner.bpy = bpy
    result["status bar"] = STATUSBAR_HT_header.draw is draw_theirs
    workspace.status_text_set(None)


def two_of_one_clip(clip: bpy.types.MovieClip) -> None:
    """The clip editor is about the node that is active in the compositor, of those that have its clip."""
    first = matting_node(bpy.context.scene)
    second = addon("node").add_to_tree(first.id_data, first.node_tree.copy())
    shows = []
    for node in (first, second):
        first.id_data.nodes.active = node
        shows.append(addon("operators").shown_tree(context(type="CLIP_EDITOR", clip=clip)) == node.node_tree)
    result["two of one clip"] = shows
    bpy.data.node_groups.remove(second.node_tree)
    first.id_data.nodes.remove(second)


def no_users(clip: bpy.types.MovieClip) -> None:
    """A group whose node was deleted is in the file, but not in the way."""
    scene = bpy.context.scene
    node = matting_node(scene)
    tree = node.node_tree
    node.node_tree = copy = tree.copy()
    assert not tree.users
    result["no users"] = [
        error_of(ops.matte_clip, group=copy.name),
        error_of(ops.matte_clip),
        addon("operators").shown_tree(context(type="CLIP_EDITOR", clip=clip)) == copy,
    ]
    node.node_tree = tree
    bpy.data.node_groups.remove(copy)


def folders(tree: bpy.types.NodeTree) -> None:
    written = tree.bgm.output_folder
    for text in ("~/mattes", "mattes/a", "//mattes\\b\\"):
        tree.bgm.output_folder = text
        result[text] = str(addon("settings").output_folder(tree.bgm))
    tree.bgm.output_folder = written


def nested_scene(other: bpy.types.MovieClip) -> None:
    second = bpy.data.scenes.new("Second")
    node, group = addon("node"), addon("node").new_group(other)
    outer = bpy.data.node_groups.new("Look", "CompositorNodeTree")
    node.add_to_tree(outer, group)
    node.compositor_tree(second).nodes.new("CompositorNodeGroup").node_tree = outer
    result["nested"] = addon("tasks")._scene_of(group).name
    bpy.data.node_groups.remove(group)


def another_file(name: str) -> None:
    """A job that ends in another file leaves nothing in it; one's own may be closed and opened again meanwhile."""
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "elsewhere.blend"), copy=True)
    said = []
    for operator in (ops.matte_clip, ops.make_plate, ops.matte_frame):
        bpy.ops.wm.open_mainfile(filepath=str(folder / "shot.blend"))
        with meanwhile():
            operator(group=name)
            bpy.ops.wm.read_homefile(use_empty=True)
        said.append([addon("runner").task.message, len(bpy.data.images)])
    result["another file"] = said
    bpy.ops.wm.open_mainfile(filepath=str(folder / "shot.blend"))
    with meanwhile():
        ops.matte_clip(group=name)
        bpy.ops.wm.read_homefile(use_empty=True)
        bpy.ops.wm.open_mainfile(filepath=str(folder / "shot.blend"))
    result["opened again"] = addon("runner").task.message


def linked(name: str) -> None:
    """A linked group has its own file's folder, and is neither in the way of local ones nor written to."""
    settings, operators, sequencer = addon("settings"), addon("operators"), addon("sequencer")
    (folder / "work").mkdir()
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "work" / "edit.blend"))
    with bpy.data.libraries.load(str(folder / "shot.blend"), link=True, relative=True) as (source, target):
        target.node_groups, target.scenes = [name], source.scenes
    group = target.node_groups[0]
    node = addon("node").add_to_scene(bpy.context.scene, group)
    result["linked folder"] = str(settings.output_folder(group.bgm))

    scene = bpy.context.scene
    files = sorted(Path(args["footage"]).parent.iterdir())
    strip = strips_of(scene).new_image(name="strip", filepath=str(files[0]), channel=2, frame_start=1)
    for file in files[1:]:
        strip.elements.append(file.name)
    result["linked strip"] = sequencer.find_group(strip) is None

    # What is done to an override of a linked group, or to a linked scene, is gone when the file is opened again
    override, linked_scene = group.override_create(), target.scenes[0]
    said = [error_of(ops.matte_clip, group=override.name)]
    bpy.data.node_groups.remove(override)
    with bpy.context.temp_override(scene=linked_scene):
        said += [error_of(ops.add_node), error_of(ops.add_strip, group=name)]
    try:
        said.append(str(sequencer.group_for_strip(linked_scene, strip)))
    except addon("errors").UserError as error:
        said.append(str(error))
    result["not kept"] = said
    bpy.data.scenes.remove(linked_scene)

    local = addon("node").new_group(load_clip(args["footage"]))
    local.name = name
    local.use_fake_user = True
    local.bgm.plate_source, local.bgm.output_folder = "NONE", str(settings.output_folder(group.bgm))
    assert local.name == group.name
    result["local"] = error_of(ops.matte_clip, group=name)
    editor = context(type="NODE_EDITOR", edit_tree=node.id_data)
    result["of one name"] = operators.find_tree(editor, name) == group
    bpy.data.node_groups.remove(local)
    node.id_data.nodes.remove(node)
    result["beside a linked one"] = addon("node").new_group(load_clip(args["footage"])).bgm.output_folder


def made_local(name: str) -> None:
    """A group that is made local, alone, shows its own matte, not one in images that are linked still."""
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "work" / "local.blend"))
    with bpy.data.libraries.load(str(folder / "shot.blend"), link=True, relative=True) as (_, target):
        target.node_groups = [name]
    (group,) = target.node_groups
    addon("node").add_to_scene(bpy.context.scene, group)
    group.make_local()
    result["made local"] = [error_of(ops.matte_clip), str(addon("node").result_folder(group))]


def linked_preview() -> None:
    """A preview of another file, linked into this one, cannot be drawn anew."""
    image = bpy.data.images.new("Matting Preview", 8, 8)
    bpy.data.libraries.write(str(folder / "preview.blend"), {image})
    bpy.data.images.remove(image)
    with bpy.data.libraries.load(str(folder / "preview.blend"), link=True) as (source, target):
        target.images = source.images
    result["linked preview"] = [error_of(ops.matte_frame), list(target.images[0].size)]


def renamed_control() -> None:
    """The panel's inputs are the artist's to rename and delete."""
    tree = matting_node(bpy.context.scene).node_tree
    nodes = len(tree.nodes)
    tree.interface.items_tree["Black Level"].name = "Crush"
    tree.interface.remove(tree.interface.items_tree["Blur Size"])
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    tree = matting_node(bpy.context.scene).node_tree
    inputs = [item.name for item in tree.interface.items_tree if getattr(item, "in_out", "INPUT") == "INPUT"]
    result["renamed control"] = [inputs, len(tree.nodes) - nodes]
    said = []
    for name in ("Error", "Image"):
        tree.interface.items_tree[name].name = f"My {name}"
        said.append(error_of(ops.matte_clip, group=tree.name))
    tree.interface.remove(tree.interface.items_tree["My Error"])
    result["renamed output"] = [*said, error_of(ops.matte_clip, group=tree.name)]
    tree.interface.items_tree["My Image"].name = "Image"


def first_save() -> None:
    """A matte that was made before the file was saved is found afterwards, by every button."""
    home = folder / "home"
    home.mkdir()
    os.environ["HOME"] = str(home)
    bpy.ops.wm.read_homefile(use_empty=True)
    ops.add_node(clip=load_clip(args["footage"]).name)
    tree = matting_node(bpy.context.scene).node_tree
    tree.bgm.plate_source, tree.bgm.deliver = "NONE", {"preview"}
    assert not error_of(ops.matte_clip)
    (folder / "saved").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "saved" / "first.blend"))
    said = [str(addon("settings").output_folder(tree.bgm)), error_of(ops.deliver), error_of(ops.use_results)]
    tree.bgm.clip = load_clip(args["other"])
    result["first save"] = [*said, str(addon("settings").output_folder(tree.bgm))]


def copied_project() -> None:
    """A project that is copied, mattes and footage and all, goes on from what it has; the original is still there."""
    project = folder / "project"
    shutil.copytree(Path(args["footage"]).parent, project / "footage")
    bpy.ops.wm.read_homefile(use_empty=True)
    clip = load_clip(str(project / "footage" / Path(args["footage"]).name))
    bpy.ops.wm.save_as_mainfile(filepath=str(project / "shot.blend"))
    clip.filepath = bpy.path.relpath(clip.filepath)
    ops.add_node(clip=clip.name)
    matting_node(bpy.context.scene).node_tree.bgm.plate_source = "NONE"
    said = [error_of(ops.matte_clip)]
    bpy.ops.wm.save_mainfile()
    shutil.copytree(project, folder / "copy")
    bpy.ops.wm.open_mainfile(filepath=str(folder / "copy" / "shot.blend"))
    result["copied project"] = [*said, error_of(ops.use_results), error_of(ops.matte_clip)]

    # Saved elsewhere, it delivers the matte that it shows, but not that of the clip before
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "saved" / "copy.blend"))
    tree = matting_node(bpy.context.scene).node_tree
    tree.bgm.deliver = {"preview"}
    said = [error_of(ops.deliver), tree.bgm.status]
    tree.bgm.clip = load_clip(args["other"])
    result["saved elsewhere"] = [*said, error_of(ops.deliver)]


def still() -> None:
    """A single picture, without a number, is shown at every frame, and so is its matte."""
    scene = bpy.context.scene
    size_scene(scene, 67, 45)
    clip = load_clip(shutil.copy(args["footage"], str(folder / "still.png")))
    node = addon("node").add_to_scene(scene, addon("node").new_group(clip))
    node.node_tree.bgm.plate_source, node.node_tree.bgm.output_folder = "NONE", str(folder / "still")
    scene.frame_set(50)
    said = []
    for operator in (ops.matte_frame, ops.matte_clip, ops.use_results):
        said += [error_of(operator, group=node.node_tree.name), node.node_tree.bgm.status]
    connect(scene, node, "Alpha")
    result["still"] = [*said, render(scene, 50, folder / "still.exr")]


def from_zero() -> None:
    """A sequence that begins with number 0 shows nothing before it begins, and neither does its matte."""
    scene, images = bpy.context.scene, sorted(Path(args["footage"]).parent.iterdir())
    (folder / "zero").mkdir()
    for number, image in enumerate(images):
        shutil.copy(image, folder / "zero" / f"z.{number:04d}.png")
    clip = load_clip(str(folder / "zero" / "z.0000.png"), frame_start=10)
    node = addon("node").add_to_scene(scene, addon("node").new_group(clip))
    node.node_tree.bgm.plate_source, node.node_tree.bgm.output_folder = "NONE", str(folder / "from zero")
    assert not error_of(ops.matte_clip, group=node.node_tree.name)
    connect(scene, node, "Alpha")
    frames = (-20, 9, 10, 21, 22, 40)
    result["from zero"] = [render(scene, frame, folder / f"zero.{frame}.exr") for frame in frames]
    node.node_tree.bgm.clip = load_clip(args["footage"], frame_start=10)
    result["from zero"].append(error_of(ops.matte_clip, group=node.node_tree.name))
    node.node_tree.bgm.output_folder = str(folder / "from 1001")
    result["from zero"].append(error_of(ops.matte_clip, group=node.node_tree.name))
    result["from zero"] += [render(scene, frame, folder / f"high.{frame}.exr") for frame in (9, 10, 22)]


def main() -> None:
    clip, other = load_clip(args["footage"]), load_clip(args["other"])
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "shot.blend"))
    ops.add_node(clip=clip.name)
    tree = matting_node(bpy.context.scene).node_tree
    plates(tree)
    other_clip(tree, other)
    folder_of_another(tree, other)
    image_editors()
    shader_editor()
    status_bar()
    two_of_one_clip(clip)
    no_users(clip)
    folders(tree)
    nested_scene(other)
    renamed_control()
    name = matting_node(bpy.context.scene).node_tree.name
    another_file(name)
    linked(name)
    made_local(name)
    linked_preview()
    first_save()
    copied_project()
    still()
    from_zero()
    finish(**result)


main()
