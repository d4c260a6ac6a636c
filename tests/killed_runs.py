# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a job in forked children that are killed at random moments, until one gets through; print how many were killed.

    killed_runs.py FOOTAGE PLATE OUTPUT KILLS

Forking spares each child the import of torch. The parent itself runs no network.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from core import engine, output_folder
from core.job import Job, Output, PlateSource, Source

torch.set_num_threads(1)


def run(job: Job) -> None:
    engine.SEGMENT, output_folder.PREROLL = 7, 2
    engine.run_job(job)


def main() -> None:
    footage, plate, folder, kills = *sys.argv[1:4], int(sys.argv[4])
    job = Job(Source(footage), PlateSource(plate), output=Output(folder))
    seed, killed = random.Random(1), 0
    while True:
        child = os.fork()
        if child == 0:
            run(job)
            os._exit(0)
        start, patience = time.monotonic(), seed.uniform(0.02, 0.9) if killed < kills else 1e9
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() - start < patience:
            time.sleep(0.002)
        if done[0]:
            assert done[1] == 0, "the job failed by itself"
            if killed >= kills:
                break
            for path in sorted(Path(folder).glob("alpha/*"))[::3]:
                path.unlink()  # done too early: make it work again
            continue
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
    print(killed)


main()
