"""The tokens kept, at the ends of their distribution; test_blip.py compares whole captions with transformers."""

import pytest
import torch

from pipeline.captioning.decoding import choose
from pipeline.captioning.settings import CaptionSettings

LOGITS_1V = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()


@pytest.mark.parametrize(
    ("rule", "kept"),
    [({"top_k": 2}, {3, 2}), ({"top_p": 0.5}, {3, 2}), ({"top_p": 0.01}, {3}), ({"temperature": 0}, {3})],
)
def test_only_the_likeliest_tokens_are_drawn(rule, kept):
    plain = {"top_p": 1.0, "top_k": 0, "temperature": 1.0, "min_length": 0, "repetition_penalty": 1.0}
    settings = CaptionSettings.model_validate(plain | rule)
    uniform_N = torch.tensor([*(u / 100 for u in range(100)), 1 - 2**-53], dtype=torch.float64)
    rows = len(uniform_N)
    tokens_N, _ = choose(LOGITS_1V.repeat(rows, 1), torch.ones(rows, 1, dtype=torch.int64), uniform_N, settings, end=0)
    assert set(tokens_N.tolist()) == kept
