# SPDX-License-Identifier: GPL-3.0-or-later
"""How OpenMP's threads wait for each other. No bpy, and nothing that would load torch: it has to be told before."""

from __future__ import annotations

import os

# For some tens of microseconds, the pause between two operators, a thread spins: to be woken takes longer than most of
# them. Then it sleeps, as others need the core. The first is for GNU's OpenMP, the second for the others.
WAITING = {"GOMP_SPINCOUNT": "10000", "OMP_WAIT_POLICY": "PASSIVE"}


def wait_briefly() -> None:
    """Set `WAITING` in the environment, but for what is set there already. Call it before torch is imported."""
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
