"""Loads the tokenizer of the label texts from a folder."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, RobertaTokenizerFast

from models.config import ConfigError, TextConfig

ROBERTA_PADDING = 1
"""RoBERTa's padding id, from which it counts positions."""


def load_tokenizer(folder: Path, config: TextConfig) -> PreTrainedTokenizerBase:
    """Loads a tokenizer. Raises `ConfigError` when the folder has none or it does not fit the text encoder."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        raise ConfigError(
            f"{folder}: no tokenizer found; expected tokenizer.json, or vocab.json with merges.txt; copy them from "
            "a roberta-base checkpoint, or train a byte-level BPE tokenizer with RoBERTa's special tokens"
        )
    kind = RobertaTokenizerFast if config.kind == "roberta" else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(str(folder), local_files_only=True)
    if tokenizer.pad_token_id is None or (config.kind == "roberta" and tokenizer.pad_token_id != ROBERTA_PADDING):
        raise ConfigError(
            f"tokenizer {folder}: {tokenizer.pad_token!r} has the id {tokenizer.pad_token_id}, but "
            f"{config.kind} needs {ROBERTA_PADDING if config.kind == 'roberta' else 'a padding token'}"
        )
    if len(tokenizer) > config.vocabulary:
        raise ConfigError(
            f"tokenizer {folder} has {len(tokenizer)} tokens, but text.vocabulary={config.vocabulary}; "
            f"set it to at least {len(tokenizer)}"
        )
    return tokenizer
