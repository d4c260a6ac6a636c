# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures to the device and results back, on a CUDA card beside the network. No bpy.

Frame n - 1 comes down while the network is at frame n, and without a plate frame n + 1 goes up; before a plate the
processor waits for frame n's alpha, to know where to look next. A card copies by itself only from and to
pinned memory, of which torch keeps what it was once given; two streams of their own keep the copies out of the
network's queue, and events say what has to be waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

Coming = Callable[[], NDArray[Any]]  # waits for an array that is on its way, and gives it


class Transfer(Protocol):
    def upload(self, pixels: NDArray[Any]) -> Tensor:
        """An array on the device, its type kept: what converts it runs there."""
        ...

    def download(self, tensor: Tensor) -> Coming:
        """Begin to fetch a tensor."""
        ...


def transfer_for(device: torch.device) -> Transfer:
    """The way to and from a device."""
    return CardTransfer(device) if device.type == "cuda" else PlainTransfer(device)


class PlainTransfer:
    """For devices that share the processor's memory, or do not copy by themselves."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def upload(self, pixels: NDArray[Any]) -> Tensor:
        return torch.from_numpy(pixels).to(self._device)

    def download(self, tensor: Tensor) -> Coming:
        array = tensor.cpu().numpy()
        return lambda: array


class CardTransfer:
    """By pinned memory, on streams of its own. Not run on a card yet; its order is tested with stand-ins."""

    def __init__(self, device: torch.device) -> None:
        torch.cuda.set_device(device)  # pinning would else wake the first card, too
        self._device = device
        self._up = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._down = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, pixels: NDArray[Any]) -> Tensor:
        pinned = torch.from_numpy(pixels).pin_memory()  # torch does not reuse it before the copy is done
        with torch.cuda.stream(self._up):
            tensor = pinned.to(self._device, non_blocking=True)
        network = torch.cuda.current_stream(self._device)
        network.wait_stream(self._up)
        tensor.record_stream(network)  # its memory is the network's until that has used it
        return tensor

    def download(self, tensor: Tensor) -> Coming:
        tensor = tensor.contiguous()  # by the network's stream
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            host.copy_(tensor, non_blocking=True)
            arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # who waits sleeps
            arrived.record(self._down)
        tensor.record_stream(self._down)

        def wait() -> NDArray[Any]:
            arrived.synchronize()
            return host.numpy()

        return wait
