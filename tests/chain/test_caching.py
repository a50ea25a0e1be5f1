"""What is recomputed after a change: the changed stage and everything downstream, and nothing else."""

import json
import re

from rlip_command import rlip
from tiny_chain import World, computed

from pipeline.run.context import RunContext
from pipeline.run.planner import Planner
from pipeline.run.recipe_files import load_recipe

BELOW_SHARD = {"shard:pseudo", "overlap:pseudo", "pretrain:pseudo", "evaluate:pseudo"}


def test_a_second_run_computes_nothing(finished):
    assert computed(finished.run()) == {}


def test_another_threshold_re_runs_the_shards_and_below(copied):
    assert copied.due("shard.threshold=0.21") == BELOW_SHARD
    assert computed(copied.run("shard.threshold=0.21", "run.until=shard")) == {"shard:pseudo": 3}
    output = {each["partition"]: each["causes"] for each in copied.ask("why", "tiny", "shard:pseudo")}
    assert [[(c["term"], c["old"], c["new"]) for c in causes] for causes in output.values()] == [
        [("settings.threshold", 0.05, 0.21)]
    ] * 3


def test_another_top_p_re_runs_captions_and_below(finished):
    assert finished.due("caption.top_p=0.5") == {"caption", "parse", "tag", *BELOW_SHARD}


def test_a_setting_that_changes_no_row_re_runs_nothing(finished):
    assert finished.due("caption.batch_size=3", "run.workers=1", "pretrain.settings.processes=1") == set()


def test_what_was_damaged_is_rebuilt_and_all_below_stays_cached(finished, copied):
    for artifact in copied.artifacts()["parse"].values():
        artifact.file("triplets.parquet").write_bytes(b"torn")
    assert copied.ask("store", "verify", "tiny", "--repair")["removed"] == 3
    assert computed(copied.run()) == {"parse": 3}
    assert copied.contents() == finished.contents()


def test_new_images_are_computed_alone(copied, tmp_path):
    grown = World(copied.root, copied.recipe, tmp_path / "grown", copied.store)
    done = computed(grown.run("scenes.train=58", "run.until=tag"))
    assert done == {"ingest": 1, "caption": 1, "parse": 1, "tag": 1}, "new images train no tagger"


def test_labels_below_the_floor_stop_the_run_and_a_lower_one_computes_nothing(copied):
    before = copied.contents()
    done = rlip(
        *copied.words("run.checks.min_overall_average_precision=0.999", "tag.floor=0.04", "shard.threshold=0.9"),
        cwd=copied.root,
    )
    assert done.exit_code == 1
    assert re.search(
        r"labels refused: .* below run\.checks\.min_overall_average_precision = 0\.999 .*; worst predicates: \w+",
        done.stderr,
    )
    assert computed([json.loads(line) for line in done.stdout.splitlines()]) == {"tag": 3}
    assert copied.contents() == before, "the run still refers to the same artifacts"
    assert copied.due("run.checks.min_overall_average_precision=0", "tag.floor=0.04") <= BELOW_SHARD


def test_labels_that_passed_are_judged_once(copied, monkeypatch):
    where = [f"data.root={copied.data}", f"store={copied.store}", "run.until=tag"]
    copied.run("run.checks.min_overall_average_precision=0.001", "run.until=tag")
    judged: list[float] = []
    monkeypatch.setattr("pipeline.run.planner.require_precise_labels", lambda labels, limit: judged.append(limit))
    for floor, times in ((0.001, 0), (0.002, 1), (0.002, 1), (0.001, 2)):
        planner = Planner(
            RunContext(load_recipe(copied.recipe, [*where, f"run.checks.min_overall_average_precision={floor}"]))
        )
        for step in planner.context.steps:
            assert not planner.plan(step).due
            planner.audit(step)
        assert len(judged) == times


def test_training_a_tagger_alone_prints_its_place_and_leaves_the_run_unchanged(copied):
    *_, outcome, output = copied.run(do="weights train-tagger")
    assert [stage["step"] for stage in outcome["stages"] if stage["cached"] is not None] == [
        "ingest", "shard_tagger", "train_tagger",
    ]  # fmt: skip
    assert outcome["computed"] == 0
    (tagger,) = copied.artifacts()["train_tagger"].values()
    assert output["weights"] == str(tagger.folder / "model.safetensors")
    assert output["images"] + output["held_out"] <= 32
    assert {part.split("/")[0] for part in copied.contents()["ingest"]} == {"coco", "vg", "test"}


def test_a_run_tells_of_what_it_has_not_of_the_last_command(copied):
    before = copied.ask("show", "tiny", "tag")["labels"]
    copied.run("shard.threshold=0.9", "run.until=ingest")
    assert copied.ask("show", "tiny", "tag")["labels"] == before
    copied.run("shard.threshold=0.9", "run.until=shard")
    after = copied.ask("show", "tiny", "tag")["labels"]
    assert after["choice"] == "probability ≥ 0.9" != before["choice"]
    assert copied.ask("show", "tiny@1", "tag")["labels"] == before
    records = copied.ask("show", "tiny", "--history")["records"]
    assert [record["run"] for record in records] == [f"tiny@{n}" for n in range(1, len(records) + 1)]
    assert records[-1]["recipe"]["shard"]["threshold"] == 0.9
