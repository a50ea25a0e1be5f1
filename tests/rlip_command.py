"""Calls commands of `rlip`, most of them in this process: in one of its own, each would first import for seconds."""

import os
import signal
import subprocess
import sys
from contextlib import chdir
from functools import cache
from pathlib import Path
from unittest import mock

import torch
import typer.testing
from typer.testing import CliRunner, Result
from warm_process import WarmProcess

from pipeline.cli.app import app

PLAIN = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
"""The environment of output that is neither wrapped nor coloured."""

# Each call would read the signatures of all commands anew, which takes longer than most commands.
typer.testing._get_command = cache(typer.testing._get_command)


def rlip(*words: str | Path, cwd: Path | None = None) -> Result:
    """Call `rlip` in the folder `cwd`, with one thread. Raises what a user would see as a traceback."""
    handler, hook, threads = signal.getsignal(signal.SIGTERM), sys.unraisablehook, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with chdir(cwd or Path.cwd()), mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
            return CliRunner(env=PLAIN).invoke(app, [str(word) for word in words], catch_exceptions=False)
    finally:  # a command sets both for the rest of its process
        signal.signal(signal.SIGTERM, handler)
        sys.unraisablehook = hook
        torch.set_num_threads(threads)


def output_of(*words: str | Path, cwd: Path | None = None) -> str:
    """Call `rlip`, check that it succeeds, and return its standard output."""
    done = rlip(*words, cwd=cwd)
    assert done.exit_code == 0, f"{words}: {done.stdout[-1500:]}{done.stderr[-3000:]}"
    return done.stdout


def started(*words: str | Path, cwd: Path) -> WarmProcess:
    """Start `rlip` with one thread in a process that can be watched and killed."""
    return WarmProcess(call_rlip, *map(str, words), cwd=cwd, environment={**PLAIN, "OMP_NUM_THREADS": "1"})


def call_rlip(*words: str) -> None:
    """Call `rlip` as the process that this one is."""
    sys.argv = ["rlip", *words]
    app()


def in_own_process(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Call the installed `rlip` as a shell does: for what belongs to a process, as Prefect's settings and server do."""
    folder = Path(sys.executable).parent
    environment = {**os.environ, **PLAIN, "OMP_NUM_THREADS": "1", "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [folder / "rlip", *words], cwd=cwd, capture_output=True, text=True, timeout=900, env=environment
    )


def loaded_by(*words: str | Path) -> set[str]:
    """The modules that a process of `rlip` has imported when the command ends."""
    call = f"import sys; from pipeline.cli.app import app; sys.argv = {['rlip', *map(str, words)]}"
    code = f"{call}\ntry: app()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())
