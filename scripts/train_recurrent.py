# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the default network on clips: alpha, its motion, foreground and error map, coarse and at full resolution."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from core.checkpoints import load_model, save_model
from core.errors import JobError
from core.evaluation import mean_scores, score_clip
from core.models import RecurrentMatting
from core.models.recurrent import clamp_unit
from core.training import losses
from core.training.loop import Batch, Process, Trainer, Validation, join_processes, sample_order
from core.training.options import add_loop_arguments, loop_options, parse_with_config

log = logging.getLogger(__name__)

MakeClips = Callable[[str, int, int], "Dataset[dict[str, Any]]"]  # (split, size, frames) -> clips


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of the run at one resolution; a later stage is usually larger, longer and smaller in batch."""

    steps: int
    size: int = 256  # pixels, side of the square crop
    frames: int = 2
    batch: int = 6  # clips per step of one process
    downsample_ratio: float | tuple[float, float] = 1.0  # below 1 the refinement is trained too; a range is drawn from


PROTOTYPE = Stage(steps=2000)
ERROR_WEIGHT = 0.1


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, and the YAML file that --config names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="folder of subjects and backgrounds")
    parser.add_argument("--init", default="default", help="weights to start from: default, a file, or none")
    parser.add_argument(
        "--stages", type=yaml.safe_load, help="YAML list of {steps, size, frames, batch, downsample_ratio}"
    )
    parser.add_argument("--steps", type=int, help="total; the last stage goes on, or the run ends, there")
    parser.add_argument("--checkpoint_path", type=Path, default=Path("../result/checkpoint/recurrent"))
    parser.add_argument("--logging_path", type=Path, default=Path("../logs/recurrent"))
    parser.add_argument("--encoder_learning_rate", type=float, default=1.5e-4)
    parser.add_argument("--learning_rate", type=float, default=3e-4, help="of the decoder")
    parser.add_argument("--plate_learning_rate", type=float, default=6e-4, help="of the decoder's plate inputs")
    parser.add_argument("--refiner_learning_rate", type=float, default=2e-3)
    parser.add_argument("--valid_clips", type=int, default=16)
    parser.add_argument("--valid_size", type=int, default=512)
    parser.add_argument("--valid_frames", type=int, default=3)
    parser.add_argument("--valid_downsample_ratio", type=float, default=1.0)
    add_loop_arguments(parser)
    parser.set_defaults(warmup=100, schedule="cosine", save_every=100, valid_every=500)
    return parse_with_config(parser, argv)


def make_stages(described: Sequence[dict[str, Any]] | None, steps: int | None) -> list[Stage]:
    """The run's stages; `steps` cuts them, or lengthens the last.

    Raises:
        JobError: a stage has a key that it cannot have, or none.
    """
    try:
        stages = [Stage(**stage) for stage in described] if described else [PROTOTYPE]
    except TypeError as error:
        fields = ", ".join(field.name for field in dataclasses.fields(Stage))
        raise JobError(f"stages of {fields}", f"{described} ({error})", "Correct --stages") from error
    if steps is None:
        return stages
    kept: list[Stage] = []
    for stage in stages:
        left = steps - sum(other.steps for other in kept)
        kept.append(dataclasses.replace(stage, steps=left if stage is stages[-1] else min(left, stage.steps)))
    return [stage for stage in kept if stage.steps > 0]


def stage_batches(
    start: int, stages: Sequence[Stage], make_clips: MakeClips, workers: int, seed: int, process: Process
) -> Iterator[Batch]:
    """This process's batches from step `start` to the last stage's end, each with its stage's `downsample_ratio`."""
    begin = 0
    for number, stage in enumerate(stages):
        steps = begin + stage.steps - max(start, begin)
        if steps > 0:
            clips = make_clips("train", stage.size, stage.frames)
            used = (max(start, begin) - begin) * stage.batch * process.world
            order = sample_order(len(clips), seed + 1000 * number, used, process)  # type: ignore[arg-type]
            loader = DataLoader(
                clips,
                batch_sampler=_batched(order, stage.batch, steps),
                num_workers=workers,
                pin_memory=torch.cuda.is_available(),
            )
            ratio = stage.downsample_ratio
            for step, batch in enumerate(loader, max(start, begin)):
                drawn = ratio if isinstance(ratio, int | float) else random.Random(seed + step).uniform(*ratio)
                yield batch | {"downsample_ratio": drawn}
        begin += stage.steps


def compute_losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The weighted losses of clips, those with a plate and those without each in a pass of their own.

    Args:
        batch: src, bgr, fgr (B, T, 3, H, W), pha (B, T, 1, H, W), has_plate (B,) bool, downsample_ratio.
    """
    total: dict[str, Tensor] = {}
    for chosen, plate in ((batch["has_plate"], True), (~batch["has_plate"], False)):
        if chosen.any():
            part = {name: batch[name][chosen] for name in ("src", "bgr", "pha", "fgr")}
            found = _clip_losses(model, part, plate, batch["downsample_ratio"])
            for name, value in found.items():
                total[name] = total.get(name, 0) + value * chosen.float().mean()
    return total


def _clip_losses(model: nn.Module, part: dict[str, Tensor], plate: bool, ratio: float) -> dict[str, Tensor]:
    src, pha, fgr = part["src"], part["pha"], part["fgr"]
    coarse: list[Tensor] = []
    tap = model.project.register_forward_hook(lambda module, args, output: coarse.append(output))  # type: ignore[union-attr]
    try:
        pred = model(src, part["bgr"] if plate else None, downsample_ratio=ratio)
    finally:
        tap.remove()
    pred_pha, pha_sm = pred.pha, pred.pha
    if ratio < 1:
        residual_sm, pha_sm = coarse[0].float().view(*src.shape[:2], 4, *coarse[0].shape[-2:]).tensor_split([3], dim=2)
        pha_sm = clamp_unit(pha_sm)
        fgr_sm = clamp_unit(losses.resize_like(src, pha_sm) + residual_sm)
        coarse_losses = losses.clip_losses(pha_sm, fgr_sm, pha, fgr)
        if plate:  # the refiner will be asked only about what the coarse alpha gets wrong
            pred_pha = torch.lerp(pha, pred_pha.float(), _judged(pha_sm, pha))
    found = losses.clip_losses(pred_pha, pred.fgr, pha, fgr)
    if ratio < 1:
        found |= {f"{name}_sm": value for name, value in coarse_losses.items()}
    error = losses.error_cross_entropy(pred.err, pha_sm, losses.resize_like(pha, pha_sm))
    found["err_cross_entropy"] = ERROR_WEIGHT * error
    return found


def _judged(pha_sm: Tensor, pha: Tensor) -> Tensor:
    """Weights (B, T, 1, H, W) for the refined alpha's loss: 1 within 4 pixels of a coarse error, else a tenth."""
    up = F.interpolate(pha_sm.detach().flatten(0, 1), pha.shape[-2:], mode="bilinear", align_corners=False)
    wrong = ((up - pha.flatten(0, 1)).abs() > 0.02).float()
    return F.max_pool2d(wrong, 9, 1, 4).clamp(min=0.1).view_as(pha)


def parameter_groups(
    model: RecurrentMatting, encoder_rate: float, rate: float, plate_rate: float, refiner_rate: float
) -> list[dict[str, Any]]:
    """Encoder, decoder, the decoder's plate inputs, refiner, error map: each with its learning rate.

    The error map, one linear layer, starts at one value everywhere and has far to go: ten times the refiner's rate.
    """
    rates = {"encoder": encoder_rate, "refiner": refiner_rate, "error": 10 * refiner_rate}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        its_rate = rates.get(name.partition(".")[0], plate_rate if "plate" in name else rate)
        groups.setdefault(its_rate, []).append(parameter)
    return [{"params": parameters, "lr": its_rate} for its_rate, parameters in groups.items()]


def build_model(init: str) -> RecurrentMatting:
    """The network to train, with the weights of `init`, "none" for random ones."""
    if init == "none":
        return RecurrentMatting()
    model = load_model(init)
    if not isinstance(model, RecurrentMatting):
        raise JobError("weights of the recurrent network", f"{type(model).__name__}", "Pass another --init")
    if model.blind is not None:  # not trained: scripts/convert_rvm.py adds it anew
        seeing = RecurrentMatting()
        seeing.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("blind.")})
        return seeing
    return model


def main(args: argparse.Namespace, make_clips: MakeClips | None = None) -> dict[str, float]:
    """Train; return the last step's losses and the best validation MAD."""
    process = join_processes()
    torch.manual_seed(args.seed)
    if make_clips is None:
        from core.data import ClipDataset

        make_clips = lambda split, size, frames: ClipDataset(args.pool, split, size, frames, args.seed)  # noqa: E731
    stages = make_stages(args.stages, args.steps)
    model = build_model(args.init)
    trainer = Trainer(
        model,
        parameter_groups(
            model,
            args.encoder_learning_rate,
            args.learning_rate,
            args.plate_learning_rate,
            args.refiner_learning_rate,
        ),
        compute_losses,
        lambda start: stage_batches(start, stages, make_clips, args.num_workers, args.seed, process),
        functools.partial(validate, clips=make_clips("valid", args.valid_size, args.valid_frames), args=args),
        lambda net, path: save_model(net, path, {"architecture": "RecurrentMatting", "arguments": model.arguments}),
        loop_options(args, sum(stage.steps for stage in stages)),
        process=process,
    )
    return trainer.run()


def validate(model: nn.Module, clips: Dataset[dict[str, Any]], args: argparse.Namespace) -> Validation:
    """All measures over the frames of the first clips of the validation split, and pictures of four last frames."""
    device = next(model.parameters()).device
    scores: list[dict[str, float]] = []
    images: dict[str, Tensor] = {}
    for index in range(1 if args.dry_run else min(args.valid_clips, len(clips))):  # type: ignore[arg-type]
        clip = clips[index]
        src, bgr = (clip[name].unsqueeze(0).to(device) for name in ("src", "bgr"))
        pred = model(src, bgr if clip["has_plate"] else None, downsample_ratio=args.valid_downsample_ratio)
        scores += score_clip(pred.pha[0], clip["pha"], pred.fgr[0], clip["fgr"])
        if index < 4:
            views = (clip["src"][-1], pred.pha[0, -1].expand(3, -1, -1), clip["pha"][-1].expand(3, -1, -1))
            images[f"{index}_src_pred_true"] = torch.cat([view.cpu() for view in views], dim=-1)
    return Validation(mean_scores(scores), images)


def _batched(order: Iterator[int], size: int, steps: int) -> list[list[int]]:
    return [[next(order) for _ in range(size)] for _ in range(steps)]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(parse_args())
