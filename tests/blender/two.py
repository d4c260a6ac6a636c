# SPDX-License-Identifier: GPL-3.0-or-later
"""One of two Blenders that have a node of the same footage and folder, and press the same buttons at the same time."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import error_of, finish, install, load_clip, matting_node


def main() -> None:
    args = install()
    folder, (first, last) = Path(args["folder"]), args["frames"]
    bpy.ops.bgm.add_node(clip=load_clip(args["footage"]).name)
    bgm = matting_node(bpy.context.scene).node_tree.bgm
    bgm.plate_source, bgm.output_folder = "NONE", str(folder / "results")
    bgm.frame_range, bgm.frame_first, bgm.frame_last = "CUSTOM", first, last
    (folder / f"ready {first}").touch()
    while len(list(folder.glob("ready *"))) < 2:
        time.sleep(0.01)
    said = [error_of(bpy.ops.bgm.matte_clip), bgm.status]
    bpy.context.scene.frame_set(first)
    said += [error_of(bpy.ops.bgm.matte_frame) for _ in range(10)]
    finish(said=said)


main()
