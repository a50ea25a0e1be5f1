"""Processes end with their parent, and the one that they are forked from has one thread."""

import os
import signal
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

from warm_process import watched

from pipeline.runtime.processes import ready_to_fork

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


def test_the_process_that_others_are_forked_from_has_one_thread():
    ready_to_fork(["pyarrow.dataset"])  # and all that tests' processes share
    assert len(list(Path(f"/proc/{forkserver._forkserver._forkserver_pid}/task").iterdir())) == 1


def test_ctrl_c_is_told_of_once_while_forks_still_import(tmp_path):
    (tmp_path / "slow_to_import.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(1)\n")
    process = script(tmp_path, IMPORTING)
    assert process.stdout.readline() == "importing\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60) == ("stopped\n", "")
