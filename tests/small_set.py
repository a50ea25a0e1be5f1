"""A data set of small real pictures with boxes and captions, in COCO's layout, and a recipe for it."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from pipeline.recipe import Recipe, load_recipe

RECIPE = """
name = "small"
store = "{root}/out/store"
reports = "{root}/out/reports"

[data]
root = "{root}"
partition_size = 4
label = ["set"]

[[data.sources]]
name = "set"
format = "coco"
images = "images"
annotations = "instances.json"

[caption]
captioner = "recorded"
recorded = ["{root}/captions.json"]

[pretrain]
arms = []

[run]
blocks = 2
workers = 1
"""


def write_small_set(root: Path, count: int = 8) -> Path:
    """Write `count` pictures, their annotations and a recipe into `root`; the recipe's path."""
    (root / "images").mkdir(parents=True)
    images, annotations, captions = [], [], []
    for number in range(1, count + 1):
        name = f"{number:06d}.png"
        Image.new("RGB", (64, 48), (20 * number % 256, 90, 200)).save(root / "images" / name)
        images.append({"id": number, "file_name": name, "width": 64, "height": 48})
        for category, box in ((1, [4, 4, 20, 30]), (2, [20, 10, 30, 30])):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box, "iscrowd": 0}
            )
        captions.append({"id": number, "image_id": number, "caption": "a person riding a horse"})
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "horse"}]
    instances = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(instances))
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    recipe = root / "recipe.toml"
    recipe.write_text(RECIPE.format(root=root))
    return recipe


def small_recipe(root: Path, *overrides: str) -> Recipe:
    """The recipe of a set written here before."""
    return load_recipe(root / "recipe.toml", overrides)
