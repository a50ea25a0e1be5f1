"""A run's index: the same rows however it is built, counts after a crash, and verdicts on the labels they are about."""

import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from run_builder import TWO_PEOPLE, RunBuilder, captions, pairs, relations, triplets

from pipeline.cli.store import damaged_files
from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.labels.team import MOST_MEMBERS
from pipeline.labels.verdict_log import VerdictLog
from pipeline.review.index import FEW, ReviewIndex, flattened, index_fault
from pipeline.review.labels import Label, labels_of, labels_of_images
from pipeline.review.pages import Pages
from pipeline.review.review_state import ReviewState
from pipeline.review.reviews import verdict_on
from pipeline.review.search import Search
from pipeline.run.context import run_view
from storage.errors import FatalError
from tagger.english.predicates import canonical


def tag(book: RunBuilder, *scores: float) -> None:
    """Two images; on the first, the same label in two wordings with the first two scores."""
    images = [book.image(n, TWO_PEOPLE) | {"digest": f"{n}" * 64} for n in (1, 2)]
    book.add("ingest", "toys/0000", images)
    book.add("caption", "toys/0000", [captions(1, "a man rides a horse"), captions(2, "a horse near a man")])
    book.add("parse", "toys/0000", [triplets(1, (0, "man", "ride", "horse")), triplets(2)])
    first, second, third = scores
    found = [
        relations(1, (0, "riding", 2, first), (0, "rides", 2, second), (1, "near", 0, 0.4)),
        relations(2, (2, "near", 0, third)),
    ]
    settings = {"scores": list(scores)}
    book.add("tag", "toys/0000", found, candidates=[pairs(1, (0, "riding", 2, 1)), pairs(2)], settings=settings)


def all_labels(state: ReviewState) -> list[Label]:
    return labels_of(state.index, state.listing.labels(Search(order="image"), 0, 100).numbers)


def test_a_verifiers_opinions_order_labels_and_divide_the_audit(book, opened):
    tag(book, 0.9, 0.8, 0.7)
    near = canonical("near")
    said = [(0, "ride", 2, 0.8), (1, near, 0, 0.9)], [(2, near, 0, 0.3)]
    named = [
        [dict(zip(("subject", "predicate", "object", "probability"), one, strict=True)) for one in of] for of in said
    ]
    book.add("verify", "toys/0000", [{"image_id": n, "verifier": "v", "opinions": of} for n, of in enumerate(named, 1)])
    state = opened()
    found = labels_of(state.index, state.listing.labels(Search(order="verifier", kept="yes"), 0, 100).numbers)
    kept = {(each.subject, each.predicate) for each in found}
    assert (found[0].subject, found[0].predicate) == (2, near) and (0, "ride") in kept
    bands = {each.name.partition(", ")[2] for each in state.audit.precision().strata}
    assert bands == {"accepted by the verifier", "refused by the verifier"}


def test_processes_of_their_own_flatten_many_partitions_as_this_one_does(book, opened):
    tag(book, 0.9, 0.8, 0.7)
    state = opened()
    found = state.index.partition(0)
    choice = state.view.choice
    many = list(flattened([(part, found) for part in range(FEW + 2)], choice))
    assert len(many) == FEW + 2
    for part, tables in enumerate(many):
        (alone,) = flattened([(part, found)], choice)
        assert tables.keys() == alone.keys() and all(tables[name].equals(alone[name]) for name in alone)


def test_what_a_killed_process_did_not_count_is_counted(book, tmp_path, recipe):
    tag(book, 0.9, 0.8, 0.7)
    view = run_view(recipe, book.run)
    index = ReviewIndex(tmp_path / "index.duckdb", lambda: view)
    index.refresh()
    sql = {table: f"SELECT * FROM {table} ORDER BY ALL" for table in ("predicates", "informative", "offered")}
    counted = {table: index.rows(query) for table, query in sql.items()}
    assert all(counted.values())
    with index.cursor() as cursor:
        for table in sql:
            cursor.execute(f"DELETE FROM {table}")
        cursor.execute("INSERT INTO uncounted VALUES (1)")
    index.close()
    again = ReviewIndex(tmp_path / "index.duckdb", lambda: view)
    assert {table: again.rows(query) for table, query in sql.items()} == counted
    again.close()


def test_labels_come_in_the_order_asked_for_and_anew_when_they_were_made_anew(book, opened):
    tag(book, 0.9, 0.8, 0.7)
    state = opened()
    labels = all_labels(state)
    numbers = [label.number for label in reversed(labels)]
    assert labels_of(state.index, [*numbers, 10**15]) == labels[::-1]
    assert [label.score for label in labels_of_images(state.index, [labels[0].image])] == pytest.approx([0.9, 0.8, 0.4])
    tag(book, 0.6, 0.5, 0.3)
    state.refresh()
    assert [label.score for label in labels_of(state.index, numbers[::-1])] == pytest.approx([0.6, 0.5, 0.4, 0.3])
    assert state.index.refresh() == 0


def test_an_image_that_is_ingested_again_keeps_the_boxes_of_its_labels_until_it_is_tagged(book, opened):
    def ingest(boxes: Any, made: int) -> None:
        book.add("ingest", "toys/0000", [book.image(1, boxes)], settings={"made": made})

    def label(made: int) -> None:
        read = {"images": [book.run.artifacts("ingest")["toys/0000"].content]}
        found, own = relations(1, (0, "ride", 2, 0.9)), {"made": made}
        book.add("tag", "toys/0000", [found], candidates=[pairs(1)], settings=own, inputs=read)

    def subject(state: ReviewState) -> str | None:
        (each,) = all_labels(state)
        detail = state.details.find(each.image)
        return None if detail is None else detail.boxes[each.subject]["category"]

    ingest(TWO_PEOPLE, 1)
    label(1)
    state = opened()
    ingest(TWO_PEOPLE[::-1], 2)
    state.refresh()
    assert subject(state) == "person"
    state = opened()
    assert subject(state) is None, "a new server doesn't know the earlier boxes"
    label(2)
    state.refresh()
    assert subject(state) == "horse"


def test_the_labels_of_a_pair_come_together(book, opened):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    found = relations(1, (0, "riding", 2, 0.9), (1, "near", 0, 0.8), (0, "watching", 2, 0.7))
    book.add("tag", "toys/0000", [found], candidates=[pairs(1)])
    assert [(each.subject, each.predicate) for each in all_labels(opened())] == [(0, "ride"), (0, "watch"), (1, "near")]


def test_verdicts_are_found_on_all_labels_that_they_are_about(book, opened, tmp_path):
    tag(book, 0.9, 0.8, 0.7)
    state = opened()
    ride, rides, _, other = all_labels(state)

    def labels(reviewed: str, name: str = "") -> set[int]:
        search = Search(reviewed=reviewed).seen_by(name, 0)
        state.listing.forget(search)
        return set(state.listing.labels(search, 0, 100).numbers)

    def reviewed() -> set[int]:
        for name in ("ann", "bob"):
            own, others = labels("by me", name), labels("not by me", name)
            assert not own & others and len(own | others) == 4
            assert state.listing.judged(Search(), name) == (len(own), 4)
            assert state.listing.judged(Search(predicate="ride"), name) == (len(own & {ride.number, rides.number}), 2)
            assert state.listing.judged(Search(text="rides a HORSE"), name)[0] == len(own - {other.number})
        assert labels("yes") == labels("by me", "ann") | labels("by me", "bob")
        return labels("yes")

    state.reviews.record([ride], [verdict_on(ride, "accept", "ann", "toy")])
    # Both wordings are the same relation.
    assert reviewed() == {ride.number, rides.number}
    log = VerdictLog(tmp_path / "verdicts")
    log.append([verdict_on(other, "reject", "bob", "toy"), verdict_on(ride, "reject", "bob", "toy")])
    state.refresh()
    assert reviewed() == {ride.number, rides.number, other.number}
    sql = "SELECT relation, kind, reviewer FROM live.reviewed ORDER BY ALL"
    standing = state.index.rows(sql)
    assert [(row["kind"], row["reviewer"]) for row in standing[:2]] == [("accept", "ann"), ("reject", "bob")]
    state = opened()
    assert state.index.rows(sql) == standing
    state.reviews.record([ride], [verdict_on(ride, "undo", "ann", "toy")])
    log.append([verdict_on(ride, "undo", "bob", "toy")])
    state.refresh()
    assert reviewed() == {other.number}
    # Labels that were made anew have other numbers and the same verdicts.
    tag(book, 0.6, 0.5, 0.3)
    state.refresh()
    assert reviewed() == {other.number}
    assert [each.kind for each in log.standing_of("bob")] == ["reject"]
    assert log.standing_of("ann") == []


def test_a_verdict_is_about_the_labels_of_all_copies_of_an_image(book, opened):
    book.add("ingest", "toys/0000", [book.image(n, TWO_PEOPLE) for n in (1, 2)])
    book.add("tag", "toys/0000", [relations(n, (0, "ride", 2, 0.9)) for n in (1, 2)], candidates=[pairs(1), pairs(2)])
    state = opened()
    label, _ = all_labels(state)
    state.reviews.record([label], [verdict_on(label, "accept", "ann", "toy", queue="audit")])
    assert len(state.reviews.of(all_labels(state))) == 2
    assert state.listing.count_now(Search(order="audit", reviewed="not by me").seen_by("ann", 0)) == 0
    assert state.audit.precision().judged == 1, "one verdict is one draw"


def test_images_are_found_in_no_order_of_labels(book, opened):
    tag(book, 0.9, 0.8, 0.3)
    search = Search(order="check", kept="yes").seen_by("ann", 0)
    assert opened().listing.images(search, 0, 100).total == 1


def test_captions_of_images_that_are_gone_are_left_out(book, opened):
    book.add("ingest", "toys/0000", [book.image(n, TWO_PEOPLE) for n in (1, 2)])
    book.add("caption", "toys/0000", [captions(n, f"horse {n}") for n in (1, 2)])
    book.add("ingest", "toys/0000", [book.image(2, TWO_PEOPLE)], settings={"again": True})
    assert opened().index.rows("SELECT image_id, captions FROM images") == [{"image_id": 2, "captions": "horse 2"}]


def test_an_open_page_follows_the_settings_by_which_its_run_keeps_labels(book, opened):
    tag(book, 0.9, 0.8, 0.7)
    state = opened()
    kept = Search(kept="yes")
    assert state.listing.labels(kept, 0, 9).total == 2
    book.add("shard:pseudo", "toys/0000", [], settings={"threshold": 0.75, "confidence": "probability"})
    state.refresh()
    assert state.listing.labels(kept, 0, 9).total == 1 and state.view.choice.threshold == 0.75


def test_lists_and_counts_that_follow_verdicts_change_with_them(book, opened, monkeypatch):
    monkeypatch.setattr("pipeline.review.index.MOST_INFORMATIVE", 1)
    tag(book, 0.9, 0.8, 0.7)
    state = opened()

    def shown(kind: str, **terms: str) -> list[str]:
        """The number of images, or how many labels are judged and of how many."""
        search, pages = Search.model_validate(terms).seen_by("ann", 0), Pages(state)
        page = pages.images("ann", search) if kind == "images" else pages.labels("ann", search, 1)
        return re.findall(r"<h1>(\d+) image" if kind == "images" else r'data-number="(\d+)">.* of (\d+) judged', page)

    assert shown("images", reviewed="no", order="rare") == ["2"]
    assert shown("labels", disagree="reviewers") == [("0", "0")]
    for label in all_labels(state):
        state.reviews.record([label], [verdict_on(label, "accept", "ann", "toy")])
    other = all_labels(state)[-1]
    state.reviews.record([other], [verdict_on(other, "reject", "bob", "toy")])
    assert shown("images", reviewed="no", order="rare") == ["0"]
    assert shown("labels", disagree="reviewers") == [("1", "1")]
    assert shown("labels", order="informative") == [("2", "2")], "one label of each predicate"


def test_the_largest_team_keeps_its_orders_while_verdicts_come_in(book, opened):
    tag(book, 0.9, 0.8, 0.7)
    state = opened()
    orders = [Search(order="audit", reviewed="not by me").seen_by(f"{n}", 0) for n in range(MOST_MEMBERS)]
    for order in orders:
        state.listing.forget(order)
        first = state.listing.labels(order, 0, 9)
    (label,) = labels_of(state.index, first.numbers[:1])
    state.reviews.record([label], [verdict_on(label, "accept", "0", "toy")])
    assert state.listing.labels(orders[0], 0, 9) == first
    state.listing.forget(orders[0])
    assert state.listing.labels(orders[0], 0, 9).total == first.total - 1


def test_the_search_form_offers_the_most_frequent_predicates_first(book, opened):
    tag(book, 0.9, 0.8, 0.1)
    state = opened()
    offered = state.index.rows("SELECT kind, name FROM offered ORDER BY kind, place")
    assert [(row["kind"], row["name"]) for row in offered] == [
        ("categories", "horse"), ("categories", "person"), ("datasets", "toys"), ("predicates", "near"),
        ("predicates", "ride"), ("reasons", "below the threshold"),
        ("reasons", "the same label in other words is kept"),
    ]  # fmt: skip


def test_a_run_whose_labels_do_not_fit_its_settings_opens_without_them(book, recipe, tmp_path, caplog):
    tag(book, 0.9, 0.5, 0.2)
    view = replace(run_view(recipe, book.run), choice=ChoiceSettings(confidence="calibrated"))
    index = ReviewIndex(tmp_path / "index.duckdb", lambda: view)
    with caplog.at_level("WARNING", "rlip"):
        assert index.refresh() == 0
    assert any("toys/0000" in str(record.fields) for record in caplog.records)
    index.close()


def test_a_flipped_bit_is_found_by_verify_and_mended_when_the_index_is_opened(book, recipe, tmp_path, caplog):
    tag(book, 0.9, 0.5, 0.2)
    path = book.run.store.root / "indexes" / "review" / "toy.duckdb"

    def use() -> list[Any]:
        index = ReviewIndex(path, lambda: run_view(recipe, book.run))
        index.refresh()
        found = [
            index.rows(f"SELECT * FROM {table} ORDER BY ALL") for table in ("relations", "images", "offered", "parts")
        ]
        index.close()
        return found

    made, whole, mended = use(), path.read_bytes(), 0
    assert index_fault(path) == "" and list(damaged_files(book.run.store)) == []
    for place in (9, 4200, *range(8192 + 300, len(whole), len(whole) // 8)):
        data = bytearray(whole)
        data[place] ^= 4
        path.write_bytes(data)
        found = list(damaged_files(book.run.store))
        assert [(each.path, each.is_cache) for each in found] in ([], [(path, True)])
        caplog.clear()
        assert use() == made, place
        assert bool(caplog.records) >= bool(found), place
        mended += bool(found)
    assert mended > 3


def test_a_page_that_is_open_is_no_damage(tmp_path):
    code = f"import duckdb; held = duckdb.connect({str(tmp_path / 'index.duckdb')!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        assert index_fault(tmp_path / "index.duckdb") == ""
        other.communicate(b"\n")


def test_a_folder_that_cannot_be_written_is_named(book, recipe, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FatalError, match=r"taken/index\.duckdb: the index of the review page can't be written"):
        ReviewIndex(tmp_path / "taken" / "index.duckdb", lambda: run_view(recipe, book.run))
