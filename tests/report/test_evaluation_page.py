"""The page and the Markdown of an evaluation: complete, self-contained, and safe with any name."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pair_scenes import BIKE, DOG, MAN, TRUE, relations, truth_of
from PIL import Image
from run_builder import TWO_PEOPLE, RunBuilder

from pipeline.data.images.opening import BadImage
from pipeline.evaluation.anatomy import ErrorKind, dissect
from pipeline.evaluation.benchmark import ClassScore, Evaluated, Figure
from pipeline.evaluation.published import PublishedTestSet, published_results
from pipeline.evaluation.summary import summarise
from pipeline.report.evaluation_images import EvaluatedImages, best_and_worst_images, shown_image
from pipeline.report.evaluation_page import evaluation_markdown, evaluation_page, published_tables
from pipeline.report.report_folder import report_fault, write_digests
from pipeline.report.static_report import write_report
from pipeline.run.context import run_view

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


def summary_of(dissection, benchmark="hico-det", **changed):
    evaluated = Evaluated(FIGURES, CLASSES, share_found, "mAP", lambda chosen: None)
    return replace(summarise(benchmark, "run <demo>", evaluated, dissection, PREDICATES), **changed)


def whole(dissection, **changed):
    """The summary as if its test set were HICO-DET's."""
    return replace(summary_of(dissection, **changed), published=published_results("hico-det"), difference="")


def images_of(dissection, read=None):
    def picture(position):
        return Image.new("RGB", (1200, 900), (90, 110, 120 + position))

    titles = [f"{number}.jpg" for number in range(dissection.truth.images)]
    return EvaluatedImages(dissection, OBJECTS, PREDICATES, titles, read or picture)


def test_a_page_loads_and_runs_nothing():
    text = evaluation_page(whole(scene()), images_of(scene()))
    assert "<script" not in text
    assert "run &lt;demo&gt;" in text
    assert "<b>bold" not in text
    assert not re.search(r'(src|href)="(?!data:image/jpeg|#|https://github.com/)', text)
    assert not re.search(r'<(img|link|iframe)[^>]*src="https?:', text)
    assert " style=" not in text  # the policy of the page would drop it


def test_a_page_shows_scores_intervals_errors_classes_and_caveats():
    summary = summary_of(scene())
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


def test_ours_stands_first_by_the_official_evaluator_and_only_among_results_of_its_setting():
    first = published_tables(whole(scene()))[0]
    assert (first.setting, first.rows[0].method) == ("full", "run <demo>")
    assert first.columns[:3] == ("full", "rare", "non-rare")
    assert first.rows[0].cells[:4] == pytest.approx((44.02, 20.0, 50.0, None))
    assert [row.note for row in first.rows].count(0) == 1
    tables = published_tables(whole(scene(), setting="NF"))
    assert tables[0].setting == "NF"
    assert [row.note for table in tables for row in table.rows].count(0) == 1
    alone = published_tables(whole(scene(), setting="5%"))
    assert all(row.note for table in alone for row in table.rows)


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


def test_markdown_holds_the_tables_and_escapes_names():
    text = evaluation_markdown(whole(scene()))
    assert "Scores and costs are in percent." in text
    assert "| full | 43.21 | 41.00 to 45.00 | 44.02 |" in text
    assert "| **run &lt;demo>** |" in text
    assert "[QPIC, README, Results](https://github.com/hitachi-rd-cv/qpic)" in text
    assert "| a \\| b | 0.00 | 7 |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} <= {4, 5, 10}


def test_a_picture_tells_what_was_found_wrong_and_not_found():
    best, worst = best_and_worst_images(images_of(scene()), 1)
    assert [(each.title, each.precision) for each in (*best, *worst)] == [("0.jpg", 1.0), ("1.jpg", 0.0)]
    assert [(r.subject, r.predicate, r.object, r.note) for r in best[0].wrong] == [
        ("person", "<script>", "bike", ErrorKind.PREDICATE),
        ("<b>bold</b>", "sees", "<b>bold</b>", ErrorKind.BACKGROUND),
    ]
    assert [(r.predicate, r.note) for r in worst[0].unfound] == [("rides", ""), ("pets", "missed")]
    assert [(r.predicate, r.score) for r in best[0].found] == [("rides", 0.9)]


def test_an_image_that_cannot_be_read_has_its_relations():
    def broken(position):
        raise BadImage("missing file", f"{position}.jpg")

    picture = shown_image(images_of(scene(), broken), 0, 1.0)
    assert (picture.source, picture.drawing.outlines, picture.problem) == (None, (), "missing file: 0.jpg")
    assert picture.found
    assert "missing file: 0.jpg" in evaluation_page(summary_of(scene()), images_of(scene(), broken))


def test_a_relation_without_an_object_has_no_line():
    nothing = [np.nan] * 4
    dissection = dissect(relations([(MAN, nothing, 0, 1, 2, 0.9)]), truth_of([(MAN, nothing, 0, 1, 2)]))
    picture = shown_image(images_of(dissection), 0, 1.0)
    assert (len(picture.drawing.outlines), picture.drawing.lines) == (1, ())
    without = dissect(relations([(MAN, nothing, 0, -1, 2, 0.9)]), truth_of([]))
    assert [each.object for each in shown_image(images_of(without), 0, 0.0).wrong] == ["nothing"]


def detections(image_id: int, *pairs: tuple[int, str, int, float]) -> dict[str, Any]:
    """A row of detections with the true boxes of `TWO_PEOPLE`; `pairs`: subject, predicate, object, score."""
    boxes = [{"category": c, "score": 1.0, "x": x, "y": y, "w": w, "h": h} for c, x, y, w, h in TWO_PEOPLE]
    found = [{"subject": s, "predicate": p, "object": o, "score": score} for s, p, o, score in pairs]
    image = {"image_id": image_id, "uri": f"{image_id}.png", "width": 200, "height": 120}
    return {**image, "boxes": boxes, "pairs": found}


@pytest.fixture
def evaluated(book: RunBuilder) -> RunBuilder:
    """Three test images, of which the evaluation could read two: one relation found, one not found, one wrong."""
    given = {1: [(0, "riding", 2)], 2: [(0, "next to", 1)], 3: [(1, "holding", 2)]}
    book.add("ingest", "toys/0000", [book.image(each, TWO_PEOPLE, true) for each, true in given.items()])
    for step in ("evaluate:none", "evaluate:pseudo:3", "evaluate:pseudo:12"):
        found = [detections(1, (0, "ride", 2, 0.9)), detections(2, (0, "ride", 2, 0.4))]
        book.add(step, "all", [{"step": 0, "name": "zero_shot_map", "value": 0.5}], detections=found)
    return book


@pytest.fixture
def tested(recipe: Any) -> Any:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"test": ("toys",)})})


def test_each_variant_has_a_page_of_its_first_seed_with_what_was_scored(evaluated, tested, tmp_path):
    page = write_report(run_view(tested, evaluated.run), None, tmp_path / "report")
    made = sorted(path.name for path in (page.parent / "evaluations").iterdir())
    assert made == ["none.html", "none.md", "pseudo.html", "pseudo.md", "side_by_side.html"]
    assert re.findall(r'href="(evaluations/[^"]*)"', page.read_text()) == [
        "evaluations/none.html", "evaluations/pseudo.html", "evaluations/side_by_side.html",
    ]  # fmt: skip
    text = (page.parent / "evaluations" / "pseudo.html").read_text()
    assert "toy, evaluate:pseudo:3" in text and 'href="../index.html"' in text
    assert text.count("data:image/jpeg;base64,") == 2
    markdown = (page.parent / "evaluations" / "pseudo.md").read_text()
    # The third image could not be read, so that its relation is no truth: one of two is found, with precision 1.
    assert "2 images, 2 true relations, 2 predictions" in markdown
    assert markdown.startswith("# toys by HICO-DET's rules\n"), "no benchmark's name, whose caveats would be shown"
    assert "| mAP | 50.00 |" in markdown and "1 of 3 test images could not be read and do not count." in markdown
    assert "| person next to person | 0.00 | 1 |" in markdown
    text = (page.parent / "evaluations" / "side_by_side.html").read_text()
    assert "1 of 3 test images could not be read" in text and "Each variant is scored with its first seed." in text
    assert "pseudo − none" in text and 'href="../index.html"' in text and "2 images, 2 true relations" in text


def learning_from(recipe: Any, test_format: str, **roles: str) -> Any:
    """A recipe whose test set has a format; `roles`: the format of the one dataset in each further role."""
    toys = recipe.data.sources[0].model_copy(update={"format": test_format})
    others = [toys.model_copy(update={"name": f"a_{role}", "format": each}) for role, each in roles.items()]
    by_role = {role: (f"a_{role}",) if role in roles else () for role in ("label", "tagger", "mix")}
    data = recipe.data.model_copy(update={"sources": (toys, *others), "test": ("toys",), **by_role})
    return recipe.model_copy(update={"data": data})


@pytest.mark.parametrize("learned_from", ["coco", "hico_det"])
def test_a_run_on_hico_det_has_results_by_its_rules_only(evaluated, recipe, tmp_path, monkeypatch, learned_from):
    for module in ("pipeline.report.run_evaluations", "pipeline.evaluation.summary"):
        monkeypatch.setattr(f"{module}.published_test_set", lambda _: PublishedTestSet("toys", 2, 2, 2))
    view = run_view(learning_from(recipe, "hico_det", label=learned_from), evaluated.run)
    page = write_report(view, None, tmp_path / "report")
    text = (page.parent / "evaluations" / "pseudo.html").read_text()
    assert "<th>CDN-S " in text and "<th>QPIC " not in text, "QPIC keeps duplicates"
    assert "not multiplied by the table of allowed combinations" in text
    assert ("<summary>Setting NF" in text) == (learned_from == "hico_det"), "what learned from it is not zero-shot"


@pytest.mark.parametrize(
    ("roles", "pseudo", "given"),
    [
        ({"label": "vcoco"}, "zero-shot", "trained on a_label"),
        ({"tagger": "vcoco", "mix": "vcoco"}, "trained on a_mix, a_tagger", "trained on a_mix"),
        ({"label": "coco", "tagger": "gqa", "mix": "gqa"}, "zero-shot", "zero-shot"),
    ],
)
def test_a_page_names_what_its_variant_learned_from_of_the_benchmarks_own_format(
    evaluated, recipe, tmp_path, roles, pseudo, given
):
    row = [{"step": 0, "name": "zero_shot_map", "value": 0.5}]
    evaluated.add("evaluate:given", "all", row, detections=[detections(1, (0, "ride", 2, 0.9))])
    page = write_report(run_view(learning_from(recipe, "vcoco", **roles), evaluated.run), None, tmp_path / "report")
    for variant, setting in (("pseudo", pseudo), ("given", given)):
        assert f", setting {setting}: " in (page.parent / "evaluations" / f"{variant}.md").read_text()


def test_pages_of_the_same_evaluations_are_reused_and_others_made_again(evaluated, tested, tmp_path):
    folder = tmp_path / "report"
    write_report(run_view(tested, evaluated.run), None, folder)
    markdown = {variant: folder / "evaluations" / f"{variant}.md" for variant in ("none", "pseudo")}
    for path in markdown.values():
        path.write_text("as it was")
    write_digests(folder)
    row = [{"step": 0, "name": "zero_shot_map", "value": 1.0}]
    evaluated.add("evaluate:none", "all", row, detections=[detections(1, (0, "ride", 2, 0.9))], settings={"seed": 2})
    write_report(run_view(tested, evaluated.run), None, folder)
    assert markdown["pseudo"].read_text() == "as it was"
    assert "| mAP | 100.00 |" in markdown["none"].read_text()
    markdown["pseudo"].write_text("damaged")
    write_report(run_view(tested, evaluated.run), None, folder)
    assert markdown["pseudo"].read_text().startswith("# ") and report_fault(folder) == ""


def test_pictures_that_are_gone_or_not_wanted_leave_the_page(evaluated, tested, tmp_path):
    (evaluated.pictures / "toys" / "1.png").unlink()
    page = write_report(run_view(tested, evaluated.run), None, tmp_path / "gone")
    text = (page.parent / "evaluations" / "none.html").read_text()
    assert text.count("data:image/jpeg;base64,") == 1 and "missing file" in text
    page = write_report(run_view(tested, evaluated.run), None, tmp_path / "none", samples=0)
    assert "data:image" not in (page.parent / "evaluations" / "none.html").read_text()


def test_pages_written_without_the_image_folder_get_their_images_once_it_is_there(evaluated, tested, tmp_path):
    images, folder = evaluated.pictures / "toys", tmp_path / "report"
    images.rename(tmp_path / "away")
    write_report(run_view(tested, evaluated.run), None, folder)
    (tmp_path / "away").rename(images)
    write_report(run_view(tested, evaluated.run), None, folder)
    assert (folder / "evaluations" / "none.html").read_text().count("data:image/jpeg;base64,") == 2


def test_detections_are_not_scored_by_a_ground_truth_that_came_later(evaluated, tested, tmp_path):
    read = {"images": [evaluated.run.artifacts("ingest")["toys/0000"].content]}
    row = [{"step": 0, "name": "zero_shot_map", "value": 1.0}]
    evaluated.add("evaluate:none", "all", row, detections=[detections(1, (0, "ride", 2, 0.9))], inputs=read)
    images = [evaluated.image(each, TWO_PEOPLE, [(0, "feeding", 2)]) for each in (1, 2, 3)]
    evaluated.add("ingest", "toys/0000", images, settings={"made": 2})
    text = write_report(run_view(tested, evaluated.run), None, tmp_path / "report").read_text()
    assert "no page:" in text and "its test images were ingested again since" in text


def test_detections_of_other_images_are_reported_and_the_report_is_written(evaluated, tested, tmp_path):
    row = [{"step": 0, "name": "zero_shot_map", "value": 1.0}]
    evaluated.add("evaluate:none", "all", row, detections=[detections(9, (0, "ride", 2, 0.9))], settings={"seed": 2})
    text = write_report(run_view(tested, evaluated.run), None, tmp_path / "report").read_text()
    assert "no page:" in text and "unknown image" in text
    assert 'href="evaluations/pseudo.html"' in text
