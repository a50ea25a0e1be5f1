"""V-COCO's agents and roles: cases computed by hand, and its public files, whole and damaged."""

import json
from dataclasses import replace

import numpy as np
import pytest
from relation_rows import NONE, A, B, C, D, half, relations
from vcoco_files import files

from benchmarks.evaluation import synthetic
from pipeline.data.datasets.annotations import AnnotationError
from pipeline.data.datasets.pairs import vcoco_predicate
from pipeline.evaluation.anatomy import dissect
from pipeline.evaluation.bootstrap import resampled
from pipeline.evaluation.relations import Relations, scores_of
from pipeline.evaluation.vcoco import THINGS, VcocoScores, as_relations, match_vcoco
from pipeline.evaluation.vcoco_detections import VcocoDetections, in_roles, read_vcoco_detections
from pipeline.evaluation.vcoco_truth import VcocoTruth, read_vcoco_truth

ACTIONS = ("hold", "walk")
ROLES = (("hold", "obj"),)
NOTHING = [0.0] * 4


def means(scores: VcocoScores, roles: str = "_25") -> tuple[float, float]:
    """Mean role AP of scenario 1 and 2, over all roles or, with "", without "point"."""
    return scores.figures[f"role_1{roles}"], scores.figures[f"role_2{roles}"]


def truth_of(*persons, images=1) -> VcocoTruth:
    """`persons`: (image, box, labels of hold and walk, box of what is held)."""
    columns = list(zip(*persons, strict=True)) or [[]] * 4
    return VcocoTruth(
        images, ACTIONS, ROLES, np.array(columns[0], np.int64), np.array(columns[1], float).reshape(-1, 4),
        np.array(columns[2], np.int64).reshape(-1, 2), np.array(columns[3], float).reshape(-1, 1, 4),
    )  # fmt: skip


def detections(*persons, images=1) -> VcocoDetections:
    """`persons`: (image, box, scores of hold and walk, box of what is held, its score)."""
    columns = list(zip(*persons, strict=True)) or [[]] * 5
    none = np.zeros(len(columns[0]), np.int64)
    image, boxes = np.array(columns[0], np.int64), np.array(columns[1], float).reshape(-1, 4)
    things = np.array(columns[3], float).reshape(-1, 4)
    return VcocoDetections(
        Relations(images, image, boxes, things, none, none, none, np.array(columns[4], float)),
        image, boxes, np.array(columns[2], float).reshape(-1, 2),
    )  # fmt: skip


def test_a_perfect_detection_scores_one_and_a_wrong_thing_only_as_agent():
    truth = truth_of((0, A, [1, 0], B))
    scores = match_vcoco(detections((0, A, [0.9, 0.1], B, 0.8)), truth).scores()
    assert (scores.agent["hold"], scores.scenario_1[ROLES[0]], scores.scenario_2[ROLES[0]]) == (1.0, 1.0, 1.0)
    # Nobody walks, so that walking has no AP, and no part in the mean.
    assert np.isnan(scores.agent["walk"]) and scores.figures["agent"] == 1.0
    wrong = match_vcoco(detections((0, A, [0.9, 0.1], half(B), 0.8)), truth).scores()
    assert (wrong.agent["hold"], *means(wrong)) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(("box", "expected"), [(NONE, (1.0, 1.0)), (NOTHING, (1.0, 1.0)), (B, (0.0, 1.0))])
def test_where_nothing_is_held_scenario_1_asks_for_no_box(box, expected):
    truth = truth_of((0, A, [1, 0], NONE))
    assert means(match_vcoco(detections((0, A, [0.9, 0.1], box, 0.8)), truth).scores()) == expected


def test_a_person_is_found_once_and_recall_is_of_all_who_act():
    truth = truth_of((0, A, [1, 0], B), (0, C, [1, 0], D))
    twice = detections((0, A, [0.9, 0], B, 0.9), (0, A, [0.8, 0], B, 0.8), (0, C, [0.7, 0], D, 0.7))
    scores = match_vcoco(twice, truth).scores()
    assert scores.agent["hold"] == pytest.approx(1 / 2 + 2 / 3 / 2)
    assert scores.figures["role_1_25"] == pytest.approx(1 / 2 + 2 / 3 / 2)
    assert scores.persons == {"hold": 2, "walk": 0}


def test_detections_of_persons_without_annotation_do_not_count():
    truth = truth_of((0, A, [1, 0], B), (0, C, [-1, -1], NONE))
    found = detections((0, C, [0.9, 0], D, 0.9), (0, A, [0.8, 0], B, 0.8))
    assert match_vcoco(found, truth).scores().agent["hold"] == 1.0
    known = truth_of((0, A, [1, 0], B), (0, C, [0, 0], NONE))
    assert match_vcoco(found, known).scores().agent["hold"] == 0.5


def test_a_detection_on_an_image_without_a_person_is_wrong():
    truth = truth_of((0, A, [1, 0], B), images=2)
    found = detections((0, A, [0.8, 0], B, 0.8), (1, A, [0.9, 0], B, 0.9), images=2)
    scores = match_vcoco(found, truth).scores()
    assert (scores.agent["hold"], *means(scores)) == (0.5, 0.5, 0.5)


def test_a_score_of_nan_says_nothing():
    truth = truth_of((0, A, [1, 0], B))
    nan = float("nan")
    found = detections((0, C, [nan, nan], D, nan), (0, A, [0.5, 0.5], B, 0.5))
    scores = match_vcoco(found, truth).scores()
    assert (scores.agent["hold"], *means(scores)) == (1.0, 1.0, 1.0)


def test_the_official_mean_without_point_leaves_out_the_third_action_from_the_end():
    truth = replace(
        truth_of((0, A, [1, 0], B)), actions=("point", "hold", "walk", "run"),
        roles=(("point", "instr"), ("hold", "obj")), labels=np.array([[1, 1, 0, 0]]), role_boxes=np.array([[B, B]]),
    )  # fmt: skip
    roles = relations([(0, A, half(B), 0, 0, 0, 0.9), (0, A, B, 0, 0, 1, 0.9)])
    found = VcocoDetections(roles, np.array([0]), np.array([A]), np.full((1, 4), 0.5))
    scores, official = (match_vcoco(found, truth, official=each).scores() for each in (False, True))
    assert scores.scenario_1 == official.scenario_1 == {("point", "instr"): 0.0, ("hold", "obj"): 1.0}
    assert means(scores, "") == (1.0, 1.0)
    assert means(official, "") == pytest.approx((11.5 / 24,) * 2)


def test_nothing_found_scores_zero_and_nobody_there_scores_nan():
    truth = truth_of((0, A, [1, 1], B))
    scores = match_vcoco(detections(), truth).scores()
    assert (scores.figures["agent"], *means(scores)) == (0.0, 0.0, 0.0)
    nobody = match_vcoco(detections((0, A, [0.9, 0.9], B, 0.9)), truth_of()).scores()
    assert np.isnan([*nobody.figures.values()]).all()


def test_persons_without_a_box_are_refused():
    truth = truth_of((0, A, [1, 0], B))
    found = detections((0, A, [0.9, 0], B, 0.8))
    with pytest.raises(ValueError, match="1 of 1 detections have a person box with NaN"):
        match_vcoco(replace(found, agent_boxes=np.array([NONE])), truth).scores()


def test_relations_of_a_network_become_agents_and_roles():
    truth = replace(
        truth_of((0, A, [1, 0], B)), actions=("cut", "walk"), roles=(("cut", "instr"), ("cut", "obj")),
        role_boxes=np.array([[B, C]]),
    )  # fmt: skip
    names, objects = ["walk", "cut_obj", "cut with"], ["person", "dog", "knife", "bread"]
    found = relations(
        [
            (0, A, B, 0, 2, 2, 0.4), (0, A, B, 0, 2, 1, 0.6), (0, A, C, 0, 3, 1, 0.5), (0, A, C, 0, 3, 0, 0.3),
            (0, A, B, 1, 2, 2, 0.9),
        ]
    )  # fmt: skip
    converted = in_roles(found, objects, names, truth)  # without the dog that cuts
    assert sorted(map(tuple, np.nan_to_num(converted.agent_scores, nan=-1).tolist())) == [(0.5, 0.3), (0.6, -1.0)]
    assert converted.roles.predicates.tolist() == [0, 1, 1]
    assert converted.roles.scores.tolist() == [0.4, 0.6, 0.5]
    assert match_vcoco(converted, truth).scores().scenario_1 == pytest.approx(
        {("cut", "instr"): 1.0, ("cut", "obj"): 0.5}
    )


BOARDS = ("skateboard", "surfboard", "bicycle")


def board_roles(predicates, rows) -> list[tuple[str, float]]:
    """The role and score of each relation between a person and `BOARDS[object]`, from (object, predicate, score)."""
    roles = (("skateboard", "instr"), ("surf", "instr"), ("ride", "instr"), ("sit", "instr"))
    truth = replace(
        truth_of((0, A, [1, 0], B)), actions=tuple(action for action, _ in roles), roles=roles,
        labels=np.array([[1, 0, 0, 0]]), role_boxes=np.array([[B, NONE, NONE, NONE]]),
    )  # fmt: skip
    found = relations([(0, A, B, 3, thing, predicate, score) for thing, predicate, score in rows])
    converted = in_roles(found, (*BOARDS, "person"), predicates, truth)
    assert match_vcoco(converted, truth).scores().scenario_1["skateboard", "instr"] in (0.0, 1.0)
    return [(roles[p][0], s) for p, s in zip(converted.roles.predicates, scores_of(converted.roles), strict=True)]


def test_riding_a_board_is_that_boards_role_unless_it_has_a_word_of_its_own():
    rows = [(0, 0, 0.9), (1, 0, 0.8), (2, 0, 0.7), (2, 1, 0.6), (2, 2, 0.5)]
    expected = [("skateboard", 0.9), ("surf", 0.8), ("ride", 0.7), ("sit", 0.6)]
    assert board_roles(("ride", "sit on", "near"), rows) == expected
    # The words of RLIPv2's authors.
    rows = [(0, 0, 0.9), (0, 1, 0.8), (1, 0, 0.7), (2, 0, 0.6)]
    expected = [("ride", 0.9), ("skateboard", 0.8), ("surf", 0.7), ("ride", 0.6)]
    assert board_roles(("ride on", "skateboard"), rows) == expected
    with pytest.raises(ValueError, match="no predicate of the test set is a role of V-COCO; they are near"):
        board_roles(("near",), [(0, 0, 0.5)])


def test_the_public_roles_are_reached_by_our_words_and_by_the_authors():
    roles = [
        *(
            (action, "obj")
            for action in ("hold", "look", "hit", "eat", "carry", "throw", "catch", "cut", "kick", "read")
        ),
        *((action, "instr") for action in ("sit", "ride", "hit", "eat", "jump", "lay", "talk_on_phone", "cut", "ski")),
        *((action, "instr") for action in ("work_on_computer", "surf", "skateboard", "drink", "point", "snowboard")),
    ]
    actions = tuple(dict.fromkeys(action for action, _ in roles))
    truth = VcocoTruth(1, actions, tuple(roles), *(np.zeros((0, n)) for n in (1, 4, len(actions), len(roles))))
    things = ("surfboard", "skateboard", "snowboard", "horse", "person")
    authors = (
        *("hold", "look at", "hit", "eat", "carry", "throw", "catch", "cut", "kick", "read", "sit on/at", "ride on"),
        *("hit with", "eat with", "jump", "lay on", "talk on phone", "cut with", "ski", "work on computer", "surf"),
        *("skateboard", "drink from", "point", "snowboard"),
    )
    ours = list(dict.fromkeys(vcoco_predicate(" ".join(role)) for role in roles))
    for words in (authors, ours):
        found = relations([(0, A, B, 4, t, p, 0.5) for t in range(len(things)) for p in range(len(words))])
        assert set(in_roles(found, things, words, truth).roles.predicates.tolist()) == set(range(25))


def test_the_truth_of_some_images_is_in_their_order():
    whole = truth_of((0, A, [1, 0], B), (1, B, [0, 1], C), (1, C, [1, 1], D), images=3)
    whole = replace(whole, image_ids=(7, 5, 9), uris=("7.jpg", "5.jpg", "9.jpg"))
    part = whole.of_images([9, 5])
    assert part.uris == ("9.jpg", "5.jpg")
    assert (part.images, part.image.tolist(), part.image_ids) == (2, [1, 1], (9, 5))
    assert part.boxes.tolist() == [B, C] and part.labels.tolist() == [[0, 1], [1, 1]]
    assert part.role_boxes[:, 0].tolist() == [C, D]


def test_the_public_files_are_read_and_boxes_cleaned(tmp_path):
    actions, instances, detected = files(tmp_path)
    truth = read_vcoco_truth(actions, instances)
    assert (truth.images, truth.image_ids, truth.actions, truth.roles) == (1, (7,), ACTIONS, ROLES)
    # The box of one pixel's width and the ignored one are left out.
    assert truth.boxes.tolist() == [[100, 10, 139, 89], A]
    assert truth.labels.tolist() == [[-1, -1], [1, 0]]
    assert truth.role_boxes[1].tolist() == [[180, 10, 199, 89]] and np.isnan(truth.role_boxes[0]).all()
    scores = match_vcoco(read_vcoco_detections(detected, truth), truth).scores()
    assert (scores.agent["hold"], *means(scores)) == (1.0, 1.0, 1.0)


def test_a_file_of_another_kind_is_refused(tmp_path):
    actions, instances, _ = files(tmp_path)
    with pytest.raises(AnnotationError, match="expected V-COCO's list of actions"):
        read_vcoco_truth(instances, instances)
    actions.write_text(actions.read_text().replace("[[7]]", "[[9]]"))
    with pytest.raises(AnnotationError, match=r"lacks 1 of 1 images, e.g. \[9\]"):
        read_vcoco_truth(actions, instances)
    actions.write_text(actions.read_text().replace("[[9]]", "[[7]]").replace("[[1]]", "[[99]]", 1))
    with pytest.raises(AnnotationError, match=r"lacks 1 of 1 people of .*, e.g. 99, who"):
        read_vcoco_truth(actions, instances)
    actions.write_text(actions.read_text()[:100])
    with pytest.raises(AnnotationError, match="not valid JSON"):
        read_vcoco_truth(actions, instances)


def test_a_role_of_a_box_that_is_not_there_or_of_two_is_refused(tmp_path):
    actions, instances, _ = files(tmp_path)
    actions.write_text(actions.read_text().replace("[1, 3]", "[1, 33]"))
    with pytest.raises(AnnotationError, match="hold of person 1 names box 33"):
        read_vcoco_truth(actions, instances)
    hold, walk = json.loads(actions.read_text())
    hold |= {"image_id": [7, 7], "ann_id": [1, 1], "label": [1, 1], "role_object_id": [1, 1, 3, 2]}
    actions.write_text(json.dumps([hold, walk]))
    with pytest.raises(AnnotationError, match="hold lists person 1 twice"):
        read_vcoco_truth(actions, instances)


@pytest.mark.parametrize("change, message", [
    ({"image_id": 8}, r"1 images are not in the ground truth, e.g. \[8\]"),
    ({"image_id": "x"}, r"1 images are not in the ground truth, e.g. \['x'\]"),
    ({"person_box": [1, 2, 3]}, "detection 0: .*person_box is not a list of 4 numbers"),
    ({"hold_agent": "much"}, "detection 0: .*'much' is not a number"),
    ({"hold_obj": [1, 2, 3, 4]}, "detection 0: .*hold_obj is not a list of 5 numbers"),
])  # fmt: skip
def test_bad_detections_are_named(tmp_path, change, message):
    actions, instances, detected = files(tmp_path)
    truth = read_vcoco_truth(actions, instances)
    row = json.loads(detected.read_text())[0]
    detected.write_text(json.dumps([row | change]))
    with pytest.raises(AnnotationError, match=message):
        read_vcoco_detections(detected, truth)
    del row["walk_agent"]
    detected.write_text(json.dumps([row]))
    with pytest.raises(AnnotationError, match=r"detection 0: .*walk_agent"):
        read_vcoco_detections(detected, truth)


def test_images_without_detections_are_an_error_unless_allowed(tmp_path):
    actions, instances, detected = files(tmp_path, detections=[])
    truth = read_vcoco_truth(actions, instances)
    with pytest.raises(AnnotationError, match=r"1 of 1 images have no detection, e.g. \[7\]; .*--allow-missing"):
        read_vcoco_detections(detected, truth)
    assert means(match_vcoco(read_vcoco_detections(detected, truth, allow_missing=True), truth).scores()) == (0.0, 0.0)


def test_kept_matches_score_chosen_images_as_detections_on_copies_of_them_do():
    (drawn, given), draws = synthetic(images=40, per_image=12, seed=3), np.random.default_rng(3)
    labels = draws.integers(0, 2, (len(given), 2))
    labels[draws.random(len(given)) < 0.1] = -1
    things = np.where((labels[:, :1] == 1) & (draws.random((len(given), 1)) < 0.7), given.object_boxes, np.nan)
    truth = VcocoTruth(40, ACTIONS, ROLES, given.image, given.subject_boxes, labels, things[:, None])
    roles = replace(drawn, predicates=np.zeros(len(drawn), np.int64))
    predicted = VcocoDetections(roles, drawn.image, drawn.subject_boxes, draws.random((len(drawn), 2)))
    matches = match_vcoco(predicted, truth)
    for seed in range(3):
        chosen = np.sort(np.random.default_rng(seed).integers(0, 40, 40))
        starts, ends = (np.searchsorted(truth.image, chosen, side) for side in ("left", "right"))
        persons = np.concatenate([np.arange(*each) for each in zip(starts, ends, strict=True)])
        found = [np.flatnonzero(predicted.agent_image == image) for image in chosen]
        rows, copies = np.concatenate(found), np.repeat(np.arange(40), [len(each) for each in found])
        truth_again = replace(
            truth, image=np.repeat(np.arange(40), ends - starts), boxes=truth.boxes[persons],
            labels=truth.labels[persons], role_boxes=truth.role_boxes[persons],
        )  # fmt: skip
        again = VcocoDetections(
            resampled(predicted.roles, chosen), copies, predicted.agent_boxes[rows], predicted.agent_scores[rows]
        )
        expected, kept = match_vcoco(again, truth_again).scores(), matches.scores(chosen)
        assert kept.persons == expected.persons
        for name in ("agent", "scenario_1", "scenario_2"):
            assert getattr(kept, name) == pytest.approx(getattr(expected, name), abs=1e-12, nan_ok=True)


def test_roles_are_relations_of_persons_that_count():
    truth = truth_of((0, A, [1, 0], B), (0, C, [-1, -1], NONE), (1, A, [1, 0], NONE), images=2)
    found = detections(
        (0, A, [0.9, 0], B, 0.9), (0, C, [0.9, 0], D, 0.8), (0, A, [0.9, 0], B, np.nan), (1, A, [0.9, 0], NOTHING, 0.7),
        images=2,
    )  # fmt: skip
    predicted, true = as_relations(found, truth)
    assert predicted.scores.tolist() == [0.9, 0.7]
    assert predicted.image.tolist() == true.image.tolist() == [0, 1]
    assert [THINGS[label] for label in true.object_labels] == ["thing", "nothing"]
    assert dissect(predicted, true).right.all()
