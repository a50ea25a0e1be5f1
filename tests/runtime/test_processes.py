"""Processes end with the one that started them, and reuse the memory of large tensors instead of memory that the system has
just cleared."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
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


STARTER = """
import os, time
from pipeline.runtime.processes import begin_fork, fork_context
def work(pipe):
    begin_fork({})
    pipe.send(os.getpid())
    while True:
        pass
if __name__ == "__main__":
    context = fork_context()
    mine, theirs = context.Pipe()
    context.Process(target=work, args=(theirs,)).start()
    print(mine.recv(), flush=True)
    time.sleep(600)
"""


def test_a_busy_fork_is_killed_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = tmp_path / "starter.py"
    script.write_text(STARTER)
    root = Path(__file__).parents[2]
    starter = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert starter.stdout is not None
    worker = psutil.Process(int(starter.stdout.readline()))
    assert worker.status() != psutil.STATUS_ZOMBIE
    starter.kill()
    starter.wait()
    _, left = psutil.wait_procs([worker], timeout=30)
    busy = [each for each in left if each.status() != psutil.STATUS_ZOMBIE]
    for each in busy:
        each.kill()
    assert not busy
