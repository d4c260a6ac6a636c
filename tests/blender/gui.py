# SPDX-License-Identifier: GPL-3.0-or-later
"""In the Blender application: matte a clip by the operator while the window stays alive, and take pictures of it."""

import subprocess
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import addon, arguments, finish, install, load_clip, matting_node, size_scene

ARGS = arguments()
FOLDER = Path(ARGS["folder"])
ticks: list[float] = []
result: dict = {"pictures": []}


def tick() -> float:
    ticks.append(time.monotonic())
    return 0.05


def picture(name: str) -> None:
    path = FOLDER / f"{name}.png"
    subprocess.run(
        ["import", "-window", "root", str(path)], check=True
    )  # Blender's own is black without a graphics card
    result["pictures"].append(str(path))


def areas(kind: str) -> list:
    return [area for area in bpy.context.window_manager.windows[0].screen.areas if area.type == kind]


def show_tab(area) -> None:  # noqa: ANN001
    area.spaces.active.show_region_ui = True
    region = next(region for region in area.regions if region.type == "UI")
    with bpy.context.temp_override(window=bpy.context.window_manager.windows[0]):
        bpy.ops.wm.redraw_timer(type="DRAW_WIN_SWAP", iterations=1)
    region.active_panel_category = "Matting"


def steps():  # noqa: ANN201
    """Yields seconds to wait, or a condition to wait for."""
    bpy.context.preferences.view.show_splash = False
    install(ARGS["zip"])
    scene = bpy.context.scene
    clip = load_clip(ARGS["footage"])
    size_scene(scene, *clip.size)
    scene.frame_end = clip.frame_duration
    plate = bpy.data.images.load(ARGS["plate"])
    bpy.ops.wm.save_as_mainfile(filepath=str(FOLDER / "shot.blend"))
    bpy.context.window_manager.windows[0].workspace = bpy.data.workspaces["Compositing"]
    yield 1.0
    bpy.ops.bgm.add_node(clip=clip.name, plate=plate.name)
    node = matting_node(scene)
    for area in areas("NODE_EDITOR"):
        area.ui_type = "CompositorNodeTree"
        show_tab(area)
    yield 0.5
    picture("before")
    begin = time.monotonic()
    runner = addon("runner")
    assert bpy.ops.bgm.matte_clip(group=node.node_tree.name) == {"FINISHED"}
    yield lambda: runner.task.factor > 0.3
    picture("during")
    yield lambda: not runner.busy()
    end = time.monotonic()
    during = [b - a for a, b in zip(ticks, ticks[1:], strict=False) if begin < a < end]
    result.update(state=runner.task.state, message=runner.task.message, ticks=len(during), longest=max(during))
    result["seconds"] = end - begin
    yield 0.5
    picture("after")
    bpy.ops.wm.quit_blender()


def drive(run=steps()) -> float | None:  # noqa: ANN001, B008
    """A timer that walks through the steps."""
    global waiting
    try:
        if callable(waiting) and not waiting():
            return 0.05
        waiting = next(run)
        return 0.05 if callable(waiting) else waiting
    except StopIteration:
        pass
    except Exception:
        traceback.print_exc()
        result["error"] = traceback.format_exc()
    finish(**result)
    bpy.ops.wm.quit_blender()
    return None


waiting: object = None
bpy.app.timers.register(tick, first_interval=0.1, persistent=True)
bpy.app.timers.register(drive, first_interval=1.0, persistent=True)
