"""Figures of a run's evaluation beside HICO-DET's: unseen and seen triplets apart, and V-COCO's own."""

from dataclasses import replace

import numpy as np
import pytest
from relation_rows import A, B, of_image
from run_builder import box
from vcoco_files import files

from pipeline.evaluation import test_set as evaluated
from pipeline.evaluation.benchmark import Figure, further_figures
from pipeline.evaluation.detection import Detections
from pipeline.evaluation.test_set import ScoredImage
from pipeline.evaluation.vcoco_truth import read_vcoco_truth
from pipeline.report.variants import score_name
from pipeline.runtime.stage import Inputs
from pipeline.stages.evaluate import EvaluateSettings, EvaluateStage, VcocoFiles
from storage.errors import FatalError

PERSON = [0.0, 10.0, 39.0, 89.0]
BAT = [180.0, 10.0, 199.0, 89.0]


def row(image_id: int, *relations: tuple[str, str]) -> dict:
    """An image of a person at `A` and a thing at `B` in each of the relations (predicate, thing)."""

    def corners(name: str, sides: list[float]) -> dict:
        return box(name, sides[0], sides[1], sides[2] - sides[0], sides[3] - sides[1])

    boxes = [corners("person", A), *(corners(thing, B) for _, thing in relations)]
    stated = [{"subject": 0, "predicate": p, "object": place} for place, (p, _) in enumerate(relations, 1)]
    return {
        "dataset": "toy", "image_id": image_id, "uri": f"{image_id}.jpg", "width": 200, "height": 100, "boxes": boxes,
        "relations": stated,
    }  # fmt: skip


def found(test_set: evaluated.TestSet, position: int, predicate: str, thing: str, boxes=(A, B)) -> ScoredImage:
    """One relation that a network found in an image."""
    names = test_set.names
    labels = [np.array([names.objects.index(name)]) for name in ("person", thing)]
    place = np.array([names.predicates.index(predicate)])
    relation = of_image(*(np.array([b], float) for b in boxes), *labels, predicates=place, scores=np.array([0.9]))
    none = Detections(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))
    return ScoredImage(position, relation, none)


def test_unseen_and_seen_triplets_are_scored_apart():
    test_set = evaluated.TestSet([row(1, ("ride", "horse")), row(2, ("feed", "horse")), row(3, ("ride", "bus"))], {})
    predicted = [
        found(test_set, 0, "ride", "horse"), found(test_set, 1, "ride", "horse"), found(test_set, 2, "ride", "bus"),
    ]  # fmt: skip
    scores = test_set.scores(
        predicted, unseen={("person", "feed", "horse"), ("person", "ride", "bus"), ("cat", "eat", "x")}
    )
    assert scores["unseen_map"] == 0.5 and scores["unseen_triplets"] == 2
    assert scores["seen_map"] == 1.0
    assert scores["full_map"] == scores["zero_shot_map"] == pytest.approx(2 / 3)
    assert "seen_map" not in test_set.scores(
        predicted, unseen={("person", p, o) for p in ("ride", "feed") for o in ("horse", "bus")}
    )
    assert not {"unseen_map", "unseen_triplets"} & test_set.scores(predicted).keys()


def test_a_metric_whose_figure_has_a_name_that_another_has_is_refused(monkeypatch):
    monkeypatch.setattr(evaluated, "further_figures", lambda *_: (Figure("zero_shot_map", "theirs", 0.1),))
    test_set = evaluated.TestSet([row(1, ("ride", "horse"))], {})
    with pytest.raises(FatalError, match="several figures have the name 'zero_shot_map'"):
        test_set.scores([found(test_set, 0, "ride", "horse")], ("theirs",))


def test_vcoco_is_scored_by_its_own_files(tmp_path):
    actions, instances, _ = files(tmp_path)
    truth = read_vcoco_truth(actions, instances)
    test_set = evaluated.TestSet([row(8, ("hold", "bat")), row(7, ("hold", "bat"))], {})
    right = found(test_set, 1, "hold", "bat", (PERSON, BAT))
    scores = test_set.vcoco_scores([found(test_set, 0, "hold", "bat"), right], truth)
    assert scores["vcoco_role_1"] == scores["vcoco_role_2"] == 1.0
    assert scores["vcoco_agent"] == 1.0
    wrong = test_set.vcoco_scores([found(test_set, 1, "hold", "bat", (PERSON, PERSON))], truth)
    assert (wrong["vcoco_role_1"], wrong["vcoco_agent"]) == (0.0, 1.0)
    with pytest.raises(FatalError, match="no image of the test sets is on V-COCO's list"):
        test_set.vcoco_scores([found(test_set, 0, "hold", "bat")], truth)


def test_vcocos_images_are_known_by_name_where_other_test_sets_use_their_ids(tmp_path):
    actions, instances, _ = files(tmp_path)
    truth = read_vcoco_truth(actions, instances)
    own = row(7, ("hold", "bat")) | {"uri": f"val/{truth.uris[0]}"}
    rows = [own, row(7, ("hold", "bat")) | {"dataset": "other"}]
    test_set = evaluated.TestSet(rows, {})
    right, other = found(test_set, 0, "hold", "bat", (PERSON, BAT)), found(test_set, 1, "hold", "bat")
    assert test_set.vcoco_scores([right, other], truth)["vcoco_role_1"] == 1.0
    twice = evaluated.TestSet([own, own | {"dataset": "again"}], {})
    with pytest.raises(FatalError, match="several test sets have V-COCO's images"):
        twice.vcoco_scores([right, other], truth)


@pytest.mark.parametrize("name", ["7.jpg", "000000000139.jpg", "street_0139.jpg", "street.jpg"])
def test_a_test_set_with_ids_but_not_the_file_names_of_vcocos_images_is_refused(tmp_path, name):
    actions, instances, _ = files(tmp_path)
    truth = replace(read_vcoco_truth(actions, instances), uris=("COCO_val2014_000000000007.jpg",))
    renamed, other = (row(7, ("hold", "bat")) | {"uri": uri} for uri in ("val2017/000000000007.jpg", name))
    right, again = (evaluated.TestSet([each], {}) for each in (renamed, other))
    assert right.vcoco_scores([found(right, 0, "hold", "bat", (PERSON, BAT))], truth)["vcoco_role_1"] == 1.0
    with pytest.raises(FatalError, match=f"different images: image 7 is {name}, not COCO_val2014_000000000007"):
        again.vcoco_scores([found(again, 0, "hold", "bat", (PERSON, BAT))], truth)


def test_figures_of_several_metrics_that_are_called_alike_are_told_apart():
    truth = evaluated.TestSet([row(1, ("ride", "horse"))], {}).truth
    predicted = replace(truth.relations, scores=np.ones(1))
    metrics, names = ("open_images", "scene_graphs"), (truth.objects, truth.predicates)
    figures = {each.name: each for each in further_figures(metrics, predicted, truth.relations, *names)}
    assert (figures["recall_50"].label, figures["R@50"].label) == ("open_images: R@50", "scene_graphs: R@50")
    # The run's table has names alone.
    assert score_name("challenge") == figures["challenge"].label.removeprefix("open_images: ")


def test_two_wordings_of_one_relation_are_one_truth():
    worded = row(1, ("hold", "bat"))
    worded["relations"] += [{"subject": 0, "predicate": "is holding", "object": 1}]
    test_set = evaluated.TestSet([worded], {})
    assert test_set.scores([found(test_set, 0, "hold", "bat")])["zero_shot_map"] == 1.0


def test_the_key_has_the_content_of_vcocos_files_and_nothing_where_there_are_none(tmp_path):
    assert EvaluateStage(EvaluateSettings()).row_settings() == {
        "subject": None, "assume_subject": False, "metrics": [],
    }  # fmt: skip
    assert EvaluateStage(EvaluateSettings()).files() == {}
    actions, instances, _ = files(tmp_path)
    stage = EvaluateStage(EvaluateSettings(vcoco=VcocoFiles(actions=actions, instances=instances)))
    assert stage.row_settings() == {
        "subject": None, "assume_subject": False, "metrics": [],
    }  # fmt: skip
    assert set(stage.files().values()) == {actions, instances}
    swapped = EvaluateStage(EvaluateSettings(vcoco=VcocoFiles(actions=instances, instances=actions)))
    with pytest.raises(FatalError, match="expected V-COCO's list of actions"):
        swapped.open(Inputs({}))  # before a test set is predicted
    instances.unlink()
    with pytest.raises(FatalError, match=r"evaluate\.vcoco\.instances = .*: no such file"):
        stage.files()
