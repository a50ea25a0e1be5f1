"""What is due and why, by `rlip plan`, and what it will take, by `rlip estimate`, which the report scores later."""

import json
from pathlib import Path
from typing import Any

import pytest
from rlip_command import output_of, rlip
from run_builder import captions
from small_set import small_recipe, state_relations, train_long, write_small_set

from pipeline.report.formatting import bytes_in_words
from pipeline.report.steps import ESTIMATE, scored_estimate, step_costs
from pipeline.run.context import RunContext
from pipeline.run.estimate import estimate, expected_seconds
from pipeline.run.planner import Planner, StepForecast, forecast
from pipeline.run.progress import Display
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe
from pipeline.run.runner import run
from pipeline.runtime.stage import WHOLE
from pipeline.stages.ingest import IngestStage
from pipeline.stages.pretrain import TrainTaggerStage
from storage.local_store import LocalStore
from storage.runs import Run

UNTIL = ("--set", "run.until=caption")


def estimated(*words: object) -> dict[str, dict[str, Any]]:
    """Step → its estimate."""
    return {step["step"]: step for step in json.loads(output_of("estimate", *words, "--json"))["steps"]}


def test_an_estimate_multiplies_measured_costs_and_the_report_scores_it(tmp_path):
    recipe = write_small_set(tmp_path)
    store = LocalStore(tmp_path / "out" / "store")
    output_of("run", recipe, "--direct", *UNTIL)

    costs = step_costs(Run(store, "small"))
    asked = ("estimate", recipe, "--from", "small", "--set", "name=other", "--workers", 4, "--price", 2, *UNTIL)
    told = {step["step"]: step for step in json.loads(output_of(*asked, "--json"))["steps"]}
    assert {step: each["basis"] for step, each in told.items()} == {"ingest": "cached", "caption": "cached"}
    assert "Total: 0 images to label, 0:00:00 of wall time, 0 B of disk" in output_of(*asked)

    assert Run(store, "other").read_document(ESTIMATE)["run"] == "other"
    Run(store, "third").note(ESTIMATE, {"steps": [{"step": "ingest", "wall": 2.0}, {"step": "caption", "wall": None}]})
    for name, expected in (("other", {"ingest": 0, "caption": 0}), ("third", {"ingest": 2.0, "caption": None})):
        assert expected_seconds(RunContext(load_recipe(recipe, [UNTIL[1], f"name={name}"]))) == expected

    more = json.loads(output_of(*asked, "--images", 8000, "--json"))
    by_step = {step["step"]: step for step in more["steps"]}
    for step, cost in costs.items():
        assert by_step[step]["seconds"] == pytest.approx(8000 * cost.seconds_per_image)
        assert by_step[step]["wall"] == pytest.approx(by_step[step]["seconds"] / 4)
        assert by_step[step]["bytes"] == pytest.approx(8000 * (cost.bytes_per_image or 0))
        assert "different settings" not in by_step[step]["basis"]
    seconds = sum(step["seconds"] for step in more["steps"])
    assert more["cost_per_1000_images"] == pytest.approx(seconds / 3600 * 2 / 8) and more["gpu_hours"] is None
    assert more["wall"] == pytest.approx(seconds / 4)
    assert more["bytes"] == pytest.approx(sum(step["bytes"] for step in more["steps"]))
    shown = output_of(*asked, "--images", 8000)
    assert "Total: 8,000 images to label, " in shown and bytes_in_words(more["bytes"]) in shown
    assert " per 1,000 images to label" in shown and "in the disk space" not in shown
    assert "none was measured on a GPU" in shown and "Requests to an object store" in shown
    assert "Warning: ingest, caption: more than 100 times the measured images, up to 1,000 times" in shown
    assert "Warning" not in output_of(*asked, "--images", 800)
    one, _ = Run(store, "small").artifacts("caption").values()
    store.discard("caption", one.key)
    left = step_costs(Run(store, "small"))["caption"].seconds_per_image
    asked_again = expected_seconds(RunContext(load_recipe(recipe, [UNTIL[1]])))
    assert asked_again == {"ingest": 0, "caption": pytest.approx(4 * left)}, "half of its images are due"


def test_an_estimate_looks_at_each_image_once(tmp_path, monkeypatch):
    recipe, partitions, looked = write_small_set(tmp_path), IngestStage.partitions, list[str]()
    monkeypatch.setattr(IngestStage, "partitions", lambda *words: looked.append(words[1]) or partitions(*words))
    made = estimate(Planner(RunContext(load_recipe(recipe, [UNTIL[1]]))), None, None, 1, None)
    assert {step.step: step.images for step in made.steps} == {"ingest": 8, "caption": 8}
    assert len(looked) == len(set(looked))


def test_steps_over_whole_sets_that_are_cached_cost_nothing(tmp_path, root):
    recipe = write_small_set(tmp_path)
    asked = ("--set", f"tag.weights={root / 'scenes/weights/tagger'}", "--set", "run.until=import_tagger")

    assert estimated(recipe, *asked)["import_tagger"]["basis"] == "number of images not known before it runs"
    output_of("run", recipe, "--direct", *asked)
    assert estimated(recipe, *asked)["import_tagger"]["basis"] == "cached"


def test_without_an_earlier_run_only_what_was_measured_with_these_settings_counts(tmp_path):
    recipe = write_small_set(tmp_path)
    counted = {name: (step["images"], step["seconds"]) for name, step in estimated(recipe, *UNTIL).items()}
    assert counted == {"ingest": (8, None), "caption": (8, None)}, "captions are recorded ones"
    model = estimated(recipe, "--images", 1000, *UNTIL, "--set", "caption.captioner=blip")
    assert (model["ingest"]["seconds"], model["caption"]["seconds"]) == (None, pytest.approx(3970))
    assert "BLIP-large" in model["caption"]["basis"]
    shown = output_of("estimate", recipe, "--images", 1000, *UNTIL, "--set", "caption.captioner=blip")
    assert "Not included in the disk space: caption\n" in shown


def test_a_training_in_epochs_that_was_never_measured_is_estimated_from_its_operations(tmp_path):
    recipe = write_small_set(tmp_path)
    train_long(recipe.parent)
    recipe.write_text(recipe.read_text().replace("steps = 100000\n", "epochs = 3\n"))

    def training(*words: object) -> dict[str, Any]:
        return estimated(recipe, *words)["pretrain:none"]

    plain = training()
    assert (plain["images"], plain["on_gpu"], plain["wall"]) == (24, True, plain["seconds"] / 2)
    assert "12 steps" in plain["basis"] and "30% of the 19.5 TFLOP/s of an A100 in float32; assumed" in plain["basis"]
    assert "% of it padding" in plain["basis"]
    more = training("--images", 1000, "--set", "pretrain.settings.precision=auto")
    assert more["images"] == 3000
    assert more["seconds"] == pytest.approx(plain["seconds"] * 125 * 19.5 / 312)
    assert training("--set", "pretrain.settings.device=cpu")["seconds"] is None


def test_on_a_ray_cluster_the_most_actors_of_the_recipe_count_as_workers(tmp_path):
    on_ray = [word for each in ("engine=ray", "ray_address=127.0.0.1:1") for word in ("--set", f"run.{each}")]
    asked = (
        "estimate", write_small_set(tmp_path), "--images", 1000, *UNTIL, "--set", "caption.captioner=blip", *on_ray,
    )  # fmt: skip
    (_, caption) = json.loads(output_of(*asked, "--set", "run.max_actors=10", "--json"))["steps"]
    assert caption["wall"] == pytest.approx(397)
    unbounded = rlip(*asked)
    assert unbounded.exit_code == 1 and "without run.max_actors: set the number of workers" in unbounded.stderr


def test_tokens_of_measured_answers_are_counted_and_priced(book, tmp_path):
    book.add("caption", "set/0000", [captions(n, "a") for n in (1, 2)], facts={"prompt tokens": 240}, rows_in=3)
    grown = {"prompt tokens (new rows)": 80, "completion tokens (new rows)": 80, "images_seen": 1}
    book.add("caption", "set/0001", [captions(n, "a") for n in range(3, 9)], facts=grown)
    sets = ("store=" + book.run.store.address, "caption.captioner=openai", "caption.options.model=m")
    words = [word for each in sets for word in ("--set", each)]
    asked = ["estimate", write_small_set(tmp_path / "set"), "--from", "toy", "--images", 2000, *UNTIL, *words]
    assert "160,000 tokens of prompts and 40,000 of responses; set prompt_price" in output_of(*asked)
    priced = [word for name in ("prompt", "completion") for word in ("--set", f"caption.options.{name}_price=0.2")]
    made = json.loads(output_of(*asked, *priced, "--json"))
    assert made["tokens"] == [160_000, 40_000] and made["tokens_price"] == pytest.approx(0.04)
    crops = [word for each in ('of=["image", "pair"]', "max_regions=4") for word in ("--set", f"caption.{each}")]
    made = json.loads(output_of(*asked, *crops, "--json"))
    assert made["tokens"] == [800_000, 200_000] and "at most 5 captioned regions" in made["steps"][-1]["basis"]


def test_the_score_compares_costs_per_image(labelled, tmp_path):
    (tagged,) = labelled.run.artifacts("tag").values()
    labelled.run.note(ESTIMATE, {"steps": [
        {"step": "tag", "images": 10, "seconds": 10 * tagged.manifest.seconds + 5},
        {"step": "shard:pseudo", "images": 10, "seconds": 1.0},
        {"step": "parse", "images": 10, "seconds": None},
    ]})  # fmt: skip
    tag, shard = scored_estimate(labelled.run)
    assert tag.actual == pytest.approx(tagged.manifest.seconds / 2) and (shard.actual, shard.ratio) == (None, None)
    assert tag.ratio == pytest.approx(tag.actual / tag.estimated)
    output_of("report", "toy", "--store", labelled.run.store.address, "--out", tmp_path / "report", "--pictures", 0)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<h3>Estimate</h3>" in page and f"{tag.estimated:.4g}" in page and f"{tag.ratio:.2f}" in page


def planned(recipe: Recipe) -> dict[str, StepForecast]:
    return {step.step: step for step in forecast(Planner(RunContext(recipe)))}


def grow(root: Path, count: int) -> None:
    """Make the set larger by images without relations and captions: a longer file would caption all images again."""
    write_small_set(root / "more", count)
    (root / "instances.json").write_bytes((root / "more" / "instances.json").read_bytes())
    for path in (root / "more" / "images").iterdir():
        if not (root / "images" / path.name).exists():
            path.rename(root / "images" / path.name)


def test_the_cause_is_reported_below_the_step_where_it_lies(tmp_path):
    write_small_set(tmp_path)
    run(RunContext(small_recipe(tmp_path)), Display())
    grow(tmp_path, 9)
    found = planned(small_recipe(tmp_path))
    assert (found["ingest"].due, found["ingest"].why) == (1, "new partition set/0002")
    for step in ("caption", "parse"):
        assert (found[step].cached, found[step].due, found[step].at_most) == (2, 1, True)
        assert found[step].why == "ingest: new partition set/0002"


def tagger_key(root: Path, *overrides: str) -> str:
    """The key of the tagger that the recipe in `root` would train, once what it reads is made."""
    recipe = small_recipe(root, *overrides)
    run(RunContext(small_recipe(root, "run.until=shard_tagger", *overrides)), Display())
    planner = Planner(RunContext(recipe))
    steps = {step.name: step for step in planner.context.steps}
    planner.plan(steps["ingest"])
    planner.plan(steps["shard_tagger"])
    (item,) = planner.plan(steps["train_tagger"]).due
    assert (item.partition, steps["train_tagger"].stage) == (WHOLE, TrainTaggerStage)
    return item.key


def test_pictures_without_relations_do_not_train_the_tagger_again(tmp_path):
    write_small_set(tmp_path)
    state_relations(tmp_path, 1)
    before = tagger_key(tmp_path)
    grow(tmp_path, 9)
    assert tagger_key(tmp_path) == before
    state_relations(tmp_path, 1, 9)
    assert tagger_key(tmp_path) != before


def test_the_order_in_which_a_recipe_lists_its_datasets_changes_no_key(tmp_path):
    recipe = write_small_set(tmp_path)
    state_relations(tmp_path, 1)
    head, source, rest = recipe.read_text().partition("[[data.sources]]")
    source, caption, rest = (source + rest).partition("[caption]")
    recipe.write_text(head + source + source.replace('name = "set"', 'name = "also"') + caption + rest)
    orders = ('["set", "also"]', '["also", "set"]')
    assert len({tagger_key(tmp_path, f"data.label={names}", f"data.tagger={names}") for names in orders}) == 1


def test_the_processes_of_a_measured_training_count_as_workers(book, tmp_path):
    recipe = write_small_set(tmp_path)
    train_long(recipe.parent)
    book.add("pretrain:none", WHOLE, [], facts={"images_seen": 100, "processes": 4}, rows_in=10)
    (seconds,) = (trained.manifest.seconds for trained in book.run.artifacts("pretrain:none").values())
    assert step_costs(book.run)["pretrain:none"].seconds_per_image == pytest.approx(4 * seconds / 100)
    words = [
        word for each in (f"store={book.run.store.address}", "pretrain.settings.steps=50") for word in ("--set", each)
    ]
    trained = estimated(recipe, "--from", "toy", *words)["pretrain:none"]
    assert trained["seconds"] == pytest.approx(4 * seconds) and trained["wall"] == pytest.approx(trained["seconds"] / 2)


def test_images_that_were_labelled_and_not_packed_count_in_the_cost_of_a_relation(labelled, tmp_path):
    facts = {"images": 2, "relations": 8, "without a relation": 1, "without a box": 1, "excluded": {"test": 4}}
    labelled.add("shard:pseudo", "toys/0000", [], settings={"threshold": 0.5}, facts=facts)
    words = ("--from", "toy", "--set", f"store={labelled.run.store.address}", "--images", 1000, "--json", *UNTIL)
    assert json.loads(output_of("estimate", write_small_set(tmp_path / "set"), *words))["kept_per_image"] == 1
