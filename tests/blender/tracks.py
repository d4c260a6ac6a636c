# SPDX-License-Identifier: GPL-3.0-or-later
"""Plane tracks and stabilization tracks with known motion, and what the add-on makes of them."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
from common import addon, error_of, finish, install, load_clip, matting_node, size_scene

SHIFT = (3.0, -2.0)  # pixels that the background moves a frame, right and down


def main() -> None:
    args = install()
    folder = Path(args["folder"])
    scene = bpy.context.scene
    clip = load_clip(args["footage"], frame_start=5, frame_offset=2)
    width, height = clip.size
    size_scene(scene, width, height)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "tracks.blend"))

    points = [(10.0, 8.0), (50.0, 10.0), (48.0, 36.0), (12.0, 34.0)]  # pixels at clip frame 1, from the top left
    for i, (x, y) in enumerate(points):
        track = clip.tracking.tracks.new(name=f"Track {i}", frame=1)
        for frame in range(1, 9):
            at = x + SHIFT[0] * (frame - 1), y + SHIFT[1] * (frame - 1)
            track.markers.insert_frame(frame, co=((at[0] + 0.5) / width, 1 - (at[1] + 0.5) / height))
    ours = addon("tracks")
    result = {}
    bpy.ops.bgm.add_node(clip=clip.name)
    bgm = matting_node(scene).node_tree.bgm
    bgm.plate_source = "FROM_CLIP"
    bgm.plate_motion = "STABILIZATION"
    bgm.plate_frame = 5  # clip frame 1
    bgm.frame_range = "CUSTOM"
    bgm.frame_first, bgm.frame_last = 5, 8
    result["nothing tracked"] = error_of(bpy.ops.bgm.matte_clip)
    # Tracks join the stabilization by an operator of the clip editor alone; the same function is given them here
    stabilized = type("Clip", (), {"tracking": type("T", (), {"stabilization": type("S", (), {})})})
    stabilized.tracking.stabilization.tracks = list(clip.tracking.tracks)
    stabilized.tracking.camera = clip.tracking.camera
    matrix = ours.homography(stabilized, (width, height), "STABILIZATION", "", 1, 4)
    result["stabilization"] = matrix.ravel().tolist()
    corners = [[(x + 0.5) / width, 1 - (y + 0.5) / height] for x, y in points]
    moved = [[(x + 9.5) / width, 1 - (y - 6 + 0.5) / height] for x, y in points]
    import numpy as np

    pixels = [ours._pixels((width, height), np.array(quad)) for quad in (moved, corners)]
    result["plane"] = ours._from_corners(*pixels).ravel().tolist()
    bgm.plate_motion = "PLANE"
    result["no plane"] = error_of(bpy.ops.bgm.matte_clip)
    bgm.plate_motion = "CAMERA"
    result["no camera"] = error_of(bpy.ops.bgm.matte_clip)
    result["files"] = json.dumps(sorted(p.name for p in folder.rglob("track.json")))

    # A preview needs the track at its own frame only
    def at_four(clip: object, size: object, kind: str, plane: str, reference: int, frame: int) -> object:
        if frame != 4:
            raise addon("errors").UserError(f"The track does not cover frame {frame}.")
        return np.eye(3)

    ours.homography = at_four
    scene.frame_set(8)
    result["preview"] = error_of(bpy.ops.bgm.matte_frame)

    # After Save As elsewhere, Blender does not know the size of a clip that shows nothing at frame 1
    clip.frame_offset = -20
    (folder / "elsewhere").mkdir(exist_ok=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "elsewhere" / "tracks.blend"))
    result["known"], result["sizes"] = list(clip.size), []
    ours.homography = lambda clip, size, *track: result["sizes"].append(size) or np.eye(3)
    addon("settings").make_job(bgm, scene, "cpu", (1001, 1001))
    result["real"] = [width, height]
    finish(**result)


main()
