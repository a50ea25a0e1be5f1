"""The floor under a run's labels holds for all partitions together, before the run accepts them."""

from pathlib import Path

import pytest
from run_builder import TWO_PEOPLE, RunBuilder, pairs, relations

from pipeline.runtime.stage import Inputs
from pipeline.stages.tag import TagSettings, TagStage
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.runs import Run


def made(folder: Path, *riders: int, given: bool = True) -> Inputs:
    """One partition per rider: person 0 rides the horse, and the tagger scores `rider` above the other person."""
    book = RunBuilder(Run(LocalStore(folder / "store"), "toy"), folder / "pictures")
    for number, rider in enumerate(riders):
        truth = [(0, "riding", 2), (1, "next to", 0)] if given else []
        book.add("ingest", f"toys/{number:04}", [book.image(number, TWO_PEOPLE, truth)])
        book.add(
            "tag",
            f"toys/{number:04}",
            [relations(number, (rider, "ride", 2, 0.9), (1 - rider, "ride", 2, 0.3), (0, "next to", 1, 0.8))],
            candidates=[pairs(number, (0, "ride", 2, 2), (1, "ride", 2, 2), (0, "next to", 1, 1))],
        )
    steps = {"images": "ingest", "relations": "tag"}
    return Inputs({table: list(book.run.artifacts(step).values()) for table, step in steps.items()})


def judge(labels: Inputs, floor: float) -> None:
    TagStage(TagSettings(audit_floor=floor)).audit(labels)


def test_labels_below_the_floor_are_refused_and_their_predicates_named(tmp_path: Path) -> None:
    with pytest.raises(
        FatalError, match=r"tag\.audit_floor = 0\.9 .*; worst predicates: ride 0\.50 \(2 true\)\. "
    ) as refused:
        judge(made(tmp_path, 1, 1), 0.9)
    assert "next to" not in str(refused.value)


def test_the_floor_is_that_of_all_partitions_together(tmp_path: Path) -> None:
    mixed = made(tmp_path, 0, 0, 0, 1)
    judge(mixed, 0.75)  # the last partition alone has .58
    with pytest.raises(FatalError, match="4 true"):
        judge(mixed, 0.99)


def test_labels_that_nothing_can_judge_are_refused_too(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="nothing to judge the labels by; set it to 0"):
        judge(made(tmp_path, 0, given=False), 0.1)


def test_without_a_floor_nothing_is_judged() -> None:
    judge(Inputs(), 0.0)


def test_another_floor_is_no_other_labelling() -> None:
    assert TagSettings(audit_floor=0.5).row_settings() == TagSettings().row_settings()
