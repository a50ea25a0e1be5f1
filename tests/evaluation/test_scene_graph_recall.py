"""Recall of scene graphs on Visual Genome and on VRD."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pycocotools.mask import frPyObjects
from relation_rows import A, B, C, D, half, relations, truths

from benchmarks.evaluation import graphs, plain_graphs
from pipeline.evaluation.detections.read import read_detections
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.open_images import match_challenge, match_open_images
from pipeline.evaluation.relations import Relations
from pipeline.evaluation.scene_graph_recall import SceneGraphRules, match_scene_graphs, that_count
from pipeline.evaluation.visual_relationships import match_vrd
from tests.data.toy_sets import save_json
from tests.evaluation.test_detections_read import HICO, NAMES, row, write_parquet

NEAR_A = [1.0, 10.0, 40.0, 89.0]
"""A box that shows the same as A."""


def test_recall_is_averaged_over_images_and_mean_recall_over_predicates():
    truth = truths([(0, A, B, 0, 1, 0), (0, A, C, 0, 2, 0), (0, C, D, 2, 3, 1), (1, A, B, 0, 1, 0)], images=3)
    predicted = relations([(0, A, B, 0, 1, 0, 0.9), (1, A, B, 0, 1, 0, 0.8)], images=3)
    found = match_scene_graphs(predicted, truth).scores()
    assert found.figures["R@50"] == pytest.approx((1 / 3 + 1) / 2)
    assert found.by_predicate == pytest.approx({0: (1 / 2 + 1) / 2, 1: 0.0})
    assert found.figures["mR@50"] == pytest.approx(0.75 / 2)


def test_predicates_that_the_truth_lacks_are_left_out_of_mean_recall_or_count_as_zero():
    truth = truths([(0, A, B, 0, 1, 0), (0, A, C, 0, 2, 3)])
    predicted = relations([(0, A, B, 0, 1, 0, 0.9)])
    assert match_scene_graphs(predicted, truth).scores().figures["mR@50"] == 1 / 2
    found = match_scene_graphs(predicted, truth, SceneGraphRules(predicates=5)).scores()
    assert (found.figures["mR@50"], found.figures["ng-mR@50"], found.figures["R@50"]) == (1 / 5, 1 / 5, 1 / 2)


def test_only_the_best_k_of_an_image_count():
    truth = truths([(0, A, B, 0, 1, 0)])
    others = [(0, C, [300.0, 10, 340 + extra, 90], 2, 3, 0, 0.9 - extra / 100) for extra in range(30)]
    rules = SceneGraphRules(same_object=None)
    found = match_scene_graphs(relations([*others, (0, A, B, 0, 1, 0, 0.1)]), truth, rules).scores()
    assert (found.figures["R@20"], found.figures["R@50"]) == (0.0, 1.0)


def test_a_pair_has_one_predicate_with_the_graph_constraint():
    truth = truths([(0, A, B, 0, 1, 0), (0, A, B, 0, 1, 1)])
    predicted = relations([(0, A, B, 0, 1, 0, 0.9), (0, A, B, 0, 1, 1, 0.8)])
    found = match_scene_graphs(predicted, truth).scores()
    assert (found.figures["R@50"], found.figures["ng-R@50"]) == (0.5, 1.0)
    assert (found.figures["mR@50"], found.figures["ng-mR@50"]) == (0.5, 1.0)


def test_an_object_found_twice_gives_no_second_predicate_but_officially_it_does():
    truth = truths([(0, A, B, 0, 1, 0), (0, A, B, 0, 1, 1)])
    predicted = relations([(0, A, B, 0, 1, 0, 0.9), (0, NEAR_A, B, 0, 1, 1, 0.8)])
    assert match_scene_graphs(predicted, truth).scores().figures["R@50"] == 0.5
    assert match_scene_graphs(predicted, truth, SceneGraphRules(official=True)).scores().figures["R@50"] == 1.0
    # Given boxes are objects of their own.
    assert match_scene_graphs(predicted, truth, SceneGraphRules(same_object=None)).scores().figures["R@50"] == 1.0


def test_a_prediction_finds_one_truth_but_officially_all_that_it_overlaps():
    truth = truths([(0, A, B, 0, 1, 0), (0, NEAR_A, B, 0, 1, 0)])
    predicted = relations([(0, A, B, 0, 1, 0, 0.9)])
    for found, true in ((predicted, truth), (rectangles(predicted), rectangles(truth))):
        assert match_scene_graphs(found, true).scores().figures["R@50"] == 0.5
        assert match_scene_graphs(found, true, SceneGraphRules(official=True)).scores().figures["R@50"] == 1.0


def test_a_relation_that_the_truth_lists_twice_counts_once():
    truth = truths([(0, A, B, 0, 1, 0), (0, A, B, 0, 1, 0), (0, A, B, 0, 1, 1)])
    predicted = relations([(0, A, B, 0, 1, 0, 0.9)])
    # PSG's evaluator is by masks.
    for found, true, twice in ((predicted, truth, 2 / 3), (rectangles(predicted), rectangles(truth), 1 / 2)):
        assert match_scene_graphs(found, true).scores().figures["ng-R@50"] == 1 / 2
        official = match_scene_graphs(found, true, SceneGraphRules(official=True)).scores()
        assert official.figures["ng-R@50"] == twice


def test_zero_shot_recall_is_of_triplets_that_training_lacks():
    truth = truths([(0, A, B, 0, 1, 0), (0, C, D, 2, 3, 1), (1, C, D, 2, 3, 1)], images=2)
    predicted = relations([(0, A, B, 0, 1, 0, 0.9), (1, C, D, 2, 3, 1, 0.9)], images=2)
    seen = np.array([[0, 1, 0]])
    found = match_scene_graphs(predicted, truth, seen=seen).scores()
    assert found.figures["zR@50"] == found.figures["ng-zR@50"] == 0.5
    assert np.isnan(match_scene_graphs(predicted, truth).scores().figures["zR@50"])
    assert match_vrd(predicted, truth, seen=seen).scores().figures["zero-shot relation R@50"] == 0.5


@pytest.mark.parametrize(
    "rules", [SceneGraphRules(), SceneGraphRules(same_object=None), SceneGraphRules(official=True)]
)
def test_it_agrees_with_a_loop_over_images(rules):
    predicted, truth = graphs(images=12, pairs=30, predicates=4, seed=7)
    # Equal boxes of other pairs, and boxes that show the same.
    predicted = replace(predicted, subject_labels=predicted.subject_labels % 3)
    truth = replace(truth, subject_labels=truth.subject_labels % 3, predicates=truth.predicates % 4)
    found, expected = match_scene_graphs(predicted, truth, rules).scores(), plain_graphs(predicted, truth, rules)
    assert {name: value for name, value in found.figures.items() if "z" not in name} == pytest.approx(expected)
    assert 0 < found.figures["R@20"] < found.figures["R@100"] < 1


@pytest.mark.parametrize("rules", [SceneGraphRules(), SceneGraphRules(official=True)])
def test_masks_of_rectangles_give_the_figures_of_boxes(rules):
    predicted, truth = graphs(images=12, pairs=30, predicates=4, seed=7)
    predicted = replace(predicted, subject_labels=predicted.subject_labels % 3)
    truth = replace(truth, subject_labels=truth.subject_labels % 3, predicates=truth.predicates % 4)
    predicted, truth = (
        replace(each, subject_boxes=each.subject_boxes.round(), object_boxes=each.object_boxes.round())
        for each in (predicted, truth)
    )
    expected = match_scene_graphs(predicted, truth, rules).scores()
    found = match_scene_graphs(rectangles(predicted), rectangles(truth), rules).scores()
    assert found.figures == pytest.approx(expected.figures, nan_ok=True, abs=0)
    assert 0 < found.figures["R@20"] < found.figures["R@100"] < 1


def rectangles(relations: Relations) -> Relations:
    """The relations with a mask of all pixels of each box, one for equal boxes of an image and label."""
    masks: dict[tuple[int, ...], Any] = {}
    ends = ((relations.subject_boxes, relations.subject_labels), (relations.object_boxes, relations.object_labels))
    found = np.empty((len(relations), 2), object)
    for end, (boxes, labels) in enumerate(ends):
        for place, (image, label, box) in enumerate(zip(relations.image, labels, boxes.tolist(), strict=True)):
            left, top, right, bottom = box
            (mask,) = frPyObjects(np.array([[left, top, right - left + 1, bottom - top + 1]]), 2000, 2000)
            found[place, end] = masks.setdefault((image, label, *box), mask)
    return replace(relations, masks=found)


def test_only_pairs_that_can_count_are_kept_and_the_others_change_no_figure(tmp_path):
    truth = GroundTruth.open("hico_instances", save_json(tmp_path / "truth.json", HICO))
    boxes = [("person" if place % 2 else "cup", 0.9, place * 7 % 50, place * 3 % 40, 12, 9) for place in range(40)]
    scores = iter(np.random.default_rng(0).permutation(4800) / 4800)
    # "holding" is "hold", so that a pair has it twice. The last pair is faulty, however low its score.
    pairs = [
        (subject, subject + step, predicate, next(scores))
        for subject in range(20)
        for step in range(1, 21)
        for predicate in ("hold", "holding", "no_interaction")
    ] + [(0, 1, "fly", 0.0)]
    rows = [row(None, name, pairs if name == NAMES[1] else [], boxes) for name in NAMES]
    path = write_parquet(tmp_path / "a.parquet", rows)
    few, every = (read_detections(path, truth, drop_faulty=True, counts=counts) for counts in (that_count, None))
    assert len(few.relations) < len(every.relations) / 3 == 400
    assert few.findings.faults == every.findings.faults and few.findings.faults[0].reason == "unknown predicate name"
    of_graphs = (SceneGraphRules(), SceneGraphRules(same_object=None), SceneGraphRules(official=True))
    for match, rules in (*((match_scene_graphs, each) for each in of_graphs), (match_vrd, 1), (match_vrd, None)):
        found, expected = (
            match(each.relations, every.relations, rules, np.zeros((0, 3))).scores() for each in (few, every)
        )
        assert found == expected and max(found.figures.values()) > 0


def test_vrd_recall_is_of_all_truths_together():
    truth = truths([(0, A, B, 0, 1, 0), (0, A, C, 0, 2, 0), (0, C, D, 2, 3, 1), (1, A, B, 0, 1, 0)], images=2)
    predicted = relations([(0, A, B, 0, 1, 0, 0.9), (1, A, B, 0, 1, 0, 0.8)], images=2)
    assert match_vrd(predicted, truth).scores().figures["relation R@50"] == 0.5


def test_vrd_counts_k_predicates_of_a_pair():
    truth = truths([(0, A, B, 0, 1, 0), (0, A, B, 0, 1, 1), (0, A, B, 0, 1, 2)])
    predicted = relations([(0, A, B, 0, 1, predicate, 0.9 - predicate / 10) for predicate in range(3)])
    by_k = {k: match_vrd(predicted, truth, k).scores().figures["relation R@50"] for k in (1, 2, 70, None)}
    assert by_k == pytest.approx({1: 1 / 3, 2: 2 / 3, 70: 1.0, None: 1.0})


def test_a_phrase_needs_only_the_box_around_both():
    truth = truths([(0, A, D, 0, 1, 0)])
    found = match_vrd(relations([(0, half(A), D, 0, 1, 0, 0.9)]), truth).scores()
    assert (found.figures["relation R@50"], found.figures["phrase R@50"]) == (0.0, 1.0)


def test_a_prediction_takes_a_truth_that_is_still_free():
    # Both overlap the first truth most, but the second overlaps the other, too.
    truth = truths([(0, A, B, 0, 1, 0), (0, [4.0, 10, 43, 89], B, 0, 1, 0)])
    predicted = relations([(0, A, B, 0, 1, 0, 0.9), (0, NEAR_A, B, 0, 1, 0, 0.8)])
    assert match_vrd(predicted, truth).scores().figures["relation R@50"] == 1.0


@pytest.mark.parametrize("match, figure", [(match_scene_graphs, "R@50"), (match_vrd, "relation R@50")])
def test_nothing_predicted_scores_zero_and_nothing_true_scores_nan(match, figure):
    assert match(relations([]), truths([(0, A, B, 0, 1, 0)])).scores().figures[figure] == 0.0
    assert np.isnan(match(relations([(0, A, B, 0, 1, 0, 0.5)]), truths([])).scores().figures[figure])


@pytest.mark.parametrize("match", [match_scene_graphs, match_vrd, match_open_images, match_challenge])
def test_bad_input_is_refused(match):
    truth = truths([(0, A, B, 0, 1, 0)])
    with pytest.raises(ValueError, match="1 of 1 predictions have the score NaN"):
        match(relations([(0, A, B, 0, 1, 0, float("nan"))]), truth)
    with pytest.raises(ValueError, match="no scores"):
        match(truth, truth)
    with pytest.raises(ValueError, match="2 images"):
        match(relations([], images=2), truth)
