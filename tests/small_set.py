"""A dataset of small images with boxes and captions in COCO format, recipes for it, and the processes that use it."""

import json
import os
from pathlib import Path

import psutil
from PIL import Image

from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe

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
variants = []

[run]
blocks = 2
workers = 1
"""


LONG_TRAINING = """
[pretrain]
variants = ["none"]
[pretrain.settings]
steps = 100000
batch = 2
micro_batch = 1
image_size = 64
checkpoint_every = 1
log_every = 1
object_texts = 2
predicate_texts = 2
[pretrain.settings.network]
backbone = "test_resnet"
backbone_norm = "group"
backbone_strides = [8, 16]
levels = 3
width = 32
heads = 2
points = 2
encoder_layers = 1
decoder_layers = 1
feedforward = 64
pairs = 4
fusion_width = 32
fusion_heads = 2
fusion_interval = 1
text = { hidden = 32, layers = 1, heads = 2, feedforward = 64, vocabulary = 300, max_positions = 24, dropout = 0.0 }
"""


def write_small_set(root: Path, count: int = 8) -> Path:
    """Write `count` images, their annotations and a recipe into `root`. Returns the path of the recipe."""
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


def state_relations(root: Path, *image_ids: int) -> None:
    """State that the person of each of these images rides the horse. The recipe then trains a tagger on that."""
    ends = {"person_box": [4, 4, 24, 34], "object": "horse", "object_box": [20, 10, 50, 40]}
    stated = [{"image_id": number, "relations": [{**ends, "action": "ride"}]} for number in image_ids]
    (root / "relations.json").write_text(json.dumps(stated))
    recipe = root / "recipe.toml"
    text = recipe.read_text().replace('label = ["set"]\n\n', 'label = ["set"]\ntagger = ["set"]\n\n')
    recipe.write_text(text.replace('"instances.json"\n\n', '"instances.json"\nrelations = "relations.json"\n\n'))


def small_recipe(root: Path, *overrides: str) -> Recipe:
    """The recipe that `write_small_set` wrote into `root`."""
    return load_recipe(root / "recipe.toml", overrides)


def train_long(root: Path) -> None:
    """Add a small but very long training to the recipe, for tests that stop it."""
    recipe = root / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("[pretrain]\nvariants = []\n", LONG_TRAINING))


def processes_on(root: Path) -> list[str]:
    """Folder and command line of the other processes that mention `root` in either."""
    lines = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line = " ".join([process.info["cwd"] or "", *(process.info["cmdline"] or [])])
        if str(root) in line and process.pid != os.getpid():
            lines.append(line)
    return lines
