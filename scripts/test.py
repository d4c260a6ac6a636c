# SPDX-License-Identifier: GPL-3.0-or-later
"""Set up and run every check: lint, types, unit tests, the add-on in three Blenders, the installed zip in the real one.

    python3 scripts/test.py [--quick] [PYTEST ARGUMENTS]

Standard library only. Without the Pythons that Blender's modules need, or on a machine that cannot build the Blender
application, those tests are skipped and say so.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import environments  # noqa: E402
from scripts.environments import ROOT  # noqa: E402


def main(args: argparse.Namespace, pytest_args: list[str]) -> int:
    """Run the checks; the exit status is that of the first that failed."""
    python = str(environments.test_python())
    checks = {
        "lint": [python, "-m", "ruff", "check"],
        "format": [python, "-m", "ruff", "format", "--check"],
        "types": [python, "-m", "mypy"],
    }
    environment = dict(os.environ)
    if args.quick:
        pytest_args = ["-m", "not slow and not blender", *pytest_args]
    else:
        for version in environments.BPY:
            if environments.bpy_python(version) is None:
                print(f"No Python {environments.BPY[version][1]} here: the tests in Blender {version} will be skipped.")
        environment["BGM_BLENDER_APP"] = blender_application()
    checks["tests"] = [python, "-m", "pytest", *pytest_args]
    for name, command in checks.items():
        start = time.monotonic()
        print(f"== {name}", flush=True)
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        if status:
            print(f"{name} failed: {' '.join(command)}")
            return status
        print(f"== {name} passed in {time.monotonic() - start:.0f} s", flush=True)
    return 0


def blender_application() -> str:
    """Folder of the Blender application with a screen to draw on, built on the first call; empty where it cannot be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bgm"
    folder = cache / "blender-app"
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        print("The Blender application is built on Linux as root only: the tests in its window will be skipped.")
        return ""
    if not (folder / ".complete").exists():
        print(f"Building the Blender application in {folder} (about 2 minutes) ...", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "blender-app.log", "w") as log:
        command = [str(ROOT / "scripts/blender_app"), "build", str(folder)]
        built = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode == 0
    if not built:
        print(f"The Blender application could not be built ({log.name}): the tests in its window will be skipped.")
    return str(folder) if built else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="leave out Blender and everything slow")
    sys.exit(main(*parser.parse_known_args()))
