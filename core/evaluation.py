# SPDX-License-Identifier: GPL-3.0-or-later
"""The field's measures of a matte against the truth: lower is better, 0 is perfect. No bpy.

Alphas are (H, W) float arrays, 0 to 1. A `region` is a (H, W) bool mask of the pixels that count; measures of a
neighbourhood or of connectedness always see the whole image. Scales are those of the papers' tables: MAD, MSE and the
foreground's MSE x 1000, SAD, Grad and Conn / 1000, dtSSD x 100.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Alpha = NDArray[np.float32]  # (H, W), 0 to 1
Region = NDArray[np.bool_]  # (H, W)

UNKNOWN_RADIUS = 10  # pixels by which the soft edge is dilated
GRADIENT_SIGMA = 1.4  # pixels
CONNECTIVITY_STEPS = 10


def mad(pred: Alpha, true: Alpha, region: Region | None = None) -> float:
    """Mean absolute difference x 1000."""
    return 1000 * _mean(np.abs(pred - true), region)


def gradient_errors(pred: Alpha, true: Alpha) -> Alpha:
    """Squared differences of gradient magnitudes (Rhemann et al. 2009, section 3).

    As the published evaluations do, each alpha is stretched to 0..1 first, and the gradient is taken by derivatives of
    a Gaussian of 1.4 pixels, each filter of unit L2 norm.
    """
    errors: Alpha = np.square(_gradient(pred) - _gradient(true))
    return errors


def connectivity_errors(pred: Alpha, true: Alpha) -> Alpha:
    """Differences in connectedness to the common opaque region (Rhemann et al. 2009, section 3).

    A pixel's level is the last threshold (steps of 0.1) at which it belongs to the largest 4-connected component of
    what both alphas call opaque; an alpha more than 0.15 above its level loses by that much.
    """
    level = np.ones_like(true)
    inside = np.ones(true.shape, np.bool_)  # in the largest component at every threshold so far
    for step in range(1, CONNECTIVITY_STEPS + 1):
        threshold = np.float32(step / CONNECTIVITY_STEPS)
        both = ((true >= threshold) & (pred >= threshold)).view(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(both, connectivity=4)
        largest = np.zeros_like(inside)
        if count > 1:
            largest = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
        level[inside & ~largest] = (step - 1) / CONNECTIVITY_STEPS
        inside &= largest
    differences = [np.where(alpha - level >= 0.15, alpha - level, 0) for alpha in (pred, true)]
    errors: Alpha = np.abs(differences[0] - differences[1])
    return errors


def dtssd(pred: Sequence[Alpha], true: Sequence[Alpha]) -> float:
    """Root mean squared difference of the change between two frames x 100 (Erofeev et al. 2015).

    Args:
        pred, true: the frame before and the frame.
    """
    change = np.square((pred[1] - pred[0]) - (true[1] - true[0]))
    return 100 * float(np.sqrt(_mean(change)))


def foreground_mse(pred_fgr: NDArray[np.float32], true_fgr: NDArray[np.float32], true_pha: Alpha) -> float | None:
    """Mean squared difference x 1000 of straight foregrounds (H, W, 3) where true alpha is above 0; None if nowhere.

    Args:
        pred_fgr, true_fgr: sRGB-encoded, 0 to 1.
    """
    visible = true_pha > 0
    if not visible.any():
        return None
    return 1000 * float(np.mean(np.square(pred_fgr[visible] - true_fgr[visible]), dtype=np.float64))


def unknown_region(true: Alpha, radius: int = UNKNOWN_RADIUS) -> Region:
    """Where alpha is strictly between 0 and 1, dilated by a disk."""
    soft = ((true > 0) & (true < 1)).view(np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(soft, disk).view(np.bool_)


def score_frame(
    pred: Alpha,
    true: Alpha,
    pred_fgr: NDArray[np.float32] | None = None,
    true_fgr: NDArray[np.float32] | None = None,
    before: tuple[Alpha, Alpha] | None = None,
) -> dict[str, float]:
    """All measures of one frame by name. Those of the unknown region end in `_unknown`; an empty region has none.

    Args:
        before: predicted and true alpha of the frame before, for dtSSD.
    """
    difference = np.abs(pred - true)
    square, gradient, connectivity = difference**2, gradient_errors(pred, true), connectivity_errors(pred, true)
    scores: dict[str, float] = {}
    unknown = unknown_region(true)
    for suffix, region in (("", None), ("_unknown", unknown)):
        if region is None or region.any():
            scores[f"mad{suffix}"] = 1000 * _mean(difference, region)
            scores[f"mse{suffix}"] = 1000 * _mean(square, region)
            scores[f"sad{suffix}"] = _sum(difference, region) / 1000
            scores[f"grad{suffix}"] = _sum(gradient, region) / 1000
            scores[f"conn{suffix}"] = _sum(connectivity, region) / 1000
    if before is not None:
        scores["dtssd"] = dtssd((before[0], pred), (before[1], true))
    if pred_fgr is not None and true_fgr is not None:
        error = foreground_mse(pred_fgr, true_fgr, true)
        if error is not None:
            scores["fgr_mse"] = error
    return scores


def score_clip(
    pred_pha: Tensor, true_pha: Tensor, pred_fgr: Tensor | None = None, true_fgr: Tensor | None = None
) -> list[dict[str, float]]:
    """`score_frame` of every frame, for tensors on any device: alphas (T, 1, H, W), foregrounds (T, 3, H, W)."""
    pred, true = (alpha[:, 0].float().cpu().numpy() for alpha in (pred_pha, true_pha))
    fgrs: list[tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]] = [(None, None)] * len(pred)
    if pred_fgr is not None and true_fgr is not None:
        arrays = (fgr.float().permute(0, 2, 3, 1).cpu().numpy() for fgr in (pred_fgr, true_fgr))
        fgrs = list(zip(*arrays, strict=True))
    return [
        score_frame(pred[t], true[t], *fgrs[t], before=(pred[t - 1], true[t - 1]) if t else None)
        for t in range(len(pred))
    ]


def mean_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each measure's mean over the frames that have it."""
    names = dict.fromkeys(name for frame in scores for name in frame)
    return {name: float(np.mean([frame[name] for frame in scores if name in frame])) for name in names}


def _mean(values: NDArray[np.float32], region: Region | None = None) -> float:
    return float(np.mean(values if region is None else values[region], dtype=np.float64))


def _sum(values: NDArray[Any], region: Region | None) -> float:
    return float(np.sum(values if region is None else values[region], dtype=np.float64))


def _gradient(alpha: Alpha) -> Alpha:
    low, high = float(alpha.min()), float(alpha.max())
    stretched = (alpha - low) / (high - low) if high > low else np.zeros_like(alpha)
    # the filter ends where the Gaussian falls below 0.01: 4 pixels at sigma 1.4
    x = np.arange(-4, 5, dtype=np.float32)
    gauss = np.exp(-(x**2) / (2 * GRADIENT_SIGMA**2))
    slope = -x * gauss
    gauss, slope = gauss / np.linalg.norm(gauss), slope / np.linalg.norm(slope)
    dx = cv2.sepFilter2D(stretched, cv2.CV_32F, slope, gauss, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.sepFilter2D(stretched, cv2.CV_32F, gauss, slope, borderType=cv2.BORDER_REPLICATE)
    return np.hypot(dx, dy)
