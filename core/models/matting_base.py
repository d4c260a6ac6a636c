# SPDX-License-Identifier: GPL-3.0-or-later
"""The base network of Lin et al. 2021 ("Real-Time High-Resolution Background Matting"), section 3.2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ShapeError
from core.models.aspp import ASPP
from core.models.clamping import clamp_unit
from core.models.decoder import Decoder
from core.models.mobilenetv2 import MobileNetV2Encoder
from core.models.resnet import ResNetEncoder

BACKBONES = ("resnet50", "resnet101", "mobilenetv2")
_SOURCE_AND_PLATE = 3 + 3
_OUTPUTS = 1 + 3 + 1 + 32  # alpha, foreground residual, expected error, hidden features


class MattingBase(nn.Module):
    """Predict alpha and foreground of a whole frame, at the resolution it is given.

    Args:
        backbone: "resnet50", "resnet101" or "mobilenetv2".
    """

    def __init__(self, backbone: str) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone is one of {', '.join(BACKBONES)}; got {backbone!r}")
        self.arguments: dict[str, Any] = {"backbone": backbone}
        self.backbone: ResNetEncoder | MobileNetV2Encoder
        if backbone == "mobilenetv2":
            self.backbone = MobileNetV2Encoder(_SOURCE_AND_PLATE)
        else:
            self.backbone = ResNetEncoder(_SOURCE_AND_PLATE, backbone)
        deepest, *skips = self.backbone.channels
        self.aspp = ASPP(deepest)
        self.decoder = Decoder((256, 128, 64, 48, _OUTPUTS), (skips[0], skips[1], skips[2], _SOURCE_AND_PLATE))

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, ...]:
        """Predict one batch.

        Args:
            src: (B, 3, H, W) RGB, sRGB-encoded, 0 to 1.
            bgr: clean plate, same shape and encoding.

        Returns:
            pha (B, 1, H, W) alpha, fgr (B, 3, H, W) straight foreground, err (B, 1, H, W) expected absolute error of
            alpha, all 0 to 1; hid (B, 32, H, W) hidden features, from 0.

        Raises:
            ShapeError: src and bgr differ, or are no RGB batches.
        """
        check_source_and_plate(src, bgr)
        pha, fgr, err, hid = self.predict(src, bgr)
        return pha, clamp_unit(fgr + src), err, hid

    def predict(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `forward`, unchecked, with the foreground still as residual: what to add to src, unclamped.

        Weights of half precision compute in it; but for hid, the outputs have the precision of src all the same.
        """
        x = torch.cat([src, bgr], dim=1).to(self.decoder.conv4.weight.dtype, memory_format=torch.channels_last)
        x16, x8, x4, x2 = self.backbone(x)
        x = self.decoder(self.aspp(x16), x8, x4, x2, x)
        pha, fgr, err = x[:, :5].to(src.dtype).split([1, 3, 1], dim=1)
        return clamp_unit(pha), fgr, clamp_unit(err), x[:, 5:].relu()


def check_source_and_plate(src: Tensor, bgr: Tensor) -> None:
    """Refuse tensors that are no pair of equal RGB batches.

    Raises:
        ShapeError: with both shapes.
    """
    if src.dim() != 4 or src.shape[1] != 3:
        raise ShapeError("a source of shape (B, 3, H, W)", f"{list(src.shape)}", "Pass a batch of RGB images")
    if src.shape != bgr.shape:
        raise ShapeError(
            f"a plate of the source's shape {list(src.shape)}",
            f"{list(bgr.shape)}",
            "Resize the plate to the source, and repeat it for every source of the batch",
        )
