"""Consecutive large tensors reuse the same memory instead of memory that the system has just cleared."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from pipeline.runtime.processes import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def fill():
    for _ in range(5):
        torch.ones(2**25)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str) -> int:
    return int(subprocess.run([sys.executable, "-c", SCRIPT, what], check=True, capture_output=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_kept_memory_is_not_mapped_again():
    assert faults("keep") < 1000 < faults("give back")
