"""Pages of a run's evaluations: what was scored, which variants and seeds, what is taken over, and what can't be shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from run_builder import TWO_PEOPLE, RunBuilder

from pipeline.report.report_folder import report_fault, write_digests
from pipeline.report.static_report import write_report
from pipeline.run.context import run_view


def detections(image_id: int, *pairs: tuple[int, str, int, float]) -> dict[str, Any]:
    """A row of detections with the true boxes of `TWO_PEOPLE`; `pairs`: subject, predicate, object, score."""
    return {
        "image_id": image_id,
        "uri": f"{image_id}.png",
        "width": 200,
        "height": 120,
        "boxes": [{"category": c, "score": 1.0, "x": x, "y": y, "w": w, "h": h} for c, x, y, w, h in TWO_PEOPLE],
        "pairs": [{"subject": s, "predicate": p, "object": o, "score": score} for s, p, o, score in pairs],
    }


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


def test_each_variant_has_a_page_of_its_first_seed_with_what_was_scored(evaluated, tested, tmp_path: Path):
    page = write_report(run_view(tested, evaluated.run), None, tmp_path / "report")
    made = sorted(path.name for path in (page.parent / "evaluations").iterdir())
    assert made == ["none.html", "none.md", "pseudo.html", "pseudo.md"]
    assert re.findall(r'href="(evaluations/[^"]*)"', page.read_text()) == [
        "evaluations/none.html",
        "evaluations/pseudo.html",
    ]
    text = (page.parent / "evaluations" / "pseudo.html").read_text()
    assert "toy, evaluate:pseudo:3" in text and 'href="../index.html"' in text
    assert text.count("data:image/jpeg;base64,") == 2
    markdown = (page.parent / "evaluations" / "pseudo.md").read_text()
    # The third image could not be read, so that its relation is no truth: one of two is found, with precision 1.
    assert "2 images, 2 true relations, 2 predictions" in markdown
    assert "| mAP | 50.00 |" in markdown
    assert "| person next to person | 0.00 | 1 |" in markdown


def test_pages_of_the_same_evaluations_are_taken_over_and_others_made_anew(evaluated, tested, tmp_path: Path):
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


def test_pictures_that_are_gone_or_not_wanted_leave_the_page(evaluated, tested, tmp_path: Path):
    (evaluated.pictures / "toys" / "1.png").unlink()
    page = write_report(run_view(tested, evaluated.run), None, tmp_path / "gone")
    text = (page.parent / "evaluations" / "none.html").read_text()
    assert text.count("data:image/jpeg;base64,") == 1 and "missing file" in text
    page = write_report(run_view(tested, evaluated.run), None, tmp_path / "none", samples=0)
    assert "data:image" not in (page.parent / "evaluations" / "none.html").read_text()


def test_detections_of_other_images_are_told_and_the_report_is_written(evaluated, tested, tmp_path: Path):
    row = [{"step": 0, "name": "zero_shot_map", "value": 1.0}]
    evaluated.add("evaluate:none", "all", row, detections=[detections(9, (0, "ride", 2, 0.9))], settings={"seed": 2})
    text = write_report(run_view(tested, evaluated.run), None, tmp_path / "report").read_text()
    assert "no page:" in text and "unknown image" in text
    assert 'href="evaluations/pseudo.html"' in text
