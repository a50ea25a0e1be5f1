"""`rlip plan` tells what is due, its first cause also below the step where it lies, and what new images cost."""

import json
from pathlib import Path

from small_set import small_recipe, write_small_set

from pipeline.data.partitioning import index_of
from pipeline.run.context import RunContext
from pipeline.run.planner import Planner, StepForecast, forecast
from pipeline.run.progress import Display
from pipeline.run.recipe import Recipe
from pipeline.run.runner import run
from pipeline.runtime.stage import WHOLE
from pipeline.stages.train_tagger import TrainTaggerStage


def planned(recipe: Recipe) -> dict[str, StepForecast]:
    index_of.cache_clear()  # a process reads annotations once
    return {step.step: step for step in forecast(Planner(RunContext(recipe)))}


def grow(root: Path, count: int) -> None:
    """Make the set larger by images without relations."""
    write_small_set(root / "more", count)
    for name in ("instances.json", "captions.json"):
        (root / name).write_bytes((root / "more" / name).read_bytes())
    for path in (root / "more" / "images").iterdir():
        if not (root / "images" / path.name).exists():
            path.rename(root / "images" / path.name)


def ride(image_id: int) -> dict[str, object]:
    """A relation between the two boxes of an image, in the pair layout."""
    ends = {"person_box": [4, 4, 24, 34], "object": "horse", "object_box": [20, 10, 50, 40]}
    return {"image_id": image_id, "relations": [{**ends, "action": "ride"}]}


def test_the_cause_is_told_below_the_step_where_it_lies(tmp_path):
    write_small_set(tmp_path)
    run(RunContext(small_recipe(tmp_path)), Display())
    grow(tmp_path, 9)
    found = planned(small_recipe(tmp_path))
    assert (found["ingest"].due, found["ingest"].why) == (1, "new partition set/0002")
    for step in ("caption", "parse"):
        assert (found[step].cached, found[step].due, found[step].at_most) == (2, 1, True)
        assert found[step].why == "ingest: new partition set/0002"


def test_pictures_without_relations_do_not_train_the_tagger_again(tmp_path):
    write_small_set(tmp_path)
    pairs = [ride(1)]
    (tmp_path / "relations.json").write_text(json.dumps(pairs))
    (tmp_path / "recipe.toml").write_text(
        (tmp_path / "recipe.toml").read_text()
        .replace('label = ["set"]', 'label = ["set"]\ntagger = ["set"]')
        .replace('annotations = "instances.json"', 'annotations = "instances.json"\nrelations = "relations.json"')
    )  # fmt: skip

    def tagger_key() -> str:
        index_of.cache_clear()
        recipe = small_recipe(tmp_path)
        run(RunContext(small_recipe(tmp_path, "run.until=shard_tagger")), Display())
        planner = Planner(RunContext(recipe))
        steps = {step.name: step for step in planner.context.steps}
        planner.plan(steps["ingest"])
        planner.plan(steps["shard_tagger"])
        (item,) = planner.plan(steps["train_tagger"]).due
        assert (item.partition, steps["train_tagger"].stage) == (WHOLE, TrainTaggerStage)
        return item.key

    before = tagger_key()
    grow(tmp_path, 9)
    assert tagger_key() == before
    pairs.append(ride(9))
    (tmp_path / "relations.json").write_text(json.dumps(pairs))
    assert tagger_key() != before
