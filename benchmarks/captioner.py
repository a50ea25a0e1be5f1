"""Measures how many triplets of the shipped captioner's captions are true: `python -m benchmarks.captioner`.

The pipeline's own parser reads captions of scenes from a seed that no training used. A triplet is (subject category,
canonical predicate, object category). Triplets with a noun of no category are left out and counted as `unnamed`. The
parser also reads the grammar's true captions, which shows how much of the loss is due to parsing.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch

from pipeline.captioning.settings import CaptionSettings
from pipeline.stages.caption import open_captioner
from scenes.grammar import caption, read
from scenes.names import CANONICAL, SYMMETRIC, WORLD_CATEGORIES
from scenes.scene import Scene, render
from scenes.world import make_scene
from tagger.matching import match
from tagger.parsing.parser import load_parser, parse_captions

Named = set[tuple[str, str, str]]


def closure(triplets: Named) -> Named:
    """Returns the triplets and the reverses of those with symmetric predicates, all in canonical form."""
    symmetric = {CANONICAL[predicate] for predicate in SYMMETRIC}
    return triplets | {(o, p, s) for s, p, o in triplets if p in symmetric}


def judged(
    scenes: Sequence[Scene], texts: Sequence[Sequence[str]], stated: Sequence[Sequence[Named]]
) -> dict[str, float]:
    total = right = planted = found = 0
    for scene, captions in zip(scenes, stated, strict=True):
        truth = {(s, CANONICAL[p], o) for s, p, o in scene.triplets()}
        for triplets in captions:
            total += len(triplets)
            right += len(triplets & closure(truth))
        planted += len(truth)
        found += len(truth & closure(set().union(*captions)))
    return {
        "precision": round(right / total, 4),
        "recall": round(found / planted, 4),
        "stated": total,
        "planted": planted,
    }


def by_parser(texts: Sequence[Sequence[str]]) -> tuple[list[list[Named]], int]:
    """Returns the triplets of each caption of each image, and the number of triplets with a noun of no category."""
    flat = [text for captions in texts for text in captions]
    named, unnamed = [], 0
    for triplets in parse_captions(flat, load_parser()):
        here: Named = set()
        for t in triplets:
            subjects, objects = (match(noun, WORLD_CATEGORIES) for noun in (t.subject, t.object))
            unnamed += not (subjects and objects)
            # A noun such as "bike" may name two categories: the first in the list counts.
            here |= {(s, t.predicate_lemma, o) for s in subjects[:1] for o in objects[:1]}
        named.append(here)
    rows = iter(named)
    return [[next(rows) for _ in captions] for captions in texts], unnamed


def by_reader(texts: Sequence[Sequence[str]]) -> list[list[Named]]:
    return [[{(s, CANONICAL[p], o) for s, p, o in read(text)} for text in captions] for captions in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("scenes/weights/captioner"))
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=424_242)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    scenes = [make_scene(given.seed, i) for i in range(given.scenes)]
    pictures = [render(scene) for scene in scenes]
    settings = CaptionSettings(
        model=str(given.model), draws=given.draws, top_k=given.top_k, repetition_penalty=given.repetition_penalty
    )
    captioner = open_captioner(settings)
    began = time.perf_counter()
    texts = [[c.text for c in captions] for captions in captioner.caption(pictures, range(given.scenes))]
    seconds = time.perf_counter() - began
    stated, unnamed = by_parser(texts)
    rng = Random(0)
    true_texts = [
        [
            caption(
                [(o.category, o.noun, o.colour) for o in scene.objects],
                [(r.subject, r.predicate, r.object) for r in scene.relations],
                rng,
                opening=False,
            )
            for _ in range(given.draws)
        ]
        for scene in scenes
    ]
    read_true, unnamed_true = by_parser(true_texts)
    figures = {
        "machine": platform.processor() or platform.machine(),
        "settings": settings.model_dump(
            mode="json", include={"draws", "top_p", "top_k", "repetition_penalty", "prompt"}
        ),
        "images_a_second": round(given.scenes / seconds, 1),
        "captioner, chain's parser": {**judged(scenes, texts, stated), "unnamed": unnamed},
        "captioner, grammar's reader": judged(scenes, texts, by_reader(texts)),
        "true captions, chain's parser": {**judged(scenes, true_texts, read_true), "unnamed": unnamed_true},
        "examples": [captions[0] for captions in texts[:8]],
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
