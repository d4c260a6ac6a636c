# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's own tracker and solver on a turning camera, and the track that the add-on writes of what they find."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import numpy as np
from common import addon, finish, install, load_clip, matting_node, size_scene


def main() -> None:
    args = install()
    scene = bpy.context.scene
    clip = load_clip(args["footage"])
    size_scene(scene, *clip.size)
    scene.frame_end = clip.frame_duration
    scene.frame_set(1)
    bpy.ops.wm.save_as_mainfile(filepath=str(Path(args["folder"]) / "solved.blend"))
    window = bpy.context.window_manager.windows[0]
    area = max(window.screen.areas, key=lambda area: area.width * area.height)
    area.type = "CLIP_EDITOR"
    space = area.spaces.active
    space.clip, space.mode, space.clip_user.frame_current = clip, "TRACKING", 1
    region = next(region for region in area.regions if region.type == "WINDOW")
    tracking = clip.tracking
    with bpy.context.temp_override(window=window, area=area, region=region, space_data=space):
        tracking.camera.focal_length_pixels = args["lens"]
        tracking.settings.default_pattern_size, tracking.settings.default_search_size = 21, 81
        tracking.settings.default_motion_model = "Affine"
        bpy.ops.clip.detect_features(threshold=0.05, min_distance=25, margin=50)
        bpy.ops.clip.track_markers(backwards=False, sequence=True)
        tracking.settings.use_tripod_solver = True
        bpy.ops.clip.solve_camera()
        whole = [t for t in tracking.tracks if t.markers.find_frame(clip.frame_duration) and not t.markers[-2].mute]
        corners = [nearest(whole, corner) for corner in ((0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8))]
        for create in (bpy.ops.clip.create_plane_track, bpy.ops.clip.stabilize_2d_add):
            for track in tracking.tracks:
                track.select = track in corners
            create()
    bpy.ops.bgm.add_node(clip=clip.name)
    bgm = matting_node(scene).node_tree.bgm
    bgm.plate_source, bgm.plate_frame = "FROM_CLIP", 1
    bgm.plate_plane_track = tracking.plane_tracks[0].name
    written, rewritten = {}, []

    def write(numbers: tuple[int, int] | None = None) -> Path:
        return Path(addon("settings").make_job(bgm, scene, "cpu", numbers).data["plate"]["track"])

    for motion in ("CAMERA", "PLANE", "STABILIZATION"):
        bgm.plate_motion = motion
        path = write()
        written[motion], stamp = path.read_text(), path.stat().st_mtime_ns
        if write((3, 5)).stat().st_mtime_ns != stamp:  # what a range needs is in it already
            rewritten.append(motion)
    for track in tracking.stabilization.tracks:
        track.markers.delete_frame(8)
    partly = sorted(map(int, json.loads(write((3, 5)).read_text())))
    refused = ""
    try:
        write((7, 9))
    except addon("errors").UserError as error:
        refused = str(error)
    finish(**written, rewritten=rewritten, partly=partly, refused=refused)


def nearest(tracks: list, corner: tuple[float, float]) -> object:
    """The track that starts closest to a place in the frame, 0 to 1 from the bottom left."""
    return min(tracks, key=lambda track: np.hypot(*(np.array(track.markers.find_frame(1).co) - corner)))


main()
