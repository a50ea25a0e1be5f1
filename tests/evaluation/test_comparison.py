"""Two models side by side: paired intervals, and what the parts of a comparison say."""

import json
import re

import numpy as np
import pytest
from relation_rows import NONE, A, B, C, D, relations, truths
from rlip_command import rlip

from benchmarks.evaluation import synthetic
from pipeline.evaluation.benchmark import Options, hico_det, visual_genome
from pipeline.evaluation.bootstrap import bootstrap
from pipeline.evaluation.comparison import Compared, ComparedModel, Comparison, Confusion, compare
from pipeline.evaluation.hico import match_hico
from pipeline.evaluation.relations import Relations
from pipeline.report.evaluation_page import comparison_page
from tests.cli.test_evaluate_reports import IMAGES, KNIFE, PERSON, detections, pictures
from tests.data.toy_sets import save_json

NAMES = [f"name {number}" for number in range(117)]


def hico(name: str, predicted: Relations, truth: Relations) -> ComparedModel:
    return ComparedModel(name, hico_det(predicted, truth, NAMES, Options(objects=NAMES, resamples=0)), predicted, truth)


def row(rows: tuple[Compared, ...], name: str) -> Compared:
    return next(each for each in rows if each.name == name)


def test_a_difference_is_that_of_the_figures_and_its_interval_that_of_both_on_the_same_images():
    predicted, truth = synthetic(images=120, per_image=30, seed=4)
    kept = np.random.default_rng(0).random(len(predicted)) < 0.4
    models = [hico("all", predicted, truth), hico("two fifths", predicted.take(kept), truth)]
    found = compare("hico-det", models, NAMES, resamples=20)
    full = row(found.figures, "mAP")
    both = match_hico(predicted, truth).scores().mean(), match_hico(predicted.take(kept), truth).scores().mean()
    assert full.values == pytest.approx(both) and full.differences[0].value == pytest.approx(both[1] - both[0])
    # Apart, either interval is wider than that of their difference.
    apart = [
        bootstrap(lambda chosen, m=model: m.evaluated.measured(chosen).figures, truth.images, resamples=20)["full"]
        for model in models
    ]
    assert full.differences[0].high < 0
    assert all(each.high - each.low > full.differences[0].high - full.differences[0].low for each in apart)
    # A class with a few truths hangs on single images, so that resampled images say nothing of it.
    rare = [each for each in found.classes if each.truths is not None and each.truths < 10]
    assert rare and all(np.isnan(each.differences[0].low) for each in rare)
    assert any(each.differences[0].low < 0 for each in found.classes)
    assert row(found.predicates, "name 0").truths == int((truth.predicates == 0).sum())
    assert max(found.by_overlap[0]) == found.by_overlap[0][0] > found.by_overlap[0][-1]


def test_a_model_does_not_differ_from_itself():
    predicted, truth = synthetic(images=30, per_image=20)
    found = compare("hico-det", [hico("a", predicted, truth), hico("b", predicted, truth)], NAMES, resamples=5)
    for each in (*found.figures, *found.predicates, *found.classes, *found.strata):
        assert each.values[0] == each.values[1] and each.differences[0].value == 0
    assert row(found.figures, "mAP").differences[0].high == 0


def small() -> Comparison:
    """Two pairs in the first image, one in the second. The second model confuses 0 with 2 and finds no far pair."""
    small_box = [100.0, 10.0, 119.0, 29.0]
    truth = truths(
        [(0, A, small_box, 0, 1, 0), (0, A, small_box, 0, 1, 1), (0, A, D, 0, 3, 0), (1, A, C, 0, 2, 1)], images=2
    )
    first = [(0, A, small_box, 0, 1, 0, 0.9), (0, A, D, 0, 3, 0, 0.8), (1, A, C, 0, 2, 1, 0.7), (1, C, A, 2, 0, 1, 0.6)]
    second = [(0, A, small_box, 0, 1, 2, 0.9), (0, A, small_box, 0, 1, 1, 0.8), (0, A, small_box, 0, 1, 0, 0.7)]
    names = ["on", "<b>near</b>", "under"]
    models = [
        ComparedModel(name, visual_genome(each, truth, names, Options(resamples=0)), each, truth)
        for name, each in (("one", relations(first, images=2)), ("<i>two</i>", relations(second, images=2)))
    ]
    return compare("vg", models, names, ("A rule.",), resamples=4)


def test_recall_is_split_by_size_and_by_distance_and_predicates_confused_are_counted():
    found = small()
    expected = {
        "smaller box below 32² pixels": (2, (0.5, 1.0)),
        "smaller box of 32² to 96² pixels": (2, (1.0, 0.0)),
        "boxes farther apart": (4, (0.75, 0.5)),
    }
    for name, (number, values) in expected.items():
        assert row(found.strata, name).truths == number
        assert row(found.strata, name).values == pytest.approx(values)
    assert len(found.strata) == len(expected)
    # On the near pair, "under" stands above both true predicates; a true one above the other is no confusion.
    assert found.confusions == (Confusion("on", "under", (0, 1)), Confusion("<b>near</b>", "under", (0, 1)))
    assert found.predicates == () and [each.name for each in found.classes] == ["on", "<b>near</b>"]
    # Three of the first model's predictions are right, then a wrong one; of the second's, the first is wrong.
    assert found.precision[0][:76] == (1.0,) * 76 and found.precision[0][76] == 0
    assert found.precision[1][50] == pytest.approx(2 / 3) and found.precision[1][51] == 0


def test_chance_decides_on_each_difference_of_each_class():
    predicted, truth = synthetic(images=120, per_image=30, seed=4)
    models = [hico(name, predicted, truth) for name in "abc"]
    found = compare("hico-det", models, NAMES, resamples=5)
    judged = 2 * sum(not np.isnan(each.differences[0].low) for each in found.classes)
    assert judged and f"0 of {judged:,} differences" in comparison_page(found)


def test_relations_without_an_object_are_of_no_size_or_distance():
    truth = truths([(0, A, NONE, 0, -1, 0), (0, A, B, 0, 1, 0)])
    model = ComparedModel("a", visual_genome(relations([]), truth, ["on"], Options(resamples=0)), relations([]), truth)
    found = compare("vg", [model, model._replace(name="b")], ["on"], resamples=0)
    assert sum(each.truths or 0 for each in found.strata) == 2
    assert np.isnan(found.figures[0].differences[0].low)


def test_the_page_loads_and_runs_nothing_and_shows_names_as_text():
    text = comparison_page(small())
    assert "<script" not in text and not re.search(r'(src|href)=|style="', text)
    assert "&lt;i&gt;two&lt;/i&gt; − one" in text and "<b>near" not in text and "A rule." in text
    assert text.count("<polyline") >= 6


def test_the_command_compares_files_of_detections(tmp_path):
    uris = pictures(tmp_path, {number: f"{number}_a.jpg" for number in IMAGES})
    truth = {
        uri: [
            {"predicate": 0, **{end: {"category": place, "bbox": [y, y + h, x, x + w]}
             for place, (end, (x, y, w, h)) in enumerate((("subject", PERSON), ("object", KNIFE)))}}
        ]
        for uri in uris.values()
    }  # fmt: skip
    lists = {"objects": ["person", "knife"], "predicates": ["hold", "drop"]}
    named = [f"--file={kind}={save_json(tmp_path / f'{kind}.json', names)}" for kind, names in lists.items()]
    found = json.loads(detections(tmp_path, uris, ("person", "knife"), "hold").read_text())
    for each in found[:3]:
        each["pairs"][0]["predicate"] = "drop"
    files = [tmp_path / "found.json", save_json(tmp_path / "worse.json", found)]
    words = ["evaluate", "vrd", "--ground-truth", save_json(tmp_path / "vrd.json", truth), *named, "--intervals", 20]
    words += [word for path in files for word in ("--detections", path)]
    done = rlip(*map(str, words), "--report", str(tmp_path / "report"))
    assert done.exit_code == 0, done.stderr
    assert re.search(r"relation R@50, k=1 +0\.8333 +0\.3333 +-0\.5000 \(-0\.\d+ to -0\.\d+\)", done.stdout)
    stored = json.loads((tmp_path / "report" / "comparison.json").read_text())
    assert stored["models"] == ["found.json", "worse.json"]
    assert stored["confusions"] == [{"predicate": "hold", "other": "drop", "truths": [0, 3]}]
    assert "worse.json − found.json" in (tmp_path / "report" / "index.html").read_text()
    shown = rlip(*map(str, words), "--json")
    told = json.loads(shown.stdout)
    findings = told.pop("findings")
    assert "worse.json: 6 images, 6 relations are scored" in findings and stored.pop("rules") == findings.splitlines()
    assert told == stored | {"rules": [], "report": None}
    twice = rlip(*map(str, [*words, "--detections", files[0]]))
    assert twice.exit_code and "is named twice" in twice.stderr
