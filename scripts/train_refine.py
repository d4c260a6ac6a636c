# SPDX-License-Identifier: GPL-3.0-or-later
"""Train base and refinement network of Lin et al. 2021 together: the second stage, after train_base.py."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from core.checkpoints import initialise_model
from core.errors import CheckpointError, ending_in_words
from core.models import MattingRefine
from core.training import losses, paper
from core.training.loop import Batch
from core.training.options import parse_with_config


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, and the YAML file that --config names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    rates = {"backbone": 5e-5, "aspp": 5e-5, "decoder": 1e-4, "refiner": 3e-4}
    paper.add_paper_arguments(parser, "refinenet", size=2048, crop=(1024, 2048), learning_rates=rates)
    parser.add_argument(
        "--pretrained_model",
        default="../result/checkpoint/basenet/checkpoint_epoch0.pth",
        help="checkpoint of the first stage to start from; none for random weights",
    )
    parser.add_argument("--backbone_scale", type=float, default=1 / 4)
    parser.add_argument("--refine_mode", default="sampling", choices=("sampling", "full"))
    parser.add_argument("--refine_sample_pixels", type=int, default=80_000)
    parser.add_argument("--refine_kernel_size", type=int, default=3, choices=(1, 3))
    return parse_with_config(parser, argv)


def compute_losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Alpha, its gradient and foreground, full and coarse, and the coarse error (Lin et al. 2021, section 4)."""
    pha, fgr, pha_sm, fgr_sm, err_sm, _ = model(batch["src"], batch["bgr"])
    full = losses.paper_losses(pha, fgr, batch["pha"], batch["fgr"])
    coarse = losses.paper_losses(pha_sm, fgr_sm, batch["pha"], batch["fgr"])
    err = losses.error_l2(err_sm, pha_sm, losses.resize_like(batch["pha"], pha_sm))
    return full | {f"{name}_sm": value for name, value in coarse.items()} | {"err_l2": err}


def main(args: argparse.Namespace) -> dict[str, float]:
    """Train; return the last step's losses and the best validation MAD."""
    torch.manual_seed(args.seed)
    model = MattingRefine(
        args.backbone,
        args.backbone_scale,
        args.refine_mode,
        args.refine_sample_pixels,
        refine_kernel_size=args.refine_kernel_size,
    )
    if args.pretrained_model != paper.NO_WEIGHTS:
        fresh = [name for name in initialise_model(model, args.pretrained_model) if not name.startswith("refiner.")]
        if fresh:
            raise CheckpointError(
                f"a checkpoint of the first stage with backbone {args.backbone}",
                f"{args.pretrained_model}, which lacks {len(fresh)} weights ({', '.join(fresh[:4])}, ...)",
                "Train it with scripts/train_base.py, or pass the --backbone it was trained with",
            )
    model.refiner.prevent_oversampling = False  # in training; every process refines as many patches as the others
    return paper.train(args, model, compute_losses)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with ending_in_words():
        main(parse_args())
