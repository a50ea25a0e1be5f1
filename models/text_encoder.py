"""RoBERTa as encoder of label texts (spec 1.6).

Shapes: T texts, N tokens of the longest text, D hidden width of the text encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaModel, RobertaTokenizerFast

from models.config import ConfigError, TextConfig

PADDING_TOKEN = 1


class TextEncoder(nn.Module):
    """One pooled feature a text; each text is encoded by itself, without a prompt.

    Without a tokenizer folder, only `encode_tokens` can be used.
    """

    def __init__(self, config: TextConfig, tokenizer_folder: Path | str | None) -> None:
        super().__init__()
        self.longest = config.max_positions - 2
        self.tokenizer = _load_tokenizer(Path(tokenizer_folder), config.vocabulary) if tokenizer_folder else None
        self.tokens_of: dict[str, list[int]] = {}
        self.roberta = RobertaModel(
            RobertaConfig(
                hidden_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.feedforward,
                vocab_size=config.vocabulary,
                max_position_embeddings=config.max_positions,
                type_vocab_size=1,
                layer_norm_eps=1e-5,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
                initializer_range=config.initial_deviation,
            )
        )

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Pooled features T×D: tanh(dense(first token)). A text given twice is encoded once."""
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return torch.zeros(0, self.roberta.config.hidden_size, device=self.roberta.device)
        tokens = [self._tokens(text) for text in distinct]
        longest = max(map(len, tokens))
        ids_TN = torch.tensor(
            [row + [PADDING_TOKEN] * (longest - len(row)) for row in tokens], device=self.roberta.device
        )
        pooled_TD = self.encode_tokens(ids_TN, (ids_TN != PADDING_TOKEN).long())
        if len(distinct) == len(texts):
            return pooled_TD
        row_of = {text: row for row, text in enumerate(distinct)}
        return pooled_TD[torch.tensor([row_of[text] for text in texts], device=pooled_TD.device)]

    def encode_tokens(self, ids_TN: Tensor, mask_TN: Tensor) -> Tensor:
        """Pooled features T×D of token ids; the mask is 1 on tokens and 0 on padding."""
        return self.roberta(input_ids=ids_TN, attention_mask=mask_TN).pooler_output

    def _tokens(self, text: str) -> list[int]:
        if self.tokenizer is None:
            raise ConfigError("the network was built without a tokenizer, so texts can't be encoded; name its folder")
        if text not in self.tokens_of:
            self.tokens_of[text] = self.tokenizer(text, truncation=True, max_length=self.longest)["input_ids"]
        return self.tokens_of[text]


def _load_tokenizer(folder: Path, vocabulary: int) -> RobertaTokenizerFast:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ConfigError(
            f"no tokenizer in {folder}: expected tokenizer.json, or vocab.json with merges.txt; copy "
            "them from a roberta-base checkpoint or train a byte-level BPE of RoBERTa's special tokens"
        )
    tokenizer = RobertaTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    if tokenizer.pad_token_id != PADDING_TOKEN:
        raise ConfigError(
            f"tokenizer {folder}: the id of {tokenizer.pad_token!r} is {tokenizer.pad_token_id}, but "
            f"RoBERTa needs {PADDING_TOKEN}"
        )
    if len(tokenizer) > vocabulary:
        raise ConfigError(
            f"tokenizer {folder} has {len(tokenizer)} tokens, but text.vocabulary={vocabulary}; "
            f"set it to at least {len(tokenizer)}"
        )
    return tokenizer
