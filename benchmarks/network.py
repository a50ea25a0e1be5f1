"""Compares the networks' speed, memory and precision with the authors' code: `python benchmarks/network.py` (`--help`).

The workload is that on which the authors' code was timed: ParSeDA with ResNet-50, two images of 512×640, 100 object and
60 predicate texts of five tokens, two threads. A step is forward, loss, backward, clipping and AdamW with the released
dropouts. Each measurement runs in a separate process, for its own peak memory. CPU-seconds are medians.

Processors differ in how much faster one code is than another, so shares of the authors' figures are printed only with
`--authors FILE`: figures of their code from the same machine, taken beside this run. The file is JSON such as
{"forward": {"cpu_seconds": 10.6, "peak_mib": 2176}, "step": {"cpu_seconds": 28.8, "peak_mib": 8082}}.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from models.config import NetworkConfig, TextConfig
from models.losses import LossSettings, SetCriterion
from models.predictions import Predictions, Target
from models.rlip import RLIP
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.optimizer import gradient_norm, make_optimizer, update
from pipeline.training.settings import TrainingSettings

TOKENS = 5
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
WORK = ("forward", "forward, texts remembered", "step", "step, layers recomputed")
PRODUCTS = re.compile("mm|conv|linear|scaled_dot_product")
"""What the names of operators have that multiply matrices or convolve."""

GOALS = {("step", "fp32"): 0.5, ("step", "bf16"): 0.25, ("forward", "bf16"): 0.18}
"""Maximum CPU-seconds as a share of the authors'."""
MEMORY_GOALS = {"step": 0.65, "step, layers recomputed": 0.55}
"""Maximum memory as a share of the authors' step."""
RECOMPUTING_GOAL = 1.1
"""Maximum CPU-seconds of a step with recomputing, in those of one without."""


@dataclass(frozen=True)
class Workload:
    """Sizes of the computation, and number of repetitions."""

    height: int
    width: int
    batch: int
    objects: int
    predicates: int
    threads: int
    repeat: int
    small: bool

    def network(self) -> RLIP:
        """Builds the network with `official_compat`, so that it computes the same function as the authors'."""
        config = NetworkConfig(official_compat=True)
        if self.small:
            text = TextConfig(hidden=64, layers=2, heads=4, feedforward=128, vocabulary=400, max_positions=40)
            config = replace(
                config, backbone="resnet18", width=64, feedforward=128, pairs=10, fusion_width=64, text=text
            )
        torch.manual_seed(0)
        return RLIP(config, None)

    def images(self) -> Tensor:
        """Returns random pixels."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(self.batch, 3, self.height, self.width, generator=generator)

    def texts(self, network: RLIP) -> tuple[Tensor, Tensor]:
        """Encodes random texts. Returns object features and predicate features."""
        generator = torch.Generator().manual_seed(2)
        ids = torch.randint(
            4, network.config.text.vocabulary, (self.objects + self.predicates, TOKENS), generator=generator
        )
        ids[:, 0], ids[:, -1] = 0, 2
        features = network.transformer.text_encoder.encode_tokens(ids, None)
        return features[: self.objects], features[self.objects :]

    def targets(self) -> list[Target]:
        """Returns random targets with four pairs per image."""
        generator = torch.Generator().manual_seed(3)
        return [
            Target(
                torch.randint(self.objects - 1, (4,), generator=generator),
                torch.randint(self.objects - 1, (4,), generator=generator),
                torch.rand(4, 4, generator=generator) * 0.4 + 0.3,
                torch.rand(4, 4, generator=generator) * 0.4 + 0.3,
                (torch.rand(4, self.predicates, generator=generator) > 0.9).float(),
                torch.ones(4, dtype=torch.bool),
            )
            for _ in range(self.batch)
        ]


RECORDED = Workload(height=512, width=640, batch=2, objects=100, predicates=60, threads=2, repeat=5, small=False)
"""Workload of the authors' timing."""


def forward_call(workload: Workload, network: RLIP, precision: str, remember: bool) -> Callable[[], Predictions]:
    """Returns a call of the forward pass in evaluation mode. `remember`: reuses encoded texts."""
    network.eval().requires_grad_(False)
    pixels = workload.images()
    with torch.inference_mode(), autocast(precision):
        remembered = workload.texts(network)

    def call() -> Predictions:
        with torch.inference_mode(), autocast(precision):
            texts = remembered if remember else workload.texts(network)
            return network.predict(pixels, None, *texts).float()

    return call


def step_call(workload: Workload, network: RLIP, precision: str) -> Callable[[], float]:
    """Returns a call of one training step, which returns the loss."""
    network.train()
    criterion = SetCriterion(LossSettings(pseudo_predicates=True), official_compat=True)
    settings = TrainingSettings(network=network.config.to_dict())
    optimizer = make_optimizer(network, settings)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    pixels, targets = workload.images(), workload.targets()

    def call() -> float:
        optimizer.zero_grad(set_to_none=True)
        with autocast(precision):
            objects, predicates = workload.texts(network)
            predictions = network.predict(pixels, None, objects, predicates).float()
        loss = criterion(predictions, targets, predicates.float())["loss"]
        loss.backward()
        update(optimizer, gradient_norm(parameters).item(), settings.max_grad_norm)
        return float(loss.detach())

    return call


def autocast(precision: str) -> Any:
    """Returns the context manager of a precision."""
    return nullcontext() if precision == "fp32" else torch.autocast("cpu", PRECISIONS[precision])


def measure(workload: Workload, work: str, precision: str) -> dict[str, Any]:
    """Measures in this process: CPU and wall seconds, peak memory, operations, and a profile by operator."""
    network = workload.network()
    if work.startswith("step"):
        if work != "step":
            network.recompute()
        call: Callable[[], Any] = step_call(workload, network, precision)
    else:
        call = forward_call(workload, network, precision, remember=work != "forward")
    call()
    seconds = []
    for _ in range(workload.repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        seconds.append((time.process_time() - cpu, time.perf_counter() - wall))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with FlopCounterMode(display=False) as counter:
        call()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        call()
    averages = recorded.key_averages()
    total = sum(event.self_cpu_time_total for event in averages)
    products = sum(event.self_cpu_time_total for event in averages if PRODUCTS.search(event.key))
    ranked = sorted(averages, key=lambda event: event.self_cpu_time_total, reverse=True)
    return {
        "work": work,
        "precision": precision,
        "cpu_seconds": round(statistics.median(cpu for cpu, _ in seconds), 3),
        "wall_seconds": round(statistics.median(wall for _, wall in seconds), 3),
        "all_cpu_seconds": [round(cpu, 3) for cpu, _ in seconds],
        "peak_mib": round(peak_mib),
        "gflop": round(counter.get_total_flops() / 1e9, 1),
        "no_product": round(1 - products / total, 4),
        "profile": {event.key: round(event.self_cpu_time_total / total, 4) for event in ranked[:15]},
    }


def drift(workload: Workload) -> dict[str, float]:
    """Measures the largest and mean differences of bf16 from fp32, with the same weights and without dropout."""
    network = workload.network()
    outcome: dict[str, float] = {}
    exact, rough = (forward_call(workload, network, precision, remember=False)() for precision in PRECISIONS)
    for name in ("subject_logits", "object_logits", "predicate_logits", "subject_boxes", "object_boxes"):
        apart = (getattr(exact, name) - getattr(rough, name)).abs()
        outcome |= {f"{name}, largest": apart.max().item(), f"{name}, mean": apart.mean().item()}
    criterion = SetCriterion()
    losses = [criterion(predictions, workload.targets())["loss"].item() for predictions in (exact, rough)]
    outcome["loss, relative"] = abs(losses[1] / losses[0] - 1)
    return {name: float(f"{value:.3g}") for name, value in outcome.items()}


def in_own_process(workload: Workload, *what: str) -> Any:
    """Runs one measurement in a separate process. Returns its outcome."""
    command = [sys.executable, __file__, "--child", json.dumps([asdict(workload), *what])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"measurement {what} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def child(text: str) -> None:
    """Runs one measurement and prints it as JSON."""
    sizes, what, *arguments = json.loads(text)
    workload = Workload(**sizes)
    torch.set_num_threads(workload.threads)
    keep_freed_memory()  # as training processes do
    kinds: dict[str, Callable[..., Any]] = {
        "drift": lambda: drift(workload),
        "measure": lambda work, precision: measure(workload, work, precision),
    }
    print(json.dumps(kinds[what](*arguments)))


def compared(row: dict[str, Any], others: list[dict[str, Any]], authors: dict[str, dict[str, float]]) -> Iterator[str]:
    """Yields how a measurement stands to the authors' and, with recomputing, to that without, each with its goal.

    `authors`: figures of their code from this machine; without them, nothing is said of them.
    """
    work, precision = row["work"], row["precision"]
    if theirs := authors.get(work.split(",")[0]):
        goal, memory_goal = GOALS.get((work, precision)), MEMORY_GOALS.get(work)
        share, memory = row["cpu_seconds"] / theirs["cpu_seconds"], row["peak_mib"] / theirs["peak_mib"]
        yield f"{share:.2f} of the authors' CPU-seconds" + (f" (goal {goal})" if goal else "")
        yield f"{memory:.2f} of their memory" + (f" (goal {memory_goal})" if memory_goal else "")
    plain = next((x for x in others if (x["work"], x["precision"]) == ("step", precision)), None)
    if work == "step, layers recomputed" and plain:
        yield f"{row['cpu_seconds'] / plain['cpu_seconds']:.2f} of the time without (goal {RECOMPUTING_GOAL})"


def lines(row: dict[str, Any]) -> Iterator[str]:
    """Yields the printed lines of a measurement."""
    name = f"{row['work']}, {row['precision']}"
    yield f"{name:34}{row['cpu_seconds']:8.2f}{row['wall_seconds']:8.2f}{row['peak_mib']:8}{row['gflop']:8.0f}"
    shares = [f"{op} {share:.0%}" for op, share in list(row["profile"].items())[:10]]
    yield f"    no product of matrices: {row['no_product']:.0%} of the time; " + ", ".join(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in asdict(RECORDED).items():
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", action="store_true", help="use a small network, to test this script")
        else:
            parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--work", nargs="+", choices=WORK, default=WORK)
    parser.add_argument("--authors", type=Path, help="figures of the authors' code, taken beside this run (see above)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    if given["child"]:
        return child(given["child"])
    workload = Workload(**{name: given[name] for name in asdict(RECORDED)})
    authors = json.loads(given["authors"].read_text()) if given["authors"] else {}
    if not authors:
        print("Not compared with the authors' code, which has to be timed on this machine beside it: see --authors")
    print(f"{'':34}{'CPU-s':>8}{'wall s':>8}{'MiB':>8}{'GFLOP':>8}")
    rows: list[dict[str, Any]] = []
    for work, precision in itertools.product(given["work"], PRECISIONS):
        row = in_own_process(workload, "measure", work, precision)
        print("\n".join(lines(row)), flush=True)
        is_theirs = work != "forward, texts remembered" and replace(workload, repeat=RECORDED.repeat) == RECORDED
        if is_theirs and (shares := "; ".join(compared(row, rows, authors))):
            print(f"    {shares}", flush=True)
        rows.append(row)
    apart = in_own_process(workload, "drift")
    print("bf16 against fp32: " + ", ".join(f"{name} {value}" for name, value in apart.items()))
    if given["json"]:
        figures = {"workload": asdict(workload), "rows": rows, "drift": apart}
        given["json"].parent.mkdir(parents=True, exist_ok=True)
        given["json"].write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
