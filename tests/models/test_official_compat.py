"""Each difference that `official_compat` makes: on, networks compute as the authors' do; off, as we think right."""

import math
from dataclasses import replace

import pytest
import torch

from models.boxes import cxcywh_to_xyxy, giou
from models.config import LossSettings
from models.decoder import Decoder, PairBoxes
from models.encoder import Encoded
from models.layers import encode_map
from models.losses import MatchWeights, SetCriterion, matching_costs
from models.predictions import Target
from models.relation_tagger import PairQueries, RelationTagger
from models.rlip import RLIP
from tests.models.made import make_predictions, make_queries, make_target, moved

BOTH = pytest.mark.parametrize("official", [False, True])
OBJECTS, PREDICATES = ["person", "dog", "bicycle", "no objects"], ["riding", "holding"]


def texts(network):
    return network.encode_texts(OBJECTS), network.encode_texts(PREDICATES)


def target(pairs: int) -> Target:
    return replace(make_target(pairs), predicates=(torch.arange(3) == 0).float().repeat(pairs, 1))


@BOTH
def test_padding_is_read_in_the_fusion(small_config, tokenizer, official):
    network = moved(RLIP(replace(small_config, official_compat=official), tokenizer)).eval()
    shapes, tokens = [(4, 4), (2, 2), (1, 2), (1, 2)], 24
    image = torch.randn(1, tokens, 32)
    padding = torch.zeros(1, tokens, dtype=torch.bool)
    padding[0, -1] = True
    changed = torch.where(padding[..., None], image + torch.randn(32), image)

    def fused(tokens_BSD):
        places, ratios, words = torch.zeros_like(tokens_BSD), torch.ones(1, 4, 2), torch.cat(texts(network))[None]
        inputs = (tokens_BSD, places, shapes, ratios, padding, words, None)
        return network.transformer.encoder(*inputs, mask_fusion=not official)[1][0]

    assert ((fused(changed) - fused(image)).abs().max() > 1e-4) == official


@BOTH
def test_padding_is_read_by_convolutions(small_config, tokenizer, official):
    network = moved(RLIP(replace(small_config, official_compat=official), tokenizer)).eval()
    images = torch.zeros(1, 3, 128, 160)
    images[:, :, :64, :96] = torch.randn(1, 3, 64, 96)
    alone = network.predict(images[:, :, :64, :96], None, *texts(network))
    padded = network.predict(images, [(64, 96)], *texts(network))
    assert ((alone.object_logits - padded.object_logits).abs().max() > 1e-4) == official


@BOTH
def test_cells_of_maps_are_counted_from_their_centres_after_swin(small_config, tokenizer, official):
    config = replace(small_config, official_compat=official)
    with torch.device("meta"):
        firsts = {
            name: RLIP(replace(config, backbone=name), None).first_cell
            for name in ("swin_tiny_patch4_window7_224", "resnet18")
        }
    assert firsts == {"swin_tiny_patch4_window7_224": 0.5 if official else 1.0, "resnet18": 1.0}
    whole, centres = (encode_map(torch.ones(1, 4, 4, dtype=torch.bool), 4, first)[0, 0] for first in (1.0, 0.5))
    for encoding, place in ((whole, 1 / 4), (centres, 0.5 / 4)):
        assert encoding[0] == pytest.approx(math.sin(2 * math.pi * place), abs=1e-5)


@BOTH
def test_anchors_are_scaled_by_padding(small_config, official):
    decoder = moved(Decoder(replace(small_config, official_compat=official), anchored=True)).eval()
    assert decoder.scale_by_padding == official
    content, boxes = torch.randn(1, 4, 32), PairBoxes(torch.rand(1, 2, 4), torch.rand(1, 2, 4))
    positions = []
    decoder.ref_point_head.register_forward_hook(lambda _module, _inputs, position: positions.append(position))
    for share in (1.0, 0.5):
        encoded = Encoded(torch.randn(1, 4, 32), None, [(1, 1)] * 4, torch.full((1, 4, 2), share), [], None, 0)
        decoder(content, None, boxes, 1, None, encoded, None)
    whole, half = positions[0], positions[small_config.decoder_layers]
    assert ((whole - half).abs().max() > 1e-4) == official


@BOTH
@pytest.mark.parametrize("fusion", ["alif", "late"])
def test_texts_are_hidden_in_training_by_the_sign_of_their_features(small_config, tokenizer, official, fusion):
    network = moved(RLIP(replace(small_config, fusion=fusion, official_compat=official), tokenizer))
    images = torch.randn(1, 3, 64, 96)
    features = torch.randn(6, 32)
    features = features - features.mean(1, keepdim=True) + torch.tensor([1.0, -1, 1, 1, 1, 1])[:, None]
    training, evaluating = (
        network.train(mode).predict(images, None, features[:4], features[4:]).object_logits for mode in (True, False)
    )
    assert ((training - evaluating).abs().max() > 1e-4) == official


@BOTH
def test_boxes_are_refined_in_the_relation_decoder_by_heads_that_no_loss_reaches(small_config, tokenizer, official):
    network = moved(RLIP(replace(small_config, official_compat=official), tokenizer))
    assert len(network.sub_bbox_embed) == small_config.decoder_layers * (2 if official else 1)
    images = torch.randn(1, 3, 64, 96)
    found = network.predict(images, None, *texts(network))
    total = sum(
        value.sum() for layer in (found, *found.auxiliary) for value in vars(layer).values() if torch.is_tensor(value)
    )
    total.backward()
    unreached = [name for name, p in network.named_parameters() if "bbox_embed" in name and p.grad is None]
    assert bool(unreached) == official
    assert all(int(name.split(".")[1]) >= small_config.decoder_layers for name in unreached)


@BOTH
def test_pseudo_labels_pull_at_the_texts(official):
    features = torch.tensor([[0.0, 0.0], [0.1, 0.2], [1.0, 2.0]], requires_grad=True)
    criterion = SetCriterion(LossSettings(pseudo_predicates=True), official_compat=official)
    criterion(make_predictions(layers=1), [target(2), target(1)], features)["loss"].backward()
    assert (features.grad is not None and bool(features.grad.any())) == official


@BOTH
def test_a_missing_object_costs_twice_in_matching(official):
    found, relation = make_predictions(layers=1), target(1)
    relation.object_boxes.zero_()
    overlaps_only = MatchWeights(object_class=0, subject_class=0, predicates=0, box=0)
    cost = matching_costs(found.stacked(), [relation, relation], overlaps_only, official)[0, 0, :, 0]
    subjects = giou(cxcywh_to_xyxy(found.subject_boxes[0]), cxcywh_to_xyxy(relation.subject_boxes))
    assert torch.allclose(cost, -subjects, atol=1e-5) != official


@BOTH
def test_slots_of_the_tagger_have_embeddings_of_their_own(small_tagger_config, tokenizer, official):
    tagger = moved(RelationTagger(replace(small_tagger_config, official_compat=official), tokenizer)).eval()
    images, order = torch.randn(1, 3, 64, 96), [3, 1, 4, 0, 2]
    encoded = tagger.encode(images, None, *texts(tagger))
    queries = make_queries(1, 5)
    reordered = PairQueries(**{name: value[:, order] for name, value in vars(queries).items()})
    given, moved_scores = (tagger.decode(encoded, x).predicate_logits for x in (queries, reordered))
    assert ((moved_scores - given[:, order]).abs().max() > 1e-4) == official


@BOTH
def test_boxes_of_the_tagger_start_elsewhere(small_tagger_config, tokenizer, official):
    tagger = RelationTagger(replace(small_tagger_config, official_compat=official), tokenizer).eval()
    queries = make_queries(1, 4)
    found = tagger.predict(torch.randn(1, 3, 64, 96), None, *texts(tagger), queries).subject_boxes
    assert ((found - queries.subject_boxes).abs().max() > 0.01) == official


@BOTH
def test_an_image_without_pairs_is_no_number_for_the_authors_and_never_for_us(small_tagger_config, tokenizer, official):
    tagger = moved(RelationTagger(replace(small_tagger_config, official_compat=official), tokenizer)).eval()
    queries = replace(make_queries(2, 3), valid=torch.tensor([[True, True, False], [False, False, False]]))
    found = tagger.predict(torch.randn(2, 3, 64, 96), None, *texts(tagger), queries)
    assert found.predicate_logits.isfinite().all() and found.subject_boxes.isfinite().all()
