"""Labelling beside the authors' procedure on the same weights and images: `python -m benchmarks.labelling` (`--help`).

Images are a mix as in COCO: boxes an image exponentially distributed with mean 7.3 (quantiles, so that few images are
enough), all 80 names in the list of texts, every ordered pair a candidate with probability 1/2, of one to four
predicates. The authors' procedure (benchmarks/sequential_tagging.py) has an image once a group, up to 16 times in one
call, repeats a pair once a predicate, and encodes all texts for every image. Both are timed in CPU-seconds of this
process, on random weights of the released sizes (R-Tagger, ResNet-50).
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.sequential_tagging import label_sequentially
from models.config import NetworkConfig
from models.relation_tagger import RelationTagger
from pipeline.training.freed_memory import keep_freed_memory
from pipeline.training.tagger_settings import RELEASED
from tagger.box import Box
from tagger.candidates import Pair
from tagger.labelling import Labeller
from tagger.tagging_image import TaggingImage

MEAN_BOXES, MOST_BOXES, MOST_PAIRS = 7.3, 60, 1500
NAMES = [f"thing {number}" for number in range(80)]
PREDICATES = [f"relate to {number}" for number in range(30)]
GOALS = {"float32": 3.0, "bfloat16": 8.0}
TOKENIZER = Path(__file__).parents[1] / "scenes/weights/text"
PARTS = (
    "backbone",
    "transformer.encoder",
    "transformer.text_encoder",
    "transformer.ho_decoder",
    "transformer.verb_decoder",
)
SMALL = {"backbone": "resnet18", "width": 64, "feedforward": 128, "fusion_width": 64}


def mix(count: int, shape: tuple[int, int]) -> list[TaggingImage]:
    """Images of noise whose numbers of boxes are quantiles of COCO's."""
    draws = np.random.default_rng(7)
    return [_image(draws, _boxes_at((2 * number + 1) / (2 * count)), shape, number) for number in range(count)]


def _boxes_at(quantile: float) -> int:
    return min(MOST_BOXES, max(2, round(-MEAN_BOXES * math.log(1 - quantile))))


def _image(draws: np.random.Generator, boxes: int, shape: tuple[int, int], seed: int) -> TaggingImage:
    names = draws.integers(0, len(NAMES), boxes)
    sides = draws.uniform(20, 400, (boxes, 2))
    corners = draws.uniform(0, 1, (boxes, 2)) * (np.array([640, 480]) - sides)
    made = [Box(NAMES[n], *map(float, (*corner, *side))) for n, corner, side in zip(names, corners, sides, strict=True)]
    ends = [(s, o) for s in range(boxes) for o in range(boxes) if s != o and draws.random() < 0.5][:MOST_PAIRS]
    said = draws.choice(len(PREDICATES), 8, replace=False)
    pairs = [
        Pair(subject, object_, PREDICATES[int(place)], 0, 1)
        for subject, object_ in ends or [(0, 1)]
        for place in draws.choice(said, int(draws.integers(1, 5)), replace=False)
    ]
    pixels = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    return TaggingImage(640, 480, made, pairs, shape, lambda: pixels)


@contextmanager
def timed_parts(tagger: RelationTagger) -> Iterator[dict[str, float]]:
    """CPU-seconds of each part of the network."""
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


def measured(name: str, tagger: RelationTagger, images: int, work: Callable[[], object]) -> dict[str, object]:
    """CPU-seconds an image, and the share of each part."""
    with timed_parts(tagger) as spent:
        began, wall = time.process_time(), time.perf_counter()
        work()
        seconds, wall = time.process_time() - began, time.perf_counter() - wall
    row = {
        "what": name,
        "cpu_seconds_an_image": round(seconds / images, 2),
        "wall_seconds_an_image": round(wall / images, 2),
        "shares": {part.rpartition(".")[2]: round(each / seconds, 3) for part, each in spent.items()},
        "floor_share": round((spent["backbone"] + spent["transformer.encoder"]) / seconds, 3),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }
    shares = ", ".join(f"{part} {share:.0%}" for part, share in row["shares"].items())  # type: ignore[attr-defined]
    print(f"{name:28}{row['cpu_seconds_an_image']:8} CPU-s an image, {row['peak_gb']} GB; {shares}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1088)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="a small network, to see that this works")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    sizes = {
        **RELEASED,
        **(SMALL if given.small else {}),
        "architecture": "parsed",
        "tagger": True,
        "official_compat": True,
    }
    tagger = RelationTagger(NetworkConfig.from_dict(sizes), TOKENIZER).eval()
    images = mix(given.images, (given.height, given.width))
    boxes, pairs = (np.array([len(getattr(image, what)) for image in images]) for what in ("boxes", "pairs"))
    print(
        f"{len(images)} images of {given.height}×{given.width}: {boxes.mean():.1f} boxes (at most {boxes.max()}), "
        f"{pairs.mean():.0f} candidates (at most {pairs.max()}), {np.mean(pairs // 100 + 1):.1f} groups of the authors' an image"
    )
    label = {precision: Labeller(tagger, NAMES, precision=precision, scope="image") for precision in GOALS}  # type: ignore[arg-type]
    for precision in GOALS:
        label[precision].label(images[:1])  # the first pass builds kernels
    rows = [
        measured(f"packed, {precision}", tagger, len(images), lambda p=precision: label[p].label(images))
        for precision in GOALS
    ]
    with torch.inference_mode():
        one_by_one = lambda: [label_sequentially(tagger, image, NAMES, repeated=True) for image in images]  # noqa: E731
        rows.append(measured("the authors' procedure", tagger, len(images), one_by_one))
    baseline = float(rows[-1]["cpu_seconds_an_image"])  # type: ignore[arg-type]
    gains = {p: round(baseline / float(row["cpu_seconds_an_image"]), 2) for p, row in zip(GOALS, rows, strict=False)}  # type: ignore[arg-type]
    for precision, row in zip(GOALS, rows, strict=False):
        print(
            f"{precision}: {gains[precision]:.1f}x images a CPU-second (goal {GOALS[precision]:g}x); one encode an image, "
            f"the floor, is {row['floor_share']:.0%} of its time"
        )
    if given.json:
        figures = {"boxes": boxes.tolist(), "candidates": pairs.tolist(), "rows": rows, "gains": gains}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
