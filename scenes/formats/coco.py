"""Converts scenes to COCO's instances JSON, Objects365's variant of it, and planted relations as pairs of boxes."""

from collections.abc import Sequence
from typing import Any

from scenes.categories import ANIMALS, COCO_CATEGORIES, FURNITURE, VEHICLES
from scenes.formats.written import Written

INFO = {"description": "Made scenes with planted relations", "version": "1.0"}
SUPER = {
    **dict.fromkeys(ANIMALS, "animal"),
    **dict.fromkeys(VEHICLES, "vehicle"),
    **dict.fromkeys(FURNITURE, "furniture"),
}


def instances(images: Sequence[Written]) -> dict[str, Any]:
    """Returns COCO's layout. Segmentation and area are those of the bounding box."""
    annotations: list[dict[str, Any]] = []
    for image in images:
        for (category, _, _), (x, y, w, h) in zip(image.things, image.boxes, strict=True):
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": image.image_id,
                "category_id": COCO_CATEGORIES[category],
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            })  # fmt: skip
    return {
        "info": INFO,
        "licenses": [],
        "images": [{"id": i.image_id, "file_name": i.file_name, "width": i.width, "height": i.height} for i in images],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "person" if name == "person" else SUPER.get(name, "thing")}
            for name, number in COCO_CATEGORIES.items()
        ],
    }


def objects365(images: Sequence[Written]) -> dict[str, Any]:
    """Returns Objects365's layout: capitalised names, consecutive ids from 1, the flags isfake and isreflected."""
    numbers = {name: i for i, name in enumerate(COCO_CATEGORIES, start=1)}
    content = instances(images)
    by_id = {number: name for name, number in COCO_CATEGORIES.items()}
    for annotation in content["annotations"]:
        annotation["category_id"] = numbers[by_id[annotation["category_id"]]]
        annotation |= {"isfake": 0, "isreflected": 0}
        del annotation["segmentation"]
    content["categories"] = [{"id": number, "name": name.title()} for name, number in numbers.items()]
    return content


def pairs(images: Sequence[Written]) -> list[dict[str, Any]]:
    """Lists {image_id, relations: [{subject, subject_box, predicate, object, object_box}]}; boxes: [x1, y1, x2, y2]."""
    out = []
    for image in images:
        corners = [[x, y, x + w, y + h] for x, y, w, h in image.boxes]
        relations = [
            {
                "subject": image.things[s][0], "subject_box": corners[s], "predicate": predicate,
                "object": image.things[o][0], "object_box": corners[o],
            }
            for s, predicate, o in image.all_facts()
        ]  # fmt: skip
        out.append({"image_id": image.image_id, "relations": relations})
    return out
