# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the default network in stages: coarse part on clips, decoder and review on looks, refiner on windows."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from core.checkpoints import load_model, save_model
from core.data.clips import ClipDataset, Mix
from core.errors import JobError, ending_in_words
from core.matting import Matter
from core.memory import reused_memory
from core.models import RecurrentMatting
from core.models.clamping import clamp_unit
from core.models.recurrent import Look
from core.models.refiner import MOST_CHANNELS, PATCH, SolvingRefiner
from core.models.scales import average
from core.training import looks, losses, windows
from core.training.loop import Batch, Process, Trainer, Validation, join_processes, sample_order
from core.training.options import add_loop_arguments, loop_options, parse_with_config
from core.training.validation import score_samples

log = logging.getLogger(__name__)

# (split, size, frames, changes to the usual mix) -> clips
MakeClips = Callable[[str, int, int, dict[str, float]], "Dataset[dict[str, Any]]"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of the run at one resolution; a later stage is usually larger, longer and smaller in batch."""

    steps: int
    size: int = 256  # pixels, side of the square crop
    frames: int = 2
    batch: int = 6  # clips, looks, or windows, per step of one process
    downsample_ratio: float | tuple[float, float] = 1.0  # scale of the network's input; each step draws from a range
    part: str = "coarse"  # what learns, see `PARTS`; "decoder" and "review" are the last of "coarse"
    fixed_norm: bool = False  # refiner: batch norm goes on with the statistics that it has; for trained weights
    mix: dict[str, float] = dataclasses.field(default_factory=dict)  # changes to `core.data.clips.Mix`


PROTOTYPE = Stage(steps=2000)
# What learns: parameters whose names begin with one of these
PARTS: dict[str, tuple[str, ...]] = {
    "coarse": ("",),
    "decoder": ("decoder.", "project.", "error.", "plate_review."),  # behind the encoder
    "review": ("plate_review.",),
    "see-through": ("plate_review.see_through.",),
    "refiner": ("refiner.",),
}
ON_LOOKS = ("decoder", "review", "see-through")
ERROR_WEIGHT = 0.1
OVERSHOOT_WEIGHT = 1e-3
WINDOW_WEIGHTS = {"pha_l1": 1.0, "pha_gradient": 4.0, "fgr_l1": 0.5}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, and the YAML file that --config names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="folder of subjects and backgrounds")
    parser.add_argument("--init", default="default", help="weights to start from: default, a file, or none")
    parser.add_argument("--refine_channels", type=int, help="widen the refiner to so many; else as many as --init has")
    parser.add_argument(
        "--stages", type=yaml.safe_load, help="YAML list of {steps, size, frames, batch, downsample_ratio, part, mix}"
    )
    parser.add_argument("--steps", type=int, help="steps in all; cuts the stages, or lengthens the last one")
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
        JobError: there is no stage, or one has an unknown key or an impossible value.
    """
    try:
        stages = [PROTOTYPE] if described is None else [Stage(**stage) for stage in described]
        for stage in stages:
            Mix(**stage.mix)
    except TypeError as error:
        fields = ", ".join(field.name for field in dataclasses.fields(Stage))
        raise JobError(f"stages of {fields}", f"{described} ({error})", "Correct --stages") from error
    if not stages:
        raise JobError("at least one stage", str(described), "Correct --stages")
    for stage in stages:
        ratio = stage.downsample_ratio
        ratios = ratio if isinstance(ratio, list | tuple) and len(ratio) == 2 else (ratio,)
        counts = all(isinstance(n, int) and n > 0 for n in (stage.steps, stage.size, stage.frames, stage.batch))
        if not counts or not all(isinstance(r, int | float) and 0 < r <= 1 for r in ratios):
            expected = "stages of whole numbers from 1 on, and of a downsample_ratio above 0 and up to 1"
            raise JobError(expected, str(stage), "Correct --stages")
        if stage.part not in PARTS:
            raise JobError(f"stages whose part is {' or '.join(PARTS)}", stage.part, "Correct --stages")
        least = windows.SIDE + windows.SIDE // 2  # a window, and how far the first may lie inside
        if stage.part == "refiner" and (stage.size % PATCH or stage.size < least):
            raise JobError(
                f"for the refiner a size from {least} on that divides by {PATCH}", str(stage.size), "Correct --stages"
            )
    if steps is None:
        return stages
    kept: list[Stage] = []
    for stage in stages:
        left = steps - sum(other.steps for other in kept)
        kept.append(dataclasses.replace(stage, steps=left if stage is stages[-1] else min(left, stage.steps)))
    return [stage for stage in kept if stage.steps > 0]


def stage_batches(
    start: int,
    stages: Sequence[Stage],
    make_clips: MakeClips,
    workers: int,
    seed: int,
    process: Process,
    model: RecurrentMatting,
) -> Iterator[Batch]:
    """This process's batches from step `start` to the last stage's end: clips, looks or windows.

    Args:
        workers: data loader processes.
        model: the network in training, which makes looks and windows of clips.
    """
    begin = 0
    for number, stage in enumerate(stages):
        first = max(start - begin, 0)
        if first < stage.steps:
            clips = make_clips("train", stage.size, stage.frames, stage.mix)
            load = functools.partial(_load, clips, workers, seed + 1000 * number, process)
            draw = functools.partial(_draw_ratio, stage.downsample_ratio)
            if stage.part in ON_LOOKS:
                matter = Matter(model, str(next(model.parameters()).device))
                earliest = looks.first_fresh(first)
                fresh = enumerate(load(-(-stage.batch // looks.USES), earliest, stage.steps), earliest)
                seen = (looks.look_at_clips(matter, batch, [seed, number, step]) for step, batch in fresh)
                for batch in looks.draw_looks(seen, stage.batch, seed, first, stage.steps):
                    yield batch | {"part": stage.part}
            elif stage.part != "refiner":
                for step, batch in enumerate(load(stage.batch, first, stage.steps), begin + first):
                    yield _smaller(batch, draw(seed + step)) | {"part": stage.part}
            else:
                entered, end = windows.first_group(first), -(-stage.steps // windows.STEPS)
                groups = enumerate(load(windows.CLIPS, entered, end), entered + 1000 * number)
                cut = functools.partial(windows.cut_training_windows, model)
                found = (cut(batch, draw(seed + group), [seed, group]) for group, batch in groups)
                for batch in windows.draw_windows(found, stage.batch, seed, first, stage.steps):
                    yield batch | {"fixed_norm": stage.fixed_norm}
        begin += stage.steps


def _load(
    clips: Dataset[dict[str, Any]], workers: int, seed: int, process: Process, batch: int, first: int, end: int
) -> DataLoader[Batch]:
    """Batches of `batch` clips, from batch number `first` to `end`."""
    order = sample_order(len(clips), seed, first * batch * process.world, process)  # type: ignore[arg-type]
    chosen = [[next(order) for _ in range(batch)] for _ in range(first, end)]
    return DataLoader(clips, batch_sampler=chosen, num_workers=workers, pin_memory=torch.cuda.is_available())


def _draw_ratio(ratio: float | tuple[float, float], seed: int) -> float:
    return ratio if isinstance(ratio, int | float) else random.Random(seed).uniform(*ratio)


def _smaller(batch: Batch, ratio: float) -> Batch:
    """The clips, shrunk as the network's coarse part would shrink them."""
    frames = {name: batch[name] for name in ("src", "bgr", "pha", "fgr")}
    small = {name: torch.unflatten(average(x.flatten(0, 1), ratio), 0, x.shape[:2]) for name, x in frames.items()}
    return batch | small


def compute_losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The weighted losses of a batch: clips, looks or windows.

    Args:
        batch: src, bgr, fgr (B, T, 3, H, W), pha (B, T, 1, H, W), has_plate (B,) bool: those with a plate and those
            without go through the network in a pass of their own. Or what `draw_looks` or `draw_windows` yields.
    """
    part = "refiner" if "guides" in batch else batch.get("part", "coarse")
    for name, child in model.named_children():
        child.train(any(prefix.startswith(name) or not prefix for prefix in PARTS[part]))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(PARTS[part]))
    if part == "refiner":
        cast(SolvingRefiner, model.refiner).train(not batch.get("fixed_norm"))
        return _window_losses(model, batch)
    if "looks" in batch:
        return _look_losses(cast(RecurrentMatting, model), batch["looks"])
    total: dict[str, Tensor] = {}
    has_plate = batch["has_plate"]
    for chosen, plate in ((has_plate, True), (~has_plate, False)):
        if chosen.any():
            src, bgr, pha, fgr = (batch[name][chosen] for name in ("src", "bgr", "pha", "fgr"))
            look = model.look(src, bgr if plate else None)  # type: ignore[operator]
            pred = model.finish(look)  # type: ignore[operator]
            _add(total, _losses(look, pred.err, pred.pha, pred.fgr, pha, fgr), chosen.float().mean())
    return total


def _look_losses(model: RecurrentMatting, seen: Sequence[looks.Seen]) -> dict[str, Tensor]:
    """The losses of clips, for single frames; without any look, a loss of 0."""
    total = {"pha_l1": 0 * model.plate_review.see_through.reach.sum()}
    for each in seen:
        look = each.look(model)
        reviewed = model.reviewed(look)
        fgr, pha = (clamp_unit(x) for x in (look.src_sm + look.coarse[:, :3], reviewed.coarse[:, 3:]))
        _add(total, _losses(look, reviewed.err, *(x[:, None] for x in (pha, fgr, each.pha, each.fgr))), 1 / len(seen))
    return total


def _losses(look: Look, err: Tensor, pha: Tensor, fgr: Tensor, true_pha: Tensor, true_fgr: Tensor) -> dict[str, Tensor]:
    """The losses of a look's result; alphas and foregrounds are (B, T, ...)."""
    found = losses.clip_losses(pha, fgr, true_pha, true_fgr)
    found["err_cross_entropy"] = ERROR_WEIGHT * losses.error_cross_entropy(err, pha, true_pha)
    found["pha_overshoot"] = OVERSHOOT_WEIGHT * losses.overshoot(look.coarse[:, 3:])
    return found


def _add(total: dict[str, Tensor], found: dict[str, Tensor], share: Tensor | float) -> None:
    for name, value in found.items():
        total[name] = total.get(name, 0) + value * share


def _window_losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The paper's losses, which judge detail more than an error all over a window."""
    refiner = cast(SolvingRefiner, model.refiner)
    pred = refiner.refine_windows(batch["src"], batch["bgr"], batch["guides"], batch["before"])
    margin = 2 * refiner.half_margin
    src = batch["src"][..., margin:-margin, margin:-margin]
    found = losses.paper_losses(clamp_unit(pred[:, :1]), clamp_unit(src + pred[:, 1:]), batch["pha"], batch["fgr"])
    return {name: WINDOW_WEIGHTS[name] * value for name, value in found.items()}


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


def build_model(init: str, refine_channels: int | None = None) -> RecurrentMatting:
    """The network to train, with the weights of `init`; "none" is random ones.

    Args:
        refine_channels: of its refiner, if those are to be more than in `init`.

    Raises:
        JobError: `init` holds another network, or its refiner has more channels, or those are too many.
    """
    first = RecurrentMatting() if init == "none" else load_model(init)
    if not isinstance(first, RecurrentMatting):
        raise JobError("weights of the recurrent network", f"{type(first).__name__}", "Pass another --init")
    known = first.arguments["refine_channels"]
    channels = known if refine_channels is None else refine_channels
    if not known <= channels <= MOST_CHANNELS:
        expected = f"at least the {known} channels of {init}, and no more than {MOST_CHANNELS}"
        raise JobError(expected, f"{channels}", "Correct --refine_channels")
    model = RecurrentMatting(**(first.arguments | {"blind": False, "refine_channels": channels}))
    model.refiner.start_as(first.refiner)
    parts = ("refiner.", "blind.")  # the blind one is not trained: scripts/convert_rvm.py adds it anew
    model.load_state_dict({k: v for k, v in first.state_dict().items() if not k.startswith(parts)}, strict=False)
    return model


@reused_memory()  # a step of ratio 1 takes a sixth less
def main(args: argparse.Namespace, make_clips: MakeClips | None = None) -> dict[str, float]:
    """Train; return the last step's losses and the best validation MAD."""
    process = join_processes()
    torch.manual_seed(args.seed)
    make_clips = make_clips or functools.partial(_clips_of_pool, args)
    stages = make_stages(args.stages, args.steps)
    model = build_model(args.init, args.refine_channels)
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
        lambda start: stage_batches(start, stages, make_clips, args.num_workers, args.seed, process, model),
        functools.partial(validate, clips=make_clips("valid", args.valid_size, args.valid_frames, {}), args=args),
        lambda net, path: save_model(net, path, {"architecture": "RecurrentMatting", "arguments": model.arguments}),
        loop_options(args, sum(stage.steps for stage in stages)),
        process=process,
    )
    return trainer.run()


def _clips_of_pool(
    args: argparse.Namespace, split: str, size: int, frames: int, mix: dict[str, float]
) -> Dataset[dict[str, Any]]:
    return ClipDataset(args.pool, split, size, frames, args.seed, Mix(**mix))


def validate(model: nn.Module, clips: Dataset[dict[str, Any]], args: argparse.Namespace) -> Validation:
    """Validate on the first clips of the validation split."""
    device = next(model.parameters()).device

    def predict(clip: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        src, bgr = (clip[name].unsqueeze(0).to(device) for name in ("src", "bgr"))
        pred = model(src, bgr if clip["has_plate"] else None, downsample_ratio=args.valid_downsample_ratio)
        return pred.pha[0], pred.fgr[0]

    count = 1 if args.dry_run else min(args.valid_clips, len(clips))  # type: ignore[arg-type]
    return score_samples((clips[index] for index in range(count)), predict)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with ending_in_words():
        main(parse_args())
