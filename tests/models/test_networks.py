"""What RLIP guarantees: shapes, order of labels, padding, gradients, repeatability; what it makes of unusual input."""

import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from models.config import ConfigError, LossSettings
from models.losses import SetCriterion, TaggerCriterion
from models.predictions import check_finite, hoi, scene_graph
from models.relation_tagger import RelationTagger
from models.rlip import RLIP
from pipeline.training.parallel import compile_layers
from tests.models.made import make_queries, make_target, moved

OBJECTS = ["person", "dog", "bicycle", "traffic light", "no objects"]
PREDICATES = ["riding", "holding", "next to"]
FIELDS = ("subject_logits", "object_logits", "predicate_logits", "subject_boxes", "object_boxes")


@pytest.fixture
def moved_network(small_config, tokenizer):
    return moved(RLIP(small_config, tokenizer).eval())


def predict(network, images, sizes=None, objects=OBJECTS, predicates=PREDICATES):
    return network.predict(images, sizes, network.encode_texts(objects), network.encode_texts(predicates))


@pytest.mark.parametrize(
    ("architecture", "fusion", "queries"),
    [
        ("parseda", "alif", "vanilla_MBF"), ("parseda", "late", "vanilla"), ("parseda", "none", "MBF"),
        ("parsed", "alif", "MBF"), ("parsed", "late", "vanilla_MBF"), ("parsed", "none", "vanilla"),
    ],
)  # fmt: skip
def test_shapes(small_config, tokenizer, architecture, fusion, queries):
    config = replace(small_config, architecture=architecture, fusion=fusion, relation_queries=queries)
    predictions = predict(RLIP(config, tokenizer), torch.randn(2, 3, 64, 96))
    assert len(predictions.auxiliary) == config.decoder_layers - 1
    for layer in (predictions, *predictions.auxiliary):
        assert layer.subject_logits.shape == layer.object_logits.shape == (2, 5, 5)
        assert layer.predicate_logits.shape == (2, 5, 3)
        assert layer.subject_boxes.shape == layer.object_boxes.shape == (2, 5, 4)
        assert all(getattr(layer, name).isfinite().all() for name in FIELDS)


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


def test_what_a_gpu_adds_up_in_no_fixed_order_are_whole_numbers(moved_network):
    class Sums(TorchDispatchMode):
        found: ClassVar[list[torch.dtype]] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **kwargs or {})
            if func._overloadpacket is torch.ops.aten.cumsum:
                self.found.append(result.dtype)
            return result

    with Sums():
        predict(moved_network, torch.randn(2, 3, 64, 96), [(64, 96), (32, 64)])
    assert Sums.found and not any(dtype.is_floating_point for dtype in Sums.found)


def test_order_of_labels_moves_their_columns_only(moved_network):
    images = torch.randn(1, 3, 64, 96)
    given = predict(moved_network, images)
    objects, predicates = [2, 0, 3, 1, 4], [1, 2, 0]
    moved = predict(moved_network, images, None, [OBJECTS[i] for i in objects], [PREDICATES[i] for i in predicates])
    torch.testing.assert_close(moved.object_logits, given.object_logits[..., objects], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.predicate_logits, given.predicate_logits[..., predicates], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.subject_boxes, given.subject_boxes, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["parseda", "parsed", "tagger"])
def test_boxes_are_32_bit_under_autocast(small_config, small_tagger_config, tokenizer, kind):
    if kind == "tagger":
        network = RelationTagger(replace(small_tagger_config, official_compat=True), tokenizer)
    else:
        network = RLIP(replace(small_config, architecture=kind), tokenizer)
    queries = [make_queries(1, 2)] if kind == "tagger" else []
    texts = network.encode_texts(OBJECTS), network.encode_texts(PREDICATES)
    with torch.autocast("cpu", torch.bfloat16):
        predictions = network.predict(torch.randn(1, 3, 64, 96), None, *texts, *queries)
    layers = (predictions, *predictions.auxiliary)
    assert predictions.object_logits.dtype == torch.bfloat16
    assert {boxes.dtype for each in layers for boxes in (each.subject_boxes, each.object_boxes)} == {torch.float32}


@pytest.mark.parametrize(
    ("architecture", "fusion"), [("parseda", "alif"), ("parsed", "alif"), ("parseda", "late"), ("parsed", "none")]
)
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


# Compiling takes seconds. ParSeD is made of the same layers.
def test_few_graphs_serve_images_of_all_sizes_and_compute_the_same(small_config, tokenizer):
    network = RLIP(replace(small_config, dropout=0.1), tokenizer)
    texts = network.transformer.text_encoder.tokenizer(OBJECTS, PREDICATES)
    first_weight = next(parameter for parameter in network.backbone.parameters() if parameter.requires_grad)
    batches = [(torch.randn(3, 3, 64, width), [(64, width), (50, width), (64, width)]) for width in (96, 80, 72)]

    def computed(images, sizes):
        """Logits in training, and a gradient that has passed every layer."""
        torch.manual_seed(0)
        logits = network(images, sizes, texts).object_logits
        return logits, *torch.autograd.grad(logits.square().mean(), first_weight)

    expected, graphs = [computed(*batch) for batch in batches], []
    torch.compiler.reset()
    compile_layers(network, "eager")
    before = counters["stats"]["unique_graphs"]
    for batch, results in zip(batches, expected, strict=True):
        torch.testing.assert_close(computed(*batch), results)
        graphs.append(counters["stats"]["unique_graphs"] - before)
    assert graphs[0] > 5 and graphs[-1] <= graphs[0] + 1, graphs


@pytest.fixture
def network(small_config, tokenizer):
    return RLIP(small_config, tokenizer)


@pytest.mark.parametrize(("backbone", "norm", "strides"), [
    ("test_resnet", "batch", (16, 32)), ("test_byobnet", "group", (8, 16, 32)),
    ("test_efficientnet", "frozen", (16, 32)),
])  # fmt: skip
def test_images_of_any_size_and_aspect_with_any_backbone_and_norm(small_config, tokenizer, backbone, norm, strides):
    config = replace(small_config, backbone=backbone, backbone_norm=norm, backbone_strides=strides)
    network = RLIP(config, tokenizer)
    kinds = {type(module).__name__ for module in network.backbone.modules()}
    assert any("BatchNorm" in kind for kind in kinds) == (norm != "group")
    for size in ((1, 1), (1, 333), (65, 7)):
        predictions = predict(network, torch.randn(2, 3, *size))
        SetCriterion()(predictions, [make_target(1)] * 2)["loss"].backward()
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
    targets = [replace(make_target(2), predicates=torch.zeros(2, 0))]
    losses = SetCriterion(LossSettings(pseudo_predicates=True))(predictions, targets, network.encode_texts([]))
    losses["loss"].backward()
    assert losses["loss"].isfinite() and losses["loss_predicates"] == 0
    assert hoi(predictions, [(64, 64)])[0].predicate_scores.shape == (5, 0)


def test_no_objects(network):
    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match="object texts is empty"):
        predict(network, images, objects=[])
    predictions = predict(network, images, objects=["no objects"])
    assert SetCriterion()(predictions, [make_target(0)])["loss"].isfinite()
    with pytest.raises(ValueError, match="only object text"):
        scene_graph(predictions, [(64, 64)])


def test_two_thousand_labels(network):
    objects = [*(f"object {number}" for number in range(1999)), "no objects"]
    predicates = [f"predicate {number}" for number in range(2000)]
    predictions = predict(network, torch.randn(1, 3, 64, 64), objects=objects, predicates=predicates)
    features, targets = network.encode_texts(predicates), [replace(make_target(2), predicates=torch.ones(2, 2000))]
    losses = SetCriterion(LossSettings(pseudo_predicates=True))(predictions, targets, features)
    losses["loss"].backward()
    assert losses["loss"].isfinite()


@pytest.mark.parametrize(
    "boxes",
    [[[0.5, 0.5, 0, 0], [0.0, 0, 0, 0]], [[-3.0, 5, 0.2, 0.2], [0.5, 0.5, -0.2, -0.2]]],
    ids=["no area", "outside and inverted"],
)
def test_boxes_of_no_size_or_outside(small_config, small_tagger_config, tokenizer, boxes):
    boxes = torch.tensor(boxes)
    images = torch.randn(1, 3, 64, 64)
    network = RLIP(small_config, tokenizer)
    targets = [replace(make_target(2), subject_boxes=boxes, object_boxes=boxes.flip(0))]
    losses = [SetCriterion()(predict(network, images), targets)["loss"]]
    for official in (False, True):
        tagger = RelationTagger(replace(small_tagger_config, official_compat=official), tokenizer)
        queries = replace(make_queries(1, 2), subject_boxes=boxes[None], object_boxes=boxes.flip(0)[None])
        texts = tagger.encode_texts(OBJECTS), tagger.encode_texts(PREDICATES)
        losses.append(TaggerCriterion()(tagger.predict(images, None, *texts, queries), targets)["loss"])
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
    texts = tagger.encode_texts(OBJECTS), tagger.encode_texts(PREDICATES)
    predictions = tagger.predict(torch.randn(1, 3, 64, 64), None, *texts, make_queries(1, 1))
    with pytest.raises(FloatingPointError, match=r"predicate_logits.*bias_pred_a"):
        check_finite(predictions.tensors(), tagger)


def test_bad_pixels_are_suspected_when_all_weights_are_sound(network):
    images = torch.randn(1, 3, 64, 64)
    images[0, 0, 5, 5] = math.nan
    predictions = predict(network, images)
    with pytest.raises(FloatingPointError, match="bad values in the images"):
        check_finite(predictions.tensors(), network)
