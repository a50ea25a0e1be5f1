"""The metric of HICO-DET: small cases computed by hand, and the results of two public evaluators on recorded input."""

import json
from typing import Any

import numpy as np
import pytest
from pair_scenes import interactions
from relation_rows import of_image

from benchmarks.evaluation import plain_hico, plain_relations, synthetic
from pipeline.evaluation.detections.read import read_detections
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.hico import HicoRules, HicoScores, TripletClass, counted, match_hico
from pipeline.evaluation.relations import Relations
from tests.data.toy_sets import save_json

PERSON, BOX = [10.0, 10.0, 50.0, 90.0], [40.0, 60.0, 80.0, 95.0]


def score(predicted: list[Relations], truth: list[Relations], rules: HicoRules | None = None) -> HicoScores:
    return match_hico(Relations.of(predicted), Relations.of(truth), rules).scores()


def test_a_truth_is_found_once_and_later_finds_are_wrong():
    truth = interactions([(PERSON, BOX, 0, 1, 2), ([200.0, 10.0, 240.0, 90.0], BOX, 0, 1, 2)])
    rows = [(PERSON, BOX, 0, 1, 2), (PERSON, BOX, 0, 1, 2), ([200.0, 10.0, 240.0, 90.0], BOX, 0, 1, 2)]
    kept = score([interactions(rows, [0.9, 0.8, 0.7])], [truth], HicoRules(suppression=None))
    # Recall 1/2 at precision 1, recall 1 at precision 2/3.
    assert kept.mean() == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert score([interactions(rows, [0.9, 0.8, 0.7])], [truth]).mean() == pytest.approx(1.0)


def test_predictions_on_an_image_without_truth_count_as_wrong_unless_told_otherwise():
    truths = [interactions([(PERSON, BOX, 0, 1, 2)]), interactions([])]
    predicted = [interactions([(PERSON, BOX, 0, 1, 2)], [0.5]), interactions([(PERSON, BOX, 0, 1, 2)], [0.9])]
    assert score(predicted, truths).mean() == pytest.approx(0.5)
    assert score(predicted, truths, HicoRules(official=True)).mean() == pytest.approx(1.0)


def test_labels_stay_integers_where_an_image_without_relations_has_empty_lists():
    none = of_image(*(np.zeros((0, 4)),) * 2, *(np.array([]),) * 3)
    joined = Relations.of([interactions([(PERSON, BOX, 0, 1, 2)]), none])
    assert {each.dtype for each in (joined.subject_labels, joined.object_labels, joined.predicates)} == {np.dtype(int)}


def test_no_predictions_score_zero_and_no_truth_scores_nan():
    assert score([interactions([], [])], [interactions([(PERSON, BOX, 0, 1, 2)])]).mean() == 0.0
    assert np.isnan(score([interactions([(PERSON, BOX, 0, 1, 2)], [0.5])], [interactions([])]).mean())


def with_fillers(found: list[dict[str, Any]], verbs: int) -> list[dict[str, Any]]:
    """The pairs with scores of all verbs, tiny ones that fall from pair to pair for all but their own."""
    scores = 1e-12 * np.arange(verbs * len(found), 0, -1).reshape(-1, verbs)
    scores[np.arange(len(found)), [pair["verb"] for pair in found]] = [pair["score"] for pair in found]
    images: dict[str, dict[str, Any]] = {}
    for pair, of_pair in zip(found, scores.tolist(), strict=True):
        lists = ("boxes", "labels", "verb_scores", "sub_ids", "obj_ids")
        image = images.setdefault(pair["image"], {"file_name": pair["image"], **{name: [] for name in lists}})
        image["sub_ids"].append(len(image["boxes"]))
        image["obj_ids"].append(len(image["boxes"]) + 1)
        image["boxes"] += [pair["box_h"], pair["box_o"]]
        image["labels"] += [0, pair["object_coco80"]]  # COCO's names begin with persons
        image["verb_scores"].append(of_pair)
    return [*images.values()]


@pytest.mark.parametrize("rule", ["tie_free", "tie_free_with_fillers"])
def test_equals_a_public_evaluator_where_no_scores_are_equal(shared, tmp_path, rule):
    """On 800 images of HICO-DET and the detections of a public model."""
    folder = shared / "data" / "hico_det"
    names = ("expected_800_distinct", "ground_truth_800", "detections_800")
    recorded, listed, found = (json.loads((folder / f"{name}.json").read_text()) for name in names)
    truth, expected = GroundTruth.open("hico_instances", folder / "ground_truth_800.json"), recorded[rule]
    validity = np.zeros((len(truth.predicates), len(truth.objects)), bool)
    validity[[verb for _, _, verb in listed["correspondence"]], [thing for _, thing, _ in listed["correspondence"]]] = 1
    for number, pair in enumerate(found):
        pair["score"] -= number * 1e-9
    path = save_json(
        tmp_path / "found.json", found if rule == "tie_free" else with_fillers(found, len(truth.predicates))
    )
    predicted = read_detections(path, truth, allow_missing=True, per_image=100, allowed=validity.T).relations
    rules = HicoRules(suppression=None, official=True, validity=validity)
    matches = match_hico(predicted, truth.relations, rules)
    scores, person = matches.scores(), truth.objects.index("person")
    assert len(matches.position) == expected["scored predictions"]
    assert scores.mean() == pytest.approx(expected["mAP"], abs=1e-9)
    for group, name in (("rare", "mAP rare"), ("non_rare", "mAP non-rare")):
        triplets = [TripletClass(person, *listed["correspondence"][hoi][1:]) for hoi in listed[group]]
        assert scores.mean(triplets) == pytest.approx(expected[name], abs=1e-9)
    assert scores.mean_recall == pytest.approx(expected["mean max recall"], abs=1e-9)


@pytest.mark.parametrize("rules", [
    HicoRules(), HicoRules(suppression=None), HicoRules(suppression=0.2),
    HicoRules(per_image=7), HicoRules(overlap=0.8),
])  # fmt: skip
def test_agrees_with_loops_over_images_and_their_interactions(rules):
    predicted, truth = synthetic(images=40, per_image=60, seed=3)
    expected = plain_hico(plain_relations(predicted), plain_relations(truth), rules)
    assert match_hico(predicted, truth, rules).scores().average_precision == pytest.approx(expected, abs=1e-12)


def test_a_kept_duplicate_suppresses_and_a_suppressed_one_does_not():
    # Each overlaps the next by more than the threshold, and the one after that by less.
    rows = [([10.0 + 12 * shift, 10, 109 + 12 * shift, 109], BOX, 0, 1, 2) for shift in range(4)]
    predicted = Relations.of([interactions(rows, [0.9, 0.8, 0.7, 0.6])])
    assert sorted(match_hico(predicted, predicted, HicoRules()).position.tolist()) == [0, 2]


def test_equal_scores_are_taken_by_image_and_then_as_given():
    truth = [interactions([(PERSON, BOX, 0, 1, 2)]), interactions([(PERSON, BOX, 0, 1, 2)])]
    wrong, right = (BOX, BOX, 0, 1, 2), (PERSON, BOX, 0, 1, 2)
    first_wrong = score([interactions([wrong, right], [0.5, 0.5]), interactions([], [])], truth).mean()
    first_right = score([interactions([right, wrong], [0.5, 0.5]), interactions([], [])], truth).mean()
    assert (first_wrong, first_right) == pytest.approx((6 * 0.5 / 11, 6 / 11))
    one_image_later = score([interactions([wrong], [0.5]), interactions([right], [0.5])], truth).mean()
    assert one_image_later == pytest.approx(6 * 0.5 / 11)
    signs = Relations.of([interactions([right] * 6, [-1.0, -0.0, 2.0, 0.0, 0.1, -3.0])])
    assert match_hico(signs, signs, HicoRules(suppression=None)).position.tolist() == [2, 4, 1, 3, 0, 5]
    tied = interactions([right] * 120, np.ones(120))
    assert match_hico(Relations.of([tied]), Relations.of(truth[:1]), HicoRules(suppression=None)).position.tolist() == [
        *range(100)
    ]


@pytest.mark.parametrize(("found", "of", "correct", "official"), [(3, 10, 4, 3), (5, 10, 6, 6)])
def test_a_recall_of_whole_tenths_reaches_its_threshold_unless_official(found, of, correct, official):
    truth = [interactions([(PERSON, BOX, 0, 1, 2)])] * of
    predicted = [interactions([(PERSON, BOX, 0, 1, 2)], [0.5])] * found + [interactions([], [])] * (of - found)
    assert score(predicted, truth).mean() == pytest.approx(correct / 11)
    assert score(predicted, truth, HicoRules(official=True)).mean() == pytest.approx(official / 11)


@pytest.mark.parametrize("official", [False, True])
def test_an_image_without_predictions_counts_as_not_found(official):
    """The authors' evaluator stops there with an error."""
    truth = [interactions([(PERSON, BOX, 0, 1, 2)]), interactions([(PERSON, BOX, 0, 1, 2)])]
    predicted = [interactions([(PERSON, BOX, 0, 1, 2)], [0.5]), interactions([], [])]
    found = score(predicted, truth, HicoRules(official=official))
    assert (found.mean(), found.mean_recall) == pytest.approx((6 / 11, 0.5))


def test_known_object_leaves_out_images_without_the_object():
    truths = [interactions([(PERSON, BOX, 0, 1, 2)]), interactions([(PERSON, BOX, 0, 7, 2)]), interactions([])]
    false_ = interactions([(PERSON, BOX, 0, 1, 2)], [0.9])
    predicted = [interactions([(PERSON, BOX, 0, 1, 2)], [0.5]), false_, false_]
    triplet = TripletClass(0, 1, 2)
    default = score(predicted, truths).average_precision
    known = score(predicted, truths, HicoRules(known_object=True)).average_precision
    assert (default[triplet], known[triplet]) == pytest.approx((1 / 3, 1.0))
    # A wrong verb with the object is on an image that holds it, and so counts.
    truths[1] = interactions([(PERSON, BOX, 0, 1, 5)])
    assert score(predicted, truths, HicoRules(known_object=True)).average_precision[triplet] == pytest.approx(0.5)


def test_invalid_combinations_leave_their_places_among_the_best_to_valid_ones():
    truth = interactions([(PERSON, BOX, 0, 1, 2)])
    predicted = interactions([(PERSON, BOX, 0, 1, 0), (PERSON, BOX, 0, 1, 2)], [0.9, 0.1])
    validity = np.ones((3, 2))
    validity[0, 1] = 0
    assert score([predicted], [truth], HicoRules(per_image=1)).mean() == 0.0
    assert score([predicted], [truth], HicoRules(per_image=1, validity=validity)).mean() == pytest.approx(1.0)


def test_an_interaction_without_an_object_is_not_one_with_the_last_object():
    """-1 would index the last column of the table, and the last object of the image before."""
    row, none = (PERSON, [np.nan] * 4, 0, -1, 2), interactions([], [])
    found = interactions([row], [0.9])
    validity = np.array([[1, 1], [1, 1], [1, 0]])
    assert counted(Relations.of([found]), HicoRules(validity=validity)).scores.tolist() == [0.9]
    truth = Relations.of([interactions([(PERSON, BOX, 0, 1, 2)]), interactions([]), interactions([row])])
    for predicted, number in (([none, found, none], 0), ([none, none, found], 1)):
        matches = match_hico(Relations.of(predicted), truth, HicoRules(known_object=True))
        assert len(matches.position) == number


@pytest.mark.parametrize("predicted, message", [
    ([interactions([(PERSON, BOX, 0, 1, 2)], [0.5])] * 2, "of 2 images, but ground truth of 1"),
    ([interactions([(PERSON, BOX, 0, 1, 2)])], "no scores"),
    ([interactions([(PERSON, BOX, 0, 1, 2)] * 2, [0.5, np.nan])], "1 of 2 predictions have the score NaN"),
])  # fmt: skip
def test_what_cannot_be_scored_is_refused(predicted, message):
    with pytest.raises(ValueError, match=message):
        score(predicted, [interactions([(PERSON, BOX, 0, 1, 2)])])


def test_labels_far_outside_the_truths_are_no_match():
    truth = interactions([(PERSON, BOX, 0, 1, 2), (PERSON, BOX, 0, 2, 0)])
    rows = [(PERSON, BOX, 0, 1, 5), (PERSON, BOX, 0, 0, 5), (PERSON, BOX, 0, 2**40, 2), (PERSON, BOX, 5, 1, 2)]
    assert score([interactions(rows, [0.9] * 4)], [truth]).mean() == 0.0


def test_any_number_of_names_can_be_scored():
    many = 2**20  # with a table of all combinations, an exbibyte
    truth = interactions([(PERSON, BOX, many, many, many), (PERSON, BOX, 0, 1, 2)])
    found = score([interactions([(PERSON, BOX, many, many, many), (PERSON, BOX, 0, 1, many)], [0.9] * 2)], [truth])
    assert found.average_precision == {TripletClass(0, 1, 2): 0.0, TripletClass(many, many, many): 1.0}
