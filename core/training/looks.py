# SPDX-License-Identifier: GPL-3.0-or-later
"""Training samples for decoder and review: looks, which are what the engine shows the network of a frame.

In a job the network sees a crop box, looks at a new box several times, and remembers the frames before; training on
whole frames teaches little of that. So each clip is run once with the network as it was when the stage began, and the
last look is learnt from a few times. The looks depend on seed and step alone, so a resumed run sees the same ones.
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

USES = 3  # how often a look is learnt from, on average
KEPT = 24  # past steps whose looks may be drawn again
ASPECTS = (16 / 9, 3 / 2, 4 / 3, 1.0, 2 / 3)  # width by height of the part that is cut out of a clip's square frames


class Seen(NamedTuple):
    """What the engine shows the network of one frame, and the truth at the coarse size."""

    src: Tensor  # (1, 3, H, W), sRGB-encoded, 0 to 1
    plate: PlateFeatures
    before: State | None  # the memory before this look
    downsample_ratio: float
    pha: Tensor  # (1, 1, h, w)
    fgr: Tensor  # (1, 3, h, w)

    def look(self, model: RecurrentMatting) -> Look:
        """Look again, with gradients."""
        return model.look(self.src, self.plate, self.before, self.downsample_ratio)


@torch.no_grad()
def look_at_clips(matter: Matter, batch: Batch, seed: list[int]) -> list[Seen]:
    """Cut a part of random shape and length out of each clip; return the engine's looks at the last frames.

    Args:
        matter: holds the network; its memory is reset.
        batch: clips (B, T, ...) as `ClipDataset` makes them; those without a plate or a subject give no look.
        seed: of the random parts.
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
    """Batches for the steps from `start` to `end`: each step's fresh looks, filled up with looks of earlier steps.

    Args:
        fresh: the new looks of each step from `first_fresh(start)` on.
        batch: looks in a batch.
    """
    kept: deque[list[Seen]] = deque(maxlen=KEPT)
    for step, seen in zip(range(first_fresh(start), end), fresh, strict=False):
        if step >= start:
            older = [look for looks in kept for look in looks]
            again = np.random.default_rng([seed, step]).permutation(len(older))[: batch - len(seen)]
            yield {"looks": [*seen, *(older[i] for i in again)]}
        kept.append(seen)


def first_fresh(start: int) -> int:
    """The first step whose fresh looks a run from `start` on may draw."""
    return max(0, start - KEPT)
