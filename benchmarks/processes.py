"""Runs an `rlip` command and watches its time, the phases of its run, and the peak memory of each of its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import psutil

from benchmarks.harness import peak_mib

LOOK_EVERY = 0.25
"""Seconds between two looks. A peak is the kernel's own, so only what a process takes after the last look is missed."""
_ROLES = {
    "prefect server": "Prefect server",
    "scale/captioner.py": "stand-in",
    "resource_tracker": "",
    "multiprocessing.forkserver": "worker",
    "pipeline.training": "training",
}
"""Part of a command line → what such a process is called; others belong to the command itself."""


@dataclass
class Measured:
    """What a command took."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    outcome: dict[str, Any] = field(default_factory=dict)
    """Its last line of JSON."""
    phases: dict[str, float] = field(default_factory=dict)
    """What it did → seconds: "to STEP", all before the step begins, its planning last; the step itself; "conclude"."""
    peak_mib: dict[str, int] = field(default_factory=dict)
    """Role → the highest resident memory of one such process. Workers count by step."""

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        """Step → partitions, rows and seconds."""
        return {each["step"]: each for each in self.outcome["stages"]}


def run_measured(*words: str) -> Measured:
    """Runs `rlip` with these words to its end. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "pipeline.cli", *words]
    measured, before = Measured(), os.times()
    last = began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watch = _Watch(process.pid, measured)
        watch.start()
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            kind = event.get("event")
            if kind == "step":
                watch.step = event["step"]
            if kind in ("step", "done"):
                now = time.monotonic()
                measured.phases[("to " if kind == "step" else "") + event["step"]] = now - last
                last = now
            measured.outcome = event
    watch.join()
    measured.phases["conclude"] = time.monotonic() - last
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    after = os.times()
    measured.seconds = time.monotonic() - began
    measured.cpu_seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return measured


class _Watch(threading.Thread):
    """Notes the memory of a process and its descendants until it ends."""

    def __init__(self, pid: int, measured: Measured) -> None:
        super().__init__(daemon=True)
        self._process, self._measured, self.step = psutil.Process(pid), measured, "prepare"

    def run(self) -> None:
        """Looks until the process ends."""
        while self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
            try:
                for each in [self._process, *self._process.children(recursive=True)]:
                    self._look_at(each)
            except psutil.NoSuchProcess:
                continue
            time.sleep(LOOK_EVERY)

    def _look_at(self, process: psutil.Process) -> None:
        try:
            words = " ".join(process.cmdline())
        except (OSError, psutil.Error):
            return
        role = next((name for part, name in _ROLES.items() if part in words), "rlip run")
        if role in ("worker", "training"):
            role = f"{role}, {self.step}"
        if role and words:  # no words: it has ended
            self._measured.peak_mib[role] = max(self._measured.peak_mib.get(role, 0), peak_mib(process.pid))
