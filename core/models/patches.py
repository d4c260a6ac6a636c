# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut windows out of frames, and out of upsampled feature maps that are never built as a whole."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cut_windows(frames: Tensor, b: Tensor, y: Tensor, x: Tensor, size: int, traceable: bool) -> Tensor:
    """Copy square windows; what lies outside of the frame is zero.

    Args:
        frames: (B, H, W, C), contiguous, of at least size * C values.
        b, y, x: (N,) integers: each window's frame, and its first row and column, which may be negative.
        size: side of the windows in pixels.
        traceable: use operators that every runtime has.

    Returns:
        (N, size, size, C).
    """
    if traceable:
        return _cut_pixelwise(frames, b, y, x, size)
    B, H, W, C = frames.shape
    rows = b[:, None] * H + y[:, None] + torch.arange(size, device=y.device)
    runs = frames.reshape(-1).unfold(0, size * C, C)  # all runs of `size` pixels in memory: a view
    first = (rows * W + x[:, None]).clamp(0, runs.shape[0] - 1)
    windows = runs.index_select(0, first.flatten()).view(-1, size, size, C)
    # A run that leaves its row goes on in the next one; those few windows are done again.
    crossing = ((y < 0) | (y > H - size) | (x < 0) | (x > W - size)).nonzero().squeeze(1)
    windows[crossing] = _cut_pixelwise(frames, b[crossing], y[crossing], x[crossing], size)
    return windows


def _cut_pixelwise(frames: Tensor, b: Tensor, y: Tensor, x: Tensor, size: int) -> Tensor:
    H, W = frames.shape[1:3]
    steps = torch.arange(size, device=y.device)
    rows = (y[:, None] + steps)[:, :, None]
    cols = (x[:, None] + steps)[:, None, :]
    inside = (rows >= 0) & (rows < H) & (cols >= 0) & (cols < W)
    return frames[b[:, None, None], rows.clamp(0, H - 1), cols.clamp(0, W - 1)] * inside[..., None]


def cut_upsampled_windows(
    features: Tensor, height: int, width: int, b: Tensor, y: Tensor, x: Tensor, size: int, margin: int, traceable: bool
) -> Tensor:
    """Cut square windows out of features as if these had been upsampled to height x width and padded with zeros.

    Every pixel of a window is a weighted bag of four pixels of `features` (bilinear, corners not aligned).

    Args:
        features: (B, h, w, C), contiguous.
        b, y, x: (N,) integers: each window's frame, and its first row and column in the upsampled frame, from -margin.
        size: side of the windows.
        margin: how far a window may start before the frame; it may end `size` behind it.
        traceable: use operators that every runtime has.

    Returns:
        (N, size, size, C).
    """
    B, h, w, C = features.shape
    row_index, row_weight = _taps(h, height, margin, size, features)
    col_index, col_weight = _taps(w, width, margin, size, features)
    # Tables that hold, for every pixel, its four taps: top left, top right, bottom left, bottom right. A window's rows
    # are whole rows of the one, its columns a run in the other, so that no value is computed per window but the sums.
    top_bottom, left_right = torch.tensor([0, 0, 1, 1], device=y.device), torch.tensor([0, 1, 0, 1], device=y.device)
    row_index = (row_index * w).index_select(1, top_bottom).repeat(1, size)
    row_weight = row_weight.index_select(1, top_bottom).repeat(1, size)
    col_index = col_index.index_select(1, left_right).reshape(-1).unfold(0, 4 * size, 4)
    col_weight = col_weight.index_select(1, left_right).reshape(-1).unfold(0, 4 * size, 4)

    rows = (y[:, None] + margin + torch.arange(size, device=y.device)).flatten()
    corners = col_index.index_select(0, x + margin) + (b * (h * w))[:, None].to(col_index.dtype)
    index = row_index.index_select(0, rows).view(-1, size, 4 * size) + corners[:, None]
    weight = row_weight.index_select(0, rows).view(-1, size, 4 * size) * col_weight.index_select(0, x + margin)[:, None]
    index, weight, table = index.view(-1, 4), weight.view(-1, 4), features.reshape(-1, C)
    if traceable:
        pixels = (table[index.long()] * weight[:, :, None]).sum(1)
    else:
        pixels = F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)
    return pixels.view(-1, size, size, C)


def _taps(size_in: int, size_out: int, before: int, behind: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Both neighbours (before + size_out + behind, 2) of each output pixel along one axis, and their weights.

    Outside of the frame the weights are zero.
    """
    out = torch.arange(-before, size_out + behind, device=like.device)
    position = ((out + 0.5) * (size_in / size_out) - 0.5).clamp(0, size_in - 1)
    first = position.floor()
    fraction = position - first
    inside = (out >= 0) & (out < size_out)
    weight = torch.stack([1 - fraction, fraction], dim=1) * inside[:, None]
    index = torch.stack([first, (first + 1).clamp(max=size_in - 1)], dim=1)
    return index.to(torch.int32), weight.to(like.dtype)
