"""Tries a device: every check in a process of its own, so that neither a crash nor a hang keeps the next from running."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch

from pipeline.run.device_checks import CHECKS
from pipeline.run.device_outcome import Absent, Check, Outcome
from pipeline.runtime.processes import fork_context, preload

Bounded = Callable[[Check, torch.device, float], Outcome]
"""Runs a check for at most so many seconds."""
LONGER = "run again with more --minutes"


class Line(NamedTuple):
    """What the check `name` found, and how many seconds it took."""

    name: str
    outcome: Outcome
    seconds: float


def examine_device(
    device: torch.device, minutes: float, checks: Mapping[str, Check] = CHECKS, run: Bounded | None = None
) -> Iterator[Line]:
    """Yields a line for each check as it ends. All together take at most so many minutes; a check that is cut says so.

    `run`: how a check is bounded, by default `apart`.
    """
    run = run or apart
    until = time.monotonic() + 60 * minutes
    for done, (name, check) in enumerate(checks.items()):
        began = time.monotonic()
        left = max(0.0, until - began)
        share = 2 * left / (len(checks) - done + 1)  # up to two even ones
        outcome = run(check, device, share) if share else Outcome("no time was left", "failed", LONGER)
        yield Line(name, outcome, time.monotonic() - began)


def outcome_of(check: Check, device: torch.device) -> Outcome:
    """What a check finds, or how it fails."""
    try:
        return check(device)
    except Absent as error:
        return Outcome(str(error), "absent")
    except Exception as error:  # whatever a driver or a library raises
        reason = str(error).strip().partition("\n")[0][:160]
        advice = "look for the first line that is not ok, and report it"
        return Outcome(f"{type(error).__name__}: {reason}", "failed", advice)


def interrupted(check: Check, device: torch.device, allowed: float) -> Outcome:
    """What a check that starts processes itself finds in the main thread, which is interrupted after `allowed` seconds."""

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"cut after {allowed:.0f} s; {LONGER}")

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, allowed)
    try:
        return outcome_of(check, device)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def apart(check: Check, device: torch.device, allowed: float) -> Outcome:
    """What a check finds in a process of its own, which is killed after `allowed` seconds."""
    preload(("models.rlip", "transformers.models.blip.modeling_blip"))
    context = fork_context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, check, device))
    process.start()
    theirs.close()
    try:
        if not ours.poll(allowed):
            return Outcome(f"cut after {allowed:.0f} s", "failed", f"{LONGER}; if it hangs, report it")
        return Outcome(**json.loads(ours.recv_bytes()))
    except EOFError:
        process.join()
        return Outcome(
            f"its process ended with {process.exitcode}", "failed", "look at the kernel's log (`dmesg`), report it"
        )
    finally:
        process.kill()
        process.join()


def _answer(pipe: Connection, check: Check, device: torch.device) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as ranks have it, for equal bits
    pipe.send_bytes(json.dumps(asdict(outcome_of(check, device))).encode())
