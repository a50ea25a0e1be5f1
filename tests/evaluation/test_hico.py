"""The metric of HICO-DET: small cases computed by hand, and the results of two public evaluators on recorded input."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation import hico
from pipeline.evaluation.average_precision import eleven_points
from pipeline.evaluation.hico import HicoRules, HicoScores, Triplet, match_hico, score_hico, without_duplicates
from pipeline.evaluation.interactions import Interactions, ScoredPairs, pixel_iou
from pipeline.evaluation.relations import Relations

PERSON, BOX = [10.0, 10.0, 50.0, 90.0], [40.0, 60.0, 80.0, 95.0]


def interactions(rows, scores=None):
    """`rows`: (subject box, object box, subject label, object label, predicate)."""
    columns = list(zip(*rows, strict=True)) if rows else [[], [], [], [], []]
    return Interactions(
        np.array(columns[0], float).reshape(-1, 4),
        np.array(columns[1], float).reshape(-1, 4),
        *(np.array(column, np.int64) for column in columns[2:]),
        scores=None if scores is None else np.array(scores, float),
    )


def score(predicted: list[Interactions], truth: list[Interactions], rules: HicoRules | None = None) -> HicoScores:
    return score_hico(Relations.of(predicted), Relations.of(truth), rules)


def test_a_perfect_prediction_scores_one():
    truth = interactions([(PERSON, BOX, 0, 1, 2)])
    scores = score([interactions([(PERSON, BOX, 0, 1, 2)], [0.3])], [truth])
    assert scores.mean() == pytest.approx(1.0)
    assert scores.truths == {Triplet(0, 1, 2): 1}


@pytest.mark.parametrize("wrong", [(1, 1, 2), (0, 0, 2), (0, 1, 0)])
def test_every_label_must_agree(wrong):
    truth = interactions([(PERSON, BOX, 0, 1, 2)])
    assert score([interactions([(PERSON, BOX, *wrong)], [0.9])], [truth]).mean() == 0.0


def test_a_truth_is_found_once_and_later_finds_are_wrong():
    truth = interactions([(PERSON, BOX, 0, 1, 2), ([200.0, 10.0, 240.0, 90.0], BOX, 0, 1, 2)])
    rows = [(PERSON, BOX, 0, 1, 2), (PERSON, BOX, 0, 1, 2), ([200.0, 10.0, 240.0, 90.0], BOX, 0, 1, 2)]
    kept = score([interactions(rows, [0.9, 0.8, 0.7])], [truth], HicoRules(suppression=None))
    # Recall 1/2 at precision 1, recall 1 at precision 2/3.
    assert kept.mean() == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert score([interactions(rows, [0.9, 0.8, 0.7])], [truth]).mean() == pytest.approx(1.0)


def test_one_good_box_is_not_enough():
    truth = interactions([(PERSON, BOX, 0, 1, 2)])
    shifted = [box + 40 for box in BOX]
    assert score([interactions([(PERSON, shifted, 0, 1, 2)], [0.9])], [truth]).mean() == 0.0


def test_predictions_on_an_image_without_truth_count_as_wrong_unless_told_otherwise():
    truths = [interactions([(PERSON, BOX, 0, 1, 2)]), interactions([])]
    predicted = [interactions([(PERSON, BOX, 0, 1, 2)], [0.5]), interactions([(PERSON, BOX, 0, 1, 2)], [0.9])]
    assert score(predicted, truths).mean() == pytest.approx(0.5)
    assert score(predicted, truths, HicoRules(official=True)).mean() == pytest.approx(1.0)


def test_triplets_that_the_truth_lacks_do_not_count():
    truth = interactions([(PERSON, BOX, 0, 1, 2)])
    predicted = interactions([(PERSON, BOX, 3, 3, 3), (PERSON, BOX, 0, 1, 2)], [0.9, 0.1])
    assert score([predicted], [truth]).mean() == pytest.approx(1.0)


def test_no_predictions_score_zero_and_no_truth_scores_nan():
    assert score([interactions([], [])], [interactions([(PERSON, BOX, 0, 1, 2)])]).mean() == 0.0
    assert np.isnan(score([interactions([(PERSON, BOX, 0, 1, 2)], [0.5])], [interactions([])]).mean())


def test_only_the_best_hundred_of_an_image_count():
    pairs = ScoredPairs(
        np.tile(PERSON, (40, 1)),
        np.tile(BOX, (40, 1)),
        np.zeros(40, int),
        np.ones(40, int),
        np.linspace(0, 1, 120).reshape(40, 3),
    )
    best = pairs.best(100)
    assert len(best) == 100
    assert best.scores[0] == 1.0 and best.predicates[0] == 2
    assert len(without_duplicates(best, HicoRules())) == 3


def test_iou_counts_both_ends_of_a_side():
    iou = pixel_iou(np.array([[0.0, 0.0, 9.0, 9.0]]), np.array([[0.0, 0.0, 9.0, 4.0], [20.0, 20.0, 30.0, 30.0]]))
    assert iou.tolist() == [[0.5, 0.0]]


def test_eleven_points_of_an_interrupted_ranking():
    precision, recall = eleven_points(np.array([True, False, True, False]), np.array([0, 4]), np.array([4]))
    assert recall.tolist() == [0.5]
    assert precision == pytest.approx([(3 * 1.0 + 3 * 2 / 3) / 11])


def test_agrees_with_a_public_evaluator_on_800_images_of_hico_det(shared: Path):
    folder = shared / "data" / "hico_det"
    truth, expected = (json.loads((folder / f"{n}_800.json").read_text()) for n in ("ground_truth", "expected"))
    detections = json.loads((folder / "detections_800.json").read_text())
    by_image = {name: [] for name in truth["filenames"]}
    for row in detections:
        by_image[row["image"]].append(row)
    coco = COCO80.replace("\n", "").replace(" ", "").split(",")
    objects = [name.replace(" ", "_") for name in truth["objects"]]
    truths = [
        interactions(list(zip(a["boxes_h"], a["boxes_o"], [0] * len(a["hoi"]), a["object"], a["verb"], strict=True)))
        for a in truth["annotation"]
    ]
    valid = np.zeros((len(truth["verbs"]), len(objects)))
    valid[[verb for _, _, verb in truth["correspondence"]], [obj for _, obj, _ in truth["correspondence"]]] = 1
    predicted = []
    for name in truth["filenames"]:
        rows = by_image[name]
        labels = np.array([objects.index(coco[row["object_coco80"]]) for row in rows], int)
        verb_scores = np.zeros((len(rows), len(truth["verbs"])))
        verb_scores[np.arange(len(rows)), [row["verb"] for row in rows]] = [row["score"] for row in rows]
        verb_scores *= valid[:, labels].T
        human, thing = (np.array([row[key] for row in rows]).reshape(-1, 4) for key in ("box_h", "box_o"))
        predicted.append(ScoredPairs(human, thing, np.zeros(len(rows), int), labels, verb_scores).best(100))
    scores = score(predicted, truths, HicoRules(suppression=None, official=True))
    groups = {
        name: [Triplet(0, truth["correspondence"][hoi][1], truth["correspondence"][hoi][2]) for hoi in truth[name]]
        for name in ("rare", "non_rare")
    }
    assert len(scores.average_precision) == expected["triplets with ground truth"]
    # The recorded evaluator orders equal scores arbitrarily, and all verbs that were not predicted score zero here.
    assert scores.mean() == pytest.approx(expected["mAP"], abs=2e-4)
    assert scores.mean(groups["rare"]) == pytest.approx(expected["mAP rare"], abs=1e-3)
    assert scores.mean(groups["non_rare"]) == pytest.approx(expected["mAP non-rare"], abs=1e-3)
    assert scores.mean_recall == pytest.approx(expected["mean max recall"], abs=1e-6)


@pytest.mark.parametrize("recording", ["eval_hico", "eval_hico_nms"])
@pytest.mark.parametrize("suppression", [("nms", 0.7), ("no_nms", None)])
def test_agrees_with_the_authors_evaluator(shared: Path, recording: str, suppression: tuple[str, float | None]):
    recorded = json.loads((shared / "oracle" / f"{recording}.json").read_text())
    name, threshold = suppression
    rules = HicoRules(suppression=threshold, official=True)
    valid = np.array(recorded["inputs"]["correct_mat"])
    predicted, truths = [], []
    for pred, truth in zip(recorded["inputs"]["preds"], recorded["inputs"]["gts"], strict=True):
        boxes, labels = np.array(pred["boxes"]), np.array(pred["labels"])
        subjects, objects = np.array(pred["sub_ids"]), np.array(pred["obj_ids"])
        scores = np.array(pred["verb_scores"]) * valid[:, labels[objects]].T
        pairs = ScoredPairs(boxes[subjects], boxes[objects], labels[subjects], labels[objects], scores)
        predicted.append(pairs.best(rules.per_image))
        rows = [
            (truth["boxes"][s], truth["boxes"][o], truth["labels"][s], truth["labels"][o], verb)
            for s, o, verb in truth["hois"]
        ]
        truths.append(interactions(rows))
    found = score(predicted, truths, rules)
    expected = recorded["outputs"][name]
    assert [len(without_duplicates(p, rules)) for p in predicted] == expected["n_kept_hois"]
    assert found.mean() == pytest.approx(expected["metrics"]["mAP"], abs=1e-9)
    assert found.mean_recall == pytest.approx(expected["metrics"]["mean max recall"], abs=1e-9)
    for triplet, value in expected["ap"]:
        assert found.average_precision[Triplet(*triplet)] == pytest.approx(value, abs=1e-9)
    for group, key in (("rare", "mAP rare"), ("non_rare", "mAP non-rare")):
        triplets = [Triplet(*t) for t in recorded["inputs"][group]]
        assert found.mean(triplets) == pytest.approx(expected["metrics"][key], abs=1e-9)


COCO80 = """
    person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic_light,fire_hydrant,stop_sign,parking_meter,
    bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,
    skis,snowboard,sports_ball,kite,baseball_bat,baseball_glove,skateboard,surfboard,tennis_racket,bottle,wine_glass,
    cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot_dog,pizza,donut,cake,chair,couch,
    potted_plant,bed,dining_table,toilet,tv,laptop,mouse,remote,keyboard,cell_phone,microwave,oven,toaster,sink,
    refrigerator,book,clock,vase,scissors,teddy_bear,hair_drier,toothbrush
"""
