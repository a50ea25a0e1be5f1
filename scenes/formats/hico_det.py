"""Converts scenes to HICO-DET ground truth in the layout of RLIPv2's authors, with subjects of any category.

A list of images: {file_name, img_id, width, height, annotations: [{bbox: [x1, y1, x2, y2], category_id}],
hoi_annotation: [{subject_id, object_id, category_id}]}. subject_id and object_id index an image's annotations from 0.
The category_id of a box is COCO's, that of a relation is an index into the verb list from 1.
"""

from collections.abc import Sequence
from typing import Any

from scenes.categories import COCO_CATEGORIES
from scenes.formats.written import Written
from scenes.predicates import PREDICATES


def ground_truth(images: Sequence[Written]) -> list[dict[str, Any]]:
    """Returns the list of images with all planted relations, symmetric ones in both orders."""
    verbs = {name: i for i, name in enumerate(PREDICATES, start=1)}
    out = []
    for image in images:
        boxes = [
            {"bbox": [x, y, x + w, y + h], "category_id": COCO_CATEGORIES[category]}
            for (category, _, _), (x, y, w, h) in zip(image.things, image.boxes, strict=True)
        ]
        relations = [{"subject_id": s, "object_id": o, "category_id": verbs[p]} for s, p, o in image.all_facts()]
        out.append({
            "file_name": image.file_name, "img_id": image.image_id, "width": image.width, "height": image.height,
            "annotations": boxes, "hoi_annotation": relations,
        })  # fmt: skip
    return out
