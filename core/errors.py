# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's one error family: each says what was expected, what came, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class MattingError(Exception):
    """A failure the user can act on. `str(error)` is one sentence or two, fit to be shown as it is.

    Args:
        expected: what the engine needed, as a phrase ("an RGB image of 1920 x 1080").
        actual: what it found instead ("a grey image of 640 x 480").
        remedy: what the user can do, as an imperative sentence without the final period.
    """

    exit_code = 1

    def __init__(self, expected: str, actual: str, remedy: str) -> None:
        self.expected = expected
        self.actual = actual
        self.remedy = remedy
        super().__init__(f"Expected {expected}; got {actual}. {remedy}.")

    def __reduce__(self) -> tuple[Any, ...]:
        """For a pool of processes, which hands errors on by pickle."""
        return error_in_words, (type(self).__name__, str(self))


class JobError(MattingError):
    """The job description itself is wrong: a missing field, a bad value, an empty frame range."""

    exit_code = 2


class FootageError(MattingError):
    """Footage, plate or mask that cannot be opened, read or decoded."""

    exit_code = 3


class PlateError(MattingError):
    """A plate that is readable but does not serve this footage."""

    exit_code = 3


class CheckpointError(MattingError):
    """A file that is no model, or a model whose weights do not match its network."""

    exit_code = 4


class OutputError(MattingError):
    """The results cannot be written: no permission, no space, a name that is taken."""

    exit_code = 5


class DeviceError(MattingError):
    """The device that was asked for is absent or out of memory."""

    exit_code = 6


class ShapeError(MattingError):
    """Tensors whose shapes do not fit together."""


def error_in_words(kind: str, words: str) -> MattingError:
    """The error that another process of the engine raised, by its class's name and what it said."""
    cls = next((cls for cls in MattingError.__subclasses__() if cls.__name__ == kind), MattingError)
    error = cls.__new__(cls)
    error.expected, error.actual, error.remedy = "", words, ""
    Exception.__init__(error, words)
    return error


@contextmanager
def ending_in_words() -> Iterator[None]:
    """Around a script: an error of this family, or of a file, ends it with its sentence instead of a traceback."""
    try:
        yield
    except MattingError as error:
        sys.exit(f"error: {error}")
    except RuntimeError as error:  # torch's of a data loader's process, with that process's traceback for its words
        _, found, last = str(error).rpartition(f"\n{__name__}.")
        if not found:
            raise
        sys.exit(f"error: {last.partition(': ')[2].strip()}")
    except OSError as error:
        remedy = "Check the path, its permissions and the space on the disk"
        sys.exit(f"error: Expected files that can be read and written; got {error}. {remedy}.")
