"""Processes end with their parent, reuse the memory of large tensors, and are forked from one with one thread."""

import colorsys
import gc
import os
import platform
import resource
import signal
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import torch
from warm_process import WarmProcess, watched

from pipeline.runtime.processes import fork_context, in_fork, keep_freed_memory, ready_to_fork
from storage.errors import FatalError


def count_faults(keep: bool) -> None:
    """Prints how often Linux gives this process a page of memory for tensors as large as earlier ones."""
    assert not keep or keep_freed_memory()
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            torch.ones(2**25)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_kept_memory_is_not_mapped_again():
    kept, returned = (int(WarmProcess(count_faults, keep).communicate(timeout=60)[0]) for keep in (True, False))
    assert kept < 1000 < returned


def own_memory_after_a_collection() -> int:
    """Returns the bytes that this process shares with no other."""
    gc.collect()
    return int(psutil.Process().memory_full_info().uss)


def test_garbage_collection_copies_nothing_that_forks_share():
    assert in_fork(60, own_memory_after_a_collection) < 50e6


STARTER = """
import os, sys, time
from pipeline.runtime.processes import begin_fork, fork_context, preload
def work(pipe):
    begin_fork({})
    pipe.send((os.getpid(), "colorsys" in sys.modules))
    while True:
        pass
if __name__ == "__main__":
    preload(["colorsys"])
    context = fork_context()
    mine, theirs = context.Pipe()
    context.Process(target=work, args=(theirs,)).start()
    print(*mine.recv(), flush=True)
    time.sleep(600)
"""
IMPORTING = """
from pipeline.runtime.processes import preload, ready_to_fork
if __name__ == "__main__":
    preload(["slow_to_import"])
    try:
        ready_to_fork([])
    except KeyboardInterrupt:
        print("stopped")
"""
SHADOWED = """
from pkgutil import resolve_name
from pipeline.runtime.processes import in_fork, preload
if __name__ == "__main__":
    preload(["colorsys"])
    print(in_fork(60, resolve_name, "colorsys:__file__"))
"""


def script(folder: Path, text: str) -> subprocess.Popen[str]:
    """Starts a script, in a session of its own, that may import what lies beside it."""
    (folder / "script.py").write_text(text)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(folder)])
    return subprocess.Popen(
        [sys.executable, folder / "script.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths}, start_new_session=True,
    )  # fmt: skip


def test_a_busy_fork_has_the_modules_that_were_named_and_is_killed_with_the_process_that_started_it(tmp_path):
    starter = script(tmp_path, STARTER)
    pid, has_module = starter.stdout.readline().split()
    with watched(int(pid)) as ends:
        assert not ends(0)
        starter.kill()
        starter.wait()
        assert ends(30)
    assert has_module == "True"


def test_no_file_of_the_current_folder_passes_for_a_module(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "colorsys.py").touch()
    monkeypatch.chdir(tmp_path / "here")
    assert script(tmp_path, SHADOWED).communicate(timeout=60) == (f"{colorsys.__file__}\n", "")


def test_the_process_that_others_are_forked_from_has_one_thread():
    ready_to_fork(["pyarrow.dataset"])  # and all that tests' processes share
    assert len(list(Path(f"/proc/{forkserver._forkserver._forkserver_pid}/task").iterdir())) == 1


def test_ctrl_c_is_reported_once_while_forks_still_import(tmp_path):
    (tmp_path / "slow_to_import.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(1)\n")
    process = script(tmp_path, IMPORTING)
    assert process.stdout.readline() == "importing\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60) == ("stopped\n", "")


def test_where_no_process_can_start_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(forkserver, "ensure_running", Mock(side_effect=OSError("AF_UNIX path too long")))
    with pytest.raises(FatalError, match=r"AF_UNIX path too long.*needs a TMPDIR"):
        fork_context()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(FatalError, match="only Linux offers; run it there, not on Darwin"):
        fork_context()
