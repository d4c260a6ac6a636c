# SPDX-License-Identifier: GPL-3.0-or-later
"""The refinement network (Lin et al. 2021, section 3.3): full resolution, where the base network expects to err.

The published network resamples and pads whole frames, then cuts its patches from them one by one, overlaps included.
Here only the patches' own neighbourhoods are read, neighbouring patches share theirs, and no frame is copied. The
arithmetic on each pixel is the same, and so is the result.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.models.foreground import extend_foreground, extend_light
from core.models.patches import (
    cut_padded_windows,
    cut_upsampled_windows,
    cut_windows,
    put_tiles,
    take_tiles,
    upsampling_taps,
)
from core.models.scales import blurred, divisible, halved, upsampled

Cut: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

PATCH = 4  # side of a patch in pixels; it is 2 at half and 1 at quarter resolution
MOST_CHANNELS = 256  # of the refinement; a damaged file may name any number
_WIDEST_TILE = 16  # in patches
_FAR = 0.3  # share of the full size below which the coarse one is brought there in steps
_SETTLED = 0.005  # alpha that is no further from 0 or 1 is not refined in the next step
# At half resolution. One pass should fit a CPU's cache; a GPU wants large ones.
_PIXELS_PER_PASS = {"cpu": 1 << 15, "cuda": 1 << 22}


class WindowRefiner(nn.Module):
    """Chooses patches of 4 x 4 pixels, cuts out their neighbourhoods, and puts back the refined patches.

    A subclass is that network: it overrides `refine_windows`.

    Args:
        mode: "sampling" (the `sample_pixels` worst), "thresholding" (all above `threshold`) or "full" (everywhere).
        sample_pixels: pixels to refine in mode "sampling"; a patch has 16.
        threshold: expected error, 0 to 1, above which a patch is refined in mode "thresholding".
        prevent_oversampling: in mode "sampling", leave out patches whose expected error is 0.
    """

    replicate = False  # outside of the frame, repeat its edge; else it is zero there
    half_margin: int  # pixels around a patch, at half resolution, that the network consumes

    def __init__(
        self, mode: str, sample_pixels: int = 0, threshold: float = 0.0, prevent_oversampling: bool = True
    ) -> None:
        super().__init__()
        if not isinstance(sample_pixels, int) or sample_pixels < 0:
            raise ValueError(f"sample_pixels is a whole number from 0; got {sample_pixels!r}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is from 0 to 1; got {threshold!r}")
        self.mode = mode
        self.sample_pixels = sample_pixels
        self.threshold = threshold
        self.prevent_oversampling = prevent_oversampling
        self.traceable = False  # True while a tracer records: one pass, of operators that every runtime has

    def forward(
        self, src: Tensor, bgr: Tensor, pha: Tensor, fgr: Tensor, err: Tensor, *hid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bring the coarse result to full resolution.

        Args:
            src: (B, 3, H, W), 0 to 1; H and W divisible by 4; in channels-last layout it is not copied.
            bgr: the plate, same shape.
            pha: (B, 1, h, w) coarse alpha.
            fgr: (B, 3, h, w) coarse foreground residual.
            err: (B, 1, h, w) expected absolute error of alpha.
            hid: (B, C, h, w) features, hidden_channels in all; in the precision of the weights, which is the one that
                the network computes in. They may have other sizes than the coarse result.

        Returns:
            pha (B, 1, H, W) and foreground residual fgr (B, 3, H, W), neither clamped; ref (B, 1, H/4, W/4), 1 where a
            patch was refined, else 0.
        """
        H, W = src.shape[2:]
        dtype = hid[0].dtype
        # Channels last, as windows are cut out of it: joined along dim 1, it might come out in planes
        coarse = [x.to(dtype).permute(0, 2, 3, 1) for x in (*hid, pha, fgr)]
        features = [
            torch.cat(list(like), dim=3) for _, like in itertools.groupby(coarse, lambda x: tuple(x.shape[1:3]))
        ]
        if self.mode == "full":
            out = self._refine_everywhere(torch.cat([src, bgr], dim=1).to(dtype), features).to(src.dtype)
            return out[:, :1], out[:, 1:], src.new_ones(src.shape[0], 1, H // PATCH, W // PATCH)
        err = F.interpolate(err, [H // PATCH, W // PATCH], mode="bilinear", align_corners=False)
        ref = self._select(err)
        side, tiles = self._tile(ref)
        frames = [upsampled(image.float(), H, W, side * PATCH, self.traceable) for image in (pha, fgr)]
        if self.traceable or tiles.shape[0] > 0:
            frames = self._refine_tiles(src, bgr, features, frames, ref, side, tiles)
        pha, fgr = (frame[:, :H, :W].permute(0, 3, 1, 2) for frame in frames)
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

    def _refine_everywhere(self, images: Tensor, features: list[Tensor]) -> Tensor:
        """images (B, 6, H, W), features (B, h, w, C) -> alpha and foreground residual (B, 4, H, W)."""
        margin = self.half_margin
        half = [n // 2 for n in images.shape[2:]]
        planes = [x.permute(0, 3, 1, 2) for x in features]
        coarse = torch.cat([F.interpolate(x, half, mode="bilinear", align_corners=False) for x in planes], dim=1)
        src, bgr = F.pad(images, [2 * margin] * 4).chunk(2, dim=1)
        return self.refine_windows(src, bgr, F.pad(coarse, [margin] * 4), None)

    def refine_windows(self, src: Tensor, bgr: Tensor, guides: Tensor, before: Tensor | None) -> Tensor:
        """Refine windows that were cut out together with the margin that the network consumes.

        Args:
            src, bgr: (N, 3, S + 4 m, S + 4 m), m = `half_margin`.
            guides: (N, C, S / 2 + 2 m, S / 2 + 2 m) hidden features, alpha and foreground residual, upsampled.
            before: (N, 4, S, S) upsampled alpha and foreground residual; None for a network that does without.

        Returns:
            (N, 4, S, S) alpha and foreground residual.
        """
        raise NotImplementedError

    def _refine_tiles(
        self,
        src: Tensor,
        bgr: Tensor,
        features: list[Tensor],
        frames: list[Tensor],
        ref: Tensor,
        side: int,
        tiles: Tensor,
    ) -> list[Tensor]:
        """Replace alpha and foreground residual where a patch was chosen.

        Args:
            src, bgr: (B, 3, H, W).
            features: (B, h, w, C) each, of which the guides are cut.
            frames: (B, H, W, 1 and 3), rounded up to tiles; refined in place, unless traceable.
            ref: (B, 1, H/4, W/4), 1 where a patch is chosen.
            side: of a tile, in patches.
            tiles: (N, 3) frame, row and column of each.
        """
        H, W = src.shape[2], src.shape[3]
        size = 2 * (side + self.half_margin)  # of a tile with its margins, at half resolution
        taps = [upsampling_taps(x, H // 2, W // 2, size, self.half_margin, self.replicate) for x in features]
        chosen = F.pad(ref, (0, -ref.shape[3] % side, 0, -ref.shape[2] % side)).bool().permute(0, 2, 3, 1).contiguous()
        for part, cut in self._split(tiles, side, size, H, W):
            b, i, j = part.unbind(1)
            y, x = 2 * side * i, 2 * side * j  # counted from the margin before the frame
            cuts = [
                cut_upsampled_windows(*pair, b, y, x, size, self.traceable) for pair in zip(features, taps, strict=True)
            ]
            guides = torch.cat(cuts, dim=3).permute(0, 3, 1, 2)
            y, x = 2 * (y - self.half_margin), 2 * (x - self.half_margin)
            wide_src, wide_bgr = (cut(image, b, y, x, 2 * size).to(guides.dtype) for image in (src, bgr))
            before = torch.cat([take_tiles(frame, b, i, j, side * PATCH) for frame in frames], dim=3)
            refined = self.refine_windows(wide_src, wide_bgr, guides, before.permute(0, 3, 1, 2))
            refined = refined.permute(0, 2, 3, 1).to(before.dtype)
            if side > 1:
                mask = take_tiles(chosen, b, i, j, side)
                mask = mask.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
                refined = torch.where(mask, refined, before)
            parts = refined.tensor_split([1], dim=3)
            frames = [put_tiles(*pair, b, i, j, self.traceable) for pair in zip(frames, parts, strict=True)]
        return frames

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
        sides, covered = [1], [ref]
        while not self.traceable and 2 * sides[-1] <= min(_WIDEST_TILE, ref.shape[2], ref.shape[3]):
            sides.append(2 * sides[-1])
            covered.append(F.max_pool2d(covered[-1], 2, ceil_mode=True))
        best = 0
        if len(sides) > 1:
            counts = torch.stack([each.count_nonzero() for each in covered]).tolist()  # a card is waited for once
            reading = [count * (side + self.half_margin) ** 2 for count, side in zip(counts, sides, strict=True)]
            best = reading.index(min(reading))
        return sides[best], torch.nonzero(covered[best][:, 0])


class Refiner(WindowRefiner):
    """The paper's network: alpha and foreground residual anew.

    Args:
        kernel_size: 3, or 1 for a network that looks at each pixel alone; the others are those of `WindowRefiner`.
    """

    def __init__(
        self,
        mode: str,
        sample_pixels: int,
        threshold: float,
        kernel_size: int = 3,
        prevent_oversampling: bool = True,
    ) -> None:
        super().__init__(mode, sample_pixels, threshold, prevent_oversampling)
        self.half_margin, self.crop = (3, 4) if kernel_size == 3 else (0, 0)
        self.conv1 = nn.Conv2d(32 + 1 + 3 + 6, 24, kernel_size, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 16, kernel_size, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16 + 6, 12, kernel_size, bias=False)
        self.bn3 = nn.BatchNorm2d(12)
        self.conv4 = nn.Conv2d(12, 4, kernel_size)
        self.relu = nn.ReLU(inplace=True)

    def refine_windows(self, src: Tensor, bgr: Tensor, guides: Tensor, before: Tensor | None) -> Tensor:
        full = torch.cat([src, bgr], dim=1).contiguous(memory_format=torch.channels_last)
        half = F.interpolate(full, scale_factor=0.5, mode="bilinear", align_corners=False)
        x = self.relu(self.bn1(self.conv1(torch.cat([guides, half], dim=1))))
        x = self.relu(self.bn2(self.conv2(x)))
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        inside = slice(self.crop, -self.crop or None)
        x = self.relu(self.bn3(self.conv3(torch.cat([x, full[:, :, inside, inside]], dim=1))))
        return self.conv4(x)  # type: ignore[no-any-return]


class SolvingRefiner(WindowRefiner):
    """A refinement that knows the compositing equation.

    The first three hidden features are the light on the plate, which is multiplied with it; the last three are the
    straight foreground. At both resolutions, the network sees the alpha that solves the compositing equation with that
    foreground; in between it corrects the foreground. It says at each pixel how far to go from the coarse alpha to the
    solved one, and up to the least one that any foreground allows. (The paper's network has to learn such a product
    from convolutions, and hardly improved in as many steps.) It also predicts corrections, which are added; before
    training they are 0.

    Where the coarse size is far from the full one, it goes there in steps of two. Each begins with what the one before
    found, for a window shows only some ten pixels around each, which in 4K would be two or three coarse ones.

    Everything is computed at half resolution: each 2 x 2 pixels of the full resolution are one pixel with four times
    the channels, which leaves a CPU less to do besides the arithmetic.

    Args:
        threshold, hidden_channels: as of `WindowRefiner`, and of the base network's features.
        channels: the network's own, up to `MOST_CHANNELS`.
    """

    replicate = True
    half_margin = 4

    def __init__(self, threshold: float, hidden_channels: int, channels: int = 16) -> None:
        super().__init__("thresholding", threshold=threshold)
        if not isinstance(channels, int) or not 0 < channels <= MOST_CHANNELS:
            raise ValueError(f"the refinement has 1 to {MOST_CHANNELS} channels; got {channels!r}")
        self.trunk = nn.Sequential(*_block(hidden_channels + 4 + 6 + 4, channels), *_block(channels, channels))
        self.correct = nn.Conv2d(channels, 3, 1)
        self.head = nn.Sequential(*_block(channels + 4 * (6 + 4), channels))
        self.predict = nn.Conv2d(channels, 4 * (4 + 2), 3)
        for layer in (self.correct, self.predict):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def start_as(self, narrow: SolvingRefiner) -> None:
        """Take the weights of a network with fewer channels; the others have no effect until they are trained."""
        known = narrow.correct.in_channels
        for own, other in zip(self.modules(), narrow.modules(), strict=True):
            if isinstance(own, nn.Conv2d) and isinstance(other, nn.Conv2d):
                new = range(known, known + own.in_channels - other.in_channels)  # the trunk's channels come first
                weight = own.weight[: other.out_channels].zero_()
                weight[:, [n for n in range(own.in_channels) if n not in new]] = other.weight
                if own.bias is not None and other.bias is not None:
                    own.bias[: other.out_channels] = other.bias
            elif isinstance(own, nn.BatchNorm2d):
                for name, value in other.state_dict().items():
                    own.state_dict()[name].view(-1)[: value.numel()] = value

    def forward(
        self, src: Tensor, bgr: Tensor, pha: Tensor, fgr: Tensor, err: Tensor, *hid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As of `WindowRefiner`; the first of `hid` is the light on the plate (B, 3, h, w), the last the straight
        foreground (B, 3, h, w)."""
        return super().forward(src, bgr, *self.approach(src, bgr, pha, fgr, err, *hid))

    def approach(
        self, src: Tensor, bgr: Tensor, pha: Tensor, fgr: Tensor, err: Tensor, *hid: Tensor
    ) -> tuple[Tensor, ...]:
        """The arguments of `forward` behind src and bgr as its last step takes them.

        Where the coarse size is close enough, they stay as they are. Else pha, fgr and the foreground are those refined
        at half of the full size, and err is (B, 1, H/4, W/4), 0 where alpha has become 0 or 1 all around.
        """
        height, width = src.shape[2:]
        if pha.shape[2] >= _FAR * height:
            return pha, fgr, err, *hid
        src, bgr = halved(src), halved(bgr)
        pha, fgr, _ = self(divisible(src, PATCH), divisible(bgr, PATCH), pha, fgr, err, *hid)
        pha, fgr = (x[..., : height // 2, : width // 2] for x in (pha.clamp(0, 1), fgr))
        soft = ((pha > _SETTLED) & (pha < 1 - _SETTLED)).to(pha.dtype)
        err = F.interpolate(err, [height // PATCH, width // PATCH], mode="bilinear", align_corners=False)
        err = err * (blurred(halved(soft), 3) > 0)
        known = extend_foreground((src + fgr).clamp(0, 1), pha, self.traceable)
        light = extend_light(halved(src), halved(bgr), halved(pha), self.traceable)
        return pha, fgr, err, light.to(hid[0].dtype), *hid[1:-1], known

    def refine_windows(self, src: Tensor, bgr: Tensor, guides: Tensor, before: Tensor | None) -> Tensor:
        assert before is not None
        light, guides = guides.tensor_split([3], dim=1)
        src, bgr = _quartered(src), (_quartered(bgr) * light[:, :, None]).clamp(max=1)
        fgr = guides[:, -7:-4]  # behind it alpha and the foreground residual
        half_src, half_bgr = src.mean(2), bgr.mean(2)
        solved = torch.stack([*solve_alpha(fgr, half_src, half_bgr), least_alpha(half_src, half_bgr)], dim=1)
        x = self.trunk(_joined(guides, half_src, half_bgr, solved))
        correction = self.correct(x).float()
        src, bgr, fgr = _cropped(src, 2), _cropped(bgr, 2), _cropped(fgr, 2) + correction
        found = *solve_alpha(fgr[:, :, None], src, bgr), least_alpha(src, bgr)
        out = self.predict(self.head(_joined(x, _planes(src), _planes(bgr), *found))).float()
        gate, added, lift = out.tensor_split([4, 20], dim=1)  # what came later is last: see core/checkpoints.py
        solved, least, correction, src, bgr = (_cropped(x, 2) for x in (found[0], found[-1], correction, src, bgr))
        pha, residual = _quartered(before[:, :1])[:, 0], _quartered(before[:, 1:])
        pha = pha + torch.tanh(gate) * (solved - pha) + torch.tanh(lift) * (least - pha).relu() + added[:, :4]
        residual = residual + added[:, 4:].unflatten(1, (3, 4)) + correction[:, :, None]
        residual = fuse_foreground(src + residual, pha[:, None], src, bgr) - src
        return F.pixel_shuffle(torch.cat([pha, _planes(residual)], dim=1), 2)


def _block(in_channels: int, channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(in_channels, channels, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


def _quartered(windows: Tensor) -> Tensor:
    """(N, C, 2 s, 2 s) -> (N, C, 4, s, s), contiguous: sums over channels then run along whole rows."""
    height, width = windows.shape[2] // 2, windows.shape[3] // 2
    squares = windows.view(*windows.shape[:2], height, 2, width, 2)
    return squares.permute(0, 1, 3, 5, 2, 4).reshape(*windows.shape[:2], 4, height, width)


def _planes(squares: Tensor) -> Tensor:
    """(N, C, 4, s, s) -> (N, 4 C, s, s). Where N is 0, ONNX cannot flatten."""
    return squares.reshape(-1, 4 * squares.shape[1], *squares.shape[3:])


def _joined(*parts: Tensor) -> Tensor:
    """Joined along the channels, in channels-last layout and in the precision that autocast gives convolutions."""
    device = parts[-1].device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else parts[-1].dtype
    return torch.cat([part.to(dtype) for part in parts], dim=1).contiguous(memory_format=torch.channels_last)


def _cropped(x: Tensor, margin: int) -> Tensor:
    return x[..., margin:-margin, margin:-margin]


def solve_alpha(fgr: Tensor, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Solve the compositing equation for alpha.

    Args:
        fgr, src, bgr: (N, 3, ...) straight foreground, source and plate.

    Returns:
        Each (N, ...): the alpha of least squares, how far the foreground is from the plate, and how far the source is
        from the line between both.
    """
    across, seen = fgr - bgr, src - bgr
    square = across.square().sum(1)
    alpha = ((across * seen).sum(1) / (square + 1e-3)).clamp(-0.5, 1.5)
    astray = (seen - alpha.unsqueeze(1) * across).square().sum(1)
    return alpha, (square + 1e-6).sqrt(), (astray + 1e-6).sqrt()


def least_alpha(src: Tensor, bgr: Tensor) -> Tensor:
    """The least alpha with which any foreground explains the source: (N, 3, ...) source and plate -> (N, ...).

    It tells where something is whose colour nobody knows, such as a single hair that is lit from behind.
    """
    change = src - bgr
    room = torch.where(change > 0, 1 - bgr, bgr)
    return (change.abs() / (room + 0.05)).amax(1)


def fuse_foreground(fgr: Tensor, pha: Tensor, src: Tensor, bgr: Tensor) -> Tensor:
    """Move a foreground towards the one that gives the source over the plate: the higher alpha, the more.

    The last step of Forte 2021, "Approximate Fast Foreground Colour Estimation", with the plate in place of the
    background that is estimated there. It removes what shines through; where alpha is 1, it gives the source's pixel.

    Args:
        fgr, src, bgr: (N, 3, ...) straight foreground, source and plate.
        pha: (N, 1, ...). It and the foreground are clamped to 0 to 1.
    """
    fgr, pha = fgr.clamp(0, 1), pha.clamp(0, 1)
    return fgr + pha * (src - torch.lerp(bgr, fgr, pha))
