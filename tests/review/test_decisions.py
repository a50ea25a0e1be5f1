"""Verdicts that the page sends: what is refused, what the answer tells, and what follows for the audit."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient
from run_builder import TWO_PEOPLE, relations

from pipeline.cli.report import recorded_view
from pipeline.interop.import_file import import_file
from pipeline.labels.team import Team, write_team
from pipeline.review import audit, decisions
from pipeline.review.access import Access, protected
from pipeline.review.app import page_routes
from pipeline.review.decisions import Addition, Decisions, accept_class, add_relation, decide, reopen_class
from pipeline.review.labels import labels_of
from pipeline.review.overview import work_of
from pipeline.review.pages import Pages, picture, scene_graph, verdict_state
from pipeline.review.review_state import ReviewState
from pipeline.review.reviews import verdict_on
from pipeline.review.search import Search
from storage.local_store import LocalStore
from storage.runs import Run


def judge(state: ReviewState, *verdicts: dict[str, Any]) -> dict[str, Any]:
    """Gives verdicts on as many labels of image 1, which has three boxes."""
    labels = state.listing.labels(Search(order="image"), 0, len(verdicts)).numbers
    given = [{"label": label, **verdict} for label, verdict in zip(labels, verdicts, strict=True)]
    return decide(state, "ann", Decisions.model_validate({"decisions": given}))


@pytest.mark.parametrize("correction, reason", [
    ({"kind": "wrong_pair", "subject": 3}, "subject: the image has no box 3"),
    ({"kind": "wrong_pair", "object": 3}, "object: the image has no box 3"),
    ({"kind": "wrong_pair", "object": 0}, "subject and object are the same box"),
    ({"kind": "wrong_predicate", "predicate": "rides"}, "the correction is the label itself"),
])  # fmt: skip
def test_a_correction_that_can_not_be_is_refused_with_all_beside_it(opened, labelled, correction, reason):
    state = opened()
    with pytest.raises(ValueError, match=reason):
        judge(state, correction, {"kind": "accept"})
    assert state.reviews.log.standing_of("ann") == []
    assert judge(state, {"kind": "wrong_pair", "object": 1})["verdicts"] == 1


def test_the_pace_is_the_median_of_the_known_times(opened, labelled):
    state = opened()
    untimed = judge(state, {"kind": "accept"})
    assert (untimed["verdicts"], untimed["median_seconds"]) == (1, None)
    timed = judge(state, {"kind": "accept"}, *({"kind": "reject", "seconds": seconds} for seconds in (1.0, 2.5)))
    assert (timed["verdicts"], timed["median_seconds"]) == (3, 1.75)


def test_a_verdict_that_stands_is_recorded_once(opened, labelled):
    state = opened()
    for kind in ("undo", "accept", "accept", "reject", "reject", "undo", "undo"):
        answer = judge(state, {"kind": kind})
    assert [verdict.kind for verdict in state.reviews.log.verdicts()] == ["accept", "reject", "undo", "undo"]
    assert answer["states"][0]["kind"] == ""


def test_an_undo_that_is_sent_again_takes_back_nothing_more(opened, labelled):
    state = opened()
    accepted, rejected = (judge(state, {"kind": kind})["states"][0] for kind in ("accept", "reject"))
    undone = [judge(state, {"kind": "undo", "of": rejected["time"]})["states"][0] for _ in range(2)]
    assert undone == [accepted, accepted]


def test_a_note_is_a_line_that_the_next_verdicts_keep(opened, labelled):
    state = opened()
    for verdict in ({}, {"note": "too dark"}, {}, {"note": "dusk"}):
        shown = judge(state, {"kind": "accept", **verdict})["states"][0]["correction"]
    assert [verdict.note for verdict in state.reviews.log.verdicts()] == [None, "too dark", "dusk"]
    assert shown == "“dusk”"
    with pytest.raises(ValueError, match="several lines"):
        judge(state, {"kind": "accept", "note": "one\ntwo"})


def test_the_scene_graph_of_a_crowded_image_is_about_the_chosen_label(book, opened):
    row = [("person", 9.0 * place, 1.0, 8.0, 8.0) for place in range(22)]
    book.add("ingest", "toys/0000", [book.image(1, row)])
    found = [(place, "on", place + 1, 0.9 - place / 100) for place in range(21)]
    book.add("tag", "toys/0000", [relations(1, *found, (20, "by", 21, 0.95))])
    state = opened()
    detail = state.details.find(state.index.rows("SELECT image FROM images")[0]["image"])
    best, *_, before, last = detail.labels
    graph = scene_graph(detail, last)
    assert [edge.label for edge in graph.edges] == [last, best, before] and graph.left_out == 19
    assert {node.box for node in graph.nodes} == {19, 20, 21}
    assert len(scene_graph(replace(detail, labels=detail.labels[2:]), last).edges) == 13, "20 labels are no crowd"


def test_a_class_is_accepted_but_for_a_sample_and_is_open_again_when_one_of_these_is_wrong(book, opened, monkeypatch):
    numbers = range(1, 32)
    book.add("ingest", "toys/0000", [book.image(n, TWO_PEOPLE) | {"digest": f"{n:064x}"} for n in numbers])
    book.add("tag", "toys/0000", [relations(n, (0, "ride", 2, 0.9 if n == 31 else 0.99)) for n in numbers])
    state = opened()
    *alike, unsure = state.listing.labels(Search(), 0, 100).numbers
    taken = accept_class(state, "ann", alike[0])
    assert taken == {"accepted": 28, "asked": 2}
    assert reopen_class(state, "ann", alike[0]) == {"reopened": 28} and not state.reviews.log.standing_of("ann")
    assert accept_class(state, "ann", alike[0]) == taken
    with pytest.raises(ValueError, match=r"at least 0\.98"):
        accept_class(state, "ann", unsure)
    with monkeypatch.context() as alone, pytest.raises(ValueError, match="open labels of this class must be judged"):
        alone.setattr(decisions, "_alike", lambda *_: labels_of(state.index, alike[:1]))
        accept_class(state, "bob", alike[0])
    # Nobody looked at them, so the audit still asks for them.
    assert state.audit.precision().judged == 0
    assert state.listing.count_now(Search(order="audit", reviewed="not by me").seen_by("ann", 0)) == 31
    asked = state.listing.labels(Search(order="check").seen_by("ann", 0), 0, 100).numbers
    assert len(asked) == 2 and set(asked) < set(alike)
    with pytest.raises(ValueError, match="one by one"):
        accept_class(state, "ann", asked[0])
    accepted, rejected = (
        Decisions.model_validate({"decisions": [{"label": label, "kind": kind, "queue": "check"}]})
        for label, kind in zip(asked, ("accept", "reject"), strict=True)
    )
    assert decide(state, "ann", accepted)["reopened"] == 0
    # The server ends before it has reopened the class, and the page sends the verdict again.
    with monkeypatch.context() as ending, pytest.raises(KeyboardInterrupt):
        ending.setattr(decisions, "_reopen", interrupted)
        decide(state, "ann", rejected)
    assert [decide(state, "ann", rejected)["reopened"] for _ in range(2)] == [28, 0]
    assert {verdict.kind for verdict in state.reviews.log.standing_of("ann")} == {"accept", "reject"}
    assert len(state.reviews.log.standing_of("ann")) == 2
    # Any queue will do, but not a label that was not accepted with it.
    accept_class(state, "bob", alike[0])
    wrong = [{"label": label, "kind": "reject", "queue": "audit"} for label in (unsure, *alike[:2])]
    reopened = [
        decide(state, "bob", Decisions.model_validate({"decisions": of}))["reopened"] for of in (wrong[:1], wrong[1:])
    ]
    assert reopened[0] == 0 and reopened[1] >= 26
    assert {verdict.kind for verdict in state.reviews.log.standing_of("bob")} == {"reject"}


def test_copies_of_a_label_that_is_to_be_checked_are_not_accepted_with_its_class(book, opened):
    digests = {n: f"{n // 2:064x}" for n in range(2, 6)}
    book.add("ingest", "toys/0000", [book.image(n, TWO_PEOPLE) | {"digest": digest} for n, digest in digests.items()])
    book.add("tag", "toys/0000", [relations(n, (0, "ride", 2, 0.99)) for n in digests])
    state = opened()
    taken = accept_class(state, "ann", state.listing.labels(Search(), 0, 1).numbers[0])
    assert taken == {"accepted": 1, "asked": 1}
    assert state.listing.count_now(Search(order="check").seen_by("ann", 0)) == 2, "both copies of one"
    asked = state.listing.labels(Search(order="check").seen_by("ann", 0), 0, 1).numbers[0]
    wrong = {"label": asked, "kind": "reject", "queue": "check"}
    assert decide(state, "ann", Decisions.model_validate({"decisions": [wrong]}))["reopened"] == 1
    assert [verdict.kind for verdict in state.reviews.log.standing_of("ann")] == ["reject"]


def test_what_a_page_shows_of_labels_and_images_that_were_made_again_is_refused(book, opened):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.99))], settings={"made": 1})
    state = opened()
    (shown,) = labels_of(state.index, state.listing.labels(Search(), 0, 1).numbers)
    image = state.details.find(shown.image)
    verdict = {"label": shown.number, "content": shown.content, "kind": "accept"}
    relation = {"image": shown.image, "content": image.content, "subject": 0, "object": 1, "predicate": "see"}
    judge(state, verdict)
    address = picture(shown.image, shown.digest)
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE[::-1]) | {"digest": "1"}], settings={"made": 2})
    book.add("tag", "toys/0000", [relations(1, (1, "feed", 2, 0.99))], settings={"made": 2})
    state.refresh()
    (label,) = labels_of(state.index, [shown.number])
    assert label.predicate == "feed" and picture(label.image, label.digest) != address
    for record in (
        lambda: judge(state, verdict),
        lambda: accept_class(state, "ann", shown.number, shown.content),
        lambda: add_relation(state, "ann", Addition.model_validate(relation)),
    ):
        with pytest.raises(ValueError, match="recomputed; reload the page"):
            record()
    assert [one.relation.predicate for one in state.reviews.log.verdicts()] == ["ride"]


def test_a_pair_of_boxes_that_have_other_numbers_by_now_is_refused(book, opened):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.99))], settings={"made": 1})
    state = opened()
    (shown,) = labels_of(state.index, state.listing.labels(Search(), 0, 1).numbers)
    boxes = state.details.find(shown.image).content
    chosen = {"content": shown.content, "kind": "wrong_pair", "subject": 1, "boxes": boxes}
    more = [TWO_PEOPLE[0], ("dog", 1.0, 1.0, 9.0, 9.0), *TWO_PEOPLE[1:]]
    book.add("ingest", "toys/0000", [book.image(1, more)], settings={"made": 2})
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 3, 0.99))], settings={"made": 2})
    state.refresh()
    assert judge(state, {"content": shown.content, "kind": "accept"})["verdicts"] == 1, "the label itself is the same"
    with pytest.raises(ValueError, match="its boxes have changed"):
        judge(state, chosen)


def test_no_open_label_is_skipped_when_a_queue_is_sorted_again(opened, labelled, monkeypatch):
    monkeypatch.setattr("pipeline.review.pages.GRID", 1)
    state = opened()
    numbers = state.listing.labels(Search(order="image"), 0, 9).numbers

    def shown(page: int) -> int:
        text = Pages(state).labels("ann", Search(order="image", reviewed="not by me"), page)
        return int(re.search(r'<article class="chip"[^>]* data-label="(\d+)"', text)[1])

    for page in (1, 2):
        assert shown(page) == numbers[page - 1]
        judge(state, *[{"kind": "accept"}] * page)
    state.index.generation += 1  # as when the run grows
    with pytest.raises(HTTPException) as led:
        shown(2)
    assert led.value.headers == {"Location": "labels?reviewed=not+by+me&order=image"}
    # Image 2 is a copy of image 1, so its first label is judged, too.
    assert (shown(1), shown(2)) == (numbers[2], numbers[4])


def test_a_screen_beyond_the_last_leads_to_the_first(opened, labelled):
    pages = Pages(opened())
    assert '<a href="labels?kept=yes">Show the first' in pages.labels("ann", Search(kept="yes"), 3)
    assert "No label matches" in pages.labels("ann", Search(predicate="fly"), 3)


def interrupted(*_: object) -> int:
    raise KeyboardInterrupt


def test_adjudication_settles_only_what_reviewers_disagree_on(opened, labelled):
    state = opened()
    contested, agreed = state.listing.labels(Search(order="image"), 0, 2).numbers
    for reviewer, kinds in (("ann", ("accept", "accept")), ("bob", ("reject", "accept"))):
        given = [{"label": label, "kind": kind} for label, kind in zip((contested, agreed), kinds, strict=True)]
        decide(state, reviewer, Decisions.model_validate({"decisions": given}))
    given = [{"label": label, "kind": "reject", "queue": "adjudication"} for label in (contested, agreed)]
    decide(state, "lead", Decisions.model_validate({"decisions": given}))
    assert [one.queue for one in state.reviews.log.standing_of("lead")] == ["adjudication", "image"]
    undone = {"label": agreed, "kind": "undo", "queue": "adjudication"}  # it is contested by now
    assert decide(state, "lead", Decisions.model_validate({"decisions": [undone]}))["verdicts"] == 1


def test_what_a_lead_is_unsure_of_is_not_asked_again(opened, labelled, monkeypatch):
    monkeypatch.setattr(audit, "AGAIN", 1)
    state = opened()
    settled, doubted = state.listing.labels(Search(order="image"), 0, 2).numbers
    for reviewer, kinds in (("ann", ("accept",) * 2), ("bob", ("reject",) * 2), ("lead", ("accept", "unsure"))):
        queue = "adjudication" if reviewer == "lead" else "grid"
        given = [{"label": n, "kind": kind, "queue": queue} for n, kind in zip((settled, doubted), kinds, strict=True)]
        decide(state, reviewer, Decisions.model_validate({"decisions": given}))
    asked = {row["relation"] for row in state.index.rows("SELECT relation FROM live.honeypots")}
    assert settled in asked and doubted not in asked


def test_a_lead_settles_blindly_what_they_accepted_with_its_class(opened, labelled):
    state = opened()
    (label,) = labels_of(state.index, state.listing.labels(Search(order="image"), 0, 1).numbers)
    verdicts = {"lead": verdict_on(label, "accept", "lead", "toy", queue="class")}
    assert verdict_state(verdicts, "lead", "grid")["kind"] == "accept"
    assert verdict_state(verdicts, "lead", "adjudication")["kind"] == ""


def test_only_relations_that_were_added_count_as_added(book, opened):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], settings={"made": 1})
    state = opened()
    judge(state, {"kind": "accept"})
    (image,) = state.index.rows("SELECT image FROM images")
    add_relation(state, "ann", Addition(image=image["image"], subject=0, object=1, predicate="see"))
    book.add("tag", "toys/0000", [relations(1, (0, "feed", 2, 0.9))], settings={"made": 2})
    state.refresh()
    page = Pages(state).image("ann", Search(), image["image"])
    assert re.findall(r'data-action="remove"[^>]* data-predicate="(\w+)"', page) == ["see"]


def test_a_relation_that_is_added_twice_is_removed_at_once(opened, labelled):
    state = opened()
    image = state.index.rows("SELECT image FROM images WHERE image_id = 1")[0]["image"]
    for kind in ("accept", "accept", "undo", "undo"):
        add_relation(state, "ann", Addition(image=image, subject=0, object=1, predicate="see", kind=kind))
    assert [verdict.kind for verdict in state.reviews.log.verdicts()] == ["accept", "undo"]


def test_the_overview_counts_the_checks_of_a_members_own_share(book, opened, tmp_path):
    numbers = range(1, 61)
    book.add("ingest", "toys/0000", [book.image(n, TWO_PEOPLE) | {"digest": f"{n:064x}"} for n in numbers])
    book.add("tag", "toys/0000", [relations(n, (0, "ride", 2, 0.99)) for n in numbers])
    write_team(tmp_path / "verdicts", Team(size=3, members=("ann", "bob", "cyd")))
    state = opened()
    own = state.listing.labels(Search(share="mine").seen_by("ann", 0), 0, 100).numbers
    asked = accept_class(state, "ann", own[0])["asked"]
    assert 0 < asked == work_of(state, "ann").checks


OBJECTS = [
    {"object_id": 1, "x": 400.0, "y": 150.0, "w": 50.5, "h": 130.0, "names": "person"},
    {"object_id": 2, "x": 1.0, "y": 2.0, "w": 30.0, "h": 40.0, "names": "horse"},
]
RIDING = {"relationship_id": 1, "predicate": "riding", "subject_id": 1, "object_id": 2, "confidence": 0.31}


def test_imported_labels_are_shown_and_no_verdict_is_taken(tmp_path):
    entry = {"image_id": 139, "dataset": "coco2017", "data_split": "val2017", "objects": OBJECTS}
    (tmp_path / "labels.json").write_text(json.dumps([{**entry, "relationships": [RIDING]}]))
    run = Run(LocalStore(tmp_path / "store"), "theirs")
    import_file(tmp_path / "labels.json", run)
    state = ReviewState(lambda: recorded_view(run), tmp_path / "index.duckdb", tmp_path / "verdicts")
    access = Access(names=["127.0.0.1"], secret="5" * 64, reviewer="ada")
    with TestClient(protected(page_routes(state), access), base_url=f"http://127.0.0.1{access.path}") as client:
        client.get(access.url)
        assert "1 label<" in client.get("/labels").text
        assert "1 label<" in client.get("/labels?order=audit").text
        image = client.get("/image?number=0").text
        assert "451×280" in image, "the extent of the boxes"
        answer = client.post("/verdicts", json={"decisions": [{"label": 0, "kind": "accept"}]})
        assert answer.status_code == 422 and "imported images lack" in answer.json()["error"]
        assert not list((tmp_path / "verdicts").glob("*"))
    state.close()
