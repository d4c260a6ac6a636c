# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators: each gathers its inputs, calls one function, and reports."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import bpy

from . import node, preferences, runner, sequencer, settings, tasks
from .errors import UserError

_NO_NODE = "There is no matting node. Add one in the compositor: Add > Matting."


def find_tree(context: bpy.types.Context, name: str = "") -> bpy.types.NodeTree:
    """The matting group that an operator is about: the named one, the one the editor shows, or the file's only one.

    Raises:
        UserError: there is none, or several and none is chosen.
    """
    shown = shown_tree(context)
    if shown is not None and name in ("", shown.name):  # a linked group may have the name of a local one
        return shown
    if name:
        tree = bpy.data.node_groups.get(name)
        if tree is None or not tree.bgm.is_matting:
            raise UserError(f"There is no matting node group named {name}.")
        return tree
    trees = settings.matting_trees()
    if len(trees) == 1:
        return trees[0]
    if not trees:
        raise UserError(_NO_NODE)
    raise UserError("There are several matting nodes. Select the one you mean.")


def shown_tree(context: bpy.types.Context) -> bpy.types.NodeTree | None:
    """The matting group that the current editor is about."""
    space = context.space_data
    if space is None:
        return None
    if space.type == "NODE_EDITOR" and space.edit_tree is not None:
        if space.edit_tree.bgm.is_matting:
            return space.edit_tree
        group = _active_group(space.edit_tree)
        return group if group is not None and group.bgm.is_matting else None
    if space.type == "CLIP_EDITOR" and space.clip is not None:
        compositor = node.find_compositor(context.scene)
        active = _active_group(compositor) if compositor is not None else None
        trees = (tree for tree in settings.matting_trees() if tree.bgm.clip == space.clip)
        return max(trees, key=lambda tree: tree == active, default=None)
    if space.type == "SEQUENCE_EDITOR":
        strip = sequencer.active_strip(sequencer_scene(context))
        return sequencer.find_group(strip) if strip is not None else None
    return None


def shown_scene(context: bpy.types.Context) -> bpy.types.Scene:
    """The scene whose compositor the current node editor shows, which may be a pinned one; else the window's."""
    space = context.space_data
    tree = space.node_tree if space is not None and space.type == "NODE_EDITOR" else None
    scenes = (context.scene, *bpy.data.scenes) if tree is not None else ()
    return next((scene for scene in scenes if node.find_compositor(scene) == tree), context.scene)


def _active_group(tree: bpy.types.NodeTree) -> bpy.types.NodeTree | None:
    """The group in a tree's active node."""
    active = tree.nodes.active
    return active.node_tree if active is not None and active.type == "GROUP" else None


def report_task(operator: bpy.types.Operator, begin: Callable[[], None]) -> set[str]:
    """Begin a task and say so; in `blender -b`, where it has ended by now, say how."""
    try:
        begin()
    except UserError as error:
        operator.report({"ERROR"}, str(error))
        return {"CANCELLED"}
    task = runner.task
    if task is None or task.running:
        when = "It begins when the jobs before it have ended" if runner.waiting else "Started"
        operator.report({"INFO"}, f"{when}; Blender stays usable meanwhile")
        return {"FINISHED"}
    for warning in task.warnings:
        operator.report({"WARNING"}, warning)
    if task.state == "failed":
        operator.report({"ERROR"}, task.message)
        return {"CANCELLED"}
    operator.report({"INFO"}, f"{task.title}: {task.message}")
    return {"FINISHED"} if task.state == "finished" else {"CANCELLED"}


def in_words(execute: Callable[[Any, bpy.types.Context], set[str]]) -> Callable[[Any, bpy.types.Context], set[str]]:
    """An operator's `execute` whose UserError is its report."""

    @wraps(execute)
    def reported(operator: Any, context: bpy.types.Context) -> set[str]:
        try:
            return execute(operator, context)
        except UserError as error:
            operator.report({"ERROR"}, str(error))
            return {"CANCELLED"}

    return reported


def is_free(operator: Any) -> bool:
    """Whether no job runs; else the greyed button says that one does."""
    if runner.busy():
        operator.poll_message_set("A job is running. Wait for it to end, or cancel it")
    return not runner.busy()


class GroupOperator:
    """An operator on a matting group, which scripts name and panels fill in."""

    group: bpy.props.StringProperty(
        name="Group",
        description="Name of the matting node group; empty: the one selected",
        options={"HIDDEN", "SKIP_SAVE"},
    )

    def begin(self, context: bpy.types.Context, tree: bpy.types.NodeTree) -> None:
        raise NotImplementedError

    def execute(self, context: bpy.types.Context) -> set[str]:
        return report_task(self, lambda: self.begin(context, self.editable_tree(context)))

    def editable_tree(self, context: bpy.types.Context) -> bpy.types.NodeTree:
        tree = find_tree(context, self.group)
        if not settings.is_own(tree):
            raise UserError(f"The group {tree.name} is linked from another file. Matte it there, or make it local.")
        tasks.check_idle(tree)
        node.sync_all()
        return tree


class BGM_OT_add_node(bpy.types.Operator):
    """Add a matting node to the compositor: footage and a clean plate in, alpha and foreground out"""

    bl_idname = "bgm.add_node"
    bl_label = "Background Matting"
    bl_options = {"REGISTER", "UNDO"}

    if TYPE_CHECKING:
        poll_message_set: Callable[[str], None]

    clip: bpy.props.StringProperty(
        name="Clip", description="Name of the movie clip to matte", options={"HIDDEN", "SKIP_SAVE"}
    )
    plate: bpy.props.StringProperty(
        name="Plate", description="Name of the clean plate's image", options={"HIDDEN", "SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        space = context.space_data
        if space is not None and space.type == "NODE_EDITOR" and space.tree_type != "CompositorNodeTree":
            cls.poll_message_set("This editor shows other nodes. Add matting nodes in the compositor")
            return False
        if getattr(space, "node_tree_sub_type", "") == "SEQUENCER" and space.edit_tree is None:  # from 5.0 on
            cls.poll_message_set("This strip has no compositor yet. Press New, or matte it in the sequencer's sidebar")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        clip = bpy.data.movieclips.get(self.clip)
        plate = bpy.data.images.get(self.plate)
        for kind, name, found in (("clip", self.clip, clip), ("image", self.plate, plate)):
            if name and found is None:
                self.report({"ERROR"}, f"There is no {kind} named {name} in this file.")
                return {"CANCELLED"}
        space = context.space_data
        if clip is None and space is not None and space.type == "CLIP_EDITOR":
            clip = space.clip
        shown = space.edit_tree if space is not None and space.type == "NODE_EDITOR" else None
        target = shown or node.find_compositor(context.scene) or context.scene
        if not target.is_editable:
            self.report({"ERROR"}, f"{target.name} is linked from another file. Add the node there, or make it local.")
            return {"CANCELLED"}
        group = node.new_group(clip)
        group.bgm.plate_image = plate
        if shown is not None:
            added = node.add_to_tree(shown, group)
            added.location = space.cursor_location
        else:
            added = node.add_to_scene(context.scene, group)
        node.view(added)
        if space is not None and space.type == "NODE_EDITOR":
            space.show_backdrop = True  # else no editor shows the viewer's picture
        return {"FINISHED"}

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        space = context.space_data
        if space is None or space.type != "NODE_EDITOR":
            return self.execute(context)
        if space.edit_tree is None:
            node.compositor_tree(context.scene)
        else:
            space.cursor_location_from_region(event.mouse_region_x, event.mouse_region_y)
        result = self.execute(context)
        if "FINISHED" in result and space.edit_tree is not None:
            bpy.ops.node.translate_attach_remove_on_cancel("INVOKE_DEFAULT")
        return result


class BGM_OT_matte_clip(GroupOperator, bpy.types.Operator):
    """Matte the chosen frames; those that are up to date are skipped"""

    bl_idname = "bgm.matte_clip"
    bl_label = "Matte Clip"

    def begin(self, context: bpy.types.Context, tree: bpy.types.NodeTree) -> None:
        tasks.matte(tree, shown_scene(context))


class BGM_OT_matte_all(bpy.types.Operator):
    """Matte the clips of all matting nodes in this file, one after the other"""

    bl_idname = "bgm.matte_all"
    bl_label = "Matte All Nodes"

    def execute(self, context: bpy.types.Context) -> set[str]:
        failed = False
        node.sync_all()
        trees = tasks.shown_trees()
        if not trees:
            self.report({"ERROR"}, _NO_NODE)
            return {"CANCELLED"}
        for tree in trees:
            if runner.task_of(tree) is None:
                name = tree.name
                try:
                    tasks.matte_in_its_scene(tree)
                    if runner.task is not None and not runner.task.pending:  # in `blender -b`, by now
                        for warning in runner.task.warnings:
                            self.report({"WARNING"}, f"{name}: {warning}")
                        if runner.task.state == "failed":
                            raise UserError(runner.task.message)
                except UserError as error:
                    failed = True
                    self.report({"ERROR"}, f"{name}: {error}")
        return {"CANCELLED"} if failed else {"FINISHED"}


class BGM_OT_matte_frame(GroupOperator, bpy.types.Operator):
    """Matte the current frame alone and show it as an image"""

    bl_idname = "bgm.matte_frame"
    bl_label = "Preview Frame"

    def begin(self, context: bpy.types.Context, tree: bpy.types.NodeTree) -> None:
        tasks.preview(tree, shown_scene(context), context.scene.frame_current)


class BGM_OT_make_plate(GroupOperator, bpy.types.Operator):
    """Estimate the empty background from the clip itself and use it as the clean plate"""

    bl_idname = "bgm.make_plate"
    bl_label = "Make Plate from Clip"

    def begin(self, context: bpy.types.Context, tree: bpy.types.NodeTree) -> None:
        tasks.make_plate(tree, shown_scene(context))


class BGM_OT_check_plate(GroupOperator, bpy.types.Operator):
    """Look for what spoils a matte: a plate that is shifted, exposed differently, or of another place"""

    bl_idname = "bgm.check_plate"
    bl_label = "Check Plate"

    def begin(self, context: bpy.types.Context, tree: bpy.types.NodeTree) -> None:
        tasks.check_plate(tree, shown_scene(context))


class BGM_OT_deliver(GroupOperator, bpy.types.Operator):
    """Make the chosen deliveries from the frames in the output folder, without matting again"""

    bl_idname = "bgm.deliver"
    bl_label = "Deliver Now"

    def begin(self, context: bpy.types.Context, tree: bpy.types.NodeTree) -> None:
        space = context.space_data
        is_edit = space is not None and space.type == "SEQUENCE_EDITOR"
        tasks.deliver(tree, sequencer_scene(context) if is_edit else shown_scene(context))


class BGM_OT_use_results(GroupOperator, bpy.types.Operator):
    """Show the results in the output folder, such as those of a farm or of another Blender"""

    bl_idname = "bgm.use_results"
    bl_label = "Load Results"
    bl_options = {"REGISTER", "UNDO"}

    @in_words
    def execute(self, context: bpy.types.Context) -> set[str]:
        tree = self.editable_tree(context)
        tasks.show_results(tree, settings.output_folder(tree.bgm))
        for words in node.incomplete_words(tree):
            self.report({"WARNING"}, words)
        first, last = tree.bgm.result_first, tree.bgm.result_last
        tree.bgm.say(f"Frame {first} loaded" if first == last else f"Frames {first} to {last} loaded", "green")
        self.report({"INFO"}, tree.bgm.status)
        return {"FINISHED"}


class BGM_OT_new_mask(GroupOperator, bpy.types.Operator):
    """Make a mask to draw, in the clip editor at once"""

    bl_idname = "bgm.new_mask"
    bl_label = "New Mask"
    bl_options = {"REGISTER", "UNDO"}

    kind: bpy.props.EnumProperty(
        items=[("garbage_mask", "Garbage", "What is background"), ("core_mask", "Core", "What is the subject")],
        options={"HIDDEN", "SKIP_SAVE"},
    )

    @in_words
    def execute(self, context: bpy.types.Context) -> set[str]:
        tree = self.editable_tree(context)
        mask = bpy.data.masks.new(f"{tree.name} {tree.bgm.bl_rna.properties[self.kind].name}")
        setattr(tree.bgm, self.kind, mask)
        space = context.space_data
        if space is not None and space.type == "CLIP_EDITOR":
            space.mode, space.mask = "MASK", mask
        return {"FINISHED"}


class BGM_OT_fit_scene(GroupOperator, bpy.types.Operator):
    """Give the scene the clip's resolution, frame rate and frame range"""

    bl_idname = "bgm.fit_scene"
    bl_label = "Set Scene to Clip"
    bl_options = {"REGISTER", "UNDO"}

    @in_words
    def execute(self, context: bpy.types.Context) -> set[str]:
        clip = find_tree(context, self.group).bgm.clip
        settings.check_clip(clip)
        settings.fit_scene(shown_scene(context), clip)
        return {"FINISHED"}


class BGM_OT_cancel(bpy.types.Operator):
    """Stop the job after its current frame, and keep what is finished; one that waits does not begin"""

    bl_idname = "bgm.cancel"
    bl_label = "Cancel"

    group: bpy.props.StringProperty(
        name="Group",
        description="Name of the matting node group whose job it is; empty: what runs now",
        options={"HIDDEN", "SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return runner.busy()

    @in_words
    def execute(self, context: bpy.types.Context) -> set[str]:
        runner.cancel(find_tree(context, self.group) if self.group else None)
        return {"FINISHED"}


class BGM_OT_check_engine(bpy.types.Operator):
    """Start the engine and say what works: its Python, its version, the devices it can use"""

    bl_idname = "bgm.check_engine"
    bl_label = "Check Engine"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return is_free(cls)

    def execute(self, context: bpy.types.Context) -> set[str]:
        return report_task(self, tasks.check_engine)


class BGM_OT_make_environment(bpy.types.Operator):
    """Download PyTorch and whatever else the engine needs into an environment of this extension's own"""

    bl_idname = "bgm.make_environment"
    bl_label = "Make Engine Environment"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not bpy.app.online_access:
            cls.poll_message_set(
                "Blender is offline. Switch on Preferences > System > Network > Allow Online Access, or name a Python "
                "that has the engine's packages"
            )
            return False
        return is_free(cls)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self, width=600, title=self.bl_label, confirm_text="Download")

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column(align=True)
        column.label(text="This downloads PyTorch and the engine's other packages from pypi.org and pytorch.org:")
        column.label(text="0.3 GB for computing on the processor, up to 3 GB for an NVIDIA card.")
        column.label(text="They go into a folder of this extension's own, apart from Blender's Python:")
        for line in textwrap.wrap(str(preferences.environment_folder()), 90):
            column.label(text=line)

    @in_words
    def execute(self, context: bpy.types.Context) -> set[str]:
        runner.make_environment()
        chosen = preferences.get()
        if chosen is not None:
            chosen.engine_source = "MADE"  # it is made to be used
        if runner.maker is not None and runner.maker.error:
            self.report({"ERROR"}, runner.maker.error)
            return {"CANCELLED"}
        return {"FINISHED"}


class BGM_OT_open_folder(GroupOperator, bpy.types.Operator):
    """Show the output folder in the system's file browser"""

    bl_idname = "bgm.open_folder"
    bl_label = "Open Output Folder"

    @in_words
    def execute(self, context: bpy.types.Context) -> set[str]:
        folder = node.matte_folder(find_tree(context, self.group))
        if not folder.is_dir():
            self.report({"ERROR"}, f"There is no folder {folder} yet. Matte the clip first.")
            return {"CANCELLED"}
        bpy.ops.wm.path_open(filepath=str(folder))
        return {"FINISHED"}


class BGM_OT_add_strip(GroupOperator, bpy.types.Operator):
    """Put the cut-out in the sequencer: over the strip that shows its clip, in sync, or on a channel of its own"""

    bl_idname = "bgm.add_strip"
    bl_label = "Add to Sequencer"
    bl_options = {"REGISTER", "UNDO"}

    @in_words
    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = sequencer_scene(context)
        tree = find_tree(context, self.group)
        active = sequencer.active_strip(scene)
        source = sequencer.source_strip(scene, tree, active.name if active else "")
        strip = sequencer.add_matte_strip(scene, tree, source)
        if source is not None:
            for words in [*sequencer.missing_words(tree, source), *sequencer.uncopied_words(scene, source, strip)]:
                self.report({"WARNING"}, words)
        self.report({"INFO"}, f"{strip.name} is on channel {strip.channel}")
        return {"FINISHED"}


class StripOperator:
    """An operator on the sequencer's active strip."""

    if TYPE_CHECKING:
        poll_message_set: Callable[[str], None]

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        strip = sequencer.active_strip(sequencer_scene(context))
        if strip is None or strip.type not in sequencer.FOOTAGE:
            cls.poll_message_set("No strip of footage is active. Select a movie or image strip in the sequencer")
            return False
        return True


class BGM_OT_set_up_strip(StripOperator, bpy.types.Operator):
    """Add matting settings for the active strip's footage: its clean plate, its output folder"""

    bl_idname = "bgm.set_up_strip"
    bl_label = "Set Up Matting"
    bl_options = {"REGISTER", "UNDO"}

    @in_words
    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = sequencer_scene(context)
        strip = sequencer.active_strip(scene)
        tree = sequencer.group_for_strip(scene, strip)
        for words in sequencer.color_space_words(strip, tree.bgm.clip):
            self.report({"WARNING"}, words)
        return {"FINISHED"}


class BGM_OT_matte_strip(StripOperator, bpy.types.Operator):
    """Matte the active strip's footage and put the cut-out over it, in sync; the strip itself is muted"""

    bl_idname = "bgm.matte_strip"
    bl_label = "Matte Strip"

    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = sequencer_scene(context)
        return report_task(self, lambda: tasks.matte_strip(scene, sequencer.active_strip(scene)))


def sequencer_scene(context: bpy.types.Context) -> bpy.types.Scene:
    """The scene whose strips the sequencer shows; from 5.0 on it may be another than the window's."""
    return getattr(context, "sequencer_scene", None) or context.scene


register, unregister = bpy.utils.register_classes_factory(
    (
        BGM_OT_add_node,
        BGM_OT_matte_clip,
        BGM_OT_matte_all,
        BGM_OT_matte_frame,
        BGM_OT_make_plate,
        BGM_OT_check_plate,
        BGM_OT_deliver,
        BGM_OT_use_results,
        BGM_OT_new_mask,
        BGM_OT_fit_scene,
        BGM_OT_cancel,
        BGM_OT_check_engine,
        BGM_OT_make_environment,
        BGM_OT_open_folder,
        BGM_OT_add_strip,
        BGM_OT_set_up_strip,
        BGM_OT_matte_strip,
    )
)
