# SPDX-License-Identifier: GPL-3.0-or-later
"""Freed memory is used again during a job, and the system has it back afterwards."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.threads import WAITING

ROOT = Path(__file__).resolve().parent.parent

CODE = """
import resource, threading, numpy as np, psutil
from core.memory import reused_memory

def ones():
    np.ones(1 << 22)  # 32 MB

def beside():
    thread = threading.Thread(target=ones)
    thread.start()
    thread.join()

def faults(run):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with reused_memory():
    first, second, third = faults(ones), faults(ones), faults(beside)
    kept = psutil.Process().memory_info().rss
print(first, second, third, kept - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_freed_memory_is_used_again_by_any_thread_and_given_back():
    environment = {"NUMPY_MADVISE_HUGEPAGE": "0", "PATH": ""}
    process = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=environment, capture_output=True, check=True)
    first, second, third, given_back = map(int, process.stdout.split())
    assert first > 8000 and second < 100 and third < 400  # pages of 4 KB
    assert given_back > 30 << 20


def test_idle_threads_wait_briefly_unless_told_otherwise():
    """Set before torch is there: its threads look at it once."""
    kept = {name: value for name, value in os.environ.items() if name not in WAITING} | {"OMP_WAIT_POLICY": "ACTIVE"}
    code = "import os, sys, core.__main__; print(os.environ['GOMP_SPINCOUNT'], os.environ['OMP_WAIT_POLICY'])"
    run = subprocess.run([sys.executable, "-c", code], env=kept, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [WAITING["GOMP_SPINCOUNT"], "ACTIVE"]
