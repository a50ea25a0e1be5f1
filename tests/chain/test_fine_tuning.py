"""Fine-tuning from another run's weights: on a seeded share, with unseen combinations, and never on test images."""

import shutil
import signal
import time
from pathlib import Path

import pytest
from tiny_chain import World

from pipeline.training.vocabulary import copy_tokenizer
from storage.open_store import existing_store
from storage.runs import Run


@pytest.fixture
def tuned(copied: World, tmp_path: Path) -> World:
    """The fine-tuning recipe on the finished store, from a copy of its weights that lies elsewhere."""
    (artifact,) = copied.artifacts()["pretrain:pseudo"].values()
    shutil.copyfile(artifact.file("model.safetensors"), tmp_path / "weights.safetensors")
    copy_tokenizer(artifact.file("vocab.json").parent, tmp_path)
    return World(copied.root, copied.root / "tests/chain/fine_tune.toml", copied.data, copied.store)


def pretrained(tmp_path: Path) -> str:
    return f"pretrain.settings.pretrained={tmp_path / 'weights.safetensors'}"


def test_a_tenth_of_the_images_is_tuned_on_and_unseen_triplets_are_scored_apart(tuned, tmp_path):
    process = tuned.start(pretrained(tmp_path))
    while '"pretrain:given"' not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(2)  # wherever the training is then
    process.send_signal(signal.SIGKILL)
    process.communicate()
    tuned.run(pretrained(tmp_path))
    run = Run(existing_store(tuned.store), "tuned")
    (images,) = (artifact for part, artifact in run.artifacts("ingest").items() if part.startswith("coco/"))
    assert len(images.table("images")) == 5  # of 48
    assert images.manifest.facts["sample"] == {"share": 0.1, "seed": 3}

    (split,) = run.artifacts("split").values()
    rows = split.table("split").to_pylist()
    unseen = {(row["subject"], row["predicate"], row["object"]) for row in rows if row["unseen"]}
    left_out = sum(row["instances"] for row in rows if row["unseen"])
    assert len(unseen) == 4 and left_out >= 4
    shards = [artifact for step in ("shard:given", "shard:mix") for artifact in run.artifacts(step).values()]
    assert sum(shard.manifest.facts["relations of unseen triplets"] for shard in shards) == left_out
    assert all(shard.manifest.facts["relations"] > 0 for shard in shards)

    (checked,) = run.artifacts("overlap:given").values()
    assert checked.manifest.facts["images behind the pretrained weights"] == 48
    assert "not compared" not in checked.manifest.facts

    (scored,) = run.artifacts("evaluate:given").values()
    scores = {row["name"]: row["value"] for row in scored.table("scores").to_pylist()}
    assert {"unseen_map", "seen_map", "full_map"} <= scores.keys()
    count, every = scores["unseen_triplets"], scores["triplets"]
    assert 1 <= count <= 4
    mean = (scores["unseen_map"] * count + scores["seen_map"] * (every - count)) / every
    assert scores["full_map"] == scores["zero_shot_map"] == pytest.approx(mean)
    assert tuned.due(pretrained(tmp_path)) == set()
