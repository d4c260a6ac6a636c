# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory that is used again instead of being fetched from the system for every picture. No bpy."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


@contextmanager
def reused_memory() -> Iterator[None]:
    """`keep_memory` within, `return_memory` at the end."""
    keep_memory()
    try:
        yield
    finally:
        return_memory()


def keep_memory() -> None:
    """Have the C library keep what is freed for the next allocation, until `return_memory`.

    By itself glibc takes every large block from the system and returns it at once, and the system clears each page of
    it anew: half of a 4K frame's time. A heap of a thread's own goes back whenever it is empty, after every picture
    that a thread encodes: those that start from now on take their memory where the main thread does. Other C libraries
    are left as they are.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def return_memory() -> None:
    """Give the system what is free."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
