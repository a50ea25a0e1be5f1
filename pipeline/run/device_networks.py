"""Networks on a device: outputs against recorded ones, gradients against the CPU's, and their speed.

Away from GPUs, they are small and random, because only correctness matters there, not speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import models
from models.config import NetworkConfig
from models.deformable_read_triton import unfit_machine
from models.losses import SetCriterion
from models.network import Network
from models.official.imported import import_checkpoint
from models.predictions import Predictions, Target
from models.relation_tagger import PairQueries
from models.text_encoder import TextTokens
from models.weights import build
from pipeline.data.images.opening import read_ahead, read_image
from pipeline.data.images.refs import ImageRef
from pipeline.data.images.resize import read_resized
from pipeline.data.images.views import to_pixels
from pipeline.run.device_outcome import (
    MOST_WAITING,
    NEAR,
    NEAR_BF16,
    CheckOutcome,
    compared,
    difference,
    is_gpu,
    judged,
    seconds,
    tf32,
    wait,
)
from pipeline.run.rehearsal_shards import noise
from pipeline.training.parallel import compile_layers
from pipeline.training.worker import be_deterministic

RECORDED = Path(models.__file__).parent / "recorded"
"""Outputs of small networks, as `benchmarks/parity.py` compares them, with weights and inputs."""
SIZES = 20
"""Number of image sizes for torch.compile."""
BATCHES = 3
"""Number of batches over which waits for images are measured."""


SMALL: dict[str, Any] = {
    "backbone": "resnet_w8_1_1_1_1", "width": 64, "feedforward": 128, "encoder_layers": 1, "decoder_layers": 2,
    "pairs": 10, "fusion_interval": 1, "fusion_width": 64, "fusion_heads": 2,
    "text": {"hidden": 64, "layers": 2, "heads": 4, "feedforward": 128, "vocabulary": 400, "max_positions": 40},
}  # fmt: skip
TAGGER: dict[str, Any] = {"tagger": True, "architecture": "parsed"}
PIXELS = (128, 160)
"""Height and width of images of the small networks, which are compared with the CPU on every device."""


@dataclass
class Workload:
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
    ) -> Workload:
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


def small_config(**changes: Any) -> NetworkConfig:
    """The small networks' configuration, without dropout."""
    return NetworkConfig.from_dict({**SMALL, **changes, "dropout": 0.0, "text": {**SMALL["text"], "dropout": 0.0}})


def recorded(name: str, heads: int, device: torch.device) -> CheckOutcome:
    """A network's outputs against recorded ones, in float32 twice, then with bfloat16 where torch has autocast.

    `heads`: attention heads of its text encoder, which no file states.
    """
    path, args = RECORDED / f"{name}.safetensors", RECORDED / f"{name}_args.json"
    imported = import_checkpoint(path, args, {"dropout": 0.0, "text": {"dropout": 0.0, "heads": heads}})
    network: Any = build(imported.config, None)
    network.load_state_dict(imported.state)
    network.to(device).train()  # as it was recorded
    with np.load(RECORDED / f"{name}_forward.npz", allow_pickle=False) as file:
        there = {key: torch.from_numpy(file[key]) for key in file.files}
    expected = [there[f"out.pred_{each}"] for each in ("obj_logits", "verb_logits", "sub_boxes", "obj_boxes")]
    features_TE, objects = there["act.text.pooler_output"].to(device), int(there["in.n_obj"])
    sizes = [(height, width) for height, width in there["in.sizes"].tolist()]
    inputs = there["in.images"].to(device), sizes, features_TE[:objects], features_TE[objects:]
    queries = []
    if imported.config.tagger:
        slots = imported.config.pairs

        def padded(name: str) -> Tensor:
            rows = (there[f"tgt{image}.{name}"] for image in range(2))
            return torch.stack([F.pad(each, (0, 0) * (each.dim() - 1) + (0, slots - len(each))) for each in rows])

        counts = torch.tensor([[len(there[f"tgt{image}.sub_labels"])] for image in range(2)])
        pairs = [*map(padded, ("sub_boxes", "obj_boxes", "sub_labels", "obj_labels")), torch.arange(slots) < counts]
        queries = [PairQueries(*(each.to(device) for each in pairs))]

    def predicted() -> list[Tensor]:
        found: Predictions = network.predict(*inputs, *queries).float()
        return [found.object_logits, found.predicate_logits, found.subject_boxes, found.object_boxes]

    with torch.no_grad(), tf32(False):
        is_right, figure = compared(predicted(), predicted(), expected)
        if device.type in ("cuda", "cpu"):
            with torch.autocast(device.type, torch.bfloat16):
                rounded = difference(predicted(), expected)
            is_right, figure = is_right and rounded <= NEAR_BF16, f"{figure}, with bf16 by {rounded:.1e}"
    return judged(is_right, figure, "a reading above")


def step(device: torch.device) -> CheckOutcome:
    """Loss and gradients of a training step against those of the CPU, twice for equal bits."""
    be_deterministic(device)
    here, there = (Workload.on(each, small_config()) for each in (torch.device("cpu"), device))
    with tf32(False):
        expected, found, again = (work.gradients() for work in (here, there, there))
        taken = seconds(there.gradients, device)
    has_order = not is_gpu(device) or unfit_machine(device.index) is None
    is_right, figure = compared(found, again if has_order else found, expected, 10 * NEAR)
    figure += f", {1e3 * taken:.3g} ms" + ("" if has_order else ", bits are not compared without kernels")
    return judged(is_right, figure, "a network above")


def compilation(device: torch.device) -> CheckOutcome:
    """The number of graphs that torch.compile makes of a network for images of many sizes."""
    if device.type not in ("cuda", "cpu"):
        return CheckOutcome(f"torch.compile has no code for {device.type}", "absent")
    from torch._dynamo import utils

    work = Workload.on(device, small_config(), batch=1)
    work.network.eval()
    compile_layers(work.network, "inductor" if is_gpu(device) else "eager")
    utils.counters.clear()
    with torch.no_grad():
        for number in range(SIZES):
            work.images = torch.randn(1, 3, PIXELS[0] + 32 * (number % 5), PIXELS[1] + 32 * (number // 5)).to(device)
            work.predict()
    graphs, breaks = utils.counters["stats"]["unique_graphs"], sum(utils.counters["graph_break"].values())
    figure = f"{graphs} graphs for {SIZES} sizes, {breaks} breaks"
    is_fine = graphs <= SIZES and not breaks
    return CheckOutcome(figure).unless(is_fine, "slow", "leave `compile = false`: the time goes into compiling")


def captioning(device: torch.device) -> CheckOutcome:
    """Images per second that transformers' BLIP with random weights captions, by batch size; default size on a GPU."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    size: dict[str, Any] = {}
    if not is_gpu(device):
        layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        size = {"text_config": {**layers, "vocab_size": 30524}, "vision_config": {**layers, "image_size": 64}}
    torch.manual_seed(0)
    model: Any = BlipForConditionalGeneration(BlipConfig(**size))
    model.to(device).eval()
    side = model.config.vision_config.image_size

    def caption(pixels_B3HW: Tensor) -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16) if is_gpu(device) else nullcontext():
            model.generate(pixels_B3HW, max_new_tokens=20, do_sample=True, top_p=0.9)

    def square(place: ImageRef) -> Tensor:
        return read_resized(place, side, side) / 255

    reader = partial(read_ahead, read=square)
    return _by_batch(caption, (1, 8, 64, 256) if is_gpu(device) else (1, 4), (side, side), reader, device)


def labelling(device: torch.device) -> CheckOutcome:
    """Images per second whose pairs the R-Tagger scores, by batch size; with ResNet-50 on a GPU."""
    config = NetworkConfig(**TAGGER) if is_gpu(device) else small_config(**TAGGER)
    sides = (800, 1333) if is_gpu(device) else PIXELS

    def label(pixels_B3HW: Tensor) -> None:
        batch = len(pixels_B3HW)
        if batch not in works:
            works[batch] = Workload.on(device, config, batch, sides)
            works[batch].network.eval()
        works[batch].images = pixels_B3HW
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16) if is_gpu(device) else nullcontext():
            works[batch].predict()

    def view(place: ImageRef) -> Tensor:
        return to_pixels(read_image(place), max(sides))

    works: dict[int, Workload] = {}
    reader = partial(read_ahead, read=view, threads=1)
    return _by_batch(label, (1, 4, 16) if is_gpu(device) else (1, 2), sides, reader, device)


def _by_batch(
    work: Callable[[Tensor], None],
    batches: Sequence[int],
    sides: tuple[int, int],
    reader: Callable[..., Iterator[Any]],
    device: torch.device,
) -> CheckOutcome:
    """Images per second by batch size, up to the first that doesn't fit, and the share of waits of the last.

    `reader`: `read_ahead` as a process of the stage uses it.
    """
    rates: dict[int, float] = {}
    for batch in batches:
        try:
            rates[batch] = batch / seconds(partial(work, torch.zeros(batch, 3, *sides, device=device)), device)
        except torch.OutOfMemoryError:
            break
    if not rates:
        return CheckOutcome("no image fits", "failed", "free the GPU's memory")
    waits = _waits(work, max(rates), sides, reader, device)
    figure = ", ".join(f"{rate:.3g} images/s at batch {batch}" for batch, rate in rates.items())
    figure += f", {waits:.0%} of the time spent waiting for JPEGs"
    is_fed = not is_gpu(device) or waits <= MOST_WAITING
    slow = "raise run.workers, so that more processes read images for a GPU"
    return CheckOutcome(figure).unless(is_fed, "slow", slow)


def _waits(
    work: Callable[[Tensor], None],
    batch: int,
    sides: tuple[int, int],
    reader: Callable[..., Iterator[Any]],
    device: torch.device,
) -> float:
    """Share of the time in which the device waits for JPEGs with as many pixels as COCO's."""
    with TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        photo.write_bytes(noise(640, 640 * sides[0] // sides[1], np.random.default_rng(0)))
        images = reader(repeat(photo, (BATCHES + 1) * batch), ahead=2 * batch)
        waited, began = 0.0, perf_counter()
        for number in range(BATCHES + 1):
            asked = perf_counter()
            pixels_B3HW = torch.stack(list(islice(images, batch)))
            if number == 0:  # nothing was read ahead yet
                began = perf_counter()
            else:
                waited += perf_counter() - asked
            work(pixels_B3HW.to(device))
            wait(device)
        return waited / (perf_counter() - began)
