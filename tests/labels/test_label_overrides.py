"""What reviewers settle decides labels: what they reject is out, what they accept or correct is in."""

from dataclasses import replace

import pyarrow as pa
import pytest
from run_builder import TWO_PEOPLE, RunBuilder, pairs, relations

from pipeline.cli.explain import trace_of
from pipeline.interop.run_rows import RunRows
from pipeline.labels.kept_labels import ChoiceSettings, NotKept, judged_labels
from pipeline.labels.label_overrides import (
    Overrides,
    SettledVerdicts,
    overrides_of,
    overrides_table,
    place_overrides,
    settled,
)
from pipeline.labels.label_rows import flat_labels
from pipeline.labels.verdicts import Box4, JudgedRelation, Kind, Verdict
from pipeline.report.figures import compute_figures
from pipeline.runtime.stage import Rejected
from storage.runs import Run
from storage.tables import CANDIDATES, IMAGES, RELATIONS

BOXES: list[Box4] = [(x, y, w, h) for _, x, y, w, h in TWO_PEOPLE]
DIGEST = "d" * 64


def relation(subject: int, predicate: str, object_: int) -> JudgedRelation:
    return JudgedRelation(DIGEST, BOXES[subject], BOXES[object_], predicate)


def said(about: JudgedRelation, *kinds: Kind, **values: object) -> dict[JudgedRelation, dict[str, Verdict]]:
    by_reviewer = {
        f"r{place}": Verdict(about, kind, f"r{place}", "2026-01-31T12:00:00+00:00", "person", "horse", **values)  # type: ignore[arg-type]
        for place, kind in enumerate(kinds)
    }
    return {about: by_reviewer}


@pytest.fixture
def images() -> pa.Table:
    boxes = [
        {"category": c, "x": x, "y": y, "w": w, "h": h, "crowd": False, "source_id": 1} for c, x, y, w, h in TWO_PEOPLE
    ]
    row = {"dataset": "toys", "split": "train", "image_id": 7, "uri": "7.png", "digest": DIGEST, "width": 200}
    return pa.Table.from_pylist([{**row, "height": 120, "boxes": boxes, "relations": []}], schema=IMAGES)


LABELS = pa.Table.from_pylist(
    [relations(7, (0, "riding", 2, 0.9), (1, "riding", 2, 0.05), (0, "near", 1, 0.3))], schema=RELATIONS
)
PAIRS = pa.Table.from_pylist([pairs(7, (0, "riding", 2, 2), (1, "riding", 2, 2))], schema=CANDIDATES)


def kept(overrides: Overrides | None, **settings: object) -> list[tuple[int, str, int, float]]:
    found = judged_labels(LABELS, PAIRS, ChoiceSettings(**settings), overrides).kept()[7]  # type: ignore[arg-type]
    return [(r.subject, r.predicate, r.object, r.confidence) for r in found]


def placed(images: pa.Table, standing: dict[JudgedRelation, dict[str, Verdict]]) -> tuple[Overrides, int]:
    return place_overrides(settled(standing), images, LABELS)


def test_verdicts_come_before_scores(images):
    standing = said(relation(0, "ride", 2), "reject") | said(relation(1, "rides", 2), "accept")
    overrides, homeless = placed(images, standing)
    assert [each for each in kept(None) if each[1] == "ride"] == [(0, "ride", 2, 0.9)]
    assert [each for each in kept(overrides) if each[1] == "ride"] == [(1, "ride", 2, 1.0)]
    judged = [*judged_labels(LABELS, PAIRS, ChoiceSettings(threshold=0.2), overrides).each()]
    assert [one.reason for one in judged] == [NotKept.REJECTED_BY_REVIEWER, None, None]
    # Among the other labels, it ranks last.
    assert [one.confidence for one in judged] == [0.0, 1.0, 0.3]
    assert homeless == 0


def test_a_corrected_pair_or_predicate_takes_the_place_of_the_label(images):
    moved = said(relation(0, "ride", 2), "wrong_pair", corrected_subject=BOXES[1])
    renamed = said(relation(0, "near", 1), "wrong_predicate", corrected_predicate="looking at")
    overrides, _ = placed(images, moved | renamed)
    assert kept(overrides) == [(0, "look at", 1, 1.0), (1, "ride", 2, 1.0)]


def test_a_label_that_only_a_person_knows_is_added_within_the_limit_of_an_image(images):
    overrides, _ = placed(images, said(relation(1, "feed", 2), "accept") | said(relation(1, "ride", 2), "accept"))
    assert (1, "feed", 2, 1.0) in kept(overrides)
    assert kept(overrides, max_relations=2) == [(1, "feed", 2, 1.0), (1, "ride", 2, 1.0)]
    assert len(kept(overrides, max_relations=1)) == 1


def test_a_label_that_reviewers_added_is_in_every_table(labelled):
    added = {"image_id": 1, "subject": 1, "predicate": "lead", "object": 2, "holds": True}
    labelled.add("shard:pseudo", "toys/0000", [], settings={"threshold": 0.75}, overrides=[added])
    rows = [row for table in flat_labels(labelled.run) for row in table.to_pylist()]
    last = [(row["predicate"], row["score"], row["confidence"]) for row in rows if row["kept"]][-1]
    assert last == ("lead", None, 1.0)
    counted = compute_figures(labelled.run, ["toys"], ChoiceSettings(threshold=0.75))
    assert (counted.labels.scored, counted.labels.added, counted.labels.kept) == (5, 1, 3)
    assert "lead" in {each.predicate for each in counted.predicates}
    exported = [r for image in RunRows(labelled.run).images("toys", "relations") for r in image.items("relations")]
    assert len(exported) == sum(row["kept"] for row in rows) == 3


def test_a_label_that_reviewers_added_to_an_image_that_the_tagger_rejected_counts(labelled):
    rows, failed = [relations(2, (0, "ride", 2, 0.9))], [Rejected(1, "no usable response", "?")]
    labelled.add("tag", "toys/0000", rows, candidates=[pairs(2)], rejected=failed, settings={"again": 1})
    added = {"image_id": 1, "subject": 1, "predicate": "lead", "object": 2, "holds": True}
    labelled.add("shard:pseudo", "toys/0000", [], settings={"threshold": 0.75}, overrides=[added])
    run = labelled.run
    tagged, overrides = run.artifacts("tag")["toys/0000"], overrides_of(run)["toys/0000"]
    found = judged_labels(tagged.table("relations"), tagged.table("candidates"), ChoiceSettings(), overrides).kept()
    assert {image_id: [label.predicate for label in its] for image_id, its in found.items()} == {
        1: ["lead"],
        2: ["ride"],
    }
    listed = {row["image_id"]: row["predicate"] for table in flat_labels(run) for row in table.to_pylist()}
    exported = {
        i.image_id: r["predicate"] for i in RunRows(run).images("toys", "relations") for r in i.items("relations")
    }
    assert listed == exported == {1: "lead", 2: "ride"}
    counted = compute_figures(run, ["toys"], ChoiceSettings(threshold=0.75))
    assert (counted.labels.added, counted.labels.kept, counted.audits[0].coverage.kept.relations) == (1, 2, 2)
    assert [label["predicate"] for label in trace_of(run, "1").labels] == ["lead"]


def test_overrides_belong_to_a_partition_by_the_name_that_the_run_gives_it(labelled):
    """Runs on parts of a dataset share artifacts, whatever the numbers of their partitions."""
    rows = [relations(1, (0, "ride", 2, 0.9), (1, "ride", 2, 0.8)), relations(2)]
    other = RunBuilder(Run(labelled.run.store, "other"), labelled.pictures)
    for book, partition in ((other, "toys/0001"), (labelled, "toys/0000")):
        book.add("tag", partition, rows, candidates=[pairs(1), pairs(2)], settings={"same": 1})
    wrong = {"image_id": 1, "subject": 0, "predicate": "ride", "object": 2, "holds": False}
    labelled.add("shard:pseudo", "toys/0000", [], settings={"threshold": 0.75}, overrides=[wrong])
    run = labelled.run
    exported = [r for image in RunRows(run).images("toys", "relations") for r in image.items("relations")]
    assert [r["subject"] for r in exported] == [1]
    assert [label["not_kept"] for label in trace_of(run, "1").labels] == [NotKept.REJECTED_BY_REVIEWER, None]
    audit = compute_figures(run, ["toys"], ChoiceSettings(threshold=0.75)).audits[0].labels
    assert audit is not None and audit.tagger.kept == 1


def test_overrides_in_shards_of_earlier_images_no_longer_count(book):
    for version, boxes in enumerate((TWO_PEOPLE, [TWO_PEOPLE[1], TWO_PEOPLE[0]])):
        book.add("ingest", "toys/0000", [book.image(1, boxes)], settings={"version": version})
        read = {"images": [book.run.artifacts("ingest")["toys/0000"].content]}
        book.add("tag", "toys/0000", [relations(1, (0, "lead", 1, 0.9))], settings={"version": version}, inputs=read)
        if version == 0:
            said = [{"image_id": 1, "subject": 0, "predicate": "lead", "object": 1, "holds": False},
                    {"image_id": 1, "subject": 0, "predicate": "feed", "object": 2, "holds": True}]  # fmt: skip
            book.add("shard:pseudo", "toys/0000", [], settings={}, overrides=said, inputs=read)
        kept = [(row["predicate"], row["kept"]) for table in flat_labels(book.run) for row in table.to_pylist()]
        assert kept == [[("lead", False), ("feed", True)], [("lead", True)]][version]


def test_a_rejected_label_takes_no_place_of_another(images):
    overrides, _ = placed(images, said(relation(0, "ride", 2), "reject"))
    of_pair = pa.Table.from_pylist([relations(7, (0, "riding", 2, 0.9), (0, "feeding", 2, 0.5))], schema=RELATIONS)
    one = ChoiceSettings(per_pair=1)
    assert [r.predicate for r in judged_labels(of_pair, PAIRS, one).kept()[7]] == ["ride"]
    assert [r.predicate for r in judged_labels(of_pair, PAIRS, one, overrides).kept()[7]] == ["feed"]


def test_reviewers_who_do_not_agree_settle_nothing():
    about = relation(0, "ride", 2)
    assert settled(said(about, "accept", "reject")) == SettledVerdicts()
    assert settled(said(about, "unsure")) == SettledVerdicts()
    assert settled(said(about, "unsure", "unsure", "accept")).right == {DIGEST: {about}}
    assert settled(said(about, "accept", "accept", "reject")).right == {DIGEST: {about}}


def test_reviewers_who_find_different_faults_agree_that_a_label_is_wrong():
    about = relation(0, "ride", 2)
    one = said(about, "wrong_pair", corrected_subject=BOXES[1])[about]["r0"]
    other = replace(one, kind="wrong_predicate", corrected_subject=None, corrected_predicate="feed", reviewer="r1")
    found = settled({about: {"r0": one, "r1": other}})
    assert (found.right, found.wrong) == ({}, {DIGEST: {about}})


def test_a_verdict_on_a_relation_weighs_more_than_a_correction_that_leads_to_it():
    about, corrected = relation(0, "ride", 2), relation(1, "ride", 2)
    moved = said(about, "wrong_pair", corrected_subject=BOXES[1])
    assert settled(moved).right == {DIGEST: {corrected}}
    found = settled(moved | said(corrected, "reject"))
    assert (found.right, found.wrong) == ({}, {DIGEST: {about, corrected}})


def test_verdicts_on_boxes_that_are_gone_are_counted_and_change_nothing(images):
    gone = JudgedRelation(DIGEST, (1, 1, 1, 1), BOXES[2], "ride")
    overrides, homeless = placed(images, said(gone, "reject"))
    assert (overrides, homeless) == ({}, 1)
    assert placed(images, said(replace(gone, image="e" * 64), "reject")) == ({}, 0)


def test_of_boxes_in_one_place_all_are_meant_by_a_rejection_and_the_scored_by_an_acceptance(images):
    row = images.to_pylist()[0]
    twice = pa.Table.from_pylist([{**row, "boxes": [*row["boxes"], row["boxes"][2]]}], schema=IMAGES)
    overrides, _ = placed(twice, said(relation(0, "ride", 2), "reject") | said(relation(1, "ride", 2), "accept"))
    assert overrides[7].wrong == {(0, 2, "ride"), (0, 3, "ride")}
    assert overrides[7].right == {(1, 2, "ride")}
    assert overrides_table(overrides).num_rows == 3


def test_the_digest_follows_from_what_is_settled_alone():
    about = relation(0, "ride", 2)
    once, often = settled(said(about, "reject")), settled(said(about, "reject", "reject", "unsure", seconds=3.0))
    assert once.digest == often.digest
    assert once.digest != settled(said(about, "accept")).digest
