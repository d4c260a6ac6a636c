# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input of every kind: each operator's error as the user reads it."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import Drawn, addon, error_of, finish, install, load_clip, matting_node, size_scene


def drawn_preferences(preferences) -> str:  # noqa: ANN001
    layout = Drawn()
    addon("panels").draw_preferences(layout, preferences)
    return " ".join(text if icon == "BLANK1" else f"{icon} {text}" for text, icon in layout.labels)  # lines go on


def main() -> None:
    args = install()
    folder = Path(args["folder"])
    ops, scene, runner = bpy.ops.bgm, bpy.context.scene, addon("runner")
    said = {"no node": error_of(ops.matte_clip), "no such clip": error_of(ops.add_node, clip="gone")}
    said["no such plate"] = error_of(ops.add_node, plate="gone")

    ops.add_node()
    tree = matting_node(scene).node_tree
    bgm = tree.bgm
    bgm.output_folder = str(folder / "out")
    said["no clip"] = error_of(ops.matte_clip)
    said["results of no clip"] = error_of(ops.use_results)
    bgm.clip = clip = load_clip(args["footage"], frame_start=101)
    said["no plate"] = error_of(ops.matte_clip)
    bgm.plate_image = bpy.data.images.new("drawn", 8, 8)
    said["plate not on disk"] = error_of(ops.matte_clip)
    size_scene(scene, 8, 8)
    bpy.ops.render.render()
    bgm.plate_image = bpy.data.images["Render Result"]
    said["a render as plate"] = error_of(ops.matte_clip)
    bgm.plate_source = "NONE"
    said["nothing to check"] = error_of(ops.check_plate)
    bgm.plate_source, bgm.plate_image = "IMAGE", bpy.data.images.load(args["plate"])
    bgm.plate_image.filepath = str(folder / "gone.png")
    said["plate gone"] = error_of(ops.matte_clip)
    bgm.plate_image.filepath = args["plate"]
    bgm.frame_range = "SCENE"
    scene.frame_start, scene.frame_end = 1, 50
    said["empty range"] = error_of(ops.matte_clip)
    scene.frame_set(50)
    said["empty frame"] = error_of(ops.matte_frame)
    bgm.frame_range, bgm.frame_first, bgm.frame_last = "CUSTOM", 105, 102
    said["backwards"] = error_of(ops.matte_clip)
    bgm.frame_range = "CLIP"
    high = shutil.copy(args["footage"], folder / "high.1048575.png")
    bgm.clip = load_clip(str(high))
    said["high numbers"] = error_of(ops.matte_clip)
    shutil.copy(high, folder / "high.1048574.png")
    bgm.clip = load_clip(str(folder / "high.1048574.png"))
    bgm.frame_range, bgm.frame_first, bgm.frame_last = "CUSTOM", 1, 1
    assert addon("settings").frame_numbers(bgm, scene) == (1048574, 1048574)
    bgm.clip, bgm.frame_range = clip, "CLIP"
    bgm.model_source = "FILE"
    said["no model"] = error_of(ops.matte_clip)
    bgm.model_source = "DEFAULT"
    bgm.output_folder = ""
    said["no folder"] = error_of(ops.matte_clip)
    bgm.output_folder = str(Path(args["footage"]) / "below a file")
    said["unwritable"] = error_of(ops.matte_clip)
    (folder / "by hand").mkdir()
    (folder / "by hand" / "job.yaml").write_text("# notes\nfootage: {path: shot.####.png}\n")
    bgm.output_folder = str(folder / "by hand")
    said["own job"] = error_of(ops.matte_clip)
    bgm.output_folder = str(folder / "out")
    said["nothing to load"] = error_of(ops.use_results)
    said["no delivery"] = error_of(ops.deliver)
    bgm.deliver = {"preview"}
    said["nothing to deliver"] = error_of(ops.deliver)
    said["nothing to show"] = error_of(ops.add_strip)
    said["no folder yet"] = error_of(ops.open_folder)

    # The engine's own errors arrive as they are
    os.environ["FAKE_WORKER"] = "strict"
    said["check plate"] = error_of(ops.check_plate)
    os.environ["FAKE_WORKER"] = "crash"
    runner.stop_engine()
    said["crash"] = error_of(ops.matte_clip)
    said["crash of all"] = error_of(ops.matte_all)
    os.environ["FAKE_WORKER"] = ""
    said["after the crash"] = error_of(ops.matte_clip)  # a new engine is started

    clip.filepath = str(folder / "gone.1001.png")
    said["clip gone"] = error_of(ops.matte_clip)
    clip.filepath = args["footage"]
    foreign = os.fsencode(folder) + b"/sh\xf6t.png"  # Latin-1
    with open(foreign, "wb") as file:
        file.write(Path(args["footage"]).read_bytes())
    bgm.clip = bpy.data.movieclips.load(os.fsdecode(foreign))
    said["no UTF-8"] = error_of(ops.matte_clip)
    bgm.clip = clip
    ops.add_node()
    said["which node"] = error_of(ops.matte_clip)
    copy = tree.copy()
    said["same folder"] = error_of(ops.matte_clip, group=copy.name)
    bpy.data.node_groups.remove(copy)

    os.environ["BGM_ENGINE_PYTHON"] = str(folder / "no-python")
    said["python gone"] = error_of(ops.matte_clip, group=tree.name)
    del os.environ["BGM_ENGINE_PYTHON"]
    said["no engine"] = error_of(ops.check_engine)
    # A download that fails tells an artist who has gone back to the compositor, too
    words, popped = "Installing failed (exit code 1): no space left.", []
    runner.maker = SimpleNamespace(message="", factor=0.0, finished=False, failed=True, error=words)
    runner.maker.poll = lambda: setattr(runner.maker, "finished", True)
    pop_up, runner.pop_up = runner.pop_up, lambda *said: popped.append(said)
    for _ in range(2):
        runner.pump()
    runner.pop_up, layout = pop_up, Drawn()
    addon("panels").draw_no_engine(layout, SimpleNamespace(region=None, preferences=bpy.context.preferences))
    runner.maker = None
    drawn = {"not made": [popped, " ".join(text for text, _ in layout.labels)]}
    preferences = bpy.context.preferences.addons[addon("preferences").PACKAGE].preferences
    preferences.engine_source = "NAMED"
    said["none named"] = error_of(ops.check_engine)
    preferences.python = sys.executable  # a Python without the engine's requirements
    said["wrong python"] = error_of(ops.matte_clip, group=tree.name)
    drawn["wrong python"] = drawn_preferences(preferences)
    preferences.python = str(args["python"])
    said["engine again"] = error_of(ops.check_engine)
    said["no strip"] = error_of(ops.matte_strip)  # as are those of greyed buttons
    ended, runner.task = runner.task, runner.Task("Another job", [], str, state="running")
    said["another job"] = error_of(ops.check_engine)
    runner.task = ended
    assert "CHECKMARK" in drawn_preferences(preferences)
    preferences.python = str(folder / "no-python")
    said["named python gone"] = error_of(ops.check_engine)
    drawn["gone"] = drawn_preferences(preferences)
    preferences.engine_source = "MADE"
    bpy.context.preferences.system.use_online_access = False
    assert not ops.make_environment.poll()  # its button is greyed
    said["offline"] = error_of(ops.make_environment)
    finish(said=said, drawn=drawn)


main()
