# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at clips as the engine takes them, for a training of what comes behind the encoder.

The engine looks at a box, several times where that is new, and remembers the frames before; a training on whole frames
knows little of that. Each clip is gone through once, with the network as it was when its stage began, and its last look
is learnt from a few times. Which looks these are depends on seed and step alone, so a resumed run sees the same.
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
from core.models.recurrent import Look, PlateFeatures, RecurrentMatting, State
from core.models.scales import average
from core.training.loop import Batch

USES = 3  # of a look, on average
KEPT = 24  # steps whose looks are drawn from again
ASPECTS = (16 / 9, 3 / 2, 4 / 3, 1.0, 2 / 3)  # of what is cut out of a clip's square frames, width by height


class Seen(NamedTuple):
    """What the engine shows the network of one frame, and the truth at the coarse size."""

    src: Tensor  # (1, 3, H, W)
    plate: PlateFeatures
    before: State | None
    downsample_ratio: float
    pha: Tensor  # (1, 1, h, w)
    fgr: Tensor  # (1, 3, h, w)

    def look(self, model: RecurrentMatting) -> Look:
        """Look again, with the gradients of what learns."""
        return model.look(self.src, self.plate, self.before, self.downsample_ratio)


@torch.no_grad()
def look_at_clips(matter: Matter, batch: Batch, seed: list[int]) -> list[Seen]:
    """The engine's looks at the last frames of clips, of each of which a part of random shape and length is taken.

    Args:
        batch: clips (B, T, ...) as of `ClipDataset`; those without a plate, or a subject, give none.
    """
    rng = np.random.default_rng(seed)
    found = []
    names = ("src", "bgr", "pha", "fgr", "has_plate")
    for src, bgr, pha, fgr, has_plate in zip(*(batch[name] for name in names), strict=True):
        frames, _, side, _ = src.shape
        aspect, count = float(rng.choice(ASPECTS)), int(rng.integers(frames)) + 1
        height, width = (int(side * min(1.0, share)) for share in (1 / aspect, aspect))
        top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
        last = int(rng.integers(count - 1, frames))
        if not has_plate:
            continue
        part = slice(top, top + height), slice(left, left + width)
        plate, *shot = (
            np.ascontiguousarray((frame[:, *part] * 255).round().byte().permute(1, 2, 0).cpu().numpy())
            for frame in (bgr[last], *src[last + 1 - count : last + 1])
        )
        matter.reset()
        seen = None
        for frame in shot:
            seen = matter.look(frame, plate)
        if seen is not None:
            look, box = seen
            assert look.plate is not None
            true = box.of(torch.cat([pha[last], fgr[last]])[None, :, *part])
            padding = (0, look.src.shape[3] - true.shape[3], 0, look.src.shape[2] - true.shape[2])
            true = average(F.pad(true, padding, mode="replicate"), look.downsample_ratio)
            found.append(Seen(look.src, look.plate, look.before, look.downsample_ratio, true[:, :1], true[:, 1:]))
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
