# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks for a training of the review alone: what it is shown of clips when the engine looks at them.

The engine looks at a box, several times where that is new, and remembers the frames before; a training on whole frames
knows little of that. What comes before the review stands still meanwhile, so each clip is looked at once, and the
review learns from it a few times. Which looks these are depends on the seed and the step alone, so a resumed run sees
the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.matting import Matter
from core.models.recurrent import Look
from core.models.scales import average
from core.training.loop import Batch

USES = 3  # of a look, on average
KEPT = 24  # steps whose looks are drawn from again
ASPECTS = (16 / 9, 3 / 2, 4 / 3, 1.0, 2 / 3)  # of what is cut out of a clip's square frames, width by height


class Seen(NamedTuple):
    """A look at one frame, and the true alpha (1, 1, h, w) at its coarse size."""

    look: Look
    pha: Tensor


@torch.no_grad()
def look_at_clips(matter: Matter, batch: Batch, seed: list[int]) -> list[Seen]:
    """The engine's looks at the last frames of clips, of which a part of random shape and length is taken.

    Args:
        batch: clips (B, T, ...) as of `ClipDataset`; those without a plate, or a subject, give none.
    """
    rng = np.random.default_rng(seed)
    found = []
    for src, bgr, pha, has_plate in zip(*(batch[name] for name in ("src", "bgr", "pha", "has_plate")), strict=True):
        frames, _, side, _ = src.shape
        aspect, count = float(rng.choice(ASPECTS)), int(rng.integers(frames)) + 1
        height, width = (int(side * min(1.0, share)) for share in (1 / aspect, aspect))
        top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
        last = int(rng.integers(frames - count + 1)) + count - 1
        if not has_plate:
            continue
        src, bgr, pha = (x[..., top : top + height, left : left + width] for x in (src, bgr, pha))
        shown = (src * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        plate = (bgr[last] * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
        matter.reset()
        seen = None
        for frame in shown[last + 1 - count : last + 1]:
            seen = matter.look(np.ascontiguousarray(frame), plate)
        if seen is not None:
            look, box = seen
            true = box.of(pha[last][None])
            padding = (0, look.src.shape[3] - true.shape[3], 0, look.src.shape[2] - true.shape[2])
            true = average(F.pad(true, padding, mode="replicate"), look.downsample_ratio)
            found.append(Seen(look._replace(src=look.src[:0], plate=None, src_sm=look.src_sm[:0]), true))
    return found


def draw_looks(fresh: Iterator[list[Seen]], batch: int, seed: int, start: int, end: int) -> Iterator[Batch]:
    """Batches for the steps from `start` to `end`: each step's fresh looks, and as many as lack of those before it.

    Args:
        fresh: those of each step from `first_fresh(start)` on.
    """
    kept: deque[list[Seen]] = deque(maxlen=KEPT)
    for step, seen in zip(range(first_fresh(start), end), fresh, strict=False):
        if step >= start:
            older = [look for looks in kept for look in looks]
            again = np.random.default_rng([seed, step]).permutation(len(older))[: batch - len(seen)]
            yield {"looks": [*seen, *(older[i] for i in again)]}
        kept.append(seen)


def first_fresh(start: int) -> int:
    """The step whose fresh looks are the first that a run from `start` on draws from."""
    return max(0, start - KEPT)
