# SPDX-License-Identifier: GPL-3.0-or-later
"""The validation of all trainers: every measure, over whole frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from core.evaluation import mean_scores, score_clip
from core.training.loop import Validation

PICTURES = 4


def score_samples(
    samples: Iterable[Mapping[str, Tensor]], predict: Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]
) -> Validation:
    """Score a network on samples; the first few also give a picture of their last frame.

    Args:
        samples: src, bgr and fgr (T, 3, H, W), pha (T, 1, H, W), sRGB-encoded, 0 to 1, on the CPU.
        predict: alpha (T, 1, H, W) and foreground (T, 3, H, W) of a sample, on any device.
    """
    scores: list[dict[str, float]] = []
    images: dict[str, Tensor] = {}
    for index, sample in enumerate(samples):
        pha, fgr = predict(sample)
        scores += score_clip(pha, sample["pha"], fgr, sample["fgr"])
        if index < PICTURES:
            views = (sample["src"], sample["bgr"], pha.cpu(), sample["pha"])
            images[f"{index}_src_bgr_pred_true"] = torch.cat([view[-1].expand(3, -1, -1) for view in views], dim=-1)
    return Validation(mean_scores(scores), images)
