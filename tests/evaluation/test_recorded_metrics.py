"""Metrics against recordings of the authors' evaluators on their own input."""

import json
from pathlib import Path

import numpy as np
import pytest
from relation_rows import best_of_pairs, of_image

from pipeline.evaluation.hico import HicoRules, TripletClass, match_hico
from pipeline.evaluation.open_images import OpenImagesRules, match_open_images
from pipeline.evaluation.ranking import mean_of
from pipeline.evaluation.relations import Relations
from pipeline.evaluation.vcoco import match_vcoco
from pipeline.evaluation.vcoco_detections import read_vcoco_detections
from pipeline.evaluation.vcoco_truth import read_vcoco_truth
from tests.data.toy_sets import save_json
from tests.evaluation.test_vcoco import means


def recording(shared: Path, name: str) -> dict:
    return json.loads((shared / "oracle" / f"eval_{name}.json").read_text())


def predicted(recorded: dict, valid: np.ndarray | None = None) -> Relations:
    """All relations of all pairs; `valid` (predicates × labels) multiplies scores."""
    images = []
    for pred in recorded["inputs"]["preds"]:
        boxes, labels = np.array(pred["boxes"]), np.array(pred["labels"])
        subjects, objects = np.array(pred["sub_ids"]), np.array(pred["obj_ids"])
        scores = np.array(pred["verb_scores"])
        if valid is not None:
            scores = scores * valid[:, labels[objects]].T
        images.append(
            best_of_pairs(boxes[subjects], boxes[objects], labels[subjects], labels[objects], scores, scores.size)
        )
    return Relations.of(images)


def given(recorded: dict, key: str) -> Relations:
    images = []
    for truth in recorded["inputs"]["gts"]:
        rows = np.array(truth[key], np.int64).reshape(-1, 3)
        # Object -1 is "no object", for which a box of NaN is appended.
        boxes = np.array([*truth["boxes"], [np.nan] * 4])
        labels = np.array([*truth["labels"], -1], np.int64)
        ends = rows[:, 0], rows[:, 1]
        images.append(of_image(boxes[ends[0]], boxes[ends[1]], labels[ends[0]], labels[ends[1]], rows[:, 2]))
    return Relations.of(images)


@pytest.mark.parametrize("name", ["hico", "hico_nms"])
@pytest.mark.parametrize("suppression", [("nms", 0.7), ("no_nms", None)])
def test_hico_agrees_with_the_authors_evaluator(shared, name, suppression):
    recorded = recording(shared, name)
    key, threshold = suppression
    relations = predicted(recorded, np.array(recorded["inputs"]["correct_mat"]))
    matches = match_hico(relations, given(recorded, "hois"), HicoRules(suppression=threshold, official=True))
    found, expected = matches.scores(), recorded["outputs"][key]
    kept = match_hico(relations, relations, HicoRules(suppression=threshold)).position
    assert np.bincount(relations.image[kept], minlength=relations.images).tolist() == expected["n_kept_hois"]
    assert found.mean() == pytest.approx(expected["metrics"]["mAP"], abs=1e-9)
    assert found.mean_recall == pytest.approx(expected["metrics"]["mean max recall"], abs=1e-9)
    for triplet, value in expected["ap"]:
        assert found.average_precision[TripletClass(*triplet)] == pytest.approx(value, abs=1e-9)
    for group, metric in (("rare", "mAP rare"), ("non_rare", "mAP non-rare")):
        triplets = [TripletClass(*t) for t in recorded["inputs"][group]]
        assert found.mean(triplets) == pytest.approx(expected["metrics"][metric], abs=1e-9)


def test_vcoco_agrees_with_vsrl_eval(shared, tmp_path):
    recorded = recording(shared, "vsrl")
    for name in ("vcoco_annot", "coco", "detections"):
        save_json(tmp_path / f"{name}.json", recorded["inputs"][name])
    truth = read_vcoco_truth(tmp_path / "vcoco_annot.json", tmp_path / "coco.json")
    found = read_vcoco_detections(tmp_path / "detections.json", truth)
    scores = match_vcoco(found, truth, official=True).scores()
    expected = recorded["outputs"]["ap_in_action_role_order"]
    assert [*scores.agent.values()] == pytest.approx(expected["agent"], abs=1e-6)
    assert [*scores.scenario_1.values()] == pytest.approx(expected["scenario_1"], abs=1e-6)
    assert [*scores.scenario_2.values()] == pytest.approx(expected["scenario_2"], abs=1e-6)
    mean = recorded["outputs"]["mean"]
    assert (scores.figures["agent"], *means(scores)) == pytest.approx(
        (mean["agent"], mean["scenario_1"], mean["scenario_2"]), abs=1e-6
    )
    assert 'Average Role [scenario_1] AP = 43.00, omitting the action "point"' in recorded["stdout"]
    assert 'Average Role [scenario_2] AP = 68.50, omitting the action "point"' in recorded["stdout"]
    assert [round(100 * mean, 2) for mean in means(scores, "")] == [43.00, 68.50]


def test_open_images_agrees_with_the_authors_evaluator(shared):
    recorded = recording(shared, "oi_sgg")
    expected = recorded["outputs"]
    for limit in (50, 100):
        rules = OpenImagesRules(official=True, per_image=limit)
        found = match_open_images(predicted(recorded), given(recorded, "rels"), rules).scores()
        for kind, precision, name in (("RelD", found.relations, "wmap_rel"), ("PhrD", found.phrases, "wmap_phr")):
            assert mean_of(precision.values()) == pytest.approx(expected[f"mAP@{limit} ({kind})"], abs=1e-6)
            assert found.figures[name] == pytest.approx(expected[f"wmAP@{limit} ({kind})"], abs=1e-6)
        assert found.recall == pytest.approx(expected["max recall@50 (RelD)"], abs=1e-6)
    assert found.figures["score_wtd"] == pytest.approx(expected["score_wtd (wmAP)"], abs=1e-6)
    assert all(isinstance(key, TripletClass) for key in found.relations)


def test_open_images_without_suppression_agrees_too(shared):
    recorded = recording(shared, "oi_sgg")
    rules = OpenImagesRules(official=True, suppression=None)
    found = match_open_images(predicted(recorded), given(recorded, "rels"), rules).scores()
    for kind, precision, name in (("RelD", found.relations, "wmap_rel"), ("PhrD", found.phrases, "wmap_phr")):
        expected = [v for k, v in recorded["outputs_no_nms_top100"].items() if kind in k and "max recall" not in k]
        assert [mean_of(precision.values()), found.figures[name]] == pytest.approx(expected, abs=1e-6)
