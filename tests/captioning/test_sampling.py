"""The rules that choose a token, one by one."""

from __future__ import annotations

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from pipeline.captioning.decoding import STEPS, choose, uniforms
from pipeline.captioning.settings import CaptionSettings

END = 0


def rules(**changed: float) -> CaptionSettings:
    plain = {"top_p": 1.0, "top_k": 0, "temperature": 1.0, "min_length": 0, "repetition_penalty": 1.0}
    return CaptionSettings.model_validate(plain | changed)


def chosen(logits: list[float], uniform: float, history: list[int] | None = None, **changed: float) -> int:
    drawn = torch.tensor([uniform], dtype=torch.float64)
    tokens, _ = choose(torch.tensor([logits]), torch.tensor([history or [1]]), drawn, rules(**changed), END)
    return int(tokens)


LOGITS = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().tolist()


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 3), (0.39, 3), (0.41, 2), (0.69, 2), (0.71, 1), (0.999, 0)])
def test_the_cumulative_distribution_is_inverted_likeliest_first(uniform, token):
    assert chosen(LOGITS, uniform) == token


@pytest.mark.parametrize(
    ("rule", "kept"),
    [({"top_k": 2}, {3, 2}), ({"top_p": 0.5}, {3, 2}), ({"top_p": 0.01}, {3}), ({"temperature": 0}, {3})],
)
def test_only_the_likeliest_tokens_are_drawn(rule, kept):
    assert {chosen(LOGITS, uniform, **rule) for uniform in (*(u / 100 for u in range(100)), 1 - 2**-53)} == kept


def test_the_end_waits_for_the_least_length():
    logits = [5.0, 0.0, 1.0]
    assert chosen(logits, 0.0, history=[1, 1], min_length=3) == 2
    assert chosen(logits, 0.0, history=[1, 1, 1], min_length=3) == 0


def test_repetition_is_penalised_as_in_transformers():
    logits = torch.tensor([[2.0, -1.0, 0.5, 1.9]])
    history = torch.tensor([[0, 1, 0]])
    expected = RepetitionPenaltyLogitsProcessor(1.5)(history, logits.clone())
    assert chosen(logits[0].tolist(), 0.0, history=[0, 1, 0], repetition_penalty=1.5) == int(expected.argmax()) == 3


def test_log_probability_ignores_the_rules():
    uniform = torch.tensor([0.0], dtype=torch.float64)
    _, gain = choose(torch.tensor([LOGITS]), torch.tensor([[3]]), uniform, rules(top_k=1, temperature=0.1), END)
    assert float(gain.exp()) == pytest.approx(0.4)


def test_uniforms_depend_on_seed_image_and_draw_only():
    first = uniforms(7, 12, 3)
    assert first.shape == (3, STEPS)
    assert (uniforms(7, 12, 9)[:3] == first).all()
    assert (uniforms(8, 12, 3) != first).any() and (uniforms(7, 13, 3) != first).any()
    assert first.min() >= 0 and first.max() < 1
    assert uniforms(7, -5, 2).shape == (2, STEPS)
