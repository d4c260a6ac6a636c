# SPDX-License-Identifier: GPL-3.0-or-later
"""A training run small enough for tests: `python tests/toy_trainer.py FOLDER [--steps N] ...`.

A convolution, a batch norm and a head learn to give back an image's red channel. Eight samples a step, shared between
the processes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.training.loop import Batch, LoopOptions, Process, Trainer, Validation, join_processes, sample_order

SAMPLES = 24
BATCH = 8


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 1, 1)
        self.unused = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.body(x))))


def sample(index: int) -> Tensor:
    return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(index))


def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    noisy = batch["src"] + batch["noise"] * torch.randn_like(batch["src"])  # random, so that a resume must repeat it
    return {"l2": (model(noisy) - batch["src"][:, :1]).square().mean()}


def validate(model: nn.Module) -> Validation:
    images = torch.stack([sample(100 + i) for i in range(4)])
    error = (model(images) - images[:, :1]).abs().mean()
    return Validation({"mad": 1000 * float(error)}, {"image": images[0]})


def save_model(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def make_trainer(
    options: LoopOptions,
    process: Process | None = None,
    *,
    noise: float = 0.1,
    pause: float = 0,  # seconds a step
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
) -> Trainer:
    process = process or Process()
    share = BATCH // process.world

    def batches(start: int) -> Iterator[Batch]:
        order = sample_order(SAMPLES, options.seed, start * BATCH, process)
        while True:
            yield {"src": torch.stack([sample(next(order)) for _ in range(share)]), "noise": noise}
            time.sleep(pause)

    model = Toy()
    groups = [{"params": model.body.parameters(), "lr": 1e-2}]
    groups.append({"params": [*model.norm.parameters(), *model.head.parameters()], "lr": 2e-2})
    return Trainer(model, groups, step, batches, validate, save_model, options, process=process, optimizer=optimizer)


def options(folder: Path, steps: int = 12, **changes: object) -> LoopOptions:
    settings: dict[str, object] = dict(
        steps=steps,
        checkpoint_path=folder / "checkpoints",
        logging_path=folder / "logs",
        device="cpu",
        precision="fp32",
        warmup=3,
        schedule="cosine",
        save_every=4,
        valid_every=6,
        log_every=1,
    )
    return LoopOptions(**(settings | changes))  # type: ignore[arg-type]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("--optimizer", default="AdamW")
    args = parser.parse_args()
    torch.set_num_threads(1)
    process = join_processes()
    optimizer = getattr(torch.optim, args.optimizer)
    run = options(args.folder, args.steps)
    make_trainer(run, process, noise=args.noise, pause=args.pause, optimizer=optimizer).run()
