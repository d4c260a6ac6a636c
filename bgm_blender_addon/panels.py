# SPDX-License-Identifier: GPL-3.0-or-later
"""What the artist sees: the Matting tab of compositor, clip editor and sequencer, the status bar, the preferences."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

import bpy

from . import environment, operators, preferences, runner, sequencer, settings, tasks
from .errors import UserError

LIGHTS = {"green": "CHECKMARK", "amber": "ERROR", "red": "CANCEL", "cancelled": "X", "failed": "ERROR"}


def draw_text(layout: bpy.types.UILayout, text: str, icon: str = "NONE", width: int = 40) -> None:
    """A sentence over as many lines as it needs; `width` in characters, or an editor's region to measure."""
    column = layout.column(align=True)
    column.scale_y = 0.85
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, max(16, width))]
    for i, line in enumerate(lines):
        column.label(text=line, icon=icon if i == 0 else "BLANK1" if icon != "NONE" else "NONE")


def characters(context: bpy.types.Context) -> int:
    """About how many characters fit beside an icon into the current region."""
    scale = context.preferences.system.ui_scale
    return int((context.region.width / scale - 70) / 6.3) if context.region else 40


def draw_progress(layout: bpy.types.UILayout, tree: bpy.types.NodeTree | None = None) -> bool:
    """A group's job, or what runs now, and its cancel button. Returns whether there is one."""
    task = runner.task_of(tree) if tree is not None else None
    if task is None and (tree is not None or not runner.busy()):
        return False
    factor, text = (task.factor, task.message) if task is not None else runner.progress()[:2]
    row = layout.row(align=True)
    row.progress(factor=factor, type="BAR", text=f"{factor:.0%}" if factor else "")
    row.operator("bgm.cancel", text="", icon="X").group = tree.name if tree is not None else ""
    draw_text(layout, text, width=characters(bpy.context))
    return True


def draw_main(layout: bpy.types.UILayout, context: bpy.types.Context, tree: bpy.types.NodeTree) -> None:
    """Clip, plate, frames, the button, and how it goes."""
    bgm = tree.bgm
    layout.use_property_split = True
    layout.use_property_decorate = False
    column = layout.column()
    column.enabled = runner.task_of(tree) is None
    column.label(text="Clip", icon="FILE_MOVIE")
    column.template_ID(bgm, "clip", open="clip.open")
    draw_plate_choice(column, bgm)
    column.separator()
    column.prop(bgm, "frame_range")
    if bgm.frame_range == "CUSTOM":
        range_column = column.column(align=True)
        range_column.prop(bgm, "frame_first")
        range_column.prop(bgm, "frame_last")
    layout.separator(factor=0.5)
    if not draw_progress(layout, tree):
        draw_buttons(layout, tree)
        if bgm.clip is not None and not settings.scene_fits(operators.shown_scene(context), bgm.clip):
            layout.operator("bgm.fit_scene", icon="SCENE_DATA").group = tree.name
        draw_outcome(layout, context, tree)


def draw_plate_choice(layout: bpy.types.UILayout, bgm: settings.BGM_PG_matting) -> None:
    column = layout.column(align=True)
    row = column.row()
    row.use_property_split = False
    row.label(text="Clean Plate", icon="IMAGE_BACKGROUND")
    row.prop(bgm, "plate_source", text="")
    if bgm.plate_source == "IMAGE":
        column.template_ID(bgm, "plate_image", open="image.open")
    elif bgm.plate_source == "CLIP":
        column.template_ID(bgm, "plate_clip", open="clip.open")


def draw_buttons(layout: bpy.types.UILayout, tree: bpy.types.NodeTree) -> None:
    column = layout.column(align=True)
    row = column.row(align=True)
    row.scale_y = 1.5
    row.operator("bgm.matte_clip", icon="RENDER_ANIMATION").group = tree.name
    if len(settings.matting_trees()) > 1:
        column.operator("bgm.matte_all", icon="RENDER_ANIMATION")
    column.operator("bgm.matte_frame", icon="RENDER_STILL").group = tree.name


def draw_outcome(layout: bpy.types.UILayout, context: bpy.types.Context, tree: bpy.types.NodeTree) -> None:
    """How the last run ended, and the preview where there is one."""
    task = runner.ended.get(tree.session_uid)
    width = characters(context)
    draw_text(layout, tree.bgm.status, LIGHTS.get(tree.bgm.status_light, "INFO"), width)
    if task is None:
        return
    if task.message == tree.bgm.status:
        for warning in task.warnings[:3]:
            draw_text(layout, warning, "INFO", width)
    preview = tasks.preview_image()
    if preview is not None and task is tasks.previewed:
        layout.template_icon(preview.preview_ensure().icon_id, scale=9.0)


def draw_plate(layout: bpy.types.UILayout, context: bpy.types.Context, tree: bpy.types.NodeTree) -> None:
    bgm = tree.bgm
    layout.use_property_split = True
    layout.use_property_decorate = False
    column = layout.column(heading="Per Frame")
    column.active = bgm.plate_source != "NONE"
    column.prop(bgm, "plate_align")
    column.prop(bgm, "plate_match")
    if bgm.plate_source == "CLIP":
        column.prop(bgm, "plate_moving")
    if bgm.clip is not None and bgm.plate_source != "NONE":
        column = layout.column()
        column.prop(bgm, "plate_motion")
        if bgm.plate_motion == "PLANE":
            column.prop_search(bgm, "plate_plane_track", bgm.clip.tracking, "plane_tracks", icon="TRACKING")
        if bgm.plate_motion != "PICTURE":
            column.prop(bgm, "plate_frame")
    row = layout.row(align=True)
    row.operator("bgm.check_plate", icon="VIEWZOOM").group = tree.name
    row.operator("bgm.make_plate", text="Make from Clip", icon="IMAGE_BACKGROUND").group = tree.name
    for finding in bgm.findings:
        draw_finding(layout.box(), finding, tree, characters(context) - 4)


def draw_finding(
    layout: bpy.types.UILayout, finding: settings.BGM_PG_finding, tree: bpy.types.NodeTree, width: int
) -> None:
    """What the plate doctor found, and the button that helps."""
    draw_text(layout, finding.text, LIGHTS[finding.light], width)
    if finding.action == "align":
        layout.prop(tree.bgm, "plate_align", toggle=True)
    elif finding.action == "match":
        layout.prop(tree.bgm, "plate_match", toggle=True)
    elif finding.action == "plate_from_clip":
        layout.operator("bgm.make_plate", icon="IMAGE_BACKGROUND").group = tree.name


def draw_masks(layout: bpy.types.UILayout, context: bpy.types.Context, tree: bpy.types.NodeTree) -> None:
    layout.use_property_split = True
    layout.use_property_decorate = False
    for kind in ("garbage_mask", "core_mask"):
        row = layout.row(align=True)
        row.prop(tree.bgm, kind)
        if getattr(tree.bgm, kind) is None:
            button = row.operator("bgm.new_mask", text="", icon="ADD")
            button.group, button.kind = tree.name, kind


def draw_output(layout: bpy.types.UILayout, context: bpy.types.Context, tree: bpy.types.NodeTree) -> None:
    bgm = tree.bgm
    layout.use_property_split = True
    layout.use_property_decorate = False
    layout.prop(bgm, "output_folder")
    if not bpy.data.filepath and tree.library is None:
        try:
            folder = settings.output_folder(bgm)
            draw_text(layout, f"Not saved yet: the images go to {folder}", "INFO", characters(context))
        except UserError:
            pass
    layout.prop(bgm, "format")
    column = layout.column(heading="Besides Alpha")
    column.prop(bgm, "use_foreground")
    column.prop(bgm, "use_error")
    column.prop(bgm, "use_matte")
    layout.column().prop(bgm, "deliver")
    column = layout.column()
    column.enabled = bool(bgm.deliver)
    column.operator("bgm.deliver", icon="EXPORT").group = tree.name
    row = layout.row(align=True)
    row.operator("bgm.open_folder", text="Open Folder", icon="FILE_FOLDER").group = tree.name
    row.operator("bgm.use_results", icon="FILE_REFRESH").group = tree.name
    if context.space_data.type != "SEQUENCE_EDITOR":
        layout.operator("bgm.add_strip", icon="SEQUENCE").group = tree.name


def draw_engine(layout: bpy.types.UILayout, context: bpy.types.Context, tree: bpy.types.NodeTree) -> None:
    bgm = tree.bgm
    layout.use_property_split = True
    layout.use_property_decorate = False
    layout.prop(bgm, "model_source")
    if bgm.model_source == "FILE":
        layout.prop(bgm, "model_path", text=" ")
    layout.prop(bgm, "device")
    layout.prop(bgm, "precision")
    layout.prop(bgm, "detail")


def draw_no_engine(layout: bpy.types.UILayout, context: bpy.types.Context) -> bool:
    """Where the engine has no Python: say so, with the way out. Returns whether it did."""
    try:
        preferences.engine_python()
    except UserError as error:
        box = layout.box()
        draw_text(box, str(error), "INFO", characters(context) - 4)
        if not draw_progress(box):
            draw_not_made(box, characters(context) - 4)
            box.operator("bgm.make_environment", icon="IMPORT")
            draw_offline(box, characters(context) - 4)
            box.operator(
                "preferences.addon_show", text="Open Preferences", icon="PREFERENCES"
            ).module = preferences.PACKAGE
        return True
    return False


def draw_not_made(layout: bpy.types.UILayout, width: int) -> None:
    """Why the environment was not made, where that was tried."""
    if runner.maker is not None and runner.maker.error:
        draw_text(layout, runner.maker.error, "ERROR", width)


def draw_offline(layout: bpy.types.UILayout, width: int) -> None:
    """Why Make Environment cannot be pressed."""
    if not bpy.app.online_access:
        text = "Making it needs Preferences > System > Network > Allow Online Access."
        draw_text(layout, text, "INTERNET_OFFLINE", width)


class CompositorPanel:
    bl_space_type = "NODE_EDITOR"
    bl_region_type = "UI"
    bl_category = "Matting"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.space_data.tree_type == "CompositorNodeTree"


class ClipPanel:
    bl_space_type = "CLIP_EDITOR"
    bl_region_type = "UI"
    bl_category = "Matting"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.space_data.clip is not None


class MainPanel:
    bl_label = "Background Matting"
    if TYPE_CHECKING:
        layout: bpy.types.UILayout

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        if draw_no_engine(layout, context):
            return
        tree = operators.shown_tree(context)
        if tree is not None:
            if context.space_data.type == "CLIP_EDITOR":  # which does not show the node
                layout.label(text=tree.name, icon="NODETREE")
            draw_main(layout, context, tree)
            return
        if context.space_data.type == "CLIP_EDITOR":
            layout.operator("bgm.add_node", text="Matte This Clip", icon="NODE_COMPOSITING")
        else:
            draw_text(layout, "Select a matting node, or add one.", width=characters(context))
            layout.operator("bgm.add_node", text="Add Matting Node", icon="ADD")


class SubPanel:
    bl_options = {"DEFAULT_CLOSED"}
    if TYPE_CHECKING:
        layout: bpy.types.UILayout
        draw_settings: Callable[[bpy.types.UILayout, bpy.types.Context, bpy.types.NodeTree], None]

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return operators.shown_tree(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        tree = operators.shown_tree(context)
        self.layout.enabled = runner.task_of(tree) is None
        type(self).draw_settings(self.layout, context, tree)


_SUBPANELS = {
    "plate": ("Plate Tools", draw_plate),
    "masks": ("Masks", draw_masks),
    "output": ("Output", draw_output),
    "engine": ("Engine", draw_engine),
}


def subpanels(parent: type[bpy.types.Panel], editor: type, *names: str) -> list[type]:
    """Panel classes for these of `_SUBPANELS` below a panel in an editor."""
    return [
        type(
            f"{parent.__name__}_{name}",
            (SubPanel, editor, bpy.types.Panel),
            {"bl_label": label, "bl_parent_id": parent.__name__, "draw_settings": staticmethod(draw)},
        )
        for name, (label, draw) in ((name, _SUBPANELS[name]) for name in names)
    ]


class BGM_PT_compositor(MainPanel, CompositorPanel, bpy.types.Panel):
    bl_idname = "BGM_PT_compositor"


class BGM_PT_clip(MainPanel, ClipPanel, bpy.types.Panel):
    bl_idname = "BGM_PT_clip"


class SequencerPanel:
    bl_space_type = "SEQUENCE_EDITOR"
    bl_region_type = "UI"
    bl_category = "Matting"


class BGM_PT_sequencer(SequencerPanel, bpy.types.Panel):
    bl_label = "Background Matting"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return sequencer.active_strip(operators.sequencer_scene(context)) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        if draw_no_engine(layout, context):
            return
        tree = operators.shown_tree(context)
        if tree is None:
            strip = sequencer.active_strip(operators.sequencer_scene(context))
            if strip is not None and strip.type in sequencer.FOOTAGE:
                layout.operator("bgm.set_up_strip", icon="SEQUENCE")
            else:
                draw_text(layout, "Select a movie or image strip.", width=characters(context))
            return
        layout.use_property_split = True
        layout.use_property_decorate = False
        draw_plate_choice(layout, tree.bgm)
        if draw_progress(layout, tree):
            return
        row = layout.row()
        row.scale_y = 1.5
        row.operator("bgm.matte_strip", icon="RENDER_ANIMATION")
        if sequencer.has_cut_out(tree):
            layout.operator("bgm.add_strip", text="Add Existing Matte", icon="SEQUENCE").group = tree.name
        draw_outcome(layout, context, tree)


def draw_preferences(layout: bpy.types.UILayout, chosen: preferences.BGM_AP_preferences) -> None:
    """The engine's environment, what works, the device and the log."""
    context = bpy.context
    width = characters(context) - 8
    layout.use_property_split = True
    layout.use_property_decorate = False
    layout.prop(chosen, "engine_source", expand=True)
    if chosen.engine_source == "NAMED":
        layout.prop(chosen, "python")
    else:
        layout.prop(chosen, "torch_index")
    layout.prop(chosen, "device")

    box = layout.box()
    try:
        python = preferences.engine_python()
        draw_text(box, f"Python: {python}", "CONSOLE", width)  # whether it has the packages, the engine says
        heard = runner.heard_from(python)
    except UserError as error:
        draw_text(box, str(error), "ERROR", width)
        heard = False
    if not draw_progress(box):
        draw_engine_state(box, width, heard)
        row = box.row()
        row.operator("bgm.check_engine", icon="VIEWZOOM")
        if chosen.engine_source == "MADE":
            made = environment.is_made(preferences.environment_folder())
            row.operator("bgm.make_environment", text="Make Again" if made else "Make Environment...", icon="IMPORT")
            draw_offline(box, width)
    log_path = preferences.log_path()
    if log_path.exists():
        row = layout.row()
        row.label(text=f"Log: {log_path}")
        row.operator("wm.path_open", text="Open Log", icon="TEXT").filepath = str(log_path)


def draw_engine_state(layout: bpy.types.UILayout, width: int, heard: bool) -> None:
    """What the engine said of itself, or why it did not; of another Python's engine (not `heard`), nothing."""
    draw_not_made(layout, width)
    engine, task = runner.engine, runner.task
    if not heard:
        return
    if engine is not None:
        draw_text(
            layout, f"Engine {engine.version} on Python {engine.python}, PyTorch {engine.torch}", "CHECKMARK", width
        )
        for device in engine.devices:
            memory = f", {device['memory'] / 2**30:.0f} GB" if device.get("memory") else ""
            draw_text(layout, f"{device.get('name') or device['id']} ({device['id']}{memory})", "CHECKMARK", width)
        draw_text(
            layout, f"Models: {', '.join(engine.models) or 'none'}", "CHECKMARK" if engine.models else "ERROR", width
        )
    elif task is not None and task.state == "failed":
        draw_text(layout, task.message, "ERROR", width)


def draw_status_bar(self: bpy.types.Header, context: bpy.types.Context) -> None:
    if runner.busy():
        factor, _, title = runner.progress()
        row = self.layout.row(align=True)
        row.ui_units_x = 12
        row.progress(factor=factor, type="BAR", text=title)
        row.operator("bgm.cancel", text="", icon="X")


def draw_node_menu(self: bpy.types.Menu, context: bpy.types.Context) -> None:
    if context.space_data.tree_type == "CompositorNodeTree":
        self.layout.separator()
        self.layout.menu("BGM_MT_node_add")


def draw_strip_menu(self: bpy.types.Menu, context: bpy.types.Context) -> None:
    self.layout.separator()
    self.layout.operator("bgm.matte_strip", icon="RENDER_ANIMATION")


class BGM_MT_node_add(bpy.types.Menu):
    bl_label = "Matting"

    def draw(self, context: bpy.types.Context) -> None:
        self.layout.operator("bgm.add_node")


_register_classes, _unregister_classes = bpy.utils.register_classes_factory(
    (
        BGM_MT_node_add,
        BGM_PT_compositor,
        *subpanels(BGM_PT_compositor, CompositorPanel, *_SUBPANELS),
        BGM_PT_clip,
        *subpanels(BGM_PT_clip, ClipPanel, *_SUBPANELS),
        BGM_PT_sequencer,
        # Without masks, which only the compositor applies
        *subpanels(BGM_PT_sequencer, SequencerPanel, "plate", "output", "engine"),
    )
)
_DRAWN_INTO = {
    "NODE_MT_compositor_node_add_all": draw_node_menu,
    "SEQUENCER_MT_strip": draw_strip_menu,
    "STATUSBAR_HT_header": draw_status_bar,
}


def register() -> None:
    _register_classes()
    for name, draw in _DRAWN_INTO.items():
        getattr(bpy.types, name).append(draw)


def unregister() -> None:
    for name, draw in _DRAWN_INTO.items():
        getattr(bpy.types, name).remove(draw)
    _unregister_classes()
