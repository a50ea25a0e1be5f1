"""What is computed again after a change: the changed stage and what lies below it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiny_chain import World

Computed = Callable[[list[dict[str, Any]]], dict[str, int]]


def test_a_second_run_computes_nothing(finished: World, computed: Computed) -> None:
    assert computed(finished.run()) == {}


def test_another_threshold_re_runs_the_shards_and_below(copied: World, computed: Computed) -> None:
    done = computed(copied.run("shard.threshold=0.5"))
    assert set(done) <= {"shard:pseudo", "pretrain:pseudo", "evaluate:pseudo"}
    assert done["shard:pseudo"] == 3


def test_another_top_p_re_runs_captions_and_below(copied: World, computed: Computed) -> None:
    done = computed(copied.run("caption.top_p=0.5"))
    assert {"caption", "parse"} <= set(done)
    assert not {"ingest", "train_tagger", "shard:none", "pretrain:none"} & set(done)


def test_a_setting_that_changes_no_row_re_runs_nothing(copied: World, computed: Computed) -> None:
    assert computed(copied.run("caption.batch_size=3", "run.workers=1")) == {}


def test_new_images_are_computed_alone(copied: World, computed: Computed, tmp_path: Any) -> None:
    grown = World(copied.root, copied.recipe, tmp_path / "grown", copied.store)
    done = computed(grown.run("scenes.train=58"))
    assert {step: done.get(step) for step in ("ingest", "caption", "parse", "tag", "shard:pseudo")} == {
        "ingest": 1, "caption": 1, "parse": 1, "tag": 1, "shard:pseudo": 1,
    }  # fmt: skip
    assert "train_tagger" not in done


def test_one_worker_and_two_make_the_same_bytes(finished: World, fresh: World) -> None:
    fresh.run("run.workers=1")
    assert fresh.contents() == finished.contents()
