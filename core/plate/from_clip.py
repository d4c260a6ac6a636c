# SPDX-License-Identifier: GPL-3.0-or-later
"""A clean plate out of the footage itself: what each pixel shows when nobody stands in front of it. No bpy."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from core.color import to_dtype, to_float
from core.errors import FootageError, OutputError
from core.plate.alignment import AlignedPlate, PlateAligner
from core.plate.frames import FrameList, FrameReader, Image, Mask, Matrix, Matte, Plane, View, as_dtype, as_srgb
from core.plate.photometric import PhotometricFit, match_plate

SPILL_BYTES = 512 << 20  # sampled frames beyond this many bytes go to a temporary file instead of memory
TILE_BYTES = 192 << 20  # working memory of the temporal estimate
LOOK_WIDTH = 640  # pixels of the longer side at which the camera is followed (a third of the frame's, if that is more)
SUBJECT = 0.3  # alpha from which a pixel shows the subject; what is softer lies within the margin around it
STILL = 0.25  # pixels of motion below which the camera stands
DRIFT = 0.02  # change of log exposure, more than a fit's own error, from which the samples' light is matched
MOST_EXTENSION = 4  # frames' widths and heights that an extended plate may reach

Progress = Callable[[float, str], None]  # 0 to 1, what is being done
Relight = Callable[[PhotometricFit, Image], Image]  # a frame as the file holds it -> the same in another light


@dataclass(frozen=True)
class ClipPlate:
    """A plate made from a clip.

    Attributes:
        plate: (H, W, 3), the footage's own dtype and encoding.
        coverage: (H, W) float32, 0 to 1, share of the samples in which the pixel was seen empty; where it is 0
            the colour is a guess.
        sigma: temporal noise of one frame, sRGB-encoded units (1 is full scale).
        reference_index: the frame whose view and light it has.
        motions: index of each frame it was made from: frame pixel -> plate pixel.
        locked_off: the camera stood still.
    """

    plate: Image
    coverage: Plane
    sigma: float
    reference_index: int
    motions: dict[int, Matrix]
    locked_off: bool


def sample_indices(count: int, samples: int) -> list[int]:
    """At most `samples` frame indices, spread evenly over 0 to count - 1, the ends included."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(samples, count))})


def plate_from_clip(
    frames: FrameReader | Sequence[Image],
    *,
    matte: Matte | None = None,
    samples: int = 48,
    extend: bool = False,
    view: View = as_srgb,
    relight: Relight | None = PhotometricFit.apply,
    progress: Progress | None = None,
) -> ClipPlate:
    """Estimate the empty background of a clip.

    The samples are aligned with the middle one, the subject is left out by the network's matte, first without and
    then with the plate found so far. Each pixel takes the colour that its samples agree on most often, not their
    middle one, so that a background seen a fifth of the time still wins over a subject whose colours vary; then the
    mean of the samples that agree, so that noise averages out. Where exposure or white balance drift, the samples are
    brought to the middle one's light first.

    Memory: at most SPILL_BYTES of sampled frames (more go to a temporary file of samples * frame size), the samples
    once more at a reduced size, and a few times TILE_BYTES, whatever the clip's length.

    Args:
        frames: the footage; read once, `samples` frames of it.
        matte: a network that finds subjects; without it a subject counts as background where it stays longest.
        samples: how many frames to look at.
        extend: keep all that a moving camera saw, in a plate larger than a frame, instead of the middle frame's view.
        view: turns a frame into sRGB-encoded float32, 0 to 1; needed when the footage is not so encoded.
        relight: changes a frame's light in the footage's own encoding, if that is not sRGB; None leaves it.
        progress: told the share done and the step's name.

    Raises:
        FootageError: no frames, or frames of different sizes.
    """
    reader = FrameList(frames) if isinstance(frames, Sequence) else frames
    if reader.count == 0:
        raise FootageError("footage with at least one frame", "none", "Check the footage's path and frame range")
    report = progress or (lambda share, step: None)
    indices = sample_indices(reader.count, samples)
    first = reader.read(indices[0])
    with tempfile.TemporaryDirectory(prefix="plate-", ignore_cleanup_errors=True) as folder:
        stack = _new_stack((len(indices), *first.shape), first.dtype, Path(folder))
        small = []
        for i, index in enumerate(indices):
            frame = first if i == 0 else reader.read(index)
            if frame.shape != first.shape:
                raise FootageError(
                    f"frames of {first.shape[1]} x {first.shape[0]}",
                    f"{frame.shape[1]} x {frame.shape[0]} at frame {index}",
                    "Use footage of one size",
                )
            if frame.dtype != first.dtype:  # as where a program writes black frames of 16-bit footage with 8
                frame = to_dtype(to_float(frame), first.dtype)
            stack[i] = frame if frame.dtype.kind == "u" else np.nan_to_num(frame, nan=0, posinf=1, neginf=0)
            small.append(_reduced(frame, view))
            report(0.4 * (i + 1) / len(indices), "reading frames")
        subjects = [_no_subject(image) if matte is None else _subject(matte, image, None) for image in small]
        reference = len(indices) // 2
        scale = first.shape[1] / small[0].shape[1]
        motions = camera_motions(small, subjects, reference, scale)
        report(0.5, "following the camera")
        lights = None if relight is None else sample_lights(small, subjects, motions, reference, scale)
        if relight is not None and lights is not None:
            for i, light in enumerate(lights):
                stack[i], small[i] = relight(light, stack[i]), light.apply(small[i])
        locked_off = all(np.array_equal(motion, np.eye(3)) for motion in motions)
        canvas, origin = _canvas(motions, first.shape[:2]) if extend else (first.shape[:2], (0, 0))
        motions = [_shift(*origin) @ motion for motion in motions]
        samples_ = _Samples(stack, subjects, motions, canvas)
        sigma = temporal_noise(samples_, view)
        plate, coverage = consensus(samples_, view, sigma, lambda share: report(0.5 + 0.25 * share, "estimating"))
        if matte is not None:
            again = _subjects_by_plate(matte, samples_, small, fill(plate, coverage == 0), view)
            samples_ = _Samples(stack, again, motions, canvas)
            plate, coverage = consensus(samples_, view, sigma, lambda share: report(0.75 + 0.25 * share, "estimating"))
        del stack, samples_  # closes the mapping before its file goes
    return ClipPlate(
        fill(plate, coverage == 0),
        coverage,
        sigma,
        indices[reference],
        dict(zip(indices, motions, strict=True)),
        locked_off,
    )


class _Samples:
    """The sampled frames as the plate sees them: moved into its view, with what shows the background marked.

    Args:
        stack: (N, H, W, 3) frames.
        subjects: N masks (h, w) of a reduced size, uint8, 1 where the subject is.
        motions: N matrices, frame pixel -> plate pixel.
        shape: the plate's (H, W).
    """

    def __init__(self, stack: Image, subjects: list[Mask], motions: list[Matrix], shape: tuple[int, int]) -> None:
        self.stack = stack
        self.subjects = subjects
        self.motions = motions
        self.shape = shape

    def rows(self, top: int, bottom: int) -> tuple[Image, Mask]:
        """Plate rows: the samples (N, h, W, 3) in the stack's dtype, and (N, h, W), True where they show background."""
        H, W = self.stack.shape[1:3]
        here = _shift(0, -top)
        size = (self.shape[1], bottom - top)
        values = np.empty((len(self.stack), bottom - top, self.shape[1], 3), self.stack.dtype)
        seen = np.empty(values.shape[:3], np.bool_)
        for i, motion in enumerate(self.motions):
            still = np.array_equal(motion, np.eye(3)) and self.shape == (H, W)
            if still:
                values[i] = self.stack[i, top:bottom]
            else:
                values[i] = cv2.warpPerspective(
                    _widened(self.stack[i]), here @ motion, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
                )
            h, w = self.subjects[i].shape
            up = np.diag([W / w, H / h, 1.0])
            # 0 outside the frame, 1 subject, 2 background; a pixel between two kinds is of neither
            kinds = cv2.warpPerspective(2 - self.subjects[i], here @ motion @ up, size, flags=cv2.INTER_NEAREST)
            seen[i] = kinds == 2
        return values, seen


def camera_motions(small: list[Image], subjects: list[Mask], reference: int, scale: float) -> list[Matrix]:
    """Where each sample lies in the reference's view: N matrices, full-size frame pixel -> full-size reference pixel.

    First sample to sample, then each to the plate that this makes: a subject whom no matte has found may have drawn
    some samples after itself, but hardly ever most. A camera that stands still gives the identity for all.

    Args:
        small: samples at a reduced size, uint8.
        subjects: (h, w) uint8, 1 where the subject is.
        reference: index of the reference.
        scale: full size over reduced size.
    """
    motions, sure = _motions_by_chain(small, subjects, reference)
    if _stands_still(motions, sure, small[0].shape[:2], scale):
        return [np.eye(3) for _ in small]
    motions, sure = _motions_by_plate(small, subjects, motions, reference)
    if _stands_still(motions, sure, small[0].shape[:2], scale):
        return [np.eye(3) for _ in small]
    up = _enlargement(scale)
    return [np.asarray(up @ motion @ np.linalg.inv(up)) for motion in motions]


def sample_lights(
    small: list[Image], subjects: list[Mask], motions: list[Matrix], reference: int, scale: float
) -> list[PhotometricFit] | None:
    """What brings each sample to the reference's light, or None where all are within DRIFT of it.

    Each is matched to a key frame, at first the reference; once too little is left in common (a pan), the last sample,
    matched already, becomes the next one.

    Args:
        small: samples at a reduced size, uint8.
        subjects: (h, w) uint8, 1 where the subject is.
        motions: full-size frame pixel -> full-size reference pixel.
        reference: index of the reference.
        scale: full size over reduced size.
    """
    h, w = small[0].shape[:2]
    up = _enlargement(scale)
    lights = [PhotometricFit() for _ in small]
    for order in (range(reference + 1, len(small)), range(reference - 1, -1, -1)):
        key, shown, key_motion = small[reference], 2 - subjects[reference], motions[reference]
        for i in order:
            move = np.linalg.inv(key_motion @ up) @ motions[i] @ up
            there = cv2.warpPerspective(key, move, (w, h), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            kinds = cv2.warpPerspective(shown, move, (w, h), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
            lights[i] = match_plate(small[i], there, (kinds == 2) & (subjects[i] == 0))
            if np.count_nonzero(kinds) < 0.6 * kinds.size:
                key, shown, key_motion = lights[i].apply(small[i]), 2 - subjects[i], motions[i]
    drift = max(light.change_from(PhotometricFit()) for light in lights)
    return lights if drift > DRIFT else None


def _motions_by_chain(small: list[Image], subjects: list[Mask], reference: int) -> tuple[list[Matrix], list[bool]]:
    """Each sample aligned with a key frame, at first the reference, and whether it surely moved.

    A sample that has surely moved a little (a pan) becomes the next key frame: what two samples have in common is less
    than their overlap by both their subjects.
    """
    motions: list[Matrix] = [np.eye(3) for _ in small]
    sure = [False] * len(small)
    for order in (range(reference + 1, len(small)), range(reference - 1, -1, -1)):
        key, key_motion = reference, np.eye(3)
        aligner = PlateAligner(small[key], known=subjects[key] == 0, local_flow=False)
        for i in order:
            aligned = aligner.align(small[i], subjects[i])
            motions[i] = key_motion @ aligned.homography
            sure[i] = _surely_moved(aligned)
            if _overlap(aligned.homography, small[i].shape[:2]) < (0.93 if sure[i] else 0.5):
                key, key_motion = i, motions[i]
                aligner = PlateAligner(small[key], known=subjects[key] == 0, local_flow=False)
    return motions, sure


def _motions_by_plate(
    small: list[Image], subjects: list[Mask], motions: list[Matrix], reference: int
) -> tuple[list[Matrix], list[bool]]:
    """Each sample aligned with the plate that all samples, moved by `motions`, agree on."""
    canvas, origin = _canvas(motions, small[0].shape[:2])
    samples = _Samples(np.stack(small), subjects, [_shift(*origin) @ motion for motion in motions], canvas)
    plate, coverage = consensus(samples, as_srgb, temporal_noise(samples, as_srgb))
    aligner = PlateAligner(plate, known=coverage > 0, start=_shift(*origin), local_flow=False)
    aligned = [aligner.align(image, subject) for image, subject in zip(small, subjects, strict=True)]
    to_reference = np.linalg.inv(aligned[reference].homography)
    better = [np.asarray(to_reference @ one.homography) for one in aligned]
    better[reference] = np.eye(3)
    return [motion / motion[2, 2] for motion in better], [_surely_moved(one) for one in aligned]


def _surely_moved(aligned: AlignedPlate) -> bool:
    return aligned.residual < 0.7 * aligned.residual_before and aligned.inliers >= 30


def _stands_still(motions: list[Matrix], sure: list[bool], shape: tuple[int, int], scale: float) -> bool:
    """Most samples have not moved, and none that has is sure of it."""
    h, w = shape
    corners = np.array([[[0, 0]], [[w, 0]], [[w, h]], [[0, h]]], np.float64)
    moved = [scale * float(np.abs(cv2.perspectiveTransform(corners, motion) - corners).max()) for motion in motions]
    return bool(np.median(moved) < STILL and not any(s and m > STILL for s, m in zip(sure, moved, strict=True)))


def _overlap(motion: Matrix, shape: tuple[int, int]) -> float:
    """Share of a frame that lies inside the one it is moved into."""
    ones = np.ones(shape, np.uint8)
    return float(cv2.warpPerspective(ones, motion, shape[::-1], flags=cv2.INTER_NEAREST).mean())


def _canvas(motions: list[Matrix], shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The (H, W) that holds all moved frames, within MOST_EXTENSION; the reference's x, y in it."""
    H, W = shape
    corners = np.array([[[0, 0]], [[W, 0]], [[W, H]], [[0, H]]], np.float64)
    places = np.concatenate([cv2.perspectiveTransform(corners, motion)[:, 0] for motion in motions])
    reach = (MOST_EXTENSION - 1) / 2
    left, top = np.maximum(np.floor(places.min(axis=0)), [-reach * W, -reach * H]).astype(int)
    right, bottom = np.minimum(np.ceil(places.max(axis=0)), [(1 + reach) * W, (1 + reach) * H]).astype(int)
    return (int(bottom - top), int(right - left)), (int(-left), int(-top))


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def _enlargement(scale: float) -> Matrix:
    """Pixels of a reduced picture -> pixels of the whole one, centres at whole numbers."""
    return np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]])


def _reduced(frame: Image, view: View) -> Image:
    """A sample at the size at which the camera is followed and subjects are looked for: uint8, sRGB-encoded."""
    H, W = frame.shape[:2]
    scale = min(1.0, max(LOOK_WIDTH, max(H, W) / 3) / max(H, W))
    size = (max(8, round(W * scale)), max(8, round(H * scale)))
    small = view(cv2.resize(_widened(frame), size, interpolation=cv2.INTER_AREA))
    return np.asarray(np.rint(small * 255), np.uint8)


def _widened(frame: Image) -> Image:
    """Half floats as floats: OpenCV resamples no others."""
    return frame.astype(np.float32) if frame.dtype == np.float16 else frame


def _no_subject(small: Image) -> Mask:
    return np.zeros(small.shape[:2], np.uint8)


def _subject(matte: Matte, small: Image, bgr: Image | None) -> Mask:
    """1 where the subject, its soft edge and a little around it are: (h, w) uint8."""
    pha = matte(as_srgb(small), bgr)
    margin = 2 * max(2, round(small.shape[1] / 100)) + 1
    return cv2.dilate((np.asarray(pha) > SUBJECT).astype(np.uint8), np.ones((margin, margin), np.uint8))


def _subjects_by_plate(matte: Matte, samples: _Samples, small: list[Image], plate: Image, view: View) -> list[Mask]:
    """The subjects once more, now that there is a plate to hold against: what is found is added to what was known.

    Where that would leave no sample at all, the plate found so far is as likely wrong as the frames: there it stays
    with what was known without it.
    """
    H, W = samples.stack.shape[1:3]
    h, w = small[0].shape[:2]
    down = np.diag([W / w, H / h, 1.0])
    encoded = view(plate)
    more = []
    for image, motion in zip(small, samples.motions, strict=True):
        bgr = cv2.warpPerspective(
            encoded, motion @ down, (w, h), flags=cv2.INTER_AREA | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        more.append(_subject(matte, image, bgr))
    both = [known | found for known, found in zip(samples.subjects, more, strict=True)]
    size = (max(1, round(samples.shape[1] * w / W)), max(1, round(samples.shape[0] * h / H)))
    to_small = [np.linalg.inv(down) @ motion @ down for motion in samples.motions]
    shown = np.zeros(size[::-1], np.uint8)
    for mask, motion in zip(both, to_small, strict=True):
        shown |= (cv2.warpPerspective(2 - mask, motion, size, flags=cv2.INTER_NEAREST) == 2).astype(np.uint8)
    never = 1 - shown
    result = []
    for known, union, motion in zip(samples.subjects, both, to_small, strict=True):
        doubtful = cv2.warpPerspective(never, motion, (w, h), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
        result.append(np.where(doubtful > 0, known, union).astype(np.uint8))
    return result


def temporal_noise(samples: _Samples, view: View) -> float:
    """Standard deviation of one frame's noise over time, in sRGB-encoded units, from strips of the plate.

    The median over pixels of the difference between neighbouring samples that both show it: moving subjects are
    outliers.
    """
    if len(samples.stack) < 2:
        return 0.0
    H, W = samples.shape
    rows, step = max(1, H // 64), max(1, math.isqrt(H * W // 80000))
    strips = [samples.rows(top, top + rows) for top in np.linspace(0, H - rows, 12).astype(int)]
    stack = np.concatenate([values[:, ::step, ::step] for values, _ in strips], axis=1)
    seen = np.concatenate([background[:, ::step, ::step] for _, background in strips], axis=1)
    pairs = np.linspace(0, len(stack) - 2, min(12, len(stack) - 1)).astype(int)
    apart = np.stack([np.abs(view(stack[i]) - view(stack[i + 1])).mean(axis=2) for i in pairs])
    shown = np.stack([seen[i] & seen[i + 1] for i in pairs])
    if not shown.any():
        return 0.0
    spread = np.nanmedian(np.where(shown, apart, np.nan)[:, shown.any(axis=0)], axis=0)
    return float(np.median(spread)) * math.sqrt(math.pi) / 2  # E|a - b| is 2 sigma / sqrt(pi)


def consensus(
    samples: _Samples, view: View, sigma: float, progress: Callable[[float], None] = lambda share: None
) -> tuple[Image, Plane]:
    """The colour most samples agree on, and the share of samples that do.

    Returns:
        plate (H, W, 3) in the samples' dtype; coverage (H, W), 0 to 1, 0 where nothing was seen.
    """
    H, W = samples.shape
    plate = np.zeros((H, W, 3), samples.stack.dtype)
    coverage = np.zeros((H, W), np.float32)
    rows = max(1, TILE_BYTES // (len(samples.stack) * W * 40))
    for top in range(0, H, rows):
        tile, seen = samples.rows(top, min(H, top + rows))
        plate[top : top + rows], coverage[top : top + rows] = _consensus_tile(tile, seen, view, sigma)
        progress(min(1.0, (top + rows) / H))
    return plate, coverage


def _consensus_tile(tile: Image, seen: NDArray[np.bool_], view: View, sigma: float) -> tuple[Image, Plane]:
    N, h, W, C = tile.shape
    encoded = view(tile.reshape(N * h, W, C)).reshape(N, h, W, C)
    planes = np.ascontiguousarray(np.rint(encoded * 255).astype(np.uint8).transpose(3, 0, 1, 2))
    unseen = [cv2.bitwise_not(s.astype(np.uint8) * 255) for s in seen]
    reach = 4 * sigma + 1 / 255  # two samples of one colour differ by less, in the channel that differs most
    threshold = np.uint8(min(254, round(reach * 255)))
    votes = np.zeros((N, h, W), np.uint8)
    columns = [np.flatnonzero(s.any(axis=0)) for s in seen]
    for i in range(N):
        for j in range(i, N):
            if len(columns[i]) == 0 or len(columns[j]) == 0:
                continue
            # in a pan most pairs have little or nothing in common
            common = slice(max(columns[i][0], columns[j][0]), min(columns[i][-1], columns[j][-1]) + 1)
            if common.start >= common.stop:
                continue
            apart = cv2.absdiff(planes[0, i, :, common], planes[0, j, :, common])
            for plane in planes[1:]:
                apart = cv2.max(apart, cv2.absdiff(plane[i, :, common], plane[j, :, common]))
            apart = cv2.max(apart, cv2.max(unseen[i][:, common], unseen[j][:, common]))
            agree = (apart <= threshold).view(np.uint8)
            votes[i, :, common] += agree
            if j > i:
                votes[j, :, common] += agree
    winner = np.take_along_axis(encoded, votes.argmax(axis=0)[None, ..., None], axis=0)
    group = seen & (np.abs(encoded - winner).max(axis=3) <= reach)
    centre = _masked_mean(encoded, group)
    inlier = seen & (np.abs(encoded - centre).max(axis=3) <= reach)
    inlier |= group & ~inlier.any(axis=0)
    mean = _masked_mean(tile, inlier)
    share: Plane = inlier.mean(axis=0, dtype=np.float32)
    return as_dtype(mean, tile.dtype), share


def _masked_mean(values: Image, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean over axis 0 of (N, H, W, C) where (N, H, W) holds; 0 where it never does."""
    total = np.zeros(values.shape[1:], np.float32)
    for value, keep in zip(values, mask, strict=True):
        total += np.where(keep[..., None], value, 0).astype(np.float32)
    total /= np.maximum(np.count_nonzero(mask, axis=0), 1).astype(np.float32)[..., None]
    return total


def fill(plate: Image, hole: Mask) -> Image:
    """Continue the surroundings smoothly into `hole`, coarse to fine.

    Each level of a pyramid averages the known pixels of the level below; a hole takes the finest level that knows.
    """
    if not hole.any() or hole.all():
        return plate
    levels: list[tuple[NDArray[Any], NDArray[Any]]] = [(plate.astype(np.float32), (~hole).astype(np.float32))]
    while min(levels[-1][1].shape) > 1 and levels[-1][1].min() < 1:
        value, weight = levels[-1]
        total = cv2.pyrDown(value * weight[..., None])
        known = cv2.pyrDown(weight)
        levels.append((total / np.maximum(known, 1e-6)[..., None], np.minimum(known * 4, 1)))
    guess: NDArray[Any] = levels[-1][0]
    for value, weight in reversed(levels[:-1]):
        guess = cv2.pyrUp(guess, dstsize=(weight.shape[1], weight.shape[0]))
        guess = value * weight[..., None] + guess * (1 - weight[..., None])
    return np.where(hole[..., None], as_dtype(guess, plate.dtype), plate)


def _new_stack(shape: tuple[int, ...], dtype: np.dtype[np.generic], folder: Path) -> Image:
    if math.prod(shape) * dtype.itemsize <= SPILL_BYTES:
        return np.empty(shape, dtype)
    size = math.prod(shape) * dtype.itemsize
    try:
        with open(folder / "samples", "wb") as file:
            if hasattr(os, "posix_fallocate"):  # else a disk that fills up later kills the process
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        raise OutputError(
            f"{size / 1e9:.1f} GB for samples in {folder.parent}", error.strerror or str(error), "Set TMPDIR elsewhere"
        ) from None
    stack = np.memmap(folder / "samples", dtype, "r+", shape=shape)
    if os.name == "posix":  # it lives on without its name, and no longer than this process, however that ends
        (folder / "samples").unlink()
    return stack
