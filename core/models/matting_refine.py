# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole network of Lin et al. 2021: the base network on a small frame, the refinement network on the full one."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from core.errors import ShapeError
from core.models.clamping import clamp_unit
from core.models.matting_base import MattingBase, check_source_and_plate
from core.models.refiner import PATCH, Refiner

LARGEST_SCALE = 1 / 2  # of the base network's frame
REFINE_MODES = ("sampling", "thresholding", "full")


class MattingRefine(MattingBase):
    """Predict alpha and foreground at full resolution.

    `backbone_scale` and the refiner's `mode`, `sample_pixels`, `threshold` and `prevent_oversampling` may be set anew
    between two frames; the weights do not depend on them.

    Args:
        backbone: "resnet50", "resnet101" or "mobilenetv2".
        backbone_scale: size of the frame that the base network sees; at most 1/2. 1/4 suits HD, 1/8 suits 4K. None:
            1/4, or what `suit` finds.
        refine_mode: "sampling" refines the pixels with the largest expected errors, "thresholding" all whose expected
            error is above a threshold, "full" every pixel.
        refine_sample_pixels: how many pixels "sampling" refines. 80,000 suits HD, 320,000 suits 4K. None: 80,000, or
            what `suit` finds.
        refine_threshold: expected error, 0 to 1, for "thresholding".
        refine_kernel_size: the refiner's kernels, 3 or 1.
        refine_prevent_oversampling: in "sampling", leave out pixels whose expected error is 0.
    """

    def __init__(
        self,
        backbone: str,
        backbone_scale: float | None = None,
        refine_mode: str = "sampling",
        refine_sample_pixels: int | None = None,
        refine_threshold: float = 0.1,
        refine_kernel_size: int = 3,
        refine_prevent_oversampling: bool = True,
    ) -> None:
        super().__init__(backbone)
        if backbone_scale is not None and not 0 < backbone_scale <= LARGEST_SCALE:
            raise ValueError(f"backbone_scale is above 0 and at most 1/2; got {backbone_scale}")
        if refine_mode not in REFINE_MODES:
            raise ValueError(f"refine_mode is one of {', '.join(REFINE_MODES)}; got {refine_mode!r}")
        if refine_kernel_size not in (1, 3):
            raise ValueError(f"refine_kernel_size is 1 or 3; got {refine_kernel_size}")
        self.arguments |= {
            "backbone_scale": backbone_scale,
            "refine_mode": refine_mode,
            "refine_sample_pixels": refine_sample_pixels,
            "refine_threshold": refine_threshold,
            "refine_kernel_size": refine_kernel_size,
            "refine_prevent_oversampling": refine_prevent_oversampling,
        }
        self.backbone_scale = backbone_scale or 1 / 4
        pixels = 80_000 if refine_sample_pixels is None else refine_sample_pixels
        self.refiner = Refiner(refine_mode, pixels, refine_threshold, refine_kernel_size, refine_prevent_oversampling)

    def suit(self, height: int, width: int, backbone_scale: float = 0.0, sample_pixels: int = 0) -> None:
        """Choose the settings for frames of this size: the arguments, else what the network was made with, else the
        paper's.

        The paper's settings (HD: 1/4 and 80,000 pixels; 4K: 1/8 and 320,000) follow one rule, which serves other sizes
        as well: the base network sees the same number of pixels for every frame, and the same share of all pixels is
        refined.

        Args:
            backbone_scale: clamped to between one patch and 1/2; 0 if not given.
            sample_pixels: how many pixels to refine; 0 if not given.
        """
        scale = backbone_scale or self.arguments["backbone_scale"] or 360 / math.sqrt(height * width)
        self.backbone_scale = min(LARGEST_SCALE, max(scale, PATCH / min(height, width)))
        made_with = self.arguments["refine_sample_pixels"]
        chosen = round(80_000 * height * width / (1920 * 1080)) if made_with is None else made_with
        self.refiner.sample_pixels = sample_pixels or chosen

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, ...]:
        """Predict one batch.

        Args:
            src: (B, 3, H, W) RGB, sRGB-encoded, 0 to 1; H and W divisible by 4. Channels-last layout is faster; keep it
                float32 where the weights have half precision.
            bgr: clean plate, same shape and encoding.

        Returns:
            pha (B, 1, H, W) alpha, fgr (B, 3, H, W) straight foreground; the base network's pha_sm (B, 1, h, w),
            fgr_sm (B, 3, h, w), err_sm (B, 1, h, w) at h = H * backbone_scale; all 0 to 1; ref_sm (B, 1, H/4, W/4),
            1 where a patch was refined, else 0.

        Raises:
            ShapeError: src and bgr differ, are no RGB batches, or H or W does not divide by 4.
        """
        check_source_and_plate(src, bgr)
        H, W = src.shape[2], src.shape[3]
        if H % PATCH or W % PATCH:
            raise ShapeError(
                f"a width and a height that divide by {PATCH}", f"{W} x {H} pixels", "Pad the frame and crop the result"
            )
        src_sm, bgr_sm = self._shrink(src), self._shrink(bgr)
        pha_sm, fgr_sm, err_sm, hid_sm = self.predict(src_sm, bgr_sm)
        pha, fgr, ref_sm = self.refiner(src, bgr, pha_sm, fgr_sm, err_sm, hid_sm)
        pha, fgr = (clamp_unit(x) if self.training else x.clamp_(0, 1) for x in (pha, fgr.add_(src)))
        return pha, fgr, pha_sm, clamp_unit(fgr_sm + src_sm), err_sm, ref_sm

    def _shrink(self, image: Tensor) -> Tensor:
        """To the size of the base network's frame, rounded down; sampled by the sizes' ratio, not by the scale."""
        return F.interpolate(
            image,
            scale_factor=self.backbone_scale,
            mode="bilinear",
            align_corners=False,
            recompute_scale_factor=True,
        )
