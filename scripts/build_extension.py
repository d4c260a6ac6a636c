# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the extension's zip into dist/ with Blender's own extension builder, and have that validate it.

    python scripts/build_extension.py [--blender BLENDER_OR_PYTHON_WITH_BPY]

The builder is a plain Python script that comes with Blender and inside the bpy module; any Python runs it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from core.errors import ending_in_words  # noqa: E402

CLI = Path("scripts/addons_core/bl_pkg/cli/blender_ext.py")  # below Blender's resources
PACKAGES = ("bgm_blender_addon", "core")
INIT = '''# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension's entry: Blender wants it beside the manifest."""

from .bgm_blender_addon import register, unregister

__all__ = ["register", "unregister"]
'''


def main(args: argparse.Namespace) -> Path:
    """Build and validate; returns the zip."""
    cli = find_cli(args.blender)
    args.output.mkdir(parents=True, exist_ok=True)
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))
    archive: Path = args.output / f"{manifest['id']}-{manifest['version']}.zip"
    with tempfile.TemporaryDirectory(prefix="bgm-extension-") as folder:
        stage(Path(folder))
        unfinished = Path(folder).with_suffix(".zip")
        try:
            _run(cli, "build", "--source-dir", folder, "--output-filepath", str(unfinished))
            _run(cli, "validate", str(unfinished))
            shutil.move(unfinished, archive)
        finally:
            unfinished.unlink(missing_ok=True)
    print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB")
    return archive


def stage(folder: Path) -> None:
    """Lay out the extension: manifest and entry on top, the packages beside them, weights inside."""
    shutil.copy(ROOT / "blender_manifest.toml", folder)
    (folder / "__init__.py").write_text(INIT, encoding="utf-8")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))


def find_cli(blender: Path | None) -> Path:
    """The extension builder: of the Blender or bpy environment that is named, else of the first one found.

    Args:
        blender: a Blender executable, or a Python that can import bpy, or an environment's folder.
    """
    candidates = [blender] if blender else _known_blenders()
    for candidate in candidates:
        for resources in _resource_folders(candidate):
            if (resources / CLI).is_file():
                return resources / CLI
    tried = ", ".join(map(str, candidates)) or "nothing"
    sys.exit(f"No Blender with an extension builder found (tried {tried}). Name one with --blender or $BLENDER.")


def _known_blenders() -> list[Path]:
    named = os.environ.get("BLENDER")
    on_path = shutil.which("blender")
    return [*map(Path, filter(None, (named, on_path))), *sorted(ROOT.glob(".envs/bpy-*"), reverse=True)]


def _resource_folders(blender: Path) -> list[Path]:
    """Where a Blender or a bpy environment keeps its scripts: a folder named by its version."""
    found: list[Path] = []
    environment = blender if blender.is_dir() else blender.parent.parent  # of .../bin/python
    for pattern in ("lib/python3.*/site-packages/bpy/*.*", "Lib/site-packages/bpy/*.*"):
        found += environment.glob(pattern)
    if blender.is_file():
        found += blender.resolve().parent.glob("*.*/")  # beside a portable Blender
        found += blender.resolve().parent.parent.glob("Resources/*.*/")  # in a macOS bundle
        found += [blender.resolve().parent.parent / "share" / "blender"]  # a distribution's
        found += (blender.resolve().parent.parent / "share" / "blender").glob("*.*/")
    return found


def _run(cli: Path, *arguments: str) -> None:
    result = subprocess.run([sys.executable, str(cli), *arguments], capture_output=True, text=True)
    if result.returncode or "ERROR" in result.stdout + result.stderr:
        sys.exit(f"{cli.name} {arguments[0]} failed:\n{result.stdout}{result.stderr}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--blender", type=Path, help="a Blender, or a Python or environment with bpy; default: search")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the zip (default: dist)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    with ending_in_words():
        main(parse_args())
