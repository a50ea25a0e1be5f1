"""Networks that a recipe trains or takes over are read before any work, and what is wrong with them is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rlip_command import loaded_by
from small_set import train_long, write_small_set

from pipeline.run.context import RunContext
from pipeline.run.doctor import require
from pipeline.run.networks import FIT, Finding, networks
from pipeline.run.recipe_files import load_recipe

RECIPE = """
name = "mine"
[[data.sources]]
name = "mine"
images = "."
annotations = "instances.json"
"""


@pytest.mark.parametrize(
    ("vocabulary", "state", "words"),
    [
        ('{"image_size": 96}', "ok", "tagger with"),
        ("[" * 100_000, "missing", "vocabulary.json: damaged"),
        ('{"image_size": "96"}', "missing", "vocabulary.json: damaged (image_size"),
        ('{"image_size": 0}', "missing", "vocabulary.json: damaged (image_size"),
    ],
)
def test_the_vocabulary_beside_a_tagger_is_read_within_limits(
    vocabulary: str, state: str, words: str, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE)
    shutil.copytree(root / "scenes/weights/tagger", tmp_path / "tagger")
    (tmp_path / "tagger" / "vocabulary.json").write_text(vocabulary)
    recipe = load_recipe(tmp_path / "mine.toml", [f"tag.weights={tmp_path / 'tagger'}"])
    (found,) = networks(RunContext(recipe))
    assert found.state == state and words in found.detail


def test_the_doctor_recalls_what_a_run_found_until_something_changes(tmp_path: Path) -> None:
    path = write_small_set(tmp_path, 1)
    train_long(tmp_path)
    require(RunContext(load_recipe(path)))
    assert not loaded_by("doctor", path) & {"torch", "timm", "transformers"}

    def network(*overrides: str) -> Finding:
        (found,) = networks(RunContext(load_recipe(path, overrides)))
        return found

    found = network()
    assert found.state == "ok" and "RLIP with test_resnet" in found.detail
    assert network("pretrain.settings.network.backbone=none_such").state == "missing"
    noted = RunContext(load_recipe(path)).run
    noted.note(FIT, {**noted.read_document(FIT), "found": [{"state": "fine"}]})
    assert network() == found, "a note that is none is not believed"
