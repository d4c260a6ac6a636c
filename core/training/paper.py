# SPDX-License-Identifier: GPL-3.0-or-later
"""The two training stages of Lin et al. 2021: what train_base and train_refine share."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from core.checkpoints import save_model
from core.data import ImagePairDataset
from core.errors import JobError
from core.models import MattingBase
from core.models.matting_base import BACKBONES
from core.training.loop import Batch, Process, Step, Trainer, Validation, join_processes, sample_order, write_state
from core.training.options import add_loop_arguments, loop_options
from core.training.validation import score_samples

VIDEOMATTE = Path("../data/VideoMatte240K_JPEG_HD")
BACKGROUNDS = Path("../data/Backgrounds")
NO_WEIGHTS = "none"  # what --pretrained_model says for a random start
IMAGES = ("src", "bgr", "pha", "fgr")


def add_paper_arguments(
    parser: argparse.ArgumentParser, stage: str, size: int, crop: tuple[int, int], learning_rates: Mapping[str, float]
) -> None:
    """Add the flags of both stages.

    Args:
        stage: names the default folders of checkpoints and logs.
        size: pixels, side of a sample.
        crop: smallest and largest side of a step's random crop.
        learning_rates: of the network's parts, by the names of its modules.
    """
    parser.add_argument("--train_rgb_path", type=Path, default=VIDEOMATTE / "train/fgr", help="foregrounds")
    parser.add_argument("--train_alp_path", type=Path, default=VIDEOMATTE / "train/pha", help="their alpha mattes")
    parser.add_argument("--train_bck_path", type=Path, default=BACKGROUNDS / "train", help="backgrounds")
    parser.add_argument("--valid_rgb_path", type=Path, default=VIDEOMATTE / "test/fgr")
    parser.add_argument("--valid_alp_path", type=Path, default=VIDEOMATTE / "test/pha")
    parser.add_argument("--valid_bck_path", type=Path, default=BACKGROUNDS / "test")
    parser.add_argument("--checkpoint_path", type=Path, default=Path("../result/checkpoint") / stage)
    parser.add_argument("--logging_path", type=Path, default=Path("../logs") / stage)
    parser.add_argument("--batch_size", type=int, default=8, help="samples per step of one process")
    parser.add_argument("--epochs", type=int, required=True, help="epochs to train")
    parser.add_argument("--size", type=int, default=size, help="side of a sample, pixels")
    parser.add_argument("--crop", type=int, nargs=2, default=crop, help="smallest and largest side of a random crop")
    parser.add_argument("--valid_samples", type=int, default=50)
    parser.add_argument("--backbone", default="resnet50", choices=BACKBONES)
    for part, rate in learning_rates.items():
        parser.add_argument(f"--{part}_learning_rate", type=float, default=rate)
    add_loop_arguments(parser)


def train(args: argparse.Namespace, model: MattingBase, compute_losses: Step) -> dict[str, float]:
    """Train a network of the paper with Adam; a model file is kept per epoch, as `checkpoint_epochN.pth`.

    Args:
        args: the flags of `add_paper_arguments`, with a learning rate for each of the model's parts.
        compute_losses: the losses of a batch, after `random_crop`.

    Raises:
        JobError: sides of crops that are below 4 pixels, or the smallest above the largest.
    """
    if not 4 <= args.crop[0] <= args.crop[1]:
        raise JobError(
            "the smallest and the largest side of --crop, from 4 pixels on",
            " ".join(map(str, args.crop)),
            "Correct it, as in --crop 256 512",
        )
    process = join_processes()
    dataset = ImagePairDataset(
        args.train_rgb_path, args.train_alp_path, args.train_bck_path, size=args.size, seed=args.seed, augment=True
    )
    per_epoch = max(1, len(dataset) // (args.batch_size * process.world))
    metadata = {"architecture": type(model).__name__, "arguments": model.arguments}

    def keep_epoch(done: int, shipped: nn.Module) -> None:
        if done % per_epoch == 0:
            write_state(shipped.state_dict(), args.checkpoint_path / f"checkpoint_epoch{done // per_epoch - 1}.pth")

    trainer = Trainer(
        model,
        [
            {"params": x.parameters(), "lr": getattr(args, f"{part}_learning_rate")}
            for part, x in model.named_children()
        ],
        lambda net, batch: compute_losses(net, random_crop(batch, *args.crop)),
        lambda start: sample_batches(dataset, start, args, process),
        make_validation(args),
        lambda net, path: save_model(net, path, metadata),
        loop_options(args, steps=args.epochs * per_epoch),
        process=process,
        optimizer=torch.optim.Adam,
        on_step=keep_epoch,
    )
    return trainer.run()


def random_crop(batch: Batch, low: int, high: int) -> Batch:
    """All images of a batch scaled to cover, and centred in, one random size (Lin et al. 2021, section 4).

    Args:
        low, high: smallest and largest side in pixels; sides are multiples of 4.
    """
    height, width = (int(side) // 4 * 4 for side in torch.randint(low, high + 1, (2,)))
    size = batch["src"].shape[-2:]
    scale = max(height / size[0], width / size[1])
    covering = (max(height, round(size[0] * scale)), max(width, round(size[1] * scale)))
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2

    def crop(image: Tensor) -> Tensor:
        scaled = F.interpolate(image, covering, mode="bilinear", align_corners=False, antialias=scale < 1)
        return scaled[..., top : top + height, left : left + width].contiguous()

    return batch | {name: crop(batch[name]) for name in IMAGES}


class _SeededSamples(Dataset[dict[str, Tensor]]):
    """A data set that draws from torch's generator, drawing the same for the same (index, seed) in any process."""

    def __init__(self, dataset: ImagePairDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        index, seed = key
        torch.manual_seed(seed)
        return self._dataset[index]


def sample_batches(
    dataset: ImagePairDataset, start: int, args: argparse.Namespace, process: Process
) -> Iterator[Batch]:
    """This process's batches from step `start` on, without end."""
    used = start * args.batch_size * process.world
    order = sample_order(len(dataset), args.seed, used, process)
    seeds = itertools.count(args.seed * 1_000_003 + used + process.rank, process.world)
    loader = DataLoader(
        _SeededSamples(dataset),
        batch_sampler=_batched(zip(order, seeds, strict=True), args.batch_size),
        num_workers=args.num_workers,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def make_validation(args: argparse.Namespace) -> Callable[[nn.Module], Validation]:
    """A validation on the first samples of the validation folders."""
    dataset = ImagePairDataset(
        args.valid_rgb_path, args.valid_alp_path, args.valid_bck_path, size=args.size, seed=args.seed, augment=False
    )
    count = 1 if args.dry_run else min(args.valid_samples, len(dataset))

    def validate(model: nn.Module) -> Validation:
        device = next(model.parameters()).device

        def predict(sample: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            pha, fgr, *_ = model(sample["src"].to(device), sample["bgr"].to(device))
            return pha, fgr

        items = (dataset[index] for index in range(count))
        return score_samples(({name: item[name].unsqueeze(0) for name in IMAGES} for item in items), predict)

    return validate


def _batched(keys: Iterator[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    while True:
        yield list(itertools.islice(keys, size))
