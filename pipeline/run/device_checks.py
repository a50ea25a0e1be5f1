"""What `rlip doctor --device` computes on a device: each check compares with the CPU or with PyTorch, and is timed.

The checks stand in order of risk. Networks are small and random away from GPUs, where only the way matters, not the speed.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from models.config import NetworkConfig
from models.deformable_read import Shapes, read, read_plainly
from models.deformable_read_triton import OFF
from models.losses import SetCriterion
from models.network import Network
from models.predictions import Predictions, Target
from models.relation_tagger import PairQueries
from models.text_encoder import TextTokens
from models.weights import build
from pipeline.runtime.execute import installed_version
from pipeline.runtime.processes import fork_context
from pipeline.training.worker import be_deterministic

State = Literal["ok", "wrong", "slow", "failed", "absent"]
"""wrong: another result than that of the CPU, or of the same computation a second time. absent: this machine lacks what
the check is about."""


@dataclass(frozen=True)
class Outcome:
    """What a check found on a device."""

    figure: str
    state: State = "ok"
    advice: str = ""
    """What to do, in every state but "ok"."""


Check = Callable[[torch.device], Outcome]
LEAST_SECONDS = 0.2
"""What is timed is repeated for so long."""
SIZES = 20
"""Number of image sizes for torch.compile."""
NEAR, NEAR_BF16 = 1e-4, 0.05
"""Allowed differences from the CPU in float32, as shares of the largest value there; the second with bfloat16."""
REPORT = "report this line, with the versions, to the project"


def is_gpu(device: torch.device) -> bool:
    """Whether sizes are those of real work."""
    return device.type == "cuda"


def wait(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """The seconds of a call, after one that warms up."""
    call()
    count, taken = 0, 0.0
    while taken < LEAST_SECONDS:
        count = 2 * count or 1
        wait(device)
        began = time.perf_counter()
        for _ in range(count):
            call()
        wait(device)
        taken = time.perf_counter() - began
    return taken / count


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of any pair of tensors, as a share of the largest value that was expected there."""
    return max(
        float((one.detach().cpu().float() - other.float()).abs().max() / other.abs().max().clamp_min(1e-6))
        if other.numel()
        else 0.0
        for one, other in zip(found, expected, strict=True)
    )


def _compared(
    found: Sequence[Tensor], again: Sequence[Tensor], expected: Sequence[Tensor], near: float = NEAR
) -> tuple[bool, str]:
    """Whether a result is near what is expected and has the same bits a second time, and both in words."""
    far = difference(found, expected)
    same = all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(found, again, strict=True))
    return same and far <= near, f"differs by {far:.1e}{'' if same else ' and from itself'}"


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
    for name, dtype, tf32 in kinds if is_gpu(device) else (kinds[0], kinds[2]):
        with _tf32(tf32):
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
            figure, "slow", "starting operations takes longer than on any other host: is its CPU busy or asleep?"
        )
    return Outcome(figure)


@dataclass(frozen=True)
class Reading:
    """Sizes of one reading of deformable attention."""

    images: int = 2
    channels: int = 32
    queries: int = 300
    heads: int = 8
    points: int = 4
    shapes: Shapes = ((100, 167), (50, 84), (25, 42), (13, 21))
    """Maps of an image of 800×1333 pixels."""
    spread: float = 1.2
    """Places lie in a square of this side, where the map has side 1, around its middle."""

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, places, weights, and a gradient of what is read, on the CPU."""
        random = torch.Generator().manual_seed(0)
        programs, columns = self.images * self.heads, len(self.shapes) * self.points
        tokens = sum(height * width for height, width in self.shapes)
        value = torch.randn(self.images, self.heads, tokens, self.channels, generator=random)
        sides = torch.tensor([(width, height) for height, width in self.shapes for _ in range(self.points)]).T
        places = torch.rand(programs, self.queries, 2, columns, generator=random) - 0.5
        weights = torch.rand(programs, self.queries, columns, generator=random)
        pushed = torch.randn(programs, self.queries, self.channels, generator=random)
        return value, (places * self.spread + 0.5) * sides - 0.5, weights / columns, pushed

    def small(self) -> Reading:
        """The same with maps of a fifth of the sides, for devices on which only the way matters."""
        return replace(self, shapes=tuple((-(-height // 5), -(-width // 5)) for height, width in self.shapes))


READINGS = {
    "encoder": Reading(queries=22_223),
    "decoder": Reading(),
    "one query": Reading(images=1, queries=1),
    "no query": Reading(queries=0),
    "odd sizes": Reading(images=1, channels=24, heads=3, points=3, shapes=((17, 31), (9, 1))),
    "points outside": Reading(spread=6.0),
}


def _read(reader: Callable[..., Tensor], inputs: Sequence[Tensor], shapes: Shapes) -> list[Tensor]:
    """What a reader reads, and its gradients."""
    *leaves, pushed = inputs
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    found = reader(*leaves, shapes)
    return [found.detach(), *torch.autograd.grad(found, leaves, pushed.to(found.dtype))]


def _plainly(value_BMSC: Tensor, places: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    return read_plainly(value_BMSC.flatten(0, 1).to(places.dtype), places, weights, shapes)


def reading(kind: Reading, dtype: torch.dtype, device: torch.device) -> Outcome:
    """Deformable attention beside PyTorch's grid_sample, forward and backward, twice for equal bits."""
    if not is_gpu(device):
        kind = replace(kind.small(), queries=min(kind.queries, 300))
    value, *rest = kind.inputs()
    expected = _read(_plainly, (value, *rest), kind.shapes)
    inputs = [each.to(device) for each in (value.to(dtype), *rest)]
    found, again = (_read(read, inputs, kind.shapes) for _ in range(2))
    is_right, figure = _compared(found, again, expected, NEAR if dtype == torch.float32 else NEAR_BF16)
    ours, plain = (seconds(partial(_read, reader, inputs, kind.shapes), device) for reader in (read, _plainly))
    figure += f", {1e3 * ours:.3g} ms, grid_sample {1e3 * plain:.3g} ms"
    if not is_right:
        return Outcome(figure, "wrong", f"set {OFF} in the environment, which reads with grid_sample, and {REPORT}")
    if is_gpu(device) and ours > plain:
        return Outcome(figure, "slow", f"{OFF} in the environment reads with grid_sample; {REPORT}")
    return Outcome(figure)


SMALL: dict[str, Any] = {
    "backbone": "resnet18", "width": 64, "feedforward": 128, "encoder_layers": 1, "decoder_layers": 2, "pairs": 10,
    "fusion_interval": 1, "fusion_width": 64, "fusion_heads": 2,
    "text": {"hidden": 64, "layers": 2, "heads": 4, "feedforward": 128, "vocabulary": 400, "max_positions": 40},
}  # fmt: skip
TAGGER: dict[str, Any] = {"tagger": True, "architecture": "parsed"}
PIXELS = (256, 320)
"""Height and width of images of the small networks, which are compared with the CPU on every device."""


@dataclass
class Work:
    """A network on a device and what it computes on: equal on each device, by the seed."""

    network: Network
    images: Tensor
    texts: TextTokens
    targets: list[Target]
    queries: tuple[PairQueries, ...]
    """The pairs that a tagger scores; a detector gets none."""

    @classmethod
    def on(cls, device: torch.device, config: NetworkConfig, batch: int = 2, pixels: tuple[int, int] = PIXELS) -> Work:
        """Builds everything on the CPU and takes it there."""
        torch.manual_seed(0)
        network = build(config, None)
        for name, values in network.named_parameters():
            if name.endswith(
                "sampling_offsets.bias"
            ):  # its points start at cells' centres, where two slopes are correct
                values.data += 0.2 * torch.rand_like(values) + 0.1
        ids, pixels_B3HW = torch.randint(4, config.text.vocabulary, (12, 5)), torch.randn(batch, 3, *pixels)
        labels_2BN, boxes_2BN4 = torch.randint(7, (2, batch, 4)), torch.rand(2, batch, 4, 4) * 0.4 + 0.3
        wanted_BNT, known = (torch.rand(batch, 4, 4) > 0.5).float(), torch.ones(4, dtype=torch.bool)
        targets = [
            Target(*(each.to(device) for each in (*labels_2BN[:, n], *boxes_2BN4[:, n], wanted_BNT[n], known)))
            for n in range(batch)
        ]
        pairs = (each.to(device) for each in (*boxes_2BN4, *labels_2BN, torch.ones(batch, 4, dtype=torch.bool)))
        texts = TextTokens(ids, None, torch.arange(12), 8).to(device)
        queries = (PairQueries(*pairs),) if config.tagger else ()
        return cls(network.to(device), pixels_B3HW.to(device), texts, targets, queries)

    def predict(self) -> Predictions:
        """A forward pass, texts included."""
        predictions: Predictions = self.network(self.images, None, self.texts, *self.queries)
        return predictions.float()

    def gradients(self) -> list[Tensor]:
        """The loss of a training step, and its gradient by all parameters, one after the other."""
        self.network.zero_grad(set_to_none=True)
        loss = SetCriterion()(self.predict(), self.targets)["loss"]
        loss.backward()
        reached = [each.grad.flatten() for each in self.network.parameters() if each.grad is not None]
        return [loss.detach(), torch.cat(reached)]


def _config(**changes: Any) -> NetworkConfig:
    return NetworkConfig.from_dict({**SMALL, **changes, "dropout": 0.0, "text": {**SMALL["text"], "dropout": 0.0}})


def _values(predictions: Predictions) -> list[Tensor]:
    return [
        predictions.object_logits,
        predictions.predicate_logits,
        predictions.subject_boxes,
        predictions.object_boxes,
    ]


def forward(changes: Mapping[str, Any], device: torch.device) -> Outcome:
    """A network's outputs beside those of the CPU, in float32 twice, then with bfloat16 where torch has autocast."""
    here, there = (Work.on(each, _config(**changes)) for each in (torch.device("cpu"), device))
    here.network.eval(), there.network.eval()
    with torch.no_grad(), _tf32(False):
        expected, found, again = (_values(work.predict()) for work in (here, there, there))
        is_right, figure = _compared(found, again, expected)
        if device.type in ("cuda", "cpu"):
            with torch.autocast(device.type, torch.bfloat16):
                rounded = difference(_values(there.predict()), expected)
            is_right, figure = is_right and rounded <= NEAR_BF16, f"{figure}, with bf16 by {rounded:.1e}"
    return (
        Outcome(figure)
        if is_right
        else Outcome(figure, "wrong", f"see whether a reading above is wrong, then {REPORT}")
    )


def step(device: torch.device) -> Outcome:
    """Loss and gradients of a training step beside those of the CPU, twice for equal bits."""
    be_deterministic()
    here, there = (Work.on(each, _config()) for each in (torch.device("cpu"), device))
    with _tf32(False):
        expected, found, again = (work.gradients() for work in (here, there, there))
        taken = seconds(there.gradients, device)
    is_right, figure = _compared(found, again, expected, 10 * NEAR)
    figure += f", {1e3 * taken:.3g} ms"
    return (
        Outcome(figure)
        if is_right
        else Outcome(figure, "wrong", f"see whether a network above is wrong, then {REPORT}")
    )


def compilation(device: torch.device) -> Outcome:
    """Graphs that torch.compile makes of a network over images of many sizes."""
    if device.type not in ("cuda", "cpu"):
        return Outcome(f"torch.compile has no code for {device.type}", "absent", "nothing")
    from torch._dynamo import utils

    work = Work.on(device, _config(), batch=1)
    work.network.eval().compile(backend="inductor" if is_gpu(device) else "eager")
    utils.counters.clear()
    with torch.no_grad():
        for number in range(SIZES):
            work.images = torch.randn(1, 3, PIXELS[0] + 32 * (number % 5), PIXELS[1] + 32 * (number // 5)).to(device)
            work.predict()
    graphs, breaks = utils.counters["stats"]["unique_graphs"], sum(utils.counters["graph_break"].values())
    figure = f"{graphs} graphs for {SIZES} sizes, {breaks} breaks"
    if graphs > 4 or breaks:
        return Outcome(figure, "slow", "leave `compile = false`: the time goes into compiling")
    return Outcome(figure)


def exchange(device: torch.device) -> Outcome:
    """Bandwidth of a sum over all GPUs, or over two processes on the CPU."""
    count = torch.cuda.device_count() if is_gpu(device) else 2
    if count < 2:
        return Outcome("one GPU", "absent", "nothing")
    fork_context()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(  # type: ignore[no-untyped-call]
            _exchange, (count, folder, is_gpu(device)), nprocs=count, start_method="forkserver"
        )
        rates, sums = zip(
            *(map(float, path.read_text().split()) for path in sorted(Path(folder).glob("*.txt"))), strict=True
        )
    figure = f"{min(rates):.3g} GB/s over {count} processes by {'NCCL' if is_gpu(device) else 'gloo'}"
    if set(sums) != {count * (count + 1) / 2}:
        return Outcome(f"{figure}, sums {sorted(set(sums))}", "wrong", "run nccl-tests, and look for NCCL_ variables")
    if is_gpu(device) and min(rates) < 5:
        return Outcome(figure, "slow", "GPUs exchange by the host: look at `nvidia-smi topo -m` and NCCL_P2P_DISABLE")
    return Outcome(figure)


def _exchange(rank: int, count: int, folder: str, is_on_gpus: bool) -> None:
    device = torch.device("cuda", rank) if is_on_gpus else torch.device("cpu")
    store = dist.FileStore(str(Path(folder) / "meet"), count)
    dist.init_process_group("nccl" if is_on_gpus else "gloo", store=store, rank=rank, world_size=count)
    values = torch.full((2**26 if is_on_gpus else 2**18,), rank + 1.0, device=device)
    dist.all_reduce(values)
    total, repeated = float(values[-1]), 5
    wait(device)
    began = time.perf_counter()
    for _ in range(repeated):
        dist.all_reduce(values)
    wait(device)
    rate = repeated * values.nbytes * 2 * (count - 1) / count / (time.perf_counter() - began) / 1e9
    (Path(folder) / f"{rank}.txt").write_text(f"{rate} {total}")
    dist.destroy_process_group()


def captioning(device: torch.device) -> Outcome:
    """Images that BLIP with random weights captions a second, by batch; its large version on a GPU."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    size: dict[str, Any] = {}
    if not is_gpu(device):
        layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        size = {"text_config": {**layers, "vocab_size": 30524}, "vision_config": {**layers, "image_size": 64}}
    torch.manual_seed(0)
    model: Any = BlipForConditionalGeneration(BlipConfig(**size))
    model.to(device).eval()
    side = model.config.vision_config.image_size

    def caption(batch: int) -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16) if is_gpu(device) else nullcontext():
            model.generate(
                torch.zeros(batch, 3, side, side, device=device), max_new_tokens=20, do_sample=True, top_p=0.9
            )

    return _by_batch(caption, (1, 8, 64, 256) if is_gpu(device) else (1, 4), device)


def labelling(device: torch.device) -> Outcome:
    """Images whose pairs the R-Tagger scores a second, by batch; with ResNet-50 on a GPU."""
    config = NetworkConfig(**TAGGER) if is_gpu(device) else _config(**TAGGER)

    def label(batch: int) -> None:
        if batch not in works:
            works[batch] = Work.on(device, config, batch, (800, 1333) if is_gpu(device) else PIXELS)
            works[batch].network.eval()
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16) if is_gpu(device) else nullcontext():
            works[batch].predict()

    works: dict[int, Work] = {}
    return _by_batch(label, (1, 4, 16) if is_gpu(device) else (1, 2), device)


def _by_batch(work: Callable[[int], None], batches: Sequence[int], device: torch.device) -> Outcome:
    """Images a second for each batch, up to the first that doesn't fit."""
    rates: dict[int, float] = {}
    for batch in batches:
        try:
            rates[batch] = batch / seconds(partial(work, batch), device)
        except torch.OutOfMemoryError:
            break
    figure = ", ".join(f"{rate:.3g} images/s at batch {batch}" for batch, rate in rates.items())
    return Outcome(figure) if rates else Outcome("no image fits", "failed", "free the GPU's memory")


@contextmanager
def _tf32(is_allowed: bool) -> Iterator[None]:
    """Whether factors of products of matrices are rounded to TF32 inside the context."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = is_allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


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
    "captioning": captioning,
    "labelling": labelling,
}
"""Name of a check → the check, those first whose failure explains others."""
