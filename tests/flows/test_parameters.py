"""A recipe survives the round trip through the parameters of a deployment, and Prefect can describe its fields."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flows.chain import end_to_end
from flows.on_pools import on_pools
from flows.parameters import parameters
from flows.stages import stage_flow
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe
from pipeline.stages.order import STAGES
from storage.errors import FatalError


@pytest.mark.parametrize("name", ["demo", "coco", "coco_objects365"])
def test_a_recipe_comes_back_as_it_was(root: Path, name: str) -> None:
    path = root / "recipes" / f"{name}.toml"
    back = Recipe.model_validate(json.loads(parameters(path, ["run.workers=3"]))["recipe"])
    assert back == load_recipe(path, ["run.workers=3"]) and back.run.workers == 3


def test_every_flow_is_typed_by_the_recipe(root: Path) -> None:
    for each in (*map(stage_flow, STAGES), end_to_end):
        schema = each.parameters.model_dump()
        assert schema["required"] == ["recipe"]
        assert "caption" in schema["definitions"]["Recipe"]["properties"]


def test_every_stage_can_be_deployed(root: Path) -> None:
    declared = re.findall(r"entrypoint: flows/stages\.py:(\w+)$", (root / "prefect.yaml").read_text(), re.MULTILINE)
    assert declared == [each.name for each in STAGES]


def test_pools_that_would_each_choose_a_precision_are_refused(root: Path) -> None:
    recipe = load_recipe(root / "recipes/coco.toml")
    with pytest.raises(
        FatalError, match=r"^caption, train_tagger, pretrain:pseudo: precision = 'auto' is chosen by each"
    ):
        on_pools.fn(recipe)
