# SPDX-License-Identifier: GPL-3.0-or-later
"""What to matte and how: the settings on a matting group's datablock (`NodeTree.bgm`), and the job made of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import bpy

from . import footage, tracks
from .errors import UserError
from .preferences import DEVICES

FLOAT_FILES = (".exr", ".hdr", ".tif", ".tiff")  # may hold floats, in whatever colour space
LAST_SHOWN = 1048574  # the highest of a file's numbers that an image node can show
_UNKNOWN_SIZE = (256, 256)  # what Blender makes of a clip's size, see clip_size
# Blender's name: the engine's. A movie that is an image has none until Blender reads it
COLOR_SPACES = {"sRGB": "srgb", "Linear Rec.709": "linear", "": "auto"}
# As in "Linear Rec.709", "lin_rec709", "Utility - Linear - sRGB", "scene_linear", "ACEScg", "ACES - ACES2065-1"
_LINEAR = re.compile(r"(^|[ _-])(linear|lin|acescg|aces2065-1)($|[ _-])", re.IGNORECASE)


class BGM_PG_finding(bpy.types.PropertyGroup):
    """One finding of the plate doctor."""

    light: bpy.props.EnumProperty(
        name="Light",
        items=[
            ("green", "Good", "Nothing is wrong"),
            ("amber", "Attention", "Costs quality"),
            ("red", "Problem", "Spoils the matte"),
        ],
    )
    text: bpy.props.StringProperty(name="Finding")
    action: bpy.props.StringProperty(name="Action", description="Which button helps, in the engine's words")


def _source_changed(self: BGM_PG_matting, context: bpy.types.Context) -> None:
    from . import node

    try:
        node.update_sources(self.id_data)
    except UserError as error:
        self.say(str(error), "failed")


def _clip_changed(self: BGM_PG_matting, context: bpy.types.Context) -> None:
    from . import node

    _plate_changed(self, context)
    node.name_after_clip(self.id_data)
    if self.clip is not None and not node.are_of_clip(self.id_data):
        self.say("This footage has not been matted yet: the node passes it through.", "amber")
    _source_changed(self, context)


def _plate_changed(self: BGM_PG_matting, context: bpy.types.Context) -> None:
    self.findings.clear()
    self.say("", "")


class BGM_PG_matting(bpy.types.PropertyGroup):
    """The settings of one matting group; `is_matting` tells such a group from others."""

    is_matting: bpy.props.BoolProperty(name="Is a Matting Group", options={"HIDDEN"})

    clip: bpy.props.PointerProperty(
        name="Clip",
        description="The footage to pull a matte from",
        type=bpy.types.MovieClip,
        update=_clip_changed,
    )

    plate_source: bpy.props.EnumProperty(
        name="Clean Plate",
        description="Where the picture of the empty background comes from",
        items=[
            ("IMAGE", "Image", "A still of the empty background"),
            ("CLIP", "Movie Clip", "A movie or image sequence of the empty background"),
            (
                "FROM_CLIP",
                "From the Clip",
                "Estimate the empty background from the clip itself, whose subject has to move",
            ),
            ("NONE", "No Plate", "No picture of the background: people are found, objects they hold are not"),
        ],
        update=_plate_changed,
    )
    plate_image: bpy.props.PointerProperty(
        name="Plate Image",
        description="A still of the empty background",
        type=bpy.types.Image,
        update=_plate_changed,
    )
    plate_clip: bpy.props.PointerProperty(
        name="Plate Clip",
        description="Footage of the empty background",
        type=bpy.types.MovieClip,
        update=_plate_changed,
    )
    plate_align: bpy.props.BoolProperty(
        name="Align to the Clip",
        description="Move the plate onto the clip frame by frame: for a camera that was not locked off",
        default=True,
    )
    plate_match: bpy.props.BoolProperty(
        name="Match Exposure",
        description="Follow the clip's changes of exposure and white balance outside the subject",
        default=True,
    )
    plate_moving: bpy.props.BoolProperty(
        name="Moving Plate",
        description="The plate is a second take with the same camera move, used frame by frame",
    )

    garbage_mask: bpy.props.PointerProperty(
        name="Garbage",
        description="A mask of what is certainly background: lights, rigs, the floor. Alpha becomes 0 inside it",
        type=bpy.types.Mask,
        update=_source_changed,
    )
    core_mask: bpy.props.PointerProperty(
        name="Core",
        description="A mask of what is certainly the subject. Alpha becomes 1 inside it",
        type=bpy.types.Mask,
        update=_source_changed,
    )

    plate_motion: bpy.props.EnumProperty(
        name="Follow",
        description="What the plate follows to line up with each frame",
        items=[
            ("PICTURE", "The Picture", "The background that each frame shows"),
            ("PLANE", "Plane Track", "The corners of a plane track on the background"),
            ("STABILIZATION", "2D Stabilization", "The tracks that stabilize the clip"),
            ("CAMERA", "Solved Camera", "The solution of a camera that turns on a tripod"),
        ],
    )
    plate_plane_track: bpy.props.StringProperty(name="Track", description="A plane track of the clip's background")
    plate_frame: bpy.props.IntProperty(
        name="Plate Shows", description="Scene frame at which the camera was where it was for the plate", default=1
    )

    frame_range: bpy.props.EnumProperty(
        name="Frames",
        description="Which frames to matte",
        items=[
            ("CLIP", "Whole Clip", "Every frame of the clip"),
            ("SCENE", "Scene Range", "The frames of the clip that the scene's frame range shows"),
            ("CUSTOM", "Custom", "From one scene frame to another"),
        ],
    )
    frame_first: bpy.props.IntProperty(name="First", description="First scene frame to matte", default=1)
    frame_last: bpy.props.IntProperty(name="Last", description="Last scene frame to matte, included", default=100)

    model_source: bpy.props.EnumProperty(
        name="Model",
        description="The network that pulls the matte",
        items=[
            ("DEFAULT", "Default", "The network that comes with this extension"),
            ("FILE", "File", "Weights of your own"),
        ],
    )
    model_path: bpy.props.StringProperty(
        name="Model File",
        description="A .safetensors or .pth file with weights",
        subtype="FILE_PATH",
        options={"PATH_SUPPORTS_BLEND_RELATIVE"},
    )
    device: bpy.props.EnumProperty(
        name="Device",
        description="What to compute on",
        items=[
            ("PREFERENCES", "As in Preferences", "The device chosen in this extension's preferences"),
            *DEVICES,
        ],
    )
    precision: bpy.props.EnumProperty(
        name="Precision",
        description="Number format of the network's arithmetic",
        items=[
            ("auto", "Automatic", "Half precision where the device is faster with it"),
            ("fp32", "Full", "32 bits"),
            ("fp16", "Half", "16 bits"),
            ("bf16", "Brain Float", "16 bits with the range of 32"),
        ],
    )
    detail: bpy.props.FloatProperty(
        name="Coarse Size",
        description="Size at which the network first looks at a frame, as a share of the frame's own. "
        "0.00 = automatic: by how much differs from the plate",
        min=0.0,
        max=1.0,
    )

    output_folder: bpy.props.StringProperty(
        name="Folder",
        description="Where the matte's images go; // is the .blend file's folder, ~ your home folder",
        subtype="DIR_PATH",
        options={"PATH_SUPPORTS_BLEND_RELATIVE"},
    )
    format: bpy.props.EnumProperty(
        name="Format",
        description="File format of the images",
        items=[
            ("auto", "Automatic", "OpenEXR for floating point footage, else PNG"),
            ("png", "PNG", "Alpha at 16 bits, foreground as deep as the footage"),
            ("exr", "OpenEXR", "Half float, foreground in linear light"),
        ],
    )
    use_foreground: bpy.props.BoolProperty(
        name="Foreground",
        description="Write the subject's own colours, free of the background's at soft edges",
        default=True,
    )
    use_error: bpy.props.BoolProperty(
        name="Expected Error", description="Write where the network is unsure of the alpha", default=True
    )
    use_matte: bpy.props.BoolProperty(
        name="Cut-Out", description="Write colour and alpha in one image, as the sequencer needs it"
    )

    deliver: bpy.props.EnumProperty(
        name="Deliver",
        description="Files to hand on, made from the finished frames. Like all files on disk, they hold the matte as "
        "the engine wrote it, without the node's Matte controls and masks",
        items=[
            ("rgba", "RGBA EXR", "Premultiplied linear colour with alpha, one file a frame"),
            ("multilayer", "Multilayer EXR", "Colour, alpha, foreground, error and plate in one file a frame"),
            ("prores", "ProRes 4444", "A movie with alpha, for editing"),
            ("webm", "WebM", "A movie with alpha, for the web"),
            ("preview", "Preview", "A small movie over grey, for viewing"),
        ],
        options={"ENUM_FLAG"},
        default=set(),
    )

    result_clip: bpy.props.PointerProperty(
        name="Clip of the Results", description="The clip whose matte the group shows", type=bpy.types.MovieClip
    )
    result_path: bpy.props.StringProperty(
        name="File of the Results", description="That clip's file path as it was written then"
    )
    result_size: bpy.props.StringProperty(
        name="Size of the Results' File", description="That file's size then, in bytes: more than a number here holds"
    )
    result_first: bpy.props.IntProperty(name="First Result", description="In the footage's own numbers")
    result_last: bpy.props.IntProperty(name="Last Result", description="In the footage's own numbers")
    status: bpy.props.StringProperty(name="Status", description="How the last run ended")
    status_light: bpy.props.StringProperty(
        name="Status Light", description='What that means: a finding\'s light, "cancelled" or "failed"'
    )

    findings: bpy.props.CollectionProperty(type=BGM_PG_finding)

    def say(self, status: str, light: str) -> None:
        self.status, self.status_light = status, light


@dataclass(frozen=True)
class JobRequest:
    """A job that is ready to be written and run."""

    data: dict[str, Any]  # the job file's content, see core/job.py
    folder: Path  # of the outputs
    footage: Path
    plate_to_make: Path | None  # file for the plate that is to be made from the clip first

    def write(self, name: str = "job.yaml") -> Path:
        """Write the job file (JSON, which is YAML) and return its path.

        Raises:
            UserError: the output folder cannot be written.
        """
        path = self.folder / name
        _write(path, json.dumps(self.data, indent=2).encode())
        return path


def matting_trees() -> list[bpy.types.NodeTree]:
    """Every matting group of the file that something uses: not those whose node was deleted, which the file keeps."""
    groups = (tree for tree in bpy.data.node_groups if tree.bl_idname == "CompositorNodeTree" and tree.users)
    return [tree for tree in groups if tree.bgm.is_matting]


def is_own(datablock: bpy.types.ID) -> bool:
    """Whether this file keeps what becomes of it: it is not linked, nor an override of a linked one."""
    return datablock.is_editable and datablock.override_library is None


def file_path(datablock: bpy.types.ID) -> Path:
    """Absolute path of a clip's or image's own file, linked datablocks included; never a proxy."""
    return absolute(datablock.filepath, datablock.library)


def file_size(datablock: bpy.types.ID) -> str:
    """The size of a clip's own file in bytes, as text; "" where it is out of reach."""
    path = file_path(datablock)
    return str(path.stat().st_size) if path.is_file() else ""


def absolute(path: str, library: bpy.types.Library | None = None) -> Path:
    """A path as Blender keeps it ("//../shots/a.mov") as the one absolute path of that file."""
    if path.startswith("//"):
        path = path.replace("\\", "/")  # typed on Windows
    return Path(os.path.abspath(bpy.path.abspath(path, library=library)))


def output_folder(settings: BGM_PG_matting) -> Path:
    """Where the outputs go, absolute; a path that starts nowhere, "mattes/a", is one below //.

    Until the .blend file is saved, // stands for the user's home folder; a matte that was made there stays in use.

    Raises:
        UserError: none is named.
    """
    from . import node

    text, library = os.path.expanduser(settings.output_folder), settings.id_data.library
    if not text:
        raise UserError("There is no output folder. Choose one under Output.")
    if not os.path.isabs(text):  # // is: a path from the root, to Python
        text = f"//{text}"
    if text.startswith("//") and library is None:
        unsaved = Path.home() / text[2:].strip("/\\")
        if not bpy.data.filepath or node.result_folder(settings.id_data) == unsaved:
            return unsaved
    return absolute(text, library)


def clip_numbers(clip: bpy.types.MovieClip) -> tuple[int, int]:
    """First and last of the frame numbers that the clip has, in the footage's own numbers."""
    path = file_path(clip)
    return footage.first_number(clip, path), footage.last_number(clip, path)


def frame_numbers(settings: BGM_PG_matting, scene: bpy.types.Scene) -> tuple[int, int]:
    """First and last frame number to matte, in the footage's own numbers.

    Raises:
        UserError: the chosen range shows no frame of the clip, or ends before it begins; or no node could show them.
    """
    clip = settings.clip
    path = file_path(clip)
    first, last = clip_numbers(clip)
    numbers = first, last
    if settings.frame_range != "CLIP":
        wanted = (scene.frame_start, scene.frame_end)
        if settings.frame_range == "CUSTOM":
            wanted = (settings.frame_first, settings.frame_last)
            if wanted[0] > wanted[1]:
                raise UserError(f"The first frame, {wanted[0]}, comes after the last, {wanted[1]}. Swap them.")
        numbers = (
            max(first, footage.to_number(clip, path, wanted[0])),
            min(last, footage.to_number(clip, path, wanted[1])),
        )
        if numbers[0] > numbers[1]:
            shown = [footage.to_scene(clip, path, number) for number in (first, last)]
            raise UserError(
                f"Frames {wanted[0]} to {wanted[1]} show nothing of the clip, which lasts from scene frame {shown[0]} "
                f"to {shown[1]}. Choose other frames."
            )
    if numbers[1] > LAST_SHOWN:
        raise UserError(
            f"The clip's frames are numbered up to {numbers[1]}; Blender's compositor shows those up to {LAST_SHOWN}. "
            "Choose earlier frames, or give the files lower numbers."
        )
    return numbers


def missing_words(settings: BGM_PG_matting) -> list[str]:
    """That a custom range reaches beyond the clip; nothing where it does not."""
    clip, path = settings.clip, file_path(settings.clip)
    first = footage.to_scene(clip, path, footage.first_number(clip, path))
    last = footage.to_scene(clip, path, footage.last_number(clip, path))
    wanted = (settings.frame_first, settings.frame_last)
    is_inside = footage.is_still(clip, path) or (first <= wanted[0] and wanted[1] <= last)
    if settings.frame_range != "CUSTOM" or is_inside:
        return []
    return [
        f"The clip lasts from scene frame {first} to {last}; the other frames of {wanted[0]} to {wanted[1]} are left "
        "out."
    ]


def scaling_words(settings: BGM_PG_matting) -> list[str]:
    """That the plate is scaled, which the engine says of a clip but not of a preview; nothing where it is not.

    Nor where its size is not known: Blender reads a sequence's only where an editor shows it.
    """
    plate = {"IMAGE": settings.plate_image, "CLIP": settings.plate_clip}.get(settings.plate_source)
    if plate is None:
        return []
    size = tuple(plate.size) if settings.plate_source == "IMAGE" else clip_size(plate)
    path, wanted = file_path(plate), clip_size(settings.clip)
    is_wider = path.with_name(f"{path.stem}.motion.json").is_file()  # of a moving camera
    if size in (wanted, (0, 0)) or is_wider:
        return []
    return [f"The plate is {size[0]} x {size[1]}; it is scaled to the footage's {wanted[0]} x {wanted[1]}."]


def make_job(
    settings: BGM_PG_matting, scene: bpy.types.Scene, device: str, numbers: tuple[int, int] | None = None
) -> JobRequest:
    """The job that the settings describe.

    Args:
        numbers: first and last frame number, instead of what the settings say.
        device: what the preferences say, for settings that leave it to them.

    Raises:
        UserError: something is missing or does not fit, in words.
    """
    clip_path = check_clip(settings.clip)
    folder = output_folder(settings)
    others = (tree for tree in matting_trees() if tree != settings.id_data and is_own(tree))
    for tree in others:
        if tree.bgm.output_folder and output_folder(tree.bgm) == folder:
            raise UserError(f"The node group {tree.name} writes to {folder}, too. Choose another folder under Output.")
    _check_job(folder)
    check_folder(folder, clip_path)
    plate, plate_to_make = _plate(settings, folder)
    first, last = numbers or frame_numbers(settings, scene)
    if plate and settings.plate_motion != "PICTURE":
        plate["track"] = str(_write_track(settings, folder, first, last))
    model = "default"
    if settings.model_source == "FILE":
        model_path = absolute(settings.model_path)
        if not settings.model_path or not model_path.is_file():
            raise UserError(
                f"There is no model file {settings.model_path or 'chosen'}. Choose one, or the default model."
            )
        model = str(model_path)
    data = {
        "version": 1,
        "footage": {"path": str(clip_path), "color_space": color_space(settings.clip)},
        "frames": [first, last],
        "plate": plate,
        "model": model,
        "device": device if settings.device == "PREFERENCES" else settings.device,
        "precision": settings.precision,
        "detail": round(settings.detail, 4),
        "output": {
            "folder": str(folder),
            "format": settings.format,
            "foreground": settings.use_foreground,
            "matte": settings.use_matte,
            "error": settings.use_error,
            "deliver": sorted(settings.deliver),
            "fps": delivered_fps(settings, scene),
        },
    }
    return JobRequest(data, folder, clip_path, plate_to_make)


def delivered_fps(settings: BGM_PG_matting, scene: bpy.types.Scene) -> float:
    """The rate of delivered movies: the scene's for images, 0 (the footage's own) for a movie."""
    is_movie = settings.clip is not None and settings.clip.source == "MOVIE"
    return 0.0 if is_movie else scene.render.fps / scene.render.fps_base


def _check_job(folder: Path) -> None:
    """Raise UserError where a folder holds a person's own job file: YAML, which only the engine reads."""
    try:
        _read_job(folder)
    except ValueError:
        raise UserError(
            f"{folder} holds a job.yaml that Blender did not write. Choose another folder under Output, or move that "
            "file."
        ) from None
    except OSError:
        pass  # no job


def check_folder(folder: Path, clip_path: Path) -> None:
    """Raise UserError where a folder holds finished frames of other footage that is still there."""
    try:
        other = Path(_read_job(folder)["footage"]["path"])
    except (OSError, ValueError, LookupError, TypeError):
        return  # no job of Blender's
    has_frames = any(any(folder.glob(files)) for files in ("records/*.jsonl", "alpha/*"))
    if has_frames and other != clip_path and other.is_file() and not _is_copy(clip_path, other):
        raise UserError(
            f"{folder} holds the matte of {other}. Choose another folder under Output, or delete that matte."
        )


def _is_copy(path: Path, other: Path) -> bool:
    """Whether a file is another's copy, its project's folder having been copied: told as the engine tells files."""
    if not path.is_file():
        return False
    # To the microsecond, which most copies keep
    ours, theirs = ((file.name, file.stat().st_size, file.stat().st_mtime_ns // 1000) for file in (path, other))
    return ours == theirs


def _read_job(folder: Path) -> Any:
    return json.loads((folder / "job.yaml").read_text(encoding="utf-8"))


def check_clip(clip: bpy.types.MovieClip | None) -> Path:
    """The clip's file.

    Raises:
        UserError: no clip, or its file is missing, or has a path that is no UTF-8.
    """
    if clip is None:
        raise UserError("There is no clip. Choose the footage to pull a matte from.")
    path = file_path(clip)
    if (shown := footage.readable(path)) != str(path):
        raise UserError(f"The clip's path is not in UTF-8: {shown}. Rename the file or its folder.")
    if not path.is_file():
        raise UserError(f"The clip's file is missing: {path}. Find it with File > External Data.")
    return path


def scene_fits(scene: bpy.types.Scene, clip: bpy.types.MovieClip) -> bool:
    """Whether the scene has the clip's size, rate and frames; quick enough for a panel."""
    render = scene.render
    if clip.frame_duration and not _has_frames(scene, clip):
        return False
    if clip.fps and abs(clip.fps - render.fps / render.fps_base) > 0.01:
        return False
    if render.resolution_percentage != 100:  # the compositor scales nothing: less is the picture's middle
        return False
    return tuple(clip.size) in ((render.resolution_x, render.resolution_y), _UNKNOWN_SIZE)


def fit_scene(scene: bpy.types.Scene, clip: bpy.types.MovieClip) -> None:
    """Give the scene the clip's size, rate and frames.

    Raises:
        UserError: the scene is linked: what is done to it is gone when the file is opened again.
    """
    if not is_own(scene):
        raise UserError(f"The scene {scene.name} is linked from another file. Set it there, or make it local.")
    scene.render.resolution_x, scene.render.resolution_y = clip_size(clip)
    scene.render.resolution_percentage = 100
    if clip.fps:  # not known of images
        scene.render.fps = max(1, round(clip.fps))
        scene.render.fps_base = scene.render.fps / clip.fps
    path = file_path(clip)
    if not footage.is_still(clip, path):  # which any frames show
        count = footage.last_number(clip, path) - footage.first_number(clip, path) + 1
        scene.frame_start, scene.frame_end = _scene_frames(clip, count)


def _has_frames(scene: bpy.types.Scene, clip: bpy.types.MovieClip) -> bool:
    """Whether the scene has the clip's frames; Blender counts images up to their first gap, the disk knows the last."""
    path = file_path(clip)
    if footage.is_still(clip, path):
        return True
    first, last = _scene_frames(clip, clip.frame_duration)
    if scene.frame_start != first or clip.source == "MOVIE" or scene.frame_end <= last:
        return (scene.frame_start, scene.frame_end) == (first, last)
    number = footage.to_number(clip, path, scene.frame_end)
    return footage.with_number(path, number).is_file() and not footage.with_number(path, number + 1).is_file()


def _scene_frames(clip: bpy.types.MovieClip, count: int) -> tuple[int, int]:
    """The scene frames that show a clip of `count` frames; none below 0, which a scene cannot have."""
    path = file_path(clip)
    first = footage.to_scene(clip, path, footage.first_number(clip, path))
    return max(first, 0), max(first + count - 1, 0)


def is_size_known(clip: bpy.types.MovieClip) -> bool:
    """Whether Blender says the clip's size; of one of just 256 x 256 this is not sure, see `clip_size`."""
    return tuple(clip.size) != _UNKNOWN_SIZE


def clip_size(clip: bpy.types.MovieClip) -> tuple[int, int]:
    """Width and height of the clip's file.

    After Save As, Blender may say 256 x 256, and no frames, of a clip with an offset that shows nothing at frame 1.
    """
    if is_size_known(clip) or not file_path(clip).is_file():
        return tuple(clip.size)
    fresh = bpy.data.movieclips.load(str(file_path(clip)))
    size = tuple(fresh.size)
    bpy.data.movieclips.remove(fresh)
    return size


def color_space(datablock: bpy.types.MovieClip | bpy.types.Image) -> str:
    """The engine's name for a datablock's colour space."""
    name = datablock.colorspace_settings.name
    return COLOR_SPACES.get(name, name)


def is_scene_linear(datablock: bpy.types.MovieClip | bpy.types.Image) -> bool:
    """Whether its values are proportional to light, by the names in Blender's configurations and the ACES ones."""
    return _LINEAR.search(datablock.colorspace_settings.name) is not None


def _plate(settings: BGM_PG_matting, folder: Path) -> tuple[dict[str, Any], Path | None]:
    """The job's plate, and the file to make it into where it comes from the clip."""
    plate = {"align": "auto" if settings.plate_align else "off", "match": settings.plate_match}
    source = settings.plate_source
    if source == "NONE":
        return {}, None
    if source == "FROM_CLIP":
        path = plate_file(settings, folder, clip_numbers(settings.clip))
        plate |= {"path": str(path), "color_space": color_space(settings.clip)}
        shot = footage.modified(settings.clip, file_path(settings.clip))
        return plate, None if path.is_file() and path.stat().st_mtime >= shot else path
    datablock = settings.plate_image if source == "IMAGE" else settings.plate_clip
    if datablock is None:
        raise UserError("There is no clean plate. Choose one, or set Clean Plate to No Plate.")
    if source == "IMAGE" and datablock.source == "TILED":
        raise UserError(f"The plate {datablock.name} is tiled (UDIM). Choose a single picture.")
    if source == "IMAGE" and datablock.source == "VIEWER":  # stays one when it is saved
        raise UserError(
            f"The plate {datablock.name} shows another picture with each render. Save it, and choose the file."
        )
    path = (
        _packed_image_file(datablock, folder) if source == "IMAGE" and datablock.packed_file else file_path(datablock)
    )
    if source == "IMAGE" and (datablock.source not in {"FILE", "SEQUENCE", "MOVIE"} or datablock.is_dirty):
        raise UserError(f"The plate {datablock.name} has changes that are not on disk. Save the image first.")
    if not path.is_file():
        raise UserError(f"The plate's file is missing: {path}. Find it with File > External Data.")
    plate |= {"path": str(path), "color_space": color_space(datablock)}
    if source == "CLIP":
        plate["moving"] = settings.plate_moving
    return plate, None


def plate_file(settings: BGM_PG_matting, folder: Path, numbers: tuple[int, int]) -> Path:
    """Where the plate goes that is made from the clip, in the clip's own encoding; EXR where it may be floats.

    Another clip's, that of other frames of it, or of the clip read in another colour space, is another file.
    """
    path, space = file_path(settings.clip), settings.clip.colorspace_settings.name
    is_float = is_scene_linear(settings.clip) or path.suffix.lower() in FLOAT_FILES
    key = hashlib.sha256(f"{path} {space} {numbers}".encode()).hexdigest()[:8]
    return folder / "plate" / f"from_clip_{key}{'.exr' if is_float else '.png'}"


def _write_track(settings: BGM_PG_matting, folder: Path, first: int, last: int) -> Path:
    """Write what Blender's tracking says of the plate's motion: all of it, whichever frame numbers are wanted.

    Raises:
        UserError: the track does not exist or does not cover a frame that is wanted, or the output folder cannot be
            written.
    """
    clip, size = settings.clip, clip_size(settings.clip)
    start = footage.first_number(clip, file_path(clip))
    clip_frame = 1 - start - clip.frame_offset  # to be added to a frame number
    reference = settings.plate_frame - clip.frame_start + 1
    motion = {}
    for number in range(start, footage.last_number(clip, file_path(clip)) + 1):
        try:
            matrix = tracks.homography(
                clip, size, settings.plate_motion, settings.plate_plane_track, reference, number + clip_frame
            )
            motion[str(number)] = matrix.ravel().tolist()
        except UserError:
            if first <= number <= last:
                raise
    path = folder / "plate" / "track.json"
    _write(path, json.dumps(motion).encode())
    return path


def _packed_image_file(image: bpy.types.Image, folder: Path) -> Path:
    """Write a packed image's file where the engine can read it; one drawn in Blender has a name without an ending."""
    drawn = f"{bpy.path.clean_name(image.name)}{'.exr' if image.is_float else '.png'}"
    path = folder / "plate" / (bpy.path.basename(image.filepath) or drawn)
    _write(path, image.packed_file.data)
    return path


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; one that is there already stays, for the engine knows a plate by its time."""
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")  # another Blender may write the same
    try:
        if path.is_file() and path.read_bytes() == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"The output folder {path.parent} cannot be written: {error.strerror or error}. Choose another."
        ) from None
    finally:
        with suppress(OSError):  # half of it, on a full disk
            partial.unlink(missing_ok=True)


_register_classes, _unregister_classes = bpy.utils.register_classes_factory((BGM_PG_finding, BGM_PG_matting))


def register() -> None:
    _register_classes()
    bpy.types.NodeTree.bgm = bpy.props.PointerProperty(type=BGM_PG_matting)


def unregister() -> None:
    del bpy.types.NodeTree.bgm
    _unregister_classes()
