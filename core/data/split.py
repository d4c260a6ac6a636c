# SPDX-License-Identifier: GPL-3.0-or-later
"""Which people, animals, objects and photographs train, which validate, and which only ever test.

The split is part of the project: a figure measured on "test" says something only as long as no test image, and no
near copy of one, was ever trained on. The few real photographs are listed; everything that comes by the thousand is
split by a hash of its family's name, so that copies in other colours, sizes or mirrored stay on one side.
"""

from __future__ import annotations

import hashlib
import re

SPLITS = ("train", "valid", "test")

# Photographic cut-outs: listed, so that hair, fur, hats and held objects are in the test share as well.
CUTOUTS = {
    "person-09ba26b4": "test",
    "person-51c916fc": "test",
    "person-818e689d": "test",
    "person-bc5cfad1": "test",
    "person-d684dae3": "test",
    "person-bac3c1ff": "valid",
    "animal-sample3": "test",
    "animal-sample5": "test",
    "animal-sample8": "test",
    "animal-sample12": "test",
    "animal-sample4": "valid",
}

_COPY = re.compile(r"([-_. ]?(\d+|left|right|mirror|flip|front|back|stand|sitting))+$")
_SKIN_TONE = re.compile(r"-1f3f[b-f]")


def family(name: str) -> str:
    """What all variants of one object share: its name without numbers, sides and skin tones at the end."""
    plain = _SKIN_TONE.sub("", name.lower())
    return plain if plain.startswith("emoji-") else (_COPY.sub("", plain) or plain)


def split_of(name: str, valid: float = 0.05, test: float = 0.25) -> str:
    """The split of an image by its name without folder and suffix.

    Args:
        valid, test: shares of the families that a hash sends there; the rest trains.
    """
    if name.startswith(("person-", "animal-")):
        return CUTOUTS.get(name, "train")
    digest = hashlib.sha256(family(name).encode()).digest()
    position = int.from_bytes(digest[:4], "big") / 2**32
    return "test" if position < test else "valid" if position < test + valid else "train"
