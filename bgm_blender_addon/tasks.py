# SPDX-License-Identifier: GPL-3.0-or-later
"""What each button asks of the engine, and what becomes of the answer. Operators report; these functions do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import bpy

from . import footage, node, preferences, runner, sequencer, settings
from .client import protocol
from .errors import UserError

PREVIEW_IMAGE = "Matting Preview"
previewed: runner.Task | None = None  # whose frame that image shows
_SESSION = uuid4().hex[:8]  # names the folder of a preview's parts: another Blender may preview the same


def matte(
    tree: bpy.types.NodeTree,
    scene: bpy.types.Scene,
    numbers: tuple[int, int] | None = None,
    then: Callable[[bpy.types.NodeTree], list[str]] | None = None,
) -> None:
    """Matte the group's clip; its results are wired in when they are there, in part if it is stopped.

    Args:
        numbers: first and last frame number, instead of what the settings say.
        then: called with the group once all is done; returns warnings.

    Raises:
        UserError: the settings do not make a job, or the engine cannot start.
    """
    node.check_inside(tree)
    request = settings.make_job(tree.bgm, scene, preferences.device(), numbers)
    commands = _plate_commands(tree.bgm, request)
    first, last = request.data["frames"]  # said, for another Blender may write its job there before this one is read
    commands.append(protocol.Matte(job=str(request.write()), frames=f"{first}-{last}"))

    def take(group: bpy.types.NodeTree, result: dict[str, Any]) -> str:
        show_results(group, request.folder)
        task.warnings += node.incomplete_words(group)
        if then is not None:
            task.warnings += then(group)
        return describe_result(result)

    def take_part(group: bpy.types.NodeTree) -> None:
        if node.find_sequence(request.folder / "alpha"):
            show_results(group, request.folder)

    warnings = [*([] if numbers else settings.missing_words(tree.bgm)), *node.delivery_words(tree)]
    made = f"The matte is in {request.folder}"
    task = _task(tree, f"Matte {request.footage.name}", commands, made, take, take_part, warnings)
    runner.start(task)


def matte_in_its_scene(tree: bpy.types.NodeTree) -> None:
    """Matte the group's clip by the scene whose compositor has the group; if only strips show it, what they show.

    Raises:
        UserError: as `matte`.
    """
    matte(tree, _scene_of(tree), None if _has_node(tree) else sequencer.numbers_on_strips(tree))


def shown_trees() -> list[bpy.types.NodeTree]:
    """The file's own matting groups that a node or strip shows: not those that it keeps of strips that were deleted."""
    own = (tree for tree in settings.matting_trees() if settings.is_own(tree))
    scenes = bpy.data.scenes
    return [tree for tree in own if _has_node(tree) or any(sequencer.source_strip(scene, tree) for scene in scenes)]


def check_idle(tree: bpy.types.NodeTree) -> None:
    """Raise UserError if a job of this group runs or waits: its files are there, and its settings are taken."""
    if runner.task_of(tree) is not None:
        raise UserError(f"A job of {tree.name} is running or waiting. Wait for it to end, or cancel it.")


def show_results(tree: bpy.types.NodeTree, folder: Path) -> None:
    """Show the images of an output folder, as they are now, in the group and in strips of them.

    Raises:
        UserError: as `node.wire_results`.
    """
    node.wire_results(tree, folder)
    sequencer.show_anew(folder, tree.bgm.clip)


def preview(tree: bpy.types.NodeTree, scene: bpy.types.Scene, scene_frame: int) -> None:
    """Matte the frame that the clip shows at a scene frame, and show it as an image with alpha.

    Raises:
        UserError: as `matte`; or the clip shows nothing at that frame.
    """
    clip = tree.bgm.clip
    path = settings.check_clip(clip)
    number = footage.to_number(clip, path, scene_frame)
    first, last = settings.clip_numbers(clip)
    if not first <= number <= last:
        shown = [footage.to_scene(clip, path, n) for n in (first, last)]
        raise UserError(f"The clip shows nothing at frame {scene_frame}; it lasts from {shown[0]} to {shown[1]}.")
    request = settings.make_job(tree.bgm, scene, preferences.device(), (number, number))
    folder = request.folder / "preview" / _SESSION
    output = {"folder": str(folder), "foreground": True, "matte": False, "error": False, "deliver": []}
    request.data["output"] |= output
    commands = _plate_commands(tree.bgm, request)
    job = request.write(f"preview/{_SESSION}/job.yaml")
    commands.append(protocol.Preview(job=str(job), frame_number=number, output=str(folder / "parts")))
    spaces = {kind: node.color_space("foreground", path.with_suffix(kind), clip) for kind in (".png", ".exr")}

    def clear(*_: Any) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def take(group: bpy.types.NodeTree, result: dict[str, Any]) -> str:
        global previewed
        foreground = Path(result["foreground"])
        # To compress PNG, or read it again, takes seconds of a large frame, in which Blender's window stands still
        path = request.folder / "preview" / ("preview.exr" if foreground.suffix == ".exr" else "preview.tga")
        show_preview(Path(result["alpha"]), foreground, spaces[foreground.suffix], path)
        clear()
        previewed = task
        task.warnings += scaled
        return f"Preview of frame {scene_frame}"

    scaled = settings.scaling_words(tree.bgm)  # if it is: the engine refuses another shape
    made = f"The preview of frame {scene_frame} is made"
    task = _task(tree, f"Preview frame {scene_frame}", commands, made, take, clear)
    runner.start(task)


def make_plate(tree: bpy.types.NodeTree, scene: bpy.types.Scene) -> None:
    """Make a clean plate from the clip and have the group use it.

    Raises:
        UserError: as `matte`.
    """
    bgm = tree.bgm
    clip_path = settings.check_clip(bgm.clip)
    numbers = settings.frame_numbers(bgm, scene)
    plate_path = settings.plate_file(bgm, settings.output_folder(bgm), numbers)
    command = _plate_command(bgm, plate_path, numbers)
    space = bgm.clip.colorspace_settings.name

    def take(group: bpy.types.NodeTree, result: dict[str, Any]) -> str:
        image = bpy.data.images.load(str(plate_path), check_existing=True)
        if image.packed_file:  # the plate before: what is packed goes before what is on disk
            image.unpack(method="REMOVE")
        image.filepath = node.storable(plate_path)
        image.reload()
        image.colorspace_settings.name = space
        group.bgm.plate_source, group.bgm.plate_image = "IMAGE", image
        return "The clean plate is made: look at it before you matte"

    warnings = settings.missing_words(bgm)
    made = f"The clean plate is {plate_path}"
    runner.start(_task(tree, f"Plate from {clip_path.name}", [command], made, take, warnings=warnings))


def check_plate(tree: bpy.types.NodeTree, scene: bpy.types.Scene) -> None:
    """Have the plate doctor look at the group's plate; its findings go to the panel.

    Raises:
        UserError: as `matte`; or no plate is wanted.
    """
    if tree.bgm.plate_source == "NONE":
        raise UserError("There is no clean plate to check. Choose one, or make one from the clip.")
    request = settings.make_job(tree.bgm, scene, preferences.device())
    commands = _plate_commands(tree.bgm, request)
    commands.append(protocol.Diagnose(job=str(request.write())))

    def take(group: bpy.types.NodeTree, result: dict[str, Any]) -> str:
        task.light = result["light"]
        return show_findings(group.bgm, result)

    task = _task(tree, "Check the plate", commands, "The plate is checked", take)
    runner.start(task)


def deliver(tree: bpy.types.NodeTree, scene: bpy.types.Scene) -> None:
    """Make the chosen deliveries of the frames in the output folder, as they are.

    Raises:
        UserError: none is chosen, there are no frames, or the engine cannot start.
    """
    bgm = tree.bgm
    if not bgm.deliver:
        raise UserError("No delivery is chosen. Choose some under Output > Deliver.")
    folder = node.matte_folder(tree)
    node.check_matte(folder)
    command = protocol.Deliver(str(folder), sorted(bgm.deliver), settings.delivered_fps(bgm, scene))

    def take(result: dict[str, Any]) -> str:
        return f"Delivered into {folder / 'delivery'}: {', '.join(Path(path).name for path in result.values())}"

    warnings = node.delivery_words(tree)
    runner.start(runner.Task(f"Deliver {folder.name}", [command], take, tree.session_uid, warnings=warnings))


def check_engine() -> None:
    """Ask the engine what it is and what it runs on; `runner.engine` holds the answer.

    Raises:
        UserError: there is no engine, or it does not start.
    """
    runner.start(runner.Task("Check the engine", [protocol.Hello()], lambda result: describe_engine()))


def matte_strip(scene: bpy.types.Scene, strip: bpy.types.Strip) -> None:
    """Matte what a movie or image strip shows of its footage, and lay the cut-out over it.

    Raises:
        UserError: as `matte`; or the strip is of another kind. What was made for it is gone again then.
    """
    is_new, clips = sequencer.find_group(strip) is None, set(bpy.data.movieclips)
    tree = sequencer.group_for_strip(scene, strip)
    check_idle(tree)
    tree.bgm.use_matte = True
    scene_uid, scene_name, strip_name = scene.session_uid, scene.name, strip.name
    others = {other.name for other in sequencer.all_strips(scene) if other != strip}

    def add(group: bpy.types.NodeTree) -> list[str]:
        # The file may have been opened again, the strip renamed
        named = bpy.data.scenes.get(scene_name)
        target = next((other for other in bpy.data.scenes if other.session_uid == scene_uid), named)
        source = sequencer.source_strip(target, group, strip_name, others) if target else None
        if target is None or source is None:
            raise UserError(f"The matte is made, but its strip {strip_name} is gone.")
        cut_out = sequencer.add_matte_strip(target, group, source)
        return [
            *sequencer.missing_words(group, source),  # whose handles may have been moved
            *sequencer.color_space_words(source, group.bgm.clip),
            *sequencer.uncopied_words(target, source, cut_out),
        ]

    try:
        matte(tree, scene, sequencer.shown_numbers(strip, tree.bgm.clip), add)
    except UserError as error:
        if not is_new:
            raise
        clip = tree.bgm.clip
        bpy.data.node_groups.remove(tree)
        if clip not in clips:
            bpy.data.movieclips.remove(clip)
        raise UserError(f"{error} Set Up Matting in the sidebar's Matting tab shows the settings.") from None


def show_preview(alpha_path: Path, foreground_path: Path, space: str, path: Path) -> bpy.types.Image:
    """One image of straight foreground and alpha, saved to `path` and shown in an open image editor.

    Args:
        space: the foreground's colour space.
    """
    import numpy as np  # Blender's own

    parts = []
    for part_path in (alpha_path, foreground_path):
        part = bpy.data.images.load(str(part_path))
        node.set_color_space(part, "Non-Color")  # the numbers as the file has them
        pixels = np.empty(part.size[0] * part.size[1] * 4, np.float32)
        part.pixels.foreach_get(pixels)
        parts.append(pixels)
        width, height = part.size
        bpy.data.images.remove(part)
    alpha, rgba = parts
    rgba[3::4] = alpha[0::4]

    is_float = path.suffix == ".exr"
    drawn = bpy.data.images.new("preview", width, height, alpha=True, float_buffer=is_float)
    node.set_color_space(drawn, "Non-Color")
    drawn.pixels.foreach_set(rgba)
    drawn.filepath_raw, drawn.file_format = str(path), "OPEN_EXR" if is_float else "TARGA_RAW"
    drawn.save()
    bpy.data.images.remove(drawn)

    shown = preview_image() or bpy.data.images.load(str(path))
    shown.name = PREVIEW_IMAGE
    if shown.packed_file:  # which Blender would go on showing
        shown.unpack(method="REMOVE")
    shown.filepath = node.storable(path)
    node.set_color_space(shown, space)
    shown.alpha_mode = "STRAIGHT"  # Blender takes EXR for premultiplied
    shown.reload()
    _draw_thumbnail(shown, rgba.reshape(height, width, 4))
    editors = [
        area.spaces.active
        for window in (bpy.context.window_manager.windows if bpy.context.window_manager else ())
        for area in window.screen.areas
        if area.ui_type == "IMAGE_EDITOR"
    ]
    free = [space for space in editors if space.image == shown or not space.use_image_pin]
    if free:
        min(free, key=lambda space: space.image != shown).image = shown
    return shown


def preview_image() -> bpy.types.Image | None:
    """This file's preview, where it has one; not one that is linked."""
    return bpy.data.images.get((PREVIEW_IMAGE, None))


def _draw_thumbnail(image: bpy.types.Image, rgba: Any) -> None:
    """The panel's small picture: the cut-out over grey, where Blender's own thumbnail leaves the alpha out."""
    step = max(1, max(rgba.shape[:2]) // 256)
    small = rgba[::step, ::step].copy()
    if image.is_float:
        small[..., :3] = small[..., :3].clip(0, 1) ** (1 / 2.2)  # much as it is displayed
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
    if count == 1:
        return "The frame was up to date" if skipped else f"1 frame, {result.get('first')}"
    if skipped and skipped == count:
        return f"All {count} frames were up to date"
    return f"{count} frames, {result.get('first')} to {result.get('last')}" + (
        f", {skipped} up to date" if skipped else ""
    )


def describe_engine() -> str:
    """What works, in a sentence; the panel lists the details."""
    engine = runner.engine
    if engine is None:
        raise UserError("The engine did not say what it is. See its log.")
    if engine.protocol != protocol.VERSION:
        raise UserError(
            f"The engine speaks version {engine.protocol} of the protocol, this extension {protocol.VERSION}. "
            "Install the same release of both."
        )
    return "The engine works"


def _has_node(tree: bpy.types.NodeTree) -> bool:
    """Whether a scene has the group, at whatever depth: not a compositor whose scene was deleted."""
    users = bpy.data.user_map(subset=[tree])[tree]
    return any(_has_node(user) if isinstance(user, bpy.types.NodeTree) else user.id_type == "SCENE" for user in users)


def _scene_of(tree: bpy.types.NodeTree) -> bpy.types.Scene:
    """The scene whose compositor has the group, be it inside of others, else whose strips show its clip."""
    active = bpy.context.scene
    scenes = (active, *bpy.data.scenes)
    for scene in scenes:
        compositor = node.find_compositor(scene)
        if compositor and _holds(compositor, tree):
            return scene
    return next((scene for scene in scenes if sequencer.source_strip(scene, tree)), active)


def _holds(outer: bpy.types.NodeTree, tree: bpy.types.NodeTree) -> bool:
    groups = {node.node_tree for node in outer.nodes if node.type == "GROUP" and node.node_tree}
    return tree in groups or any(_holds(group, tree) for group in groups)


def _task(
    tree: bpy.types.NodeTree,
    title: str,
    commands: list[protocol.Message],
    made: str,
    take: Callable[[bpy.types.NodeTree, dict[str, Any]], str],
    stop: Callable[[bpy.types.NodeTree], None] = lambda group: None,
    warnings: Sequence[str] = (),
) -> runner.Task:
    """A task whose results are of one group with the clip that it has now.

    Args:
        made: what is there once it is done, where undo or another file has taken group or clip away by then.
        take: as a task's `on_result`, called with the group.
        stop: as a task's `on_stop`, likewise; not at all where group or clip are gone.
    """
    path = settings.file_path(tree.bgm.clip)

    def has_clip(group: bpy.types.NodeTree) -> bool:
        return group.bgm.clip is not None and settings.file_path(group.bgm.clip) == path

    def on_result(result: dict[str, Any]) -> str:
        group = runner.find_group(task.group_uid)
        if group is not None and has_clip(group):
            return take(group, result)
        task.light = "amber"
        if group is None:
            return f"{made}, but its node is no longer in this file."
        return (
            f"{made}, but the node {group.name} no longer has this clip and stays as it is. Choose the clip again and "
            "start again: finished frames are not done twice."
        )

    def on_stop() -> None:
        group = runner.find_group(task.group_uid)
        if group is not None and has_clip(group):
            stop(group)

    task = runner.Task(title, commands, on_result, tree.session_uid, on_stop, warnings=list(warnings))
    return task


def _plate_commands(bgm: settings.BGM_PG_matting, request: settings.JobRequest) -> list[protocol.Message]:
    """What makes the job's plate of the whole clip, whichever frames are wanted; nothing where there is one."""
    if request.plate_to_make is None:
        return []
    return [_plate_command(bgm, request.plate_to_make, settings.clip_numbers(bgm.clip))]


def _plate_command(bgm: settings.BGM_PG_matting, path: Path, numbers: tuple[int, int]) -> protocol.MakePlate:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The output folder {path.parent.parent} cannot be written: {error.strerror or error}. Choose another."
        ) from None
    return protocol.MakePlate(
        footage=str(settings.file_path(bgm.clip)),
        output=str(path),
        color_space=settings.color_space(bgm.clip),
        frames=f"{numbers[0]}-{numbers[1]}",
    )
