"""The small network of the tests of models."""

from __future__ import annotations

from tests.models.conftest import small_config, tokenizer

__all__ = ["small_config", "tokenizer"]
