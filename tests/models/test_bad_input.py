"""Unusual input gives finite numbers; nonsensical input raises an error that names it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from models.config import LossSettings
from models.losses import SetCriterion, TaggerCriterion, pseudo_labels
from models.predictions import Target, check_finite, hoi, scene_graph
from models.relation_tagger import PairQueries, RelationTagger
from models.rlip import RLIP

OBJECTS, PREDICATES = ["person", "dog", "no objects"], ["riding", "holding"]
BACKBONES = ["test_resnet", "test_byobnet", "test_efficientnet"]


def predict(network, images, objects=OBJECTS, predicates=PREDICATES):
    return network.predict(images, None, network.encode_texts(objects), network.encode_texts(predicates))


def target(boxes: torch.Tensor, predicates: int = 2) -> Target:
    count = len(boxes)
    return Target(
        torch.zeros(count, dtype=torch.int64),
        torch.ones(count, dtype=torch.int64),
        boxes,
        boxes.flip(0),
        torch.ones(count, predicates),
        torch.ones(count, dtype=torch.bool),
    )


@pytest.fixture
def network(small_config, tokenizer):
    return RLIP(small_config, tokenizer)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("size", [(1, 1), (1, 333), (333, 1), (31, 33), (65, 7)])
def test_images_of_any_size_and_aspect(small_config, tokenizer, backbone, size):
    config = replace(small_config, backbone=backbone, backbone_strides=(8, 16, 32))
    predictions = predict(RLIP(config, tokenizer), torch.randn(2, 3, *size))
    SetCriterion()(predictions, [target(torch.full((1, 4), 0.5))] * 2)["loss"].backward()
    assert predictions.object_logits.isfinite().all()


@pytest.mark.parametrize("official", [False, True])
def test_a_pixel_beside_a_large_image(small_config, tokenizer, official):
    network = RLIP(replace(small_config, official_compat=official), tokenizer)
    texts = network.encode_texts(OBJECTS), network.encode_texts(PREDICATES)
    predictions = network.predict(torch.randn(2, 3, 130, 70), [(1, 1), (130, 70)], *texts)
    assert predictions.object_logits.isfinite().all() and predictions.subject_boxes.isfinite().all()


def test_no_predicates(network):
    predictions = predict(network, torch.randn(1, 3, 64, 64), predicates=[])
    assert predictions.predicate_logits.shape == (1, 5, 0)
    losses = SetCriterion(LossSettings(pseudo_predicates=True))(
        predictions, [target(torch.full((2, 4), 0.5), 0)], network.encode_texts([])
    )
    losses["loss"].backward()
    assert losses["loss"].isfinite() and losses["loss_predicates"] == 0
    assert hoi(predictions, [(64, 64)])[0].predicate_scores.shape == (5, 0)


def test_no_objects(network):
    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match="object texts is empty"):
        predict(network, images, objects=[])
    predictions = predict(network, images, objects=["no objects"])
    assert SetCriterion()(predictions, [target(torch.zeros(0, 4))])["loss"].isfinite()
    with pytest.raises(ValueError, match="only object text"):
        scene_graph(predictions, [(64, 64)])


def test_two_thousand_labels(network):
    objects = [*(f"object {number}" for number in range(1999)), "no objects"]
    predicates = [f"predicate {number}" for number in range(2000)]
    predictions = predict(network, torch.randn(1, 3, 64, 64), objects, predicates)
    features = network.encode_texts(predicates)
    losses = SetCriterion(LossSettings(pseudo_predicates=True))(
        predictions, [target(torch.full((2, 4), 0.5), 2000)], features
    )
    losses["loss"].backward()
    assert losses["loss"].isfinite()


@pytest.mark.parametrize(
    "boxes",
    [
        [[0.0, 0, 0, 0], [0.0, 0, 0, 0]],
        [[0.5, 0.5, 0, 0], [1.0, 1, 0, 0]],
        [[-3.0, 5, 0.2, 0.2], [0.5, 0.5, 40, 40]],
        [[0.5, 0.5, -0.2, -0.2], [0.0, 0, 1, 1]],
    ],
    ids=["zero", "no area", "outside", "inverted"],
)
def test_boxes_of_no_size_or_outside(small_config, small_tagger_config, tokenizer, boxes):
    boxes = torch.tensor(boxes)
    images = torch.randn(1, 3, 64, 64)
    network = RLIP(small_config, tokenizer)
    losses = [SetCriterion()(predict(network, images), [target(boxes)])["loss"]]
    for official in (False, True):
        tagger = RelationTagger(replace(small_tagger_config, official_compat=official), tokenizer)
        zeros = torch.zeros(1, 2, dtype=torch.int64)
        queries = PairQueries(boxes[None], boxes.flip(0)[None], zeros, zeros, zeros == 0)
        texts = tagger.encode_texts(OBJECTS), tagger.encode_texts(PREDICATES)
        losses.append(TaggerCriterion()(tagger.predict(images, None, *texts, queries), [target(boxes)])["loss"])
    for loss in losses:
        loss.backward()
        assert loss.isfinite()
    for module in (network, tagger):
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_a_damaged_weight_is_named(network, small_tagger_config, tokenizer):
    network.transformer.encoder.layers[1].linear2.weight.data[0, 0] = math.nan
    predictions = predict(network, torch.randn(1, 3, 64, 64))
    with pytest.raises(FloatingPointError, match=r"encoder\.layers\.1\.linear2\.weight"):
        check_finite(predictions.tensors(), network)
    tagger = RelationTagger(small_tagger_config, tokenizer)
    tagger.bias_pred_a.data.fill_(math.inf)
    zeros = torch.zeros(1, 1, dtype=torch.int64)
    boxes = torch.full((1, 1, 4), 0.5)
    texts = tagger.encode_texts(OBJECTS), tagger.encode_texts(PREDICATES)
    queries = PairQueries(boxes, boxes, zeros, zeros, zeros == 0)
    predictions = tagger.predict(torch.randn(1, 3, 64, 64), None, *texts, queries)
    with pytest.raises(FloatingPointError, match=r"predicate_logits.*bias_pred_a"):
        check_finite(predictions.tensors(), tagger)


def test_bad_pixels_are_suspected_when_all_weights_are_sound(network):
    images = torch.randn(1, 3, 64, 64)
    images[0, 0, 5, 5] = math.nan
    predictions = predict(network, images)
    with pytest.raises(FloatingPointError, match="bad values in the images"):
        check_finite(predictions.tensors(), network)


def test_pseudo_labels_of_nothing():
    assert pseudo_labels(torch.zeros(0, 8), torch.zeros(3, 0)).shape == (3, 0)
    assert pseudo_labels(torch.randn(4, 8), torch.zeros(0, 4)).shape == (0, 4)
