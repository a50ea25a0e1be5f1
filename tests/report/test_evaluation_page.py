"""The page and the Markdown of an evaluation: complete, self-contained, and safe with any name."""

import re
from dataclasses import replace

import numpy as np
import pytest
from pair_scenes import BIKE, DOG, MAN, TRUE, random_relations, relations, truth_of
from PIL import Image

from pipeline.data.images.opening import BadImage
from pipeline.evaluation.anatomy import Kind, dissect
from pipeline.evaluation.diagnostics import calibration
from pipeline.evaluation.published import published_results
from pipeline.evaluation.summary import ClassScore, Figure, summarise
from pipeline.report.charts import AXES
from pipeline.report.evaluation_charts import class_chart, class_groups, cost_bars, reliability_chart
from pipeline.report.evaluation_images import EvaluatedImages, best_and_worst_images, shown_image
from pipeline.report.evaluation_page import (
    evaluation_markdown,
    evaluation_page,
    published_tables,
    write_evaluation_page,
)

OBJECTS = ("person", "bike", "hat", "dog", "cat", "cup", "<b>bold</b>", "tree", "bag", "car")
PREDICATES = ("sees", "holds", "rides", "pushes", "<script>", "eats", "wears", "feeds", "pets", "sits on")
FIGURES = (
    Figure("full", "full", 0.4321, 0.41, 0.45, official=0.4402),
    Figure("rare", "rare", 0.2),
    Figure("non_rare", "non-rare", 0.5),
)
CLASSES = (
    ClassScore("ride bike", 0.4321, 300, "non-rare"),
    ClassScore("hold dog", 0.05, 2, "rare"),
    ClassScore("a | b", 0.0, 7, "rare"),
)


def share_found(predicted, truth):
    return float(dissect(predicted, truth).found.mean())


def scene():
    predicted = relations(
        [(*TRUE, 0.9), (MAN, BIKE, 0, 1, 4, 0.8), (DOG, DOG, 6, 6, 0, 0.1)], [(DOG, BIKE, 3, 1, 5, 0.7)]
    )
    return dissect(predicted, truth_of([TRUE], [(DOG, BIKE, 3, 1, 2), (MAN, DOG, 0, 3, 8)]))


def summary_of(dissection, benchmark="hico-det", **options):
    return summarise(benchmark, "run <demo>", FIGURES, CLASSES, dissection, share_found, PREDICATES, **options)


def whole(dissection, **options):
    """The summary as if its test set were HICO-DET's."""
    return replace(summary_of(dissection, **options), published=published_results("hico-det"), difference="")


def images_of(dissection, read=None):
    def picture(position):
        return Image.new("RGB", (1200, 900), (90, 110, 120 + position))

    titles = [f"{number}.jpg" for number in range(dissection.truth.images)]
    return EvaluatedImages(dissection, OBJECTS, PREDICATES, titles, read or picture)


def test_a_page_is_one_file_that_loads_and_runs_nothing(tmp_path):
    page = write_evaluation_page(whole(scene()), tmp_path / "page.html", images_of(scene()))
    text = page.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [page]
    assert "<script" not in text
    assert "run &lt;demo&gt;" in text
    assert "<b>bold" not in text
    assert not re.search(r'(src|href)="(?!data:image/jpeg|#|https://github.com/)', text)
    assert not re.search(r'<(img|link|iframe)[^>]*src="https?:', text)
    assert " style=" not in text  # the policy of the page would drop it


def test_a_page_shows_scores_intervals_errors_classes_and_caveats():
    summary = summary_of(scene(), backbone="R50")
    text = evaluation_page(summary, images_of(scene()))
    for expected in ("43.21", "41.00 to 45.00", "44.02", "official evaluator", "ride bike", "predicate", "hold dog"):
        assert expected in text
    assert all(caveat in text.replace("&#39;", "'") for caveat in summary.caveats)
    assert text.count("data:image/jpeg;base64,") == 2


def test_a_page_without_images_classes_or_calibration_can_be_written():
    dissection = dissect(relations([(*TRUE, 3.0)]), truth_of([TRUE]))
    summary = replace(summary_of(dissection, benchmark="ours"), classes=(), figures=(Figure("map", "mAP", 0.1),))
    text = evaluation_page(summary)
    assert "Pictures" not in text
    assert "Calibration" not in text
    assert "published" not in text
    assert evaluation_markdown(summary)


def test_ours_stands_first_and_by_the_official_evaluator():
    first = published_tables(whole(scene(), backbone="R50"))[0]
    assert (first.setting, first.rows[0].method, first.rows[0].backbone) == ("full", "run <demo>", "R50")
    assert first.columns[:3] == ("full", "rare", "non-rare")
    assert first.rows[0].cells[:4] == pytest.approx((44.02, 20.0, 50.0, None))
    assert [row.note for row in first.rows].count(0) == 1


def test_results_of_another_test_set_are_left_out_and_the_page_says_why():
    summary = summary_of(scene())
    assert published_tables(summary) == ()
    for text in (evaluation_page(summary), evaluation_markdown(summary)):
        assert "whole test set of HICO-DET, 9,658 images and 600 classes. This one has 2 images and 3 classes" in text
        assert "QPIC" not in text
    assert "QPIC" in evaluation_page(whole(scene()))


def test_classes_and_costs_are_named_after_what_they_measure():
    summary = replace(summary_of(scene()), scored="R@50", measure="R@100")
    markdown, page = evaluation_markdown(summary), evaluation_page(summary)
    assert "cost in R@50" in markdown and markdown.count("| class | R@100 | truths |") == 2
    assert "the gain in R@50" in page and page.count('<th class="n">R@100</th>') == 2


def test_boxes_that_are_shares_of_the_image_are_drawn_in_pixels():
    part = [0.25, 0.5, 0.5, 1.0]
    dissection = dissect(relations([(part, part, 0, 1, 2, 0.9)]), truth_of([(part, part, 0, 1, 2)]))
    picture = shown_image(replace(images_of(dissection), shares=True, longest_side=300), 0, 1.0)
    assert (picture.width, picture.height) == (300, 225)
    assert picture.boxes[0].rect == (75.0, 112.5, 75.0, 112.5)


def test_ours_stands_only_among_results_of_its_setting():
    tables = published_tables(whole(scene(), setting="NF"))
    assert tables[0].setting == "NF"
    assert [row.note for table in tables for row in table.rows].count(0) == 1
    alone = published_tables(whole(scene(), setting="5%"))
    assert all(row.note for table in alone for row in table.rows)


def test_markdown_holds_the_tables_and_escapes_names():
    text = evaluation_markdown(whole(scene()))
    assert "| full | 43.21 | 41.00 to 45.00 | 44.02 |" in text
    assert "| **run &lt;demo>** |" in text
    assert "[QPIC, README, Results](https://github.com/hitachi-rd-cv/qpic)" in text
    assert "| a \\| b | 0.00 | 7 |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} <= {4, 5, 10}


def test_bars_are_of_errors_that_occur_and_the_most_costly_first():
    bars = cost_bars(summary_of(scene()).anatomy)
    assert {bar.kind for bar in bars} == {"predicate", "background", "missed"}
    assert [bar.cost for bar in bars] == sorted((bar.cost for bar in bars), reverse=True)
    assert bars[0].length == 1.0
    assert all(0 <= bar.length <= 1 for bar in bars)


def test_dots_stay_inside_their_charts():
    reliability = reliability_chart(calibration(np.array([0.0, 1.0, 1.0]), np.array([False, True, True])))
    assert len(reliability.dots) == 2
    classes = class_chart([*CLASSES, ClassScore("never", float("nan"), 3), ClassScore("none", 0.0, 0)])
    assert len(classes.dots) == 3
    assert [dot.style for dot in classes.dots] == ["dot dot-0", "dot dot-1", "dot dot-1"]
    assert all(0 <= dot.x <= AXES.width and 0 <= dot.y <= AXES.height for dot in (*reliability.dots, *classes.dots))
    assert class_chart([]) is None


def test_groups_of_classes_have_means():
    assert class_groups(CLASSES) == [("non-rare", 1, 0.4321), ("rare", 2, pytest.approx(0.025))]


def test_a_picture_tells_what_was_found_wrong_and_not_found():
    best, worst = best_and_worst_images(images_of(scene()), 1)
    assert [(each.title, each.precision) for each in (*best, *worst)] == [("0.jpg", 1.0), ("1.jpg", 0.0)]
    assert [(r.subject, r.predicate, r.object, r.note) for r in best[0].wrong] == [
        ("person", "<script>", "bike", Kind.PREDICATE),
        ("<b>bold</b>", "sees", "<b>bold</b>", Kind.BACKGROUND),
    ]
    assert [(r.predicate, r.note) for r in worst[0].unfound] == [("rides", ""), ("pets", "missed")]
    assert [(r.predicate, r.score) for r in best[0].found] == [("rides", 0.9)]


def test_boxes_are_drawn_once_and_in_pixels_of_the_picture():
    picture = shown_image(images_of(scene()), 0, 1.0)
    assert (picture.width, picture.height) == (560, 420)
    man, bike = picture.boxes
    assert (man.name, man.style, bike.style) == ("person", "found", "found")
    assert [line.style for line in picture.lines] == ["found", "wrong"]
    assert {box.style for box in shown_image(images_of(scene()), 1, 0.0).boxes} == {"wrong", "unfound"}
    assert (bike.rect.x, bike.rect.w) == pytest.approx((200 * 560 / 1200, 99 * 560 / 1200), abs=0.1)


def test_boxes_that_are_nearly_the_same_are_drawn_once_and_names_do_not_cover_each_other():
    close, lower = [4.0, 4.0, 103.0, 103.0], [40.0, 10.0, 399.0, 399.0]
    truth = truth_of([TRUE, (close, BIKE, 0, 1, 4), (lower, BIKE, 3, 1, 5)])
    picture = shown_image(images_of(dissect(relations([(*TRUE, 0.9)]), truth)), 0, 1 / 3)
    assert [(box.name, box.labelled) for box in picture.boxes] == [("person", True), ("bike", True), ("dog", False)]
    assert len(picture.lines) == 3


def test_an_image_that_cannot_be_read_has_its_relations():
    def broken(position):
        raise BadImage("missing file", f"{position}.jpg")

    picture = shown_image(images_of(scene(), broken), 0, 1.0)
    assert (picture.source, picture.boxes, picture.problem) == (None, (), "missing file: 0.jpg")
    assert picture.found
    assert "missing file: 0.jpg" in evaluation_page(summary_of(scene()), images_of(scene(), broken))


def test_a_relation_without_an_object_has_no_line():
    nothing = [np.nan] * 4
    dissection = dissect(relations([(MAN, nothing, 0, 1, 2, 0.9)]), truth_of([(MAN, nothing, 0, 1, 2)]))
    picture = shown_image(images_of(dissection), 0, 1.0)
    assert (len(picture.boxes), picture.lines) == (1, ())


def test_many_images_give_at_most_a_few_pictures():
    dissection = dissect(random_relations(1, 40, 12, True), random_relations(2, 40, 5, False))
    best, worst = best_and_worst_images(images_of(dissection), 6)
    assert (len(best), len(worst)) == (6, 6)
    assert min(each.precision for each in best) >= max(each.precision for each in worst)
