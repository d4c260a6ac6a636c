# SPDX-License-Identifier: GPL-3.0-or-later
"""The matting node: a plain compositor group, built and wired here, that renders the same without this add-on.

No custom node class: Blender 4.5 and 5.0 crash on a file that holds one whose class is not registered.
Inside, results and masks only ever move the links into a few fixed nodes (two reroutes, the masks' nodes, the error
output); what an artist adds behind them stays.
"""

from __future__ import annotations

import json
import re
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any

import bpy

from . import footage, runner, settings
from .errors import UserError

CLIP = "Clip"
FOREGROUND = "Foreground"
ALPHA = "Alpha Matte"
ERROR = "Expected Error"
FOREGROUND_SOURCE = "Foreground Source"
ALPHA_SOURCE = "Alpha Source"
GARBAGE = "Garbage Mask"
CORE = "Core Mask"
INVERT_GARBAGE = "Outside Garbage"
CUT_GARBAGE = "Cut Garbage"
FILL_CORE = "Fill Core"
CORE_COLOR = "Clip in Core"
PREMULTIPLY = "Premultiply"
OVER = "Over Background"
BEYOND = "Clip beyond Foreground"
INPUT = "Group Input"
OUTPUT = "Group Output"
CONTROLS = "Matte Controls"
BLACK, WHITE, DILATE, BLUR = "Black Level", "White Level", "Dilate Size", "Blur Size"
_NODES = {CLIP, FOREGROUND_SOURCE, ALPHA_SOURCE, GARBAGE, CORE, INVERT_GARBAGE, FILL_CORE, CORE_COLOR, OUTPUT}

# The Matte panel's inputs: kind, default, least and most, and the tooltip
_CONTROLS: dict[str, tuple[str, float, float, float, str]] = {
    BLACK: ("Float", 0.0, 0.0, 1.0, "Alpha at or below this becomes 0"),
    WHITE: ("Float", 1.0, 0.0, 1.0, "Alpha at or above this becomes 1"),
    DILATE: (
        "Int",
        0,
        -32,
        32,
        "Grow the subject by this many pixels, or shrink it if negative. Beyond 8 pixels the clip's own colours show",
    ),
    BLUR: ("Float", 0.0, 0.0, 128.0, "Soften the edge over this many pixels on either side"),
}

# One colour space by Blender's name for it and by those of other OpenColorIO configurations
_SAME_SPACE = {"Linear Rec.709": ("Linear Rec.709", "Linear Rec.709 (sRGB)", "lin_rec709", "Utility - Linear - sRGB")}

_FIRST_OF_ALL = -1048574  # the lowest scene frame at which an image node can start

# Folder of a result: the node that shows it
RESULTS = {"foreground": FOREGROUND, "alpha": ALPHA, "error": ERROR}


def new_group(clip: bpy.types.MovieClip | None) -> bpy.types.NodeTree:
    """A matting group without results yet, which passes its clip through."""
    tree = bpy.data.node_groups.new("Matting", "CompositorNodeTree")
    tree.bgm.is_matting = True
    tree.bgm.output_folder = _own_folder(tree.name)
    sockets = tree.interface
    background = sockets.new_socket("Background", in_out="INPUT", socket_type="NodeSocketColor")
    background.default_value = (0.0, 0.0, 0.0, 0.0)
    background.description = "Goes behind the subject; left open, the image is the premultiplied subject alone"
    sockets.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    sockets.new_socket("Alpha", in_out="OUTPUT", socket_type="NodeSocketFloat")
    sockets.new_socket("Foreground", in_out="OUTPUT", socket_type="NodeSocketColor")
    sockets.new_socket("Error", in_out="OUTPUT", socket_type="NodeSocketFloat")
    tree.bgm.clip = clip  # which names the group and builds the inside
    return tree


def name_after_clip(tree: bpy.types.NodeTree) -> None:
    """Call a group and its folder what its clip is called, as long as nobody renamed either."""
    clip = tree.bgm.clip
    original = re.sub(r"\.\d{3}$", "", tree.name)  # of a copy, which has its folder
    # Compared as older versions named it, without accents
    own, folder = (bpy.path.clean_name(path) for path in (_own_folder(original)[:-1], tree.bgm.output_folder))
    if clip is not None and re.fullmatch(rf"{re.escape(own)}(_\d{{3}})?_", folder):
        name = f"Matting {footage.shot_name(settings.file_path(clip), clip.source == 'SEQUENCE')}"
        deleted = bpy.data.node_groups.get(name)  # perhaps: its node was, and its matte is to be found again
        if deleted is not None and not deleted.users and settings.is_own(deleted):
            deleted.name = f"{name} deleted"
        tree.name = name
        tree.bgm.output_folder = _own_folder(tree.name)


def _own_folder(name: str) -> str:
    """What a group of that name calls its folder: letters stay, Blender's own `clean_name` takes those with accents."""
    letters = unicodedata.normalize("NFC", name)  # macOS keeps accents apart
    return f"//matting/{''.join(c if c.isalpha() else bpy.path.clean_name(c) for c in letters)}/"


def add_to_scene(scene: bpy.types.Scene, group: bpy.types.NodeTree) -> bpy.types.Node:
    """Put a node with the group into the scene's compositor, which is made where there is none, and return it."""
    tree = compositor_tree(scene)
    node = add_to_tree(tree, group)
    target = output_socket(tree)
    if target is not None and not target.is_linked:
        tree.links.new(node.outputs["Image"], target)
        node.location = (target.node.location.x - 260.0, target.node.location.y)
    return node


def add_to_tree(tree: bpy.types.NodeTree, group: bpy.types.NodeTree) -> bpy.types.Node:
    """A group node, selected and active."""
    node = tree.nodes.new("CompositorNodeGroup")
    node.node_tree = group
    node.label = "Matting"
    node.width = 200.0
    for other in tree.nodes:
        other.select = other == node
    tree.nodes.active = node
    return node


def view(node: bpy.types.Node) -> None:
    """Have a node's picture shown in backdrop and image editor, unless the tree's viewer shows another."""
    tree = node.id_data
    viewer = next((other for other in tree.nodes if other.bl_idname == "CompositorNodeViewer"), None)
    if viewer is None:
        viewer = tree.nodes.new("CompositorNodeViewer")
        viewer.select = False
        viewer.location = (node.location.x + 260.0, node.location.y - 160.0)
        tree.nodes.active = node
    if not viewer.inputs["Image"].is_linked:
        tree.links.new(node.outputs["Image"], viewer.inputs["Image"])


def find_compositor(scene: bpy.types.Scene) -> bpy.types.NodeTree | None:
    """The scene's compositor tree, where it has one."""
    return scene.compositing_node_group if hasattr(scene, "compositing_node_group") else scene.node_tree  # from 5.0 on


def compositor_tree(scene: bpy.types.Scene) -> bpy.types.NodeTree:
    """The scene's compositor tree; made, with an output, where there is none."""
    tree = find_compositor(scene)
    if hasattr(scene, "compositing_node_group"):  # 5.0 on
        if tree is None:
            tree = bpy.data.node_groups.new("Compositor", "CompositorNodeTree")
            tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
            tree.nodes.new("NodeGroupOutput")
            scene.compositing_node_group = tree
        return tree
    scene.use_nodes = True
    if tree is None:
        scene.node_tree.nodes.clear()
        scene.node_tree.nodes.new("CompositorNodeComposite")
    return scene.node_tree


def output_socket(tree: bpy.types.NodeTree) -> bpy.types.NodeSocket | None:
    """The socket whose picture the scene renders."""
    outputs = [node for node in tree.nodes if node.bl_idname in {"CompositorNodeComposite", "NodeGroupOutput"}]
    # Of several group outputs one is active; 4.5 does not say which of its own is
    outputs.sort(key=lambda node: not getattr(node, "is_active_output", False))
    return next((node.inputs[0] for node in outputs if node.inputs), None)


def update_sources(tree: bpy.types.NodeTree) -> None:
    """Bring the group's clip, frame mapping and links up to date with its settings.

    Raises:
        UserError: as `check_inside`.
    """
    if not tree.nodes:
        _build(tree)
    check_inside(tree)
    _add_controls(tree)
    nodes, links = tree.nodes, tree.links
    clip = tree.bgm.clip
    nodes[CLIP].clip = clip
    shown = {folder: nodes[name] for folder, name in RESULTS.items() if name in nodes}
    _follow(tree)
    if not are_of_clip(tree):
        shown = {}  # of what was here before, and may be again
    alpha = shown.get("alpha")
    foreground = shown.get("foreground") if alpha else None
    links.new((foreground or nodes[CLIP]).outputs["Image"], nodes[FOREGROUND_SOURCE].inputs[0])
    links.new(alpha.outputs["Image"] if alpha else nodes[CLIP].outputs["Alpha"], nodes[ALPHA_SOURCE].inputs[0])
    error, unsure = shown.get("error"), nodes[OUTPUT].inputs.get("Error")
    if unsure is not None:  # the output is the artist's to rename and delete
        _link(tree, error.outputs["Image"] if error else None, unsure)
    garbage, core = nodes[GARBAGE], nodes[CORE]
    garbage.mask, core.mask = tree.bgm.garbage_mask, tree.bgm.core_mask
    if clip is not None:
        _size_masks(tree, settings.clip_size(clip))
    _link(tree, garbage.outputs["Mask"] if garbage.mask else None, nodes[INVERT_GARBAGE].inputs[1])
    for socket in (nodes[FILL_CORE].inputs[1], _factor(nodes[CORE_COLOR])):
        _link(tree, core.outputs["Mask"] if core.mask else None, socket)


def check_inside(tree: bpy.types.NodeTree) -> None:
    """Raise UserError where a node that results and masks are linked to has been deleted or renamed."""
    if missing := ", ".join(sorted(_NODES - set(tree.nodes.keys()))):
        raise UserError(
            f"Inside the group {tree.name} the nodes {missing} are missing: they were deleted or renamed. Restore "
            "them, or add a new matting node."
        )


def wire_results(tree: bpy.types.NodeTree, folder: Path) -> None:
    """Show the images of an output folder in the group.

    Raises:
        UserError: the group has no clip, the folder no alpha, or that of other footage; or as `check_inside`.
    """
    bgm = tree.bgm
    if bgm.clip is None:  # which says when they are shown
        raise UserError("There is no clip. Choose the footage that the matte is of.")
    check_inside(tree)
    check_matte(folder)
    settings.check_folder(folder, settings.file_path(bgm.clip))
    found = {name: find_sequence(folder / name) for name in RESULTS}
    for name in {*_incomplete(folder, found["alpha"]), *_switched_off(bgm)}:
        found[name] = []
    for name, files in found.items():
        node = tree.nodes.get(RESULTS[name])
        if not files:
            if node is not None:
                tree.nodes.remove(node)
            continue
        if node is None:
            node = tree.nodes.new("CompositorNodeImage")
            node.name = node.label = RESULTS[name]
            node.location = (-560.0, {"foreground": 0.0, "alpha": -320.0, "error": -640.0}[name])
        node.image = _load_sequence(node.image, files[0], f"{tree.name} {RESULTS[name]}")
        set_color_space(node.image, color_space(name, files[0], bgm.clip))
    bgm.result_clip, bgm.result_path = bgm.clip, bgm.clip.filepath
    bgm.result_size = settings.file_size(bgm.clip)
    bgm.result_first = footage.file_number(found["alpha"][0])
    bgm.result_last = footage.file_number(found["alpha"][-1])
    update_sources(tree)


def _switched_off(bgm: settings.BGM_PG_matting) -> list[str]:
    """The results that the settings do without; their images may lie there still."""
    return [name for name in RESULTS if not getattr(bgm, f"use_{name}", True)]


def _incomplete(folder: Path, alphas: list[Path]) -> list[str]:
    """The results that were switched off when some of these frames were made: those would be without any colours."""
    numbers = set(map(footage.file_number, alphas))
    kinds = [kind for number, kind in made_with(folder).items() if number in numbers]
    return [name for name in RESULTS if name != "alpha" and any(name not in kind for kind in kinds)]


def made_with(folder: Path) -> dict[int, set[str]]:
    """By frame number, with which results it was made; files of others that lie there still are of an older matte."""
    try:
        frames = json.loads((folder / "report.json").read_text(encoding="utf-8"))["frames"]
        return {each["frame_number"]: {file.split("/")[0] for file in each["files"]} for each in frames}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}  # no job has come to its end


def incomplete_words(tree: bpy.types.NodeTree) -> list[str]:
    """That the group shows no foreground or error, though its settings ask for them; nothing where it does."""
    results = {"use_foreground": FOREGROUND, "use_error": ERROR}
    names = [name for name, node in results.items() if getattr(tree.bgm, name) and node not in tree.nodes]
    labels = " and ".join(tree.bgm.bl_rna.properties[name].name for name in names)
    if not labels:
        return []
    return [
        f"Some of the finished frames were made without {labels}, so the node does without for all. Matte the whole "
        f"clip with {labels} on: only what is missing is made."
    ]


def are_of_clip(tree: bpy.types.NodeTree) -> bool:
    """Whether the group's results are of what its clip shows, which may have been given another file since."""
    bgm, folder = tree.bgm, result_folder(tree)
    if bgm.result_clip not in (bgm.clip, None):
        return False
    if bgm.clip is None or folder is None or bgm.clip.filepath == bgm.result_path:
        return True
    path = settings.file_path(bgm.clip)
    try:
        settings.check_folder(folder, path)
    except UserError:
        return False
    # The file before may be gone: what has moved or was copied, which need not keep its time, has its name and size
    has_name, size = bpy.path.basename(bgm.result_path) in ("", path.name), settings.file_size(bgm.clip)
    return has_name and (not size or bgm.result_size in ("", size))


def result_folder(tree: bpy.types.NodeTree) -> Path | None:
    """The output folder whose images the group shows; found by its alpha, whose path Blender keeps when files move."""
    alpha = tree.nodes.get(ALPHA)
    if alpha is None or alpha.image is None:
        return None
    return settings.file_path(alpha.image).parent.parent


def matte_folder(tree: bpy.types.NodeTree) -> Path:
    """The output folder; as long as no matte is there, as after Save As elsewhere, that of the matte that is shown.

    Raises:
        UserError: as `settings.output_folder`.
    """
    folder = settings.output_folder(tree.bgm)
    shown = result_folder(tree) if are_of_clip(tree) else None
    return shown if shown is not None and not find_sequence(folder / "alpha") else folder


def check_matte(folder: Path) -> None:
    """Raise UserError where an output folder holds no matte."""
    if not find_sequence(folder / "alpha"):
        raise UserError(f"There is no matte in {folder} yet. Matte the clip first.")


def find_sequence(folder: Path) -> list[Path]:
    """The finished images in a result's folder, by number; of two formats, the one written last."""
    try:
        files = [path for path in folder.iterdir() if re.fullmatch(r"[a-z]+\.\d+\.(png|exr)", path.name)]
    except OSError:
        return []
    if len({path.suffix for path in files}) > 1:
        newest = max(files, key=lambda path: path.stat().st_mtime)
        files = [path for path in files if path.suffix == newest.suffix]
    return sorted(files, key=footage.file_number)


def delivery_words(tree: bpy.types.NodeTree) -> list[str]:
    """That deliveries are without what is done to the matte in the node; nothing where they are the same."""
    sockets = [(node.inputs.get(name), values[1]) for node in _group_nodes(tree) for name, values in _CONTROLS.items()]
    is_finished = any(
        socket and (socket.is_linked or is_animated(socket) or socket.default_value != default)
        for socket, default in sockets
    )
    if not tree.bgm.deliver or not (is_finished or tree.bgm.garbage_mask or tree.bgm.core_mask):
        return []
    return [
        "Deliveries have the engine's matte, without this node's Matte panel and masks: for those, render the node."
    ]


def _group_nodes(tree: bpy.types.NodeTree) -> list[bpy.types.Node]:
    """The nodes that hold a group, in every tree of the file."""
    users = {*bpy.data.node_groups, *filter(None, map(find_compositor, bpy.data.scenes))}
    return [node for user in users for node in user.nodes if node.type == "GROUP" and node.node_tree == tree]


def is_animated(part: bpy.types.Strip | bpy.types.NodeSocket) -> bool:
    """Whether any property of a strip or a socket has keyframes or a driver."""
    animation = part.id_data.animation_data
    if animation is None:
        return False
    layers = animation.action.layers if animation.action is not None else ()
    bags = (bag for layer in layers for each in layer.strips for bag in each.channelbags)
    curves = [*animation.drivers, *(curve for bag in bags for curve in bag.fcurves)]
    return any(curve.data_path.startswith(f"{part.path_from_id()}.") for curve in curves)


def sync_all(*_: Any) -> None:
    """Before saving and rendering: groups follow what scripts did to their clips, and longer or larger footage."""
    if not bpy.app.is_job_running("RENDER"):  # of which this is a thread, and no place for an undo step
        follow_files()  # Blender tells nobody of Remap Users, nor of a file that a script gives a clip in `blender -b`
    for tree in settings.matting_trees():
        if tree.library is None:
            _follow(tree)
            if tree.bgm.clip is not None and settings.is_size_known(tree.bgm.clip):
                _size_masks(tree, tuple(tree.bgm.clip.size))


def move_all(*_: Any) -> None:
    """After a clip was moved in time: its groups follow. Quick, for a slider or an undo: no look at the disk."""
    for tree in settings.matting_trees():
        if tree.library is None and tree.bgm.clip is not None:
            _set_frames(tree, {"frame_start": _start(tree.bgm.clip)})


def follow_files() -> None:
    """After a clip was given another file: its groups take it for another clip, or for the one that they know."""
    trees = [tree for tree in settings.matting_trees() if settings.is_own(tree) and ALPHA in tree.nodes]
    changed = [tree for tree in trees if tree.nodes[ALPHA].outputs["Image"].is_linked != are_of_clip(tree)]
    for tree in changed:
        tree.bgm.clip = tree.bgm.clip
    if changed:
        runner.push_undo("Follow the clip's file", needed=True)


def renew_all(*_: Any) -> None:
    """After loading: groups of older versions get what this one adds, those of a newer Blender what this one lost."""
    _watch_clips()  # until the next file is loaded
    for tree in settings.matting_trees():
        if settings.is_own(tree) and _NODES <= set(tree.nodes.keys()):
            _add_controls(tree)
            if bpy.app.version < (5, 0) <= bpy.data.version:
                _relink_colors(tree)


def _relink_colors(tree: bpy.types.NodeTree) -> None:
    """Link the colours of Alpha Over nodes again, whose sockets 5.0 renamed: before it, Blender does not know them."""
    nodes = tree.nodes
    for over, under, above in (
        (BEYOND, FOREGROUND_SOURCE, CLIP),
        (CORE_COLOR, BEYOND, CLIP),
        (OVER, INPUT, PREMULTIPLY),
    ):
        if {over, under, above} <= set(nodes.keys()):
            for name, socket in zip((under, above), _colors(nodes[over]), strict=True):
                if not socket.is_linked:
                    tree.links.new(nodes[name].outputs[0], socket)


def _build(tree: bpy.types.NodeTree) -> None:
    """The group's inside without its controls, from nothing."""
    links = tree.links
    tree.nodes.clear()
    add, math = partial(_add, tree), partial(_add_math, tree)

    clip = add("CompositorNodeMovieClip", CLIP, -560.0, 320.0)
    foreground_source = add("NodeReroute", FOREGROUND_SOURCE, -240.0, 0.0)
    alpha_source = add("NodeReroute", ALPHA_SOURCE, -240.0, -320.0)
    garbage = add("CompositorNodeMask", GARBAGE, -560.0, -960.0)
    core = add("CompositorNodeMask", CORE, -560.0, -1240.0)
    for mask in (garbage, core):
        if hasattr(mask, "size_source"):
            mask.size_source = "FIXED"
        else:  # 5.0 on
            mask.inputs["Size Source"].default_value = "Fixed"
    keep = math("SUBTRACT", INVERT_GARBAGE, -140.0, -640.0, 1.0, 0.0)
    cut = math("MULTIPLY", CUT_GARBAGE, 80.0, -480.0, alpha_source.outputs[0], keep)
    alpha = math("MAXIMUM", FILL_CORE, 300.0, -480.0, cut, 0.0)
    foreground = add("CompositorNodeAlphaOver", CORE_COLOR, -140.0, 0.0)
    premultiply = add("CompositorNodeSetAlpha", PREMULTIPLY, 520.0, 160.0)
    _set_mode(premultiply, "APPLY", "Apply Mask")
    over = add("CompositorNodeAlphaOver", OVER, 740.0, 200.0)
    group_input = add("NodeGroupInput", INPUT, 520.0, 360.0)
    group_output = add("NodeGroupOutput", OUTPUT, 960.0, 100.0)

    links.new(clip.outputs["Image"], foreground_source.inputs[0])
    links.new(clip.outputs["Alpha"], alpha_source.inputs[0])
    links.new(foreground_source.outputs[0], _colors(foreground)[0])
    links.new(clip.outputs["Image"], _colors(foreground)[1])
    _factor(foreground).default_value = 0.0
    links.new(foreground.outputs[0], premultiply.inputs["Image"])
    links.new(alpha, premultiply.inputs["Alpha"])
    links.new(group_input.outputs["Background"], _colors(over)[0])
    links.new(premultiply.outputs["Image"], _colors(over)[1])
    links.new(over.outputs["Image"], group_output.inputs["Image"])
    links.new(alpha, group_output.inputs["Alpha"])
    links.new(foreground.outputs[0], group_output.inputs["Foreground"])


def _add_controls(tree: bpy.types.NodeTree) -> None:
    """The Matte panel, and behind the two reroutes the nodes that do what it says; in a group that has none yet.

    Where its inputs have their defaults, every bit of the outputs is what it is without it.
    """
    interface, nodes, links = tree.interface, tree.nodes, tree.links
    if CONTROLS in nodes or BLACK in interface.items_tree:  # the inputs are the artist's to rename and delete
        return
    panel = interface.new_panel("Matte", default_closed=True)
    for name, (kind, default, least, most, description) in _CONTROLS.items():
        socket = interface.new_socket(
            name, description=description, in_out="INPUT", socket_type=f"NodeSocket{kind}", parent=panel
        )
        socket.default_value, socket.min_value, socket.max_value = default, least, most
        if most == 1.0:
            socket.subtype = "FACTOR"
    for node in _group_nodes(tree):
        node.inputs[WHITE].default_value = 1.0  # it came to be before the socket had a default

    add, math = partial(_add, tree), partial(_add_math, tree)
    alpha, colors = nodes[ALPHA_SOURCE].outputs[0], nodes[FOREGROUND_SOURCE].outputs[0]
    behind = [[link.to_socket for link in source.links] for source in (alpha, colors)]
    controls = add("NodeGroupInput", CONTROLS, -240.0, 1100.0).outputs

    lowest = math("SUBTRACT", "Just Below White", 0.0, 1100.0, controls[WHITE], 1e-6)
    black = math("MINIMUM", BLACK, 200.0, 1100.0, controls[BLACK], lowest)  # white decides where black is not below it
    levels = add("ShaderNodeMapRange", "Levels", 400.0, 1100.0)
    dilate = add("CompositorNodeDilateErode", "Dilate", 600.0, 1100.0)
    _set_mode(dilate, "DISTANCE", "Distance")
    blur = add("CompositorNodeBlur", "Blur", 800.0, 1100.0)
    # Blender's own way from a colour back to a number is an average of three, which rounds
    number = add("CompositorNodeSeparateColor", "As Number", 1000.0, 1100.0)
    for source, target in (
        (alpha, levels.inputs[0]),
        (black, levels.inputs[1]),
        (controls[WHITE], levels.inputs[2]),
        (levels.outputs[0], dilate.inputs["Mask"]),
        (controls[DILATE], dilate.inputs["Size"]),
        (dilate.outputs[0], blur.inputs["Image"]),
        (controls[BLUR], blur.inputs["Size"]),
        (blur.outputs[0], number.inputs[0]),
    ):
        links.new(source, target)

    # Where alpha has grown beyond the foreground's colours, which are black some pixels away from the subject
    known = math("MAXIMUM", "Known", 200.0, 760.0, colors, alpha)
    share = math("MULTIPLY", "A Share of Alpha", 400.0, 760.0, number.outputs[0], 1e-6)
    unknown = math("LESS_THAN", "Unknown", 600.0, 760.0, known, share)
    over = add("CompositorNodeAlphaOver", BEYOND, 800.0, 760.0)
    links.new(colors, _colors(over)[0])
    links.new(nodes[CLIP].outputs["Image"], _colors(over)[1])
    links.new(unknown, _factor(over))

    for source, targets in zip((number.outputs[0], over.outputs[0]), behind, strict=True):
        for target in targets:
            links.new(source, target)


def _add(tree: bpy.types.NodeTree, kind: str, name: str, x: float, y: float) -> bpy.types.Node:
    node = tree.nodes.new(kind)
    node.name = node.label = name
    node.location = (x, y)
    return node


def _add_math(
    tree: bpy.types.NodeTree,
    operation: str,
    name: str,
    x: float,
    y: float,
    *values: float | bpy.types.NodeSocket,
) -> bpy.types.NodeSocket:
    """The output of a new Math node with these values, or links from these sockets."""
    node = _add(tree, "ShaderNodeMath", name, x, y)
    node.operation = operation
    for socket, value in zip(node.inputs, values, strict=False):
        if isinstance(value, float):
            socket.default_value = value
        else:
            tree.links.new(value, socket)
    return node.outputs[0]


def _set_mode(node: bpy.types.Node, mode: str, label: str) -> None:
    if hasattr(node, "mode"):
        node.mode = mode
    else:  # 5.0 on
        node.inputs["Type"].default_value = label


def _link(tree: bpy.types.NodeTree, source: bpy.types.NodeSocket | None, target: bpy.types.NodeSocket) -> None:
    """Have `target` fed by `source` alone; by nothing where that is None."""
    for link in list(target.links):
        tree.links.remove(link)
    if source is not None:
        tree.links.new(source, target)


def _colors(over: bpy.types.Node) -> list[bpy.types.NodeSocket]:
    """Background and foreground of an Alpha Over node; named otherwise before 5.0."""
    return [socket for socket in over.inputs if socket.type == "RGBA"]


def _factor(over: bpy.types.Node) -> bpy.types.NodeSocket:
    return next(socket for socket in over.inputs if socket.identifier == "Fac")


def _follow(tree: bpy.types.NodeTree) -> None:
    """Have the results' nodes show, at every scene frame, the file with the number of the clip's frame."""
    clip = tree.bgm.clip
    if clip is None or ALPHA not in tree.nodes:
        return
    path = settings.file_path(clip)
    first = footage.first_number(clip, path)
    last = max(footage.last_number(clip, path), tree.bgm.result_last)  # while the footage is out of reach, too
    # One more than there are: Blender holds the last frame for ever, and the missing file is transparent
    duration = 1 if footage.is_still(clip, path) else last - first + 2
    values = {"frame_start": _start(clip), "frame_offset": first - 1, "frame_duration": duration, "use_cyclic": False}
    if first == 0:  # before the start Blender looks for number -1, and takes 0 for it; in a long cycle, for a high one
        values |= {"frame_duration": settings.LAST_SHOWN, "use_cyclic": True}
    _set_frames(tree, values)


def _start(clip: bpy.types.MovieClip) -> int:
    """The scene frame from which on the first of a clip's frames is shown."""
    path = settings.file_path(clip)
    if footage.is_still(clip, path):
        return _FIRST_OF_ALL
    return footage.to_scene(clip, path, footage.first_number(clip, path))


def _set_frames(tree: bpy.types.NodeTree, values: dict[str, int]) -> None:
    for node in filter(None, map(tree.nodes.get, RESULTS.values())):
        for name, value in values.items():
            if node.image is not None and getattr(node, name) != value:  # setting it starts a new composite
                setattr(node, name, value)


def _size_masks(tree: bpy.types.NodeTree, size: tuple[int, int]) -> None:
    """Have the masks be as large as the clip's frames."""
    for node in filter(None, map(tree.nodes.get, (GARBAGE, CORE))):
        for name, length in zip(("Size X", "Size Y"), size, strict=True):
            if node.inputs[name].default_value != length:  # setting it starts a new composite
                node.inputs[name].default_value = length


def _load_sequence(image: bpy.types.Image | None, path: Path, name: str) -> bpy.types.Image:
    is_shared = image is not None and image.users - image.use_fake_user > 1  # by a copy of the group, say
    is_other = is_shared and settings.file_path(image).parent != path.parent
    if image is None or is_other or not image.is_editable:  # linked: the group alone has been made local
        image = bpy.data.images.load(str(path))
        image.name = name
    image.source = "SEQUENCE"
    image.filepath = storable(path)
    image.reload()
    return image


def storable(path: Path) -> str:
    """Relative to the saved .blend file, so that both can move together."""
    if not bpy.data.filepath:
        return str(path)
    try:
        return bpy.path.relpath(str(path))
    except ValueError:  # another drive on Windows
        return str(path)


def color_space(result: str, path: Path, clip: bpy.types.MovieClip | None) -> str:
    """Alpha and error are data; a foreground is encoded as its clip is, but an EXR one is always scene-linear."""
    if result != "foreground":
        return "Non-Color"
    if path.suffix == ".exr" and not (clip and settings.is_scene_linear(clip)):
        return "Linear Rec.709"
    return clip.colorspace_settings.name if clip else "sRGB"


def set_color_space(datablock: bpy.types.Image | bpy.types.Strip, name: str) -> None:
    """Say how an image or strip is encoded; `name` as `color_space` gives it.

    Raises:
        UserError: the OpenColorIO configuration has no such space.
    """
    encoding = datablock.colorspace_settings
    if name == "Non-Color":
        encoding.is_data = True  # whatever the configuration calls it
        return
    for known in _SAME_SPACE.get(name, (name,)):
        try:
            encoding.name = known
        except TypeError:
            continue
        return
    raise UserError(f"The OpenColorIO configuration has no colour space {name}, which the matte's images need.")


def _watch_clips() -> None:
    bpy.msgbus.clear_by_owner(_HANDLERS)
    for name, notify in (("filepath", follow_files), ("frame_start", move_all), ("frame_offset", move_all)):
        bpy.msgbus.subscribe_rna(key=(bpy.types.MovieClip, name), owner=_HANDLERS, args=(), notify=notify)


def register() -> None:
    for handlers, handler in _HANDLERS:
        handlers.append(handler)
    _watch_clips()


def unregister() -> None:
    bpy.msgbus.clear_by_owner(_HANDLERS)
    for handlers, handler in _HANDLERS:
        handlers.remove(handler)


_HANDLERS = (
    (bpy.app.handlers.save_pre, bpy.app.handlers.persistent(sync_all)),
    (bpy.app.handlers.render_init, bpy.app.handlers.persistent(sync_all)),
    (bpy.app.handlers.undo_post, bpy.app.handlers.persistent(move_all)),
    (bpy.app.handlers.redo_post, bpy.app.handlers.persistent(move_all)),
    (bpy.app.handlers.load_post, bpy.app.handlers.persistent(renew_all)),
)
