# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a file with a matting node; the last two arguments are its footage and where to save it."""

import sys

import bpy

clip = bpy.data.movieclips.load(sys.argv[-2])
assert bpy.ops.bgm.add_node(clip=clip.name) == {"FINISHED"}
bpy.data.node_groups["Matting shot"].bgm.plate_source = "NONE"
bpy.ops.wm.save_as_mainfile(filepath=sys.argv[-1])
