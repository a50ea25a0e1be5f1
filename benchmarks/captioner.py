"""Measures how many triplets of the shipped captioner's captions are true: `python -m benchmarks.captioner`.

`--captioner FOLDER` measures another one, also while `scenes.train_captioner` trains it.

The pipeline's own parser reads captions of scenes from a seed that no training used. A triplet is (subject category,
canonical predicate, object category).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence

import torch

from benchmarks.harness import Row, parser, run
from pipeline.captioning.settings import CaptionSettings
from scenes.names import CANONICAL, SYMMETRIC, WORLD_CATEGORIES
from scenes.scene import render
from scenes.world import make_scene
from tagger.matching import match
from tagger.parsing.parser import load_parser, parse_captions

SEED, DRAWS = 424_242, 10
Named = set[tuple[str, str, str]]
_SYMMETRIC = frozenset(CANONICAL[p] for p in SYMMETRIC)


def both_ways(triplets: Named) -> Named:
    return triplets | {(o, p, s) for s, p, o in triplets if p in _SYMMETRIC}


def parsed(texts: Sequence[str]) -> list[Named]:
    """Returns the triplets of each caption. Those with a noun of no category are left out."""
    stated: list[Named] = []
    for triplets in parse_captions(texts, load_parser()):
        stated.append(set())
        for t in triplets:
            subjects, objects = (match(noun, WORLD_CATEGORIES) for noun in (t.subject, t.object))
            # A noun such as "bike" may name two categories: the first in the list counts.
            stated[-1] |= {(s, t.predicate_lemma, o) for s in subjects[:1] for o in objects[:1]}
    return stated


def measure(given: Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    scenes = [make_scene(SEED, i) for i in range(given.scenes)]
    captioner = CaptionSettings(model=str(given.captioner), draws=DRAWS).plugin.open()
    drawn = captioner.caption([render(scene) for scene in scenes], range(given.scenes))
    stated = parsed([caption.text for captions in drawn for caption in captions])
    total = right = planted = found = 0
    for number, scene in enumerate(scenes):
        truth = {(s, CANONICAL[p], o) for s, p, o in scene.triplets()}
        of_scene = stated[number * DRAWS : (number + 1) * DRAWS]
        total += sum(map(len, of_scene))
        right += sum(len(triplets & both_ways(truth)) for triplets in of_scene)
        planted += len(truth)
        found += len(truth & both_ways(set().union(*of_scene)))
    yield Row("stated triplets that are true", "share", right / total, note=f"{total:,} triplets")
    yield Row("planted relations that a draw states", "share", found / planted, note=f"{planted:,} relations")


if __name__ == "__main__":
    options = parser(__doc__, scenes=500)
    options.add_argument("--captioner", default="scenes/weights/captioner", help="default: %(default)s")
    run(options, measure)
