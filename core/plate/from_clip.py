# SPDX-License-Identifier: GPL-3.0-or-later
"""A clean plate out of the footage itself: what each pixel shows when nobody stands in front of it. No bpy."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from core.errors import FootageError
from core.plate.frames import FrameList, FrameReader, Image, Mask, Plane, View, as_dtype, as_srgb

SPILL_BYTES = 512 << 20  # sampled frames beyond this many bytes go to a temporary file instead of memory
TILE_BYTES = 192 << 20  # working memory of the temporal estimate

Progress = Callable[[float, str], None]  # 0 to 1, what is being done


@dataclass(frozen=True)
class ClipPlate:
    """A plate made from a clip.

    Attributes:
        plate: (H, W, 3), the footage's own dtype and encoding.
        coverage: (H, W) float32, 0 to 1, share of the samples in which the pixel was seen empty.
        filled: (H, W), True where no sample showed the background and the colour is a guess.
        sigma: temporal noise of one frame, sRGB-encoded units (1 is full scale).
        frame_indices: the frames it was made from.
    """

    plate: Image
    coverage: Plane
    filled: Mask
    sigma: float
    frame_indices: tuple[int, ...]


def sample_indices(count: int, samples: int) -> list[int]:
    """At most `samples` frame indices, spread evenly over 0 to count - 1, the ends included."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(samples, count))})


def plate_from_clip(
    frames: FrameReader | Sequence[Image],
    *,
    samples: int = 48,
    view: View = as_srgb,
    progress: Progress | None = None,
) -> ClipPlate:
    """Estimate the empty background of a clip.

    Each pixel takes the colour that its samples agree on most often, not their middle one, so that a
    background seen a fifth of the time still wins over a subject whose colours vary; then the mean of the
    samples that agree, so that noise averages out.

    Memory: at most SPILL_BYTES of sampled frames (more go to a temporary file of samples * frame size) plus a
    few times TILE_BYTES, whatever the clip's length.

    Args:
        frames: the footage; read once, `samples` frames of it.
        samples: how many frames to look at.
        view: turns a frame into sRGB-encoded float32, 0 to 1; needed when the footage is not so encoded.
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
    with tempfile.TemporaryDirectory(prefix="plate-") as folder:
        stack = _new_stack((len(indices), *first.shape), first.dtype, Path(folder))
        for i, index in enumerate(indices):
            frame = first if i == 0 else reader.read(index)
            if frame.shape != first.shape:
                raise FootageError(
                    f"frames of {first.shape[1]} x {first.shape[0]}",
                    f"{frame.shape[1]} x {frame.shape[0]} at frame {index}",
                    "Give footage of one size",
                )
            stack[i] = frame
            report(0.6 * (i + 1) / len(indices), "reading frames")
        seen = np.ones(stack.shape[:3], np.bool_)
        sigma = temporal_noise(stack, view)
        plate, coverage = consensus(stack, seen, view, sigma, lambda share: report(0.6 + 0.4 * share, "estimating"))
        del stack  # closes the mapping before its file goes
    filled = coverage == 0
    return ClipPlate(fill(plate, filled), coverage, filled, sigma, tuple(indices))


def temporal_noise(stack: Image, view: View) -> float:
    """Standard deviation of one frame's noise over time, from (N, H, W, 3) samples, in sRGB-encoded units.

    The median over pixels of the difference between neighbouring samples: moving subjects are outliers.
    """
    if len(stack) < 2:
        return 0.0
    step = max(1, math.isqrt(stack.shape[1] * stack.shape[2] // 20000))
    pairs = np.linspace(0, len(stack) - 2, min(12, len(stack) - 1)).astype(int)
    small = [(view(stack[i, ::step, ::step]), view(stack[i + 1, ::step, ::step])) for i in pairs]
    spread = np.median([np.mean(np.abs(a - b), axis=2) for a, b in small], axis=0)
    return float(np.median(spread)) * math.sqrt(math.pi) / 2  # E|a - b| is 2 sigma / sqrt(pi)


def consensus(
    stack: Image,
    seen: NDArray[np.bool_],
    view: View,
    sigma: float,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Image, Plane]:
    """The colour most samples agree on, and the share of samples that do.

    Args:
        stack: (N, H, W, 3) samples.
        seen: (N, H, W), False where a sample shows the subject or nothing at all.
        sigma: noise of one sample, sRGB-encoded units.

    Returns:
        plate (H, W, 3) in the stack's dtype; coverage (H, W), 0 to 1, 0 where nothing was seen.
    """
    N, H, W, _ = stack.shape
    plate = np.zeros(stack.shape[1:], stack.dtype)
    coverage = np.zeros((H, W), np.float32)
    rows = max(1, TILE_BYTES // (N * W * 40))
    for top in range(0, H, rows):
        tile = np.asarray(stack[:, top : top + rows])
        values, share = _consensus_tile(tile, seen[:, top : top + rows], view, sigma)
        plate[top : top + rows] = values
        coverage[top : top + rows] = share
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
    for i in range(N):
        for j in range(i, N):
            apart = cv2.absdiff(planes[0, i], planes[0, j])
            for plane in planes[1:]:
                apart = cv2.max(apart, cv2.absdiff(plane[i], plane[j]))
            apart = cv2.max(apart, cv2.max(unseen[i], unseen[j]))
            agree = (apart <= threshold).view(np.uint8)
            votes[i] += agree
            if j > i:
                votes[j] += agree
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
        total += value * keep[..., None].astype(np.float32)
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
    return np.memmap(folder / "samples", dtype, "w+", shape=shape)
