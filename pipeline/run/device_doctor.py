"""`rlip doctor --device`: what it tries on a device, in order of risk, every check in a process of its own.

So neither a crash nor a hang keeps the next from running.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch

from pipeline.run.device_networks import READINGS, TAGGER, captioning, compilation, forward, labelling, reading, step
from pipeline.run.device_outcome import Absent, Check, Outcome, is_gpu, seconds, tf32
from pipeline.run.device_processes import exchange, sharing
from pipeline.runtime.execute import installed_version
from pipeline.runtime.processes import fork_context, preload

Bounded = Callable[[Check, torch.device, float], Outcome]
"""Runs a check for at most so many seconds."""
LONGER = "run again with more --minutes"


def versions(device: torch.device) -> Outcome:
    """What computes: libraries, driver and device. A GPU that torch has no code for is wrong."""
    packages = ("triton", "transformers", "timm")
    known = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    known += [f"{package} {installed_version(package)}" for package in packages]
    if not is_gpu(device):
        return Outcome(
            ", ".join([*known, f"{device.type} of {platform.machine()}", f"{torch.get_num_threads()} threads"])
        )
    gpu, number = torch.cuda.get_device_properties(device), torch.cuda.get_device_capability(device)
    with suppress(OSError, subprocess.CalledProcessError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", f"--id={device.index or 0}"]
        known.append(f"driver {subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()}")
    known += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"]  # type: ignore[no-untyped-call]
    known.append(f"{gpu.name}, sm_{number[0]}{number[1]}, {gpu.total_memory / 2**30:.0f} GiB")
    figure = ", ".join(known)
    if all(int(name.partition("_")[2].rstrip("af")) // 10 != number[0] for name in torch.cuda.get_arch_list()):
        return Outcome(
            figure, "wrong", f"install a build of torch for this GPU; this one has {torch.cuda.get_arch_list()}"
        )
    return Outcome(figure)


def products(device: torch.device) -> Outcome:
    """Products of matrices a second in each precision."""
    side, rates = 8192 if is_gpu(device) else 256, {}
    kinds = [("fp32", torch.float32, False), ("TF32", torch.float32, True), ("bf16", torch.bfloat16, False)]
    for name, dtype, is_rounded in kinds if is_gpu(device) else (kinds[0], kinds[2]):
        with tf32(is_rounded):
            factor = torch.ones(side, side, device=device, dtype=dtype)
            rates[name] = 2 * side**3 / seconds(partial(torch.mm, factor, factor), device) / 1e12
    figure = ", ".join(f"{name} {rate:.3g} TFLOP/s" for name, rate in rates.items())
    if is_gpu(device) and rates["bf16"] < 2 * rates["fp32"]:
        return Outcome(
            figure, "slow", "bf16 should be several times fp32: look for other work on the GPU, and its clocks"
        )
    return Outcome(figure)


def copies(device: torch.device) -> Outcome:
    """Bandwidth of the device's memory and of its link to the host, and what starting an operation costs."""
    size = 2**28 if is_gpu(device) else 2**22
    on_host, there, other = (
        torch.zeros(size, dtype=torch.uint8),
        *torch.zeros(2, size, dtype=torch.uint8, device=device),
    )
    rates = {"memory": 2 * size / seconds(partial(other.copy_, there), device)}
    rates["from the host"] = size / seconds(partial(there.copy_, on_host), device)
    if is_gpu(device):
        rates["from pinned memory"] = size / seconds(
            partial(there.copy_, on_host.pin_memory(), non_blocking=True), device
        )
        rates["to pinned memory"] = size / seconds(
            partial(on_host.pin_memory().copy_, there, non_blocking=True), device
        )
    one = torch.zeros(1, device=device)
    launch = seconds(partial(one.add_, 1), device)
    figure = ", ".join(f"{name} {rate / 1e9:.3g} GB/s" for name, rate in rates.items())
    figure += f", {launch * 1e6:.3g} µs to start an operation"
    if is_gpu(device) and launch > 2e-5:
        return Outcome(
            figure, "slow", "starting an operation takes more than 20 µs: is the CPU of the host busy or asleep?"
        )
    return Outcome(figure)


CHECKS: dict[str, Check] = {
    "versions": versions,
    "products of matrices": products,
    "copies": copies,
    **{f"deformable attention, {name}": partial(reading, kind, torch.float32) for name, kind in READINGS.items()},
    "deformable attention, encoder with bf16": partial(reading, READINGS["encoder"], torch.bfloat16),
    "ParSeDA": partial(forward, {}),
    "ParSeD": partial(forward, {"architecture": "parsed"}),
    "R-Tagger": partial(forward, TAGGER),
    "training step": step,
    "torch.compile": compilation,
    "several processes": exchange,
    "DDP, FSDP2 and a checkpoint": sharing,
    "captioning": captioning,
    "labelling": labelling,
}
"""Name of a check → the check, those first whose failure explains others."""


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
