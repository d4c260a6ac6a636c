# SPDX-License-Identifier: GPL-3.0-or-later
"""The refinement network (Lin et al. 2021, section 3.3): full resolution, where the base network expects to err.

The published network resamples and pads whole frames, then cuts its patches from them one by one, overlaps included.
Here only the patches' own neighbourhoods are read, neighbouring patches share theirs, and no frame is copied. The
arithmetic on each pixel is the same, and so is the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.models.patches import (
    cut_padded_windows,
    cut_upsampled_windows,
    cut_windows,
    replace_windows,
    upsampling_taps,
)

Cut: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

_SOLVED = 4  # channels of `solve_alpha`
PATCH = 4  # side of a patch in pixels; it is 2 at half and 1 at quarter resolution
_WIDEST_TILE = 16  # in patches
# At half resolution. What goes through the network at once stays in a CPU's cache; a card wants much at once.
_PIXELS_PER_PASS = {"cpu": 1 << 15, "cuda": 1 << 22}


class Refiner(nn.Module):
    """Predict alpha and foreground residual anew in the patches of 4 x 4 pixels where an error is expected.

    Args:
        mode: "sampling" (the `sample_pixels` worst), "thresholding" (all above `threshold`) or "full" (everywhere).
        sample_pixels: pixels to refine in mode "sampling"; a patch has 16.
        threshold: expected error, 0 to 1, above which a patch is refined in mode "thresholding".
        kernel_size: 3, or 1 for a network that looks at each pixel alone.
        prevent_oversampling: leave out patches whose expected error is nil in mode "sampling".
        hidden_channels: of the base network's features.
    """

    adding = False  # whether the result is added to the upsampled coarse one instead of replacing it
    replicate = False  # what lies outside of the frame: its edge, or zeros
    solved_channels, out_channels = 0, 4

    def __init__(
        self,
        mode: str,
        sample_pixels: int,
        threshold: float,
        kernel_size: int = 3,
        prevent_oversampling: bool = True,
        hidden_channels: int = 32,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.sample_pixels = sample_pixels
        self.threshold = threshold
        self.prevent_oversampling = prevent_oversampling
        # What the two convolutions of each half consume around a patch, at half and at full resolution.
        self.half_margin, self.full_margin = (3, 2) if kernel_size == 3 else (0, 0)
        self.crop = 2 * self.half_margin - self.full_margin  # at full resolution, what the first half consumes
        self.traceable = False  # True while a tracer records: one pass, of operators that every runtime has
        self.conv1 = nn.Conv2d(hidden_channels + 1 + 3 + 6 + self.solved_channels, 24, kernel_size, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 16, kernel_size, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16 + 6 + self.solved_channels, 12, kernel_size, bias=False)
        self.bn3 = nn.BatchNorm2d(12)
        self.conv4 = nn.Conv2d(12, self.out_channels, kernel_size)
        self.relu = nn.ReLU(inplace=True)

    def forward(
        self, src: Tensor, bgr: Tensor, pha: Tensor, fgr: Tensor, err: Tensor, hid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bring the coarse result to full resolution.

        Args:
            src: (B, 3, H, W), 0 to 1; H and W divisible by 4; in channels-last layout it is not copied.
            bgr: the plate, same shape.
            pha: (B, 1, h, w) coarse alpha.
            fgr: (B, 3, h, w) coarse foreground residual.
            err: (B, 1, h, w) expected absolute error of alpha.
            hid: (B, hidden_channels, h, w) features; the network computes in their precision, which is the weights'.

        Returns:
            pha (B, 1, H, W) and foreground residual fgr (B, 3, H, W), neither clamped; ref (B, 1, H/4, W/4), 1 where a
            patch was refined, else 0.
        """
        B, _, H, W = src.shape
        coarse = torch.cat([hid, pha.to(hid.dtype), fgr.to(hid.dtype)], dim=1)
        if self.mode == "full":
            out = self._refine_everywhere(torch.cat([src, bgr], dim=1).to(hid.dtype), coarse).to(src.dtype)
            if self.adding:
                out = out + F.interpolate(torch.cat([pha, fgr], dim=1), [H, W], mode="bilinear", align_corners=False)
            ref = torch.ones([B, 1, H // PATCH, W // PATCH], dtype=src.dtype, device=src.device)
            return out[:, :1], out[:, 1:], ref
        err = F.interpolate(err, [H // PATCH, W // PATCH], mode="bilinear", align_corners=False)
        ref = self._select(err)
        layout = torch.contiguous_format if src.is_contiguous() else torch.channels_last
        pha, fgr = pha.contiguous(), fgr.contiguous(memory_format=layout)
        pha = F.interpolate(pha, [H, W], mode="bilinear", align_corners=False)
        fgr = F.interpolate(fgr, [H, W], mode="bilinear", align_corners=False)
        side, tiles = self._tile(ref)
        if not self.traceable and tiles.shape[0] == 0:
            return pha, fgr, ref
        tiles, refined = self._refine_tiles(src, bgr, coarse, side, tiles)
        if self.adding and not self.traceable:
            added = _lay_tiles(tiles, refined, ref)
            return pha.add_(added[:, :1]), fgr.add_(added[:, 1:]), ref
        tiles, patches = _take_patches(tiles, refined, side, ref)
        b, i, j = tiles.unbind(1)
        if self.adding:
            before = [image.view(B, -1, H // PATCH, PATCH, W // PATCH, PATCH)[b, :, i, :, j] for image in (pha, fgr)]
            patches = patches + torch.cat(before, dim=1)
        pha = replace_windows(pha, b, i, j, patches[:, :1], self.traceable)
        fgr = replace_windows(fgr, b, i, j, patches[:, 1:], self.traceable)
        return pha, fgr, ref

    def _select(self, err: Tensor) -> Tensor:
        """Mark the patches to refine: expected errors (B, 1, H/4, W/4) -> 1 where a patch is chosen, else 0."""
        if self.mode == "thresholding":
            return (err > self.threshold).to(err.dtype)
        flat = err.flatten(1)
        count = min(self.sample_pixels // PATCH**2, flat.shape[1])
        worst = flat.topk(count, dim=1, sorted=False).indices
        ref = torch.zeros_like(flat).scatter_(1, worst, 1.0).view(err.shape)
        return ref * (err > 0) if self.prevent_oversampling else ref

    def _refine_everywhere(self, images: Tensor, coarse: Tensor) -> Tensor:
        """images (B, 6, H, W), coarse (B, 36, h, w) -> alpha and foreground residual (B, 4, H, W)."""
        mode, margin = "replicate" if self.replicate else "constant", self.half_margin
        coarse = F.interpolate(coarse, [n // 2 for n in images.shape[2:]], mode="bilinear", align_corners=False)
        return self.refine_windows(F.pad(images, [2 * margin] * 4, mode), F.pad(coarse, [margin] * 4, mode))

    def refine_windows(self, images: Tensor, coarse: Tensor) -> Tensor:
        """Refine windows that were cut out together with the margin that the convolutions consume.

        Args:
            images: (N, 6, S + 4 m, S + 4 m) source and plate, m = `half_margin`.
            coarse: (N, hidden_channels + 4, S / 2 + 2 m, S / 2 + 2 m) what `forward` is given, joined and upsampled.

        Returns:
            (N, 4, S, S) alpha and foreground residual, or what is to be added to them.
        """
        half = F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
        inside = slice(self.crop, -self.crop or None)
        return self._convolve([coarse, half], [images[:, :, inside, inside]])

    def _refine_tiles(
        self, src: Tensor, bgr: Tensor, coarse: Tensor, side: int, tiles: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Refine tiles (N, 3): frame, row and column of each.

        Returns:
            The tiles in another order, and alpha and foreground residual (N, 4, side * 4, side * 4) of each.
        """
        H, W = src.shape[2], src.shape[3]
        size = 2 * (side + self.half_margin)  # of a tile with its margins, at half resolution
        features = coarse.permute(0, 2, 3, 1).contiguous()
        taps = upsampling_taps(features, H // 2, W // 2, size, self.half_margin, self.replicate)
        parts = self._split(tiles, side, size, H, W)
        refined: list[Tensor] = []
        for part, cut in parts:
            b, i, j = part.unbind(1)
            y, x = 2 * side * i, 2 * side * j  # counted from the margin before the frame
            hidden = cut_upsampled_windows(features, taps, b, y, x, size, self.traceable).permute(0, 3, 1, 2)
            y, x = 2 * (y - self.half_margin), 2 * (x - self.half_margin)
            full = [
                cut(image, b, y, x, 2 * size).to(features.dtype, memory_format=torch.channels_last)
                for image in (src, bgr)
            ]
            half = [F.interpolate(image, [size, size], mode="bilinear", align_corners=False) for image in full]
            full = [image[:, :, self.crop : 2 * size - self.crop, self.crop : 2 * size - self.crop] for image in full]
            refined.append(self._convolve([hidden, *half], full))
        return torch.cat([part for part, _ in parts]), torch.cat(refined).to(src.dtype)

    def _split(self, tiles: Tensor, side: int, size: int, height: int, width: int) -> list[tuple[Tensor, Cut]]:
        """Tiles in portions that suit a cache, each with the function that cuts its windows out of the frame."""
        cut_padded = functools.partial(cut_padded_windows, replicate=self.replicate)
        if self.traceable or self.training:  # batch norm is to see all tiles at once
            return [(tiles, cut_padded)]
        y, x = (4 * side * tiles[:, 1:] - 2 * self.half_margin).unbind(1)
        inside = (y >= 0) & (y <= height - 2 * size) & (x >= 0) & (x <= width - 2 * size)
        count = max(1, _PIXELS_PER_PASS.get(tiles.device.type, 1 << 20) // size**2)
        parts: list[tuple[Tensor, Cut]] = []
        for group, cut in ((tiles[inside], cut_windows), (tiles[~inside], cut_padded)):
            parts += [(part, cut) for part in torch.split(group, count) if part.shape[0] > 0]
        return parts

    def _tile(self, ref: Tensor) -> tuple[int, Tensor]:
        """Group the chosen patches into square tiles, which read their margins once.

        Returns:
            The tiles' side in patches, such that the tiles read least in all, and (N, 3) each tile's frame, row and
            column. Tiles at the right and lower edge may overhang.
        """
        best_side, best = 1, ref
        if not self.traceable:
            side, covered, least = 1, ref, int(ref.count_nonzero()) * (1 + self.half_margin) ** 2
            while side < _WIDEST_TILE and 2 * side * PATCH <= min(ref.shape[2], ref.shape[3]) * PATCH:
                side, covered = 2 * side, F.max_pool2d(covered, 2, ceil_mode=True)
                reading = int(covered.count_nonzero()) * (side + self.half_margin) ** 2
                if reading < least:
                    best_side, best, least = side, covered, reading
        return best_side, torch.nonzero(best[:, 0])

    def _convolve(self, half: list[Tensor], full: list[Tensor]) -> Tensor:
        """Half-resolution features and images (N, 42, s, s), images (N, 6, S, S) -> (N, 4, S - 4, S - 4).

        Both come in parts, to be joined along their channels.
        """
        x = self._blend_half(half)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self._predict(torch.cat([x, *full], dim=1))

    def _blend_half(self, half: list[Tensor]) -> Tensor:
        x: Tensor = self.relu(self.bn1(self.conv1(torch.cat(half, dim=1))))
        return self.relu(self.bn2(self.conv2(x)))  # type: ignore[no-any-return]

    def _predict(self, full: Tensor) -> Tensor:
        out: Tensor = self.conv4(self.relu(self.bn3(self.conv3(full))))
        return out


class SolvingRefiner(Refiner):
    """A refinement that knows the compositing equation.

    The hidden features end in the straight foreground. The network sees at both resolutions what alpha would be if that
    were right, corrects it in between, and says at each pixel how far to go from the coarse alpha to the solved one.
    (The paper's, which has to learn such a product from convolutions, hardly moved in as many steps.) Both this and
    what it predicts besides is added to the upsampled coarse result; before training that is nothing.

    Args:
        threshold, hidden_channels: as of `Refiner`.
    """

    adding = replicate = True
    solved_channels, out_channels = _SOLVED, 5

    def __init__(self, threshold: float, hidden_channels: int) -> None:
        super().__init__("thresholding", 0, threshold, hidden_channels=hidden_channels)
        self.correct = nn.Conv2d(16, 3, 1)
        for layer in (self.correct, self.conv4):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def _convolve(self, half: list[Tensor], full: list[Tensor]) -> Tensor:
        guess = half[0][:, -7:-3]  # foreground and alpha; behind them the foreground residual
        x = self._blend_half([*half, solve_alpha(guess, half[1:])])
        correction = self.correct(x)
        x, correction = (F.interpolate(y, scale_factor=2.0, mode="nearest") for y in (x, correction))
        guess = F.interpolate(guess, scale_factor=2.0, mode="bilinear", align_corners=False)
        guess = guess[:, :, self.crop : -self.crop, self.crop : -self.crop]
        guess = torch.cat([guess[:, :3] + correction, guess[:, 3:]], dim=1)
        solved = solve_alpha(guess, full)
        out = self._predict(torch.cat([x, *full, solved], dim=1))
        margin = slice(self.full_margin, -self.full_margin)
        solved, correction = (y[:, :, margin, margin] for y in (solved, correction))
        pha = out[:, :1] + torch.tanh(out[:, 4:]) * (solved[:, :1] - solved[:, 3:])
        return torch.cat([pha, out[:, 1:4] + correction], dim=1)


def solve_alpha(guess: Tensor, images: list[Tensor]) -> Tensor:
    """Solve the compositing equation for alpha.

    Args:
        guess: (N, 4, s, s) straight foreground and alpha, upsampled.
        images: (N, 6, s, s) source and plate, joined or as two.

    Returns:
        (N, 4, s, s): the alpha of least squares, how far the foreground is from the plate, how far the source is from
        the line between both, and the alpha that was guessed.
    """
    with torch.autocast(guess.device.type, enabled=False):
        src, bgr = torch.cat(images, dim=1).float().chunk(2, dim=1)
        across, seen = guess[:, :3].float() - bgr, src - bgr
        length = across.square().sum(1, keepdim=True)
        alpha = ((across * seen).sum(1, keepdim=True) / (length + 1e-3)).clamp(-0.5, 1.5)
        astray = (seen - alpha * across).square().sum(1, keepdim=True)
        found = torch.cat([alpha, (length + 1e-6).sqrt(), (astray + 1e-6).sqrt()], dim=1)
    return torch.cat([found.to(guess.dtype), guess[:, 3:]], dim=1)


def _lay_tiles(tiles: Tensor, refined: Tensor, ref: Tensor) -> Tensor:
    """Lay what was found in tiles, see `_take_patches`, into a frame (B, C, H, W): 0 where no patch was chosen."""
    B, _, h, w = ref.shape
    size = refined.shape[2]
    side, rows, columns = size // PATCH, -(-h * PATCH // size), -(-w * PATCH // size)
    b, i, j = tiles.unbind(1)
    chosen = F.pad(ref, (0, columns * side - w, 0, rows * side - h)).view(B, rows, side, columns, side)
    chosen = chosen.permute(0, 1, 3, 2, 4)[b, i, j].repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    canvas = refined.new_zeros(B, rows, size, columns, size, refined.shape[1])
    canvas.permute(0, 1, 3, 2, 4, 5)[b, i, j] = refined.permute(0, 2, 3, 1) * chosen[..., None]
    return canvas.view(B, rows * size, columns * size, -1)[:, : h * PATCH, : w * PATCH].permute(0, 3, 1, 2)


def _take_patches(tiles: Tensor, refined: Tensor, side: int, ref: Tensor) -> tuple[Tensor, Tensor]:
    """Pick the chosen patches out of refined tiles.

    Args:
        tiles: (N, 3) frame, row and column of each tile.
        refined: (N, C, side * 4, side * 4).
        ref: (B, 1, H/4, W/4), not 0 where a patch was chosen.

    Returns:
        (M, 3) frame, row and column of each patch, and the patches (M, C, 4, 4).
    """
    if side == 1:
        return tiles, refined  # the tiles are the patches
    chosen = torch.nonzero(ref[:, 0])
    b, i, j = chosen.unbind(1)
    size = [ref.shape[0], ref.shape[2] // side + 1, ref.shape[3] // side + 1]
    order = torch.zeros(size, dtype=torch.long, device=ref.device)
    order[tiles[:, 0], tiles[:, 1], tiles[:, 2]] = torch.arange(tiles.shape[0], device=ref.device)
    patches = refined.reshape(-1, refined.shape[1], side, PATCH, side, PATCH)
    return chosen, patches[order[b, i // side, j // side], :, i % side, :, j % side]
