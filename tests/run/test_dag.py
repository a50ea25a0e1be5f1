"""A recipe run up to a stage: the steps that this needs, and the datasets that those steps need."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.run.context import RunContext
from pipeline.run.dag import Step, build_steps
from pipeline.run.doctor import needs
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe
from pipeline.training.settings import fold_of
from storage.errors import FatalError


def built(recipe: Path, *settings: str) -> dict[str, Step]:
    return {step.name: step for step in build_steps(load_recipe(recipe, settings))}


def steps(root: Path, recipe: str, until: str) -> dict[str, tuple[str, ...]]:
    """Step → its datasets."""
    made = built(root / f"recipes/{recipe}.toml", f"run.until={until}")
    return {name: step.datasets for name, step in made.items()}


def test_a_run_up_to_a_stage_has_the_steps_and_datasets_that_it_needs(root):
    assert steps(root, "demo", "ingest") == {"ingest": ("coco", "vg", "test")}
    assert steps(root, "coco", "train_tagger") == {"ingest": ("vg",), "shard_tagger": ("vg",), "train_tagger": ()}
    found = steps(root, "demo", "tag")
    assert list(found) == ["ingest", "caption", "parse", "shard_tagger", "train_tagger", "tag"]
    assert found["ingest"] == ("coco", "vg")
    shards = [name for name in steps(root, "scenes", "shard") if name.startswith("shard:")]
    assert shards == ["shard:pseudo", "shard:none", "shard:given"], "all steps of the stage"


def test_each_fold_has_a_tagger_of_its_own(root):
    made = built(root / "recipes/coco_sample.toml")
    folds = [f"train_tagger:{fold}" for fold in range(3)]
    assert made["tag"].uses == {"tagger": tuple(folds)}
    held_out = [{image for image in range(200) if made[name].settings.holds_out("coco", image)} for name in folds]  # type: ignore[attr-defined]
    assert set().union(*held_out) == set(range(200)) and sum(map(len, held_out)) == 200
    assert all(40 < len(images) < 95 for images in held_out)
    assert all(fold_of("coco", image, 3) == fold for fold, images in enumerate(held_out) for image in images)


def test_the_tagger_learns_from_all_relations_of_an_image(root):
    made = {step.name: step for step in build_steps(load_recipe(root / "recipes/demo.toml", ["shard.max_relations=3"]))}
    assert made["shard_tagger"].settings.max_relations > 10**6  # type: ignore[attr-defined]
    assert made["shard:pseudo"].settings.max_relations == 3  # type: ignore[attr-defined]


def test_labels_without_a_tagger_need_no_set_with_relations(root):
    made = built(root / "recipes/demo.toml", "run.until=shard", 'tag.method="prior"', "data.tagger=[]")
    assert not {"shard_tagger", "train_tagger"} & made.keys()
    assert "vg" not in made["ingest"].datasets and made["tag"].uses == {} and "captions" not in made["tag"].reads
    of_pairs = built(root / "recipes/demo.toml", "run.until=tag", "caption.of=pair")
    assert of_pairs["tag"].reads["captions"] == ("caption",), "which boxes they are of"


def test_a_verifier_follows_the_labels_and_changes_no_other_step(root):
    asked = ['tag.method="vlm"', 'tag.options.model="m"', "data.tagger=[]", "run.until=verify"]
    verified = ['verify.method="vlm"', 'verify.options.model="m"', "shard.threshold=0.6"]
    made = build_steps(load_recipe(root / "recipes/demo.toml", [*asked, *verified]))
    assert [step.name for step in made] == ["ingest", "caption", "parse", "tag", "verify"]
    *_, tag, verify = (step.stage(step.settings).row_settings() for step in made)
    assert (tag["options"]["ask"], verify["options"]["ask"], verify["kept"]["threshold"]) == ("pair", "label", 0.6)
    assert made[-1].settings.answers == made[-2].settings.answers != None  # noqa: E711
    for wrong in ('verify.method="prior"', 'verify.options.modle="m"'):
        with pytest.raises((FatalError, ValidationError), match=r"verify[.:]"):
            load_recipe(root / "recipes/demo.toml", [*asked, *verified[1:], wrong])


def test_a_training_waits_for_the_check_against_its_test_sets(root):
    made = built(root / "recipes/demo.toml")
    assert made["pretrain:pseudo"].after == ("overlap:pseudo",)
    assert "overlap:none" in steps(root, "scenes", "pretrain")
    assert not made["pretrain:pseudo"].reads.keys() & {"overlap", "fingerprints"}  # a new test set trains nothing again


def test_naive_labels_come_from_what_the_tagger_read_too(root):
    made = built(root / "recipes/demo.toml", 'pretrain.variants=["naive"]')
    assert made["shard:naive"].reads == {"images": ("ingest",), "relations": ("tag",)}
    assert "pretrain:naive" in made and "pretrain:pseudo" not in made
    with pytest.raises(FatalError, match=r"pretrain\.variants has 'naive', which needs a tagger"):
        load_recipe(root / "recipes/demo.toml", ['pretrain.variants=["naive", "pseudo"]', "data.tagger=[]"])


def test_without_labels_the_boxes_of_every_image_are_learned_also_with_the_authors_settings(root):
    released = root / "recipes/paper/parseda_swin_t_vg_coco.toml"
    made: dict[str, Any] = built(released, 'pretrain.variants=["none", "given"]')
    assert made["pretrain:none"].settings.official and made["pretrain:none"].settings.self_pairs
    assert not made["pretrain:given"].settings.self_pairs
    kept = [made[f"shard:{labels}"].settings.without_relations for labels in ("none", "given", "mix")]
    assert kept == ["keep", "drop", "drop"]


def test_a_stage_that_the_recipe_lacks_is_reported_with_those_it_has(root):
    with pytest.raises(FatalError, match="has no such step; it has ingest, caption, parse, shard_tagger, train_t"):
        steps(root, "label_coco_swin_t", "pretrain")
    with pytest.raises(FatalError, match=r"run\.until = 'tagger'.*parse, shard_tagger, train_tagger, tag"):
        steps(root, "demo", "tagger")


def test_what_is_not_carried_out_is_not_asked_for(root):
    context = RunContext(load_recipe(root / "recipes/coco.toml", ["run.until=train_tagger"]))
    asked = {finding.what for finding in needs(context)}
    assert "data.sources vg" in asked
    assert not asked & {"data.sources coco_train", "caption model", "parse.model"}


BARE = """
name = "mine"
[[data.sources]]
name = "annotated"
images = "."
annotations = "instances.json"
[[data.sources]]
name = "bare"
format = "images"
images = "."
[tag]
weights = "demo"
"""


def test_only_sets_without_annotations_go_through_the_detector(tmp_path):
    (tmp_path / "mine.toml").write_text(BARE + '[detect]\nweights = "detector"\n')
    made = built(tmp_path / "mine.toml")
    assert list(made) == ["ingest", "detect", "caption", "parse", "import_tagger", "tag"]
    assert made["detect"].datasets == ("bare",) and made["ingest"].datasets == ("annotated", "bare")
    assert made["caption"].reads["images"] == made["tag"].reads["images"] == ("ingest", "detect")
    (tmp_path / "one.toml").write_text('extends = "mine.toml"\n[data]\nlabel = ["annotated"]\n')
    assert "detect" not in built(tmp_path / "one.toml")


def test_a_set_without_annotations_needs_a_detector_and_states_no_relations(tmp_path):
    (tmp_path / "mine.toml").write_text(BARE)
    with pytest.raises(FatalError, match=r"detect\.weights: missing, but dataset 'bare'"):
        load_recipe(tmp_path / "mine.toml")
    for role in ("tagger", "mix", "test"):
        with pytest.raises(FatalError, match=rf"{role}: 'bare' has no annotations"):
            built(tmp_path / "mine.toml", "detect.weights=d", 'data.label=["annotated"]', f'data.{role}=["bare"]')


@pytest.mark.parametrize("lines, words, ends_with", [
    ("[shard]", [], "shard:pseudo"),
    ("[shard]\nthreshold = 0.4\n[pretrain]\nvariants = []", [], "shard:pseudo"),
    ("", ["run.until=shard"], "shard:pseudo"),
    ("", [], "tag"),
    ("[shard]\npack = false", [], "tag"),
    ('[shard]\nlabels = "none"', [], "shard:none"),
])  # fmt: skip
def test_labels_are_packed_if_a_recipe_says_so(tmp_path, lines, words, ends_with):
    source = '[[data.sources]]\nname = "mine"\nimages = "."\nannotations = "instances.json"\n'
    (tmp_path / "mine.toml").write_text(f'{source}[tag]\nweights = "demo"\n{lines}\n')
    recipe = load_recipe(tmp_path / "mine.toml", words)
    assert build_steps(recipe)[-1].name == ends_with
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert build_steps(again)[-1].name == ends_with


def test_images_that_are_only_mixed_in_are_packed_without_unseen_triplets(root):
    mixed = ("pretrain.variants=[]", "shard.pack=false", "data.mix=['vg']", "split={method='rare_first'}")
    made = built(root / "recipes/demo.toml", *mixed)
    assert {need for step in made.values() for need in step.needs} <= made.keys()
    assert [name for name in made if name.startswith("shard:")] == ["shard:mix"]
    assert made["shard:mix"].uses["split"] == ("split",)
