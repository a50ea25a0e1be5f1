"""A network finds relations in a stream of images: the same ones however many share a pass, and few held at a time."""

import numpy as np
import pytest
import torch
from PIL import Image

from models.rlip import RLIP
from pipeline.evaluation.detection import Detections
from pipeline.evaluation.predictor import WINDOW, Found, Names, Predictor
from storage.errors import FatalError
from storage.tables import DETECTIONS

NAMES = Names(("person", "dog", "bicycle"), ("riding", "holding"))


def pictures(count):
    generator = np.random.default_rng(3)
    for number in range(count):
        size = (60, 96, 3) if number % 3 else (96, 80, 3)
        yield Image.fromarray(generator.integers(0, 255, size, np.uint8))


@pytest.fixture
def network(small_config, tokenizer):
    torch.manual_seed(0)
    return RLIP(small_config, tokenizer)


def found(network, batch, **options):
    return list(Predictor(network, NAMES, 96, **options).predict(pictures(9), batch))


def test_a_batch_changes_no_relation(network):
    alone, together = found(network, 1), found(network, 4)
    assert len(alone) == len(together) == 9
    for one, other in zip(alone, together, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        assert one.boxes.boxes == pytest.approx(other.boxes.boxes, abs=1e-2)
        assert sorted(zip(one.subjects, one.predicates, strict=True)) == sorted(
            zip(other.subjects, other.predicates, strict=True)
        )


def test_a_subject_that_no_name_has_is_refused(network):
    with pytest.raises(FatalError, match="subject 'human' is not among the object names: person, dog, bicycle"):
        Predictor(network, NAMES, 96, subject="human")
    many = Names((*map(str, range(1200)), "person"), ())
    with pytest.raises(FatalError, match=r"\(did you mean 'person'\?\): 0, 1, .*, 9, and 1,191 more$"):
        many.place_of("persons")


@pytest.mark.parametrize("size", [-5, 31, 8193])
def test_an_image_size_out_of_range_is_refused(network, size):
    with pytest.raises(FatalError, match=f"image size {size:,}: give a longest side of 32 to 8,192 pixels"):
        Predictor(network, NAMES, size)


def test_images_are_read_as_they_are_needed(network):
    read = 0

    def stream():
        nonlocal read
        for image in pictures(40):
            read += 1
            yield image

    held = []
    for number, _ in enumerate(Predictor(network, NAMES, 96).predict(stream(), 2)):
        held.append(read - number)
    assert len(held) == 40
    assert max(held) <= WINDOW * 2


def test_the_best_relations_come_first_and_a_subject_leaves_pairs_out(network):
    few = found(network, 2, per_image=3)
    assert all(len(each.scores) == 3 and (np.diff(each.scores) <= 0).all() for each in few)
    subject = int(few[0].boxes.labels[few[0].subjects[0]])
    for each in found(network, 2, subject=NAMES.objects[subject]):
        assert (each.boxes.labels[each.subjects] == subject).all()


def test_an_assumed_subject_names_every_subject_and_leaves_no_pair_out(network):
    (whole, *_), (assumed, *_) = (
        found(network, 2, per_image=None),
        found(network, 2, per_image=None, subject="bicycle", assume_subject=True),
    )
    assert set(zip(assumed.subjects, assumed.objects, strict=True)) == set(
        zip(whole.subjects, whole.objects, strict=True)
    )
    assert (assumed.boxes.labels[assumed.subjects] == NAMES.objects.index("bicycle")).all()
    with pytest.raises(FatalError, match="assume_subject needs a subject"):
        found(network, 2, assume_subject=True)


def test_every_pair_keeps_its_best_predicate_for_recall_of_scene_graphs(network):
    whole, two = found(network, 2, per_image=None), found(network, 2, per_image=2)
    for every, best, kept in zip(whole, two, found(network, 2, per_image=2, every_pair=True), strict=True):
        first: dict[tuple[int, int], int] = {}
        for subject, object_, predicate in zip(every.subjects, every.objects, every.predicates, strict=True):
            first.setdefault((subject, object_), predicate)
        assert {(*pair, predicate) for pair, predicate in first.items()} <= {
            *zip(kept.subjects, kept.objects, kept.predicates, strict=True)
        }
        assert kept.scores[:2].tolist() == best.scores.tolist() and (np.diff(kept.scores) <= 0).all()
        assert len(first) <= len(kept.scores) <= len(first) + 1 < len(every.scores)
    no_relation = Predictor(network, Names(("person",), ()), 96, every_pair=True)
    assert [len(each.scores) for each in no_relation.predict(pictures(1), 1)] == [0]


def test_a_thing_has_one_box_and_no_relation_with_itself():
    dog, near, man = [0.0, 0, 50, 50], [2.0, 0, 52, 50], [100.0, 0, 150, 90]
    boxes = Detections(
        np.array([dog, man, near, near, dog]), np.array([1, 0, 1, 1, 2]), np.array([0.5, 0.9, 0.8, 0.7, 0.6])
    )
    subjects, objects, predicates = np.array([[0, 2, 0], [1, 3, 1], [2, 1, 0], [1, 0, 0], [0, 4, 0]]).T
    once = Found(boxes, subjects, objects, predicates, np.array([0.9, 0.8, 0.7, 0.6, 0.5])).unique(100)
    # The three dogs are the best of them. A bicycle in the same place stays.
    assert once.boxes.boxes.tolist() == [man, near, dog] and once.boxes.labels.tolist() == [0, 1, 2]
    assert list(zip(once.subjects.tolist(), once.objects.tolist(), strict=True)) == [(0, 1), (1, 0), (0, 1), (1, 2)]
    assert once.predicates.tolist() == [1, 0, 0, 0] and once.scores.tolist() == [0.8, 0.7, 0.6, 0.5]


def test_a_row_is_one_of_the_table(network):
    (first, *_) = found(network, 2)
    row = first.row(NAMES)
    assert set(row) <= set(DETECTIONS.names)
    pair = row["pairs"][0]
    corner = first.relations().object_boxes[0]
    box = row["boxes"][pair["object"]]
    assert (box["x"] + box["w"], box["y"] + box["h"]) == pytest.approx((corner[2], corner[3]))
    assert pair["predicate"] in NAMES.predicates
