# SPDX-License-Identifier: GPL-3.0-or-later
"""`blender FILE.blend --command bgm matte`: a file's mattes without opening a window, for farms."""

from __future__ import annotations

import argparse
from typing import Any

import bpy

from . import runner, settings, tasks
from .errors import UserError

_handle: Any = None


def run(arguments: list[str]) -> int:
    """Matte the file's nodes; returns the exit code, 0 when every one is done."""
    parser = argparse.ArgumentParser(prog="blender FILE.blend --command bgm")
    parser.add_argument("verb", choices=["matte"], help="matte: pull the matte of every node and strip in the file")
    parser.add_argument("--node", help="only the matting node group of this name")
    parser.add_argument("--save", action="store_true", help="save the file with the results wired in")
    args = parser.parse_args(arguments)
    named = [tree for tree in settings.matting_trees() if tree.name == args.node and settings.is_own(tree)]
    trees = named if args.node else tasks.shown_trees()
    if not trees:
        print(f"There is no matting node{' ' + args.node if args.node else ''} in {bpy.data.filepath or 'this file'}.")
        return 1
    failures = 0
    for tree in trees:
        name = tree.name
        try:
            tasks.matte_in_its_scene(tree)
            lines = [*runner.task.warnings, runner.task.message] if runner.task is not None else []
            failures += runner.task is None or runner.task.state != "finished"
        except UserError as error:
            lines = [str(error)]
            failures += 1
        for line in lines:
            print(f"{name}: {line}", flush=True)
    if args.save:
        bpy.ops.wm.save_mainfile()
    return 1 if failures else 0


def register() -> None:
    global _handle
    _handle = bpy.utils.register_cli_command("bgm", run)


def unregister() -> None:
    bpy.utils.unregister_cli_command(_handle)
