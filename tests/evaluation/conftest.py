"""The small network of the tests of models."""

from tests.models.conftest import small_config, tokenizer

__all__ = ["small_config", "tokenizer"]
