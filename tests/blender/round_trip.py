# SPDX-License-Identifier: GPL-3.0-or-later
"""Put what the engine wrote over the original plate, straight and premultiplied, and render it beside the original."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import arguments, finish, render, size_scene


def new_tree(scene: bpy.types.Scene) -> tuple[bpy.types.NodeTree, bpy.types.NodeSocket]:
    """The scene's empty compositor tree, and the socket that is rendered."""
    if hasattr(scene, "compositing_node_group"):  # 5.0 on
        tree = bpy.data.node_groups.new("Compositor", "CompositorNodeTree")
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        scene.compositing_node_group = tree
        return tree, tree.nodes.new("NodeGroupOutput").inputs[0]
    scene.use_nodes = True
    scene.node_tree.nodes.clear()
    return scene.node_tree, scene.node_tree.nodes.new("CompositorNodeComposite").inputs[0]


def image_node(tree: bpy.types.NodeTree, path: str, space: str) -> bpy.types.Node:
    node = tree.nodes.new("CompositorNodeImage")
    node.image = bpy.data.images.load(path)
    node.image.colorspace_settings.name = space
    return node


def over(tree: bpy.types.NodeTree, plate: bpy.types.NodeSocket, image: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
    node = tree.nodes.new("CompositorNodeAlphaOver")
    colors = [socket for socket in node.inputs if socket.type == "RGBA"]  # background first, in every version
    tree.links.new(plate, colors[0])
    tree.links.new(image, colors[1])
    return node.outputs["Image"]


def main() -> None:
    args = arguments()
    folder = Path(args["folder"])
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    tree, output = new_tree(scene)
    renders = {}
    for case in args["cases"]:
        clip = tree.nodes.new("CompositorNodeMovieClip")
        clip.clip = bpy.data.movieclips.load(case["source"])
        clip.clip.colorspace_settings.name = case["space"]
        size_scene(scene, *clip.clip.size)
        plate = image_node(tree, case["plate"], case["plate_space"]).outputs["Image"]
        foreground = image_node(tree, case["foreground"], case["foreground_space"]).outputs["Image"]
        alpha = image_node(tree, case["alpha"], "Non-Color").outputs["Image"]
        cut = tree.nodes.new("CompositorNodeSetAlpha")
        if hasattr(cut, "mode"):
            cut.mode = "APPLY"
        else:  # 5.0 on
            cut.inputs["Type"].default_value = "Apply Mask"
        tree.links.new(foreground, cut.inputs["Image"])
        tree.links.new(alpha, cut.inputs["Alpha"])
        matte = image_node(tree, case["matte"], case["foreground_space"]).outputs["Image"]
        shown = {
            "original": clip.outputs["Image"],
            "straight": over(tree, plate, cut.outputs["Image"]),
            "premultiplied": over(tree, plate, matte),
        }
        for name, socket in shown.items():
            tree.links.new(socket, output)
            path = folder / f"{case['name']}.{name}.exr"
            renders[f"{case['name']} {name}"] = render(scene, 1, path)
    layered = image_node(tree, args["deliveries"]["multilayer"], "Linear Rec.709")
    movie = bpy.data.movieclips.load(args["deliveries"]["prores"])
    finish(
        renders=renders,
        kind=layered.image.type,
        layers=[socket.name for socket in layered.outputs if socket.enabled],
        movie=[*movie.size, movie.frame_duration, round(movie.fps, 3)],
    )


main()
