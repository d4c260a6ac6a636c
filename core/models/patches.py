# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut windows out of frames, and out of upsampled feature maps that are never built as a whole; put tiles back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def cut_windows(image: Tensor, b: Tensor, y: Tensor, x: Tensor, size: int) -> Tensor:
    """Copy square windows that lie within the image, in contiguous runs, which is fast.

    Args:
        image: (B, C, H, W), contiguous or channels-last.
        b, y, x: (N,) integers: each window's frame, first row and first column.
        size: side of the windows in pixels.

    Returns:
        (N, C, size, size), in the image's layout.
    """
    B, C, H, W = image.shape
    steps = torch.arange(size, device=image.device)
    if image.is_contiguous():
        b = b[:, None, None] * C + torch.arange(C, device=image.device)[:, None]
        first = (b * H + y[:, None, None] + steps) * W + x[:, None, None]
        return image.view(-1).unfold(0, size, 1).index_select(0, first.flatten()).view(-1, C, size, size)
    first = (b[:, None] * H + y[:, None] + steps) * W + x[:, None]
    runs = image.permute(0, 2, 3, 1).reshape(-1).unfold(0, size * C, C)
    return runs.index_select(0, first.flatten()).view(-1, size, size, C).permute(0, 3, 1, 2)


def cut_padded_windows(image: Tensor, b: Tensor, y: Tensor, x: Tensor, size: int, replicate: bool = False) -> Tensor:
    """Like `cut_windows`, but pixel by pixel, for windows that reach outside of the image: zero there, or its edge."""
    C, H, W = image.shape[1], image.shape[2], image.shape[3]
    steps = torch.arange(size, device=y.device)
    rows = (y[:, None] + steps)[:, :, None]
    cols = (x[:, None] + steps)[:, None, :]
    inside = (rows >= 0) & (rows < H) & (cols >= 0) & (cols < W)
    pixels = (b[:, None, None] * H + rows.clamp(0, H - 1)) * W + cols.clamp(0, W - 1)
    windows = image.permute(0, 2, 3, 1).reshape(-1, C).index_select(0, pixels.flatten()).view(-1, size, size, C)
    if not replicate:
        windows = windows * inside[..., None]
    return windows.permute(0, 3, 1, 2)


def take_tiles(frame: Tensor, b: Tensor, i: Tensor, j: Tensor, size: int) -> Tensor:
    """Copy tiles out of a frame.

    Args:
        frame: (B, H, W, C), contiguous; `size` divides H and W.
        b, i, j: (N,) integers: each tile's frame, and its row and column, counted in tiles.

    Returns:
        (N, size, size, C).
    """
    return _tiled(frame, size)[b, i, j]


def put_tiles(frame: Tensor, tiles: Tensor, b: Tensor, i: Tensor, j: Tensor, traceable: bool) -> Tensor:
    """Put back what `take_tiles` took, in place unless traceable: then by operators that every runtime has."""
    if not traceable:
        _tiled(frame, tiles.shape[1])[b, i, j] = tiles
        return frame
    B, H, W, C = frame.shape
    size = tiles.shape[1]
    steps = torch.arange(size, device=frame.device)
    b, y, x = b.view(-1, 1, 1), size * i.view(-1, 1, 1) + steps[:, None], size * j.view(-1, 1, 1) + steps
    index = ((b * H + y) * W + x).flatten()[:, None].expand(-1, C)
    return frame.reshape(-1, C).scatter(0, index, tiles.reshape(-1, C)).view(B, H, W, C)


def _tiled(frame: Tensor, size: int) -> Tensor:
    """(B, H, W, C) -> (B, H / size, W / size, size, size, C), a view."""
    B, H, W, C = frame.shape
    return frame.view(B, H // size, size, W // size, size, C).permute(0, 1, 3, 2, 4, 5)


class Taps(NamedTuple):
    """How to upsample features bilinearly, corners not aligned, window by window: each pixel is a bag of four pixels.

    Per window only sums of both indices and products of both weights are computed. Taps are in the order top left, top
    right, bottom left, bottom right.
    """

    row_index: Tensor  # (before + height + size, size * 4) int32: offset in pixels of each tap's row, for all columns
    row_weight: Tensor
    col_index: Tensor  # (before + width + size, 4) int32: each tap's column
    col_weight: Tensor


def upsampling_taps(features: Tensor, height: int, width: int, size: int, before: int, replicate: bool = False) -> Taps:
    """The taps of windows of size x size pixels in features (B, h, w, C) upsampled to height x width.

    Args:
        before: how far a window may start before the frame; it may end `size` behind it.
        replicate: outside of the frame its edge is repeated; else it is zero.
    """
    h, w = features.shape[1], features.shape[2]
    row_index, row_weight = _neighbours(h, height, before, size, replicate, features)
    col_index, col_weight = _neighbours(w, width, before, size, replicate, features)
    return Taps(
        (row_index * w).repeat_interleave(2, dim=1).repeat(1, size),
        row_weight.repeat_interleave(2, dim=1).repeat(1, size),
        col_index.repeat(1, 2),
        col_weight.repeat(1, 2),
    )


def cut_upsampled_windows(
    features: Tensor, taps: Taps, b: Tensor, y: Tensor, x: Tensor, size: int, traceable: bool
) -> Tensor:
    """Cut square windows out of features as if these had been upsampled and padded.

    Args:
        features: (B, h, w, C), contiguous.
        b, y, x: (N,) integers: each window's frame, and its first row and column, counted from the taps' `before`.
        size: side of the windows.
        traceable: use operators that every runtime has.

    Returns:
        (N, size, size, C).
    """
    B, h, w, C = features.shape
    steps = torch.arange(size, device=y.device)
    rows, cols = (y[:, None] + steps).flatten(), (x[:, None] + steps).flatten()
    col_index = taps.col_index.index_select(0, cols).view(-1, 1, 4 * size)
    col_index = col_index + (b * (h * w)).to(torch.int32)[:, None, None]
    col_weight = taps.col_weight.index_select(0, cols).view(-1, 1, 4 * size)
    index = taps.row_index.index_select(0, rows).view(-1, size, 4 * size) + col_index
    weight = taps.row_weight.index_select(0, rows).view(-1, size, 4 * size) * col_weight
    index, weight, table = index.view(-1, 4), weight.view(-1, 4), features.reshape(-1, C)
    if traceable:
        pixels = (table[index.long()] * weight[:, :, None]).sum(1)
    else:
        pixels = F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)
    return pixels.view(-1, size, size, C)


def _neighbours(
    size_in: int, size_out: int, before: int, behind: int, replicate: bool, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Both neighbours (before + size_out + behind, 2) of each output pixel along one axis, and their weights."""
    out = torch.arange(-before, size_out + behind, device=like.device)
    position = ((out + 0.5) * (size_in / size_out) - 0.5).clamp(0, size_in - 1)
    first = position.floor()
    fraction = position - first
    weight = torch.stack([1 - fraction, fraction], dim=1)
    if not replicate:
        weight = weight * ((out >= 0) & (out < size_out))[:, None]
    index = torch.stack([first, (first + 1).clamp(max=size_in - 1)], dim=1)
    return index.to(torch.int32), weight.to(like.dtype)
