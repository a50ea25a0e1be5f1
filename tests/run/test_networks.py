"""Networks that a recipe trains or takes over are read before any work, and what is wrong with them is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.run.context import RunContext
from pipeline.run.networks import networks
from pipeline.run.recipe import load_recipe

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
