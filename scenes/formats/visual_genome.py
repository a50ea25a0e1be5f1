"""Converts scenes to Visual Genome's relationships, objects and image_data, with varied wording like annotators'."""

from collections.abc import Sequence
from random import Random
from typing import Any

from scenes.formats.written import Written

SURFACES: dict[str, tuple[str, ...]] = {
    "riding": ("riding", "riding", "rides", "is riding"),
    "holding": ("holding", "holding", "holds", "is holding"),
    "carrying": ("carrying", "carrying", "carries"),
    "wearing": ("wearing", "wearing", "wears"),
    "sitting on": ("sitting on", "sitting on", "sits on", "seated on"),
    "lying on": ("lying on", "lying on", "lies on"),
    "next to": ("next to", "next to", "beside", "standing next to"),
    "behind": ("behind", "behind", "standing behind"),
    "under": ("under", "under", "underneath", "beneath"),
    "on": ("on", "on", "on top of"),
    "looking at": ("looking at", "looking at", "looks at"),
    "walking": ("walking", "walking", "walks"),
    "kicking": ("kicking", "kicking", "kicks"),
    "eating": ("eating", "eating", "eats"),
}
"""Planted predicate -> wordings of annotators."""
PARTICULAR = 0.25
"""Share of persons that are named man, woman, boy or girl."""


def visual_genome(images: Sequence[Written], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Returns the three files by name. Object and relationship ids are unique over all images."""
    relationships, objects, image_data = [], [], []
    object_id = relationship_id = 0
    for image in images:
        rng = Random(f"vg/{seed}/{image.image_id}")
        listed = []
        for (category, noun, _), (x, y, w, h) in zip(image.things, image.boxes, strict=True):
            object_id += 1
            name = noun if rng.random() < PARTICULAR else category
            listed.append({"object_id": object_id, "x": x, "y": y, "w": w, "h": h, "names": [name], "synsets": []})
        stated = []
        for s, predicate, o in image.all_facts():
            relationship_id += 1
            stated.append({
                "relationship_id": relationship_id, "predicate": rng.choice(SURFACES[predicate]), "synsets": [],
                "subject": _named(listed[s]), "object": _named(listed[o]),
            })  # fmt: skip
        relationships.append({"image_id": image.image_id, "relationships": stated})
        objects.append({"image_id": image.image_id, "objects": listed})
        image_data.append({"image_id": image.image_id, "width": image.width, "height": image.height})
    return {"relationships": relationships, "objects": objects, "image_data": image_data}


def _named(item: dict[str, Any]) -> dict[str, Any]:
    """Converts an object entry to the end of a relationship, which has one name instead of a list."""
    return {"name": item["names"][0], **{k: v for k, v in item.items() if k != "names"}}
