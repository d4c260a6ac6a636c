# SPDX-License-Identifier: GPL-3.0-or-later
"""The Matte panel of the node: in a new group, and in one that the version before it had built."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import connect, error_of, finish, half_mask, install, load_clip, matting_node, render, size_scene

DEFAULTS = {"Black Level": 0.0, "White Level": 1.0, "Dilate Size": 0, "Blur Size": 0.0}
BEFORE = (
    *("Clip", "Foreground Source", "Alpha Source", "Garbage Mask", "Core Mask", "Outside Garbage", "Cut Garbage"),
    *("Fill Core", "Clip in Core", "Premultiply", "Over Background", "Group Input", "Group Output"),
    *("Foreground", "Alpha Matte", "Expected Error"),
)


def make_old(tree: bpy.types.NodeTree) -> None:
    """Take out what the version before the panel did not build."""
    for source, end in (("Alpha Source", "As Number"), ("Foreground Source", "Clip beyond Foreground")):
        for target in [link.to_socket for link in tree.nodes[end].outputs[0].links if link.to_node.name in BEFORE]:
            tree.links.new(tree.nodes[source].outputs[0], target)
    for node in [node for node in tree.nodes if node.name not in BEFORE]:
        tree.nodes.remove(node)
    for name in (*DEFAULTS, "Matte"):
        tree.interface.remove(tree.interface.items_tree[name])


def main() -> None:
    args = install()
    folder = Path(args["folder"])
    scene = bpy.context.scene
    clip = load_clip(args["footage"])
    size_scene(scene, *clip.size)
    bpy.ops.bgm.add_node(clip=clip.name)
    node = matting_node(scene)
    node.node_tree.bgm.output_folder = str(folder / "results")
    assert not error_of(bpy.ops.bgm.use_results)
    result: dict = {"panel": node.node_tree.interface.items_tree["Matte"].default_closed}
    renders: dict = {}

    def shoot(name: str, frame: int = 3, outputs: tuple[str, ...] = ("Alpha",), **values: float) -> None:
        for control, default in DEFAULTS.items():
            node.inputs[control].default_value = values.get(control.split()[0], default)
        for output in outputs:
            connect(scene, node, output)
            renders[f"{name} {output}"] = render(scene, frame, folder / f"{name}.{output}.exr")

    everything = ("Image", "Alpha", "Foreground")
    shoot("new", outputs=everything)
    make_old(node.node_tree)
    for output in everything:
        connect(scene, node, output)
        renders[f"old {output}"] = render(scene, 3, folder / f"old.{output}.exr")
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "old.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(folder / "old.blend"))
    scene = bpy.context.scene
    node = matting_node(scene)
    result["values"] = [{name: node.inputs[name].default_value for name in DEFAULTS}]
    shoot("renewed", outputs=everything)

    shoot("levels", Black=0.2, White=0.7)
    shoot("threshold", Black=0.5, White=0.5)
    shoot("dilate", Dilate=3)
    shoot("erode", Dilate=-3)
    shoot("blur", Blur=4)
    shoot("grown", outputs=everything, Dilate=10, Blur=3)
    shoot("one by one", frame=4, Blur=4)
    shoot("all", Black=0.2, White=0.7, Dilate=2, Blur=4)
    make_old(node.node_tree)  # as one that is appended to an open file, and used
    node.node_tree.bgm.garbage_mask = half_mask("garbage", -1, 0.25)
    result["values"].append({name: node.inputs[name].default_value for name in DEFAULTS})
    node.node_tree.bgm.core_mask = half_mask("core", 0.75, 2)
    shoot("masked", Black=0.2, White=0.7, Dilate=2, Blur=4)
    finish(renders=renders, **result)


main()
