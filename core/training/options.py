# SPDX-License-Identifier: GPL-3.0-or-later
"""The trainers' shared flags, and a YAML file that may stand in for any of them."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import yaml

from core.errors import JobError
from core.training.loop import LoopOptions

# Flags of 1 or more, where a trainer has them
COUNTS = ("epochs", "batch_size", "size", "valid_samples", "valid_clips", "save_every", "valid_every", "log_every")


def add_loop_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every trainer has, `--config` included; a trainer sets its own defaults over them."""
    parser.add_argument("--config", type=Path, help="YAML file of `flag: value` for everything here; flags win")
    parser.add_argument("--num_workers", type=int, default=2, help="data loader processes")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--warmup", type=int, default=0, help="steps of linear learning-rate warm-up")
    parser.add_argument("--schedule", default="constant", choices=("constant", "cosine"))
    parser.add_argument("--clip", type=float, default=1.0, help="largest gradient norm; 0 for no limit")
    parser.add_argument("--ema", type=float, default=0.0, help="decay of averaged weights per step; 0 for none")
    parser.add_argument("--save_every", type=int, default=500, help="steps; what a kill -9 may lose")
    parser.add_argument("--valid_every", type=int, default=1000, help="steps between validations")
    parser.add_argument("--log_every", type=int, default=10, help="steps between TensorBoard scalars")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    parser.add_argument("--dry-run", action="store_true", help="one batch, one validation, nothing written")


def parse_with_config(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse flags; those not given come from the `--config` file, then from the parser's defaults.

    Raises:
        JobError: the file is no mapping of flags, one of its values is not a flag's, or a count is below 1.
    """
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--config", type=Path)
    path = early.parse_known_args(argv)[0].config
    if path is not None:
        _apply_config(parser, path)
    args = parser.parse_args(argv)
    for name in COUNTS:
        if getattr(args, name, 1) < 1:
            raise JobError(f"--{name} of 1 or more", str(getattr(args, name)), "Correct it")
    return args


def loop_options(args: argparse.Namespace, steps: int) -> LoopOptions:
    """The loop's options out of the parsed flags of the same names."""
    flags = vars(args) | {"steps": steps}
    return LoopOptions(**{field.name: flags[field.name] for field in dataclasses.fields(LoopOptions)})


def _apply_config(parser: argparse.ArgumentParser, path: Path) -> None:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise JobError("a YAML file of flags", f"{path} ({error})", "Check the --config file") from error
    actions = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    if not isinstance(values, dict):
        raise JobError("a YAML mapping of flags", f"{path}", "Write lines like `batch_size: 4`")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    for name, value in values.items():
        action = actions.get(name)
        if action is None:
            raise JobError(f"flags of this program ({', '.join(sorted(actions))})", f"`{name}` in {path}", "Correct it")
        if action.choices is not None and value not in action.choices:
            raise JobError(f"one of {', '.join(map(str, action.choices))}", f"{name}: {value}", f"Correct {path}")
        action.required = False
    parser.set_defaults(**values)  # argparse converts strings by the flag's type (YAML reads 1e-4 as a string)
