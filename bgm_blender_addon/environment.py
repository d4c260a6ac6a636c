# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's own Python: find it, or make it (a virtual environment with the pinned requirements). No bpy."""

from __future__ import annotations

import logging
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from .client import describe_exit, start_process, stop_process
from .errors import UserError

log = logging.getLogger(__name__)

CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's own, of builds without CUDA: a tenth of the size
PYTHON_VARIABLE = "BGM_ENGINE_PYTHON"  # names the engine's Python for tests and farms, above all preferences


def core_folder() -> Path:
    """The folder that holds `core`: the checkout's root, or the installed extension's folder."""
    return Path(__file__).resolve().parent.parent


def environment_python(folder: Path) -> Path:
    """Where a virtual environment keeps its interpreter."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def is_made(folder: Path) -> bool:
    """Whether `folder` is an environment that was made whole, from the requirements as they are now."""
    try:
        return environment_python(folder).exists() and _stamp(folder).read_text() == _requirements().read_text()
    except OSError:
        return False


def find_python(named: str | None, folder: Path) -> Path:
    """The Python to run the engine with.

    Args:
        named: what the user typed into the preferences; None: the environment made here is wanted.
        folder: where the environment made here lives.

    Raises:
        UserError: there is none, in words that say what to do.
    """
    overriding = os.environ.get(PYTHON_VARIABLE)
    chosen = overriding or named
    if chosen == "":
        raise UserError(
            "The preferences say that the engine runs on a Python of yours, but name none. Name one, or choose Own "
            "Environment there."
        )
    if chosen is not None:
        python = Path(chosen.strip(' "')).expanduser().absolute()  # Windows' own "Copy as path" puts quotes around it
        if python.is_dir():  # people name the environment's folder, too; conda's on Windows are laid out otherwise
            conda = python / "python.exe"
            python = conda if conda.is_file() else environment_python(python)
        if not python.is_file():
            if overriding:
                raise UserError(
                    f"There is no Python at {python}, which the variable {PYTHON_VARIABLE} names as the engine's. "
                    "Correct or remove the variable."
                )
            raise UserError(
                f"There is no Python at {python}, which the preferences name as the engine's. Name another that has "
                "core/requirements.txt installed, or choose Own Environment and press Make Environment."
            )
        return python
    if is_made(folder):
        return environment_python(folder)
    if environment_python(folder).exists():
        raise UserError("The engine's environment is incomplete or outdated: make it again in the preferences.")
    raise UserError("The engine has no environment yet: make one in the preferences, or name a Python there.")


@dataclass
class EnvironmentMaker:
    """Makes the engine's environment in the background; `poll()` now and then until `finished`."""

    folder: Path
    log_path: Path
    python: Path = field(default_factory=lambda: Path(sys.executable))
    requirements: Path = field(default_factory=lambda: _requirements())
    torch_index: str = ""  # a package index for PyTorch's build; "" chooses it for this machine
    message: str = "Starting"
    factor: float = 0.0  # 0 to 1, of the download or installation that runs now
    error: str = ""
    finished: bool = False

    def __post_init__(self) -> None:
        self._events: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._make, name="bgm environment maker", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether it has ended, neither well nor by `cancel`."""
        return self.finished and bool(self.error) and not self._cancelled.is_set()

    def poll(self) -> None:
        """Take in what has happened since; never waits."""
        done = not self._thread.is_alive()
        while not self._events.empty():
            self.message, self.factor = self._events.get()
        self.finished = done

    def cancel(self) -> None:
        self._cancelled.set()
        if self._process is not None:
            stop_process(self._process)

    def _make(self) -> None:
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            _stamp(self.folder).unlink(missing_ok=True)
            self._run("Making the environment", [str(self.python), "-I", "-m", "venv", "--clear", str(self.folder)])
            pip = [str(environment_python(self.folder)), "-I", "-u", "-m", "pip", "--disable-pip-version-check"]
            install = ["install", "--progress-bar", self._progress_bar(), "-r", str(self.requirements)]
            index = self.torch_index or choose_torch_index(self._say([*pip, "config", "list"]))
            if index:  # its "2.13.0+cpu" goes above a plain "2.13.0", and where it is out of reach, that does
                install += ["--extra-index-url", index]
            self._run("Installing", pip + install)
            _stamp(self.folder).write_text(self.requirements.read_text())
            self._events.put(("The engine's environment is ready", 1.0))
        except UserError as error:
            self.error = str(error)
        except OSError as error:
            self.error = f"The environment cannot be made in {self.folder}: {error}."

    def _progress_bar(self) -> str:
        """What pip's own version can do: 24.1 and later print progress for machines."""
        found = self.folder.glob("[Ll]ib*/**/site-packages/pip-*.dist-info")
        versions = [re.match(r"pip-(\d+)\.(\d+)", path.name) for path in found]
        return "raw" if any(match and (int(match[1]), int(match[2])) >= (24, 1) for match in versions) else "off"

    def _say(self, command: list[str]) -> str:
        """What a command prints."""
        process = start_process(command, self.folder.parent, subprocess.DEVNULL)
        return process.communicate()[0].decode("utf-8", "replace")

    def _run(self, what: str, command: list[str]) -> None:
        """Run one step, its output to the log and its last line to the events."""
        if self._cancelled.is_set():
            raise UserError("Cancelled.")
        self._events.put((what, 0.0))
        last = ""
        process = self._process = start_process(command, self.folder.parent, subprocess.STDOUT)
        if self._cancelled.is_set():  # while it was being started, when `cancel` found nothing to stop
            stop_process(process)
        assert process.stdout is not None
        with process.stdout, self.log_path.open("ab") as log_file:
            for raw in process.stdout:
                line = raw.decode("utf-8", "replace").strip()
                factor = parse_progress(line)
                if factor is not None:
                    self._events.put((last or what, factor))
                elif line:
                    log_file.write(raw)
                    if not line.startswith("WARNING"):
                        last = shorten(line)
                        self._events.put((last, 0.0))
        code = process.wait()
        if self._cancelled.is_set():
            raise UserError("Cancelled.")
        if code:
            raise UserError(f"{what} failed ({describe_exit(code)}): {last} The log is {self.log_path}.")


def choose_torch_index(pip_config: str) -> str:
    """Where PyTorch's build for this machine comes from, "" for the index that pip uses anyway.

    On Linux, PyPI has PyTorch with CUDA, of no use without an NVIDIA card. Who has told pip of an index of their own
    gets what that has.

    Args:
        pip_config: what `pip config list` prints.
    """
    has_own = re.search(r"\.(extra-index-url|index-url|find-links|no-index)=", pip_config)
    return CPU_INDEX if sys.platform == "linux" and not has_own and not has_nvidia_card() else ""


def has_nvidia_card() -> bool:
    """Whether NVIDIA's driver is loaded, or its tool (in Windows' Linux: the only sign) lists a card."""
    if Path("/proc/driver/nvidia/version").exists():
        return True
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and b"GPU " in listed.stdout


def parse_progress(line: str) -> float | None:
    """The share of a download that is done, from a line of pip's raw progress bar."""
    match = re.fullmatch(r"Progress (\d+) of (\d+)", line)
    if match is None or int(match[2]) == 0:
        return None
    return int(match[1]) / int(match[2])


def shorten(line: str) -> str:
    """A line of pip's, as short as a panel needs it: "Downloading torch-2.13.0 (190.2 MB)"."""
    line = re.sub(r"https?://\S*/", "", line)
    line = re.sub(r"(-cp\d+|-py\d)\S*?\.whl(\.metadata)?", "", line)
    return line if len(line) <= 120 else line[:117] + "..."


def _requirements() -> Path:
    return core_folder() / "core" / "requirements.txt"


def _stamp(folder: Path) -> Path:
    return folder / "bgm-requirements.txt"  # a copy of what is installed, written last
