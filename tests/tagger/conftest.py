"""The small tagger of the tests of models."""

from tests.models.conftest import small_config, small_tagger_config, tokenizer

__all__ = ["small_config", "small_tagger_config", "tokenizer"]
