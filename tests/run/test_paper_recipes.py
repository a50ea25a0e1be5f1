"""The recipes of the paper hold the settings of the authors' scripts, and every shipped recipe can be read."""

import csv
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from models.config import LossSettings, NetworkConfig
from pipeline.run.dag import build_steps
from pipeline.run.networks import random_starts
from pipeline.run.recipe_files import load_recipe

loaded = cache(load_recipe)
ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
SCRIPTS = list(csv.DictReader((Path(__file__).parent / "released_scripts.csv").open()))
"""The settings of each training script that the authors released. `recipe` is empty where no recipe can do the same."""
WITH_RECIPE = [script for script in SCRIPTS if script["recipe"]]
WITHOUT_SCRIPT = {"parseda_r50_vg"}
"""Recipes for weights that the authors published without a script."""
BACKBONES = {
    "R50": ("resnet50", 0.0),
    "SwT": ("swin_tiny_patch4_window7_224", 0.2),
    "SwL": ("swin_large_patch4_window7_224", 0.5),
}
"""Name and drop path."""
IMPLIED_BATCH = {"1e-4": 32, "1.41e-4": 64}
"""Images per step that a learning rate goes with, where a script leaves the number of machines open."""
DATA: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "vg": (("vg",), (), ()),
    "vg_hico": (("vg",), (), ("hico_train",)),
    "vg_coco2017": (("coco_train", "coco_val"), ("vg",), ("vg",)),
    "vg_coco2017_hico": (("coco_train", "coco_val"), ("vg",), ("vg", "hico_train")),
    "vg_coco2017_o365": (("coco_train", "coco_val", "o365_train", "o365_val"), ("vg",), ("vg",)),
    "vg_coco2017_o365_hico": (("coco_train", "coco_val", "o365_train", "o365_val"), ("vg",), ("vg", "hico_train")),
    "hico": (("hico_train",), (), ()), "vcoco": (("vcoco_trainval",), (), ()), "oi_sgg": (("oi_train",), (), ()),
    "UC-RF": (("hico_train_uc_rf",), (), ()), "UC-NF": (("hico_train_uc_nf",), (), ()),
    "few 10%": (("hico_train_10_percent",), (), ()), "few 1%": (("hico_train_1_percent",), (), ()),
    "tagger": ((), ("vg",), ()),
}  # fmt: skip
"""Dataset or setting of a script → the sets to label or learn from, of the tagger, and of the mix."""
PRETRAINING = re.compile(r"parseda?_(r50|swin_[tl])_vg")
TEXTS = {"hico": (80, 117), "vcoco": (80, 29), "oi_sgg": (288, 30)}


def _batch(script: dict[str, str]) -> int:
    processes, machines = script["gpus"].split("x")
    if machines == "W":
        return IMPLIED_BATCH[script["lr"]]
    return int(processes) * int(machines) * int(script["batch_per_gpu"])


@pytest.mark.parametrize("script", WITH_RECIPE, ids=lambda script: script["recipe"])
def test_a_recipe_trains_as_its_script(script):
    path = RECIPES / "paper" / f"{script['recipe']}.toml"
    recipe, text = loaded(path), path.read_text()
    weights = script["initial"].split()[0]
    assert f"scripts/{script['script']}.sh" in text and f"Weights of the authors: {weights}" in text
    data = DATA[script["setting"] if script["setting"] != "-" else script["data"]]
    assert (recipe.data.label, recipe.data.tagger, recipe.data.mix) == data
    settings: Any = recipe.train_tagger if script["setting"] == "tagger" else recipe.pretrain.settings
    assert settings.pretrained is not None and settings.pretrained.parent == Path("data/weights")
    network, drawn = settings.network, script["negative_texts"] == "500"
    rates = (float(script["lr"]), float(script["lr_backbone"]), float(script["lr_backbone"]))
    epochs, drop = int(script["epochs"]), int(script["drop"])
    assert (settings.lr, settings.lr_backbone, settings.lr_text) == rates
    assert (settings.epochs, settings.epochs * settings.drop_at) == (epochs, pytest.approx(drop))
    assert (settings.schedule, settings.warmup, settings.ema, settings.lr_scale) == ("step", 0, 0.0, 1.0)
    assert (settings.batch, settings.micro_batch) == (_batch(script), int(script["batch_per_gpu"]))
    assert (settings.weight_decay, settings.max_grad_norm, settings.steps, settings.official) == (1e-4, 0.1, None, True)
    assert (settings.image_size, settings.shortest, settings.crop) == (1333, tuple(range(480, 801, 32)), 0.5)
    assert (settings.flip, settings.colour) == (0.5, 0.4)
    assert (settings.object_texts, settings.predicate_texts) == ((333, 167) if drawn else TEXTS[script["data"]])
    assert settings.loss == LossSettings(
        box=2.5, giou=1.0, localised_predicates=script["localised_predicates"] == "Y",
        pseudo_predicates=script["pseudo_predicates"] == "Y",
    )  # fmt: skip
    assert network == NetworkConfig(
        architecture="parseda" if "ParSeDA" in script["script"] else "parsed",
        backbone=BACKBONES[script["backbone"]][0], backbone_drop_path=BACKBONES[script["backbone"]][1],
        feedforward=int(script["feedforward"]), pairs=int(script["queries"]) // 2, dropout=float(script["dropout"]),
        fusion="late" if "MDETR" in script["script"] else "alif",
        gate={"XGating": "none"}.get(script["gate"], script["gate"]), relation_queries=script["relation_queries"],
        official_compat=True, tagger=script["setting"] == "tagger",
    )  # fmt: skip
    if recipe.pretrain.variants == ("pseudo",):
        assert recipe.shard.threshold == float(script["threshold"])
        # The tagger is asked in the words that it learned, and what it answers is learned in these.
        assert (recipe.tag.wording, recipe.tag.predicates, recipe.tag.predicate_texts) == ("official", "image", 0)
        assert recipe.parse.layer == "rules"


@pytest.mark.parametrize("script", WITH_RECIPE, ids=lambda script: script["recipe"])
def test_a_recipe_is_scored_by_the_measure_of_its_benchmark(script):
    recipe = loaded(RECIPES / "paper" / f"{script['recipe']}.toml")
    if script["setting"] == "tagger":
        return
    steps = {step.name.partition(":")[0]: step for step in build_steps(recipe)}
    scored, evaluate = steps["evaluate"], recipe.resolved().evaluate
    # Zero-shot or tuned, only images of the test set are scored, and only after the check that none was trained on.
    tested = {"vcoco": ("vcoco_test",), "oi_sgg": ("oi_test",)}.get(script["data"], ("hico_test",))
    assert scored.from_datasets == {"images": tested}
    assert steps["pretrain"].after == (steps["overlap"].name,)
    checked: Any = steps["overlap"].settings
    assert checked.pretrained == recipe.pretrain.settings.pretrained
    assert evaluate.metrics == (("open_images",) if script["data"] == "oi_sgg" else ())
    assert (evaluate.vcoco is not None) == (script["data"] == "vcoco")
    if evaluate.vcoco is not None:
        assert evaluate.vcoco.actions == recipe.data.root / "vcoco/vcoco_test.json"
    fine_tuned = script["data"] in ("hico", "vcoco", "oi_sgg")
    assert recipe.pretrain.settings.predicate_form == ("predicate" if fine_tuned else "surface")
    assert (evaluate.subject, evaluate.assume_subject) == (None if script["data"] == "oi_sgg" else "person", False)
    unseen = script["setting"] if script["setting"].startswith("UC") else None
    assert (recipe.split and recipe.split.method) == unseen
    assert ("split" in scored.uses) == ("split" in steps["shard"].uses) == (unseen is not None)


SAME = {
    "batch", "lr", "lr_backbone", "lr_text", "epochs", "drop_at", "schedule", "shortest", "image_size", "crop",
    "object_texts", "predicate_texts", "max_grad_norm", "weight_decay",
}  # fmt: skip
"""What the taggers of recipes outside recipes/paper share with the authors'."""


@pytest.mark.parametrize("name, paper", [
    ("coco", "tagger_r50"), ("coco_objects365", "tagger_r50"), ("label_coco_swin_t", "tagger_swin_t"),
    ("label_coco_swin_l", "tagger_swin_l"),
])  # fmt: skip
def test_other_recipes_train_the_tagger_of_the_paper_and_pre_train_on_its_sides(name, paper):
    ours, theirs = (loaded(RECIPES / f"{each}.toml") for each in (name, f"paper/{paper}"))
    tagger, released = ours.train_tagger, theirs.train_tagger
    assert tagger.model_dump(include=SAME) == released.model_dump(include=SAME)
    assert (tagger.label_noise, tagger.box_noise) == (0.2, 0.4)
    assert replace(tagger.network, official_compat=True) == released.network
    assert ours.evaluate.subject == ("person" if ours.data.test else None)
    sides = ours.pretrain.settings if ours.pretrain.variants else tagger
    assert (sides.shortest, sides.image_size, sides.crop) == (released.shortest, 1333, 0.5)


def test_the_page_lists_each_recipe_and_each_script_without_one():
    page = (ROOT / "docs" / "training_recipes.md").read_text()
    files = {path.stem for path in (RECIPES / "paper").glob("*.toml")}
    recipes = {script["recipe"] for script in WITH_RECIPE} | WITHOUT_SCRIPT
    assert set(_listed(page)) == recipes
    assert files - recipes == {f"{name}_bf16" for name in recipes if PRETRAINING.match(name)}
    without = [script["script"].split("/")[1] for script in SCRIPTS if not script["recipe"]]
    assert [name for name in without if f"`{name}`" not in page] == []


@pytest.mark.parametrize("path", sorted((RECIPES / "paper").glob("*_bf16.toml")), ids=lambda path: path.stem)
def test_a_variant_in_bfloat16_differs_in_nothing_else(path):
    own, theirs = (loaded(each) for each in (path, path.with_stem(path.stem.removesuffix("_bf16"))))
    settings = own.pretrain.settings
    assert (settings.precision, theirs.pretrain.settings.precision) == ("bfloat16", "tf32")
    pretrain = own.pretrain.model_copy(update={"settings": settings.model_copy(update={"precision": "tf32"})})
    assert own.model_copy(update={"name": theirs.name, "pretrain": pretrain}) == theirs


def _listed(page: str) -> Iterator[str]:
    """Recipes in tables whose first column is "recipe": a name joins the heads of a filled cell's column and row."""
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        head, _, *rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        if head[0] == "recipe":
            yield from (
                f"{column}_{row}" for row, *cells in rows for column, cell in zip(head[1:], cells, strict=True) if cell
            )


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.toml")), ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_shipped_recipe_can_be_read_and_starts_no_real_network_at_random(path):
    if path.parent.name == "base" and "[data]" not in path.read_text():
        pytest.skip("a part of recipes, without data")
    with warnings.catch_warnings(action="error"):
        steps = build_steps(load_recipe(path))
    if path.parent.name != "base":
        assert list(random_starts(steps)) == []
