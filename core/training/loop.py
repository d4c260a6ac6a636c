# SPDX-License-Identifier: GPL-3.0-or-later
"""The training loop of all three trainers: precision, clipping, EMA, checkpoints, several processes, logs.

A trainer brings a model, parameter groups, `step(model, batch) -> losses`, batches from any step on, and a validation.
A run is a function of its seed: batch, order and random draws of step N depend on the seed and N alone, so a run that
was killed and resumed goes through the same steps as one that was not.
"""

from __future__ import annotations

import atexit
import dataclasses
import io
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from core.errors import CheckpointError, MattingError
from core.files import write_whole
from core.matting import choose_device, choose_precision

log = logging.getLogger(__name__)

Batch = dict[str, Any]  # tensors by name, and plain values
Step = Callable[[nn.Module, Batch], dict[str, Tensor]]
Validate = Callable[[nn.Module], "Validation"]

BAD_STEPS = 20  # steps in a row without a finite gradient after which a run is called diverged


@dataclasses.dataclass(frozen=True)
class Validation:
    """What a validation found: `scores["mad"]` picks the best checkpoint (lower is better)."""

    scores: Mapping[str, float]
    images: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)  # (3 or 1, H, W), 0 to 1


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """How a run goes; every field is a flag of the trainers."""

    steps: int  # in all, resumed runs included
    checkpoint_path: Path
    logging_path: Path
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    warmup: int = 0  # steps of linear warm-up
    schedule: Literal["constant", "cosine"] = "constant"
    clip: float = 0.0  # largest gradient norm; 0: no limit
    ema: float = 0.0  # decay of the averaged weights per step; 0: none
    save_every: int = 500  # steps
    valid_every: int = 1000  # steps
    log_every: int = 10  # steps
    seed: int = 0
    resume: bool = False
    dry_run: bool = False


@dataclasses.dataclass(frozen=True)
class Process:
    """This process's place among those that `torchrun` started; one of one otherwise."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0


def join_processes() -> Process:
    """Join the group that `torchrun` describes in the environment (nccl on CUDA, gloo on the CPU)."""
    if "WORLD_SIZE" not in os.environ:
        return Process()
    if not dist.is_initialized():
        # Every optimizer imports this. Imported after the group is made, it would keep the group's threads alive beyond
        # its end, and a thread that asks for the interpreter while that shuts down aborts the process.
        import torch._dynamo

        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)
    return Process(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


def sample_order(length: int, seed: int, start: int, process: Process) -> Iterator[int]:
    """Indices of a data set for ever: every epoch a new order, process r takes every world-th from r on.

    Args:
        length: samples in the data set.
        start: how many samples all processes together have used already.
    """
    position = start + process.rank
    epoch, order = -1, torch.empty(0)
    while True:
        if position // length != epoch:
            epoch = position // length
            order = torch.randperm(length, generator=torch.Generator().manual_seed(seed + epoch))
        yield int(order[position % length])
        position += process.world


def learning_rate_scale(step: int, options: LoopOptions) -> float:
    """The factor on every learning rate at a step counted from 0: linear warm-up, then constant or cosine to 0."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    if options.schedule == "constant":
        return 1.0
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class _JoinedSum(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def _joined_sum(x: Tensor) -> Tensor:
    return cast(Tensor, _JoinedSum.apply(x))  # type: ignore[no-untyped-call]


class JoinedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, gradients included, on any device (torch's own needs CUDA)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W) by the joined batch's statistics; in evaluation as BatchNorm2d does."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = _joined_sum(torch.cat([x.sum((0, 2, 3)), count]))
        mean = sums[:-1] / sums[-1]
        centred = x - mean.view(1, -1, 1, 1)
        var = _joined_sum(centred.square().sum((0, 2, 3))) / sums[-1]
        if self.track_running_stats:
            assert self.running_mean is not None and self.running_var is not None
            assert self.momentum is not None and self.num_batches_tracked is not None
            with torch.no_grad():
                unbiased = var * sums[-1] / (sums[-1] - 1)
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(unbiased, self.momentum)
                self.num_batches_tracked.add_(1)
        normed = centred * (var + self.eps).rsqrt().view(1, -1, 1, 1)
        if self.affine:
            normed = normed * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normed.to(input.dtype)


def swap_class(module: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> None:
    """Turn every `old` inside the module into a `new`, in place; parameters and buffers stay what they are."""
    for child in module.modules():
        if type(child) is old:
            child.__class__ = new


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values as torch does, whole or not at all, and make their folder."""
    content = io.BytesIO()  # written by torch itself, a full disk raises no OSError
    torch.save(state, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: part.write_bytes(content.getbuffer()))


class _Objective(nn.Module):
    """A batch's losses as one module, so that whatever `step` does with the model is one forward pass to DDP."""

    def __init__(self, model: nn.Module, step: Step) -> None:
        super().__init__()
        self.model = model
        self._step = step

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self._step(self.model, batch)


class Trainer:
    """One run. `run()` trains to the last step; everything that a resume needs is in `checkpoint_path/last.pt`.

    Args:
        model: the network, on the CPU; trained in place.
        groups: optimizer parameter groups, each with `params` and its peak `lr`.
        step: the losses of one batch, weighted; their sum is minimised. Called under autocast.
        batches: `batches(start)` yields this process's batches from step `start` on; it may end only at `steps`.
        validate: scores the weights that would ship (the averaged ones with EMA), in evaluation mode.
        save_model: writes a model file, whole or not at all.
        optimizer: the class, AdamW or Adam.
        on_step: called on the leading process after each step with the number of steps done and the model to ship.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Mapping[str, Any]],
        step: Step,
        batches: Callable[[int], Iterable[Batch]],
        validate: Validate,
        save_model: Callable[[nn.Module, Path], None],
        options: LoopOptions,
        *,
        process: Process | None = None,
        optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
        on_step: Callable[[int, nn.Module], None] | None = None,
    ) -> None:
        self.options = options
        self.process = process or Process()
        cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
        self.device = choose_device(f"cuda:{self.process.local_rank}" if cuda else options.device)
        self.dtype = choose_precision(options.precision, self.device)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = optimizer([dict(group) for group in groups])  # type: ignore[call-arg]
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.average: AveragedModel | None = None
        if options.ema:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(options.ema))  # type: ignore[no-untyped-call]
        self._step, self._batches, self._validate = step, batches, validate
        self._save_model, self._on_step = save_model, on_step
        self.done = 0  # steps
        self.best = math.inf  # validation MAD

    @property
    def shipped(self) -> nn.Module:
        """The model whose weights are validated and saved."""
        return self.model if self.average is None else self.average.module

    def run(self) -> dict[str, float]:
        """Train until `steps`; return the last step's losses (`loss` is their sum) and the best MAD (`best_mad`).

        Raises:
            CheckpointError: `checkpoint_path` holds a run and `resume` was not asked for, or its file does not fit.
            MattingError: no finite gradient in 20 steps.
            OutputError: a checkpoint cannot be written.
        """
        options, last = self.options, self.options.checkpoint_path / "last.pt"
        if last.exists() and not options.dry_run:
            if not options.resume:
                raise CheckpointError(
                    f"no earlier run in {options.checkpoint_path}",
                    "its last.pt",
                    "Pass --resume to go on with that run, or another --checkpoint_path",
                )
            self._load(last)
        if self.process.leads and not options.dry_run:
            for unfinished in options.checkpoint_path.glob(".*.part.*"):  # a killed run's
                unfinished.unlink()
        steps = self.done + 1 if options.dry_run else options.steps
        objective: nn.Module = _Objective(self.model, self._step)
        if self.process.world > 1:
            swap_class(self.model, nn.BatchNorm2d, JoinedBatchNorm2d)
            objective = DistributedDataParallel(objective, find_unused_parameters=True)
        try:
            return self._train(objective, steps)
        finally:
            swap_class(self.model, JoinedBatchNorm2d, nn.BatchNorm2d)

    def _train(self, objective: nn.Module, steps: int) -> dict[str, float]:
        options, writer = self.options, self._writer()
        values: dict[str, float] = {}
        bad = 0
        bar = tqdm(
            total=steps,
            initial=self.done,
            unit="step",
            disable=not self.process.leads,
            mininterval=0.1 if sys.stderr.isatty() else 30,  # seconds; a log file needs fewer lines
        )
        batches = iter(self._batches(self.done)) if self.done < steps else iter(())
        while self.done < steps:
            batch = self._to_device(next(batches))
            torch.manual_seed(options.seed + 7919 * self.done + self.process.rank)
            scale = learning_rate_scale(self.done, options)
            for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = peak * scale
            objective.train()
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                losses = objective(batch)
            total = torch.stack([value.float() for value in losses.values()]).sum()
            norm = self._descend(total)
            bad = 0 if math.isfinite(norm) else bad + 1
            if bad == BAD_STEPS:
                raise MattingError(
                    "gradients that are finite",
                    f"none in {BAD_STEPS} steps up to step {self.done}",
                    "Lower the learning rates, clip gradients, or train in fp32",
                )
            if self.average is not None:
                self.average.update_parameters(self.model)
            self.done += 1
            values = {name: float(value.detach()) for name, value in losses.items()}
            values["loss"] = sum(values.values())
            bar.update()
            bar.set_postfix(loss=f"{values['loss']:.4f}", best_mad=f"{self.best:.2f}", refresh=False)
            if writer is not None and (self.done % options.log_every == 0 or self.done == steps):
                for name, value in values.items():
                    writer.add_scalar(f"train/{name}", value, self.done)
                writer.add_scalar("train/gradient_norm", norm, self.done)
                writer.add_scalar("train/learning_rate_scale", scale, self.done)
            if self.done % options.valid_every == 0 or self.done == steps:
                self._check(writer)
            if not options.dry_run and (self.done % options.save_every == 0 or self.done == steps):
                self._save()
            if self._on_step is not None and self.process.leads and not options.dry_run:
                self._on_step(self.done, self.shipped)
        bar.close()
        if writer is not None:
            writer.close()
        return values | {"best_mad": self.best}

    def _descend(self, total: Tensor) -> float:
        """One optimizer step unless the gradient is not finite; return the gradient's norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.options.clip or math.inf))
        if self.scaler.is_enabled() or math.isfinite(norm):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm

    def _check(self, writer: Any) -> None:
        """Validate on the leading process and keep the best model; the others wait."""
        if self.process.leads:
            self.shipped.eval()
            with torch.no_grad():
                found = self._validate(self.shipped)
            log.info("step %d: %s", self.done, ", ".join(f"{k} {v:.4g}" for k, v in found.scores.items()))
            if writer is not None:
                for name, value in found.scores.items():
                    writer.add_scalar(f"valid/{name}", value, self.done)
                for name, image in found.images.items():
                    writer.add_image(f"valid/{name}", image.float().cpu().clamp(0, 1), self.done)
            if found.scores["mad"] < self.best:
                self.best = found.scores["mad"]
                if not self.options.dry_run:
                    self._save_model(self.shipped, self.options.checkpoint_path / "best.safetensors")
        if self.process.world > 1:
            dist.barrier()

    def _save(self) -> None:
        """Write last.safetensors, the model, and last.pt, what a resume needs: only tensors and plain values.

        There is no random state and no data position in it: each step seeds itself, and its number gives its batch.
        """
        if not self.process.leads:
            return
        path = self.options.checkpoint_path / "last.pt"
        self._save_model(self.shipped, path.with_suffix(".safetensors"))
        state = {
            "step": self.done,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }
        write_state(state, path)

    def _load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.average is not None and state["average"] is not None:
                self.average.load_state_dict(state["average"])
        except Exception as error:  # a file that is damaged fails in a dozen ways
            raise CheckpointError(
                "the checkpoint of a run with this model and these parameter groups",
                f"{path}, which does not fit ({error!r})",
                "Resume with the flags of the first run, or begin again in another --checkpoint_path",
            ) from error
        self.done, self.best = int(state["step"]), float(state["best"])
        log.info("resumed %s at step %d", path, self.done)

    def _to_device(self, batch: Batch) -> Batch:
        return {k: v.to(self.device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def _writer(self) -> Any:
        if not self.process.leads or self.options.dry_run:
            return None
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only this process needs it

        return SummaryWriter(str(self.options.logging_path), purge_step=self.done + 1)
