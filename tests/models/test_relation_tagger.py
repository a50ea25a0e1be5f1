"""Scores of given pairs. tagger/test_sequential.py compares them with those of each group of pairs alone."""

from dataclasses import replace

import pytest
import torch

from models.losses import TaggerCriterion
from models.predictions import Target
from models.relation_tagger import PairQueries, RelationTagger
from tests.models.made import make_queries, moved

OBJECTS, PREDICATES = ["person", "dog", "bicycle", "no objects"], ["riding", "holding"]


@pytest.fixture(params=["vanilla", "vanilla_MBF"])
def tagger(request, small_tagger_config, tokenizer):
    return moved(RelationTagger(replace(small_tagger_config, relation_queries=request.param), tokenizer).eval())


def texts(tagger):
    return tagger.encode_texts(OBJECTS), tagger.encode_texts(PREDICATES)


@pytest.fixture
def encode(tagger):
    def encode(images: torch.Tensor):
        with torch.no_grad():
            return tagger.encode(images, None, *texts(tagger))

    return encode


def test_any_number_of_pairs(tagger, encode):
    encoded = encode(torch.randn(2, 3, 64, 96))
    for pairs in (0, 1, 5, 6, 13):
        predictions = tagger.decode(encoded, make_queries(2, pairs))
        assert predictions.predicate_logits.shape == (2, pairs, 2)
        assert predictions.subject_boxes.shape == (2, pairs, 4)
        assert predictions.predicate_logits.isfinite().all()


def test_order_of_pairs_in_a_group_moves_their_scores_only(tagger, encode):
    encoded, queries, order = encode(torch.randn(1, 3, 64, 96)), make_queries(1, 5), [3, 1, 4, 0, 2]
    given = tagger.decode(encoded, queries).predicate_logits
    reordered = PairQueries(**{name: value[:, order] for name, value in vars(queries).items()})
    moved = tagger.decode(encoded, reordered).predicate_logits
    torch.testing.assert_close(moved, given[:, order], atol=1e-5, rtol=0)


def test_scores_depend_on_boxes_and_labels(tagger, encode):
    encoded, queries = encode(torch.randn(1, 3, 64, 96)), make_queries(1, 1)
    given = tagger.decode(encoded, queries).predicate_logits
    relabelled = replace(queries, object_labels=(queries.object_labels + 1) % 3)
    moved = replace(queries, object_boxes=queries.object_boxes + 0.1)
    swapped = replace(queries, subject_boxes=queries.object_boxes, object_boxes=queries.subject_boxes)
    for other in (relabelled, moved, swapped):
        assert (tagger.decode(encoded, other).predicate_logits - given).abs().max() > 1e-4


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)])
def test_training_step(tagger, counts):
    tagger.train()
    queries = make_queries(2, max(1, *counts))
    for row, count in enumerate(counts):
        queries.valid[row, count:] = False
    predictions = tagger.predict(torch.randn(2, 3, 64, 96), None, *texts(tagger), queries)
    targets = [
        Target(
            queries.subject_labels[row, :count], queries.object_labels[row, :count],
            queries.subject_boxes[row, :count], queries.object_boxes[row, :count], torch.ones(count, 2),
            torch.ones(count, dtype=torch.bool),
        )
        for row, count in enumerate(counts)
    ]  # fmt: skip
    losses = TaggerCriterion()(predictions, targets)
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tagger.parameters() if p.requires_grad)
