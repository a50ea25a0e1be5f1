"""`rlip doctor --device`: the checks of a device, in order of risk, each in its own process.

Neither a crash nor a hang of one keeps the next from running.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import multiprocessing

from models.deformable_read_triton import OFF
from models.losses import SetCriterion
from pipeline.report.formatting import bytes_in_words
from pipeline.run.device_networks import Workload, captioning, compilation, labelling, recorded, small_config, step
from pipeline.run.device_outcome import (
    NEAR,
    Absent,
    Check,
    CheckOutcome,
    is_gpu,
    judged,
    memory_rate,
    product_rate,
    seconds,
    tf32,
    wait,
    without_kernels,
)
from pipeline.run.device_reading import READINGS, reading
from pipeline.runtime.execute import installed_version
from pipeline.runtime.processes import fork_context, in_fork, preload
from pipeline.training.checkpoint_folder import CheckpointFolder
from pipeline.training.checkpointer import Checkpointer, TrainingState
from pipeline.training.config import CHECKPOINTS
from pipeline.training.optimizer import gradient_norm, make_optimizer
from pipeline.training.parallel import make_parallel
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings
from pipeline.training.worker import be_deterministic


def exchange(device: torch.device) -> CheckOutcome:
    """Bandwidth of a sum over all GPUs, or over two processes on the CPU."""
    rates, sums = zip(*_by_rank(_exchange, device), strict=True)
    count = len(rates)
    figure = f"{min(rates):.3g} GB/s over {count} processes by {'NCCL' if is_gpu(device) else 'gloo'}"
    is_right, is_fast = set(sums) == {count * (count + 1) / 2}, min(rates) >= 5 or not is_gpu(device)
    outcome = CheckOutcome(figure if is_right else f"{figure}, sums {sorted(set(sums))}")
    outcome = outcome.unless(is_right, "wrong", "run nccl-tests, and look for NCCL_ variables in the environment")
    slow = "GPUs exchange data through the host: look at `nvidia-smi topo -m` and NCCL_P2P_DISABLE"
    return outcome.unless(is_fast, "slow", slow)


def _exchange(ranks: Ranks) -> list[float]:
    values = torch.full((2**26 if is_gpu(ranks.device) else 2**18,), ranks.rank + 1.0, device=ranks.device)
    ranks.summed(values)
    total, repeated = float(values[-1]), 5
    wait(ranks.device)
    began = time.perf_counter()
    for _ in range(repeated):
        ranks.summed(values)
    wait(ranks.device)
    # As nccl-tests count it: each process sends and receives 2 (n - 1) / n of the bytes of a sum.
    rate = repeated * values.nbytes * 2 * (ranks.count - 1) / ranks.count / (time.perf_counter() - began) / 1e9
    return [rate, total]


class SmallTraining:
    """The training of a small network by some processes, each of which has two images."""

    def __init__(self, ranks: Ranks, parallel: Literal["ddp", "fsdp"], work: Path) -> None:
        settings = TrainingSettings(parallel=parallel, batch=ranks.count, micro_batch=1, processes=ranks.count)
        self._on = Workload.on(ranks.device, small_config())
        self.network = self._on.network
        self._parallel = make_parallel(self.network, ranks, settings)
        self.optimizer = make_optimizer(self.network, settings)
        self.state = TrainingState(self.network, self.optimizer, None)
        self.checkpoints = Checkpointer(self.state, settings, work, ranks, self._parallel.parts, lambda warning: None)

    def backward(self) -> float:
        """Runs the passes of a step. Returns the gradient's norm."""
        predictions = self._parallel.module(self._on.images, None, self._on.texts).float()
        self._parallel.backward(SetCriterion()(predictions, self._on.targets)["loss"], True)
        self._parallel.finish()
        return float(gradient_norm(list(self.network.parameters())))


def sharing(device: torch.device) -> CheckOutcome:
    """The gradient's norm by DDP and FSDP2 against that of one process."""
    by_ddp, by_fsdp = (max(each) for each in zip(*_by_rank(_share, device), strict=True))
    figure = f"the gradient's norm by DDP differs by {by_ddp:.1e}, by FSDP2 by {by_fsdp:.1e}"
    return judged(max(by_ddp, by_fsdp) <= 10 * NEAR, figure, "a line above")


def _share(ranks: Ranks) -> list[float]:
    """How far the gradient's norm by DDP and by FSDP2 is from that of one process, as shares of it."""
    be_deterministic(ranks.device)
    _, alone = Workload.on(ranks.device, small_config()).gradients()
    ways: tuple[Literal["ddp", "fsdp"], ...] = ("ddp", "fsdp")
    return [abs(SmallTraining(ranks, way, Path()).backward() / float(alone.norm()) - 1) for way in ways]


def checkpoints(device: torch.device) -> CheckOutcome:
    """Takes a checkpoint of one process, copied during the next step, through FSDP2 on several processes and back."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        training = SmallTraining(Ranks(device=device), "ddp", work)
        training.backward()
        training.optimizer.step()
        expected = {name: each.to("cpu", copy=True) for name, each in training.state.tensors(0).items()}
        training.checkpoints.save(1, {})
        training.backward()
        training.checkpoints.wait_for_copy()
        training.optimizer.step()
        training.checkpoints.close()
        count = 1
        with suppress(Absent):
            count = len(_by_rank(partial(_carry_on, work), device))
        back = SmallTraining(Ranks(device=device), "ddp", work)
        back.state.load(CheckpointFolder(work / CHECKPOINTS).path(min(count, 2)))
        found = back.state.tensors(0)
    wrong = sum(not torch.equal(found[name].cpu(), each) for name, each in expected.items())
    size = bytes_in_words(sum(each.nbytes for each in expected.values()))
    figure = f"{size} through 1, {count} and 1 processes, {wrong} of {len(expected)} tensors differ"
    return judged(not wrong, figure, "a line above")


def _carry_on(work: Path, ranks: Ranks) -> list[float]:
    """Loads a checkpoint and saves it again."""
    training = SmallTraining(ranks, "fsdp", work)
    training.checkpoints.load()
    training.checkpoints.save(2, {})
    training.checkpoints.close()
    ranks.agreed(None)  # all have written
    return []


def _by_rank(work: Callable[[Ranks], list[float]], device: torch.device) -> list[list[float]]:
    """Runs a function in one process per GPU, or in two on the CPU. Returns the results by rank.

    Raises an error whose first line says what failed.
    """
    count = torch.cuda.device_count() if is_gpu(device) else 2
    if count < 2:
        raise Absent("one GPU")
    preload((__name__,))
    fork_context()
    with tempfile.TemporaryDirectory() as folder:
        ranks = multiprocessing.start_processes(  # type: ignore[no-untyped-call]
            _rank, (count, folder, is_gpu(device), work), nprocs=count, join=False, start_method="forkserver"
        )
        try:
            while not ranks.join():
                pass
        except multiprocessing.ProcessRaisedException as error:
            # The error in its traceback may follow from the death of another process.
            died = [each.exitcode for each in ranks.processes if each.exitcode not in (0, 1, -signal.SIGTERM)]
            # Its message may have further lines, or be missing.
            *_, reason = str(error).strip().splitlines()[-1], *re.findall(r"^[\w.]+: .+", str(error), re.MULTILINE)
            raise RuntimeError(f"a process ended with exit code {died[0]}" if died else reason) from error
        return [json.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(count)]


def _rank(rank: int, count: int, folder: str, is_on_gpus: bool, work: Callable[[Ranks], list[float]]) -> None:
    device = torch.device("cuda", rank) if is_on_gpus else torch.device("cpu")
    if is_on_gpus:
        torch.cuda.set_device(device)
    # A file, because torch's TCP store listens on all interfaces.
    store = dist.FileStore(str(Path(folder) / "meet"), count)
    dist.init_process_group("nccl" if is_on_gpus else "gloo", store=store, rank=rank, world_size=count)
    (Path(folder) / str(rank)).write_text(json.dumps(work(Ranks(rank, count, device))))
    dist.destroy_process_group()


Bounded = Callable[[Check, torch.device, float], CheckOutcome]
"""Runs a check for at most this many seconds."""
LONGER = "run again with more --minutes"


def versions(device: torch.device) -> CheckOutcome:
    """Libraries, driver and device. A GPU that torch has no code for is wrong."""
    packages = ("triton", "transformers", "timm")
    known = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    known += [f"{package} {installed_version(package)}" for package in packages]
    if not is_gpu(device):
        return CheckOutcome(
            ", ".join([*known, f"{device.type} of {platform.machine()}", f"{torch.get_num_threads()} threads"])
        )
    gpu, number = torch.cuda.get_device_properties(device), torch.cuda.get_device_capability(device)
    with suppress(OSError, subprocess.CalledProcessError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", f"--id={device.index or 0}"]
        known.append(f"driver {subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()}")
    known += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"]  # type: ignore[no-untyped-call]
    known.append(f"{gpu.name}, sm_{number[0]}{number[1]}, {gpu.total_memory / 2**30:.0f} GiB")
    # Compiled code runs on GPUs of its major version alone.
    runs = any(int(name.partition("_")[2].rstrip("af")) // 10 == number[0] for name in torch.cuda.get_arch_list())
    advice = f"install a build of torch for this GPU; this one has {torch.cuda.get_arch_list()}"
    return CheckOutcome(", ".join(known)).unless(runs, "wrong", advice)


def products(device: torch.device) -> CheckOutcome:
    """Speed of matrix products in each precision."""
    kinds = [("fp32", torch.float32, False), ("TF32", torch.float32, True), ("bf16", torch.bfloat16, False)]
    rates = {}
    for name, dtype, is_rounded in kinds if is_gpu(device) else (kinds[0], kinds[2]):
        with tf32(is_rounded):
            rates[name] = product_rate(device, dtype) / 1e12
    figure = ", ".join(f"{name} {rate:.3g} TFLOP/s" for name, rate in rates.items())
    is_fast = not is_gpu(device) or rates["bf16"] >= 2 * rates["fp32"]
    slow = "bf16 should be several times fp32: look for other work on the GPU, and at its clocks"
    return CheckOutcome(figure).unless(is_fast, "slow", slow)


def copies(device: torch.device) -> CheckOutcome:
    """Bandwidth of the device's memory and of its link to the host, and what starting an operation costs."""
    on_host = torch.zeros(2**28 if is_gpu(device) else 2**22, dtype=torch.uint8)
    there, size = on_host.to(device, copy=True), on_host.nbytes
    rates = {"memory": memory_rate(device), "from the host": size / seconds(partial(there.copy_, on_host), device)}
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
    slow = "starting an operation takes more than 20 µs: is the host's CPU busy or idling at a low clock?"
    return CheckOutcome(figure).unless(not is_gpu(device) or launch <= 2e-5, "slow", slow)


READS: dict[str, Check] = {
    **{f"deformable attention, {name}": partial(reading, kind, torch.float32) for name, kind in READINGS.items()},
    "deformable attention, encoder with bf16": partial(reading, READINGS["encoder"], torch.bfloat16),
}
CHECKS: dict[str, Check] = {
    "versions": versions,
    "products of matrices": products,
    "copies": copies,
    **READS,
    "ParSeDA": partial(recorded, "parseda_own", 2),
    "ParSeD": partial(recorded, "parsed_own", 1),
    "R-Tagger": partial(recorded, "tagger_own", 4),
    "training step": step,
    "torch.compile": compilation,
    "several processes": exchange,
    "DDP and FSDP2": sharing,
    "checkpoints": checkpoints,
    "captioning": captioning,
    "labelling": labelling,
}
"""Checks by name, first those whose failure explains others."""


class TimedOutcome(NamedTuple):
    """What the check `name` found, and how many seconds it took."""

    name: str
    outcome: CheckOutcome
    seconds: float


def examine_device(
    device: torch.device, minutes: float, checks: Mapping[str, Check] = CHECKS, run: Bounded | None = None
) -> Iterator[TimedOutcome]:
    """Yields a line for each check as it ends. Together they take at most `minutes`; a check that is cut short says so.

    `run`: how a check is bounded, by default `apart`. After a wrong reading of deformable attention, checks read
    without the kernels, so that they don't repeat the fault.
    """
    run, has_kernels = run or apart, True
    until = time.monotonic() + 60 * minutes
    for done, (name, check) in enumerate(checks.items()):
        began = time.monotonic()
        left = max(0.0, until - began)
        share = 2 * left / (len(checks) - done + 1)  # up to two even ones
        if not has_kernels and name not in READS:
            check = partial(_without_kernels, check)
        outcome = run(check, device, share) if share else CheckOutcome("no time was left", "failed", LONGER)
        if name in READS and outcome.state in ("wrong", "failed"):
            has_kernels = False
        yield TimedOutcome(name, outcome, time.monotonic() - began)


def _without_kernels(check: Check, device: torch.device) -> CheckOutcome:
    with without_kernels():
        found = check(device)
    return replace(found, figure=f"{found.figure}, with {OFF}")


def outcome_of(check: Check, device: torch.device) -> CheckOutcome:
    """The outcome of a check, or of its failure."""
    try:
        return check(device)
    except Absent as error:
        return CheckOutcome(str(error), "absent")
    except Exception as error:  # whatever a driver or a library raises
        reason = str(error).strip().partition("\n")[0][:160]
        advice = "look for the first line that is not ok, and report it"
        return CheckOutcome(f"{type(error).__name__}: {reason}", "failed", advice)


def interrupted(check: Check, device: torch.device, allowed: float) -> CheckOutcome:
    """Runs a check that starts processes itself, in the main thread. Interrupts it after `allowed` seconds."""

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"stopped after {allowed:.0f} s; {LONGER}")

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, allowed)
    try:
        return outcome_of(check, device)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def apart(check: Check, device: torch.device, allowed: float) -> CheckOutcome:
    """Runs a check in a separate process, which is killed after `allowed` seconds."""
    preload(("models.rlip", "transformers.models.blip.modeling_blip"))
    try:
        return in_fork(allowed, _as_in_ranks, check, device)
    except TimeoutError:
        return CheckOutcome(f"stopped after {allowed:.0f} s", "failed", f"{LONGER}; if it hangs, report it")
    except ChildProcessError as error:
        return CheckOutcome(str(error), "failed", "look at the kernel's log (`dmesg`), report it")


def _as_in_ranks(check: Check, device: torch.device) -> CheckOutcome:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for equal bits
    return outcome_of(check, device)
