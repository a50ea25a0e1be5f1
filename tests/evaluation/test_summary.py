"""What an evaluation is summed up to, and published results with their sources."""

import json
from dataclasses import replace

import pytest
from pair_scenes import BIKE, DOG, MAN, TRUE, relations, truth_of

from pipeline.evaluation.anatomy import ErrorKind, dissect
from pipeline.evaluation.benchmark import ClassScore, Evaluated, Figure
from pipeline.evaluation.published import published_results, published_test_set
from pipeline.evaluation.summary import summarise

CLASSES = [ClassScore("ride bike", 0.4, 30), ClassScore("hold dog", 0.0, 2), ClassScore("see bike", 0.0, 40)]


def summary_of(predicted, truth, benchmark="hico-det", classes=CLASSES, measure="AP", **rules):
    def share_found(p, t):
        return float(dissect(p, t).found.sum() / max(len(t), 1))

    names = tuple(f"predicate {number}" for number in range(10))
    figures = (Figure("full", "full", 0.4, 0.3, 0.5, official=0.35),)
    evaluated = Evaluated(figures, tuple(classes), share_found, "mAP", lambda chosen: None, measure)
    return summarise(benchmark, "a run", evaluated, dissect(predicted, truth), names, **rules)


def test_a_summary_holds_scores_errors_pairs_and_calibration():
    found = summary_of(relations([(*TRUE, 0.9), (MAN, BIKE, 0, 1, 3, 0.8)], []), truth_of([TRUE], [TRUE]))
    assert (found.images, found.truths, found.predictions) == (2, 2, 2)
    assert found.anatomy.counts[ErrorKind.PREDICATE] == 1
    assert found.anatomy.score == 0.5
    assert found.pairs.pair_recall == 0.5
    assert found.calibration.expected_error == pytest.approx(0.5 * 0.1 + 0.5 * 0.8)
    assert found.published == ()
    assert "9,658 images and 600 classes. This one has 2 images and 3 classes" in found.difference


def test_the_worst_classes_are_those_of_many_truths_first():
    found = summary_of(relations([(*TRUE, 0.9)]), truth_of([TRUE]))
    assert [each.name for each in found.worst(2)] == ["see bike", "hold dog"]


def test_caveats_are_of_the_benchmark_and_of_the_data():
    predicted = relations(
        [(*TRUE, 0.5), (MAN, BIKE, 0, 1, 3, 0.9), (MAN, BIKE, 0, 5, 2, 0.7)], [(DOG, DOG, 0, 0, 0, 0.8)]
    )
    found = summary_of(predicted, truth_of([TRUE], []))
    text = "\n".join(found.caveats)
    assert "the 138 of 600" in text
    assert "Of the 3 most confident wrong predictions, 2 name" in text
    assert "1 of 3 classes have fewer than 10 truths" in text
    assert "1 of 2 images have no truth" in text
    assert "Imbalance: 1 of 1 truths belong to the most frequent 1 of 1 triplets." in text
    recalls = summary_of(predicted, truth_of([TRUE], []), measure="R@100")
    assert not any("have no truth" in caveat for caveat in recalls.caveats), "recall is a mean over images with truths"
    other = summary_of(predicted, truth_of([TRUE], []), benchmark="ours")
    assert "600" not in "\n".join(other.caveats)
    assert (other.published, other.difference) == ((), "")


@pytest.mark.parametrize("benchmark, images, classes, compares", [
    ("hico-det", 9658, 600, True), ("hico-det", 9546, 600, True), ("hico-det", 9658, 599, False),
    ("hico-det", 38118, 600, False), ("v-coco", 4946, 25, True), ("v-coco", 2867, 25, False),
    ("open-images", 5322, 30, True), ("vg", 26446, 50, True), ("psg", 2177, 49, True), ("vrd", 955, 63, True),
    ("vrd", 4000, 70, False),
])  # fmt: skip
def test_results_compare_on_the_whole_test_set_only(benchmark, images, classes, compares):
    told = published_test_set(benchmark).difference(images, classes)
    assert (told == "") == compares
    assert compares or f"{images:,} images" in told


def test_published_results_stand_beside_those_of_the_whole_test_set():
    truth = replace(truth_of([TRUE]), images=9658)
    predicted = replace(relations([(*TRUE, 0.9)]), images=9658)
    classes = [ClassScore(f"class {number}", 0.5, 1) for number in range(600)]
    found = summary_of(predicted, truth, classes=classes)
    assert (found.published, found.difference) == (published_results("hico-det"), "")
    for suppression, methods in ((True, {"CDN-S", "RLIP-ParSe", "OCN"}), (False, {"QPIC", "HOTR", "OCN"})):
        beside = {each.method for each in published_results("hico-det", suppression)}
        assert methods <= beside and ("QPIC" in beside) != suppression and ("CDN-S" in beside) == suppression


def test_results_by_another_evaluator_are_left_out():
    truth, predicted = (replace(each, images=5322) for each in (truth_of([TRUE]), relations([(*TRUE, 0.9)])))
    kept, official = (
        summary_of(predicted, truth, "open-images", suppression=False, official=each) for each in (False, True)
    )
    assert kept.published and all("PySGG" in each.source.name for each in kept.published)
    assert official.published == () and "PySGG's evaluator: not comparable" in official.difference


def test_scores_beyond_one_are_not_calibrated():
    assert summary_of(relations([(*TRUE, 1.5)]), truth_of([TRUE])).calibration is None
    assert summary_of(relations([]), truth_of([TRUE])).calibration is None


def test_a_summary_is_json_without_nan():
    found = json.loads(summary_of(relations([(DOG, DOG, 0, 0, 0, 0.8)]), truth_of([])).as_json())
    assert found["pairs"]["pair_recall"] is None
    assert found["anatomy"]["counts"]["background"] == 1


def test_half_an_interval_is_refused():
    with pytest.raises(ValueError, match="needs both bounds"):
        Figure("full", "full", 0.4, low=0.3)


def test_images_without_relations_do_not_count_for_scene_graphs():
    found = summary_of(relations([(*TRUE, 0.9)], []), truth_of([TRUE], []), benchmark="vg")
    assert "VG150, 26,446 images and 50 classes with relations. This one has 1 images" in found.difference


@pytest.mark.parametrize("benchmark", ["hico-det", "v-coco", "open-images", "vg", "vrd", "psg"])
def test_published_results_name_their_source(benchmark):
    results = published_results(benchmark)
    assert results
    assert all(result.source.url.startswith("https://") and result.source.name for result in results)
    assert all(0 < value < 100 for result in results for value in result.scores.values())
    assert {"RLIPv2-ParSeDA", "Motifs", "BLOCK"} & {result.method for result in results}


def test_published_means_agree_with_their_parts():
    """HICO-DET has 138 rare and 462 other classes, some hidden by zero-shot splits; Open Images weighs three scores."""
    for result in published_results("hico-det"):
        scores = result.scores
        for prefix in ("", "known_"):
            if f"{prefix}rare" in scores:
                mean = (138 * scores[f"{prefix}rare"] + 462 * scores[f"{prefix}non_rare"]) / 600
                assert scores[f"{prefix}full"] == pytest.approx(mean, abs=0.03), result
        if "unseen" in scores:
            hidden = {"UO": 100, "UV": 84}.get(result.setting, 120)
            mean = (hidden * scores["unseen"] + (600 - hidden) * scores["seen"]) / 600
            assert scores["full"] == pytest.approx(mean, abs=0.03), result
    for result in published_results("open-images"):
        weighted = 0.2 * result.scores["recall_50"] + 0.4 * (result.scores["wmap_rel"] + result.scores["wmap_phr"])
        assert result.scores["score_wtd"] == pytest.approx(weighted, abs=0.5), result
