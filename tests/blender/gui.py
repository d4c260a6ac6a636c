# SPDX-License-Identifier: GPL-3.0-or-later
"""In the Blender application: matte a clip by the operator while the window stays alive, and take pictures of it."""

import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import MODULE, addon, arguments, finish, install, load_clip, matting_node, size_scene, strips_of

ARGS = arguments()
FOLDER = Path(ARGS["folder"])
ticks: list[float] = []
result: dict = {}
waiting: object = None


def tick() -> float:
    ticks.append(time.monotonic())
    return 0.05


def picture(name: str) -> None:
    """Blender's own screenshots are black without a graphics card."""
    subprocess.run(["import", "-window", "root", str(FOLDER / f"{name}.png")], check=True)


def use(action: str, *what: object) -> None:
    """Use mouse and keys; pixels are counted from the screen's top left."""
    subprocess.run(["xdotool", action, *map(str, what)], check=True)


def window() -> bpy.types.Window:
    return bpy.context.window_manager.windows[0]


def open_sidebar(area_type: str, ui_type: str) -> bpy.types.Area:
    """Of the largest editor of a type, made another one; its tabs exist once it has been drawn."""
    candidates = [area for area in window().screen.areas if area.type == area_type]
    area = max(candidates, key=lambda area: area.width * area.height)
    area.ui_type = ui_type
    area.spaces.active.show_region_ui = True
    return area


def view_all(area: bpy.types.Area) -> None:
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window(), area=area, region=region):
        bpy.ops.node.view_all()


def choose_tab(area: bpy.types.Area) -> None:
    next(region for region in area.regions if region.type == "UI").active_panel_category = "Matting"


def ui_step(operator: Callable, **arguments: object) -> None:
    with bpy.context.temp_override(window=window()):
        operator(**arguments)


def can(operator: Callable) -> bool:
    with bpy.context.temp_override(window=window()):
        return operator.poll()


def steps() -> Iterator[object]:
    """The test, yielding seconds to wait, or a condition to wait for."""
    install()
    runner = addon("runner")
    scene = bpy.context.scene
    clip = load_clip(ARGS["footage"])
    size_scene(scene, *clip.size)
    scene.frame_end = clip.frame_duration
    scene.frame_set(10)
    scene.render.resolution_x = 1920  # not the clip's: the panel offers to change that
    plate = bpy.data.images.load(ARGS["plate"])
    bpy.ops.wm.save_as_mainfile(filepath=str(FOLDER / "shot.blend"))
    popped = []
    pop_up, runner.pop_up = runner.pop_up, lambda *words: popped.append(words) or pop_up(*words)

    window().workspace = bpy.data.workspaces["Compositing"]
    yield 1.0
    area = open_sidebar("NODE_EDITOR", "CompositorNodeTree")
    yield 1.0
    with bpy.context.temp_override(window=window(), area=area):
        bpy.ops.bgm.add_node(clip=clip.name, plate=plate.name)
    node = matting_node(scene)
    name = node.node_tree.name
    choose_tab(area)
    yield 0.5
    view_all(area)
    yield 0.5
    picture("compositor_before")
    ui_step(bpy.ops.bgm.fit_scene, group=name)
    result["fits"] = addon("settings").scene_fits(scene, clip)

    ui_step(bpy.ops.bgm.matte_frame, group=name)
    yield lambda: not runner.busy()
    result["preview"] = [runner.task.state, runner.task.message]
    yield 1.0
    picture("compositor_preview")

    begin = time.monotonic()
    ui_step(bpy.ops.bgm.matte_clip, group=name)
    yield lambda: runner.task.factor > 0.3
    picture("compositor_during")
    ui_step(bpy.ops.ed.undo_push, message="An artist goes on working")
    scene.frame_set(20)
    ui_step(bpy.ops.ed.undo_push, message="and on")
    ui_step(bpy.ops.ed.undo)  # every reference to data is void from here on
    yield lambda: not runner.busy()
    end = time.monotonic()
    during = [b - a for a, b in zip(ticks, ticks[1:], strict=False) if begin < a < end]
    result.update(state=runner.task.state, message=runner.task.message, ticks=len(during), longest=max(during))
    result["seconds"] = end - begin
    tree = bpy.data.node_groups[name]
    result["wired"] = [tree.bgm.result_first, tree.bgm.result_last, "Alpha Matte" in tree.nodes]
    yield 0.5
    yield lambda: not bpy.app.is_job_running("COMPOSITE")
    picture("compositor_after")

    # Undone to before the node was there, it can be brought back after a job's end
    ui_step(bpy.ops.bgm.matte_clip, group=name)
    while can(bpy.ops.ed.undo):
        ui_step(bpy.ops.ed.undo)
    result["undone"] = name not in bpy.data.node_groups
    yield lambda: not runner.busy()
    while can(bpy.ops.ed.redo):
        ui_step(bpy.ops.ed.redo)
    result["redone"] = [runner.task.message, name in bpy.data.node_groups]

    # A second node's job waits for the first one's; that is cancelled, what was undone before can be redone, and the
    # second begins
    tree = bpy.data.node_groups[name]
    tree.bgm.use_matte = True
    yield 1.0  # the editor finds its tree again when it is drawn
    area = max((area for area in window().screen.areas if area.type == "NODE_EDITOR"), key=lambda area: area.width)
    with bpy.context.temp_override(window=window(), area=area):
        bpy.ops.bgm.add_node(clip=bpy.data.movieclips[0].name, plate=bpy.data.images[Path(ARGS["plate"]).name].name)
    second = area.spaces.active.edit_tree.nodes.active
    second.location = (0, 400)
    second_name = second.node_tree.name
    second.node_tree.bgm.output_folder = "//matting/second/"
    for message in ("The cut-out", "Something that is undone"):
        ui_step(bpy.ops.ed.undo_push, message=message)
    ui_step(bpy.ops.ed.undo)
    ui_step(bpy.ops.bgm.matte_clip, group=name)
    ui_step(bpy.ops.bgm.matte_clip, group=second_name)
    yield lambda: runner.task.factor > 0.1
    picture("compositor_waiting")
    ui_step(bpy.ops.bgm.cancel)
    yield lambda: not runner.waiting
    result["redo"] = can(bpy.ops.ed.redo)
    yield lambda: not runner.busy()
    groups = [bpy.data.node_groups[each] for each in (name, second_name)]
    result["cancelled"], result["waited"] = (runner.ended[group.session_uid].state for group in groups)
    nodes = bpy.context.scene.compositing_node_group.nodes
    first, added = (next(node for node in nodes if getattr(node, "node_tree", None) == group) for group in groups)
    nodes.remove(added)
    first.select, nodes.active = True, first
    result["engine"] = runner._client.pid

    # Loading another file meanwhile
    ui_step(bpy.ops.wm.save_mainfile)
    ui_step(bpy.ops.bgm.matte_clip, group=name)
    ui_step(bpy.ops.wm.read_homefile, use_empty=True)
    yield lambda: not runner.busy()
    result["other file"] = [runner.task.state, runner.task.message]
    ui_step(bpy.ops.wm.open_mainfile, filepath=str(FOLDER / "shot.blend"))
    yield 1.0
    ui_step(bpy.ops.bgm.use_results, group=name)

    # A job that ends while the artist moves nodes or draws waits for the end of that, and its undo step with it
    area = max((area for area in window().screen.areas if area.type == "NODE_EDITOR"), key=lambda area: area.width)
    use("mousemove", area.x + area.width // 2, window().height - area.y - area.height // 2)
    yield 0.5
    use("key", "g")
    yield lambda: window().modal_operators
    ui_step(bpy.ops.bgm.matte_frame, group=name)
    yield 3.0
    result["during a move"] = runner.busy()
    use("key", "Escape")
    yield lambda: not runner.busy()

    area = open_sidebar("NODE_EDITOR", "IMAGE_EDITOR")
    area.spaces.active.image, area.spaces.active.ui_mode = bpy.data.images.new("drawn", 256, 256), "PAINT"
    area.spaces.active.use_image_pin = True
    yield 0.5
    use("mousedown", 1)
    yield lambda: window().modal_operators
    use("mousemove_relative", 20, 20)
    ui_step(bpy.ops.bgm.matte_frame, group=name)
    yield 3.0
    result["during a stroke"] = [runner.busy(), area.spaces.active.image.is_dirty]
    use("mousemove_relative", 20, 20)
    use("mouseup", 1)
    yield lambda: not runner.busy()
    yield 0.5
    result["after a stroke"] = [runner.task.state, len(window().modal_operators)]
    ui_step(bpy.ops.ed.undo)

    area = open_sidebar("IMAGE_EDITOR", "CLIP_EDITOR")
    area.spaces.active.clip = bpy.data.movieclips[0]
    yield 0.5
    choose_tab(area)
    yield 0.5
    picture("clip_editor")

    # A clip that is moved in time, undone too, and one that is given another file
    ui_step(bpy.ops.ed.undo_push, message="As it was")
    area.spaces.active.clip.frame_start = 7
    yield 0.5
    starts = [bpy.data.node_groups[name].nodes["Alpha Matte"].frame_start]
    ui_step(bpy.ops.ed.undo_push, message="Moved")
    ui_step(bpy.ops.ed.undo)
    yield 0.5
    result["moved"] = [*starts, bpy.data.node_groups[name].nodes["Alpha Matte"].frame_start]
    clip, alpha = area.spaces.active.clip, bpy.data.node_groups[name].nodes["Alpha Matte"].outputs["Image"]
    path, linked = clip.filepath, []
    for clip.filepath in (shutil.copy(ARGS["footage"], str(FOLDER / "another.mp4")), path):
        yield 0.5
        linked.append(alpha.is_linked)
    another = load_clip(str(FOLDER / "another.mp4"))
    for old, new in ((clip, another), (another, clip)):  # Outliner > Remap Users, of which Blender tells nobody
        old.user_remap(new)
        bpy.ops.wm.save_mainfile()
        linked.append(alpha.is_linked)
    result["relinked"] = linked

    area.ui_type = "CompositorNodeTree"
    area.spaces.active.node_tree_sub_type = "SEQUENCER"  # whose strip has none
    yield 0.5
    with bpy.context.temp_override(window=window(), area=area):
        result["in no compositor"] = bpy.ops.bgm.add_node.poll()
    area.spaces.active.node_tree_sub_type = "SCENE"
    area.ui_type = "CLIP_EDITOR"
    yield 0.5

    scene = bpy.context.scene
    scene.render.fps = 24
    strip = strips_of(scene).new_movie(name="shot", filepath=ARGS["footage"], channel=1, frame_start=1)
    scene.sequence_editor.active_strip = strip
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        window().workspace.sequencer_scene = scene
    ui_step(bpy.ops.bgm.add_strip, group=name)
    scene.sequence_editor.active_strip = strip
    area = open_sidebar("CLIP_EDITOR", "SEQUENCE_EDITOR")
    yield 0.5
    choose_tab(area)
    yield 0.5
    picture("sequencer")

    scene.sequence_editor.active_strip = strips_of(scene).new_image(
        name="new", filepath=ARGS["plate"], channel=5, frame_start=1
    )
    yield 0.5
    picture("sequencer_new")
    with bpy.context.temp_override(window=window(), area=area):
        bpy.ops.bgm.set_up_strip()
    yield 0.5
    picture("sequencer_set_up")
    scene.sequence_editor.active_strip = strip

    group = bpy.data.node_groups[name]
    group.bgm.model_source, group.bgm.model_path = "FILE", ARGS["plate"]  # an image is no model
    ui_step(bpy.ops.bgm.matte_clip, group=name)
    yield lambda: not runner.busy()
    result["failure"] = [runner.task.state, runner.task.message]
    result["popped up"] = [title for title, message in popped]
    yield 0.5
    picture("failure")

    ui_step(bpy.ops.screen.userpref_show)
    bpy.context.preferences.active_section = "ADDONS"
    bpy.data.window_managers[0].addon_search = "Background Matting"
    bpy.ops.preferences.addon_expand(module=MODULE)
    ui_step(bpy.ops.bgm.check_engine)
    yield lambda: not runner.busy()
    yield 1.0
    picture("preferences")


def drive(run: Iterator[object]) -> float | None:
    """A timer that walks through the steps."""
    global waiting
    try:
        if callable(waiting) and not waiting():
            return 0.05
        waiting = next(run)
        return waiting if isinstance(waiting, float) else 0.05
    except StopIteration:
        pass
    except Exception:
        result["error"] = traceback.format_exc()
    finish(**result)
    bpy.ops.wm.quit_blender()
    return None


bpy.context.preferences.view.show_splash = False
test = steps()
bpy.app.timers.register(tick, first_interval=0.1, persistent=True)
bpy.app.timers.register(lambda: drive(test), first_interval=1.0, persistent=True)
