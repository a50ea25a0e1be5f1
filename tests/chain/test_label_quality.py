"""Labels of the generated scenes are worth training on: the demo's chain up to its labels, on fewer images."""

import pytest
from tiny_chain import World

FEWER = (
    "scenes.train=120", "scenes.relations=360", "scenes.test=1", "train_tagger.image_size=96",
    "train_tagger.batch=4", "train_tagger.micro_batch=2", "train_tagger.warmup=10", "train_tagger.held_out=0.3",
    "train_tagger.processes=1", "run.until=tag", "run.checks.min_overall_average_precision=0.5",
)  # fmt: skip
"""Small images and batches, for as many updates from fewer images, of which more are held out for the calibration."""


@pytest.mark.timeout(1800)
def test_labels_are_far_better_than_naive_ones_and_know_how_sure_they_are(root, tmp_path):
    world = World(root, root / "recipes" / "demo.toml", tmp_path / "data", tmp_path / "store")
    world.run(*FEWER)
    audit = world.ask("show", "demo", "tag")["labels"]["audits"]["coco"]
    assert audit["tagger"]["precision_at_recall"] >= audit["naive"]["precision_at_recall"] + 0.25
    assert audit["probability_error"] <= 0.05 < audit["score_error"]
