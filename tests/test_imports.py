# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports point one way: the add-on knows core.protocol alone, the engine knows no Blender."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STANDARD_LIBRARY_ONLY = [
    "core/protocol.py",
    "core/errors.py",
    "core/threads.py",
    "core/__init__.py",
    "scripts/environments.py",
]


def imported(path: Path) -> set[str]:
    """Absolute names of everything a module imports, wherever in it."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", modules("core"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_engine_knows_no_blender(path):
    tops = {name.partition(".")[0] for name in imported(path)}
    assert tops.isdisjoint({"bpy", "mathutils", "gpu", "bgm_blender_addon", "scripts", "tests"})


@pytest.mark.parametrize("path", modules("bgm_blender_addon"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_addon_knows_the_protocol_alone(path):
    names = imported(path)
    assert {name.partition(".")[0] for name in names}.isdisjoint({"torch", "cv2", "av", "OpenImageIO", "yaml"})
    assert {n for n in names if n == "core" or n.startswith("core.")} <= {"core.protocol"}


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_the_standard_library_suffices(name):
    import sys

    tops = {n.partition(".")[0] for n in imported(ROOT / name)} - {"core", "scripts", ""}
    assert tops <= set(sys.stdlib_module_names)


# What networks may use of OpenCV: nothing that reads, writes or shows
OF_ARRAYS = "resize blur copyMakeBorder INTER_AREA INTER_LINEAR BORDER_REPLICATE error Error".split()


@pytest.mark.parametrize("path", modules("core/models"), ids=lambda p: p.stem)
def test_networks_know_arrays_not_files(path):
    names = imported(path)
    assert not {n for n in names if n.startswith(("core.", "."))} - {
        n for n in names if n.startswith(("core.models", "core.errors"))
    }
    assert {name for name in names if name.startswith("cv2")} <= {f"cv2.{name}" for name in OF_ARRAYS}
    assert {name.partition(".")[0] for name in names}.isdisjoint({"av", "OpenImageIO", "pathlib", "torchvision"})
