# SPDX-License-Identifier: GPL-3.0-or-later
"""One frame after another through a network: pictures in, mattes out. Knows arrays, not files. No bpy."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .color import Floats, Pixels
from .errors import DeviceError, ShapeError
from .models.fusing import cast_convolutions, fused
from .models.matting_refine import MattingRefine
from .models.recurrent import Look, PlateFeatures, RecurrentMatting, State
from .models.refiner import PATCH
from .models.scales import average, divisible, upsampled
from .region import GRID, SUBJECT, Box, ReducedPlate, bounds, choose_box, is_cut, moved
from .transfer import Coming, transfer_for

log = logging.getLogger(__name__)

COARSE_PIXELS = 640 * 360  # of the recurrent network's coarse pass: larger ones leave holes in large subjects
BLIND_SIDE = 512  # pixels, long side of the same without a plate, as RobustVideoMatting's authors recommend
PLATE_GRAIN = 0.01  # noise given to the plate: the network knows plates from cameras, and takes rendered ones worse
LOOKS = 5  # at a shot's first frame before a plate, whose matte would be less sure than those after it
LOOKS_ANEW = 2  # at a frame whose box is not the one before: of what is new in it nothing is remembered
BLIND_ERROR = 0.25  # expected error where the plate has nothing to say
CLOSEST = 0.9  # share of a frame's size at which a small part of it is looked at: the rest is the refinement's
LEAST_SIDE = 16  # reduced pixels, of the shorter side of what is looked at
STRAY = 0.25  # share of a subject beside the plate that must lie before it
LEAK = 4  # pixels of the plate's border that what lies beside it can shine into
SLIVER = 8  # pixels beside the plate on which its judgement, with its border continued, goes on


@dataclass(frozen=True)
class Matte:
    """One frame's result, float32, 0 to 1."""

    pha: Floats  # (H, W)
    fgr: Floats  # (H, W, 3), straight, sRGB-encoded
    err: Floats  # (H, W), expected absolute error of pha


@dataclass
class _Plate:
    """A plate, and what was computed of it."""

    pixels: Pixels
    tensor: Tensor | None = None  # (1, 3, H, W), for the paper's networks
    reduced: ReducedPlate | None = None
    features: tuple[Box, float, PlateFeatures] | None = None


Tensors = tuple[Tensor, Tensor, Tensor]  # pha (1, 1, H, W), fgr (1, 3, H, W), err (1, 1, H, W), float32
Finish = Callable[[], Tensors]  # what is left to do of a frame that nothing else waits for


class ComingMatte(Matte):
    """A matte on its way: who asks for one of its arrays waits for that one."""

    def __init__(self, pha: Coming, fgr: Coming, err: Coming) -> None:
        object.__setattr__(self, "_coming", {"pha": pha, "fgr": fgr, "err": err})

    def __getattr__(self, name: str) -> Floats:
        """Called for what is not there yet."""
        coming = vars(self).get("_coming", {})
        if name not in coming:
            raise AttributeError(name)
        object.__setattr__(self, name, coming[name]())
        return vars(self)[name]  # type: ignore[no-any-return]


def coarse_ratio(height: int, width: int, blind: bool = False) -> float:
    """At which share of a frame's size the recurrent network looks at it, with a plate or, `blind`, without one."""
    if blind:
        return min(1.0, BLIND_SIDE / max(height, width))
    return min(1.0, math.sqrt(COARSE_PIXELS / (height * width)))


def choose_device(name: str = "auto") -> torch.device:
    """ "auto" takes CUDA, then Apple's Metal, then the CPU.

    Raises:
        DeviceError: a device that is not here.
    """
    known = [device["id"] for device in list_devices()]  # the fastest first
    if name == "auto":
        name = known[0]
    elif name == "cuda":
        name = "cuda:0"
    if name not in known:
        raise DeviceError(f"one of the devices here ({', '.join(known)})", repr(name), "Use --device auto")
    return torch.device(name)


def choose_devices(name: str = "auto") -> list[str]:
    """The devices that a job names: "all" takes every CUDA card, or "auto" where there is none; commas part several.

    Raises:
        DeviceError: a device that is not here.
    """
    if name == "all":
        cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        return cards or [str(choose_device())]
    return [str(choose_device(part.strip())) for part in name.split(",")]


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is fp16 on CUDA, bf16 on processors that compute in it, else fp32."""
    if name != "auto":
        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]
    if device.type == "cuda":
        return torch.float16
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def list_devices() -> list[dict[str, Any]]:
    """Every device the engine can run on: its id, its name, its memory in bytes (0 where shared with the system)."""
    devices: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append({"id": f"cuda:{index}", "name": properties.name, "memory": properties.total_memory})
    if torch.backends.mps.is_available():
        devices.append({"id": "mps", "name": "Apple Metal", "memory": 0})
    devices.append({"id": "cpu", "name": f"CPU, {torch.get_num_threads()} threads", "memory": 0})
    return devices


class Matter:
    """A network on a device, with the memory of the frames before.

    Args:
        model: RecurrentMatting, MattingBase or MattingRefine, in eval mode.
        device: as `choose_device`.
        precision: "auto" is fp16 on CUDA, for the recurrent network bf16 on processors that compute in it, else fp32.
        detail: size of the coarse pass as a share of the frame, above 0 up to 1; 0 has it chosen by the frame's size.
        refine_pixels: how many pixels MattingRefine refines where it refines the worst; 0 leaves it to the network's
            file, else to the frame's size.

    Raises:
        DeviceError: a device that is not here, or whose memory does not hold the network.

    Attributes:
        on_warning: told in a sentence when the device's memory does not suffice for a look and what is done about it.
        stepped_down: whether it did not: the coarse size or the device are no longer those that were asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str = "auto",
        precision: str = "auto",
        detail: float = 0.0,
        refine_pixels: int = 0,
    ) -> None:
        self.on_warning: Callable[[str], None] = log.warning
        self.stepped_down = False
        self.device = choose_device(device)
        self.detail = detail
        self.refine_pixels = refine_pixels
        try:
            self._transfer = transfer_for(self.device)
            self.model = fused(model).to(self.device)
        except RuntimeError as error:
            if not _is_of_memory(error):
                raise
            words = f"{self.device} with too little: {str(error).splitlines()[0]}"
            raise DeviceError("memory for the network", words, "Close other programs or use --device cpu") from None
        if precision == "auto" and self.device.type == "cpu" and not self.is_recurrent:
            precision = "fp32"
        self.dtype = choose_precision(precision, self.device)
        if not self.is_recurrent:  # computes in its weights' precision, and takes and gives float32
            self.model = self.model.to(self.dtype)
        elif self.dtype != torch.float32:
            cast_convolutions(self.model, self.dtype)
        self._plate: _Plate | None = None
        self._memory: dict[str, State] = {}  # with the plate, and without
        self._box: Box | None = None  # what the one with the plate is of
        self._ratio: float | None = None  # at which share of its size
        self._subject: Box | None = None  # where it was in the frame before
        self._finisher: ThreadPoolExecutor | None = None  # see `overlapping`
        self._finishing: Future[list[Coming]] | None = None

    @property
    def is_recurrent(self) -> bool:
        """Whether a frame's matte depends on the frames before it."""
        return isinstance(self.model, RecurrentMatting)

    def reset(self) -> None:
        """Forget the frames before: the next one is a shot's first."""
        self._memory.clear()
        self._box = self._ratio = self._subject = None

    def memory(self) -> dict[str, Tensor]:
        """What the network remembers of the frames before, on the CPU, to be stored; empty before the first frame."""
        memory = {
            f"{name}.{i}": state.cpu().contiguous()
            for name, states in self._memory.items()
            for i, state in enumerate(states)
        }
        look = {"box": self._box, "ratio": self._ratio, "subject": self._subject}
        return memory | {
            name: torch.tensor(value, dtype=torch.float64) for name, value in look.items() if value is not None
        }

    def remember(self, memory: dict[str, Tensor]) -> None:
        """Go on where `memory()` was taken."""
        self.reset()
        boxes = {name: Box(*memory[name].long().tolist()) for name in ("box", "subject") if name in memory}
        self._box, self._subject = boxes.get("box"), boxes.get("subject")
        self._ratio = float(memory["ratio"]) if "ratio" in memory else None
        for key in sorted(memory.keys() - boxes.keys() - {"ratio"}):
            name = key.partition(".")[0]
            # The layout is the network's own: in another one it would compute the same in another order.
            state = memory[key].to(self.device, memory_format=torch.channels_last)
            self._memory[name] = (*self._memory.get(name, ()), state)

    @contextlib.contextmanager
    def overlapping(self) -> Iterator[None]:
        """Within, the recurrent network looks at a frame while the matte of the one before is being finished.

        On a processor: each with half of its threads, which two frames use better than one does. A card has its queue.
        What goes wrong at the end of a frame is raised where one of its arrays is asked for.
        """
        threads = torch.get_num_threads()
        if not self.is_recurrent or self.device.type != "cpu" or threads < 2:
            yield
            return
        half = threads // 2
        torch.set_num_threads(threads - half)
        try:
            with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(half,)) as self._finisher:
                yield
        finally:
            self._finisher, self._finishing = None, None
            torch.set_num_threads(threads)

    def matte(self, src: Pixels, bgr: Pixels | None, valid: NDArray[np.bool_] | None = None) -> Matte:
        """Matte the next frame of the shot.

        With a plate the recurrent network looks at what differs from it (see `region`): alpha and err are 0 elsewhere.

        Args:
            src: (H, W, 3) sRGB-encoded, uint8, uint16 or float32 (0 to 1).
            bgr: the clean plate, same size; None where there is none. The same array object again costs nothing.
            valid: (H, W), False where the plate has no pixels; None where it has all. There err is at least
                `BLIND_ERROR`, and unless these are slivers of `SLIVER` pixels, the network judges there without a
                plate (it runs twice). A subject that it misses inside, where the plate shows it, it would miss outside,
                too: of that one the plate's judgement goes on. What differs there alone is no subject.

        Raises:
            ShapeError: sizes differ, or a network that needs a plate has none.
        """
        if bgr is not None and bgr.shape != src.shape:
            raise ShapeError(f"a plate of {src.shape}", f"{bgr.shape}", "Scale the plate to the footage's size")
        while True:
            try:
                with torch.inference_mode():
                    finish = self._begin(src, bgr, valid)
                    if self._finisher is None:
                        return ComingMatte(*finish())
            except RuntimeError as error:
                if not _is_of_memory(error):
                    raise
                words = str(error).splitlines()[0]
            else:
                return self._finish_beside(self._finisher, finish)
            if self._finishing is not None and not self._finishing.done():
                wait([self._finishing])  # alone there may be enough
                continue
            # Out here, where the failure no longer holds on to its tensors.
            self._step_down(src.shape[0], src.shape[1], bgr is None, words)

    def look(self, src: Pixels, bgr: Pixels) -> tuple[Look, Box] | None:
        """The recurrent network's look at the shot's next frame, and its box; None where the frame is its plate.

        What `matte` begins with; arguments as there.
        """
        return self._look_before(src, self._to_tensor(src), bgr, None)

    def _finish_beside(self, finisher: ThreadPoolExecutor, finish: Callable[[], list[Coming]]) -> Matte:
        """On the other thread; one frame at a time, which bounds the memory."""

        def run() -> list[Coming]:
            try:
                with torch.inference_mode():
                    return finish()
            except RuntimeError as error:
                if not _is_of_memory(error):
                    raise
                raise _too_little_memory(str(error).splitlines()[0]) from None

        if self._finishing is not None:
            wait([self._finishing])  # its failure is for who asks for that matte
        coming = self._finishing = finisher.submit(run)
        return ComingMatte(*(lambda index=index: coming.result()[index]() for index in range(3)))

    def _begin(self, src: Pixels, bgr: Pixels | None, valid: NDArray[np.bool_] | None) -> Callable[[], list[Coming]]:
        """What the next frame waits for; returns the rest."""
        source = self._to_tensor(src)
        if not self.is_recurrent:
            return partial(self._deliver, partial(self._matte_by_paper, source, bgr), None, None)
        if bgr is None:
            return partial(self._deliver, self._look_blindly(source), None, None)
        apart = valid is not None and not _is_sliver(~valid)
        blind = self._look_blindly(source) if apart else None
        seen = self._look_before(src, source, bgr, valid)
        before = partial(self._finish_in_box, *seen, source) if seen else partial(_as_background, source)
        return partial(self._deliver, before, blind, None if valid is None or valid.all() else valid)

    def _deliver(self, finish: Finish, blind: Finish | None, valid: NDArray[np.bool_] | None) -> list[Coming]:
        """Finish a frame, `blind` where it has to do without a plate as well, and begin to fetch its results."""
        without = blind() if blind else None  # first: the other takes the source's memory
        pha, fgr, err = finish()
        if valid is not None:
            inside = self._transfer.upload(valid)[None, None].float()
            trust = _trusted(pha, inside, valid)
            if without is None:
                pha = pha * trust
            else:
                softly = self._transfer.upload(_softly_around(valid))[None, None]
                trust = torch.maximum(trust * softly, _missed(pha, without[0], inside))
                pha, fgr = torch.lerp(without[0], pha, trust), torch.lerp(without[1], fgr, trust)
            err = torch.maximum(err, BLIND_ERROR * (1 - inside))
        results = pha[0, 0], fgr[0].permute(1, 2, 0).contiguous(), err[0, 0].clamp(0, 1)
        return [self._transfer.download(result) for result in results]

    def _step_down(self, height: int, width: int, blind: bool, words: str) -> None:
        """After the device ran out of memory: half the coarse size as often as that leaves 256 pixels, then the CPU.

        `height` and `width` are the frame's, `blind` is whether there was no plate.

        Raises:
            DeviceError: the CPU's memory does not suffice either.
        """
        self.stepped_down = True
        self._plate = None
        self.reset()  # what is remembered has the old size
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        ratio = self._coarse_ratio(height, width, blind)
        if ratio * max(height, width) >= 512:
            self.detail = ratio / 2
            self.on_warning(f"{self.device} is out of memory: going on with half the coarse size ({self.detail:.3g}).")
        elif self.device.type != "cpu":
            self.on_warning(f"{self.device} is out of memory: going on with the CPU, which is slower.")
            self.device, self.dtype = torch.device("cpu"), torch.float32
            self._transfer = transfer_for(self.device)
            self.model = self.model.to(self.device, self.dtype)
        else:
            raise _too_little_memory(words)

    def _coarse_ratio(self, height: int, width: int, blind: bool) -> float:
        return self.detail or coarse_ratio(height, width, blind)

    def _look_blindly(self, source: Tensor) -> Finish:
        """Without a plate."""
        height, width = source.shape[2:]
        ratio = min(1.0, max(self._coarse_ratio(height, width, blind=True), LEAST_SIDE / min(height, width)))
        look = self._look(source, None, self._memory.get("blind"), ratio)
        self._memory["blind"] = look.rec
        return partial(self._finish, look)

    def _look_before(
        self, src: Pixels, source: Tensor, bgr: Pixels, valid: NDArray[np.bool_] | None
    ) -> tuple[Look, Box] | None:
        """Before a plate: at a box around all that differs from it and the last frame's subject; None without any.

        What is outside is background. Where a subject turns out to reach beyond the box, the whole frame is looked at.
        """
        height, width = source.shape[2:]
        frame = Box(0, height, 0, width)
        plate = self._kept_plate(bgr)
        if plate.reduced is None:
            plate.reduced = ReducedPlate(bgr, coarse_ratio(height, width))
        differing = plate.reduced.differing(src, valid)
        needed = differing.joined(self._subject) if differing else self._subject
        if needed is None:
            self._memory.pop("plate", None)
            self._box = self._ratio = None
            return None
        box = choose_box(needed, self._box, height, width)
        look = self._look_in_box(source, plate, box)
        if is_cut(look.coarse[:, 3:], box, frame):
            box = frame
            look = self._look_in_box(source, plate, box)
        self._memory["plate"], self._box, self._ratio = look.rec, box, look.downsample_ratio
        self._subject = bounds((look.coarse[0, 3] > SUBJECT).byte().cpu().numpy(), box)
        return look, box

    def _look_in_box(self, source: Tensor, plate: _Plate, box: Box) -> Look:
        """`_look` at a box in a frame before its plate."""
        ratio = self._choose_ratio(box, source.shape[2], source.shape[3])
        if plate.features is None or plate.features[:2] != (box, ratio):
            with self._autocast():
                tensor = self._to_tensor(np.ascontiguousarray(box.of_picture(plate.pixels)))
                plate.features = box, ratio, self.model.encode_plate(_with_grain(tensor, box), ratio)  # type: ignore[operator]
        features = plate.features[2]
        rec = self._memory.get("plate")
        looks = LOOKS if rec is None else 1
        if rec is not None and self._box is not None and box != self._box:
            looks = LOOKS_ANEW
            rec = tuple(  # type: ignore[assignment]
                moved(state, self._box, box, feature.shape[-2:])
                for state, feature in zip(rec, features.features, strict=True)
            )
        return self._look(box.of(source), features, rec, ratio, looks)

    def _finish_in_box(self, look: Look, box: Box, source: Tensor) -> Tensors:
        """`_finish` of a box; the foreground comes in the source's memory."""
        pha, fgr, err = self._finish(look)
        height, width = source.shape[2:]
        if box.size == (height, width):
            return pha, fgr, err
        box.of(source).copy_(fgr)
        return box.placed(pha, height, width), source, box.placed(err, height, width)

    def _choose_ratio(self, box: Box, height: int, width: int) -> float:
        """At which share of its size a box of a frame is looked at: the one before while that is about right.

        Another one would place the reduced pixels anew, and what stands still would flicker.
        """
        if self.detail:
            return min(1.0, max(self.detail, LEAST_SIDE / min(box.size)))
        whole = coarse_ratio(height, width)
        best = min(coarse_ratio(*box.size), max(CLOSEST, whole))
        if self._ratio is not None and self._ratio / 1.07 <= best <= 1.4 * self._ratio:
            return self._ratio
        return max(whole, math.floor(best * GRID) / GRID)

    def _look(
        self, source: Tensor, plate: PlateFeatures | None, rec: State | None, ratio: float, looks: int = 1
    ) -> Look:
        """The recurrent network's look at the next frame."""
        with self._autocast():
            return self.model.look(  # type: ignore[operator,no-any-return]
                source.contiguous(memory_format=torch.channels_last), plate, rec, ratio, looks
            )

    def _finish(self, look: Look) -> Tensors:
        """What it saw, in float32 and of the source's size."""
        with self._autocast():
            out = self.model.finish(look)  # type: ignore[operator]
        err = upsampled(out.err.float(), look.shape[-2], look.shape[-1]).permute(0, 3, 1, 2)
        return out.pha.float(), out.fgr.float(), err

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def _matte_by_paper(self, source: Tensor, bgr: Pixels | None) -> Tensors:
        """The paper's networks want a plate and sizes that `PATCH` divides."""
        if bgr is None:
            raise ShapeError(
                "a clean plate, which this network cannot do without", "none", "Choose a plate, or the default model"
            )
        height, width = source.shape[2:]
        kept = self._kept_plate(bgr)
        if kept.tensor is None:
            kept.tensor = divisible(self._to_tensor(bgr), PATCH)
        source = divisible(source, PATCH)
        if isinstance(self.model, MattingRefine):
            self.model.suit(height, width, self.detail, self.refine_pixels)
        pha, fgr, *rest = self.model(source, kept.tensor)
        err = rest[2] if len(rest) == 4 else rest[0]  # MattingRefine gives its coarse pha and fgr in between
        err = F.interpolate(err.float(), source.shape[2:], mode="bilinear", align_corners=False)
        pha, fgr, err = (t[..., :height, :width].float() for t in (pha, fgr, err))
        return pha, fgr, err

    def _kept_plate(self, bgr: Pixels) -> _Plate:
        """What is computed of a plate, kept while the same array comes again."""
        if self._plate is None or self._plate.pixels is not bgr:
            self._plate = _Plate(bgr)
        return self._plate

    def _to_tensor(self, pixels: Pixels) -> Tensor:
        """(H, W, 3) of any type to (1, 3, H, W) float32, 0 to 1, channels last in memory that is not the caller's."""
        tensor = self._transfer.upload(pixels)[None].permute(0, 3, 1, 2)
        if tensor.is_floating_point():
            return tensor.to(torch.float32, copy=self.device.type == "cpu")
        return tensor.float().mul_(1 / torch.iinfo(tensor.dtype).max)


def _as_background(source: Tensor) -> Tensors:
    """The matte of a frame without a subject; its foreground is the source itself."""
    pha, err = source.new_zeros(2, 1, 1, *source.shape[2:])
    return pha, source, err


def _is_of_memory(error: RuntimeError) -> bool:
    """Not every library that torch computes with has an error of its own for that."""
    words = "out of memory", "DefaultCPUAllocator", "_STATUS_ALLOC_FAILED"
    return isinstance(error, torch.OutOfMemoryError) or any(each in str(error) for each in words)


def _too_little_memory(words: str) -> DeviceError:
    return DeviceError("enough memory for one frame", words, "Close other programs or scale the footage")


def _with_grain(plate: Tensor, box: Box) -> Tensor:
    """A box of the plate, (1, 3, h, w), with the same noise at a place in every call, so that nothing flickers."""
    height, width = box.size
    tile = _grain(plate.device).roll((-box.top, -box.left), (0, 1))
    grain = tile.repeat(-(-height // 256), -(-width // 256), 1)[:height, :width]
    return (plate + grain.permute(2, 0, 1)).clamp_(0, 1)


@cache
def _grain(device: torch.device) -> Tensor:
    """The tile, (256, 256, 3), on the device."""
    tile = PLATE_GRAIN * torch.randn((3, 256, 256), generator=torch.Generator().manual_seed(0))
    return tile.permute(1, 2, 0).contiguous().to(device)


def _is_sliver(invalid: NDArray[np.bool_]) -> bool:
    """Whether every pixel of (H, W) that is True has one that is not within `SLIVER` pixels, in rows and columns."""
    square = np.ones((2 * SLIVER + 1, 2 * SLIVER + 1), np.uint8)
    return not cv2.erode(invalid.view(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=1).any()


def _softly_around(valid: NDArray[np.bool_]) -> Floats:
    """(H, W) to float32 with a slope from 1 to 0 on twice `SLIVER` pixels outside; 1 on slivers."""
    size = 2 * SLIVER + 1, 2 * SLIVER + 1
    near = cv2.dilate(valid.view(np.uint8), np.ones(size, np.uint8)).astype(np.float32)
    return np.asarray(cv2.blur(near, size, borderType=cv2.BORDER_REPLICATE), np.float32)


def _trusted(pha: Tensor, inside: Tensor, valid: NDArray[np.bool_]) -> Tensor:
    """Where the judgement before the plate holds: not at what is there instead of the plate's continued border.

    That are connected regions of alpha which lie beside the plate but for less than `STRAY`, from `LEAK` pixels inside
    of it on.

    Args:
        pha: (1, 1, H, W) with the plate.
        inside, valid: (1, 1, H, W) and (H, W), 1 where there is a plate.

    Returns:
        (1, 1, H, W), 0 or 1; (1, 1, 1, 1), 1, where there is no such region, as in most frames.
    """
    height, width = pha.shape[2:]
    alpha, weight = _reduced(pha, inside)
    count, regions = cv2.connectedComponents((alpha > SUBJECT).astype(np.uint8))
    whole, shown = (np.bincount(regions.ravel(), mass.ravel(), count) for mass in (alpha, alpha * weight))
    stray = shown < STRAY * whole
    stray[0] = False  # the background
    if not stray.any():
        return pha.new_ones(1, 1, 1, 1)
    spread = cv2.dilate(stray[regions].astype(np.uint8), np.ones((5, 5), np.uint8))
    strays = cv2.resize(spread, (width, height), interpolation=cv2.INTER_NEAREST)
    surely = cv2.erode(valid.view(np.uint8), np.ones((2 * LEAK + 1, 2 * LEAK + 1), np.uint8))
    return torch.from_numpy(np.maximum(surely, 1 - strays)).to(pha.device)[None, None].float()


def _missed(pha: Tensor, blind_pha: Tensor, inside: Tensor) -> Tensor:
    """How surely a pixel belongs to a subject that the plate shows and the network without a plate does not know.

    Each connected region of alpha is judged by its part inside: by what share of it is found without the plate.

    Args:
        pha, blind_pha: (1, 1, H, W) with and without the plate.
        inside: (1, 1, H, W), 1 where there is a plate.

    Returns:
        (1, 1, H, W), 0 to 1; 0 for regions that lie outside altogether.
    """
    with_plate, without, weight = _reduced(pha, blind_pha, inside)
    count, regions = cv2.connectedComponents((with_plate > 0.5).astype(np.uint8))
    shown, found = (
        np.bincount(regions.ravel(), (alpha * weight).ravel(), count)
        for alpha in (with_plate, np.minimum(with_plate, without))
    )
    missed = np.clip((0.7 - found / np.maximum(shown, 1)) / 0.4, 0, 1)
    missed[shown < 16] = 0  # a handful of pixels says nothing
    missed[0] = 0  # the background
    spread = cv2.dilate(missed[regions].astype(np.float32), np.ones((9, 9), np.uint8))  # hair is softer than one half
    where = torch.from_numpy(spread).to(pha.device)[None, None]
    return F.interpolate(where, pha.shape[2:], mode="bilinear", align_corners=False)


def _reduced(*planes: Tensor) -> list[Floats]:
    """Each (1, 1, H, W) at the size of a look without a plate, (h, w), to find connected regions in."""
    height, width = planes[0].shape[2:]
    scale = min(1.0, max(coarse_ratio(height, width, blind=True), LEAST_SIDE / min(height, width)))
    return [average(plane, scale)[0, 0].cpu().numpy() for plane in planes]
