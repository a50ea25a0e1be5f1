"""Processes end with the one that started them, and reuse the memory of large tensors instead of memory that the system has
just cleared."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest

from pipeline.runtime.processes import fork_context

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


PRELOADING = """
import sys
from pipeline.runtime.processes import fork_context, preload
def work(pipe):
    pipe.send("colorsys" in sys.modules)
if __name__ == "__main__":
    preload(["colorsys"])
    context = fork_context()
    mine, theirs = context.Pipe()
    context.Process(target=work, args=(theirs,)).start()
    print(mine.recv(), flush=True)
"""


def test_a_fork_has_the_modules_that_were_named_before_the_first_one(tmp_path: Path, root: Path) -> None:
    script = tmp_path / "preloading.py"
    script.write_text(PRELOADING)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert said.stdout == "True\n", said.stderr


def test_importing_networks_and_parser_starts_no_thread_in_the_process_that_is_forked() -> None:
    first = fork_context().Process(target=int)
    first.start()
    first.join()
    parent = psutil.Process(forkserver._forkserver._forkserver_pid)
    assert any("libtorch" in each.path for each in parent.memory_maps()), (
        "tests/warm_parent.py imports what stages name"
    )
    assert parent.num_threads() == 1
