"""What RLIP guarantees: shapes, order of labels, padding, gradients, repeatability."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.config import ConfigError, LossSettings
from models.losses import SetCriterion
from models.rlip import RLIP
from tests.models.made import make_target, moved

OBJECTS = ["person", "dog", "bicycle", "traffic light", "no objects"]
PREDICATES = ["riding", "holding", "next to"]
FIELDS = ("subject_logits", "object_logits", "predicate_logits", "subject_boxes", "object_boxes")


@pytest.fixture
def moved_network(small_config, tokenizer):
    return moved(RLIP(small_config, tokenizer).eval())


def predict(network, images, sizes=None, objects=OBJECTS, predicates=PREDICATES):
    return network.predict(images, sizes, network.encode_texts(objects), network.encode_texts(predicates))


@pytest.mark.parametrize("architecture", ["parseda", "parsed"])
@pytest.mark.parametrize("fusion", ["alif", "late", "none"])
@pytest.mark.parametrize("queries", ["vanilla_MBF", "vanilla", "MBF"])
def test_shapes(small_config, tokenizer, architecture, fusion, queries):
    config = replace(small_config, architecture=architecture, fusion=fusion, relation_queries=queries)
    predictions = predict(RLIP(config, tokenizer), torch.randn(2, 3, 64, 96))
    assert len(predictions.auxiliary) == config.decoder_layers - 1
    for layer in (predictions, *predictions.auxiliary):
        assert layer.subject_logits.shape == layer.object_logits.shape == (2, 5, 5)
        assert layer.predicate_logits.shape == (2, 5, 3)
        assert layer.subject_boxes.shape == layer.object_boxes.shape == (2, 5, 4)
        assert all(getattr(layer, name).isfinite().all() for name in FIELDS)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_byobnet", "test_efficientnet"])
@pytest.mark.parametrize("norm", ["group", "batch", "frozen"])
def test_backbones_and_norms(small_config, tokenizer, backbone, norm):
    config = replace(small_config, backbone=backbone, backbone_norm=norm, backbone_strides=(16, 32), levels=3)
    network = RLIP(config, tokenizer)
    predictions = predict(network, torch.randn(2, 3, 64, 96))
    assert predictions.object_logits.isfinite().all()
    kinds = {type(module).__name__ for module in network.backbone.modules()}
    assert any("BatchNorm" in kind for kind in kinds) == (norm != "group")


def test_padding_changes_nothing(moved_network):
    small, big = torch.randn(1, 3, 70, 96), torch.randn(1, 3, 128, 160)
    alone = predict(moved_network, small)
    images = torch.zeros(2, 3, 128, 160)
    images[0, :, :70, :96], images[1] = small[0], big[0]
    images[0, :, 70:] = 7.0  # the contents of the padding do not matter
    together = predict(moved_network, images, [(70, 96), (128, 160)])
    for name in FIELDS:
        torch.testing.assert_close(getattr(together, name)[:1], getattr(alone, name), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            getattr(together, name)[1:], getattr(predict(moved_network, big), name), atol=1e-5, rtol=0
        )


def test_order_of_labels_moves_their_columns_only(moved_network):
    images = torch.randn(1, 3, 64, 96)
    given = predict(moved_network, images)
    objects, predicates = [2, 0, 3, 1, 4], [1, 2, 0]
    moved = predict(moved_network, images, None, [OBJECTS[i] for i in objects], [PREDICATES[i] for i in predicates])
    torch.testing.assert_close(moved.object_logits, given.object_logits[..., objects], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.predicate_logits, given.predicate_logits[..., predicates], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.subject_boxes, given.subject_boxes, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["parseda", "parsed"])
@pytest.mark.parametrize("fusion", ["alif", "late", "none"])
def test_every_parameter_learns(small_config, tokenizer, architecture, fusion):
    # Box heads start at zero and pass no gradient to the layers below.
    network = moved(RLIP(replace(small_config, architecture=architecture, fusion=fusion), tokenizer).train(), by=0.02)
    predictions = predict(network, torch.randn(2, 3, 64, 96))
    SetCriterion()(predictions, [make_target(3), make_target(2)])["loss"].backward()
    learning = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    assert not [name for name, gradient in learning.items() if gradient is None or not gradient.isfinite().all()]
    dead = [name for name, gradient in learning.items() if not gradient.any() and "key.bias" not in name]
    # Embeddings of words that no label contains and of positions that no label reaches get no gradient.
    assert all("embeddings" in name for name in dead), dead


def test_a_step_repeated_gives_the_same_bits(small_config, tokenizer):
    def step() -> list[torch.Tensor]:
        torch.manual_seed(3)
        network = RLIP(replace(small_config, dropout=0.1), tokenizer).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        targets = [make_target(3), make_target(0), make_target(2)]
        for _ in range(2):
            optimizer.zero_grad()
            predictions = predict(network, torch.randn(3, 3, 64, 96), [(64, 96), (50, 96), (64, 96)])
            features = network.encode_texts(PREDICATES)
            SetCriterion(LossSettings(pseudo_predicates=True))(predictions, targets, features)["loss"].backward()
            optimizer.step()
        return [parameter.detach().clone() for parameter in network.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(step(), step(), strict=True))


def test_training_lowers_the_loss(small_config, tokenizer):
    network = RLIP(small_config, tokenizer).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    images, targets = torch.randn(2, 3, 64, 64), [make_target(2), make_target(1)]
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = SetCriterion()(predict(network, images), targets)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_tagger_configuration_is_refused(small_tagger_config, tokenizer):
    with pytest.raises(ConfigError, match="RelationTagger"):
        RLIP(small_tagger_config, tokenizer)


def test_recomputed_layers_give_the_same_gradients(small_config, tokenizer):
    text = replace(small_config.text, dropout=0.1)
    network = RLIP(replace(small_config, dropout=0.1, text=text), tokenizer).train()
    images, targets = torch.randn(2, 3, 64, 96), [make_target(2), make_target(3)]
    gradients = []
    for again in (False, True):
        if again:
            network.checkpoint_activations()
        torch.manual_seed(3)
        network.zero_grad()
        SetCriterion()(predict(network, images), targets)["loss"].backward()
        gradients.append({n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None})
    kept, recomputed = gradients
    assert kept.keys() == recomputed.keys()
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


# Capturing takes seconds. The architectures share all that padding reaches, so each is captured once.
@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [("parseda", [(64, 96), (50, 96), (64, 96)]), ("parsed", None)],
    ids=["parseda-padded", "parsed-whole"],
)
def test_a_compiler_captures_a_pass_whole(small_config, tokenizer, architecture, sizes):
    network = RLIP(replace(small_config, architecture=architecture), tokenizer)
    images, texts = torch.randn(3, 3, 64, 96), network.transformer.text_encoder.tokenizer(OBJECTS, PREDICATES)
    found = []
    for captured in (False, True):
        run = torch.compile(network, backend="eager", fullgraph=True) if captured else network
        network.zero_grad()
        predictions = run(images, sizes, texts)
        predictions.predicate_logits.sum().backward()
        found.append([predictions.object_logits, network.projection_text.weight.grad.clone()])
    for given, expected in zip(*found, strict=True):
        torch.testing.assert_close(given, expected)
