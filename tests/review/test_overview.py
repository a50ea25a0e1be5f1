"""The overview of a small run, with every figure counted by hand or compared with that of the report."""

from unittest.mock import Mock
from urllib.parse import parse_qsl, urlsplit

import pytest
from report_page import Page
from run_builder import TWO_PEOPLE, RunBuilder, captions, pairs, relations, triplets
from toy_store import put_chain, record

from pipeline.labels.team import Team, read_team, write_team
from pipeline.labels.verdict_log import VerdictLog
from pipeline.report.figures import compute_figures
from pipeline.review.label_facts import label_facts
from pipeline.review.labels import labels_of
from pipeline.review.overview import graph, overview_of
from pipeline.review.pages import Pages
from pipeline.review.review_state import ReviewState
from pipeline.review.reviews import verdict_on
from pipeline.review.run_progress import RunProgress
from pipeline.review.search import Search
from pipeline.run.dag import build_steps
from pipeline.runtime.stage import Rejected
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.runs import Run

HOSTILE = '<script>alert("x")</script>'


def page_of(state: ReviewState) -> Page:
    return Page(Pages(state).overview("ann"))


def more(book: RunBuilder) -> None:
    """A second partition: an uncaptioned image, and labels with equal and repeated predicates on score edges."""
    rows = [
        book.image(7, TWO_PEOPLE, [(0, "next to", 1), (1, "next to", 0), (0, "the", 2)]),
        book.image(8, TWO_PEOPLE),
        book.image(9, TWO_PEOPLE),
    ]
    book.add("ingest", "toys/0001", rows)
    refused = [Rejected(9, "no caption <b>", "")]
    book.add("caption", "toys/0001", [captions(7, "a man near a man"), captions(8, "x")], rejected=refused)
    book.add("parse", "toys/0001", [triplets(7, (0, "man", "next to", "man"))])
    found = [(0, "next to", 1, 0.7), (1, "next to", 0, 0.8), (0, "beside", 1, 0.75), (0, "hold", 1, 1.0)]
    found.append((0, "ride", 2, 0.0))
    book.add("tag", "toys/0001", [relations(7, *found), relations(8, (0, "ride", 2, 0.5))],
             candidates=[pairs(7, (0, "next to", 1, 1), (1, "next to", 0, 1), (0, "hold", 1, 1)),
                         pairs(8)])  # fmt: skip


def test_funnel_and_audit_are_those_of_the_report(labelled, opened):
    more(labelled)
    state = opened()
    facts, choice = label_facts(state.index), state.view.choice
    figures = compute_figures(labelled.run, ["toys"], choice)
    assert facts.funnel == figures.labels
    assert {each.predicate: (each.kept, each.given) for each in facts.predicates if each.kept} == {
        each.predicate: (each.kept, each.given) for each in figures.predicates if each.kept
    }
    (theirs,) = figures.audits
    (audit,) = facts.audits
    assert (audit.images, audit.kept.truths, audit.naive.right) == (
        theirs.labels.images, theirs.labels.given, theirs.labels.reachable,
    )  # fmt: skip
    for own, reported in ((audit.kept, theirs.labels.tagger), (audit.naive, theirs.labels.naive)):
        assert (own.precision(), own.recall()) == (reported.precision, reported.recall)
    assert audit.score.calibration_error() == pytest.approx(theirs.labels.score_error, abs=1e-6)
    # The curve ends where every distinct label is taken: 4 of 8 are given. A pair that is "next to" counts once.
    assert audit.curve()[-1] == (0.0, 1.0, 4 / 8)


def test_the_comparison_says_that_the_tagger_learned_from_its_images(labelled, opened):
    note = "not cross-validated: the tagger learned from these images"
    assert note not in page_of(opened()).text
    labelled.run.record("shard_tagger", "shard", {"toys/0000": "0" * 64})
    labelled.run.record("train_tagger", "train_tagger", {"toys": "1" * 64})
    assert note in page_of(opened()).text


def test_losses_say_why_and_counts_lead_to_the_labels_that_they_count(labelled, opened):
    more(labelled)
    state = opened()
    overview = overview_of(state)
    levels = {level.name: level for level in overview["levels"]}
    assert list(levels) == ["images", "captions", "triplets", "candidates", "scored labels", "kept labels"]
    assert levels["images"].losses == [("no caption <b>", 1, "quarantined?reason=no+caption+%3Cb%3E")]
    scored, kept = levels["scored labels"], levels["kept labels"]
    assert scored.losses and scored.number - scored.lost == kept.number
    assert sum(labels for _, labels, _, _ in overview["score_rows"]) == scored.number

    def found(address: str) -> int:
        assert urlsplit(address).path == "labels"
        return state.listing.labels(Search.model_validate(dict(parse_qsl(urlsplit(address).query))), 0, 0).total

    counted = [(each.address, each.number) for each in (scored, kept)]
    counted += [(address, number) for _, number, address in scored.losses]
    counted += [(address, labels) for _, labels, _, address in overview["score_rows"]]
    counted += [(address, facts.kept) for facts, _, address in overview["predicates"]]
    assert [found(address) for address, _ in counted] == [number for _, number in counted]
    # The table holds a 32-bit number just below .9.
    assert found("labels?least=0.9") == 2


def test_a_run_on_its_way_is_shown_and_followed(book, recipe, opened):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE, [(0, "riding", 2)])])
    state = opened(planned={step.name: step.needs for step in build_steps(recipe)})
    before = {step.step: step for step in overview_of(state)["steps"]}
    assert (before["ingest"].state, before["ingest"].done) == ("done", 1)
    assert (before["tag"].state, before["tag"].done) == ("not yet", None)
    assert set(before["tag"].needs) == {"ingest", "parse", "train_tagger"}
    book.add("caption", "toys/0000", [captions(1, "a man rides a horse")])
    book.add("parse", "toys/0000", [triplets(1, (0, "man", "ride", "horse"))])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], candidates=[pairs(1, (0, "ride", 2, 1))])
    state.refresh()
    after = overview_of(state)
    assert {step.step: step.state for step in after["steps"]}["tag"] == "done"
    assert [level.number for level in after["levels"]] == [1, 1, 1, 1, 1, 1]
    assert "not yet" in page_of(state).text


def test_a_failed_step_says_why_until_it_is_recorded_again(book, recipe, opened):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    outcome = [{"step": "ingest", "partitions": 1, "cached": 1}]
    book.run.append("failed", error=f"caption toys/0000: {HOSTILE}", outcome=outcome)
    state = opened(planned={step.name: step.needs for step in build_steps(recipe)})
    steps = {step.step: step for step in overview_of(state)["steps"] if step.step in ("ingest", "caption", "parse")}
    assert [(step.state, step.cached) for step in steps.values()] == [("done", 1), ("failed", None), ("not yet", None)]
    assert HOSTILE in page_of(state).text
    book.add("caption", "toys/0000", [captions(1, "a man")])
    state.refresh()
    assert {step.step: step.state for step in overview_of(state)["steps"]}["caption"] == "done"


def test_an_artifact_that_is_gone_is_missing(labelled, opened):
    more(labelled)
    (artifact, *_) = labelled.run.artifacts("caption").values()
    for path in artifact.folder.iterdir():
        path.unlink()
    artifact.folder.rmdir()
    steps = {step.step: step for step in overview_of(opened())["steps"]}
    assert (steps["caption"].state, steps["caption"].partitions, steps["caption"].done) == ("incomplete", 2, 1)


def test_without_a_recipe_steps_follow_what_they_were_made_of(tmp_path):
    store = LocalStore(tmp_path / "store")
    run = record(store, "toy", put_chain(store))
    steps = RunProgress(run, {}).steps()
    assert [(step.step, step.needs) for step in steps] == [
        ("ingest", ()), ("caption", ("ingest",)), ("parse", ("caption",)),
    ]  # fmt: skip
    nodes = {step.step: y for _, y, step in graph(steps).nodes}
    assert nodes["ingest"] < nodes["caption"] < nodes["parse"]


def test_only_who_can_judge_takes_a_seat_of_the_team(labelled, opened, tmp_path):
    write_team(tmp_path / "verdicts", Team(size=1))
    for read_only, members in ((True, ()), (False, ("ann",))):
        page_of(opened(read_only=read_only))
        assert read_team(tmp_path / "verdicts").members == members


def test_another_run_is_set_beside_this_one(labelled, opened, monkeypatch, tmp_path):
    other = RunBuilder(Run(labelled.run.store, "other"), labelled.pictures)
    own, ride = {"run": "other"}, [(0, "riding", 2)]
    other.add("ingest", "toys/0000", [other.image(1, TWO_PEOPLE, ride), other.image(2, TWO_PEOPLE, ride)], settings=own)
    theirs = [relations(1, (0, "ride", 2, 0.9), (1, "ride", 2, 0.6)), relations(2, (0, "ride", 2, 0.1))]
    other.add("tag", "toys/0000", theirs, candidates=[], settings=own)
    state = opened(against=other.run)
    overview = overview_of(state)
    counts = {name: overview["comparison"][name] for name in ("both", "kept_in_both", "kept_here", "kept_there")}
    # Both: image 1 keeps 0 ride 2; 1 ride 2 is kept there only. Here only: image 2's 0 ride 2, and two "next to".
    assert counts == {"both": 3, "kept_in_both": 1, "kept_here": 3, "kept_there": 1}
    assert [(row["predicate"], row["kept_here"], row["kept_there"]) for row in overview["differences"]] == [
        ("next to", 2, 0), ("ride", 1, 1),
    ]  # fmt: skip
    assert "other" in page_of(state).text
    other.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], candidates=[], settings={"run": "again"})
    only_here = Search(disagree="only here")
    before = state.listing.images(only_here, 0, 9).total, state.listing.labels(only_here, 0, 9).total
    said = verdict_on(labels_of(state.index, state.listing.labels(only_here, 0, 1).numbers)[0], "accept", "bob", "toy")
    VerdictLog(tmp_path / "verdicts").append([said])
    with monkeypatch.context() as patch, pytest.raises(FatalError):
        patch.setattr("pipeline.review.review_state.partition_artifacts", Mock(side_effect=FatalError("incomplete")))
        state.refresh()
    assert state.comparison.summary()["both"] == 3
    assert state.index.rows("SELECT DISTINCT reviewer FROM live.reviewed") == [{"reviewer": "bob"}]
    state.refresh()
    assert state.comparison.summary()["both"] == 1, "an execution of the other run counts, too"
    assert (state.listing.images(only_here, 0, 9).total, state.listing.labels(only_here, 0, 9).total) > before


def test_labels_in_two_wordings_do_not_differ_from_themselves(book, opened):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9), (0, "is riding", 2, 0.8))], candidates=[])
    state = opened(against=book.run)
    counts = {"both": 2, "kept_in_both": 1, "kept_here": 0, "kept_there": 0}
    assert state.comparison.summary() == {"other": "toy"} | counts
    assert not any(
        state.listing.count_now(Search(disagree=where)) for where in ("kept here", "kept there", "only here")
    )
