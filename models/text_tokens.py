"""The token ids of label texts: what a network's forward pass takes, so that loader processes can prepare it.

Shapes: T texts, U distinct texts, N tokens of the longest text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.config import ConfigError, TextConfig
from models.tokenizer import ROBERTA_PADDING, load_tokenizer


@dataclass
class TextTokens:
    """Object texts, the last of which stands for "no objects", then predicate texts; each distinct text once."""

    ids: Tensor
    """U×N"""
    mask: Tensor | None
    """U×N, 1 on tokens and 0 on padding; None when no text is padded"""
    rows: Tensor
    """T, the row of each text"""
    objects: int
    """Number of object texts"""

    def to(self, device: torch.device) -> TextTokens:
        """Moves the ids to a device."""
        ids, rows = (tensor.to(device, non_blocking=True) for tensor in (self.ids, self.rows))
        mask = None if self.mask is None else self.mask.to(device, non_blocking=True)
        return TextTokens(ids, mask, rows, self.objects)


class LabelTokenizer:
    """Tokenises label texts, each by itself and without a prompt. It can be handed to other processes."""

    def __init__(self, folder: Path | str | None, config: TextConfig) -> None:
        """Without a folder, it knows only its padding. Raises `ConfigError` when the tokenizer doesn't fit."""
        self.longest = config.max_positions - 2
        self._tokenizer = load_tokenizer(Path(folder), config) if folder else None
        self.padding: int = ROBERTA_PADDING if self._tokenizer is None else self._tokenizer.pad_token_id
        self._tokens_of: dict[str, list[int]] = {}

    def __call__(self, objects: Sequence[str], predicates: Sequence[str] = ()) -> TextTokens:
        """Returns the token ids of the texts. Raises `ConfigError` without a tokenizer."""
        row_of = {text: row for row, text in enumerate(dict.fromkeys((*objects, *predicates)))}
        tokens = [self._tokens(text) for text in row_of]
        longest = max(map(len, tokens), default=0)
        ids_UN = torch.tensor([row + [self.padding] * (longest - len(row)) for row in tokens], dtype=torch.int64)
        ids_UN = ids_UN.reshape(len(tokens), longest)
        rows_T = torch.tensor([row_of[text] for text in (*objects, *predicates)], dtype=torch.int64)
        padded = any(len(row) < longest for row in tokens)
        return TextTokens(ids_UN, (ids_UN != self.padding).long() if padded else None, rows_T, len(objects))

    def _tokens(self, text: str) -> list[int]:
        if self._tokenizer is None:
            raise ConfigError("the network has no tokenizer and cannot encode texts; build it with a tokenizer folder")
        if text not in self._tokens_of:
            self._tokens_of[text] = self._tokenizer(text, truncation=True, max_length=self.longest)["input_ids"]
        return self._tokens_of[text]
