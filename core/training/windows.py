# SPDX-License-Identifier: GPL-3.0-or-later
"""Training samples for the refinement alone: windows, cut out of clips where it has something to gain.

The coarse network is frozen meanwhile, so it sees each clip once, and the refinement learns from each window a few
times. Every batch has windows of many clips: learning from a few clips at a time, it forgets the others. It draws from
all groups of clips alike, be they looked at from near or from afar, where there are more windows. The windows depend on
seed and step alone, so a resumed run sees the same ones; but where the refinement takes several steps, they begin with
what it makes of the first ones when they are cut.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import JobError
from core.matting import COARSE_PIXELS
from core.models import RecurrentMatting
from core.models.refiner import PATCH
from core.training.loop import Batch

SIDE = 64  # pixels
SHARE = 0.2  # largest share of a frame's windows that is cut
CLIPS = 6  # clips that one group of windows is cut from
STEPS = 10  # steps after which the next group is cut
KEPT = 32  # groups that are learnt from
LOOK = math.isqrt(COARSE_PIXELS)  # pixels of a side: the engine shows the coarse network no more
_HOPELESS = 0.03  # mean error at which a window's chance is a quarter: most of that error cannot be refined away
LEAST, MOST = 0.003, 0.15  # mean error that a window must lack in detail at least, and be wrong at most
_BESIDE = 0.03  # error that a fine difference beside the subject counts for: it is refined, be it a hair or not
_FINE = 13  # pixels: an error that is uniform over this distance cannot be refined away


@torch.no_grad()
def cut_training_windows(model: RecurrentMatting, batch: Batch, ratio: float, seed: list[int]) -> dict[str, Tensor]:
    """Cut windows at random, preferably where the coarse alpha lacks detail but is otherwise right.

    Args:
        batch: clips (B, T, ...) as `ClipDataset` makes them. Where the network would see more than `LOOK` pixels of a
            side, they are shrunk.
        ratio: downsample ratio at which the network sees them, below 1.
        seed: of the choice of windows.

    Returns:
        src, bgr, guides and before as `SolvingRefiner.refine_windows` takes them, the true fgr (N, 3, S, S) and pha
        (N, 1, S, S). In half precision, because a group takes much memory. Empty where nothing can be learnt.
    """
    rng = np.random.default_rng(seed)
    device = next(model.parameters()).device
    side = min(batch["src"].shape[-1], int(LOOK / ratio) // PATCH * PATCH)
    clips = zip(*(batch[name].to(device).split(1) for name in ("src", "bgr", "pha", "fgr")), strict=True)
    found: list[dict[str, Tensor]] = []
    for clip in clips:
        src, bgr, pha, fgr = (F.interpolate(frames[0], (side, side), mode="area")[None] for frames in clip)
        found += _cut_clip(model, src, bgr, pha, fgr, ratio, rng)
    return {name: torch.stack([window[name] for window in found]) for name in (found[0] if found else ())}


def _cut_clip(
    model: RecurrentMatting, src: Tensor, bgr: Tensor, true: Tensor, fgr: Tensor, ratio: float, rng: np.random.Generator
) -> Iterator[dict[str, Tensor]]:
    """The windows of one clip (1, T, ...): what the network sees of it at full size takes much memory."""
    margin = model.refiner.half_margin
    src, bgr, pha, residual, err, *hid = model.guide_refiner(src, bgr, ratio)
    beside = F.interpolate((err == 1).float(), src.shape[2:], mode="nearest")  # `missed_detail`
    pha, residual, _, *hid = model.refiner.eval().approach(src, bgr, pha, residual, err, *hid)
    height, width = src.shape[2] & -2, src.shape[3] & -2
    wide_src, wide_bgr = (F.pad(image, [2 * margin] * 4, "replicate") for image in (src, bgr))
    guides = [
        F.interpolate(x, [height // 2, width // 2], mode="bilinear", align_corners=False) for x in (*hid, pha, residual)
    ]
    half = F.pad(torch.cat(guides, dim=1), [margin] * 4, "replicate")
    before = torch.cat([pha, residual], dim=1)
    before = F.interpolate(before, src.shape[2:], mode="bilinear", align_corners=False)
    true, fgr = true.flatten(0, 1), fgr.flatten(0, 1)
    error = before[:, :1] - true
    fine = (error - F.avg_pool2d(error, _FINE, 1, _FINE // 2, count_include_pad=False)).abs()
    images = fine + _BESIDE * beside, error.abs()
    for t in range(src.shape[0]):
        top, left = (2 * int(n) for n in rng.integers(0, SIDE // 4, 2))
        lacking, wrong = (F.avg_pool2d(x[t, :, top:, left:], SIDE).flatten() for x in images)
        worth = lacking / (_HOPELESS + wrong) ** 2 * (lacking > LEAST) * (wrong < MOST)
        chances = worth.double().cpu().numpy()
        count = min(int(np.ceil(SHARE * chances.size)), int((chances > 0).sum()))
        columns = (width - left) // SIDE
        for window in rng.choice(chances.size, count, replace=False, p=chances / chances.sum()) if count else ():
            y, x = top + SIDE * (window // columns), left + SIDE * (window % columns)
            wide, narrow = SIDE + 4 * margin, SIDE // 2 + 2 * margin
            yield {
                "src": _square(wide_src, t, y, x, wide),
                "bgr": _square(wide_bgr, t, y, x, wide),
                "guides": _square(half, t, y // 2, x // 2, narrow),
                "before": _square(before, t, y, x, SIDE),
                "pha": _square(true, t, y, x, SIDE),
                "fgr": _square(fgr, t, y, x, SIDE),
            }


def _square(images: Tensor, t: int, y: int, x: int, side: int) -> Tensor:
    return images[t, :, y : y + side, x : x + side].half()


def first_group(step: int) -> int:
    """The first group that `draw_windows` needs when it begins with `step`."""
    return max(0, step // STEPS - KEPT + 1)


def draw_windows(groups: Iterator[dict[str, Tensor]], batch: int, seed: int, start: int, end: int) -> Iterator[Batch]:
    """Batches of windows for the steps from `start` to `end`, from the last `KEPT` groups alike.

    Args:
        groups: what `cut_training_windows` returns, from group `first_group(start)` on.
        batch: windows in a batch.
    """
    kept: deque[dict[str, Tensor]] = deque(itertools.islice(groups, start // STEPS - first_group(start)), KEPT)
    for step in range(start, end):
        if step == start or step % STEPS == 0:
            kept.append(next(groups))
        rng = np.random.default_rng([seed, step])
        found = [group for group in kept if group]
        if not found:
            raise JobError(
                f"clips whose coarse alpha is wrong by less than {MOST} somewhere but lacks detail there",
                f"none among {len(kept) * CLIPS}",
                "Train the coarse network first, or look whether the pool's subjects have edges",
            )
        drawn = [found[n] for n in rng.integers(0, len(found), batch)]
        chosen = [(group, rng.integers(0, len(group["pha"]))) for group in drawn]
        axes = [axis for axis in (2, 3) if rng.random() < 0.5]
        yield {name: torch.stack([group[name][n] for group, n in chosen]).float().flip(axes) for name in found[0]}
