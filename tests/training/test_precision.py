"""How a training process rounds the factors of products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipeline.training.worker import set_precision


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = cudnn


@pytest.mark.parametrize(
    ("precision", "tf32", "near"),
    [("float32", False, 1e-5), ("tf32", True, 1e-5), ("medium", True, 2e-2), ("bfloat16", True, 1e-5)],
)
def test_products_on_a_cpu_and_on_a_gpu(precision: Any, tf32: bool, near: float) -> None:
    set_precision(precision)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (tf32, tf32)
    first, second = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    apart = (first @ second - (first.double() @ second.double()).float()).abs().max() / 16
    assert apart < near
    # Whether a CPU then rounds to bfloat16 is left to its library, which does not on one that lacks matrix units.
    assert (torch.get_float32_matmul_precision() == "medium") == (precision == "medium")
