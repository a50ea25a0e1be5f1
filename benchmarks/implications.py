"""Measures how often implied actions hold: `python -m benchmarks.implications VCOCO_TRAIN [--without SAMPLE]`.

For each row of `tagger.parsing.implied` between two actions of V-COCO: the share of V-COCO's (person, object)
pairs with the first action that also have the second. Leaves out the images of SAMPLE, on which
`benchmarks.interactions` measures, so that rules are not tuned on the images of that benchmark.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.harness import Row, parser, run
from benchmarks.interactions import LITERAL
from benchmarks.vcoco_gold import Interactions, read_interactions
from tagger.parsing.implied import CONSEQUENCES, following

ACTION = {predicate: action for action, (predicate,) in LITERAL.items()}
"""Canonical predicate → V-COCO's action."""


def shares_of(images: Mapping[int, Interactions]) -> dict[tuple[str, str, str], tuple[float, int]]:
    """Returns (stated, object, implied) → (share of pairs with the implied action, pair count), most pairs first."""
    stated, both = Counter[tuple[str, str, str]](), Counter[tuple[str, str, str]]()
    for deeds in images.values():
        for (_, category), actions in deeds.items():
            for predicate, action in ACTION.items():
                if action not in actions:
                    continue
                for other, noun in following(predicate, category):
                    if noun == category and other in ACTION:
                        stated[predicate, category, other] += 1
                        both[predicate, category, other] += ACTION[other] in actions
    return {of: (both[of] / count, count) for of, count in stated.most_common()}


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the share of each row of the list, and of all."""
    if given.annotations is None:
        yield Row("nothing measured", note="name a file of annotations, instances_vcoco_train.json")
        return
    left_out = {row["image_id"] for row in json.loads(given.without.read_bytes())} if given.without else set()
    images = {image: deeds for image, deeds in read_interactions(given.annotations).items() if image not in left_out}
    shares = shares_of(images)
    for (predicate, category, other), (share, pairs) in shares.items():
        yield Row(f"{predicate} {category}: {other}", "share", share, note=f"{pairs} pairs")
    pairs = sum(count for _, count in shares.values())
    total = sum(share * count for share, count in shares.values()) / max(pairs, 1)
    yield Row(f"all {len(CONSEQUENCES)} rows", "share", total, note=f"{pairs} pairs of {len(images)} images")


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("annotations", type=Path, nargs="?", help="instances_vcoco_train.json")
    options.add_argument("--without", type=Path, help="JSON list with the image_id of every image to leave out")
    run(options, measure)
