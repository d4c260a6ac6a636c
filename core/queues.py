# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs beside the network, on threads of its own, in bounded queues: decoding and encoding. No bpy."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from .errors import FootageError
from .footage import Footage, Frame

READ_AHEAD = 4  # frames decoded before the network asks
WRITERS = min(8, max(2, (os.cpu_count() or 2) // 2))  # threads that encode: a card gives them more than two can do
WRITE_BEHIND = WRITERS + 4  # mattes being encoded or waiting for it


class ReadAhead:
    """Decodes on a thread of its own, at most READ_AHEAD frames before they are asked for.

    Args:
        numbers: of the frames, ascending.
        spare: those of them that are left out where they cannot be read.
    """

    def __init__(self, footage: Footage, numbers: list[int], spare: Collection[int] = ()) -> None:
        self._queue: queue.Queue[tuple[int, Frame] | Exception | None] = queue.Queue(READ_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(footage, numbers, spare), daemon=True)

    def _read(self, footage: Footage, numbers: list[int], spare: Collection[int]) -> None:
        done = 0
        try:
            for item in footage.frames(numbers):
                self._put(item)
                if self._stop.is_set():
                    return
                done += 1
            self._put(None)
        except Exception as error:
            if isinstance(error, FootageError) and done < len(numbers) and numbers[done] in spare:
                self._read(footage, numbers[done + 1 :], spare)
            else:
                self._put(error)

    def _put(self, item: tuple[int, Frame] | Exception | None) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue

    def __enter__(self) -> Iterator[tuple[int, Frame]]:
        self._thread.start()
        return iter(self)

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


class WriteBehind:
    """Encodes on a few threads; the first failure reaches the caller at its next submit, or at the end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WRITERS)
        self._pending: list[Future[None]] = []

    def submit(self, task: Callable[[], None]) -> None:
        self._pending.append(self._pool.submit(task))
        while len(self._pending) > WRITE_BEHIND or (self._pending and self._pending[0].done()):
            self._pending.pop(0).result()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            for future in self._pending:
                future.result()
