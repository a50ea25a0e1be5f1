"""The images of a report: how they are chosen, drawn and told in words."""

import re
from collections import Counter
from itertools import combinations

import pytest
from report_page import report
from run_builder import TWO_PEOPLE, RunBuilder, pairs, relations

from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.report import galleries
from pipeline.report.drawing import Rect, name_places
from pipeline.report.galleries import BADGE, DRAWN, Card, draw_galleries, hardest_images, lay_out_card, random_images
from pipeline.report.samples import read_samples
from pipeline.run.context import run_view

CHOICE = ChoiceSettings(threshold=0.5)


def ids(chosen: galleries.Gallery) -> list[int]:
    return [sample.row["image_id"] for sample in chosen.samples]


@pytest.fixture
def thirty(book: RunBuilder) -> RunBuilder:
    """Thirty images in three partitions of unequal size, without labels."""
    for part, size in enumerate((5, 20, 5)):
        book.add("ingest", f"toys/{part:04d}", [book.image(100 * part + n, TWO_PEOPLE) for n in range(size)])
    return book


def test_a_seed_draws_the_same_pictures_and_says_from_how_many(thirty):
    drawn = random_images(thirty.run, ["toys"], CHOICE, 6, seed=3)
    assert ids(drawn) == ids(random_images(thirty.run, ["toys"], CHOICE, 6, seed=3))
    assert ids(drawn) != ids(random_images(thirty.run, ["toys"], CHOICE, 6, seed=4))
    assert drawn.how == "6 of 30 images, drawn at random with seed 3."
    assert random_images(thirty.run, ["toys"], CHOICE, 99, seed=0).how == "All 30 images."


def test_every_image_has_the_same_chance(thirty):
    seen = Counter(i for seed in range(100) for i in ids(random_images(thirty.run, ["toys"], CHOICE, 9, seed)))
    assert len(seen) == 30 and min(seen.values()) >= 10 and max(seen.values()) <= 55


def test_the_hardest_disagree_most_with_given_relations(labelled):
    hardest = hardest_images(labelled.run, ["toys"], CHOICE, 5, seed=0)
    # Image 1: both kept labels are given. Image 2: "next to" is kept, but not given.
    assert [(s.row["image_id"], s.disagreements) for s in hardest.samples] == [(2, 1)]
    assert hardest.how.startswith("Of 2 images with ground-truth relations, the 1 with the most disagreements")


def test_a_relation_that_the_ground_truth_states_in_several_wordings_is_missed_once(book):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE, [(0, "riding", 2), (0, "rides", 2), (0, ".", 2)])])
    book.add("tag", "toys/0000", [relations(1)], candidates=[pairs(1)])
    (sample,) = read_samples(book.run, ["toys"], CHOICE)
    assert [(missed.predicate, missed.right) for missed in sample.missed] == [("ride", True)]
    assert sample.disagreements == 1


def test_without_given_relations_the_hardest_have_the_most_doubtful_scores(book):
    book.add("ingest", "toys/0000", [book.image(n, TWO_PEOPLE) for n in (1, 2, 3)])
    rows = [relations(1, (0, "ride", 2, 0.99)), relations(2, (0, "ride", 2, 0.6)), relations(3, (0, "ride", 2, 0.4))]
    proposed = [pairs(n, (0, "ride", 2, 1)) for n in (1, 2, 3)]
    book.add("tag", "toys/0000", rows, candidates=proposed)
    hardest = hardest_images(book.run, ["toys"], CHOICE, 2, seed=0)
    assert set(ids(hardest)) == {2, 3} and "the 2 with the most doubtful labels" in hardest.how


def test_the_hardest_of_a_large_run_name_their_partitions(thirty, monkeypatch):
    for part, size in enumerate((5, 20, 5)):
        rows = [relations(100 * part + n, (0, "ride", 2, 0.6)) for n in range(size)]
        thirty.add("tag", f"toys/{part:04d}", rows, candidates=[])
    monkeypatch.setattr(galleries, "EXAMINED", 10)
    hardest = hardest_images(thirty.run, ["toys"], CHOICE, 2, seed=1)
    assert re.match(r"Of (5|10|20) images in [12] of 3 partitions, drawn with seed 1, the 2 with", hardest.how)


def test_a_gallery_without_pictures_is_left_out(thirty, recipe, tmp_path):
    view = run_view(recipe, thirty.run)
    (tmp_path / "images").mkdir()
    assert [each.name for each in draw_galleries(view, 4, 0, tmp_path).galleries] == ["random"]
    assert draw_galleries(view, 0, 0, tmp_path).galleries == ()


def test_each_arrow_has_the_number_of_its_line_and_a_picture_tells_its_relations_in_words(labelled, recipe, tmp_path):
    page = report(recipe, labelled, tmp_path / "report")
    assert page.all("img")[0]["alt"] == "Kept labels: person 1 ride horse, person 2 next to person 1."
    text = (tmp_path / "report" / "index.html").read_text()
    cards = re.findall(r'<article class="card".*?</article>', text, re.DOTALL)
    assert len(cards) == 3  # both images, and the harder one again
    for card in cards:
        drawn = re.findall(r'class="number"[^>]*>(\d+)</text>', card)
        listed = re.findall(r'class="no">(\d+)<', card)
        assert listed and sorted(drawn) == sorted(listed)
        assert card.index("</svg>") < card.index('class="no"'), "the list is below the picture"
    assert '<span class="subject">person 1</span> <b>ride</b> <span class="object">horse</span>' in text


def crowd(book: RunBuilder, labels: int) -> Card:
    """A row of people, each of whom holds the same cup."""
    boxes = [("person", 2.0 * n, 10.0, 30.0, 80.0) for n in range(labels)] + [("cup", 120.0, 60.0, 10.0, 10.0)]
    held, own = relations(1, *((n, "hold", labels, 0.9) for n in range(labels))), {"labels": labels}
    book.add("ingest", "toys/0000", [book.image(1, boxes)], settings=own)
    book.add("tag", "toys/0000", [held], candidates=[], settings=own)
    (sample,) = read_samples(book.run, ["toys"], CHOICE)
    return lay_out_card("random-1", sample, "images/toys-1.jpg", (200, 120))


def test_the_numbers_of_a_crowd_stay_inside_and_apart(book):
    card = crowd(book, 18)
    assert [arrow.number for arrow in card.arrows] == list(range(1, 19))
    assert all(0 <= x <= 1000 and 0 <= y <= card.drawing.height for x, y in (arrow.badge for arrow in card.arrows))
    close = [
        (one.number, other.number)
        for one in card.arrows
        for other in card.arrows[one.number :]
        if abs(one.badge[0] - other.badge[0]) + abs(one.badge[1] - other.badge[1]) < BADGE / 4
    ]
    assert not close
    assert card.alt.endswith("and 6 more.")
    card = crowd(book, DRAWN["kept"] + 5)
    assert len(card.of_kind("kept")) == DRAWN["kept"] and card.omitted["kept"] == 5


def test_the_names_of_boxes_stay_inside_the_image_and_apart():
    boxes = [Rect(5, 5, 60, 50), Rect(6, 4, 300, 200), Rect(960, 300, 30, 60), Rect(2, 560, 20, 38)]
    places = name_places(zip(("person 1", "dining table", "person 2", "suitcase"), boxes, strict=True), 36, 1000, 600)
    assert all(place.moved_into(1000, 600) == place and place.w > 8 * 22 for place in places)
    assert not any(one.overlaps(other) for one, other in combinations(places, 2))
