# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scripts share that run inside Blender: installing the built extension, loading footage, rendering.

Each script gets one JSON argument (the last) and prints one line `RESULT {...}`.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import bpy

MODULE = "bl_ext.user_default.bgm_matting"


def arguments() -> dict:
    return json.loads(sys.argv[-1])


def finish(**result: object) -> None:
    print("RESULT " + json.dumps(result), flush=True)


def install() -> dict:
    """Install and enable the built zip, in the scratch BLENDER_USER_RESOURCES; return the arguments, which name it."""
    args = arguments()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    assert bpy.ops.extensions.package_install_files(
        repo="user_default", filepath=args["zip"], enable_on_install=True, overwrite=True
    ) == {"FINISHED"}
    assert hasattr(bpy.ops.bgm, "matte_clip") and hasattr(bpy.types.NodeTree, "bgm")
    return args


def addon(name: str):  # noqa: ANN201
    """A module of the installed add-on."""
    return sys.modules[f"{MODULE}.bgm_blender_addon.{name}"]


def load_clip(path: str, frame_start: int = 1, frame_offset: int = 0) -> bpy.types.MovieClip:
    clip = bpy.data.movieclips.load(path)
    clip.frame_start, clip.frame_offset = frame_start, frame_offset
    return clip


def size_scene(scene: bpy.types.Scene, width: int, height: int) -> None:
    scene.render.resolution_x, scene.render.resolution_y = width, height
    scene.render.resolution_percentage = 100
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):  # 5.0 on
        settings.media_type = "IMAGE"
    settings.file_format = "OPEN_EXR"
    settings.color_mode, settings.color_depth = "RGBA", "32"


def render(scene: bpy.types.Scene, frame: int, path: Path) -> str:
    """Render a frame to a float EXR."""
    scene.frame_set(frame)
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    return str(path)


def connect(scene: bpy.types.Scene, node: bpy.types.Node, output: str) -> None:
    """Have the scene render one output of the matting node."""
    tree = node.id_data
    target = next(n for n in tree.nodes if n.bl_idname in {"CompositorNodeComposite", "NodeGroupOutput"}).inputs[0]
    tree.links.new(node.outputs[output], target)


def start_edit(folder: str, width: int, height: int) -> bpy.types.Scene:
    """The scene as a saved edit at 24 frames a second."""
    scene = bpy.context.scene
    scene.render.fps = 24
    bpy.ops.wm.save_as_mainfile(filepath=str(Path(folder) / "edit.blend"))
    size_scene(scene, width, height)
    return scene


def strips_of(scene: bpy.types.Scene):  # noqa: ANN201
    """The scene's strips, its sequencer made where there is none."""
    return (scene.sequence_editor or scene.sequence_editor_create()).strips


def matte_strip(scene: bpy.types.Scene, strip: bpy.types.Strip) -> list[bpy.types.Strip]:
    """Matte a strip by the operator; returns the strips that came of it."""
    strips = strips_of(scene)
    scene.sequence_editor.active_strip = strip
    before = set(strips)
    error = error_of(bpy.ops.bgm.matte_strip)
    assert not error, error
    return list(set(strips) - before)


def matting_node(scene: bpy.types.Scene) -> bpy.types.Node:
    tree = scene.compositing_node_group if hasattr(scene, "compositing_node_group") else scene.node_tree
    return next(node for node in tree.nodes if node.type == "GROUP" and "Matting" in node.node_tree.name)


def half_mask(name: str, left: float, right: float) -> bpy.types.Mask:
    """A mask over the full height, from a share of the width to another."""
    mask = bpy.data.masks.new(name)
    spline = mask.layers.new().splines.new()
    spline.points.add(3)
    spline.use_cyclic = True
    for point, (x, y) in zip(spline.points, ((left, -1), (right, -1), (right, 2), (left, 2)), strict=True):
        point.co = (x, y)
        point.handle_type = "VECTOR"
    return mask


class Drawn:
    """A layout that notes what is drawn into it: labels as [text, icon], operators by name."""

    def __init__(self) -> None:
        self.labels: list[list[str]] = []
        self.operators: list[str] = []

    def label(self, text: str = "", icon: str = "NONE") -> None:
        self.labels.append([text, icon])

    def operator(self, name: str, **look: object) -> "Drawn":
        self.operators.append(name)
        return self

    def __getattr__(self, name: str):  # noqa: ANN204
        """Rows, columns and boxes are the layout itself; properties are of no interest."""
        return lambda *args, **look: self


def outcome(tree: bpy.types.NodeTree) -> list[str]:
    """How the last run ended, as the panel draws it: the icon and the text."""
    layout = Drawn()
    addon("panels").draw_outcome(layout, bpy.context, tree)
    return ["".join(icon for _, icon in layout.labels[:1]), " ".join(text for text, _ in layout.labels)]


def draw_sequencer(scene: bpy.types.Scene) -> Drawn:
    """What the sequencer's panel shows for the active strip."""
    layout = Drawn()
    space, preferences = SimpleNamespace(type="SEQUENCE_EDITOR"), bpy.context.preferences
    context = SimpleNamespace(scene=scene, space_data=space, region=None, preferences=preferences)
    addon("panels").BGM_PT_sequencer.draw(SimpleNamespace(layout=layout), context)
    return layout


def error_of(operator, **arguments: object) -> str:  # noqa: ANN001
    """The sentence that an operator reports as its error."""
    try:
        operator(**arguments)
    except RuntimeError as error:
        return str(error).removeprefix("Error: ").strip()
    return ""
