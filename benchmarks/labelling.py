"""Compares the speed of labelling with the authors' procedure: `python -m benchmarks.labelling` (`--help`).

The images are a mix like COCO's: boxes per image are exponentially distributed with mean 7.3, up to 60; all 80 names
are in the list of texts; every ordered pair is a candidate with probability 1/2 (up to 1,500 per image), with one to
four predicates. The mix has classes by number of boxes. One image per class is timed, weighted by the class's share.

The authors' procedure (benchmarks/sequential_tagging.py) encodes an image once per group of pairs, up to 16 groups per
call, repeats a pair for each of its predicates, encodes all texts in every call, and processes images without
candidates like others. It uses our network as trained. Both run on random weights of the released sizes (R-Tagger,
ResNet-50); the minimum CPU-seconds of interleaved turns count. Precisions without kernels on this processor are left
out unless requested.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.sequential_tagging import label_sequentially
from models.config import NetworkConfig
from models.layers import can_pack
from models.relation_tagger import RelationTagger
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.settings import RELEASED
from tagger.box import Box
from tagger.labelling.labeller import Labeller
from tagger.labelling.tagging_image import TaggingImage
from tagger.pair import Pair

MEAN_BOXES, MAX_BOXES, MAX_PAIRS = 7.3, 60, 1500
CLASSES = ((0, 1), (2, 4), (5, 8), (9, 14), (15, 24), (25, 39), (40, MAX_BOXES))
"""Smallest and largest number of boxes of each class."""
GOALS = {"float32": 4.0, "bfloat16": 10.0}
"""Goals for the speed-up over the authors' procedure."""
TOKENIZER = Path(__file__).parents[1] / "scenes/weights/text"
WORDS = [word[1:] for word in json.loads((TOKENIZER / "vocab.json").read_text()) if re.fullmatch("Ġ[a-z]{3,}", word)]
# Three to five tokens including start and end, like COCO's names in RoBERTa's vocabulary.
NAMES = [*WORDS[:79], " ".join(WORDS[80:83])]
PREDICATES = [f"{word} {WORDS[-1]}" for word in WORDS[:30]]
PARTS = (
    "backbone",
    "transformer.encoder",
    "transformer.text_encoder",
    "transformer.ho_decoder",
    "transformer.verb_decoder",
)
SMALL = {"backbone": "resnet18", "width": 64, "feedforward": 128, "fusion_width": 64}


@dataclass(frozen=True)
class Class:
    """Images with a similar number of boxes: their share of the mix, and an example."""

    share: float
    image: TaggingImage

    @property
    def groups(self) -> int:
        """Number of times that the authors encode the image."""
        return len(self.image.pairs) // 100 + 1


def mix(shape: tuple[int, int]) -> list[Class]:
    """Returns the classes. Pairs grow with boxes squared, so an example has the root mean square of its class."""
    draws = np.random.default_rng(7)
    counts = np.arange(MAX_BOXES + 1)
    ends = np.exp(-np.maximum(counts - 0.5, 0) / MEAN_BOXES)
    chances = ends - np.append(ends[1:], 0.0)
    made = []
    for number, (first, last) in enumerate(CLASSES):
        own, chance = counts[first : last + 1], chances[first : last + 1]
        boxes = round(math.sqrt((chance * own**2).sum() / chance.sum()))
        made.append(Class(float(chance.sum()), _image(draws, boxes, shape, number)))
    return made


def _image(draws: np.random.Generator, boxes: int, shape: tuple[int, int], seed: int) -> TaggingImage:
    names = draws.integers(0, len(NAMES), boxes)
    sides = draws.uniform(20, 400, (boxes, 2))
    corners = draws.uniform(0, 1, (boxes, 2)) * (np.array([640, 480]) - sides)
    frames = np.concatenate((corners, sides), 1).tolist()
    made = [Box(NAMES[n], x, y, w, h) for n, (x, y, w, h) in zip(names, frames, strict=True)]
    ends = [(s, o) for s in range(boxes) for o in range(boxes) if s != o and draws.random() < 0.5][:MAX_PAIRS]
    stated = draws.choice(len(PREDICATES), 8, replace=False)
    pairs = [
        Pair(subject, object_, PREDICATES[int(place)], 0, 1)
        for subject, object_ in ends
        for place in draws.choice(stated, int(draws.integers(1, 5)), replace=False)
    ]
    pixels = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    return TaggingImage(640, 480, made, pairs, shape, lambda: pixels)


@contextmanager
def timed_parts(tagger: RelationTagger) -> Iterator[dict[str, float]]:
    """Measures the CPU-seconds of each part of the network."""
    spent = dict.fromkeys(PARTS, 0.0)
    began: dict[str, float] = {}

    def before(name: str) -> Callable[..., None]:
        return lambda *_: began.update({name: time.process_time()})

    def after(name: str) -> Callable[..., None]:
        return lambda *_: spent.update({name: spent[name] + time.process_time() - began[name]})

    handles = []
    for name in PARTS:
        module: nn.Module = tagger.get_submodule(name)
        handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


Timed = tuple[float, dict[str, float]]
"""Total CPU-seconds, and those of each part of the network."""


def timed(tagger: RelationTagger, work: Callable[[], object]) -> Timed:
    """Measures the CPU-seconds of `work`."""
    with timed_parts(tagger) as spent:
        began = time.process_time()
        work()
        return time.process_time() - began, spent


def forget_texts(tagger: RelationTagger) -> None:
    """Clears the network's cached texts by changing its weights in place: the authors' encodes texts per image."""
    with torch.no_grad():
        next(tagger.transformer.text_encoder.parameters()).mul_(1.0)


@dataclass
class Measured:
    """CPU-seconds per image of the mix for one way of labelling, in total and by part of the network."""

    what: str
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    of_classes: list[float] = field(default_factory=list)
    peak_gb: float = 0.0
    """Peak memory of this process so far. Ours is read before the authors' procedure runs."""

    def add(self, share: float, timed: Timed) -> None:
        """Adds the time of a class's image, weighted by the class's share."""
        seconds, spent = timed
        self.seconds += share * seconds
        self.of_classes.append(round(seconds, 3))
        self.parts = {part: self.parts[part] + share * each for part, each in spent.items()}

    @property
    def floor(self) -> float:
        """CPU-seconds of the backbone and encoder, which no way can leave out."""
        return self.parts["backbone"] + self.parts["transformer.encoder"]

    def print(self) -> None:
        """Prints a row of the table that `print_heads` starts."""
        rest = self.seconds - sum(self.parts.values())
        shares = "".join(f"{each / self.seconds:10.0%}" for each in (*self.parts.values(), rest))
        print(f"{self.what:24}{self.seconds:7.2f}{shares}{self.peak_gb:9.1f}", flush=True)


def print_header() -> None:
    """Prints the header of a table of `Measured`."""
    heads = [part.rpartition(".")[2].removesuffix("_encoder").replace("_decoder", " dec.") for part in PARTS]
    print(f"{'per image of mix':24}{'CPU-s':>7}" + "".join(f"{head:>10}" for head in (*heads, "rest")) + "  peak GB")


def peak_gb() -> float:
    """Returns the peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def processor() -> str:
    """Returns the processor's name and the CPU capability that PyTorch uses."""
    known = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", known.read_text()) if known.is_file() else []
    return f"{(names or [platform.processor() or platform.machine()])[0]}, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1088)
    parser.add_argument("--repeat", type=int, default=2, help="number of turns; the minimum of each way counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precisions", nargs="+", choices=GOALS, help="default: all with kernels on this processor")
    parser.add_argument("--small", action="store_true", help="use a small network, to test this script")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    fast = [name for name in GOALS if can_pack(torch.device("cpu"), getattr(torch, name))]
    precisions = given.precisions or fast or ["float32"]
    sizes = {
        **RELEASED,
        **(SMALL if given.small else {}),
        "architecture": "parsed",
        "tagger": True,
        "official_compat": True,
    }
    tagger = RelationTagger(NetworkConfig.from_dict(sizes), TOKENIZER).eval()
    classes = mix((given.height, given.width))
    boxes, pairs, groups = (
        sum(each.share * count for each, count in zip(classes, counts, strict=True))
        for counts in zip(*((len(c.image.boxes), len(c.image.pairs), c.groups) for c in classes), strict=True)
    )
    print(f"{processor()}, {given.threads} thread{'s' if given.threads > 1 else ''}")
    for name in GOALS:
        if name not in fast:
            how = "runs slowly on PyTorch's own code" if name in precisions else "not measured"
            print(f"{name}: {how}, because this processor has no kernels for it")
    print(
        f"images of {given.height}×{given.width}: {boxes:.1f} boxes (at most {MAX_BOXES}), {pairs:.0f} candidates, "
        f"{groups:.2f} of the authors' groups per image"
    )
    label = {name: Labeller(tagger, NAMES, precision=name, scope="image") for name in precisions}  # type: ignore[arg-type]
    authors, ours = (
        Measured("the authors' procedure"),
        {precision: Measured(f"packed, {precision}") for precision in precisions},
    )
    # Warm-up: the first pass builds kernels, and a worker encodes each text only once.
    largest = classes[-1].image
    every = [Pair(0, 1, predicate, 0, 1) for predicate in PREDICATES]
    for precision, way in ours.items():
        label[precision].label([replace(largest, pairs=[*largest.pairs, *every])])
        way.peak_gb = peak_gb()
    print(f"{'boxes':>5}{'candidates':>12}{'share':>11}{'authors':>10}" + "".join(f"{p:>10}" for p in ours))
    for each in classes:
        work: list[tuple[Measured, Callable[[], object]]] = [
            (way, partial(label[precision].label, [each.image])) for precision, way in ours.items()
        ]
        work.append((authors, partial(label_sequentially, tagger, each.image, NAMES, repeated=True)))
        turns = []
        for _ in range(given.repeat):
            forget_texts(tagger)
            with torch.inference_mode():
                turns.append([timed(tagger, call) for _, call in work])
        for (way, _), of_way in zip(work, zip(*turns, strict=True), strict=True):
            way.add(each.share, min(of_way, key=lambda one: one[0]))
        seconds = "".join(f"{way.of_classes[-1]:10.2f}" for way in (authors, *ours.values()))
        print(f"{len(each.image.boxes):5}{len(each.image.pairs):12}{each.share:11.1%}{seconds}", flush=True)
    authors.peak_gb = peak_gb()
    print_header()
    for way in (authors, *ours.values()):
        way.print()
    gains = {precision: authors.seconds / way.seconds for precision, way in ours.items()}
    for precision, way in ours.items():
        print(
            f"{precision}: {gains[precision]:.1f}x the images per CPU-second (goal {GOALS[precision]:g}x). One encoding "
            f"of each image with candidates, the floor, is {way.floor / way.seconds:.0%} of the time; alone it would "
            f"give {authors.seconds / way.floor:.1f}x"
        )
    if given.json:
        figures = {
            "processor": processor(),
            "threads": given.threads,
            "repeat": given.repeat,
            "torch": torch.__version__,
            "network": "small" if given.small else "R-Tagger, ResNet-50",
            "height": given.height,
            "width": given.width,
            "mix": {"boxes": boxes, "candidates": pairs, "groups": groups},
            "classes": [
                {"share": c.share, "boxes": len(c.image.boxes), "candidates": len(c.image.pairs), "groups": c.groups}
                for c in classes
            ],
            "ways": [asdict(way) | {"floor": way.floor} for way in (authors, *ours.values())],
            "gains": gains,
            "goals": GOALS,
        }
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
