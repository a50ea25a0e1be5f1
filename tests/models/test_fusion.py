"""Late fusion: texts and decoded queries meet at the end, and the image tokens never see a text."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from models.fusion import LateFusion
from models.relation_tagger import RelationTagger
from models.rlip import RLIP
from tests.models.made import moved

OBJECTS, OTHER_OBJECTS = ["person", "dog", "no objects"], ["bicycle", "dog", "no objects"]
PREDICATES = ["riding", "holding"]


@pytest.fixture(params=["parseda", "parsed"])
def network(request, small_config, tokenizer):
    return moved(RLIP(replace(small_config, architecture=request.param, fusion="late"), tokenizer).eval())


def encode(network, images, objects):
    return network.encode(images, None, network.encode_texts(objects), network.encode_texts(PREDICATES))


def test_image_tokens_know_no_text_but_predictions_do(network):
    images = torch.randn(1, 3, 64, 96)
    first, second = (encode(network, images, objects) for objects in (OBJECTS, OTHER_OBJECTS))
    assert torch.equal(first.memory, second.memory)
    found, others = network.decode(first), network.decode(second)
    # "dog" is in both lists, but beside other labels.
    assert (found.object_logits[..., 1] - others.object_logits[..., 1]).abs().max() > 1e-4
    # Object and predicate texts are fused only with their own queries, and boxes come from the decoders.
    torch.testing.assert_close(found.predicate_logits, others.predicate_logits)
    torch.testing.assert_close(found.subject_boxes, others.subject_boxes)


def test_early_fusion_differs_in_just_that(small_config, tokenizer):
    images = torch.randn(1, 3, 64, 96)
    network = RLIP(small_config, tokenizer).eval()
    first, second = (encode(network, images, objects) for objects in (OBJECTS, OTHER_OBJECTS))
    assert (first.memory - second.memory).abs().max() > 1e-4


def test_gradients_reach_image_and_texts_through_the_fusion(network):
    network.train()
    images = torch.randn(1, 3, 64, 96, requires_grad=True)
    objects, predicates = network.encode_texts(OBJECTS), network.encode_texts(PREDICATES)
    objects.retain_grad(), predicates.retain_grad()
    fusion = network.transformer.obj_fusion
    network.predict(images, None, objects, predicates).object_logits[..., 0].sum().backward()
    assert images.grad.abs().max() > 0
    assert (objects.grad.abs().amax(1) > 0).all()  # also for the texts whose logits are not in the sum
    assert predicates.grad is None or not predicates.grad.any()
    assert all(parameter.grad.abs().max() > 0 for parameter in fusion.layers[0].linear1.parameters())


def test_each_layer_is_a_pre_norm_transformer_layer(small_config):
    fusion = LateFusion(small_config).eval()
    queries, texts = torch.randn(2, 4, 32), torch.randn(2, 3, 32)
    key_padding_mask = torch.tensor([[False, True, False], [False, False, False]])
    expected = torch.cat((queries, texts), dim=1)
    ignored = torch.cat((torch.zeros(2, 4, dtype=torch.bool), key_padding_mask), dim=1)
    for layer, (found, words) in zip(fusion.layers, fusion(queries, texts, key_padding_mask), strict=True):
        plain = nn.TransformerEncoderLayer(
            32, small_config.heads, small_config.feedforward, 0.0, batch_first=True, norm_first=True
        )
        plain.load_state_dict(layer.state_dict())
        expected = plain(expected, src_key_padding_mask=ignored)
        torch.testing.assert_close(torch.cat((found, words), dim=1), fusion.norm(expected))


def test_the_tagger_has_no_late_fusion(small_tagger_config, tokenizer):
    with pytest.raises(ValueError, match="fusion='late': must be"):
        RelationTagger(replace(small_tagger_config, fusion="late"), tokenizer)
