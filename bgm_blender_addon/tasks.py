# SPDX-License-Identifier: GPL-3.0-or-later
"""What each button asks of the engine, and what becomes of the answer. Operators report; these functions do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy

from . import footage, node, preferences, runner, sequencer, settings
from .client import protocol
from .errors import UserError

PREVIEW_IMAGE = "Matting Preview"


def matte(
    tree: bpy.types.NodeTree, scene: bpy.types.Scene, then: Callable[[bpy.types.NodeTree], None] | None = None
) -> None:
    """Matte the group's clip; its results are wired in when they are there.

    Args:
        then: called with the group after that.

    Raises:
        UserError: the settings do not make a job, or the engine cannot start.
    """
    bgm = tree.bgm
    request = settings.make_job(bgm, scene, preferences.device())
    commands: list[protocol.Message] = []
    if request.plate_to_make:
        commands.append(_plate_command(request))
    commands.append(protocol.Matte(job=str(request.write())))
    uid = tree.session_uid

    def take(result: dict[str, Any]) -> str:
        group = runner.find_group(uid)
        if group is None:
            return f"The matte is in {request.folder}; its node is no longer in this file."
        node.wire_results(group, request.folder)
        if then is not None:
            then(group)
        return describe_result(result)

    runner.start(runner.Task(f"Matte {request.footage.name}", commands, take, uid))


def preview(tree: bpy.types.NodeTree, scene: bpy.types.Scene, scene_frame: int) -> None:
    """Matte the frame that the clip shows at a scene frame, and show it as an image with alpha.

    Raises:
        UserError: as `matte`; or the clip shows nothing at that frame.
    """
    clip = tree.bgm.clip
    path = settings.check_clip(clip)
    number = footage.to_number(clip, path, scene_frame)
    first, last = footage.first_number(clip, path), footage.last_number(clip, path)
    if not first <= number <= last:
        shown = [footage.to_scene(clip, path, n) for n in (first, last)]
        raise UserError(f"The clip shows nothing at frame {scene_frame}; it lasts from {shown[0]} to {shown[1]}.")
    request = settings.make_job(tree.bgm, scene, preferences.device(), (first, last))
    request.data["output"] |= {"foreground": True, "matte": False, "error": False, "deliver": []}
    folder = request.folder / "preview" / "parts"
    commands: list[protocol.Message] = []
    if request.plate_to_make:
        commands.append(_plate_command(request))
    job = request.write("preview.yaml")
    commands.append(protocol.Preview(job=str(job), frame_number=number, output=str(folder)))
    space = clip.colorspace_settings.name

    def take(result: dict[str, Any]) -> str:
        path = request.folder / "preview" / Path(result["foreground"]).name
        show_preview(Path(result["alpha"]), Path(result["foreground"]), space, path.with_stem("preview"))
        shutil.rmtree(folder, ignore_errors=True)
        job.unlink(missing_ok=True)
        return f"Preview of frame {scene_frame}"

    runner.start(runner.Task(f"Preview frame {scene_frame}", commands, take, tree.session_uid))


def make_plate(tree: bpy.types.NodeTree, scene: bpy.types.Scene) -> None:
    """Make a clean plate from the clip and have the group use it.

    Raises:
        UserError: as `matte`.
    """
    bgm = tree.bgm
    clip_path = settings.check_clip(bgm.clip)
    folder = settings.output_folder(bgm)
    plate_path = settings.plate_file(bgm, folder)
    data = {
        "footage": {"path": str(clip_path), "color_space": settings.color_space(bgm.clip)},
        "frames": list(settings.frame_numbers(bgm, scene)),
    }
    request = settings.JobRequest(data, folder, clip_path, plate_path)
    uid = tree.session_uid
    space = bgm.clip.colorspace_settings.name

    def take(result: dict[str, Any]) -> str:
        group = runner.find_group(uid)
        image = bpy.data.images.load(str(plate_path), check_existing=True)
        image.reload()
        image.colorspace_settings.name = space
        if group is not None:
            group.bgm.plate_image = image
        return "The clean plate is made: look at it before you matte"

    runner.start(runner.Task(f"Plate from {clip_path.name}", [_plate_command(request)], take, uid))


def check_plate(tree: bpy.types.NodeTree, scene: bpy.types.Scene) -> None:
    """Have the plate doctor look at the group's plate; its findings go to the panel.

    Raises:
        UserError: as `matte`.
    """
    request = settings.make_job(tree.bgm, scene, preferences.device())
    commands: list[protocol.Message] = []
    if request.plate_to_make:
        commands.append(_plate_command(request))
    commands.append(protocol.Diagnose(job=str(request.write())))
    uid = tree.session_uid

    def take(result: dict[str, Any]) -> str:
        group = runner.find_group(uid)
        return show_findings(group.bgm, result) if group is not None else "The plate is checked"

    runner.start(runner.Task("Check the plate", commands, take, uid))


def check_engine() -> None:
    """Ask the engine what it is and what it runs on; `runner.engine` holds the answer.

    Raises:
        UserError: there is no engine, or it does not start.
    """
    runner.start(runner.Task("Check the engine", [protocol.Hello()], lambda result: describe_engine()))


def matte_strip(scene: bpy.types.Scene, strip: bpy.types.Strip) -> None:
    """Matte a movie or image strip's footage and lay the cut-out over it.

    Raises:
        UserError: as `matte`; or the strip is of another kind.
    """
    tree = sequencer.group_for_strip(scene, strip)
    tree.bgm.use_matte = True
    scene_name, strip_name = scene.name, strip.name

    def add(group: bpy.types.NodeTree) -> None:
        target = bpy.data.scenes.get(scene_name)
        source = sequencer.strips(target).get(strip_name) if target else None
        if source is None:
            raise UserError(f"The matte is made, but its strip {strip_name} is gone.")
        sequencer.add_matte_strip(target, group, source)

    matte(tree, scene, then=add)


def show_preview(alpha_path: Path, foreground_path: Path, foreground_space: str, path: Path) -> bpy.types.Image:
    """One image of straight foreground and alpha, saved to `path` and shown in an open image editor."""
    import numpy as np  # Blender's own

    parts = []
    for part_path in (alpha_path, foreground_path):
        part = bpy.data.images.load(str(part_path))
        part.colorspace_settings.name = "Non-Color"  # the numbers as the file has them
        pixels = np.empty(part.size[0] * part.size[1] * 4, np.float32)
        part.pixels.foreach_get(pixels)
        parts.append(pixels)
        width, height = part.size
        bpy.data.images.remove(part)
    alpha, rgba = parts
    rgba[3::4] = alpha[0::4]

    is_linear = path.suffix == ".exr"
    drawn = bpy.data.images.new("preview", width, height, alpha=True, float_buffer=is_linear)
    drawn.colorspace_settings.name = "Linear Rec.709" if is_linear else foreground_space
    drawn.pixels.foreach_set(rgba)
    drawn.filepath_raw, drawn.file_format = str(path), "OPEN_EXR" if is_linear else "PNG"
    drawn.save()
    bpy.data.images.remove(drawn)

    shown = bpy.data.images.get(PREVIEW_IMAGE) or bpy.data.images.load(str(path))
    shown.name = PREVIEW_IMAGE
    shown.filepath = node.storable(path)
    shown.colorspace_settings.name = "Linear Rec.709" if is_linear else foreground_space
    shown.reload()
    _draw_thumbnail(shown, rgba.reshape(height, width, 4))
    for window in bpy.context.window_manager.windows if bpy.context.window_manager else ():
        for area in window.screen.areas:
            if area.type == "IMAGE_EDITOR":
                area.spaces.active.image = shown
    return shown


def _draw_thumbnail(image: bpy.types.Image, rgba: Any) -> None:
    """The panel's small picture: the cut-out over grey, where Blender's own thumbnail leaves the alpha out."""
    step = max(1, max(rgba.shape[:2]) // 256)
    small = rgba[::step, ::step].copy()
    small[..., :3] = small[..., :3] * small[..., 3:] + 0.4 * (1 - small[..., 3:])
    small[..., 3] = 1.0
    thumbnail = image.preview_ensure()
    thumbnail.image_size = (small.shape[1], small.shape[0])
    thumbnail.image_pixels_float.foreach_set(small.reshape(-1))


def show_findings(bgm: settings.BGM_PG_matting, diagnosis: dict[str, Any]) -> str:
    """Take the plate doctor's findings into the settings, for the panel; returns them in a sentence."""
    bgm.findings.clear()
    for finding in diagnosis["findings"]:
        item = bgm.findings.add()
        item.light = finding["severity"]
        item.text = f"{finding['message']} {finding['remedy']}."
        item.action = finding["action"]
    if not bgm.findings:
        item = bgm.findings.add()
        item.light, item.text = "green", "The plate fits the clip."
        return item.text
    return (
        f"The plate has {len(bgm.findings)} weak points: see Plate Tools"
        if len(bgm.findings) > 1
        else bgm.findings[0].text
    )


def describe_result(result: dict[str, Any]) -> str:
    """A matte's result as a sentence for the panel."""
    count, skipped = result.get("frames", 0), result.get("skipped", 0)
    if skipped and skipped == count:
        return f"All {count} frames were up to date"
    return f"{count} frames, {result.get('first')} to {result.get('last')}" + (
        f", {skipped} up to date" if skipped else ""
    )


def describe_engine() -> str:
    """What works, in a sentence; the panel lists the details."""
    engine = runner.engine
    if engine is None:
        raise UserError("The engine said nothing of itself. See its log.")
    if engine.protocol != protocol.VERSION:
        raise UserError(
            f"The engine speaks version {engine.protocol} of the protocol, this extension {protocol.VERSION}. "
            "Install the same release of both."
        )
    return "The engine works"


def _plate_command(request: settings.JobRequest) -> protocol.MakePlate:
    assert request.plate_to_make is not None
    try:
        request.plate_to_make.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The output folder {request.folder} cannot be written: {error.strerror or error}. Choose another."
        ) from None
    first, last = request.data["frames"]
    return protocol.MakePlate(
        footage=str(request.footage),
        output=str(request.plate_to_make),
        color_space=request.data["footage"]["color_space"],
        frames=f"{first}-{last}",
    )
