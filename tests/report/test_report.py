import shutil
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from PIL import Image
from report_page import Page, report
from run_builder import TWO_PEOPLE, RunBuilder, captions, pairs, relations, triplets

from pipeline.cli.report import report as rlip_report
from pipeline.cli.store import damaged_files, pull, push_run, remove_run
from pipeline.labels.label_rows import reviewable_labels
from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdicts import Verdict, now
from pipeline.report.figures import figures_of
from pipeline.report.label_view import LabelView
from pipeline.report.report_folder import remove_report
from pipeline.report.static_report import write_report
from pipeline.report.steps import RunOutcome
from pipeline.run.context import RunContext, run_view
from pipeline.run.doctor import needs
from pipeline.run.recipe_files import recorded_recipe
from pipeline.runtime.stage import Rejected
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.object_store_artifacts import ObjectStoreArtifacts
from storage.runs import STARTED, Run

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
CONTROLS = "\x1b\x00\x07\x9b\u202e\u2066\u200f"


def rewritten(run: Run, name: str = "toy", pictures: int = 24, **options: Any) -> Page:
    """The page that `rlip report` writes into the store."""
    rlip_report(name, None, pictures, store=run.store.root, as_json=False, **options)
    return Page(run.store.root / "reports" / name / "index.html")


def test_labels_of_earlier_boxes_are_neither_drawn_nor_counted(book, recipe, tmp_path):
    book.run.note("recipe", recipe.model_dump(mode="json"))
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE, [(0, "riding", 2)])])
    read = {"images": [book.run.artifacts("ingest")["toys/0000"].content]}
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], candidates=[pairs(1)], inputs=read)
    view = run_view(recipe, book.run)
    assert figures_of(view).labels.kept == 1
    (label,) = reviewable_labels(book.run)
    said = Verdict(label.relation, "accept", "ada", now(), "person", "horse")
    VerdictLog(book.run.store.root / "verdicts").append([said])
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE[1:], [(0, "riding", 1)])], settings={"made": 2})
    figures = figures_of(view)
    assert (figures.labels.images, figures.labels.kept, figures.audits[0].labels) == (1, None, None)
    shown = LabelView.of(book.run)
    assert sum(shown.scores) == 0 and not shown.audits and not shown.coverage
    text = write_report(view, None, tmp_path / "report").read_text()
    assert "Outdated: tag" in text and "precision by reviewers" not in text


def test_a_report_shows_pictures_labels_and_figures(labelled, recipe, tmp_path):
    labelled.metrics("train_tagger", (0, "loss", 2.0), (10, "loss", 0.5), (10, "loss_predicate", 0.25))
    labelled.metrics("pretrain:none", (0, "loss", 9.0), (50, "loss", 3.0))
    labelled.metrics("evaluate:none", (50, "zero_shot_map", 0.125), (50, "triplets", 37.0))
    page = report(recipe, labelled, tmp_path / "report", written=datetime(2026, 5, 4, 12, 30))
    assert "4 May 2026" in page.text
    assert "a man rides a horse" in page.text
    assert "12.50" in page.text and "In percent: mean ± standard deviation over seeds." in page.text
    assert "37" in page.text.split("triplets tested")[1].split()
    pictures = {tmp_path / "report" / str(image["src"]) for image in page.all("img")}
    assert len(pictures) == 2
    assert all(Image.open(path).size == (200, 120) for path in pictures)
    # Kept: three right, one wrong. Not kept: one scored label and two candidates without a score. The legend has both
    # marks, and the second image, with one right and three wrong, is among the hardest, too.
    marks = [str(mark["class"]).split()[-1] for mark in page.all("span") if "mark" in str(mark.get("class"))]
    assert marks.count("right") == 3 + 1 + 1
    assert marks.count("wrong") == 4 + 3 + 1
    lines = [line.get("class") for line in page.all("polyline")]
    assert lines == ["line-0"] * 5, "a key for each kind of training, and a line for each of its metrics"
    assert all(found.get("open", "no") == "no" for found in page.all("details")), "charts are folded"
    assert "ride: 2 kept, 2 in the ground truth" in page.text


def test_the_headlines_compare_with_baselines(labelled, recipe, tmp_path):
    (audit,) = figures_of(run_view(recipe, labelled.run)).audits
    name, best = audit.labels.best_baseline
    boxes_alone = replace(best, precision_at_recall=0.99)
    assert replace(audit.labels, prior=boxes_alone).best_baseline == ("boxes and names alone", boxes_alone)
    labelled.metrics("evaluate:pseudo", (0, "zero_shot_map", 0.25), (0, "detection_ap50", 0.625))
    text = " ".join(report(recipe, labelled, tmp_path / "alone").text.split())
    assert (
        f"{name} {best.precision_at_recall:.2f}" in text
        and "zero-shot triplet mAP, of 100 detection AP50 62.50" in text
    )
    for variant, score in {"none": 0.0, "naive": 0.125}.items():
        labelled.metrics(f"evaluate:{variant}", (0, "zero_shot_map", score))
    assert "naive matching 12.50" in report(recipe, labelled, tmp_path / "compared").text


def test_coverage_is_folded_away_and_nothing_is_fetched_and_no_script_may_run(labelled, recipe, tmp_path):
    page = report(recipe, labelled, tmp_path / "report")
    assert [found for found in page.all("details") if found.get("class") == "coverage"] == [{"class": "coverage"}]
    words = page.text.split("What the labels cover and miss")[1].split()
    text = " ".join(words)
    assert "kept 4 2.00 2.00 0.000 2 0.000" in text
    assert "Visual Genome 49 of 50" in text and "1 no candidate has it holding" in text
    assert "distance < 1/2 3 0.667 3 0.667 1/2 to 1 0 – 0 – > 1 1 1.000 4 0.250" in text
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; img-src 'self'; style-src 'sha256-")
    targets = [value for _, found in page.elements for name, value in found.items() if name in ("src", "href")]
    assert targets
    assert all(str(target).startswith(("images/", "#")) for target in targets)
    assert not page.all("link")


def test_hostile_text_stays_text(book, recipe, tmp_path):
    boxes = [(f"person{HOSTILE}", 10.0, 10.0, 40.0, 80.0), ("horse", 20.0, 50.0, 60.0, 60.0)]
    bad = [Rejected(2, HOSTILE, HOSTILE + CONTROLS)]
    book.add("ingest", "toys/0000", [book.image(1, boxes, [(0, HOSTILE, 1)])], rejected=bad)
    book.add("caption", "toys/0000", [captions(1, HOSTILE + CONTROLS)])
    book.add("parse", "toys/0000", [triplets(1, (0, HOSTILE, HOSTILE, HOSTILE))])
    book.add("tag", "toys/0000", [relations(1, (0, HOSTILE + CONTROLS, 1, 0.9))], facts={HOSTILE: HOSTILE})
    page = report(recipe, book, tmp_path / "report")
    assert HOSTILE in page.text
    assert not set((tmp_path / "report" / "index.html").read_text()) & set(CONTROLS)
    assert not page.all("script")
    assert {image["src"] for image in page.all("img")} == {"images/toys-1.jpg"}
    assert not any(name.startswith("on") or name == "style" for _, found in page.elements for name in found)


@pytest.mark.parametrize("where", ["../secret.png", "absolute"])
def test_no_picture_from_outside_its_folder_is_embedded(book, recipe, tmp_path, where):
    secret = book.pictures / "secret.png"
    uri = str(secret) if where == "absolute" else where
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE) | {"uri": uri}])
    Image.new("RGB", (64, 64), (255, 0, 0)).save(secret)
    page = report(recipe, book, tmp_path / "report")
    assert "missing file" in page.text
    assert page.all("img") == [] and list((tmp_path / "report" / "images").iterdir()) == []


def test_a_partial_run_gets_a_report_too(book, recipe, tmp_path):
    assert "No step has been recorded yet" in report(recipe, book, tmp_path / "empty").text
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    page = report(recipe, book, tmp_path / "ingested")
    assert "No ground truth" in page.text
    assert len(page.all("img")) == 1


def test_a_picture_that_is_gone_is_named_not_fatal(labelled, recipe, tmp_path):
    (labelled.pictures / "toys" / "1.png").unlink()
    (labelled.pictures / "toys" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    page = report(recipe, labelled, tmp_path / "report")
    assert "No image: missing file: 1.png" in page.text
    assert page.text.count("No image:") == 3, "one of the images is in both galleries"


def test_an_old_report_is_replaced_as_a_whole(labelled, recipe, tmp_path):
    folder = tmp_path / "report"
    report(recipe, labelled, folder)
    (folder / "images" / "stale.jpg").write_bytes(b"old")
    report(recipe, labelled, folder)
    assert not (folder / "images" / "stale.jpg").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_with_other_files_is_left_alone(labelled, recipe, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(FatalError, match="not a report"):
        report(recipe, labelled, folder)
    assert (folder / "index.html").read_text() == "<h1>mine</h1>"


def test_a_run_that_computed_nothing_keeps_its_report(labelled, recipe, tmp_path):
    folder = tmp_path / "report"
    page = write_report(run_view(recipe, labelled.run), None, folder)
    (folder / "images" / "mark").write_bytes(b"")
    assert write_report(run_view(recipe, labelled.run), RunOutcome("toy"), folder) == page
    assert (folder / "images" / "mark").exists()
    labelled.metrics("train_tagger", (0, "loss", 2.0))
    write_report(run_view(recipe, labelled.run), RunOutcome("toy"), folder)
    assert not (folder / "images" / "mark").exists()


def test_a_flipped_bit_in_a_report_is_found_by_verify_and_mended_next(labelled, recipe):
    store = labelled.run.store
    folder = store.root / "reports" / "toy"
    page = write_report(run_view(recipe, labelled.run), None, folder)
    assert list(damaged_files(store)) == []
    mark = page.read_bytes().index(b"rlip-report")
    places = [(path, at) for path in folder.rglob("*") if path.is_file() for at in (1, path.stat().st_size // 2)]
    for path, at in [*places, (page, mark)]:
        data = bytearray(path.read_bytes())
        data[at] ^= 128
        path.write_bytes(data)
        (found,) = damaged_files(store)
        assert found.path == folder and "`rlip report toy` writes it again" in found.what and not found.is_cache
        write_report(run_view(recipe, labelled.run), RunOutcome("toy"), folder)
        assert list(damaged_files(store)) == [], path
    (folder / "digests.json").unlink()
    assert list(damaged_files(store)) == [], "as earlier versions wrote it"
    write_report(run_view(recipe, labelled.run), RunOutcome("toy"), folder)
    assert (folder / "digests.json").is_file()


def test_a_report_of_another_store_is_not_overwritten(labelled, recipe, tmp_path):
    page = write_report(run_view(recipe, labelled.run), None, tmp_path / "report")
    (tmp_path / "another").mkdir()
    other = RunBuilder(Run(LocalStore(tmp_path / "another" / "store"), "toy"), labelled.pictures)
    other.metrics("train_tagger", (0, "loss", 2.0))
    before = page.read_bytes()
    with pytest.raises(FatalError, match=r"is the report of a run in another store, .*remove it"):
        write_report(run_view(recipe, other.run), None, tmp_path / "report")
    elsewhere = recipe.model_copy(update={"store": str(other.run.store.root), "reports": tmp_path, "name": "report"})
    stopped = [finding.detail for finding in needs(RunContext(elsewhere)) if finding.what == "reports"]
    assert stopped and "in another store" in stopped[0], "a run is refused before its work"
    other.run.note("recipe", {"reports": str(tmp_path)})
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "index.html").write_bytes(before)
    assert remove_report(other.run) == [] and (tmp_path / "toy").exists()
    assert page.read_bytes() == before
    assert recipe.model_copy(update={"store": str(other.run.store.root)}).report == other.run.store.root / "reports/toy"


def test_a_report_goes_with_its_run(labelled, recipe, capsys):
    store = labelled.run.store
    labelled.run.note("recipe", recipe.model_dump(mode="json"))
    labelled.run.append("completed", recipe=recipe.model_dump(mode="json"))
    labelled.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], settings={"floor": 0.9})
    now, then = (rewritten(labelled.run, name) for name in ("toy", "toy@1"))
    assert "1 labels kept" in " ".join(now.text.split()) and "1 labels kept" not in " ".join(then.text.split())
    (store.root / "reports" / "toy.logs").mkdir()
    with pytest.raises(FatalError, match="toy@1 is a record"):  # before its report is removed
        remove_run("toy@1", store=store.root, as_json=False)
    capsys.readouterr()
    reviews = store.root / "indexes" / "review"
    reviews.mkdir(parents=True)
    for name in ("toy.duckdb", "toy.secret", "toy.two.duckdb"):
        (reviews / name).touch()
    remove_run("toy", store=store.root, as_json=False)
    assert not list((store.root / "reports").glob("toy*"))
    assert [path.name for path in reviews.iterdir()] == ["toy.two.duckdb"], "what belongs to another run stays"
    said = capsys.readouterr().out
    assert all(str(store.root / "reports" / name) in said for name in ("toy", "toy@1")), "what went is told"


def test_imported_labels_have_a_report_too(book):
    row = book.image(1, TWO_PEOPLE) | {"width": None, "height": None}
    book.add("ingest", "toys/0000", [row])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.1), (1, "ride", 2, 0.9))])
    page = rewritten(book.run)
    assert "imported labels" in page.text and "does not know where the images" in page.text
    assert "2 labels kept" in " ".join(page.text.split())
    counts = LabelView.of(book.run).counts
    assert (counts.candidates, counts.scored, counts.kept, counts.lost) == (None, 2, 2, {})


def test_a_pulled_run_has_a_report_without_the_pictures(labelled, recipe, tmp_path, capsys):
    labelled.run.note("recipe", recipe.model_dump(mode="json"))
    labelled.metrics("pretrain:none", (0, "loss", 9.0), (50, "loss", 3.0))
    push_run(labelled.run, ObjectStoreArtifacts(str(tmp_path / "shelf")))
    shutil.rmtree(labelled.pictures)
    pull("toy", str(tmp_path / "shelf"), store=str(tmp_path / "there"), as_json=False)
    assert f"`rlip report toy --store {tmp_path / 'there'}`" in capsys.readouterr().out
    page = rewritten(Run(LocalStore(tmp_path / "there"), "toy"))
    assert page.text.count("No images of toys: no folder") == 1 and "on this machine" in page.text
    assert not page.all("img") and "a man rides a horse" in page.text
    assert "4 labels kept" in " ".join(page.text.split()) and page.all("polyline")


def test_a_run_before_its_end_has_the_recipe_of_its_last_execution_and_a_seed_draws_its_pictures(labelled, recipe):
    assert recorded_recipe(labelled.run) is None
    labelled.run.note(STARTED, recipe.model_dump(mode="json"))
    labelled.run.append("stopped", recipe=recipe.model_copy(update={"store": "elsewhere"}).model_dump(mode="json"))
    page = rewritten(labelled.run, pictures=1, seed=5)
    assert recorded_recipe(labelled.run) == recipe and page.all("img") and "imported" not in page.text
    assert "1 of 2 images, drawn at random with seed 5." in page.text


def test_an_earlier_recipe_and_lost_recordings_do_not_stop_a_report(labelled, recipe):
    recorded = recipe.model_dump(mode="json")
    recorded["data"]["sources"][0]["captions"] = None
    recorded["caption"] |= {"captioner": "recorded", "recorded": ["gone.json"]}
    labelled.run.note("recipe", recorded)
    assert "labels kept" in rewritten(labelled.run).text


def test_a_step_tells_the_settings_that_it_was_computed_with(labelled, recipe, tmp_path):
    labelled.add("shard:pseudo", "toys/0000", [], settings={"threshold": 0.2})
    stricter = recipe.model_copy(update={"shard": recipe.shard.model_copy(update={"threshold": 0.9})})
    text = report(stricter, labelled, tmp_path / "report").text
    settings = text.split("Settings that each step was computed with")[1].split("Recipe of the last execution")[0]
    assert "threshold 0.2" in " ".join(settings.split()) and "score ≥ 0.2" in text
