"""Compares the networks' speed, memory and precision with the authors' code: `python -m benchmarks.network` (`--help`).

The workload is that on which the authors' code was timed: ParSeDA with ResNet-50, two images of 512×640, 100 object and
60 predicate texts of five tokens, two threads. A step is forward, loss, backward, clipping and AdamW with the released
dropouts. Each measurement runs in a separate process, for its own peak memory. CPU-seconds are medians.

Processors differ in how much faster one code is than another, so shares of the authors' figures are printed only with
`--authors FILE`: figures of their code from the same machine, taken beside this run. The file is JSON such as
{"forward": {"cpu_seconds": 10.6, "peak_mib": 2176}, "step": {"cpu_seconds": 28.8, "peak_mib": 8082}}.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import median

import torch

from benchmarks.harness import Row, cpu_seconds, in_own_process, parser, peak_mib, run
from models.config import NetworkConfig
from models.losses import LossSettings, SetCriterion
from models.predictions import Predictions
from pipeline.run.device_networks import SMALL, Workload
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.optimizer import gradient_norm, make_optimizer, update
from pipeline.training.settings import TrainingSettings

PRECISIONS = ("fp32", "bf16")
RECOMPUTED = "step, layers recomputed"
WORK = ("forward", "step", RECOMPUTED)
THREADS, REPEATS = 2, 5


def built(small: bool) -> Workload:
    """Builds the network with `official_compat`, so that it computes the same function as the authors'."""
    sizes = SMALL | {"fusion_interval": 2} if small else {}
    config, cpu = NetworkConfig.from_dict(sizes | {"official_compat": True}), torch.device("cpu")
    return Workload.on(cpu, config) if small else Workload.on(cpu, config, 2, (512, 640), objects=100, predicates=60)


def forward_call(work: Workload, precision: str) -> Callable[[], Predictions]:
    work.network.eval().requires_grad_(False)

    def call() -> Predictions:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return work.predict()

    return call


def step_call(work: Workload, precision: str) -> Callable[[], object]:
    network = work.network.train()
    criterion = SetCriterion(LossSettings(pseudo_predicates=True), official_compat=True)
    settings = TrainingSettings(network=network.config.to_dict())
    optimizer = make_optimizer(network, settings)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            predictions = work.predict()
        criterion(predictions, work.targets, predictions.predicate_features)["loss"].backward()
        update(optimizer, gradient_norm(parameters).item(), settings.max_grad_norm)

    return call


def measure_work(small: bool, work: str, precision: str) -> tuple[float, int]:
    """Measures in this process. Returns CPU-seconds and peak memory in MiB."""
    torch.set_num_threads(THREADS)
    keep_freed_memory()  # as training processes do
    made = built(small)
    if work == RECOMPUTED:
        made.network.checkpoint_activations()
    call = (forward_call if work == "forward" else step_call)(made, precision)
    call()
    return median(cpu_seconds(call) for _ in range(REPEATS)), peak_mib()


def drift(small: bool) -> list[Row]:
    """Measures the differences of bf16 from fp32, with the same weights and without dropout."""
    work = built(small)
    exact, rough = (forward_call(work, precision)() for precision in PRECISIONS)
    logits = ("subject_logits", "object_logits", "predicate_logits")
    apart = max((getattr(exact, name) - getattr(rough, name)).abs().max().item() for name in logits)
    losses = [SetCriterion()(predictions, work.targets)["loss"].item() for predictions in (exact, rough)]
    return [
        Row("bf16 from fp32: logits", "largest", apart),
        Row("bf16 from fp32: loss", "of its value", abs(losses[1] / losses[0] - 1)),
    ]


def measure(given: Namespace) -> Iterator[Row]:
    authors = json.loads(given.authors.read_text()) if given.authors else {}
    if not authors:
        yield Row("the authors' code", note="has to be timed on this machine beside it: see --authors")
    for work, precision in product(WORK, PRECISIONS):
        seconds, peak = in_own_process(measure_work, given.small, work, precision)
        theirs = authors.get(work, {})
        yield Row(f"{work}, {precision}: time", "CPU-s", seconds, theirs.get("cpu_seconds"))
        yield Row(f"{work}, {precision}: peak memory", "MiB", peak, theirs.get("peak_mib"))
    yield from in_own_process(drift, given.small)


if __name__ == "__main__":
    options = parser(__doc__, small=True)
    options.add_argument("--authors", type=Path, help="figures of the authors' code, taken beside this run (see above)")
    run(options, measure)
