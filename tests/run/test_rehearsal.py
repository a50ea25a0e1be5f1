"""`rlip recipe rehearse` on CPU ranks: each line says what it found, faults turn lines red, estimates use the speed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rlip_command import output_of, rlip
from small_set import train_long, write_small_set

from pipeline.run import rehearsal, rehearsal_shards
from pipeline.run.context import RunContext
from pipeline.run.device_doctor import examine_device, interrupted, outcome_of
from pipeline.run.device_outcome import CheckOutcome
from pipeline.run.recipe_files import load_recipe, read_recipe, recipe_of
from pipeline.run.rehearsal import Rehearsal
from pipeline.training.settings import TrainingSettings

SETTINGS = [
    "pretrain.settings.processes=1",
    "pretrain.settings.network.backbone_strides.0=4",
    "shard.max_bytes=2097152",
]
"""What `--set` changes."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with a tiny network."""
    root = tmp_path_factory.mktemp("recipe")
    recipe = write_small_set(root)
    train_long(root)
    return recipe


@pytest.fixture(scope="module")
def rehearsed(recipe: Path) -> Iterator[tuple[Rehearsal, dict[str, CheckOutcome]]]:
    """The rehearsal of that recipe with few steps, few images and one variant, and its lines."""
    folder = recipe.parent / "rehearsal"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "STEPS", 2)
        patch.setattr(rehearsal_shards, "IMAGES", 8)
        patch.setattr(rehearsal, "_variants", lambda settings, device: [("precision", "bfloat16")])
        read = read_recipe(recipe, SETTINGS)
        made = Rehearsal(RunContext(recipe_of(read)), read, recipe.parent / "tuned.toml", folder)
        yield made, {line.name: line.outcome for line in examine_device(made.device, 10, made.checks, interrupted)}


def test_every_line_runs_and_the_best_settings_are_written(recipe, rehearsed):
    found = rehearsed[1]
    assert {name: each.state for name, each in found.items() if each.state not in ("ok", "slow")} == {
        "grid_sample": "absent",
        "fragmentation": "absent",
    }
    assert found["fragmentation"].figure.startswith("not measured")
    assert "backward" in found["as it is"].figure and "decoders" in found["as it is"].figure
    assert "the same weights" in found["equal bits"].figure
    assert found["a rank dies"].figure == "killed after step 2, resumed from step 1, the same weights at the end"

    tuned = recipe.parent / "tuned.toml"
    before, after = load_recipe(recipe, SETTINGS).pretrain.settings, load_recipe(tuned).pretrain.settings
    changed = {name for name in TrainingSettings.model_fields if getattr(before, name) != getattr(after, name)}
    assert changed <= {"precision"} and after.processes == 1
    assert "# Rehearsed with --set shard.max_bytes=2097152, which this recipe leaves out." in tuned.read_text()
    for found_for in (basis(recipe, *SETTINGS), basis(tuned)):
        assert found_for.startswith("rehearsed: ") and found_for.endswith("synthetic images/s on 1 x CPU")
    assert basis(tuned, "pretrain.settings.image_size=96").endswith("x CPU, with a different image_size")
    assert "exists; name a new file" in rlip("recipe", "rehearse", recipe, "--out", tuned).stderr


def test_weights_of_a_mix_are_not_asked_of_the_synthetic_dataset():
    settings = TrainingSettings(mix={"kind": "proportional", "weights": {"coco": 2.0}})
    assert not rehearsal._with(settings, rehearsal._short(settings)).mix.weights


def basis(recipe: Path, *settings: str) -> str:
    """Where the estimate of the training run comes from."""
    words = [word for setting in settings for word in ("--set", setting)]
    steps = json.loads(output_of("estimate", recipe, "--json", *words))["steps"]
    return next(step["basis"] for step in steps if step["step"] == "pretrain:none")


def test_a_fault_turns_its_own_line_red(rehearsed, monkeypatch):
    made, _ = rehearsed
    monkeypatch.setattr(rehearsal, "WORKER", "tests.run.faulty_ranks")
    names = ("equal bits", "a rank dies", "the whole recipe")
    states = {name: outcome_of(made.checks[name], made.device).state for name in names}
    assert states == {"equal bits": "wrong", "a rank dies": "failed", "the whole recipe": "ok"}
