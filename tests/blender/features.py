# SPDX-License-Identifier: GPL-3.0-or-later
"""The other operators: preview, plates of every kind, results from elsewhere, the farm's command, disabling."""

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import (
    MODULE,
    addon,
    error_of,
    finish,
    install,
    load_clip,
    matting_node,
    outcome,
    render,
    size_scene,
)


def main() -> None:
    args = install()
    folder = Path(args["folder"])
    ops, scene = bpy.ops.bgm, bpy.context.scene
    clip = load_clip(args["footage"], frame_start=5, frame_offset=-3)
    size_scene(scene, *clip.size)
    ops.add_node(clip=clip.name)
    node = matting_node(scene)
    tree = node.node_tree
    bgm = tree.bgm
    (viewer,) = (other for other in node.id_data.nodes if other.bl_idname == "CompositorNodeViewer")
    assert viewer.inputs["Image"].links[0].from_node == node and node.id_data.nodes.active == node
    result: dict = {"unsaved": str(addon("settings").output_folder(bgm)), "default": bgm.output_folder}
    size_scene(scene, 99, 99)
    assert not addon("settings").scene_fits(scene, clip)
    assert not error_of(ops.fit_scene) and addon("settings").scene_fits(scene, clip)
    scene.render.resolution_percentage = 50
    result["at half size"] = addon("settings").scene_fits(scene, clip)
    assert not error_of(ops.fit_scene) and scene.render.resolution_percentage == 100
    result["scene"] = [scene.render.resolution_x, scene.render.resolution_y, scene.frame_start, scene.frame_end]
    slow = {name: getattr(clip, name) for name in ("size", "filepath", "library", "source", "frame_duration")}
    addon("settings").fit_scene(scene, SimpleNamespace(**slow, frame_start=1, frame_offset=0, fps=0.4))
    result["slow"] = scene.render.fps / scene.render.fps_base
    ops.fit_scene()
    scene.render.fps, scene.render.fps_base = 24, 1.0
    blend = folder / "shot.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    result["saved"] = str(addon("settings").output_folder(bgm))

    bgm.garbage_mask = mask = bpy.data.masks.new("garbage")
    result["mask"] = [tree.nodes["Garbage Mask"].inputs[f"Size {side}"].default_value for side in "XY"]
    bgm.garbage_mask = None
    bpy.data.masks.remove(mask)

    # Panels are not drawn in the background; at least every icon and argument they name exists in this version
    source = Path(addon("panels").__file__).read_text()
    icons = set(re.findall(r'icon="([A-Z_0-9]+)"|, "([A-Z_]+)", width', source)) - {("", "")}
    known = bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items.keys()
    result["unknown icons"] = sorted({"".join(icon) for icon in icons} - set(known))
    for function, names in {
        "progress": {"factor", "type", "text"},
        "template_ID": {"data", "property", "open"},
        "template_icon": {"icon_value", "scale"},
        "column": {"align", "heading"},
    }.items():
        assert names <= set(bpy.types.UILayout.bl_rna.functions[function].parameters.keys()), function

    assert not error_of(ops.check_engine)
    result["engine"] = addon("runner").engine.devices[0]["name"]

    bgm.plate_source = "NONE"
    scene.frame_set(10)  # number 1001 + 10 - 5 - 3
    assert not error_of(ops.matte_frame)
    preview = bpy.data.images["Matting Preview"]
    preview.alpha_mode = "PREMUL"  # as it comes from EXR
    assert not error_of(ops.matte_frame)  # again, into the same image
    result["preview"] = {"size": list(preview.size), "pixels": [round(v, 6) for v in preview.pixels[:8]]}
    assert len([image for image in bpy.data.images if image.name.startswith("Matting Preview")]) == 1
    preview.pack()  # as Automatically Pack Resources does
    bgm.output_folder, results = "//elsewhere/", bgm.output_folder
    scene.frame_set(11)
    assert not error_of(ops.matte_frame)
    result["preview"]["packed"] = [round(v, 6) for v in preview.pixels[:8]]
    bgm.output_folder = results
    scene.frame_set(10)
    parts = [folder / "alpha.exr", folder / "foreground.exr"]
    for path, value in zip(parts, (0.25, 0.5), strict=True):
        part = bpy.data.images.new("part", 4, 4, float_buffer=True)
        part.colorspace_settings.name = "Non-Color"
        part.pixels = 16 * [value, value, value, 1.0]
        part.filepath_raw, part.file_format = str(path), "OPEN_EXR"
        part.save()
    shown = addon("tasks").show_preview(*parts, "Linear Rec.709", folder / "preview.exr")
    result["float preview"] = [shown.pixels[0], shown.preview.image_pixels_float[0]]
    folder_of_results = addon("settings").output_folder(bgm)
    result["left behind"] = sorted(path.name for path in folder_of_results.iterdir())

    bgm.plate_source = "FROM_CLIP"
    bgm.frame_range = "CUSTOM"
    bgm.frame_first, bgm.frame_last = 18, 60
    assert not error_of(ops.matte_clip)
    result["warnings"] = addon("runner").task.warnings[:1]
    bgm.frame_first, bgm.frame_last = 10, 11
    assert not error_of(ops.matte_clip)
    result["from clip"] = json.loads((folder_of_results / "job.yaml").read_text())
    assert Path(result["from clip"]["plate"]["path"]).is_file()

    assert not error_of(ops.make_plate)
    assert bgm.plate_image is not None and bgm.plate_image.colorspace_settings.name == "sRGB"
    bgm.plate_source = "IMAGE"
    assert not error_of(ops.check_plate)
    result["findings"] = [[finding.light, finding.text, finding.action] for finding in bgm.findings]
    result["outcomes"] = [outcome(tree)]
    os.environ["FAKE_WORKER"] = "red"
    addon("runner").stop_engine()
    assert not error_of(ops.check_plate)
    os.environ["FAKE_WORKER"] = ""
    result["outcomes"].append(outcome(tree))
    bgm.plate_image, plate = bpy.data.images.new("large", 134, 90), bgm.plate_image
    bgm.plate_image.filepath_raw = str(folder / "large.png")
    bgm.plate_image.save()
    assert not error_of(ops.matte_frame)
    result["warnings"] += addon("runner").task.warnings
    os.environ["FAKE_WORKER"] = "strict"
    addon("runner").stop_engine()
    result["other shape"] = [error_of(ops.matte_frame), addon("runner").task.warnings]
    os.environ["FAKE_WORKER"] = ""
    addon("runner").stop_engine()
    assert not error_of(ops.matte_frame)
    bgm.plate_image = plate
    result["outcomes"].append(outcome(tree))
    unread = []  # by Blender: a movie, and images that no editor has shown
    for path, kind in ((args["movie"], "MOVIE"), (args["footage"], "SEQUENCE")):
        bgm.plate_image = bpy.data.images.load(path)
        if bgm.plate_image.source != kind:
            bgm.plate_image.source = kind
        unread.append(addon("settings").make_job(bgm, scene, "auto").data["plate"]["color_space"])
        assert not error_of(ops.matte_frame)
        unread.append(addon("runner").task.warnings)
    result["unread plates"] = unread
    bgm.plate_image = plate
    space, bgm.clip.colorspace_settings.name = bgm.clip.colorspace_settings.name, "Non-Color"
    result["data"] = addon("settings").make_job(bgm, scene, "auto").data["footage"]["color_space"]
    bgm.clip.colorspace_settings.name = space
    bgm.plate_image.pack()
    bgm.plate_image.filepath = str(folder / "gone" / "packed.png")
    assert not error_of(ops.matte_clip)
    result["packed"] = json.loads((folder_of_results / "job.yaml").read_text())["plate"]["path"]
    packed = Path(result["packed"])
    before = packed.stat()
    assert not error_of(ops.matte_clip)
    after = packed.stat()
    result["packed again"] = [before.st_mtime_ns, before.st_ino] == [after.st_mtime_ns, after.st_ino]
    packed.write_bytes(b"cut")
    assert not error_of(ops.matte_clip)
    result["packed anew"] = packed.read_bytes() == bgm.plate_image.packed_file.data
    for name, is_float in (("Clean Plate.v2", False), ("Clean Plate", True)):  # drawn in Blender, never a file
        bgm.plate_image = bpy.data.images.new(name, 67, 45, float_buffer=is_float)
        bgm.plate_image.pixels[0] = 0.5
        bgm.plate_image.pack()
        assert not error_of(ops.matte_clip)
    result["plates"] = sorted(path.name for path in packed.parent.iterdir())

    bgm.deliver = {"webm", "preview"}
    assert not error_of(ops.deliver)
    result["delivered"] = bgm.status
    told = [addon("runner").task.warnings]
    node = matting_node(scene)
    node.inputs["Dilate Size"].default_value = 2
    assert not error_of(ops.deliver)
    told.append(addon("runner").task.warnings)
    assert not error_of(ops.matte_clip)
    told.append(addon("runner").task.warnings[:1])
    node.inputs["Dilate Size"].default_value = 0
    node.inputs["Dilate Size"].keyframe_insert("default_value", frame=100)  # whatever it is now
    assert not error_of(ops.deliver)
    told.append(addon("runner").task.warnings)
    node.inputs["Dilate Size"].keyframe_delete("default_value", frame=100)
    bgm.deliver = set()
    result["delivery words"] = told

    # The rate of images is that of the scene which the editor shows: from 5.0 on another than the window's, it may be
    window = bpy.context.window_manager.windows[0]
    area = window.screen.areas[0]
    area.ui_type, bgm.deliver = "SEQUENCE_EDITOR", {"preview"}
    edit = bpy.data.scenes.new("Edit")
    edit.render.fps = 30
    if hasattr(window.workspace, "sequencer_scene"):
        window.workspace.sequencer_scene = edit
    else:
        window.scene = edit
    with bpy.context.temp_override(window=window, area=area):
        assert not error_of(ops.deliver, group=tree.name)
    result["rate"] = bgm.status.split()[-1]
    window.scene, bgm.deliver = scene, set()
    bpy.data.scenes.remove(edit)

    # A farm has made the rest meanwhile
    for name in ("foreground", "error"):
        for path in (folder_of_results / name).iterdir():
            path.unlink()
    assert not error_of(ops.use_results)
    result["no foreground"] = render(scene, 10, folder / "no_foreground.exr")  # the clip's own colours
    bpy.ops.file.make_paths_relative()
    assert clip.filepath.startswith("//"), clip.filepath
    bpy.ops.wm.save_mainfile()

    code = addon("command").run(["matte", "--node", tree.name, "--save"])
    result["command"] = [code, bgm.status, addon("command").run(["matte", "--node", "gone"])]
    assert not error_of(ops.matte_all)

    # Linked into another file, where it cannot be edited
    bpy.ops.wm.read_homefile(use_empty=True)
    with bpy.data.libraries.load(str(blend), link=True) as (source, target):
        target.node_groups = [name for name in source.node_groups if name.startswith("Matting")]
        target.movieclips = source.movieclips
    linked = target.node_groups[0]
    assert linked.library and linked.bgm.is_matting
    result["linked"] = error_of(ops.matte_clip, group=linked.name)
    ops.add_node(clip=target.movieclips[0].name)  # a linked clip, its path relative to the other file
    local = next(group for group in bpy.data.node_groups if group.bgm.is_matting and not group.library)
    local.bgm.plate_source = "NONE"
    local.bgm.output_folder = str(folder / "linked")
    result["linked clip"] = error_of(ops.matte_clip, group=local.name)

    bpy.ops.preferences.addon_disable(module=MODULE)
    assert not hasattr(bpy.types.NodeTree, "bgm") and not hasattr(bpy.types, "BGM_PT_compositor")
    bpy.ops.preferences.addon_enable(module=MODULE)
    assert local.bgm.is_matting  # settings outlast it
    finish(**result)


main()
