# SPDX-License-Identifier: GPL-3.0-or-later
"""Freed memory is used again during a job, and the system has it back afterwards."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

CODE = """
import resource, numpy as np, psutil
from core.memory import reused_memory

def faults(run=lambda: np.ones(1 << 23)):  # 64 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with reused_memory():
    first, second = faults(), faults()
    kept = psutil.Process().memory_info().rss
print(first, second, kept - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_freed_memory_is_used_again_and_given_back():
    environment = {"NUMPY_MADVISE_HUGEPAGE": "0", "PATH": ""}
    process = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=environment, capture_output=True, check=True)
    first, second, given_back = map(int, process.stdout.split())
    assert first > 16000 and second < 100  # pages of 4 KB
    assert given_back > 60 << 20
