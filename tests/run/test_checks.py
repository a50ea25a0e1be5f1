"""A partition that fails a check holds back only what reads it, and another limit computes nothing again."""

import json
from pathlib import Path

import pytest
from rlip_command import output_of, rlip
from run_builder import TWO_PEOPLE, RunBuilder, pairs, relations
from small_set import small_recipe, state_relations, write_small_set

from pipeline.run.checks import CHECKS, require_precise_labels
from pipeline.run.context import RunContext
from pipeline.run.planner import Planner
from pipeline.run.progress import Display
from pipeline.run.runner import run
from pipeline.runtime.stage import Inputs
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.runs import Run

LIMIT = "run.checks.max_reject_share=0.2"
UNTIL = ("--direct", "--set", "run.until=caption")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Eight images in two partitions; one of the first four is cut short."""
    recipe = write_small_set(tmp_path)
    picture = tmp_path / "images" / "000002.png"
    picture.write_bytes(picture.read_bytes()[:60])
    recipe.write_text(recipe.read_text().replace("[run]", "[run.checks]\nmax_overall_reject_share = 0.5\n[run]"))
    return recipe


def test_only_what_reads_the_partition_is_left_out(damaged):
    store = damaged.parent / "out" / "store"
    done = rlip("run", damaged, *UNTIL, "--set", LIMIT)
    assert done.exit_code == 1
    assert (
        "ingest set/0000: reject share 0.25, must be at most 0.2" in done.stderr
        and "rlip show small --checks" in done.stderr
    )
    made = Run(LocalStore(store), "small")
    assert {step: list(made.artifacts(step)) for step in ("ingest", "caption")} == {
        "ingest": ["set/0000", "set/0001"], "caption": ["set/0001"],
    }  # fmt: skip

    shown = output_of("show", "small", "--checks", "--store", store)
    assert ["ingest", "reject", "share", "≤", "0.2", "2", "0", "0.25", "1"] in [
        line.split() for line in shown.splitlines()
    ]
    rows = json.loads(output_of("show", "small@1", "--checks", "--store", store, "--json"))["checks"]
    assert [(row["partition"], row["value"], row["passed"]) for row in rows if row["step"] == "ingest"] == [
        ("set/0000", 0.25, False), ("set/0001", 0.0, True),
    ]  # fmt: skip

    ingested = made.keys("ingest")
    loose = [json.loads(line) for line in output_of("run", damaged, *UNTIL, "--json").splitlines()][-1]
    assert {row["step"]: row["partitions"] - row["cached"] for row in loose["stages"]} == {
        "ingest": 0, "caption": 1,
    }  # fmt: skip
    assert made.keys("ingest") == ingested and "no checks" in output_of("show", "small", "--checks", "--store", store)


def test_a_plan_shows_the_checks_and_what_they_leave_out(damaged):
    rlip("run", damaged, *UNTIL, "--set", LIMIT)
    rows = {row["step"]: row for row in json.loads(output_of("plan", damaged, "--json", "--set", LIMIT))}
    assert rows["ingest"]["checks"] == ["reject share ≤ 0.2"] and rows["ingest"]["held"] == 0
    assert (rows["parse"]["cached"], rows["parse"]["due"], rows["parse"]["held"]) == (0, 1, 1)
    assert "held back: ingest set/0000 failed its check: reject share 0.25" in rows["caption"]["why"]


def test_a_step_over_the_whole_set_is_refused(damaged):
    root = damaged.parent
    state_relations(root, 1)
    run(RunContext(small_recipe(root, LIMIT, "run.until=shard_tagger")), Display())
    planner = Planner(RunContext(small_recipe(root, LIMIT)))
    steps = {step.name: step for step in planner.context.steps}
    planner.plan(steps["ingest"])
    assert list(planner.plan(steps["shard_tagger"]).held) == ["set/0000"]
    with pytest.raises(FatalError, match=r"train_tagger would read partitions .*first: ingest set/0000"):
        planner.plan(steps["train_tagger"])
    rows = {row["step"]: row for row in json.loads(output_of("plan", damaged, "--json", "--set", LIMIT))}
    assert rows["train_tagger"]["why"].startswith("refused: ingest set/0000") and rows["tag"]["why"].startswith(
        "refused"
    )


def test_labels_are_measured_by_what_their_own_partition_states(book):
    book.add(
        "ingest", "toys/0000", [book.image(1, TWO_PEOPLE, [(0, "riding", 2), (1, "next to", 0), (1, "holding", 2)])]
    )
    book.add(
        "tag",
        "toys/0000",
        [relations(1, (1, "ride", 2, 0.9), (0, "ride", 2, 0.3), (0, "next to", 1, 0.2))],
        candidates=[pairs(1, (0, "riding", 2, 2), (1, "riding", 2, 2), (0, "next to", 1, 1))],
        facts={"relations": 3},
    )
    tagged, images = (book.run.artifacts(step)["toys/0000"] for step in ("tag", "ingest"))
    measured = {check.name: check.measure(tagged, {"images": images}) for check in CHECKS}
    assert (measured["rows"], measured["reject share"], measured["relations per image"]) == (1, 0, 3)
    assert measured["unreachable predicates"] == pytest.approx(1 / 3)  # no candidate holds anything
    assert measured["average precision"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_nothing_stated_is_nothing_to_judge(book):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], candidates=[pairs(1, (0, "ride", 2, 1))])
    tagged, images = (book.run.artifacts(step)["toys/0000"] for step in ("tag", "ingest"))
    assert [check.measure(tagged, {"images": images}) for check in CHECKS][-3:] == [None, None, None]


def labelled(folder: Path, *riders: int, truth: bool = True) -> Inputs:
    """One partition per rider: person 0 rides the horse, and the tagger scores `rider` above the other person."""
    book = RunBuilder(Run(LocalStore(folder / "store"), "toy"), folder / "pictures")
    for number, rider in enumerate(riders):
        true = [(0, "riding", 2), (1, "next to", 0)] if truth else []
        book.add("ingest", f"toys/{number:04}", [book.image(number, TWO_PEOPLE, true)])
        book.add(
            "tag",
            f"toys/{number:04}",
            [relations(number, (rider, "ride", 2, 0.9), (1 - rider, "ride", 2, 0.3), (0, "next to", 1, 0.8))],
            candidates=[pairs(number, (0, "ride", 2, 2), (1, "ride", 2, 2), (0, "next to", 1, 1))],
        )
    steps = {"images": "ingest", "relations": "tag"}
    return Inputs({table: list(book.run.artifacts(step).values()) for table, step in steps.items()})


def test_labels_below_the_limit_of_all_partitions_together_are_refused_and_their_predicates_named(tmp_path):
    with pytest.raises(FatalError, match=r"= 0\.9 .*; worst predicates: ride 0\.5 \(2 true\)\. ") as refused:
        require_precise_labels(labelled(tmp_path / "wrong", 1, 1), 0.9)
    assert "next to" not in str(refused.value)
    mixed = labelled(tmp_path / "mixed", 0, 0, 0, 1)
    require_precise_labels(mixed, 0.75)  # the last partition alone has .58
    with pytest.raises(FatalError, match=r"precision 0\.\d{4} over 8 .* ride 0\.\d{4} \(4 true\)"):
        require_precise_labels(mixed, 0.99)
    with pytest.raises(FatalError, match="the labels can't be evaluated; set it to 0"):
        require_precise_labels(labelled(tmp_path / "untrue", 0, truth=False), 0.1)
