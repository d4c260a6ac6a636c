# SPDX-License-Identifier: GPL-3.0-or-later
"""The local regression of a source on its plate, its shading, and what both say of the alpha of transparent things."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models.scales import blurred, doubled, halved, largest, resized

SCALES = 4  # at which `relate` looks
REGRESSION, SHADING = 9, 2  # channels of a relation: what the regression found, and what `_shading` sees
BLANK = 1e-3  # variance, summed over the channels, at which a measurement counts half: about that of noise
_FLOOR = 1e-5  # added to variances before their roots are taken
_DARK = 3 * 0.05**2  # squared brightness, summed over the channels, that says as much of a colour as noise does


def relate(src: Tensor, bgr: Tensor, moments: list[Tensor]) -> list[Tensor]:
    """Regress the source on the plate in neighbourhoods of 10, 20, 40 and 80 pixels.

    By least squares, src = (1 - found) * bgr + offset. Where nothing stands in front of the plate, found and offset are
    0. In a shadow, offset is 0. For an opaque subject, found is 1. For a transparent one, found is its alpha, as far as
    the plate has texture to measure it by: in front of a blank plate, found is 0 and offset is the difference.

    Args:
        src, bgr: (B, 3, h/2, w/2), 0 to 1.
        moments: what `plate_moments` returns for the plate.

    Returns:
        At 1/2, 1/4, 1/8 and 1/16 (B, 11, ...): found, offset, four times the residual and the plate's texture
        (standard deviations), the residual's share of both, the brightness of what would stand in front of the plate
        (offset / found), the plate's brightness, and what `_shading` sees.
    """
    relations = []
    shading = _shading(src, bgr)
    for means, moment in zip(_local_means(src, bgr), moments, strict=True):
        mean_src, product, square = means.tensor_split([3, 4], dim=1)
        mean_bgr, variance = moment.tensor_split([3], dim=1)
        covariance = product - (mean_src * mean_bgr).sum(1, keepdim=True)
        found = (1 - (covariance + BLANK) / (variance + BLANK)).clamp(-1, 2)
        slope = 1 - found
        offset = mean_src - slope * mean_bgr
        left = square - mean_src.square().sum(1, keepdim=True) - 2 * slope * covariance + slope.square() * variance
        left, texture = ((x.clamp_min(0) + _FLOOR).sqrt() for x in (left, variance))
        brightness = (offset.mean(1, keepdim=True) / (found.abs() + 0.05)).clamp(-1, 2), mean_bgr.mean(1, keepdim=True)
        seen = found, offset, 4 * left, 4 * texture, left / (left + texture), *brightness, shading
        relation = torch.cat(seen, dim=1)
        relations.append(relation.contiguous(memory_format=torch.channels_last))  # like all that it is joined with
        shading = halved(shading)
    return relations


def _shading(src: Tensor, bgr: Tensor) -> Tensor:
    """How a pixel of the source is the plate's, made darker or brighter, and how far it has another colour.

    A shadow's edge looks like a subject's to the regression, which needs a neighbourhood. Each pixel by itself is the
    plate's, times a number, there as everywhere in a shadow.

    Args:
        src, bgr: (B, 3, h, w), 0 to 1.

    Returns:
        (B, 2, h, w), eight times: that number minus 1, from -1 to 1, and what it leaves over, |src - number * bgr|, as
        a share of it and of 0.05. In the dark, where colours are noise, the number is about 1.
    """
    with torch.autocast(src.device.type, enabled=False):
        src, bgr = src.float(), bgr.float()
        number = ((src * bgr).sum(1, keepdim=True) + _DARK) / (bgr.square().sum(1, keepdim=True) + _DARK)
        left = ((src - number * bgr).square().sum(1, keepdim=True) + _FLOOR).sqrt()
        return 8 * torch.cat([(number - 1).clamp(-1, 1), left / (left + 0.05)], dim=1)  # else it is learnt too slowly


def plate_moments(bgr: Tensor) -> list[Tensor]:
    """The plate (B, 3, h/2, w/2) -> local mean, and variance summed over the channels, (B, 4, ...) at each scale."""
    moments = []
    for means in _local_means(bgr, bgr):
        mean, square = means[:, :3], means[:, 3:4]
        moments.append(torch.cat([mean, square - mean.square().sum(1, keepdim=True)], dim=1))
    return moments


def _local_means(x: Tensor, y: Tensor) -> list[Tensor]:
    """Means of x (B, 3, h/2, w/2) and of the sums of x * y and x * x over the channels, (B, 5, ...) at each scale."""
    found = []
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        stacked = torch.cat([x, (x * y).sum(1, keepdim=True), (x * x).sum(1, keepdim=True)], dim=1)
        for _ in range(SCALES):
            found.append(blurred(stacked, 5))
            stacked = halved(stacked)
    return found


def _conv3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class Review(nn.Module):
    """Corrects the decoder's alpha by the local regression of the source on the plate.

    The decoder is given that regression, too, but would have to build a product out of convolutions to use it, and left
    glass and veils at half of the alpha that their background plainly showed. The review says how far to go from the
    decoder's alpha to those found in neighbourhoods of each size, to 0 (in a shadow) and to 1 (in a hole). Dark glass
    and a shadow differ only in their outlines, which may be far away, so it looks down to 1/64 of the coarse size.
    """

    def __init__(self) -> None:
        super().__init__()
        seen, channels, deep = REGRESSION + SHADING + 16 + 1 + 3, 24, 32
        self.down4 = _conv3(seen, channels)
        self.down8 = _conv3(seen + channels, channels)
        self.down16 = _conv3(seen + channels, deep)
        self.down32 = _conv3(deep, deep)
        self.down64 = _conv3(deep, deep)
        self.up32 = _conv3(2 * deep, deep)
        self.up16 = _conv3(2 * deep, channels)
        self.up8 = _conv3(2 * channels, channels)
        self.up4 = _conv3(2 * channels, channels)
        self.conv2a = nn.Conv2d(seen + channels, 16, 1)
        self.conv2b = _conv3(16, 16)
        self.gates = nn.Conv2d(16, SCALES + 2 + 1, 1)
        nn.init.zeros_(self.gates.weight)
        nn.init.zeros_(self.gates.bias)  # type: ignore[arg-type]
        self.see_through = SeeThrough(16)

    def forward(self, hid: Tensor, difference: Tensor, relations: list[Tensor], pha: Tensor) -> tuple[Tensor, Tensor]:
        """Correct the decoder's alpha.

        Args:
            hid: (N, 16, h, w) the decoder's features.
            difference: (N, 3, h/2, w/2) absolute, of source and plate.
            relations: what `relate` returns, at 1/2 down to 1/16.
            pha: (N, 1, h, w) the decoder's alpha, 0 to 1.

        Returns:
            Alpha, not clamped, and what to add to the logit of the expected error; both (N, 1, h, w).
        """
        image = torch.cat([x.to(hid.dtype) for x in (halved(hid), halved(pha), difference)], dim=1)
        image = image.contiguous(memory_format=torch.channels_last)  # joined with one channel, it might not be
        seen = []
        for relation in relations:
            seen.append((relation.to(hid.dtype), image))
            image = halved(image)
        down4 = F.relu_(self.down4(torch.cat(seen[1], dim=1)))
        down8 = F.relu_(self.down8(torch.cat([*seen[2], halved(down4)], dim=1)))
        down16 = F.relu_(self.down16(torch.cat([*seen[3], halved(down8)], dim=1)))
        down32 = F.relu_(self.down32(halved(down16)))
        x = F.relu_(self.down64(halved(down32)))
        for conv, here in ((self.up32, down32), (self.up16, down16), (self.up8, down8), (self.up4, down4)):
            x = F.relu_(conv(torch.cat([here, doubled(x, here)], dim=1)))
        x = F.relu_(self.conv2a(torch.cat([*seen[0], doubled(x, seen[0][1])], dim=1)))
        x = F.relu_(self.conv2b(x))
        gates = self.gates(x).float().contiguous()  # sums over channels are faster this way
        gates, doubt = torch.tanh(gates[:, :-1]), gates[:, -1:]  # to each neighbourhood's alpha, to 0 and to 1
        alphas = [resized(r[:, :1], relations[0]) for r in relations]
        added = (gates[:, :SCALES] * torch.cat(alphas, dim=1).clamp(0, 1)).sum(1, keepdim=True) + gates[:, -1:]
        added, taken, doubt = doubled(torch.cat([added, gates.sum(1, keepdim=True), doubt], dim=1), pha).chunk(3, dim=1)
        pha = pha + added - taken * pha
        return pha + doubled(self.see_through(x, relations[0], halved(pha).clamp(0, 1)), pha), doubt


class SeeThrough(nn.Module):
    """Raises the alpha of transparent surfaces to what the texture of the plate behind them shows.

    Through alpha a, texture keeps 1 - a of its contrast, whatever colour is in front of it. The review sees that, but
    goes only part of the way, because a shadow may look the same, and it cannot measure where the plate is blank. Here
    a small network weights each place at which the contrast can be measured, and the whole surface is corrected by the
    weighted mean of such places nearby, or farther away where there are none (pull-push: Gortler et al. 1996).

    Args:
        channels: of the features by which places are weighted.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        seen = channels + REGRESSION + SHADING + 8
        self.weigh = nn.Sequential(
            nn.Conv2d(seen, 24, 1), nn.ReLU(), nn.Conv2d(24, 16, 1), nn.ReLU(), nn.Conv2d(16, 3, 1)
        )
        nn.init.zeros_(self.weigh[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.weigh[-1].bias)  # type: ignore[arg-type]
        # Logarithms of `enough` and `nothing` of `_spread_out`
        self.reach = nn.Parameter(torch.tensor([-1.6, -5.0]))

    def forward(self, features: Tensor, relation: Tensor, pha: Tensor) -> Tensor:
        """What to add to alpha.

        Args:
            features: (N, channels, h, w).
            relation: (N, 11, h, w) the finest of what `relate` returns.
            pha: (N, 1, h, w) alpha, 0 to 1. No gradient flows back into it.

        Returns:
            (N, 1, h, w), at least 0; 0 outside of transparent surfaces.
        """
        pha = pha.detach()
        least, most, within = _see_through(pha)
        around = blurred(pha, 5)
        covariance, variance, src_variance = _variances(relation)
        slope = (covariance / (variance + _FLOOR)).clamp(-1, 2)
        explained = slope.square() * variance
        left = (src_variance - explained).clamp_min(0)
        textured = variance / (variance + 2 * BLANK)
        measures = [slope, (left / (explained + _FLOOR)).clamp(0, 4), textured, (variance + 1e-6).log() / 10]
        seen = [features, relation, pha, least, most, around, *measures]
        judged = self.weigh(torch.cat([x.to(features.dtype) for x in seen], dim=1)).float()
        weight, spread, share = torch.sigmoid(judged[:, :1]), torch.sigmoid(judged[:, 1:2]), torch.tanh(judged[:, 2:])
        # A plate that is displaced or out of focus explains too little of the contrast that is there
        contrast = (slope.clamp_min(0).square() + 1.3 * spread * left / (variance + 1e-4) + 1e-6).sqrt()
        weight = within * textured * weight
        correction = share * ((1 - contrast).clamp(0, 1) - around)
        # Alpha is never lowered: through a subject coloured like its plate, texture seems to show
        return _spread_out(weight * correction, weight, *self.reach.exp()).clamp_min(0) * blurred(within, 3)


def broadly_see_through(pha: Tensor) -> Tensor:
    """How far each pixel of alpha (N, 1, h/2, w/2) lies inside a broad transparent surface, 0 to 1; hair is none."""
    within = _see_through(pha)[2]
    broad = F.max_pool2d((10 * F.avg_pool2d(within, 4, ceil_mode=True) - 9).clamp_min(0), 3, 1, 1)
    return within * resized(broad, within)


def clear_foreground(src: Tensor, bgr: Tensor, pha: Tensor, fgr: Tensor) -> tuple[Tensor, Tensor]:
    """The colour of transparent surfaces, without the plate that shows through them.

    It is found in neighbourhoods of 10 pixels, so that grain and small errors of the plate average out. It lies between
    the network's colour and the one that solves the compositing equation: the better source and plate agree nearby,
    where nothing stands in front of the plate, the closer to the latter. If the source is darker there, as in a shadow,
    the plate behind the surface is taken to be as much darker. Detail that this does not explain is the subject's own,
    as far as it exceeds what the plate's errors would cause.

    Args:
        src, bgr, fgr: (N, 3, h/2, w/2) source, plate and the network's straight foreground, 0 to 1.
        pha: (N, 1, h/2, w/2) alpha, 0 to 1.

    Returns:
        (N, 3, h/2, w/2) straight foreground, 0 to 1, and (N, 1, h/2, w/2) the subject's share of the detail, 0 to 1;
        both are meant for where `broadly_see_through` is above 0.
    """
    _, most, within = _see_through(pha)
    empty = (most < 0.02).to(pha.dtype)
    seen, expected = ((x * bgr).mean(1, keepdim=True) for x in (src, bgr))
    bgr = bgr * _spread_out(empty * seen + 1e-6, empty * expected + 1e-6, 1e-3, 0.0)
    shown = within * pha
    covered = blurred(shown, 5) + 1e-4
    solved = (blurred(within * (src - (1 - pha) * bgr), 5) / covered).clamp(0, 1)
    known = blurred(shown * fgr, 5) / covered
    apart, wrong = _mean_square_and_variance(src - bgr)
    apart = _spread_out(empty * apart + 1e-6 * 0.03**2, empty + 1e-6, 1e-3, 0.0)  # 0.03 where nothing is empty
    around = blurred(shown * pha, 5) / covered
    through = (1 - around) / (around + 0.05)
    trust = 0.05**2 / (0.05**2 + through.square() * apart)  # 0.05: by how much the network's colour errs
    color = torch.lerp(known, solved, trust)
    texture = _mean_square_and_variance(bgr)[1] + 1e-3
    wrong = texture * _spread_out(empty * wrong + 1e-9 * 0.3, empty * texture + 1e-9, 1e-5, 0.0)
    left = _mean_square_and_variance(src - torch.lerp(bgr, color, pha))[1]
    return color, (1 - 3 * (wrong + 1e-4) / (left + 1e-6)).clamp_min(0)


def _mean_square_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared mean and variance of neighbourhoods of (N, C, h, w), averaged over the channels: (N, 1, h, w) each."""
    square = blurred(x, 5).square().mean(1, keepdim=True)
    return square, blurred(x.square().mean(1, keepdim=True), 5) - square


def _see_through(pha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least and largest alpha around each pixel, and how far it lies inside a transparent surface, 0 to 1."""
    least, most = -largest(-pha), largest(pha)
    return least, most, ((least - 0.04) / 0.08).clamp(0, 1) * ((0.99 - most) / 0.04).clamp(0, 1)


def _spread_out(weighted: Tensor, weight: Tensor, enough: Tensor | float, nothing: Tensor | float) -> Tensor:
    """The weighted mean (N, 1, h, w) of nearby pixels, or of pixels farther away where those weigh too little.

    Args:
        weighted, weight: (N, 1, h, w) values times their weights, and the weights.
        enough: the weight at which nearby pixels count as much as those farther away.
        nothing: the weight of a value of 0, which remains where nothing has any weight.
    """
    levels = [(weighted, weight)]
    while max(levels[-1][1].shape[-2:]) > 1:
        levels.append((halved(levels[-1][0]), halved(levels[-1][1])))
    mean = levels[-1][0] / (levels[-1][1] + nothing)
    for above, below in levels[-2:0:-1]:
        mean = resized(mean, above)
        mean = (blurred(above, 3) + enough * mean) / (blurred(below, 3) + enough)
    return resized(mean, weight)


def _variances(relation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a relation (N, 11, h, w): the covariance of source and plate, and the variances of plate and source."""
    slope = 1 - relation[:, :1]
    left, variance = ((x / 4).square().sub(_FLOOR).clamp_min(0) for x in (relation[:, 4:5], relation[:, 5:6]))
    covariance = slope * (variance + BLANK) - BLANK
    return covariance, variance, left + 2 * slope * covariance - slope.square() * variance
