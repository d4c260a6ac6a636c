# SPDX-License-Identifier: GPL-3.0-or-later
"""Training losses: each a mean over the whole batch, so that averaging equal shares equals the joined batch.

Images are (..., C, H, W) with any leading sizes (a batch, or a batch of clips); alpha has C = 1, colours C = 3.
Everything is computed in fp32, whatever precision the network ran in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SOBEL_X = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def l1(pred: Tensor, true: Tensor) -> Tensor:
    """Mean absolute difference of two tensors of one shape."""
    return F.l1_loss(pred.float(), true.float())


def gradient_l1(pred: Tensor, true: Tensor) -> Tensor:
    """L1 between the Sobel magnitudes of two alphas, kernels of absolute sum 1 (Lin et al. 2021, section 4)."""
    return F.l1_loss(_sobel(pred), _sobel(true))


def laplacian_l1(pred: Tensor, true: Tensor, levels: int = 5) -> Tensor:
    """L1 between Laplacian pyramids, level i weighted 2^i / levels (Hou and Liu 2019; Lin et al. 2022, section 4.2).

    The last level is a band like the others; the residual low-pass is not compared (plain L1 does that).
    """
    loss = torch.zeros((), device=pred.device)
    difference = _images(pred) - _images(true)  # the pyramid is linear: one pyramid of the difference will do
    with torch.autocast(difference.device.type, enabled=False):
        for level in range(levels):
            low = _blur(difference)[..., ::2, ::2]
            spread = torch.zeros_like(difference)
            spread[..., ::2, ::2] = low
            loss = loss + 2.0**level / levels * (difference - 4 * _blur(spread)).abs().mean()
            if min(low.shape[-2:]) < 3:
                break
            difference = low
    return loss


def motion_l2(pred: Tensor, true: Tensor) -> Tensor:
    """Mean squared difference of the changes between frames: pred and true are (B, T, C, H, W). 0 for T = 1."""
    if pred.shape[1] < 2:
        return pred.new_zeros((), dtype=torch.float32)
    return F.mse_loss(pred.float().diff(dim=1), true.float().diff(dim=1))


def foreground_l1(pred_fgr: Tensor, true_fgr: Tensor, true_pha: Tensor) -> Tensor:
    """L1 of the straight foreground where the true alpha is above 0, averaged over all pixels (Lin et al. 2021, 4)."""
    visible = true_pha > 0
    return F.l1_loss(pred_fgr.float() * visible, true_fgr.float() * visible)


def error_l2(pred_err: Tensor, pred_pha: Tensor, true_pha: Tensor) -> Tensor:
    """Squared difference of the predicted error map and the alpha's true error |pred - true|, at the map's own size.

    Args:
        pred_err: (..., 1, h, w), 0 to 1; may be smaller than the alphas.
        pred_pha, true_pha: (..., 1, H, W). No gradient reaches the alpha through this loss.
    """
    return F.mse_loss(_images(pred_err), _true_error(pred_err, pred_pha, true_pha))


def overshoot(pha: Tensor, margin: float = 0.2) -> Tensor:
    """Mean distance of an unclamped alpha from the range 0 to 1, widened by a margin on both sides.

    Where alpha is saturated and right, no other loss has a gradient, and it drifts away: in the background to -112
    after 10,000 steps, and to -1400 some hundred steps later. Thin and faint detail drowns in that; training diverges.
    """
    pha = pha.float()
    return (pha - pha.clamp(-margin, 1 + margin)).abs().mean()


def error_cross_entropy(pred_err: Tensor, pred_pha: Tensor, true_pha: Tensor) -> Tensor:
    """Cross entropy of the predicted error map with the alpha's true error as a soft label; as `error_l2` otherwise.

    Both losses are smallest where the map is the expected error. But errors are small, and there the squared difference
    behind a sigmoid has next to no gradient: the map stays flat for thousands of steps.
    """
    pred = _images(pred_err).clamp(1e-4, 1 - 1e-4)
    true = _true_error(pred_err, pred_pha, true_pha)
    return -(true * pred.log() + (1 - true) * (1 - pred).log()).mean()


def paper_losses(pred_pha: Tensor, pred_fgr: Tensor, true_pha: Tensor, true_fgr: Tensor) -> dict[str, Tensor]:
    """Alpha L1, its gradient's L1 and the foreground's L1, unweighted (Lin et al. 2021, section 4).

    The truth may be larger than the prediction (a coarse output): it is reduced to the prediction's size first.
    """
    true_pha = resize_like(true_pha, pred_pha)
    true_fgr = resize_like(true_fgr, pred_fgr)
    return {
        "pha_l1": l1(pred_pha, true_pha),
        "pha_gradient": gradient_l1(pred_pha, true_pha),
        "fgr_l1": foreground_l1(pred_fgr, true_fgr, true_pha),
    }


def clip_losses(pred_pha: Tensor, pred_fgr: Tensor, true_pha: Tensor, true_fgr: Tensor) -> dict[str, Tensor]:
    """Alpha L1, four Laplacian levels, 5 times the squared motion difference, and the foreground's L1, for clips.

    Args:
        pred_pha, true_pha: (B, T, 1, H, W); pred_fgr, true_fgr: (B, T, 3, H, W). A larger truth is reduced first.
    """
    true_pha = resize_like(true_pha, pred_pha)
    true_fgr = resize_like(true_fgr, pred_fgr)
    return {
        "pha_l1": l1(pred_pha, true_pha),
        "pha_laplacian": laplacian_l1(pred_pha, true_pha, levels=4),
        "pha_motion": 5 * motion_l2(pred_pha, true_pha),
        "fgr_l1": foreground_l1(pred_fgr, true_fgr, true_pha),
    }


def resize_like(true: Tensor, pred: Tensor) -> Tensor:
    """The truth (..., C, H, W) at the prediction's height and width (area average; unchanged where they agree)."""
    size = pred.shape[-2:]
    if true.shape[-2:] == size:
        return true
    return F.interpolate(_images(true), size, mode="area").reshape(*true.shape[:-2], *size)


def _true_error(pred_err: Tensor, pred_pha: Tensor, true_pha: Tensor) -> Tensor:
    return resize_like(_images(pred_pha.detach() - true_pha).abs(), _images(pred_err)).clamp(0, 1)


def _images(x: Tensor) -> Tensor:
    return x.float().flatten(0, -4)


def _sobel(x: Tensor) -> Tensor:
    images = _images(x)
    kernel_x = images.new_tensor(SOBEL_X) / 8
    kernel = torch.stack([kernel_x, kernel_x.t()]).unsqueeze(1)
    with torch.autocast(images.device.type, enabled=False):
        gradient = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel)
    return (gradient.square().sum(1) + 1e-6).sqrt()


def _blur(x: Tensor) -> Tensor:
    """5-tap binomial low-pass (Burt and Adelson 1983) of (..., H, W), edges mirrored.

    Sums of shifted images; for one channel, they take a sixth of a convolution's time.
    """
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    for axis in (-1, -2):
        first, second, middle, fourth, fifth = (x.narrow(axis, i, x.shape[axis] - 4) for i in range(5))
        x = (first + fifth + 4 * (second + fourth) + 6 * middle) / 16
    return x
