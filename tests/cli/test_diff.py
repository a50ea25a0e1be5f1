"""`rlip diff`: relations that were added, lost or re-scored between two runs, with the change that caused it."""

import json

import pyarrow as pa
import pytest
from run_builder import Made, RunBuilder, relations
from toy_store import put

from pipeline.cli.diff import diff, difference
from pipeline.labels.label_overrides import ImageOverrides, overrides_table
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.stage import Output
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.keys import KeyTerms
from storage.runs import Run
from storage.store import Store
from storage.tables import RELATIONS

BEFORE = [
    relations(1, (0, "ride", 2, 0.9), (1, "ride", 2, 0.3), (0, "near", 1, 0.5)),
    relations(2, (0, "ride", 1, 0.4)),
]
AFTER = [
    relations(1, (0, "ride", 2, 0.9), (1, "ride", 2, 0.7), (2, "near", 1, 0.6)),
    relations(2, (0, "ride", 1, 0.401)),
]


@pytest.fixture
def runs(book: RunBuilder) -> tuple[Run, Run]:
    """Two runs in one store with labels of different settings; partition 1 is the same artifact in both."""
    both = []
    for name, rows, floor in (("before", BEFORE, 0.05), ("after", AFTER, 0.1)):
        run = Run(book.run.store, name)
        one = RunBuilder(run, book.pictures)
        one.add("tag", "toys/0000", rows, settings={"floor": floor})
        one.add("tag", "toys/0001", [relations(3, (0, "on", 1, 0.8))], settings={"partition": 1})
        both.append(run)
    return both[0], both[1]


def test_relations_are_told_apart_by_kind_cause_and_predicate(runs):
    found = difference(*runs)
    assert found.same == 3, "one is equal, one differs by less than 0.01, and one is in a shared partition"
    (cause,) = found.by_size
    assert str(cause) == "tag: floor: 0.05 → 0.1"
    assert cause.counts == {"added": 1, "lost": 1, "re-scored": 1}
    assert cause.predicates == found.predicates == {"near": {"added": 1, "lost": 1}, "ride": {"re-scored": 1}}
    (example,) = cause.examples["re-scored"]
    assert str(example) == "image 1: #1 ride #2, 0.300 → 0.700"
    assert str(cause.examples["lost"][0]) == "image 1: #0 near #1, 0.500 → none"


def test_boxes_are_compared_by_what_they_are_and_not_by_number(book):
    places = [("person", 0, 0, 9, 9), ("dog", 20, 0, 9, 9), ("horse", 40, 0, 9, 9)]
    both = []
    for name, numbers, digest in (("before", (0, 1, 2, 2), "0"), ("after", (1, 2, 2), "1")):  # the horse is there twice
        run = Run(book.run.store, name)
        one = RunBuilder(run, book.pictures)
        same, other = (book.image(number, [places[n] for n in numbers]) for number in (1, 2))
        one.add("ingest", "toys/0000", [same, {**other, "digest": digest}], settings={"as": name})
        ends = [(numbers.index(1), "near", numbers.index(2) + number, 0.9) for number in range(2)]
        one.add("tag", "toys/0000", [relations(1, *ends), relations(2, ends[0])], settings={"as": name})
        both.append(run)
    found = difference(*both)
    assert (found.same, found.kept.same, found.kept.added, found.kept.lost) == (2, 2, {"near": 1}, {"near": 1}), (
        "the second has other bytes"
    )
    (cause,) = found.by_size
    assert [str(each[0]) for each in cause.examples.values()] == [
        "image 2: #0 near #1, none → 0.900", "image 2: #1 near #2, 0.900 → none",
    ]  # fmt: skip


def test_images_are_compared_that_stand_in_other_partitions(book):
    place = [("person", 0, 0, 9, 9), ("horse", 20, 0, 9, 9)]
    both = []
    for name, parts in (("share", [[3, 4]]), ("all", [[1, 2], [3, 4]])):
        run = Run(book.run.store, name)
        one = RunBuilder(run, book.pictures)
        for number, ids in enumerate(parts):
            rows, settings = [relations(i, (0, "ride", 1, 0.9)) for i in ids], {"as": name, "part": number}
            one.add("ingest", f"toys/{number:04d}", [book.image(i, place) for i in ids], settings=settings)
            one.add("tag", f"toys/{number:04d}", rows, settings=settings)
        both.append(run)
    found = difference(*both)
    assert (found.same, found.kept.same, found.kept.added, found.kept.lost) == (2, 2, {"ride": 2}, {})
    assert [(str(cause), cause.counts) for cause in found.by_size] == [
        ("images of toys that only one run has", {"added": 2})
    ]


def test_an_image_that_only_one_run_labels_has_the_cause_of_its_partition(book):
    both = []
    for name, ids in (("before", [1]), ("after", [1, 2])):
        run = Run(book.run.store, name)
        rows = [relations(i, (0, "ride", 1, 0.9)) for i in ids]
        RunBuilder(run, book.pictures).add("tag", "toys/0000", rows, settings={"floor": 0.1 * len(ids)})
        both.append(run)
    for runs, kind in ((both, "added"), (both[::-1], "lost")):
        (cause,) = difference(*runs).by_size
        assert (cause.stage, cause.counts) == ("tag", {kind: 1})


def test_labels_of_images_that_were_ingested_again_are_not_compared(labelled):
    earlier = Run(labelled.run.store, "earlier")
    RunBuilder(earlier, labelled.pictures).add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))])
    images, tag = {"as": "new"}, {"images": [labelled.run.artifacts("ingest")["toys/0000"].content]}
    labelled.add("tag", "toys/0000", [relations(2, (0, "ride", 2, 0.9))], inputs=tag)
    labelled.add("ingest", "toys/0000", [labelled.image(1, [("dog", 0, 0, 9, 9)])], settings=images)
    with pytest.raises(FatalError, match="again after the labels were made; run stage tag again"):
        difference(earlier, labelled.run)


CAUSES = {"caption": "top_p", "parse": "model", "tag": "floor"}
TABLES = {"caption": "captions", "parse": "triplets"}


def _label(store: Store, caused_by: str, value: float) -> str:
    """Make captions, triplets and one relation in a separate partition; `value` sets one stage. Returns `tag`'s key."""
    stages, partition = list(CAUSES), f"toys/{list(CAUSES).index(caused_by):04d}"
    settings = {s: {"partition": partition} | ({CAUSES[s]: value} if s == caused_by else {}) for s in stages}
    above: dict[str, list[Artifact]] = {}
    for stage, table in TABLES.items():
        is_changed = stages.index(stage) >= stages.index(caused_by)
        above = {table: [put(store, stage, partition, settings[stage], above, [int(100 * value) if is_changed else 1])]}
    (triplets,) = above["triplets"]
    terms = KeyTerms("tag", 1, settings["tag"], {"triplets": [triplets.content]})
    rows = pa.Table.from_pylist(
        [relations(stages.index(caused_by), (0, f"by {caused_by}", 1, value))], schema=RELATIONS
    )
    item = WorkItem("tag", partition, terms, {"triplets": (triplets.folder,)})
    return execute(Made("tag", lambda work: Output(rows)), item, store, lambda done, total, note="": None).key


def test_each_causing_stage_has_its_own_predicates_and_examples(book):
    store = book.run.store
    before, after = Run(store, "before"), Run(store, "after")
    for run, value in ((before, 0.3), (after, 0.9)):
        run.record("tag", "tag", {f"toys/{n:04d}": _label(store, stage, value) for n, stage in enumerate(CAUSES)})
    found = difference(before, after)
    assert {cause.stage: cause.what for cause in found.by_size} == {
        "caption": "top_p: 0.3 → 0.9", "parse": "model: 0.3 → 0.9", "tag": "floor: 0.3 → 0.9",
    }  # fmt: skip
    for cause in found.by_size:
        assert cause.predicates == {f"by {cause.stage}": {"re-scored": 1}}
        assert [example.predicate for example in cause.examples["re-scored"]] == [f"by {cause.stage}"]


def test_it_prints_and_has_json(runs, capsys):
    root = runs[0].store.root
    diff("before", "after", store=root, as_json=False)
    text = capsys.readouterr().out
    assert "4 labels are kept by both, 1 by before only, 1 by after only" in text and "seconds, tag" in text
    assert " relations are in both, with scores less than 0.01 apart" in text
    assert "Figures; scores of variants are means over seeds, in percent" in " ".join(text.split())
    assert "tag: floor: 0.05 → 0.1" in text and "added image 1: #2 near #1, none → 0.600" in text
    diff("before", "after", store=root, as_json=True)
    parsed = json.loads(capsys.readouterr().out)
    assert parsed["predicates"]["ride"] == {"re-scored": 1}
    assert {"name": "scored", "before": 5, "after": 5} in parsed["figures"]
    assert parsed["kept"] == {"same": 4, "added": {"near": 1}, "lost": {"near": 1}, "corrected": {}}
    (cause,) = parsed["causes"]
    assert (cause["stage"], cause["what"], cause["counts"]["lost"]) == ("tag", "floor: 0.05 → 0.1", 1)
    assert cause["examples"]["added"][0]["after"] == pytest.approx(0.6)


def test_what_is_kept_is_compared_with_settings_and_figures(runs):
    store, (before, _) = runs[0].store, runs
    stricter = Run(store, "stricter")
    for run, threshold in ((before, 0.2), (stricter, 0.45)):
        run.record("tag", "tag", before.keys("tag"))
        RunBuilder(run, store.root).add("shard:pseudo", "toys/0000", [], settings={"threshold": threshold})
    found = difference(before, stricter)
    assert (found.same, found.by_size, found.predicates) == (5, [], {}), "the relations are the same"
    assert (found.kept.same, found.kept.added, found.kept.lost) == (3, {}, {"ride": 2})
    assert found.settings == (
        ("labels kept", "score ≥ 0.2", "score ≥ 0.45"), ("shard:pseudo.threshold", 0.2, 0.45),
    )  # fmt: skip
    figures = {row.name: (row.before, row.after) for row in found.figures}
    assert figures["kept"] == (5, 3) and figures["scored"] == (5, 5) and "seconds, tag" in figures


def test_scores_on_other_test_images_or_of_other_seeds_are_told_apart(runs):
    for run, images, seeds in zip(runs, (["one"], ["two"]), (("",), (":0", ":1")), strict=True):
        book = RunBuilder(run, run.store.root)
        score = [{"step": 0, "name": "zero_shot_map", "value": 0.5}]
        for seed in seeds:
            book.add(f"evaluate:none{seed}", "all", score, inputs={"images": images})
        book.add("evaluate:pseudo", "all", score, inputs={"images": ["same"]})
    (differing,) = (each for each in difference(*runs).settings if each.name.startswith("evaluated on"))
    assert differing.name == "evaluated on, none" and differing.before != differing.after
    assert differing.before.endswith("seeds: 1") and differing.after.endswith("seeds: 2")
    assert differing.before.split(",")[0] != differing.after.split(",")[0], "the test images"


def test_what_reviewers_settled_is_counted_among_the_labels_that_differ(runs):
    before, after = runs[0], Run(runs[0].store, "reviewed")
    RunBuilder(before, before.store.root).add("shard:pseudo", "toys/0000", [], settings={"threshold": 0.2})
    # One label is added and one is removed; the others are kept or not in either run.
    right, wrong = (
        frozenset({(2, 1, "feed"), (1, 2, "ride"), (0, 1, "near")}),
        frozenset({(0, 2, "ride"), (2, 0, "eat")}),
    )
    settled = overrides_table({1: ImageOverrides(right, wrong)}).to_pylist()
    after.record("tag", "tag", before.keys("tag"))
    one = RunBuilder(after, after.store.root)
    one.add("shard:pseudo", "toys/0000", [], settings={"threshold": 0.2, "verdicts": "settled"}, overrides=settled)
    kept = difference(before, after).kept
    assert (kept.same, kept.added, kept.lost) == (4, {"feed": 1}, {"ride": 1})
    assert kept.corrected == {"added": 1, "lost": 1}


def test_a_run_without_relations_is_reported(book, runs):
    book.metrics("train_tagger", (0, "loss", 1.0))
    with pytest.raises(FatalError, match="run 'toy' has no artifacts of step 'tag'"):
        difference(runs[0], book.run)
