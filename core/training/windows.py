# SPDX-License-Identifier: GPL-3.0-or-later
"""Training samples for the refinement alone: windows, cut out of clips where it has something to gain.

The coarse network is frozen meanwhile, so it sees each clip once, and the refinement learns from each window a few
times. The windows depend on seed and step alone, so a resumed run sees the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.models import RecurrentMatting
from core.training.loop import Batch

SIDE = 64  # pixels
SHARE = 0.3  # largest share of a frame's windows that is cut
CLIPS = 24  # clips that one group of windows is cut from
STEPS = 40  # steps that learn from a group
_HOPELESS = 0.03  # mean error at which a window's chance is a quarter: most of that error cannot be refined away
_FINE = 13  # pixels: an error that is uniform over this distance cannot be refined away


@torch.no_grad()
def cut_training_windows(model: RecurrentMatting, batch: Batch, ratio: float, seed: list[int]) -> dict[str, Tensor]:
    """Cut windows at random, preferably where the coarse alpha lacks detail but is otherwise right.

    Args:
        batch: clips (B, T, ...) as `ClipDataset` makes them.
        ratio: downsample ratio at which the network sees them, below 1.
        seed: of the choice of windows.

    Returns:
        src, bgr, guides and before as `SolvingRefiner.refine_windows` takes them, the true fgr (N, 3, S, S) and pha
        (N, 1, S, S). In half precision, because a group takes much memory.
    """
    rng = np.random.default_rng(seed)
    device = next(model.parameters()).device
    margin = model.refiner.half_margin
    src, bgr, pha, residual, _, *hid = model.guide_refiner(batch["src"].to(device), batch["bgr"].to(device), ratio)
    height, width = src.shape[2] & -2, src.shape[3] & -2
    wide_src, wide_bgr = (F.pad(image, [2 * margin] * 4, "replicate") for image in (src, bgr))
    guides = torch.cat([*hid, pha, residual], dim=1)
    half = F.interpolate(guides, [height // 2, width // 2], mode="bilinear", align_corners=False)
    half = F.pad(half, [margin] * 4, "replicate")
    coarse = F.interpolate(guides[:, -4:], src.shape[2:], mode="bilinear", align_corners=False)
    true, fgr = (batch[name].to(device).flatten(0, 1) for name in ("pha", "fgr"))
    error = coarse[:, :1] - true
    fine = (error - F.avg_pool2d(error, _FINE, 1, _FINE // 2, count_include_pad=False)).abs()
    found: dict[str, list[Tensor]] = {name: [] for name in ("src", "bgr", "guides", "before", "pha", "fgr")}
    for t in range(src.shape[0]):
        top, left = (2 * int(n) for n in rng.integers(0, SIDE // 4, 2))
        lacking, wrong = (F.avg_pool2d(x[t, :, top:, left:], SIDE).flatten() for x in (fine, error.abs()))
        chances = (lacking / (_HOPELESS + wrong) ** 2).double().cpu().numpy()
        count = min(int(np.ceil(SHARE * chances.size)), int((chances > 0).sum()))
        columns = (width - left) // SIDE
        for window in rng.choice(chances.size, count, replace=False, p=chances / chances.sum()) if count else ():
            y, x = top + SIDE * (window // columns), left + SIDE * (window % columns)
            wide, narrow = SIDE + 4 * margin, SIDE // 2 + 2 * margin
            for name, image in (("src", wide_src), ("bgr", wide_bgr)):
                found[name].append(image[t, :, y : y + wide, x : x + wide])
            found["guides"].append(half[t, :, y // 2 : y // 2 + narrow, x // 2 : x // 2 + narrow])
            for name, image in (("before", coarse), ("pha", true), ("fgr", fgr)):
                found[name].append(image[t, :, y : y + SIDE, x : x + SIDE])
    return {name: torch.stack(windows).half() for name, windows in found.items() if windows}


def draw_windows(groups: Iterator[dict[str, Tensor]], batch: int, seed: int, start: int, end: int) -> Iterator[Batch]:
    """Batches of windows for the steps from `start` to `end`.

    Args:
        groups: what `cut_training_windows` returns, from the group that step `start` falls into on.
        batch: windows in a batch.
    """
    group: dict[str, Tensor] = {}
    for step in range(start, end):
        if not group or step % STEPS == 0:
            group = next(groups)
        rng = np.random.default_rng([seed, step])
        chosen = torch.from_numpy(rng.integers(0, len(group["pha"]), batch))
        axes = [axis for axis in (2, 3) if rng.random() < 0.5]
        yield {name: windows[chosen].float().flip(axes) for name, windows in group.items()}
