"""Measures how many triplets of the shipped captioner's captions are true: `python -m benchmarks.captioner`.

The pipeline's own parser reads captions of scenes from a seed that no training used. A triplet is (subject category,
canonical predicate, object category). Triplets with a noun of no category are left out and counted. The parser also
reads the grammar's true captions, and the grammar's reader the captions, which shows how much of the loss is due to
parsing.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch

from benchmarks.harness import Row, parser, run
from benchmarks.truth import judge, planted_triplets
from pipeline.captioning.settings import CaptionSettings
from pipeline.stages.caption import open_captioner
from scenes.grammar import caption, read
from scenes.names import CANONICAL, WORLD_CATEGORIES
from scenes.scene import Scene, render
from scenes.world import make_scene
from tagger.matching import match
from tagger.parsing.parser import load_parser, parse_captions

Named = set[tuple[str, str, str]]
Texts = Sequence[Sequence[str]]


def judged(name: str, scenes: Sequence[Scene], stated: Sequence[Sequence[Named]]) -> Iterator[Row]:
    """Yields precision and recall of the triplets of each caption of each scene."""
    total = right = planted = found = 0
    for scene, captions in zip(scenes, stated, strict=True):
        truth = planted_triplets(scene)
        total += sum(map(len, captions))
        right += sum(len(judge(triplets, truth)[0]) for triplets in captions)
        planted += len(truth)
        found += len(judge(set().union(*captions), truth)[1])
    yield Row(f"{name}: stated triplets that are true", "share", right / total, note=f"{total:,} triplets")
    yield Row(f"{name}: planted relations that a draw states", "share", found / planted, note=f"{planted:,} relations")


def by_parser(texts: Texts) -> tuple[list[list[Named]], int]:
    """Returns the triplets of each caption of each image, and the number of triplets with a noun of no category."""
    parsed = iter(parse_captions([text for captions in texts for text in captions], load_parser()))
    unnamed = 0

    def named() -> Named:
        nonlocal unnamed
        here: Named = set()
        for t in next(parsed):
            subjects, objects = (match(noun, WORLD_CATEGORIES) for noun in (t.subject, t.object))
            unnamed += not (subjects and objects)
            # A noun such as "bike" may name two categories: the first in the list counts.
            here |= {(s, t.predicate_lemma, o) for s in subjects[:1] for o in objects[:1]}
        return here

    return [[named() for _ in captions] for captions in texts], unnamed


def by_reader(texts: Texts) -> list[list[Named]]:
    """Returns the triplets of each caption of each image as the grammar's own reader finds them."""
    return [[{(s, CANONICAL[p], o) for s, p, o in read(text)} for text in captions] for captions in texts]


def true_caption(scene: Scene, rng: Random) -> str:
    """Returns a caption of the grammar, which states only what is planted."""
    nouns = [(o.category, o.noun, o.colour) for o in scene.objects]
    return caption(nouns, [(r.subject, r.predicate, r.object) for r in scene.relations], rng, opening=False)


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the figures of the three ways."""
    torch.set_num_threads(1)
    scenes = [make_scene(given.seed, i) for i in range(given.scenes)]
    images, rng = [render(scene) for scene in scenes], Random(0)
    captioner = open_captioner(CaptionSettings(model=str(given.model), draws=given.draws, top_k=given.top_k))
    began = time.perf_counter()
    texts = [[c.text for c in captions] for captions in captioner.caption(images, range(given.scenes))]
    yield Row("speed", "images/s", given.scenes / (time.perf_counter() - began), note=f"e.g. {texts[0][0]!r}")
    stated, unnamed = by_parser(texts)
    yield from judged("captioner, chain's parser", scenes, stated)
    yield Row("captioner, chain's parser: with a noun of no category", "triplets", unnamed)
    yield from judged("captioner, grammar's reader", scenes, by_reader(texts))
    true_texts = [[true_caption(scene, rng) for _ in range(given.draws)] for scene in scenes]
    yield from judged("true captions, chain's parser", scenes, by_parser(true_texts)[0])


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--model", type=Path, default=Path("scenes/weights/captioner"))
    options.add_argument("--scenes", type=int, default=500)
    options.add_argument("--seed", type=int, default=424_242)
    options.add_argument("--draws", type=int, default=10)
    options.add_argument("--top-k", type=int, default=0)
    run(options, measure)
