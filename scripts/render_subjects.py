# SPDX-License-Identifier: GPL-3.0-or-later
"""Subjects, hair, light and camera for renders whose alpha is known exactly. Needs Blender (bpy) to run.

Shared by `render_dataset.py` and `make_sample.py`. Lengths are metres, people stand on z = 0 and look along -y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Vector
from numpy.typing import NDArray

Array = NDArray[np.float32]


def clear() -> None:
    """An empty scene, nothing kept of the last subject."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.preferences.filepaths.use_scripts_auto_execute = False


# Shapes


def import_obj(path: Path, size: float | None = None) -> Any:
    """One smooth mesh on the ground at the origin, without doubled vertices or faces.

    Args:
        path: a Wavefront OBJ with its materials beside it, y up.
        size: metres at its longest; None takes the file's units for centimetres.
    """
    bpy.ops.wm.obj_import(filepath=str(path))
    parts = list(bpy.context.selected_objects)
    bpy.context.view_layer.objects.active = parts[0]
    if len(parts) > 1:
        bpy.ops.object.join()
    subject = bpy.context.view_layer.objects.active
    bpy.ops.object.transform_apply()
    points = vertices(subject.data)
    scale = 0.01 if size is None else size / max(float(np.ptp(points, axis=0).max()), 1e-6)
    middle = (points.min(0) + points.max(0)) / 2
    points = (points - [middle[0], middle[1], points[:, 2].min()]) * scale
    subject.data.vertices.foreach_set("co", points.astype(np.float32).ravel())
    merge_doubles(subject.data, 1e-4 * float(np.ptp(points, axis=0).max()))
    return subject


def merge_doubles(mesh: Any, distance: float) -> None:
    """Merge vertices closer than `distance` and drop faces that lie on another: they flicker in shadow rays."""
    import bmesh

    if mesh.has_custom_normals:
        mesh.attributes.remove(mesh.attributes["custom_normal"])
    work = bmesh.new()
    work.from_mesh(mesh)
    bmesh.ops.remove_doubles(work, verts=work.verts, dist=distance)
    seen: set[frozenset[Any]] = set()
    doubled = []
    for face in work.faces:
        corners = frozenset(face.verts)
        if corners in seen:
            doubled.append(face)
        seen.add(corners)
    bmesh.ops.delete(work, geom=doubled, context="FACES_ONLY")
    bmesh.ops.recalc_face_normals(work, faces=work.faces)
    work.to_mesh(mesh)
    work.free()
    mesh.polygons.foreach_set("use_smooth", [True] * len(mesh.polygons))
    mesh.set_sharp_from_angle(angle=math.radians(50))


def vertices(mesh: Any) -> Array:
    """(N, 3) vertex positions."""
    points = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", points)
    return points.reshape(-1, 3)


def add_mesh(name: str, points: Array, edges: Any, faces: Any, material: Any) -> Any:
    """A mesh of (N, 3) points in metres: faces as lists of corners, or without faces, (M, 2) edges."""
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(points.tolist() if len(faces) else [], [], faces)
    if not len(faces):  # strands: many, so without a Python list for each
        mesh.vertices.add(len(points))
        mesh.vertices.foreach_set("co", np.ascontiguousarray(points, np.float32).ravel())
        mesh.edges.add(len(edges))
        mesh.edges.foreach_set("vertices", np.ascontiguousarray(edges, np.int32).ravel())
        mesh.update()
    mesh.materials.append(material)
    subject = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(subject)
    return subject


def lathe(profile: Array, name: str, material: Any, segments: int = 64) -> Any:
    """A surface of revolution about z; profile (N, 2) holds radius and height, outside first, then inside."""
    turn = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    radius, height = profile[:, :1], profile[:, 1:]
    rings = np.stack([radius * np.cos(turn), radius * np.sin(turn), height + 0 * turn], -1).reshape(-1, 3)
    around = np.arange(segments)
    faces = []
    for row in range(len(profile) - 1):
        a, b = row * segments + around, row * segments + (around + 1) % segments
        faces += np.stack([a, b, b + segments, a + segments], -1).tolist()
    subject = add_mesh(name, rings.astype(np.float32), [], faces, material)
    merge_doubles(subject.data, 1e-5)
    return subject


def add_sheet(grid: Array, name: str, material: Any) -> Any:
    """A smooth surface through a (rows, columns, 3) grid."""
    rows, columns, _ = grid.shape
    corner = np.arange(rows * columns).reshape(rows, columns)
    faces = np.stack([corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]], -1).reshape(-1, 4)
    sheet = add_mesh(name, grid.reshape(-1, 3), [], faces.tolist(), material)
    sheet.data.polygons.foreach_set("use_smooth", [True] * len(faces))
    return sheet


def add_root() -> Any:
    """An empty that carries all meshes and strands, to move them as one."""
    root = bpy.data.objects.new("Root", None)
    for thing in bpy.context.scene.objects:
        if thing.parent is None and thing.type in ("MESH", "CURVES"):
            thing.parent = root
    bpy.context.scene.collection.objects.link(root)
    return root


# Materials


def make_matte(subject: Any, roughness: float) -> None:
    """Take the plastic shine off imported materials; keep their pictures."""
    for material in subject.data.materials:
        if material and (node := material.node_tree.nodes.get("Principled BSDF")):
            node.inputs["Roughness"].default_value = roughness
            node.inputs["Specular IOR Level"].default_value = 0.25


def use_picture_alpha(subject: Any) -> None:
    """Cut leaves and the like out by their picture's alpha, which the OBJ importer leaves unconnected."""
    for material in subject.data.materials:
        if material is None or material.node_tree is None:
            continue
        tree = material.node_tree
        shader = tree.nodes.get("Principled BSDF")
        for node in tree.nodes:
            has_alpha = node.type == "TEX_IMAGE" and node.image and node.image.channels == 4
            if has_alpha and not shader.inputs["Alpha"].is_linked:
                tree.links.new(node.outputs["Alpha"], shader.inputs["Alpha"])


def make_veil(name: str, tint: Sequence[float], cover: float, gloss: float = 0.05, fresnel: bool = True) -> Any:
    """A thin see-through sheet: glass, plastic foil, gauze. What it lets through counts as transparent in the film.

    Args:
        tint: RGB share that is transmitted by the clear part.
        cover: share of the surface that is opaque threads or dirt, 0 to 1.
        gloss: roughness of the reflection.
        fresnel: reflect more at grazing angles, as glass does; otherwise the sheet is cloth.
    """
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    nodes, link = material.node_tree.nodes, material.node_tree.links.new
    nodes.clear()
    output = nodes.new("ShaderNodeOutputMaterial")
    clear_part = nodes.new("ShaderNodeBsdfTransparent")
    clear_part.inputs[0].default_value = (*tint, 1) if fresnel else (1, 1, 1, 1)  # between threads is nothing
    shine = nodes.new("ShaderNodeBsdfAnisotropic" if fresnel else "ShaderNodeBsdfDiffuse")
    if fresnel:
        shine.inputs["Roughness"].default_value = gloss
    else:
        shine.inputs["Color"].default_value = (*tint, 1)
    mix = nodes.new("ShaderNodeMixShader")
    # Schlick's share of reflection, alike from both sides of a thin wall; cloth hides more the more it is seen edge on
    facing = nodes.new("ShaderNodeLayerWeight")
    facing.inputs["Blend"].default_value = 0.5
    sharpen = nodes.new("ShaderNodeMath")
    sharpen.operation = "POWER"
    sharpen.inputs[1].default_value = 5.0 if fresnel else 2.0
    link(facing.outputs["Facing"], sharpen.inputs[0])
    share = nodes.new("ShaderNodeMapRange")
    share.inputs["To Min"].default_value = max(cover, 0.04 if fresnel else 0.0)
    share.inputs["To Max"].default_value = 1.0
    link(sharpen.outputs[0], share.inputs["Value"])
    link(share.outputs[0], mix.inputs[0])
    link(clear_part.outputs[0], mix.inputs[1])
    link(shine.outputs[0], mix.inputs[2])
    link(mix.outputs[0], output.inputs[0])
    return material


def make_hair_material(melanin: float, redness: float, dye: Sequence[float] = (1, 1, 1), roughness: float = 0.3) -> Any:
    """Hair by its pigment: melanin 0 white to 1 black; redness the share of the red kind; dye tints light hair."""
    material = bpy.data.materials.new("Hair")
    material.use_nodes = True
    nodes = material.node_tree.nodes
    nodes.clear()
    hair = nodes.new("ShaderNodeBsdfHairPrincipled")
    hair.model, hair.parametrization = "CHIANG", "MELANIN"
    for key, value in {
        "Melanin": melanin,
        "Melanin Redness": redness,
        "Tint": (*dye, 1),
        "Roughness": roughness,
        "Radial Roughness": 0.4,
        "Random Color": 0.25,
        "Random Roughness": 0.2,
    }.items():
        hair.inputs[key].default_value = value
    material.node_tree.links.new(hair.outputs[0], nodes.new("ShaderNodeOutputMaterial").inputs[0])
    return material


# Strands


@dataclass(frozen=True)
class HairStyle:
    """How strands grow; lengths in metres, the rest without unit."""

    length: float = 0.3
    strands: int = 9000
    points: int = 20
    lift: float = 0.35  # 0 lies on the skin, 1 stands on it
    gravity: float = 0.25
    wave: float = 0.01  # metres of the curl's radius
    turns: float = 2.0  # curls along a strand
    frizz: float = 0.05
    clumps: int = 250
    clumping: float = 0.6
    flyaways: float = 0.04  # share of strands that leave their clump
    radius: float = 0.00016
    sweep_back: float = 0.5


@dataclass(frozen=True)
class Head:
    """An upright person's head: an ellipsoid that looks along `forward`, and the neck it turns on."""

    middle: Array
    radii: Array
    forward: Array
    neck: Array
    hips: float  # height where the torso starts to turn


@dataclass(frozen=True)
class Pose:
    """Angles in radians, distances in metres; all zero leaves the subject as it was modelled."""

    head: tuple[float, float, float] = (0.0, 0.0, 0.0)  # pitch, roll, yaw
    torso: float = 0.0  # yaw of the chest against the hips
    lean: tuple[float, float] = (0.0, 0.0)  # x and y shift of the neck
    swing: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the hair's tips, per metre of hair


def find_head(points: Array, yaw: float = 0.0) -> Head:
    """The head of an upright person from the (N, 3) vertices; `yaw` turns the look away from -y (radians)."""
    top = float(points[:, 2].max())
    crown = points[points[:, 2] > top - 0.13]
    low, high = np.percentile(crown[:, :2], 3, axis=0), np.percentile(crown[:, :2], 97, axis=0)
    middle = np.array([*(low + high) / 2, top - 0.118], np.float32)
    radii = np.array([*np.clip((high - low) / 2, 0.07, 0.115), 0.118], np.float32)
    forward = np.array([math.sin(yaw), -math.cos(yaw), -0.25], np.float32)
    neck = middle + np.array([0, 0, -0.13], np.float32) - 0.02 * forward
    return Head(middle, radii, forward / np.linalg.norm(forward), neck.astype(np.float32), max(0.0, top - 0.85))


def smoothstep(low: float, high: float, x: Array) -> Array:
    """0 up to `low`, 1 from `high` on, level at both ends."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def rotation(pitch: float, roll: float, yaw: float) -> Array:
    """(3, 3) matrix: roll about y, then pitch about x, then yaw about z."""
    sx, cx, sy, cy, sz, cz = (f(a) for a in (pitch, roll, yaw) for f in (math.sin, math.cos))
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return (z @ x @ y).astype(np.float32)


def bend(points: Array, pose: Pose, head: Head, hair: bool = False, along: Array | None = None) -> Array:
    """Turn head and chest of (N, 3) points; hair follows its head as one and lags by `along`, metres from the root."""
    neck = head.neck
    if hair:
        head_share = chest_share = np.ones(len(points), np.float32)
    else:
        reach = np.linalg.norm(points[:, :2] - neck[:2], axis=1)
        head_share = smoothstep(neck[2] - 0.05, neck[2] + 0.05, points[:, 2]) * (1 - smoothstep(0.15, 0.22, reach))
        chest_share = smoothstep(head.hips, neck[2] - 0.1, points[:, 2])
    turned = (points - neck) @ rotation(*pose.head).T + neck
    moved = points + head_share[:, None] * (turned - points)
    angle = pose.torso * chest_share
    offset = moved - neck
    moved = moved.copy()
    moved[:, 0] = neck[0] + np.cos(angle) * offset[:, 0] - np.sin(angle) * offset[:, 1] + pose.lean[0] * chest_share
    moved[:, 1] = neck[1] + np.sin(angle) * offset[:, 0] + np.cos(angle) * offset[:, 1] + pose.lean[1] * chest_share
    if along is not None:
        moved += np.array(pose.swing, np.float32) * (along**2 / max(float(along.max()), 1e-6))[:, None]
    return moved.astype(np.float32)


def grow_hair(head: Head, style: HairStyle, rng: np.random.Generator) -> Array:
    """(strands, points, 3): hair from the scalp outwards, off the face, around the skull."""
    direction = rng.normal(size=(style.strands * 4, 3)).astype(np.float32)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    toward_face = direction @ head.forward
    edge = 0.42 + 0.06 * rng.normal(size=len(direction))
    scalp = (toward_face < edge) & (direction[:, 2] > -0.45 + 0.25 * np.maximum(toward_face, 0))
    normal = direction[scalp][: style.strands]
    count = len(normal)
    root = head.middle + normal * head.radii * 0.98
    side = np.sign(normal[:, 0] + 0.25 * rng.choice([-1, 1]))[:, None] * np.array([1, 0, 0], np.float32)
    comb = side + style.sweep_back * -head.forward + np.array([0, 0, -0.4], np.float32)
    comb -= (comb * normal).sum(1, keepdims=True) * normal
    comb /= np.linalg.norm(comb, axis=1, keepdims=True) + 1e-6
    loose = rng.random(count) < style.flyaways
    clump = np.argmin(((normal[:, None] - normal[None, : style.clumps]) ** 2).sum(-1), axis=1)
    clump_noise = rng.normal(size=(style.clumps, 3)).astype(np.float32)[clump]
    length = style.length * rng.uniform(0.75, 1.1, style.clumps)[clump] * rng.uniform(0.85, 1.0, count)
    length[loose] *= rng.uniform(0.4, 1.05, int(loose.sum()))
    frizz = np.where(loose, 4 * style.frizz + 0.06, style.frizz)[:, None]
    gravity = np.where(loose, 0.45, 1.0)[:, None] * style.gravity
    heading = style.lift * normal + (1 - style.lift) * comb + 0.12 * clump_noise
    strands = np.empty((count, style.points, 3), np.float32)
    position = root.copy()
    step = (length / (style.points - 1))[:, None]
    drift = rng.normal(size=(count, 3))
    for index in range(style.points):
        strands[:, index] = position
        drift = 0.7 * drift + 0.7 * rng.normal(size=(count, 3))
        from_middle = position - head.middle
        in_face = (from_middle / np.linalg.norm(from_middle, axis=1, keepdims=True)) @ head.forward > 0.45
        heading = heading + frizz * drift + gravity * np.array([0, 0, -1]) + 0.5 * in_face[:, None] * side
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        position = position + heading * step
        skull = (position - head.middle) / head.radii
        depth = np.linalg.norm(skull, axis=1, keepdims=True)
        position = np.where(depth < 1.06, head.middle + skull / depth * 1.06 * head.radii, position)
    return tidy(strands, clump, loose, style, rng)


def tidy(strands: Array, clump: Any, loose: Any, style: HairStyle, rng: np.random.Generator) -> Array:
    """Draw strands towards their clump's mean and curl each clump; loose ones keep to themselves."""
    count, points, _ = strands.shape
    number = np.maximum(np.bincount(clump, minlength=style.clumps), 1)[:, None, None]
    mean = np.zeros((style.clumps, points, 3))
    np.add.at(mean, clump, strands)
    s = np.linspace(0, 1, points, dtype=np.float32)
    pull = np.where(loose, 0, style.clumping * rng.uniform(0.6, 1, count))[:, None] * s
    strands = strands + pull[..., None] * ((mean / number)[clump] - strands)
    phase = rng.uniform(0, 2 * np.pi, style.clumps)[clump] + rng.normal(0, 0.35, count) + 3 * loose * rng.random(count)
    angle = phase[:, None] + 2 * np.pi * style.turns * rng.uniform(0.8, 1.2, style.clumps)[clump][:, None] * s
    size = np.outer(rng.uniform(0.6, 1.2, count), style.wave * smoothstep(0, 0.35, s))
    strands[..., 0] += size * np.cos(angle)
    strands[..., 1] += size * np.sin(angle)
    return strands.astype(np.float32)


def grow_fur(mesh: Any, style: HairStyle, rng: np.random.Generator) -> Array:
    """(strands, points, 3): short hair all over a mesh, combed back and down."""
    mesh.calc_loop_triangles()
    corners = np.empty(3 * len(mesh.loop_triangles), np.int32)
    mesh.loop_triangles.foreach_get("vertices", corners)
    triangle = vertices(mesh)[corners.reshape(-1, 3)]
    cross = np.cross(triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0])
    area = np.linalg.norm(cross, axis=1)
    chosen = rng.choice(len(area), style.strands, p=area / area.sum())
    u, v = np.sort(rng.random((2, style.strands)), axis=0)[..., None]
    root = u * triangle[chosen, 0] + (v - u) * triangle[chosen, 1] + (1 - v) * triangle[chosen, 2]
    normal = cross[chosen] / np.maximum(area[chosen, None], 1e-12)
    comb = np.array([0.15, style.sweep_back, -style.gravity])
    comb = comb - (normal @ comb)[:, None] * normal
    size = float(np.ptp(triangle.reshape(-1, 3), axis=0).max())
    clump = np.arange(style.strands) % style.clumps
    patch = np.sin(root @ rng.normal(size=(3, 3)) * 9 / size)
    heading = style.lift * normal + (1 - style.lift) * comb + 0.25 * patch
    heading /= np.linalg.norm(heading, axis=1, keepdims=True) + 1e-9
    step = (style.length * rng.uniform(0.5, 1.1, style.strands) / (style.points - 1))[:, None]
    strands = np.empty((style.strands, style.points, 3), np.float32)
    position, drift = root, rng.normal(size=root.shape)
    for index in range(style.points):
        strands[:, index] = position
        drift = 0.7 * drift + 0.7 * rng.normal(size=root.shape)
        heading = heading + style.frizz * drift + 0.12 * style.gravity * np.array([0, 0, -1])
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        position = position + step * heading
    loose = rng.random(style.strands) < style.flyaways
    return tidy(strands, clump, loose, replace(style, wave=min(style.wave, 0.2 * style.length)), rng)


def add_strands(strands: Array, radius: float, material: Any, name: str = "Hair") -> Any:
    """Curves of the given (strands, points, 3), thinner towards their tips; returns the mesh whose points move them."""
    count, points, _ = strands.shape
    first = (np.arange(count) * points)[:, None] + np.arange(points - 1)
    edges = np.stack([first, first + 1], -1).reshape(-1, 2)
    carrier = add_mesh(f"{name} points", strands.reshape(-1, 3), edges, [], material)
    taper = radius * (1 - 0.75 * np.linspace(0, 1, points) ** 2)
    thickness = carrier.data.attributes.new("thickness", "FLOAT", "POINT")
    thickness.data.foreach_set("value", np.tile(taper, count).astype(np.float32))
    tree = bpy.data.node_groups.new("Strands", "GeometryNodeTree")
    tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    kinds = ("GeometryNodeMeshToCurve", "GeometryNodeSetCurveRadius", "GeometryNodeSetMaterial", "NodeGroupOutput")
    chain = [tree.nodes.new(kind) for kind in kinds]
    for before, after in pairwise(chain):
        tree.links.new(before.outputs[0], after.inputs[0])
    points_of = tree.nodes.new("GeometryNodeObjectInfo")
    points_of.inputs["Object"].default_value = carrier
    tree.links.new(points_of.outputs["Geometry"], chain[0].inputs[0])
    named = tree.nodes.new("GeometryNodeInputNamedAttribute")
    named.inputs["Name"].default_value = "thickness"
    tree.links.new(named.outputs["Attribute"], chain[1].inputs["Radius"])
    chain[2].inputs["Material"].default_value = material
    hair = bpy.data.objects.new(name, bpy.data.hair_curves.new(name))  # the only type that Cycles draws as strands
    hair.data.materials.append(material)
    bpy.context.scene.collection.objects.link(hair)
    hair.modifiers.new("Strands", "NODES").node_group = tree
    return carrier


# Motion


def animate_points(subject: Any, frames: Sequence[Array]) -> None:
    """Play (N, 3) positions, one per frame from 1 on, linear between them, so that motion blur sees the way between."""
    subject.shape_key_add(name="Basis")
    for number, points in enumerate(frames, start=1):
        key = subject.shape_key_add(name=f"{number:04d}")
        key.data.foreach_set("co", np.ascontiguousarray(points, np.float32).ravel())
        for frame in (number - 1, number, number + 1):
            beyond = frame < 1 or frame > len(frames)  # the ends hold still, or they would fall back to the basis
            key.value = float(beyond or frame == number)
            key.keyframe_insert("value", frame=frame)
    _make_linear(subject.data.shape_keys.animation_data)


def animate_transform(
    subject: Any, start: Sequence[float], end: Sequence[float], turn: Sequence[float], frames: int
) -> None:
    """Move from start to end (metres) and by the Euler angles `turn` (radians) within frames 1 to `frames`."""
    angle = Vector(subject.rotation_euler)
    for frame, share in ((0, -1 / max(frames - 1, 1)), (frames + 1, 1 + 1 / max(frames - 1, 1))):
        subject.location = Vector(start).lerp(Vector(end), share)
        subject.rotation_euler = angle + Vector(turn) * share
        subject.keyframe_insert("location", frame=frame)
        subject.keyframe_insert("rotation_euler", frame=frame)
    _make_linear(subject.animation_data)


def _make_linear(animation: Any) -> None:
    for layer in animation.action.layers:
        for strip in layer.strips:
            for slot in animation.action.slots:
                for curve in strip.channelbag(slot).fcurves:
                    for key in curve.keyframe_points:
                        key.interpolation = "LINEAR"


# Light, camera, render


def set_world(hdri: Path, turn: float, strength: float = 1.0) -> None:
    """Light the scene by an environment map, turned about z (radians)."""
    world = bpy.data.worlds.new("World")
    world.use_nodes = True
    nodes, link = world.node_tree.nodes, world.node_tree.links.new
    picture = nodes.new("ShaderNodeTexEnvironment")
    picture.image = bpy.data.images.load(str(hdri))
    place = nodes.new("ShaderNodeMapping")
    place.inputs["Rotation"].default_value[2] = turn
    link(nodes.new("ShaderNodeTexCoord").outputs["Generated"], place.inputs["Vector"])
    link(place.outputs[0], picture.inputs[0])
    link(picture.outputs[0], nodes["Background"].inputs["Color"])
    nodes["Background"].inputs["Strength"].default_value = strength
    bpy.context.scene.world = world


def add_light(
    target: Array, azimuth: float, elevation: float, power: float, size: float, colour: Sequence[float] = (1, 1, 1)
) -> None:
    """An area light 3 m from `target` (3,); azimuth 0 is in front (-y), pi behind: a rim light."""
    data = bpy.data.lights.new("Light", "AREA")
    data.energy, data.size, data.color = power, size, colour
    _aim("Light", data, target, azimuth, elevation, 3.0)


def add_camera(
    target: Array, extent: float, azimuth: float, elevation: float, lens: float, f_stop: float | None = None
) -> Any:
    """A camera that sees `extent` metres across at `target` (3,); f_stop None keeps everything sharp."""
    data = bpy.data.cameras.new("Camera")
    data.lens = lens  # millimetres, sensor 36 mm
    data.clip_start = 0.01
    distance = extent * lens / 36
    if f_stop is not None:
        data.dof.use_dof = True
        data.dof.focus_distance = distance
        data.dof.aperture_fstop = f_stop
    camera = bpy.context.scene.camera = _aim("Camera", data, target, azimuth, elevation, distance)
    return camera


def _aim(name: str, data: Any, target: Array, azimuth: float, elevation: float, distance: float) -> Any:
    """Put a light or camera at a distance (metres) from the target, turned towards it (radians)."""
    aimed = bpy.data.objects.new(name, data)
    bpy.context.scene.collection.objects.link(aimed)
    away = Vector(
        (math.sin(azimuth) * math.cos(elevation), -math.cos(azimuth) * math.cos(elevation), math.sin(elevation))
    )
    aimed.location = Vector(target) + distance * away
    aimed.rotation_euler = away.to_track_quat("Z", "Y").to_euler()
    return aimed


def set_render(width: int, height: int, threads: int, shutter: float) -> None:
    """Cycles on the processor, transparent film; shutter is the open share of a frame, 0 for no motion blur."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = width, height, 100
    scene.render.threads_mode, scene.render.threads = "FIXED", threads
    scene.render.film_transparent = True
    scene.render.use_motion_blur, scene.render.motion_blur_shutter = shutter > 0, max(shutter, 0.01)
    scene.render.use_persistent_data = True
    scene.view_settings.view_transform = "Standard"
    scene.cycles.device = "CPU"
    scene.cycles.max_bounces, scene.cycles.diffuse_bounces, scene.cycles.glossy_bounces = 4, 2, 3
    scene.cycles.transparent_max_bounces = 24
    scene.cycles.sample_clamp_indirect = 4
    scene.cycles.caustics_reflective = scene.cycles.caustics_refractive = False
    scene.cycles_curves.shape = "RIBBONS"
    settings = scene.render.image_settings
    settings.file_format, settings.color_mode, settings.color_depth = "OPEN_EXR", "RGBA", "32"


def set_frame(number: int) -> None:
    """Go to a frame; frames count from 1."""
    bpy.context.scene.frame_set(number)


def render(folder: Path, samples: int, alpha_samples: int) -> tuple[Array, Array]:
    """Render the current frame twice: lit and denoised, then without light for an alpha with little noise.

    Returns:
        premultiplied linear RGB (H, W, 3), not clipped, and alpha (H, W), 0 to 1. Files in `folder` are left behind.
    """
    scene = bpy.context.scene
    cycles = scene.cycles
    cycles.samples, cycles.use_denoising, cycles.use_adaptive_sampling = samples, True, False
    cycles.denoising_quality, cycles.denoising_prefilter = "FAST", "FAST"
    rgb = _render_exr(folder / "light.exr")[..., :3]
    background = scene.world.node_tree.nodes["Background"].inputs["Strength"]
    strength, background.default_value = background.default_value, 0.0
    lights = [thing for thing in scene.objects if thing.type == "LIGHT" and not thing.hide_render]
    bounces = cycles.max_bounces
    for light in lights:
        light.hide_render = True
    cycles.samples, cycles.use_denoising, cycles.max_bounces = alpha_samples, False, 0
    try:
        alpha = _render_exr(folder / "alpha.exr")[..., 3]
    finally:
        background.default_value, cycles.max_bounces = strength, bounces
        for light in lights:
            light.hide_render = False
    return rgb, np.clip(alpha, 0, 1)


def _render_exr(path: Path) -> Array:
    """(H, W, 4), first row on top."""
    scene = bpy.context.scene
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    picture = bpy.data.images.load(str(path))
    pixels = np.empty(4 * picture.size[0] * picture.size[1], np.float32)
    picture.pixels.foreach_get(pixels)
    width, height = picture.size
    bpy.data.images.remove(picture)
    return pixels.reshape(height, width, 4)[::-1]


def write_png(path: Path, rgba: Array) -> None:
    """An 8-bit PNG of straight sRGB-encoded (H, W, 4), 0 to 1; colours stay where alpha is 0."""
    height, width, _ = rgba.shape
    picture = bpy.data.images.new("Straight", width, height, alpha=True)
    picture.alpha_mode = "CHANNEL_PACKED"  # no file format then multiplies or divides by alpha
    picture.pixels.foreach_set(np.ascontiguousarray(rgba[::-1], np.float32).ravel())
    picture.file_format = "PNG"
    picture.filepath_raw = str(path)
    picture.save()
    bpy.data.images.remove(picture)
