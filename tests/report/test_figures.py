import json

import pytest
from run_builder import TWO_PEOPLE, captions, pairs, relations, triplets
from toy_store import commit, put

from pipeline.labels.audit_sample import AuditPrecision
from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.report.figures import compute_figures, figures_of, headline
from pipeline.report.label_view import LabelView, score_cells
from pipeline.report.samples import read_samples
from pipeline.report.variants import Spread, score_text
from pipeline.run.context import run_view
from pipeline.runtime.stage import Inputs
from pipeline.stages.shard import ShardSettings, ShardStage
from pipeline.training.config import MODEL
from storage.keys import KeyTerms
from tagger.audit.coverage import NEVER_KEPT


def test_labels_are_audited_against_given_relations(labelled):
    (audit,) = compute_figures(labelled.run, ["toys"], ChoiceSettings(threshold=0.5)).audits
    assert (audit.labels.images, audit.labels.given, audit.labels.reachable) == (2, 3, 3)
    tagger, naive = audit.labels.tagger, audit.labels.naive
    # Kept: ride .9 right, next to .8 right (given in the other direction), next to .7 wrong, ride .6 right.
    assert tagger.kept == 4
    assert tagger.precision == pytest.approx(3 / 4)
    assert tagger.recall == pytest.approx(1.0)
    assert tagger.precision_at_recall == pytest.approx(3 / 4)
    assert tagger.average_precision == pytest.approx((1 + 1 + 3 / 4) / 3)
    # Proposed: three right, two wrong "ride", two wrong "next to".
    assert naive.kept == 7
    assert audit.labels.prior.kept == 0 and audit.labels.prior.precision_at_recall == naive.precision_at_recall
    assert sum(scores.kept for scores in audit.labels.predicates) == tagger.kept
    assert audit.labels.probability_error == audit.labels.score_error
    assert naive.precision == pytest.approx(3 / 7)
    assert naive.recall == pytest.approx(1.0)
    assert naive.precision_at_recall == pytest.approx(3 / 7)


def test_captions_are_audited_by_category(labelled):
    (audit,) = compute_figures(labelled.run, ["toys"], ChoiceSettings(threshold=0.5)).audits
    found = audit.captions
    # "man hold cup" names no category of the dataset; "horse next to man" is judged but not given.
    assert (found.stated, found.judged, found.true) == (3, 2, 1)
    # person ride horse (image 1), person next to person (image 1), person ride horse (image 2); the first is stated.
    assert (found.given, found.found) == (3, 1)
    assert found.precision == pytest.approx(1 / 2)
    assert found.recall == pytest.approx(1 / 3)


def test_what_is_never_kept_could_have_been(labelled):
    (audit,) = compute_figures(labelled.run, ["toys"], ChoiceSettings(threshold=0.95)).audits
    assert (audit.coverage.kept.relations, audit.coverage.kept.share_without) == (0, 1.0)
    own = audit.coverage.lists[1]
    assert own.by_reason() == {NEVER_KEPT: ["ride", "next to"]}
    assert [(each.triplets, each.candidates, each.scored) for each in own.listed] == [(1, 4, 3), (1, 3, 2)]
    assert all(row.precision is None for row in audit.coverage.geometry)


def test_coverage_is_of_tagged_images_with_boxes(labelled):
    # Image 9 has no box, 10 was quarantined by `tag`, 11 has labels of boxes that it had before; 12 is not tagged yet.
    ride = [(0, "riding", 2)]
    rows = [labelled.image(9, []), labelled.image(10, TWO_PEOPLE, ride), labelled.image(11, TWO_PEOPLE, ride)]
    labelled.add("ingest", "toys/0001", rows)
    labelled.add("tag", "toys/0001", [relations(9), relations(11, (0, "ride", 3, 0.9), (0, "ride", 2, 0.9))],
                 candidates=[pairs(10, (0, "ride", 2, 1)), pairs(11, (0, "ride", 3, 1))])  # fmt: skip
    labelled.add("ingest", "toys/0002", [labelled.image(12, TWO_PEOPLE, ride)])
    (audit,) = compute_figures(labelled.run, ["toys"], ChoiceSettings(threshold=0.5)).audits
    found = audit.coverage
    assert (found.images, found.kept.relations, found.kept.mean) == (3, 6, 6 / 3)
    assert (found.kept.share_without, found.given.relations) == (0, 4)
    assert [(row.kept, row.naive) for row in found.geometry[:3]] == [(4, 3), (0, 0), (1, 4)]
    # Triplets of the new partition are unknown.
    assert {each.triplets for each in found.lists[0].listed} == {None}


def test_labels_that_reviewers_added_count_wherever_kept_ones_do(labelled):
    said = [
        {"image_id": image_id, "subject": 1, "predicate": "feed", "object": 2, "holds": True} for image_id in (1, 2)
    ]
    labelled.add("shard:pseudo", "toys/0000", [], overrides=said)
    choice = ChoiceSettings(confidence="score", threshold=0.75)
    figures = compute_figures(labelled.run, ["toys"], choice)
    (audit,) = figures.audits
    kept = audit.coverage.kept
    assert (figures.labels.kept, audit.labels.tagger.kept, kept.relations, kept.predicates) == (4, 4, 4, 3)
    assert kept.share_without == 0 and sum(row.kept for row in audit.coverage.geometry[:3]) == 4
    shown = [[label.predicate for label in sample.kept] for sample in read_samples(labelled.run, ["toys"], choice)]
    assert shown == [["feed", "ride", "next to"], ["feed"]]


def test_a_label_in_two_wordings_is_one_in_a_picture(book):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9), (0, "is riding", 2, 0.8))], candidates=[])
    (sample,) = read_samples(book.run, ["toys"], ChoiceSettings(confidence="score"))
    assert [(label.predicate, label.confidence) for label in sample.kept] == [("ride", 0.9)]


def test_yield_and_predicates_are_counted(labelled):
    figures = compute_figures(labelled.run, ["toys"], ChoiceSettings(threshold=0.5))
    counts = figures.labels
    assert (counts.images, counts.captions, counts.triplets) == (2, 3, 3)
    assert (counts.candidates, counts.scored, counts.kept) == (7, 5, 4)
    assert [(p.predicate, p.kept, p.given) for p in figures.predicates] == [("ride", 2, 2), ("next to", 2, 1)]


def test_images_with_the_bytes_of_another_are_counted(book):
    for partition, digests in {"toys/0000": "aba", "toys/0001": "abc"}.items():
        rows = [{**book.image(ord(partition[-1]) + n, TWO_PEOPLE), "digest": name} for n, name in enumerate(digests)]
        book.add("ingest", partition, rows, settings={"fingerprint": "bytes", "partition": partition})
    assert compute_figures(book.run, ["toys"], ChoiceSettings()).copies == 3
    # Size and time may be those of another image.
    book.add("ingest", "toys/0001", rows, settings={"fingerprint": "stat"})
    assert compute_figures(book.run, ["toys"], ChoiceSettings()).copies is None


def test_images_without_given_relations_are_not_audited(labelled):
    # No predicate is left of "the", so the second image has no truth either.
    rows = [labelled.image(9, TWO_PEOPLE), labelled.image(10, TWO_PEOPLE, [(0, "the", 2)])]
    labelled.add("ingest", "toys/0001", rows)
    labelled.add("parse", "toys/0001", [triplets(9, (0, "man", "ride", "horse"))])
    tagged = [relations(image_id, (0, "ride", 2, 0.99)) for image_id in (9, 10)]
    labelled.add("tag", "toys/0001", tagged, candidates=[])
    figures = compute_figures(labelled.run, ["toys"], ChoiceSettings(threshold=0.5))
    (audit,) = figures.audits
    assert figures.labels.kept == 6
    assert (audit.labels.images, audit.labels.tagger.kept) == (2, 4)
    assert (audit.coverage.given.relations, sum(row.kept for row in audit.coverage.geometry[:3])) == (3, 4)
    assert (audit.captions.images, audit.captions.stated) == (2, 3)


def test_a_set_without_relations_has_no_truth(book):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("caption", "toys/0000", [captions(1, "a man rides a horse")])
    book.add("parse", "toys/0000", [triplets(1, (0, "man", "ride", "horse"))])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))])
    figures = compute_figures(book.run, ["toys"], ChoiceSettings(threshold=0.5))
    (audit,) = figures.audits
    assert not audit.has_truth
    assert audit.labels is None
    assert audit.captions is None
    assert audit.coverage is not None and audit.coverage.kept.relations == 1
    assert (audit.coverage.given, audit.coverage.geometry, len(audit.coverage.lists)) == (None, (), 1)
    (plain,) = figures.as_json()["audits"]
    assert plain.keys() == {"dataset", "has_truth", "coverage"} and plain["has_truth"] is False
    assert figures.labels.kept == 1


def test_a_partial_run_has_what_it_has(book):
    nothing = compute_figures(book.run, ["toys"], ChoiceSettings(threshold=0.5))
    assert nothing.as_json()["labels"] == {"lost": {}}
    assert nothing.audits == ()
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE, [(0, "riding", 2)])])
    book.add("caption", "toys/0000", [captions(1, "a man")])
    figures = compute_figures(book.run, ["toys"], ChoiceSettings(threshold=0.5)).as_json()
    assert figures["labels"] == {"images": 1, "captions": 1, "lost": {}}
    assert figures["audits"] == [{"dataset": "toys", "has_truth": True}]
    assert "share_of_gain" not in figures


def test_only_the_labelled_sets_count(labelled):
    labelled.add("ingest", "test/0000", [labelled.image(7, TWO_PEOPLE, [(0, "riding", 2)], dataset="test")])
    figures = compute_figures(labelled.run, ["toys"], ChoiceSettings(threshold=0.5))
    assert figures.labels.images == 2
    assert [audit.dataset for audit in figures.audits] == ["toys"]


def test_variants_are_averaged_over_seeds(book):
    for variant, scores in {"none": (0.1, 0.2), "naive": (0.2, 0.3), "pseudo": (0.3, 0.4), "given": (0.5, 0.6)}.items():
        for seed, score in enumerate(scores):
            book.metrics(f"evaluate:{variant}:{seed}", (0, "zero_shot_map", score), (0, "detection_ap50", 0.9))
    figures = compute_figures(book.run, ["toys"], ChoiceSettings(threshold=0.5))
    assert {each.variant: each.seeds for each in figures.variants} == {"none": 2, "naive": 2, "pseudo": 2, "given": 2}
    assert [score_text(Spread.of([1.0]), name) for name in ("triplets", "seen_map")] == ["1", "100.00"]
    pseudo = figures.variants[2].scores["zero_shot_map"]
    assert pseudo.mean == pytest.approx(0.35)
    assert pseudo.deviation == pytest.approx(0.0707, abs=1e-4)
    assert figures.variants[2].scores["detection_ap50"].mean == pytest.approx(0.9)
    assert figures.share_of_gain == pytest.approx(0.5)
    assert ("35.00", "zero-shot triplet mAP, of 100, mean of 2 seeds", "naive matching 25.00") in headline(figures)


@pytest.mark.parametrize(("seeds", "counted"), [([0, 1], (0.3, 0.5)), ([1], (0.3,)), ([], (0.3, 0.3, 0.5))])
def test_a_seed_that_an_earlier_recipe_named_otherwise_counts_once(book, seeds, counted):
    for step, score in {"evaluate:pseudo": 0.3, "evaluate:pseudo:0": 0.3, "evaluate:pseudo:1": 0.5}.items():
        book.metrics(step, (0, "zero_shot_map", score))
    book.run.note("recipe", {"pretrain": {"seeds": seeds}})
    (pseudo,) = compute_figures(book.run, ["toys"], ChoiceSettings(threshold=0.5)).variants
    assert pseudo.scores["zero_shot_map"].values == counted and pseudo.seeds == len(counted)


def test_variants_of_an_earlier_recipe_are_not_compared_with_those_of_the_present_one(book):
    for variant, score in {"none": 0.1, "given": 0.5, "pseudo": 0.48}.items():
        book.metrics(f"evaluate:{variant}", (0, "zero_shot_map", score))
    book.run.note("recipe", {"pretrain": {"variants": ["pseudo"], "seeds": [0]}})
    figures = compute_figures(book.run, ["toys"], ChoiceSettings(threshold=0.5))
    assert [each.variant for each in figures.variants] == ["pseudo"] and figures.share_of_gain is None


def test_the_share_of_gain_needs_all_variants_and_a_gain(book):
    book.metrics("evaluate:none", (0, "zero_shot_map", 0.3))
    book.metrics("evaluate:pseudo", (0, "zero_shot_map", 0.4))
    figures = compute_figures(book.run, ["toys"], ChoiceSettings(threshold=0.5))
    assert figures.share_of_gain is None
    assert figures.variants[1].scores["zero_shot_map"].deviation is None
    book.metrics("evaluate:given", (0, "zero_shot_map", 0.3))
    assert compute_figures(book.run, ["toys"], ChoiceSettings(threshold=0.5)).share_of_gain is None


def test_variants_that_were_scored_on_other_images_are_not_compared(book):
    """An execution that was stopped has evaluated some variants on the new test set."""
    for variant, score in {"none": 0.1, "naive": 0.2, "pseudo": 0.3, "given": 0.5}.items():
        tested = {"images": ["old"] if variant in ("pseudo", "given") else ["new"]}
        row = [{"step": 0, "name": "zero_shot_map", "value": score}]
        book.add(f"evaluate:{variant}", "all", row, inputs=tested)
    figures = compute_figures(book.run, ["toys"], ChoiceSettings(threshold=0.5))
    assert figures.share_of_gain is None
    assert headline(figures) == [("30.00", "zero-shot triplet mAP, of 100", "")]


def test_a_precision_by_reviewers_of_some_labels_is_not_that_of_all(labelled):
    human = AuditPrecision(0.5, 0.4, 0.6, judged=80, unsure=0, covered=0.9, strata=())
    tiles = headline(compute_figures(labelled.run, ["toys"], ChoiceSettings()), human)
    (against,) = (against for _, what, against in tiles if "by reviewers" in what)
    assert against == "95 % interval 0.40 to 0.60, 80 labels judged, valid for 0.900 of the labels"


def test_nothing_reachable_is_no_average_precision_of_0(book):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE, [(1, "holding", 2)])])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], candidates=[pairs(1, (0, "ride", 2, 1))])
    (audit,) = compute_figures(book.run, ["toys"], ChoiceSettings(threshold=0.5)).audits
    assert (audit.labels.given, audit.labels.reachable) == (1, 0)
    assert score_cells(audit.labels.tagger) == ("1", "0.000", "0.000", "–", "–")


def test_recall_is_of_what_candidates_state(book):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE, [(0, "riding", 2), (1, "holding", 2)])])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.3))], candidates=[pairs(1, (0, "ride", 2, 1))])
    (audit,) = compute_figures(book.run, ["toys"], ChoiceSettings(threshold=0.5)).audits
    assert (audit.labels.given, audit.labels.reachable) == (2, 1)
    tagger = audit.labels.tagger
    assert (tagger.kept, tagger.precision, tagger.recall) == (0, None, 0.0)
    assert tagger.precision_at_recall == 1.0
    assert audit.labels.naive.recall == 0.5


def test_figures_are_kept_with_the_run_until_an_artifact_changes_or_they_are_damaged(labelled, recipe):
    first = figures_of(run_view(recipe, labelled.run))
    kept = labelled.run.folder / "figures.json"
    stored = json.loads(kept.read_bytes())
    assert figures_of(run_view(recipe, labelled.run)) == first
    stored["figures"]["labels"]["images"] = 77
    kept.write_text(json.dumps(stored))
    assert figures_of(run_view(recipe, labelled.run)).labels.images == 77
    labelled.add("ingest", "toys/0001", [labelled.image(9, TWO_PEOPLE)])
    assert figures_of(run_view(recipe, labelled.run)).labels.images == 3
    kept.write_text("{torn")
    assert figures_of(run_view(recipe, labelled.run)).labels.images == 3


def test_recorded_captions_of_unknown_images_are_counted(labelled, recipe, tmp_path):
    recorded = tmp_path / "captions.json"
    rows = [(1, "a man rides a horse"), (77, "a cup"), (77, "a red cup"), (None, "a dog")]
    recorded.write_text(json.dumps([{"image_id": image_id, "caption": text} for image_id, text in rows]))
    settings = {"captioner": "recorded", "recorded": [str(recorded)]}
    read = recipe.model_validate(recipe.model_dump() | {"caption": settings})
    assert figures_of(run_view(read, labelled.run)).unknown_captions == 3
    assert figures_of(run_view(recipe, labelled.run)).unknown_captions == 0


@pytest.mark.parametrize("choice", [
    ShardSettings(confidence="calibrated", threshold=0.4), ShardSettings(rule="best", threshold=0.0),
    ShardSettings(rule="posterior", threshold=0.3), ShardSettings(thresholds={"ride": 0.95}, threshold=0.0),
    ShardSettings(per_pair=1, max_relations=2, threshold=0.0),
])  # fmt: skip
def test_what_counts_as_kept_is_what_the_shards_keep(book, choice, tmp_path):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE, [(0, "riding", 2)])])
    row = relations(1, (0, "ride", 2, 0.9), (1, "ride", 2, 0.8), (0, "sit on", 2, 0.5), (1, "next to", 0, 0.7))
    for label, calibrated, posterior in zip(row["relations"], (0.8, 0.3, 0.45, 0.2), (0.7, 0.3, 1.0, 1.0), strict=True):
        label |= {"calibrated": calibrated, "posterior": posterior}
    proposed = pairs(1, (0, "ride", 2, 2), (1, "ride", 2, 2), (0, "sit on", 2, 1), (1, "next to", 0, 1))
    for place, pair in enumerate(proposed["pairs"]):
        pair |= {"mention": max(0, place - 1), "prior": (0.5, 0.5, 1.0, 1.0)[place]}
    book.add("tag", "toys/0000", [row], candidates=[proposed])
    read = {table: list(book.run.artifacts(step).values()) for table, step in
            (("images", "ingest"), ("relations", "tag"))}  # fmt: skip
    stage = ShardStage(choice, {"toys": book.pictures / "toys"})
    stage.open(Inputs({}))
    (tmp_path / "work").mkdir()
    shards = stage.run(Inputs(read), tmp_path / "work", lambda done, total, note="": None)
    figures = compute_figures(book.run, ["toys"], choice)
    (audit,) = figures.audits
    assert 0 < shards.facts["relations"] < 4
    assert figures.labels.kept == sum(p.kept for p in figures.predicates) == shards.facts["relations"]
    assert audit.labels is not None and audit.labels.tagger.kept == shards.facts["relations"]
    assert sum(scores.kept for scores in audit.labels.predicates) == shards.facts["relations"]
    (sample,) = read_samples(book.run, ["toys"], choice)
    assert len(sample.kept) == shards.facts["relations"]


def test_what_is_kept_is_read_from_the_shards_not_from_the_last_command(labelled, recipe):
    labelled.add("shard:pseudo", "toys/0000", [], settings={"threshold": 0.75, "labels": "pseudo"})
    labelled.run.note("recipe", {"shard": {"threshold": 0.1}})
    assert LabelView.of(labelled.run).choice == "score ≥ 0.75"
    figures = figures_of(run_view(recipe, labelled.run))
    assert (figures.choice, figures.labels.kept) == ("score ≥ 0.75", 2)


def test_shards_of_an_earlier_execution_do_not_say_what_a_run_keeps_that_no_longer_packs_them(labelled, recipe):
    added = {"image_id": 1, "subject": 1, "predicate": "feed", "object": 2, "holds": True}
    labelled.add("shard:pseudo", "toys/0000", [], settings={"threshold": 0.75}, overrides=[added])
    kept = []
    for packed in ({"pack": True}, {"pack": False}, {"pack": True, "labels": "given"}):
        labelled.run.note("recipe", {"shard": {"threshold": 0.75, "confidence": "score", **packed}})
        figures = figures_of(run_view(recipe, labelled.run))
        kept.append((figures.labels.kept, figures.labels.added))
    assert kept == [(3, 1), (2, 0), (2, 0)]
    labelled.run.note("recipe", {"shard": {"threshold": 0.1, "confidence": "score", "pack": False}})
    assert LabelView.of(labelled.run).choice == "score ≥ 0.1"


def test_an_audit_says_that_the_tagger_learned_from_its_images(labelled):
    note = "not cross-validated: the tagger learned from these images"
    labelled.run.record("shard_tagger", "shard", {"toys/0000": "0" * 64})
    labelled.run.record("train_tagger:0", "train_tagger", {"toys": "1" * 64})
    assert note not in LabelView.of(labelled.run).audits["toys"].in_words
    labelled.run.record("train_tagger", "train_tagger", {"toys": "1" * 64})
    assert note in LabelView.of(labelled.run).audits["toys"].in_words
    figures = compute_figures(labelled.run, ["toys"], ChoiceSettings())
    assert note in figures.audits[0].labels.in_words
    headlines = [against for _, what, against in headline(figures) if what.startswith("precision")]
    assert len(headlines) == 2 and all(note in against for against in headlines)


@pytest.mark.parametrize(("trained_on", "weights", "learned"), [
    ("toys/0000", b"same", True), ("others/0000", b"same", False), ("toys/0000", b"of another store", None),
])  # fmt: skip
def test_what_an_imported_tagger_learned_from_is_looked_up_by_its_weights(labelled, trained_on, weights, learned):
    store = labelled.run.store
    upstream = {"shards": [put(store, "shard_tagger", trained_on).key]}
    commit(store, KeyTerms("train_tagger", 1, {}, {}), MODEL, b"same", upstream)
    imported = commit(store, KeyTerms("import_tagger", 1, {}, {}), MODEL, weights)
    labelled.run.record("import_tagger", "import_tagger", {"all": imported.key})
    labelled.run.note("recipe", {"tag": {"weights": "demo"}})
    (audit,) = compute_figures(labelled.run, ["toys"], ChoiceSettings()).audits
    assert audit.labels.learned_from is learned
    assert ("learned from these images" in audit.labels.in_words) == (learned is not False)
    labelled.run.note("recipe", {"tag": {"weights": "demo", "method": "prior"}})
    (audit,) = compute_figures(labelled.run, ["toys"], ChoiceSettings()).audits
    assert audit.labels.learned_from is False, "no tagger made these labels"
