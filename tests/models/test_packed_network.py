"""A packed network and fused layers compute the same as the original, which stays unchanged."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from models import layers
from models.layers import feed_forward
from models.packed_network import PackedConv, PackedLinear, packed
from models.relation_tagger import PairQueries, RelationTagger
from tests.models.made import moved


def network(config, tokenizer, **changes) -> RelationTagger:
    torch.manual_seed(2)
    return moved(RelationTagger(replace(config, **changes), tokenizer).eval())


def scores(tagger: RelationTagger) -> torch.Tensor:
    draws = torch.Generator().manual_seed(4)
    boxes = torch.rand(2, 1, 5, 4, generator=draws) * 0.4 + 0.3
    labels = torch.arange(5)[None] % 3
    queries = PairQueries(boxes[0], boxes[1], labels, labels.flip(1), torch.ones(1, 5, dtype=torch.bool))
    pixels = torch.randn(1, 3, 96, 128, generator=draws)
    with torch.inference_mode():
        texts = torch.randn(7, tagger.config.text.hidden, generator=draws)
        return tagger.predict(pixels, None, texts[:4], texts[4:], queries).predicate_logits


@pytest.mark.parametrize(
    "backbone",
    [{"backbone": "resnet18", "backbone_norm": "frozen"}, {"backbone": "swin_tiny_patch4_window7_224"}, {}],
)
def test_scores_are_the_same_but_for_rounding(small_tagger_config, tokenizer, backbone):
    tagger = network(small_tagger_config, tokenizer, **backbone)
    fast = packed(tagger, torch.float32)
    torch.testing.assert_close(scores(fast), scores(tagger), atol=2e-4, rtol=1e-4)
    fast.transformer.encoder.rows_together = 50  # splits the rows, as for a larger image
    torch.testing.assert_close(scores(fast), scores(tagger), atol=2e-4, rtol=1e-4)


def test_in_half_precision_they_are_those_of_autocast(small_tagger_config, tokenizer):
    tagger = network(small_tagger_config, tokenizer, backbone="resnet18", backbone_norm="frozen")
    with torch.autocast("cpu", torch.bfloat16):
        plain, fast = scores(tagger), scores(packed(tagger, torch.bfloat16))
    torch.testing.assert_close(fast, plain, atol=0.1, rtol=0.05)


def test_the_given_network_stays_as_it_is_and_shares_what_is_not_laid_out_anew(small_tagger_config, tokenizer):
    tagger = network(small_tagger_config, tokenizer, backbone="resnet18", backbone_norm="frozen")
    names, before = list(tagger.state_dict()), scores(tagger)
    fast = packed(tagger, torch.float32)
    assert list(tagger.state_dict()) == names and torch.equal(scores(tagger), before)
    assert fast.bias_pred_a is tagger.bias_pred_a
    kinds = [type(module) for module in fast.modules()]
    if fast is not tagger:  # where the processor has packed kernels
        assert PackedConv in kinds and PackedLinear in kinds
        assert not any(isinstance(module, nn.Conv2d) for module in fast.backbone.modules())


def test_where_there_is_nothing_to_gain_it_is_the_network_itself(small_tagger_config, tokenizer):
    tagger = network(small_tagger_config, tokenizer)
    assert packed(tagger, torch.float64) is tagger
    assert packed(tagger.to("meta"), torch.float32) is tagger


def _results(dtype, dropout=0.0):
    """The output and all gradients, from one seed."""
    torch.manual_seed(0)
    inner, outer, drop = nn.Linear(8, 24), nn.Linear(24, 8), nn.Dropout(dropout)
    x = torch.randn(20, 8, requires_grad=True)
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        read = feed_forward(x, inner, nn.ReLU(inplace=True), drop, outer)
    gradients = torch.autograd.grad(read.float().square().sum(), [x, *inner.parameters(), *outer.parameters()])
    return read, *gradients


@pytest.mark.parametrize(("dtype", "dropout"), [(torch.float32, 0.4), (torch.bfloat16, 0.0)])
def test_fused_kernels_compute_the_same(monkeypatch, dtype, dropout):
    fused = _results(dtype, dropout)
    monkeypatch.setattr(layers, "can_pack", lambda device, dtype: False)
    near = 1e-5 if dtype == torch.float32 else 2e-2
    for one, other in zip(fused, _results(dtype, dropout), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=near, rtol=near)


def test_torch_compile_takes_it_whole():
    torch.manual_seed(0)
    inner, outer, x = nn.Linear(8, 24), nn.Linear(24, 8), torch.randn(20, 8, requires_grad=True)
    parts = inner, nn.ReLU(), nn.Dropout(0.0), outer
    compiled = torch.compile(lambda x: feed_forward(x, *parts), backend="aot_eager", fullgraph=True)
    for function in (compiled, lambda x: feed_forward(x, *parts)):
        function(x).square().sum().backward()
    once = torch.autograd.grad(feed_forward(x, *parts).square().sum(), x)[0]
    torch.testing.assert_close(x.grad, 2 * once)
