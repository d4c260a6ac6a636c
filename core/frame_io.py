# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames in and out: movies (see `movies.py`), image sequences and stills, at the precision the file has. No bpy.

Frame numbers are the footage's own: an image sequence's are its files' numbers, a movie's count from 1. Pixels are
those that Blender reads from the same file: as stored, whatever their sample aspect; a movie's turned by its rotation
tag, converted by its tagged matrix and range (BT.601 and limited where untagged), chroma repeated rather than blended.
Nothing here trusts a file: what it claims is checked before memory is taken for it, and no file opens another.
"""

from __future__ import annotations

import io
import os
import re
import struct
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import OpenEXR
import OpenImageIO as oiio
from isal import isal_zlib

from .color import Pixels, seen_as
from .errors import FootageError
from .files import write_whole
from .footage import IMAGE_EXTENSIONS, Footage, Frame, check_size, file_identity
from .movies import MovieFootage

MAX_PARTS = 64  # of a multipart EXR that are searched for colour
MAX_SPAN = 8  # channels that are decoded at once to get at R, G and B among them

_WIDE = {"int", "uint", "int64", "uint64"}  # OpenImageIO's names for more than 16 bits
_LOG = {"KodakLog", "Printing density"}  # what OpenImageIO and DPX call film's encodings
_REC709 = 0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329  # x and y of red, green, blue and white
# X, Y and Z of red, green and blue, as ICC profiles have them (of a white that is D50)
_REC709_XYZ = 0.4361, 0.2225, 0.0139, 0.3851, 0.7169, 0.0971, 0.1431, 0.0606, 0.7139

oiio.attribute("openexr:core", 1)  # OpenEXR's newer reader: a quarter less time where each row is deflated by itself

# Blender's rule: the last digits before the ending, as in shot_v2.1001.exr and shot_1001_main.exr
_NUMBERED = re.compile(r"^(?P<prefix>.*?)(?P<number>\d{1,9})(?P<suffix>\D*\.[^.]+)$")  # longer is a time
_PLACE_OF_NUMBER = re.compile(r"(#+|%0?\d*d)(?=[^\d#%]*\.[^.]+$)")  # as in shot.####.png and shot_%04d_main.png


def open_footage(path: str | Path, color_space: str = "auto") -> Footage:
    """Open a movie, an image sequence (any one of its files, its folder, or shot.####.png) or a still image.

    Raises:
        FootageError: absent, of an unknown kind, empty, or damaged beyond reading its header.
    """
    path = Path(path)
    images: list[Path] = []
    if os.path.isdir(path):  # pathlib raises an OSError at names that are too long
        names = _names(path)
        images = sorted(path / n for n in names if Path(n).suffix.lower() in IMAGE_EXTENSIONS and n[0] != ".")
        if not images:
            raise FootageError("a folder with images", f"{path}, which holds none", "Name the footage itself")
        path = images[0]
    elif os.path.isdir(path.parent) and not os.path.exists(path) and (place := _PLACE_OF_NUMBER.search(path.name)):
        numbered = path.with_name(path.name[: place.start()] + "0" + path.name[place.end() :])
        files = _sequence_files(numbered)
        if not files:
            raise FootageError(f"numbered files like {path.name}", f"none in {path.parent}", "Name one of the files")
        path = files[min(files)]
    _check_exists(path)
    if path.suffix.lower() not in IMAGE_EXTENSIONS:
        return MovieFootage(path, color_space)
    footage = SequenceFootage(path, _sequence_files(path), color_space)
    left, top, width, height = footage.window
    if footage.window != (0, 0, footage.width, footage.height):
        footage.warnings.append(
            f"{path.name} has a data window of {width} x {height} at {left}, {top} in a picture of {footage.width} x "
            f"{footage.height}, which is what is matted. Blender shows a clip of the data window alone, on which the "
            "matte does not lie: save the frames with one window."
        )
    if others := sorted(set(images) - set(footage.files)):
        footage.warnings.append(
            f"{path.parent} holds other images than {path.name} and those numbered like it, {others[0].name} first: "
            f"{len(others)} left out. Name the one that is the footage."
        )
    return footage


def open_plate(path: str | Path, color_space: str = "auto", moving: bool = False) -> Footage:
    """Open a clean plate: a still (that file only, whatever its name's digits, unless it is `moving`), or a movie.

    Raises:
        FootageError: as `open_footage`.
    """
    path = Path(path)
    with named("plate"):
        _check_exists(path)
        if moving and path.suffix.lower() in IMAGE_EXTENSIONS:
            return SequenceFootage(path, _sequence_files(path), color_space)
        return open_file(path, color_space)


def open_file(path: Path, color_space: str = "auto") -> Footage:
    """Open this file only, whatever its name's digits: a still or a movie.

    Raises:
        FootageError: as `open_footage`.
    """
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        return SequenceFootage(path, {1: path}, color_space)
    return MovieFootage(path, color_space)


@contextmanager
def named(role: str) -> Iterator[None]:
    """Errors within say what they are of, as the plate: not of the footage."""
    try:
        yield
    except FootageError as error:
        raise FootageError(f"for the {role} {error.expected}", error.actual, error.remedy) from None


def _check_exists(path: Path) -> None:
    if os.path.isdir(path):
        raise FootageError("a file", f"the folder {path}", "Name the file in it")
    if not os.path.isfile(path):
        raise FootageError("a file that exists", f"no file {path}", "Check the path")


class SequenceFootage:
    """Numbered image files, or one still as frame 1."""

    def __init__(self, path: Path, files: dict[int, Path], color_space: str = "auto") -> None:
        self.path = path
        self._files = files
        self._identities: dict[int, str] = {}
        self.files: Collection[Path] = files.values()
        self.numbers = sorted(files)
        self.fps = 0.0
        self.warnings: list[str] = []
        with _opened(path) as (_, spec, _):
            self.width, self.height = spec.full_width, spec.full_height
            # Of the pixels that are stored: left, top, width, height
            self.window = spec.x - spec.full_x, spec.y - spec.full_y, spec.width, spec.height
            self.is_float = str(spec.format) in ("half", "float", "double")
            if spec.get_int_attribute("Orientation", 1) > 1:
                self.warnings.append(
                    f"{path.name} is tagged to be turned or mirrored when it is shown. It is read as it is stored, as "
                    "in Blender: save it turned."
                )
            if color_space == "auto" and (tag := _color_tag(spec)):
                self.warnings.append(f"{path.name} is tagged {tag}. Name its colour space.")
        self.color_space = seen_as(color_space, self.is_float)
        missing = self.numbers[-1] - self.numbers[0] + 1 - len(self.numbers)
        if missing:
            self.warnings.append(
                f"{path.parent} lacks {missing} of the frames {self.numbers[0]} to {self.numbers[-1]}; "
                "they are skipped, and Blender shows them as transparent."
            )

    def frames(self, numbers: list[int]) -> Iterator[tuple[int, Frame]]:
        for number in numbers:
            path = self._files[number]
            self.identity(number)
            pixels = read_image(path)
            if (pixels.dtype.kind == "f") != self.is_float:
                kinds = ("whole numbers", "floats")
                raise FootageError(
                    f"every frame in {kinds[self.is_float]}, as {self.path.name}",
                    f"{path} in {kinds[not self.is_float]}",
                    "Replace that frame or split the sequence",
                )
            if pixels.shape[:2] != (self.height, self.width):
                raise FootageError(
                    f"every frame at {self.width} x {self.height}, the size of {self.path.name}",
                    f"{path} of {pixels.shape[1]} x {pixels.shape[0]}",
                    "Replace that frame or split the sequence",
                )
            yield number, Frame(pixels, self.color_space)

    def identity(self, number: int) -> str:
        """As it was before the frame was first read: a file that is replaced during a job is a changed one after it."""
        if number not in self._identities:
            self._identities[number] = file_identity(self._files[number])
        return self._identities[number]


def _sequence_files(path: Path) -> dict[int, Path]:
    match = _NUMBERED.match(path.name)
    if not match:
        return {1: path}
    files: dict[int, Path] = {}
    names = _names(path.parent)
    # Where a file system takes a name in another case, or made of other characters, no file may be spelt as the path
    spelt = str if path.name in names or not path.exists() else _any_spelling
    ours = spelt(match["prefix"]), spelt(match["suffix"])
    for name in names:
        other = _NUMBERED.match(name)
        if other and (spelt(other["prefix"]), spelt(other["suffix"])) == ours:
            number = int(other["number"])
            # Of shot.1.png and shot.01.png the one with as many digits as the path has
            if number not in files or len(other["number"]) == len(match["number"]):
                files[number] = path.parent / name
    return files


def is_numbered_as(path: Path, other: Path) -> bool:
    """Whether a file of this name would be of the same sequence as another."""
    matches = _NUMBERED.match(path.name), _NUMBERED.match(other.name)
    names = [(match["prefix"], match["suffix"]) for match in matches if match]
    return len(names) == 2 and names[0] == names[1] and os.path.realpath(path.parent) == os.path.realpath(other.parent)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise FootageError(
            "a folder whose files can be listed", f"{folder}: {error.strerror}", "Check the drive and its permissions"
        ) from None


def _any_spelling(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any, tuple[int, int, int]]]:
    """An image at the part that holds its colour (the first, where none does): its reader, header and R, G, B."""
    hints = oiio.ImageSpec()
    hints["oiio:UnassociatedAlpha"] = 1  # colour as stored, not multiplied by an alpha that is not ours
    image = None
    try:
        if not _is_unicode(path):
            raise FootageError(
                "file and folder names in UTF-8, which reading images needs", str(path), "Rename files and folders"
            )
        image = oiio.ImageInput.open(str(path), hints)
        if image is None:
            raise FootageError("a readable image", f"{path}: {_words_of(oiio)}", "Check that the file opens elsewhere")
        colorful = (i for i in range(MAX_PARTS) if image.seek_subimage(i, 0) and _find_rgb(image.spec().channelnames))
        image.seek_subimage(next(colorful, 0), 0)
        image.geterror()  # no part after the last: no failure
        spec = image.spec().copy()
        if image.format_name() != "openexr":  # elsewhere they say where a picture lay in a scan, which Blender ignores
            spec.roi_full = spec.roi
        check_size(spec.full_width, spec.full_height, path)
        check_size(spec.width, spec.height, path)
        if spec.deep:
            raise FootageError("a flat image", f"{path}, a deep one", "Flatten it")
        if spec.depth > 1:  # as DDS may be, whatever its name
            raise FootageError("a flat image", f"{path}, a volume of {spec.depth} slices", "Export one as a picture")
        names = spec.channelnames
        channels = _find_rgb(names) or _find_xyz(names) or _find_grey(names)
        if channels is None:
            if image.format_name() == "openexr":
                raise FootageError(
                    "an image with R, G and B, or Y",
                    f"{path} with the channels {', '.join(spec.channelnames[:MAX_SPAN])}",
                    "Render its colour, or name the layer that has it R, G and B",
                )
            channels = (0, 1, 2) if len(spec.channelnames) >= 3 else (0, 0, 0)  # whose names do not tell
        if _WIDE.intersection(str(spec.channelformat(c)) for c in channels):
            raise FootageError(
                "whole numbers up to 16 bits, or floats", f"{path} of wider ones, as identifiers are", "Export as half"
            )
        yield image, spec, channels
    except UnicodeDecodeError:  # names and messages made of a damaged file's bytes
        raise FootageError("a readable image", f"{path}, whose header is damaged", "Render or copy it again") from None
    finally:
        if image is not None:
            image.close()


def _color_tag(spec: Any) -> str:
    """What an image's header says of its colours and nobody follows unless their space is named; "" for nothing."""
    if not _LOG.isdisjoint(spec.get_string_attribute(name) for name in ("oiio:ColorSpace", "dpx:Transfer")):
        return "logarithmic, but read as sRGB"
    if not _find_rgb(spec.channelnames) and _find_xyz(spec.channelnames):
        return "X, Y and Z, but read as R, G and B"
    primaries = spec.getattribute("chromaticities", oiio.TypeDesc("float[8]")) or _REC709
    differs = np.abs(np.subtract(primaries, _REC709)).max() > 0.01
    codes = spec.getattribute("CICP", oiio.TypeDesc("int[4]")) or (1,)  # of ITU-T H.273; 2: unspecified
    profile = spec.getattribute("ICCProfile")
    if differs or codes[0] not in (1, 2) or (profile is not None and _is_of_others(profile.tobytes())):
        return "with other primaries than Rec.709's, but read as if it had these"
    return ""


def _is_of_others(profile: bytes) -> bool:
    """Whether an ICC profile has other primaries than Rec.709's; those without any, as a printer's, have not."""
    tags = range(132, min(132 + 12 * int.from_bytes(profile[128:132]), len(profile)), 12)
    places = {profile[at : at + 4]: int.from_bytes(profile[at + 4 : at + 8]) for at in tags}
    values = b"".join(profile[places[name] + 8 :][:12] for name in (b"rXYZ", b"gXYZ", b"bXYZ") if name in places)
    return len(values) == 36 and np.abs(np.frombuffer(values, ">i4") / 65536 - _REC709_XYZ).max() > 0.01


def _is_unicode(path: Path) -> bool:
    """Whether it can be written as UTF-8; on Linux names are any bytes, which old drives have."""
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def read_image(path: Path) -> Pixels:
    """Read a picture as (H, W, 3) RGB at the file's precision, its whole display window, alpha ignored.

    Raises:
        FootageError: unreadable, truncated, or absurdly large.
    """
    with _opened(path) as (image, spec, channels):
        formats = {str(spec.channelformat(c)) for c in channels}  # another layer's, as depth's, may be wider
        name = formats.pop() if len(formats) == 1 else str(spec.format)
        kind = {"uint8": "uint8", "half": "half", "float": "float", "double": "float"}.get(name, "uint16")
        first, last = min(channels), max(channels)
        part = image.current_subimage()
        if last - first < MAX_SPAN:
            block = image.read_image(part, 0, first, last + 1, kind)
            order = [c - first for c in channels]
            pixels = block if block is None or order == list(range(block.shape[-1])) else block[..., order]
        else:
            planes = [image.read_image(part, 0, c, c + 1, kind) for c in channels]
            pixels = None if any(plane is None for plane in planes) else np.concatenate(planes, -1)
        cut_off = image.format_name() == "jpeg" and not _has_end(path)
        if pixels is None or cut_off:
            actual = f"{path}, which ends in the middle" if cut_off else f"{path}: {_words_of(image)}"
            raise FootageError("a whole, readable image", actual, "Render or copy that frame again")
    return _display_window(pixels, spec)


def _words_of(failed: Any) -> str:
    """What OpenImageIO says first of a failure, of which it may say the same again in other words."""
    return str(failed.geterror()).partition("\n")[0]


def _has_end(path: Path) -> bool:
    """Whether a JPEG's pixels end with the mark of its end; what is missing, its reader fills with grey."""
    data, at = path.read_bytes(), 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":  # a thumbnail before them has its own end
        fills = data[at + 1 : at + 2] == b"\xff"
        at += 1 if fills else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.rfind(b"\xff\xd9") >= at


def _display_window(pixels: Pixels, spec: Any) -> Pixels:
    """Cut the stored pixels to the display window, black where there are none."""
    top, left = spec.y - spec.full_y, spec.x - spec.full_x
    height, width = spec.full_height, spec.full_width
    if (top, left, *pixels.shape[:2]) == (0, 0, height, width):
        return np.ascontiguousarray(pixels)
    window = np.zeros((height, width, 3), pixels.dtype)
    rows = slice(max(top, 0), max(min(top + pixels.shape[0], height), 0))
    columns = slice(max(left, 0), max(min(left + pixels.shape[1], width), 0))
    inside = window[rows, columns]
    inside[...] = pixels[rows.start - top :, columns.start - left :][: inside.shape[0], : inside.shape[1]]
    return window


def _find_rgb(names: tuple[str, ...]) -> tuple[int, int, int] | None:
    """Where R, G, B are: the plain ones, else a combined layer's (Blender's), else those of the first layer."""
    reds = [n for n in names if n.lower().endswith((".r", ".red"))]
    for red in ["R", *sorted(reds, key=lambda n: ".combined." not in n.lower())]:
        layer, dot, _ = red.rpartition(".")
        found = [next((i for i, n in enumerate(names) if n.lower() in _aliases(layer + dot, c)), -1) for c in "rgb"]
        if min(found) >= 0:
            return found[0], found[1], found[2]
    return None


def _find_xyz(names: tuple[str, ...]) -> tuple[int, int, int] | None:
    """Where X, Y, Z are, which Blender shows as R, G, B: colour of the CIE's space, or places in the scene."""
    known = {name.lower(): index for index, name in enumerate(names)}
    return (known["x"], known["y"], known["z"]) if known.keys() >= {"x", "y", "z"} else None


def _find_grey(names: tuple[str, ...]) -> tuple[int, int, int] | None:
    """A grey picture's one channel: Y, else that of a layer (no part of a vector), else the only one there is."""
    known = {name.lower() for name in names}
    greys = [n for n in names if n.lower().endswith(".y") and n.lower()[:-1] + "x" not in known]
    alone = [n for n in names if n.rpartition(".")[2].lower() not in ("a", "alpha")] or list(names)
    for name in ["Y", *greys, *(alone if len(alone) == 1 else [])]:
        if name in names:
            return (names.index(name),) * 3
    return None


def _aliases(layer: str, channel: str) -> tuple[str, str]:
    long = {"r": "red", "g": "green", "b": "blue"}[channel]
    return layer.lower() + channel, layer.lower() + long


# Writing


def write_image(path: Path, pixels: Pixels) -> int:
    """Write a picture whole or not at all, losslessly: under another name first, then renamed.

    Args:
        path: ends in .png (uint8 or uint16) or .exr (float16 or float32).
        pixels: (H, W) one channel, (H, W, 3) RGB or (H, W, 4) RGBA; one-channel EXR is named Y.

    Returns:
        The file's size in bytes.

    Raises:
        OutputError: no space, no permission, or the folder is gone.
    """
    write = _write_png if path.suffix.lower() == ".png" else _write_exr
    return write_whole(path, lambda part: write(part, pixels))


def _write_png(path: Path, pixels: Pixels) -> None:
    """Every row as its difference from the one above (filter 2), deflated by ISA-L: a sixth of libpng's time."""
    height, width = pixels.shape[:2]
    color_type = {1: 0, 3: 2, 4: 6}[pixels.size // (height * width)]
    rows = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, color_type, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in ((b"IHDR", header), (b"IDAT", _deflate(filtered)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(data)) + kind + data)
            file.write(struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind))))


def _deflate(rows: Pixels) -> bytes:
    """The same bytes each time, by a first portion of 8 of them: from a longer one, ISA-L 1.9.1 puts the third byte
    where an address on the stack says, and finds other matches in one picture of some hundreds."""
    encoder, data = isal_zlib.compressobj(1), rows.data.cast("B")
    start = encoder.compress(data[:8]) + encoder.flush(isal_zlib.Z_SYNC_FLUSH)
    return b"".join((start, encoder.compress(data[8:]), encoder.flush()))


def _write_exr(path: Path, pixels: Pixels) -> None:
    write_exr(path, {"Y" if pixels.ndim == 2 else "RGBA"[: pixels.shape[2]]: pixels})


def write_exr(path: Path, channels: dict[str, Pixels]) -> None:
    """Write float16 or float32 pictures of one size, losslessly.

    Args:
        channels: (H, W) as "Y" or "layer.V", (H, W, 3 or 4) as "RGB", "RGBA" or "layer", for layer.R and so on.

    Raises:
        OSError: the file cannot be written.
    """
    # Run lengths: less than half of the time of deflate and wavelets, for a third more on disk where it is grainy
    header = {"type": OpenEXR.scanlineimage, "compression": OpenEXR.RLE_COMPRESSION}
    contiguous = {name: np.ascontiguousarray(pixels) for name, pixels in channels.items()}  # it reads no other
    file = io.BytesIO()  # its own files do not notice a full disk at their end
    OpenEXR.File(header, contiguous).write(file)
    path.write_bytes(file.getbuffer())


def same_shape(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two sizes, height and width first, have the same proportions, so that scaling brings one to the other."""
    return abs(size[1] / size[0] * other[0] / other[1] - 1) <= 0.01


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resample a picture, (H, W, 3), to (height, width, 3) in its own precision and encoding."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = pixels.shape[0] > height
    source = pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels
    result = cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return result.astype(pixels.dtype)
