"""Reads V-COCO's annotations with boxes (`instances_vcoco_train.json`): which person does what with which object."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

Interactions = dict[tuple[tuple[float, ...], str], set[str]]
"""(person's box, object's category) → actions, in one image."""


def read_interactions(path: Path) -> dict[int, Interactions]:
    """Returns each image's actions by COCO image id."""
    given = json.loads(path.read_bytes())
    found: dict[int, Interactions] = {}
    for row in given["annotations"]:
        image = int(Path(row["file_name"]).stem.rpartition("_")[2])
        deeds: Interactions = defaultdict(set)
        for box, action, category in zip(row["boxes_h"], row["actions"], row["objects"], strict=True):
            deeds[tuple(box), given["objects"][category]].add(given["classes"][action])
        found[image] = deeds
    return found
