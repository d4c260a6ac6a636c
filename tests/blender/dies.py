# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender dies in the middle of a job, without a word to the engine."""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import addon, install


def main() -> None:
    args = install()
    client_module = addon("client")
    log = Path(args["folder"]) / "engine.log"
    client = client_module.EngineClient(Path(args["python"]), addon("environment").core_folder(), log)
    client.send(client_module.protocol.DryRun(frames=10000, seconds=0.1))
    while not client.drain():
        time.sleep(0.05)
    print("ENGINE", client.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


main()
