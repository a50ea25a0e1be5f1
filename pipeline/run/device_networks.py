"""Networks on a device: deformable attention against grid_sample, outputs and gradients against the CPU, and their speed.

They are small and random away from GPUs, where only the way matters, not the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.config import NetworkConfig
from models.deformable_read import Shapes, read, read_plainly
from models.deformable_read_triton import OFF, chosen, unfit_machine
from models.losses import SetCriterion
from models.network import Network
from models.predictions import Predictions, Target
from models.relation_tagger import PairQueries
from models.text_encoder import TextTokens
from models.weights import build
from pipeline.run.device_outcome import (
    NEAR,
    NEAR_BF16,
    REPORT,
    Outcome,
    compared,
    difference,
    is_gpu,
    judged,
    seconds,
    tf32,
)
from pipeline.training.parallel import compile_layers
from pipeline.training.worker import be_deterministic

SIZES = 20
"""Number of image sizes for torch.compile."""


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
    *leaves, pushed = inputs
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    found = reader(*leaves, shapes)
    return [found.detach(), *torch.autograd.grad(found, leaves, pushed.to(found.dtype))]


def _plainly(value_BMSC: Tensor, places: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    return read_plainly(value_BMSC.flatten(0, 1).to(places.dtype), places, weights, shapes)


def reading(kind: Reading, dtype: torch.dtype, device: torch.device) -> Outcome:
    """Deformable attention against PyTorch's grid_sample, forward and backward, twice for equal bits and once fast."""
    if is_gpu(device) and (reason := unfit_machine(device.index)):  # grid_sample reads, whose sums have no fixed order
        return Outcome(reason, "absent")
    if not is_gpu(device):
        kind = replace(kind.small(), queries=min(kind.queries, 300))
    value, *rest = kind.inputs()
    expected = _read(_plainly, (value, *rest), kind.shapes)
    inputs = [each.to(device) for each in (value.to(dtype), *rest)]
    near = NEAR if dtype == torch.float32 else NEAR_BF16
    fast, plain = (seconds(partial(_read, reader, inputs, kind.shapes), device) for reader in (read, _plainly))
    off = difference(_read(read, inputs, kind.shapes), expected)
    be_deterministic()
    found, again = (_read(read, inputs, kind.shapes) for _ in range(2))
    is_right, figure = compared(found, again, expected, near)
    ours = seconds(partial(_read, read, inputs, kind.shapes), device)
    is_right = is_right and off <= near
    figure += f", {1e3 * ours:.3g} ms, fast by {off:.1e}, {1e3 * fast:.3g} ms, grid_sample {1e3 * plain:.3g} ms"
    if is_gpu(device):
        figure += "".join(f", {kernel}: {choice}" for kernel, picks in chosen().items() for choice in picks.values())
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
PIXELS = (128, 160)
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
    def on(
        cls,
        device: torch.device,
        config: NetworkConfig,
        batch: int = 2,
        pixels: tuple[int, int] = PIXELS,
        objects: int = 8,
        predicates: int = 4,
    ) -> Work:
        """Builds everything on the CPU and takes it there: `batch` images of four pairs, and texts of five tokens."""
        torch.manual_seed(0)
        network = build(config, None)
        for name, values in network.named_parameters():
            if name.endswith("sampling_offsets.bias"):  # points start at cells' centres, where two slopes are correct
                values.data += 0.2 * torch.rand_like(values) + 0.1
        count = objects + predicates
        ids, pixels_B3HW = torch.randint(4, config.text.vocabulary, (count, 5)), torch.randn(batch, 3, *pixels)
        labels_2BN, boxes_2BN4 = torch.randint(objects - 1, (2, batch, 4)), torch.rand(2, batch, 4, 4) * 0.4 + 0.3
        wanted_BNT, known = (torch.rand(batch, 4, predicates) > 0.5).float(), torch.ones(4, dtype=torch.bool)
        targets = [
            Target(*(each.to(device) for each in (*labels_2BN[:, n], *boxes_2BN4[:, n], wanted_BNT[n], known)))
            for n in range(batch)
        ]
        pairs = (each.to(device) for each in (*boxes_2BN4, *labels_2BN, torch.ones(batch, 4, dtype=torch.bool)))
        texts = TextTokens(ids, None, torch.arange(count), objects).to(device)
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
    """A network's outputs against those of the CPU, in float32 twice, then with bfloat16 where torch has autocast."""
    here, there = (Work.on(each, _config(**changes)) for each in (torch.device("cpu"), device))
    here.network.eval(), there.network.eval()
    with torch.no_grad(), tf32(False):
        expected, found, again = (_values(work.predict()) for work in (here, there, there))
        is_right, figure = compared(found, again, expected)
        if device.type in ("cuda", "cpu"):
            with torch.autocast(device.type, torch.bfloat16):
                rounded = difference(_values(there.predict()), expected)
            is_right, figure = is_right and rounded <= NEAR_BF16, f"{figure}, with bf16 by {rounded:.1e}"
    return judged(is_right, figure, "a reading above")


def step(device: torch.device) -> Outcome:
    """Loss and gradients of a training step against those of the CPU, twice for equal bits."""
    be_deterministic()
    here, there = (Work.on(each, _config()) for each in (torch.device("cpu"), device))
    with tf32(False):
        expected, found, again = (work.gradients() for work in (here, there, there))
        taken = seconds(there.gradients, device)
    is_right, figure = compared(found, again, expected, 10 * NEAR)
    figure += f", {1e3 * taken:.3g} ms"
    return judged(is_right, figure, "a network above")


def compilation(device: torch.device) -> Outcome:
    """Graphs that torch.compile makes of a network over images of many sizes."""
    if device.type not in ("cuda", "cpu"):
        return Outcome(f"torch.compile has no code for {device.type}", "absent")
    from torch._dynamo import utils

    work = Work.on(device, _config(), batch=1)
    work.network.eval()
    compile_layers(work.network, "inductor" if is_gpu(device) else "eager")
    utils.counters.clear()
    with torch.no_grad():
        for number in range(SIZES):
            work.images = torch.randn(1, 3, PIXELS[0] + 32 * (number % 5), PIXELS[1] + 32 * (number // 5)).to(device)
            work.predict()
    graphs, breaks = utils.counters["stats"]["unique_graphs"], sum(utils.counters["graph_break"].values())
    figure = f"{graphs} graphs for {SIZES} sizes, {breaks} breaks"
    if graphs > SIZES or breaks:
        return Outcome(figure, "slow", "leave `compile = false`: the time goes into compiling")
    return Outcome(figure)


def captioning(device: torch.device) -> Outcome:
    """Images that BLIP with random weights captions a second by transformers, by batch; at its default size on a GPU."""
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
