# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the base network of Lin et al. 2021: the first stage; train_refine.py goes on from its checkpoints."""

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
from core.errors import ending_in_words
from core.models import MattingBase
from core.training import losses, paper
from core.training.loop import Batch
from core.training.options import parse_with_config


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, and the YAML file that --config names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    rates = {"backbone": 1e-4, "aspp": 5e-4, "decoder": 5e-4}
    paper.add_paper_arguments(parser, "basenet", size=512, crop=(256, 512), learning_rates=rates)
    parser.add_argument(
        "--pretrained_model",
        default="../data/pretrained/best_deeplabv3_resnet50_voc_os16.pth",
        help="DeepLabV3, an ImageNet backbone, or a checkpoint to start from; none for random weights",
    )
    return parse_with_config(parser, argv)


def compute_losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Alpha, its gradient, foreground and error of one batch (Lin et al. 2021, section 4)."""
    pha, fgr, err, _ = model(batch["src"], batch["bgr"])
    found = losses.paper_losses(pha, fgr, batch["pha"], batch["fgr"])
    return found | {"err_l2": losses.error_l2(err, pha, batch["pha"])}


def main(args: argparse.Namespace) -> dict[str, float]:
    """Train; return the last step's losses and the best validation MAD."""
    torch.manual_seed(args.seed)
    model = MattingBase(args.backbone)
    if args.pretrained_model != paper.NO_WEIGHTS:
        initialise_model(model, args.pretrained_model)
    return paper.train(args, model, compute_losses)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with ending_in_words():
        main(parse_args())
