# SPDX-License-Identifier: GPL-3.0-or-later
"""The matte in the video sequencer: an image strip with alpha over its source strip, frame for frame in sync."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import bpy

from . import footage, node, settings
from .errors import UserError

FOOTAGE = {"MOVIE", "IMAGE"}  # the types of strips that can be matted
CHANNELS = 128  # of Blender's sequencer


def all_strips(scene: bpy.types.Scene) -> Any:
    """A sequencer's strips, those inside meta strips too; their names are unique in the scene."""
    return scene.sequence_editor.strips_all


def _around(scene: bpy.types.Scene, strip: bpy.types.Strip) -> Any:
    """What a strip lies in: a meta strip, else the scene's sequencer. Either has strips and channels."""
    metas = (other for other in all_strips(scene) if other.type == "META")
    return next((meta for meta in metas if strip.name in meta.strips), scene.sequence_editor)


def active_strip(scene: bpy.types.Scene) -> bpy.types.Strip | None:
    """The strip that panel and buttons are about: the active one; of an active cut-out its source, if there is one."""
    strip = scene.sequence_editor.active_strip if scene.sequence_editor is not None else None
    if strip is None or strip.type != "IMAGE":
        return strip
    folder = settings.absolute(strip.directory)
    among = _around(scene, strip).strips
    for tree in settings.matting_trees():
        if folder.name == "matte" and folder.parent == node.result_folder(tree):
            sources = [other for other in _source_strips(scene, tree) if other.name in among]
            return _source_of(strip, sources)
    return strip


def strip_file(strip: bpy.types.Strip) -> Path:
    """The file of a movie strip, the first file of an image strip, absolute.

    Raises:
        UserError: the strip is of another kind.
    """
    if strip.type == "MOVIE":
        return settings.absolute(strip.filepath)
    if strip.type == "IMAGE" and strip.elements:
        return settings.absolute(strip.directory) / strip.elements[0].filename
    raise UserError(f"The strip {strip.name} is neither a movie nor images. Choose one that is.")


def group_for_strip(scene: bpy.types.Scene, strip: bpy.types.Strip) -> bpy.types.NodeTree:
    """The matting group of a strip's footage; made, with its clip, where there is none.

    Raises:
        UserError: the strip's file is missing, or it is of another kind; or the scene is linked.
    """
    _check_own(scene)
    path = strip_file(strip)
    if not path.is_file():
        raise UserError(f"The strip's file is missing: {path}. Find it with File > External Data.")
    check_rate(scene, strip)
    tree = _group_of(path)
    if tree is not None:
        return tree
    clips = set(bpy.data.movieclips)
    clip = bpy.data.movieclips.load(str(path), check_existing=True)
    if clip not in clips:
        if (strip.filepath if strip.type == "MOVIE" else strip.directory).startswith("//"):
            clip.filepath = node.storable(path)  # the project may move, too
        clip.colorspace_settings.name = strip.colorspace_settings.name
    tree = node.new_group(clip)
    tree.use_fake_user = True  # no node holds it
    tree.bgm.use_matte = True  # what a strip of it shows, a farm's too
    return tree


def _check_own(scene: bpy.types.Scene) -> None:
    if not settings.is_own(scene):
        raise UserError(
            f"The scene {scene.name} is linked from another file. Matte its strips there, or make it local."
        )


def find_group(strip: bpy.types.Strip) -> bpy.types.NodeTree | None:
    """The matting group of a strip's footage, where there is one."""
    return _group_of(strip_file(strip)) if strip.type in FOOTAGE else None


def color_space_words(strip: bpy.types.Strip, clip: bpy.types.MovieClip) -> list[str]:
    """That a strip and its clip, which may be in use elsewhere, are read differently; nothing where they are not."""
    own, used = strip.colorspace_settings.name, clip.colorspace_settings.name
    if own == used:
        return []
    return [
        f"The strip {strip.name} is read as {own}, but its clip {clip.name} as {used}, which the matte follows. Give "
        "both the same colour space, the clip's in the clip editor, and matte the strip again."
    ]


def has_cut_out(tree: bpy.types.NodeTree) -> bool:
    """Whether `add_matte_strip` may find images; quick enough for a panel."""
    folder = node.result_folder(tree)
    return folder is not None and (folder / "matte").is_dir() and node.are_of_clip(tree)


def source_strip(
    scene: bpy.types.Scene, tree: bpy.types.NodeTree, name: str = "", others: Collection[str] = ()
) -> bpy.types.Strip | None:
    """The strip that shows a group's clip: the one of that name, else the selected one, else any, but none of `others`.

    Args:
        others: names that are not the strip's, should it have been renamed.
    """
    shown = (strip for strip in _source_strips(scene, tree) if strip.name not in others)
    return max(shown, key=lambda strip: (strip.name == name, strip.select), default=None)


def add_matte_strip(
    scene: bpy.types.Scene, tree: bpy.types.NodeTree, source: bpy.types.Strip | None
) -> bpy.types.Strip:
    """Lay an image strip of the group's cut-out over `source`, trimmed as it is, or where the clip starts.

    One that is there already is used again, and keeps the look that it has been given; if an editor has cut it, all
    its pieces are, where they are. Where `source` repeats a number, leaves some out or holds its first or last, the
    cut-out does. `source` is muted: the cut-out over its own footage would show the footage.

    Raises:
        UserError: no cut-out has been written of what is shown, the source strip's frames cannot be told, or no channel
            above it is free; or the scene is linked.
    """
    _check_own(scene)
    files = _cut_out_files(tree)
    if not files:
        raise UserError("There is no cut-out to show. Switch on Cut-Out under Output and matte the clip again.")
    clip = tree.bgm.clip
    numbers: Sequence[int] = range(min(files), max(files) + 1)
    if source is not None:
        check_rate(scene, source)
        around, lowest = _around(scene, source), source.channel + 1
        start, numbers = _content_start(source), _content_numbers(source)
        frames = _frames(source)
    elif clip is not None:
        around, lowest = scene.sequence_editor or scene.sequence_editor_create(), 1
        start = footage.to_scene(clip, settings.file_path(clip), numbers[0])
        frames = range(start, start + len(numbers))
    else:
        raise UserError("There is no clip. Choose the footage to pull a matte from.")
    there = [i for i, number in enumerate(numbers) if number in files]
    shown = [frame for frame in frames if _held(numbers, frame - start) in files]
    if not shown:
        raise UserError("There is no cut-out of the frames that the strip shows. Matte the strip first.")
    among, first, frames = around.strips, files[numbers[there[0]]], range(shown[0], shown[-1] + 1)
    sources = [other for other in _source_strips(scene, tree) if other.name in among]
    images = (strip for strip in among if strip.type == "IMAGE" and settings.absolute(strip.directory) == first.parent)
    # A source that has been cut is all its pieces, which may have one cut-out
    pieces = [other for other in sources if _content(other) == _content(source)] if source is not None else [None]
    strips = [strip for strip in images if _overlaps(strip, frames) and _source_of(strip, sources) in pieces]
    shut: set[int] = set()  # channels that would not show it, or not let go of it
    if strips:
        lowest = strips[0].channel
        others = [_frames(piece) for piece in pieces if piece != source]  # of which it keeps what it shows
        kept = [*frames, *(frame for frame in _frames(strips[0]) if any(frame in other for other in others))]
        frames = range(min(kept), max(kept) + 1)
    else:
        shut = {i for i, channel in enumerate(around.channels) if channel.mute or channel.lock}
    cuts = [(strip.channel, _frames(strip)) for strip in strips]
    if len(strips) < 2:  # else an editor has cut it: each piece stays where it is
        cuts = [(_free_channel([other for other in among if other not in strips], shut, lowest, frames), frames)]
    if not strips:
        strip = among.new_image(
            name=f"{tree.name} Matte",
            filepath=node.storable(first),
            channel=lowest,
            frame_start=start,
            fit_method="ORIGINAL",
        )
        strip.blend_type = "ALPHA_OVER"
        if source is not None:
            _copy_look(strip, source)
        strips = [strip]
    # With those that are missing between others: what follows keeps its place
    names = [footage.with_number(first, number).name for number in numbers[there[0] : there[-1] + 1]]
    for strip, (channel, cut) in zip(strips, cuts, strict=True):
        strip.mute = strip.mute and len(strips) > 1
        _fill(strip, names, start + there[0])
        set_frames(strip, cut.start, cut.stop)
        strip.channel = channel  # 4.5 hangs where it moves down onto a taken one
        _set_encoding(strip, first, clip)
    if source is not None:
        source.mute = True
    return strips[0]


def _cut_out_files(tree: bpy.types.NodeTree) -> dict[int, Path]:
    """The images of a group's cut-out, by frame number; none of an older matte."""
    folder = node.result_folder(tree)
    if folder is None or not node.are_of_clip(tree):
        return {}
    files = {footage.file_number(path): path for path in node.find_sequence(folder / "matte")}
    made = node.made_with(folder)
    return {number: path for number, path in files.items() if "matte" in made.get(number, {"matte"})}


def missing_words(tree: bpy.types.NodeTree, source: bpy.types.Strip) -> list[str]:
    """That some frames that a strip shows are not matted, after a job that was cancelled; nothing where all are."""
    files, numbers, start = _cut_out_files(tree), _content_numbers(source), _content_start(source)
    frames = _frames(source)
    missing = [frame for frame in frames if _held(numbers, frame - start) not in files]
    if not missing:
        return []
    return [
        f"There is no cut-out yet for {len(missing)} of the {len(frames)} frames of the strip {source.name}, from "
        f"{missing[0]} on: they show nothing. Matte the strip."
    ]


def show_anew(folder: Path, clip: bpy.types.MovieClip | None) -> None:
    """Have strips of an output folder's images, which Blender keeps in memory, read them from disk again.

    Those of the cut-out show the format that was written last, where that has all of their images.
    """
    cut_outs = node.find_sequence(folder / "matte")
    for scene in bpy.data.scenes:
        for strip in all_strips(scene) if scene.sequence_editor is not None else ():
            if strip.type != "IMAGE" or folder not in (directory := settings.absolute(strip.directory)).parents:
                continue
            if cut_outs and directory == folder / "matte" and settings.is_own(scene):
                _follow_format(strip, cut_outs, clip)
            strip.invalidate_cache("RAW")


def _follow_format(strip: bpy.types.Strip, files: list[Path], clip: bpy.types.MovieClip | None) -> None:
    """Have a strip show these images, by their numbers; left as it is where they lack one that it shows."""
    new = {path.name for path in files}
    names = {name: Path(name).with_suffix(files[0].suffix).name for name in (e.filename for e in strip.elements)}
    if any(to not in new and (files[0].parent / name).is_file() for name, to in names.items()):
        return
    for element in strip.elements:
        element.filename = names[element.filename]
    _set_encoding(strip, files[0], clip)


def _set_encoding(strip: bpy.types.Strip, file: Path, clip: bpy.types.MovieClip | None) -> None:
    """Have a strip of a cut-out read its images as they are written."""
    strip.alpha_mode = "PREMUL" if file.suffix == ".exr" else "STRAIGHT"
    node.set_color_space(strip, node.color_space("foreground", file, clip))


def _source_of(cut_out: bpy.types.Strip, sources: list[bpy.types.Strip]) -> bpy.types.Strip | None:
    """Which of the strips that show a cut-out's footage it is for: at the same time next below it, else above it."""
    return min(
        (source for source in sources if _overlaps(source, _frames(cut_out))),
        key=lambda source: (source.channel > cut_out.channel, abs(source.channel - cut_out.channel)),
        default=None,
    )


def _frames(strip: bpy.types.Strip) -> range:
    """The scene frames at which a strip is shown."""
    return range(strip.frame_final_start, strip.frame_final_end)


def _overlaps(strip: bpy.types.Strip, frames: range) -> bool:
    return strip.frame_final_start < frames.stop and strip.frame_final_end > frames.start


def _fill(strip: bpy.types.Strip, files: list[str], start: int) -> None:
    """Have an image strip consist of these files of its folder, from scene frame `start` on."""
    names = _CONTENT if hasattr(strip, "content_start") else _OLD_CONTENT
    for name, value in zip(names, (0, 0, start), strict=True):
        setattr(strip, name, value)
    elements = strip.elements  # adding and removing copy them all: of thousands, no more than has to be
    for element, file in zip(elements, files, strict=False):
        element.filename = file
    for file in files[len(elements) :]:
        elements.append(file)
    while len(elements) > len(files):
        elements.pop(-1)


def _copy_look(strip: bpy.types.Strip, source: bpy.types.Strip) -> None:
    """Place, crop, flip and grade a strip as `source` is."""
    parts = ((strip, source, _GRADE), (strip.transform, source.transform, _PLACE), (strip.crop, source.crop, _CROP))
    for target, origin, names in parts:
        for name in names:
            setattr(target, name, getattr(origin, name))


def uncopied_words(scene: bpy.types.Scene, source: bpy.types.Strip, strip: bpy.types.Strip) -> list[str]:
    """What its cut-out does not have of `source`: animation, modifiers, effect strips; nothing where it has no such."""
    parts, words = [], []
    if node.is_animated(source) and not node.is_animated(strip):
        parts.append("keyframes or drivers")
    if source.modifiers and not strip.modifiers:
        parts.append("modifiers")
    if parts:
        words.append(
            f"The strip {source.name} has {' and '.join(parts)}, which its cut-out {strip.name} does not have. Copy "
            "them over if you want them."
        )
    if effects := ", ".join(
        other.name for other in _effects_of(_around(scene, source).strips, source) if not other.mute
    ):
        words.append(
            f"Effect strips still show the strip {source.name} whole, with its background: {effects}. Mute them, and "
            f"make them again from its cut-out {strip.name} if you want them."
        )
    return words


def _effects_of(among: Any, strip: bpy.types.Strip) -> list[bpy.types.Strip]:
    """The effect strips that show a strip, through others too."""
    direct = [other for other in among if strip in (getattr(other, f"input_{i}", None) for i in (1, 2))]
    return [*direct, *(further for effect in direct for further in _effects_of(among, effect))]


def set_frames(strip: bpy.types.Strip, first: int, end: int) -> None:
    """Show a strip from scene frame `first` to before `end`."""
    left, right = ("left_handle", "right_handle") if hasattr(strip, "left_handle") else _OLD_HANDLES
    setattr(strip, right, end)
    setattr(strip, left, first)


_GRADE = ("use_flip_x", "use_flip_y", "blend_alpha", "color_multiply", "multiply_alpha", "color_saturation")
_PLACE = ("offset_x", "offset_y", "scale_x", "scale_y", "rotation", "origin", "filter")
_CROP = ("min_x", "max_x", "min_y", "max_y")
_CONTENT = ("content_trim_start", "content_trim_end", "content_start")  # from 5.2 on
_OLD_CONTENT = ("animation_offset_start", "animation_offset_end", "frame_start")
_OLD_HANDLES = ("frame_final_start", "frame_final_end")


def check_rate(scene: bpy.types.Scene, strip: bpy.types.Strip) -> None:
    """Raise UserError where a movie strip does not show one of its frames per scene frame."""
    rate = scene.render.fps / scene.render.fps_base
    if strip.type == "MOVIE" and strip.fps and abs(strip.fps - rate) > 0.01:  # 0 while the file is out of reach
        raise UserError(
            f"The movie runs at {strip.fps:.2f} frames a second, the scene at {rate:.2f}: their frames would drift "
            "apart. Set the scene's frame rate to the movie's."
        )
    if len(strip.retiming_keys) > 0:
        raise UserError(f"The strip {strip.name} is retimed. Matte it at its own speed: reset its retiming first.")
    if strip.use_reverse_frames or strip.strobe > 1:
        raise UserError(
            f"The strip {strip.name} is reversed or strobed. Switch off Reverse Frames and Strobe, matte it, and set "
            "them on both strips."
        )


def shown_numbers(strip: bpy.types.Strip, clip: bpy.types.MovieClip) -> tuple[int, int]:
    """First and last of the footage's frame numbers that a strip shows, those that it holds included.

    Raises:
        UserError: its footage has none of them, or they cannot be told.
    """
    numbers, start = _content_numbers(strip), _content_start(strip)
    shown = [_held(numbers, frame - start) for frame in _frames(strip)]
    clip_first, clip_last = settings.clip_numbers(clip)
    first, last = max(min(shown), clip_first), min(max(shown), clip_last)
    if first > last:
        raise UserError(f"The strip {strip.name} shows no frame of its footage. Move its handles back over it.")
    return first, last


def numbers_on_strips(tree: bpy.types.NodeTree) -> tuple[int, int] | None:
    """First and last frame number that a file's strips show of a group's clip.

    None where none shows it, or where it cannot be told of one which it shows.
    """
    shown: list[int] = []
    for scene in bpy.data.scenes:
        for strip in _source_strips(scene, tree):
            try:
                check_rate(scene, strip)
                shown += shown_numbers(strip, tree.bgm.clip)
            except UserError:
                return None
    return (min(shown), max(shown)) if shown else None


def _group_of(path: Path) -> bpy.types.NodeTree | None:
    trees = [tree for tree in settings.matting_trees() if tree.bgm.clip and settings.is_own(tree)]
    return next((tree for tree in trees if settings.file_path(tree.bgm.clip) == path), None)


def _source_strips(scene: bpy.types.Scene, tree: bpy.types.NodeTree) -> list[bpy.types.Strip]:
    """The scene's strips, those inside meta strips too, that show a group's clip."""
    if tree.bgm.clip is None or scene.sequence_editor is None:
        return []
    path = settings.file_path(tree.bgm.clip)
    return [strip for strip in all_strips(scene) if strip.type in FOOTAGE and _shows(strip, path)]


def _shows(strip: bpy.types.Strip, path: Path) -> bool:
    file = strip_file(strip)
    if strip.type == "MOVIE":
        return file == path
    return file.parent == path.parent and path.name in {element.filename for element in strip.elements}


def _content_start(strip: bpy.types.Strip) -> int:
    """The scene frame of a strip's first content frame, before its handles trim it."""
    return int(round(strip.content_start if hasattr(strip, "content_start") else strip.frame_start))


def _content_numbers(strip: bpy.types.Strip) -> Sequence[int]:
    """The footage's frame number of each content frame of a strip; between a sequence's numbers there may be gaps.

    Raises:
        UserError: the images are not of one sequence, or not in its order.
    """
    first, end = _content_trim(strip), _content_trim(strip) + strip.frame_duration
    if strip.type == "MOVIE":
        return range(1 + first, 1 + end)
    names = [element.filename for element in strip.elements]
    numbers = [footage.file_number(Path(name)) for name in names]
    expected = [footage.with_number(Path(names[0]), number).name for number in sorted(numbers)]
    if names != expected:
        name, wanted = next(pair for pair in zip(names, expected, strict=True) if pair[0] != pair[1])
        raise UserError(
            f"The strip {strip.name} must show images of one sequence, in its order: expected {wanted}, got {name}. "
            "Make a strip of each sequence."
        )
    return numbers[first:end]


def _held(numbers: Sequence[int], index: int) -> int:
    """The number that a strip of these shows; beyond its ends it holds the first and the last."""
    return numbers[min(max(index, 0), len(numbers) - 1)]


def _content(strip: bpy.types.Strip) -> tuple[Any, ...]:
    """Where a strip lies, and what it is made of: the same of all pieces of one that was cut."""
    names = [element.filename for element in strip.elements] if strip.type == "IMAGE" else []
    return strip.channel, _content_start(strip), _content_trim(strip), strip.frame_duration, names


def _content_trim(strip: bpy.types.Strip) -> int:
    return strip.content_trim_start if hasattr(strip, "content_trim_start") else strip.animation_offset_start


def _free_channel(among: Any, shut: set[int], lowest: int, frames: range) -> int:
    """The lowest channel from `lowest` on, none of `shut`, that is empty of these strips in these scene frames.

    Raises:
        UserError: there is none.
    """
    taken = shut | {strip.channel for strip in among if _overlaps(strip, frames)}
    channel = next((channel for channel in range(lowest, CHANNELS + 1) if channel not in taken), None)
    if channel is None:
        raise UserError(
            f"No channel above {lowest - 1} is free for the cut-out; {CHANNELS} is the last. Move strips down, then "
            "press Add Existing Matte: what is matted is kept."
        )
    return channel
