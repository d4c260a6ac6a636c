# SPDX-License-Identifier: GPL-3.0-or-later
"""The default network: recurrent video matting that also looks at a clean plate.

The network without a plate is RobustVideoMatting (Lin et al. 2022, "Robust High-Resolution Video Matting with Temporal
Guidance"): a MobileNetV3 encoder, LR-ASPP, a decoder of convolutional GRUs, and a deep guided filter for the full
resolution. Every layer through which the plate enters starts at zero, so that weights made for that network keep their
quality until training moves them; without a plate those layers are left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import ShapeError
from core.models.clamping import clamp_unit
from core.models.detail import missed_detail
from core.models.foreground import extend_foreground, extend_light
from core.models.mobilenetv3 import MobileNetV3Encoder
from core.models.refiner import PATCH, SolvingRefiner
from core.models.review import REGRESSION, SHADING, Review, broadly_see_through, clear_foreground, plate_moments, relate
from core.models.scales import average, blurred, divisible, doubled, halved, pyramid, shrunk, upsampled

State: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]

_IMAGES = 3 + 3  # channels: the plate, and its absolute difference from the source
_RELATION = 1 + 3  # channels of the regression that the decoder sees, besides the shading
_OWN = 0.25  # share of its own detail from which on a surface is no transparent one
_AROUND = 31  # pixels at half of the coarse size over which that is judged
_STRIP = 64  # rows of a full frame that a few steps in a row find in the processor's cache


class RecurrentOutput(NamedTuple):
    """The result for consecutive frames; without the T axis if the source had none."""

    pha: Tensor  # (B, T, 1, H, W) alpha, 0 to 1
    fgr: Tensor  # (B, T, 3, H, W) straight foreground, sRGB-encoded, 0 to 1
    err: Tensor  # (B, T, 1, h, w) expected absolute error of alpha, 0 to 1, at the coarse size
    rec: State  # memory for the next frame: (B, C, h/2, w/2) down to (B, C, h/16, w/16)


class PlateFeatures(NamedTuple):
    """What the network needs to know of a plate, computed once for a plate that stays the same (T = 1)."""

    bgr: Tensor  # (B, T, 3, H, W)
    bgr_sm: Tensor  # (B, T, 3, h, w), at the coarse size
    moments: tuple[Tensor, ...]  # (B, T, 4, h/2, w/2) down to (B, T, 4, h/16, w/16) local mean and variance
    features: tuple[Tensor, ...]  # (B, T, C, h/2, w/2) down to (B, T, C, h/16, w/16)


class Look(NamedTuple):
    """The coarse result for consecutive frames, which `finish` brings to full resolution. N = B * T."""

    src: Tensor  # (N, 3, H, W), padded to multiples of `PATCH` where the refinement needs it
    plate: PlateFeatures | None
    src_sm: Tensor  # (N, 3, h, w)
    coarse: Tensor  # (N, 4, h, w) foreground residual and alpha, not clamped; alpha not yet reviewed
    err: Tensor  # (N, 1, h, w) expected error's logit
    hid: Tensor  # (N, 16, h, w)
    evidence: tuple[Tensor, list[Tensor]] | None  # what the review sees of a plate: difference and relations
    before: State | None  # the memory before the last look at these frames
    rec: State
    shape: tuple[int, ...]  # the source's, as it was passed
    downsample_ratio: float

    def guides(self, traceable: bool = False) -> tuple[Tensor, ...]:
        """Alpha, foreground residual, expected error, light, features and foreground, as `SolvingRefiner` takes them.

        The foreground is extended, because where the subject covers little, the network's own foreground contains the
        plate's colour, and alpha cannot be solved with that.

        No gradient flows back: together with the coarse losses, it made the coarse network diverge.
        """
        residual, pha = (
            x.contiguous(memory_format=torch.channels_last) for x in self.coarse.detach().tensor_split([3], dim=1)
        )
        err, hid = (x.detach().to(pha.dtype) for x in (self.err, self.hid))
        pha = pha.clamp(0, 1)
        assert self.plate is not None
        bgr_sm = _repeat(self.plate.bgr_sm, pha.shape[0] // self.plate.bgr_sm.shape[0])
        light = extend_light(self.src_sm, bgr_sm, pha, traceable)
        err = err.maximum(missed_detail(self.src_sm, light * bgr_sm, pha))
        fgr = extend_foreground((self.src_sm + residual).clamp(0, 1), pha, traceable)
        return pha, residual, err, light.to(hid.dtype), hid, fgr


class PlateConv2d(nn.Conv2d):
    """A convolution with extra input channels for the plate, which have no effect until they are trained.

    Args:
        plate_channels: channels of the plate's input; the other arguments are those of `nn.Conv2d`.
    """

    def __init__(self, in_channels: int, plate_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.plate_weight = nn.Parameter(torch.zeros(out_channels, plate_channels, kernel_size, kernel_size))
        self.plate_bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, *inputs: Tensor, plate: tuple[Tensor, ...] = ()) -> Tensor:
        """Inputs (B, C, H, W) with `in_channels` in all, and the plate's with `plate_channels` -> (B, out, H, W).

        Before they are joined, all are cast to the first one's precision, which under autocast is the lower one.
        """
        weight, bias = self.weight, self.bias
        if plate:
            weight = torch.cat([weight, self.plate_weight], dim=1)
            bias = self.plate_bias if bias is None else bias + self.plate_bias
        joined = torch.cat([x.to(inputs[0].dtype) for x in (*inputs, *plate)], dim=1)
        return F.conv2d(joined, weight, bias, padding=self.padding)


class _LiteAspp(nn.Module):
    """LR-ASPP (Howard et al. 2019, section 6.4): features gated by their global mean."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.value = nn.Conv2d(in_channels, out_channels, 1)
        self.gate = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.value(x)) * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1)))


class _ConvGru(nn.Module):
    """Convolutional gated recurrent unit over half of the channels; the others pass unchanged (section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = channels // 2
        self.gates = nn.Conv2d(2 * self.hidden, 2 * self.hidden, 3, padding=1)
        self.candidate = nn.Conv2d(2 * self.hidden, self.hidden, 3, padding=1)

    def forward(self, x: Tensor, frames: int, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (B * frames, C, h, w), state (B, C/2, h, w) -> the same shapes."""
        passed, remembered = x.chunk(2, dim=1)
        remembered = _unfold(remembered, frames)
        if state is None:
            state = torch.zeros_like(remembered[:, 0])
        states = []
        for frame in remembered.unbind(1):
            reset, update = torch.sigmoid(self.gates(torch.cat([frame, state], dim=1))).chunk(2, dim=1)
            candidate = torch.tanh(self.candidate(torch.cat([frame, reset * state], dim=1)))
            state = state + update * (candidate - state)  # lerp takes five times as long in bf16
            states.append(state)
        remembered = state if frames == 1 else torch.stack(states, dim=1).flatten(0, 1)
        return torch.cat([passed, remembered], dim=1), state


class _UpBlock(nn.Module):
    """Up by two, joined with the encoder's feature and the source at that scale, then a GRU."""

    def __init__(self, in_channels: int, skip_channels: int, plate_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = PlateConv2d(in_channels + skip_channels + 3, plate_channels, out_channels, 3)
        self.gru = _ConvGru(out_channels)

    def forward(
        self, x: Tensor, skip: Tensor, src: Tensor, plate: tuple[Tensor, ...], frames: int, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x = F.relu(self.conv(doubled(x, src), skip, src, plate=plate), inplace=True)
        return self.gru(x, frames, state)  # type: ignore[no-any-return]


class _Decoder(nn.Module):
    """Section 3.2: from 1/16 up to the coarse size, with memory at four scales."""

    def __init__(self) -> None:
        super().__init__()
        self.plate_bottleneck = nn.Conv2d(128, 128, 1)
        nn.init.zeros_(self.plate_bottleneck.weight)
        nn.init.zeros_(self.plate_bottleneck.bias)  # type: ignore[arg-type]
        self.gru = _ConvGru(128)
        self.up8 = _UpBlock(128, 40, 40 + _IMAGES + _RELATION + SHADING, 80)
        self.up4 = _UpBlock(80, 24, 24 + _IMAGES + _RELATION + SHADING, 40)
        self.up2 = _UpBlock(40, 16, 16 + _IMAGES + _RELATION + SHADING, 32)
        self.conv0 = PlateConv2d(32 + 3, _IMAGES, 16, 3)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1)

    def forward(
        self,
        features: tuple[Tensor, ...],
        srcs: tuple[Tensor, ...],
        images: tuple[Tensor, ...],
        relations: list[Tensor],
        changes: tuple[Tensor, ...],
        frames: int,
        rec: State | None,
    ) -> tuple[Tensor, State]:
        """Features (B * frames, C, ...) at four scales -> (B * frames, 32, h/2, w/2) and the next state.

        Args:
            srcs: (B * frames, 3, ...) the source at 1/2, 1/4 and 1/8 of the coarse size.
            images: (B * frames, 6, ...) plate and absolute difference at the same sizes; empty without a plate.
            relations: what `relate` returns; empty without a plate.
            changes: absolute differences of the encoder's features, finest first; empty without a plate.
        """
        plates: list[tuple[Tensor, ...]] = [()] * 3
        if relations:
            relation = torch.cat([relations[0][:, :_RELATION], relations[0][:, REGRESSION:]], dim=1)
            half = halved(relation)
            plates = list(zip(changes[:3], images, (relation, half, halved(half)), strict=True))
        r1, r2, r3, r4 = rec if rec is not None else (None, None, None, None)
        x = features[3]
        if changes:
            x = x + self.plate_bottleneck(changes[3])
        x, r4 = self.gru(x, frames, r4)
        x, r3 = self.up8(x, features[2], srcs[2], plates[2], frames, r3)
        x, r2 = self.up4(x, features[1], srcs[1], plates[1], frames, r2)
        x, r1 = self.up2(x, features[0], srcs[0], plates[0], frames, r1)
        return x, (r1, r2, r3, r4)

    def finish(self, x: Tensor, src: Tensor, images: tuple[Tensor, ...]) -> Tensor:
        """What `forward` gives, and source and images at the coarse size -> hidden features (B * frames, 16, h, w)."""
        x = F.relu(self.conv0(doubled(x, src), src, plate=images), inplace=True)
        return F.relu(self.conv1(x), inplace=True)


class _GuidedRefiner(nn.Module):
    """Deep guided filter (Wu et al. 2018) from the coarse to the full resolution: locally affine in the source."""

    def __init__(self) -> None:
        super().__init__()
        self.box = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)  # a learned mean
        self.conv0 = nn.Conv2d(4 + 4 + 16, 16, 1)
        self.conv1 = nn.Conv2d(16, 16, 1)
        self.slope = nn.Conv2d(16, 4, 1)

    def forward(self, src: Tensor, src_sm: Tensor, coarse: Tensor, hid: Tensor) -> Tensor:
        """Bring `coarse` to the source's size.

        Args:
            src: (B, 3, H, W); src_sm: (B, 3, h, w).
            coarse: (B, 4, h, w) foreground residual and alpha.
            hid: (B, 16, h, w) the decoder's features.

        Returns:
            (B, 4, H, W) foreground residual and alpha, not clamped.
        """
        guide = torch.cat([src_sm, src_sm.mean(1, keepdim=True)], dim=1)
        mean_guide, mean_coarse = self.box(guide), self.box(coarse)
        covariance = self.box(guide * coarse) - mean_guide * mean_coarse
        variance = self.box(guide * guide) - mean_guide * mean_guide
        x = F.relu(self.conv0(torch.cat([covariance, variance, hid.to(covariance.dtype)], dim=1)))
        slope = self.slope(F.relu(self.conv1(x)))
        lines = torch.cat([slope, mean_coarse - slope * mean_guide], dim=1)
        full = F.interpolate(lines, src.shape[-2:], mode="bilinear", align_corners=False)
        return torch.addcmul(full[:, 4:], full[:, :4], torch.cat([src, src.mean(1, keepdim=True)], dim=1))


class RecurrentMatting(nn.Module):
    """RobustVideoMatting with a clean plate.

    The same encoder sees source and plate separately, and the decoder gets the absolute difference of their features
    at every scale; the difference of their pixels enters beside the source at every scale. (With the plate in the
    encoder's first layer instead, the error after the same training time was twice as large.) The decoder also gets a
    local regression of the source on the plate and each pixel's shading (`relate`), which tell glass and shadows from
    opaque subjects. At full resolution, the refinement of Lin et al. 2021, section 3.3, sees source and plate wherever
    the coarse alpha is expected to be wrong.

    Args:
        blind: hold a second network of this kind for frames without a plate: the one that training started from.
        refine_threshold: expected error, 0 to 1, above which a patch is refined at full resolution.
        refine_channels: the refinement's; weight files that do not say how many have 16.

    Attributes:
        arguments: what the network was made with, as weight files record it.
        blind: that network; if it is None, this one also serves frames without a plate.
        filter: brings the coarse result to full resolution without a plate.
        refiner: does so with one.
    """

    def __init__(self, blind: bool = False, refine_threshold: float = 0.02, refine_channels: int = 16) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "blind": blind,
            "refine_threshold": refine_threshold,
            "refine_channels": refine_channels,
        }
        self.blind: RecurrentMatting | None = None
        self.encoder = MobileNetV3Encoder()
        self.aspp = _LiteAspp(self.encoder.channels[3], 128)
        self.decoder = _Decoder()
        self.project = nn.Conv2d(16, 4, 1)
        self.plate_review = Review()
        self.filter = _GuidedRefiner()
        self.refiner = SolvingRefiner(refine_threshold, 16 + 3, refine_channels)
        self.error = nn.Conv2d(16, 1, 1)
        nn.init.zeros_(self.error.weight)
        nn.init.constant_(self.error.bias, -4.0)  # type: ignore[arg-type]  # an expected error of 0.018 everywhere
        if blind:
            self.blind = RecurrentMatting()
            del self.blind.plate_review, self.blind.refiner  # nothing without a plate

    def encode_plate(self, bgr: Tensor, downsample_ratio: float = 1.0) -> PlateFeatures:
        """Compute once what `forward` needs of a plate that does not change; pass the result as its `bgr`.

        Args:
            bgr: (B, 3, H, W) or (B, T, 3, H, W) sRGB-encoded, 0 to 1.
            downsample_ratio: the one that `forward` will be given.
        """
        if bgr.dim() == 4:
            bgr = bgr.unsqueeze(1)
        frames = bgr.shape[1]
        bgr = self._padded(_fold(bgr), downsample_ratio)
        bgr_sm = average(bgr, downsample_ratio)
        features = tuple(_unfold(feature, frames) for feature in self._encode(bgr_sm))
        moments = tuple(_unfold(moment, frames) for moment in plate_moments(halved(bgr_sm)))
        return PlateFeatures(_unfold(bgr, frames), _unfold(bgr_sm, frames), moments, features)

    def forward(
        self,
        src: Tensor,
        bgr: Tensor | PlateFeatures | None = None,
        rec: State | None = None,
        downsample_ratio: float = 1.0,
        looks: int = 1,
    ) -> RecurrentOutput:
        """Matte a run of frames: `look`, then `finish`."""
        return self.finish(self.look(src, bgr, rec, downsample_ratio, looks))

    def look(
        self,
        src: Tensor,
        bgr: Tensor | PlateFeatures | None = None,
        rec: State | None = None,
        downsample_ratio: float = 1.0,
        looks: int = 1,
    ) -> Look:
        """Run the coarse network, which is all that the next frame has to wait for.

        Args:
            src: (B, T, 3, H, W), or (B, 3, H, W) for one frame; sRGB-encoded, 0 to 1.
            bgr: clean plate of the same shape; (B, 1, 3, H, W) or (B, 3, H, W) if it is the same for all frames;
                or what `encode_plate` returned; None without a plate.
            rec: the memory after the frame before; None at the first frame.
            downsample_ratio: scale of the coarse network's input; below 1, `finish` brings its result to full size.
            looks: how often to look at the first frame, so that its memory settles.

        Raises:
            ShapeError: source and plate differ in size, or a shape is none of the above.
        """
        if bgr is None and self.blind is not None:
            return self.blind.look(src, None, rec, downsample_ratio, looks)
        shape = tuple(src.shape)
        if src.dim() == 4:
            src = src.unsqueeze(1)
        if src.dim() != 5 or src.shape[2] != 3:
            raise ShapeError("a source of (B, T, 3, H, W) or (B, 3, H, W)", f"{shape}", "Pass RGB frames of that shape")
        plate = self.encode_plate(bgr, downsample_ratio) if isinstance(bgr, Tensor) else bgr
        batch, frames = src.shape[:2]
        src = _fold(src)
        if plate is not None:
            src = self._padded(src, downsample_ratio)
            # a list, as an exporter's sizes cannot be hashed
            fitting = [(batch, count, *src.shape[1:]) for count in (frames, 1)]
            if tuple(plate.bgr.shape) not in fitting:
                raise ShapeError(
                    f"a plate of {fitting[0]} or with one frame",
                    f"{tuple(plate.bgr.shape)}",
                    "Bring the plate to the source's size",
                )
        return self._see(src, plate, shape, rec, downsample_ratio, looks)

    def finish(self, look: Look) -> RecurrentOutput:
        """Bring what `look` found to the full resolution."""
        src, plate = look.src, look.plate
        if plate is None and self.blind is not None:
            return self.blind.finish(look)
        look = self.reviewed(look)
        single, height, width = len(look.shape) == 4, look.shape[-2], look.shape[-1]
        frames = 1 if single else look.shape[1]
        fgr, pha = look.coarse.tensor_split([3], dim=1)
        if look.downsample_ratio == 1 and (plate is None or self.training):  # no gradients pass through the refiner
            fgr, pha = fgr.clone(), pha.clone()  # which the look keeps
        elif plate is None:
            fgr, pha = self.filter(src, look.src_sm, look.coarse, look.hid).tensor_split([3], dim=1)
        else:
            pha, fgr, _ = self.refiner(src, _repeat(plate.bgr, frames), *look.guides(self.refiner.traceable))
        if self.training:
            pha, fgr = clamp_unit(pha), clamp_unit(src + fgr)
        else:  # in place: at full size every copy counts
            pha, fgr = pha.clamp_(0, 1), fgr.add_(src).clamp_(0, 1)
            if plate is not None:
                fgr = extend_foreground(fgr, pha, self.refiner.traceable)
                bgr, bgr_sm = (_repeat(x, frames) for x in (plate.bgr, plate.bgr_sm))
                pha, fgr = self._cleared(src, bgr, bgr_sm, look, pha, fgr)
        outputs = [pha[..., :height, :width], fgr[..., :height, :width], look.err]
        pha, fgr, err = outputs if single else (_unfold(output, frames) for output in outputs)
        return RecurrentOutput(pha, fgr, err, look.rec)

    def guide_refiner(self, src: Tensor, bgr: Tensor, downsample_ratio: float) -> tuple[Tensor, ...]:
        """The refiner's inputs for clips and plates (B, T, 3, H, W), to train it alone."""
        look = self.reviewed(self.look(src, bgr, None, downsample_ratio))
        assert look.plate is not None
        return look.src, _repeat(look.plate.bgr, src.shape[1]), *look.guides()

    def _cleared(
        self, src: Tensor, bgr: Tensor, bgr_sm: Tensor, look: Look, pha: Tensor, fgr: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Overwrite alpha (N, 1, H, W) and foreground (N, 3, H, W) inside transparent surfaces, unless they are hair.

        There, alpha becomes the review's, which judged the surface as a whole, while the refinement sees the plate in
        it; colour becomes that of `clear_foreground`. `bgr_sm` (N, 3, h, w) is the plate at the coarse size; the other
        arguments are what `finish` has at full resolution.
        """
        judged = look.coarse[:, 3:].float().clamp(0, 1)
        coarse = halved(judged)
        share, traceable = broadly_see_through(coarse), self.refiner.traceable
        if not traceable and not share.any():
            return pha, fgr
        known = (look.src_sm + look.coarse[:, :3]).clamp(0, 1)
        src_sm, bgr_sm, known = (halved(x.float().contiguous()) for x in (look.src_sm, bgr_sm, known))
        color, own = clear_foreground(src_sm, bgr_sm, coarse, known)
        around = blurred(own * share, _AROUND) / (blurred(share, _AROUND) + 1e-3)
        share = share * (1 - around / _OWN).clamp_min(0)  # dense hair has detail of its own, glass the plate's
        height, width = src.shape[-2:]
        parts = (
            upsampled(x, height, width, traceable=traceable).permute(0, 3, 1, 2)
            for x in (judged, torch.cat([color, own, share], dim=1))
        )
        whole = src, bgr, pha, fgr, *parts
        if traceable:
            return _clear(*whole)
        strips = list(zip(*(x.chunk(-(-height // _STRIP), dim=2) for x in whole), strict=True))
        concerned = torch.stack([strip[-1][:, 4:].any() for strip in strips]).tolist()  # a card is waited for once
        for strip, is_concerned in zip(strips, concerned, strict=True):
            if is_concerned:
                for old, new in zip(strip[2:4], _clear(*(x.contiguous() for x in strip)), strict=True):
                    old.copy_(new)
        return pha, fgr

    def _see(
        self,
        src: Tensor,
        plate: PlateFeatures | None,
        shape: tuple[int, ...],
        rec: State | None,
        ratio: float,
        looks: int,
    ) -> Look:
        """Shrink sources (N, 3, H, W), passed in `shape`, and run encoder and decoder."""
        frames = shape[1] if len(shape) == 5 else 1
        shrink = shrunk if plate is None else average
        src_sm = shrink(src, ratio).contiguous(memory_format=torch.channels_last)
        features, srcs = self._encode(src_sm), pyramid(src_sm)
        images: tuple[Tensor, ...] = ()
        relations: list[Tensor] = []
        changes: tuple[Tensor, ...] = ()
        if plate is not None:
            bgr_sm = _repeat(plate.bgr_sm, frames)
            images = pyramid(torch.cat([bgr_sm, (src_sm - bgr_sm).abs()], dim=1))
            relations = relate(srcs[1], images[1][:, :3], [_repeat(moment, frames) for moment in plate.moments])
            pairs = zip(features, plate.features, strict=True)
            changes = tuple((feature - _repeat(other, frames)).abs() for feature, other in pairs)
        seen = features, srcs[1:], images[1:], relations, changes
        first = [[x[::frames] for x in xs] for xs in seen]
        for _ in range(looks - 1):
            rec = self.decoder(*first, 1, rec)[1]
        before = rec
        x, rec = self.decoder(*seen, frames, before)
        hid = self.decoder.finish(x, srcs[0], images[:1])
        coarse, err = self.project(hid).to(src.dtype), self.error(hid)
        evidence = None if plate is None else (images[1][:, 3:], relations)
        return Look(src, plate, src_sm, coarse, err, hid, evidence, before, rec, shape, ratio)

    def reviewed(self, look: Look) -> Look:
        """The look with the review's alpha, if it has a plate, and with the expected error from 0 to 1."""
        if look.evidence is None:
            return look._replace(err=torch.sigmoid(look.err))
        pha, doubt = self.plate_review(look.hid, *look.evidence, clamp_unit(look.coarse[:, 3:]))
        coarse = torch.cat([look.coarse[:, :3], pha], dim=1).contiguous(memory_format=torch.channels_last)
        return look._replace(coarse=coarse, err=torch.sigmoid(look.err + doubt))

    def _padded(self, x: Tensor, ratio: float) -> Tensor:
        """Padded to multiples of the refinement's patches, unless the refinement will not be used."""
        return x if self.training and ratio == 1 else divisible(x, PATCH)

    def _encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, h, w) -> features of 16, 24, 40 and 128 channels at 1/2, 1/4, 1/8 and 1/16."""
        f1, f2, f3, f4 = self.encoder(image)
        return f1, f2, f3, self.aspp(f4)


def _clear(src: Tensor, bgr: Tensor, pha: Tensor, fgr: Tensor, judged: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
    """Blend in a transparent surface's alpha and colour.

    Args:
        src, bgr, pha, fgr: (N, 1 or 3, H, W).
        judged: (N, 1, H, W) the surface's alpha.
        parts: (N, 5, H, W) its colour, how much of the source's detail is its own, and how far to blend, 0 to 1.
    """
    color, own, share = parts.tensor_split([3, 4], dim=1)
    pha = torch.lerp(pha, judged, share)
    detail = src - torch.lerp(bgr, color, pha)
    return pha, torch.lerp(fgr, (color + own * detail / (pha + 0.05)).clamp(0, 1), share)


def _repeat(x: Tensor, frames: int) -> Tensor:
    """(B, T or 1, C, H, W) -> (B * frames, C, H, W)."""
    return _fold(x.expand(-1, frames, -1, -1, -1))


def _unfold(x: Tensor, frames: int) -> Tensor:
    """(B * frames, C, H, W) -> (B, frames, C, H, W)."""
    return x.unsqueeze(1) if frames == 1 else x.view(-1, frames, *x.shape[1:])


def _fold(x: Tensor) -> Tensor:
    """(B, T, C, H, W) -> (B * T, C, H, W).

    A single frame is squeezed, not flattened: flattening leaves a stride for the batch with which PyTorch no longer
    takes the tensor for channels-last, and every result is copied from one layout to the other.
    """
    return x.squeeze(1) if x.shape[1] == 1 else x.flatten(0, 1)
