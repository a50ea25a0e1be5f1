"""The encoder of label texts, RoBERTa by default, and their token ids (docs/networks.md, 1).

Shapes: T texts, U distinct texts, N tokens of the longest text, D hidden width of the text encoder.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaTokenizerFast,
)

from models.config import ConfigError, TextConfig

SHORTENED = ("roberta", "bert")
"""Kinds of encoders whose last layer is run for the first token alone."""


class TextEncoder(nn.Module):
    """Encodes each text separately, without a prompt, into one pooled feature.

    Without a tokenizer folder, only `encode_tokens` works.
    """

    def __init__(self, config: TextConfig, tokenizer_folder: Path | str | None) -> None:
        super().__init__()
        self.tokenizer = LabelTokenizer(tokenizer_folder, config)
        # This name serves every kind of encoder, because weights on disk use it.
        self.roberta = _build(config, self.tokenizer.padding)
        self.activation_checkpointing = False
        """Whether the backward pass recomputes activations instead of keeping them."""

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Returns T×D pooled features: tanh(dense(first token)). A text given twice is encoded once."""
        if not texts:
            return torch.zeros(0, self.roberta.config.hidden_size, device=self.roberta.device)
        return self.encode_each(self.tokenizer(texts).to(self.roberta.device))

    def encode_tokens(self, ids_TN: Tensor, mask_TN: Tensor | None) -> Tensor:
        """Returns T×D pooled features of token ids; the mask is 1 on tokens and 0 on padding, None without padding."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            pooled_TD: Tensor = checkpoint(self._pooled, ids_TN, mask_TN, use_reentrant=False)
            return pooled_TD
        return self._pooled(ids_TN, mask_TN)

    def encode_each(self, texts: TextTokens) -> Tensor:
        """Returns T×D pooled features; each distinct text is encoded once."""
        pooled_UD = self.encode_tokens(texts.ids, texts.mask)
        return pooled_UD if len(texts.rows) == len(texts.ids) else pooled_UD[texts.rows]

    def _pooled(self, ids_TN: Tensor, mask_TN: Tensor | None) -> Tensor:
        if mask_TN is not None and self.roberta.config._attn_implementation == "sdpa":
            # Transformers uses a mask of this shape as it is. It asks the device whether a flat one hides anything.
            mask_TN = mask_TN.bool()[:, None, None]
        return self.roberta(input_ids=ids_TN, attention_mask=mask_TN).pooler_output


def _build(config: TextConfig, padding: int) -> PreTrainedModel:
    """Builds a randomly initialised model. Raises `ConfigError` for a kind that is unknown or has no pooled output."""
    try:
        settings = AutoConfig.for_model(
            config.kind,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.feedforward,
            vocab_size=config.vocabulary,
            max_position_embeddings=config.max_positions,
            # This and the next are those of roberta-base, not the defaults of its class.
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            initializer_range=config.initial_deviation,
            pad_token_id=padding,
        )
        model: PreTrainedModel = AutoModel.from_config(settings)
    except ValueError as error:
        raise ConfigError(
            f"network setting text.kind={config.kind!r}: not an encoder that transformers can build ({error}); "
            "use roberta, bert or another kind with a pooled output"
        ) from error
    if model.main_input_name != "input_ids" or getattr(model, "pooler", None) is None:
        raise ConfigError(
            f"network setting text.kind={config.kind!r}: has no pooled output of texts; use roberta, bert or another "
            "kind that has one"
        )
    if config.kind in SHORTENED:
        layers: Any = model.get_submodule("encoder.layer")
        layers[-1] = _FirstTokenLayer(layers[-1])
    return model


class _FirstTokenLayer(nn.Module):
    """The last layer of a language model, for the first token alone: nothing else of it enters the pooled output.

    It has the submodules of the layer that it replaces, under the same names.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = layer.attention, layer.intermediate, layer.output

    def forward(self, tokens_TND: Tensor, mask: Tensor | None, *_: None, **options: Any) -> Tensor:
        """Returns T×1×D. The other arguments serve transformers' decoding and recording."""
        mixed_TND, _weights = self.attention.self(tokens_TND, attention_mask=mask, **options)
        # Contiguous, because a linear layer copies its weight for each text otherwise.
        attended_T1D = self.attention.output(mixed_TND[:, :1].contiguous(), tokens_TND[:, :1])
        return self.output(self.intermediate(attended_T1D), attended_T1D)


@dataclass
class TextTokens:
    """The token ids of label texts, which loader processes can prepare: object texts, the last of which stands for
    "no objects", then predicate texts; each distinct text once."""

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
    """Tokenises label texts, each separately and without a prompt. It can be handed to other processes."""

    def __init__(self, folder: Path | str | None, config: TextConfig) -> None:
        """Without a folder, it knows only its padding. Raises `ConfigError` when the tokenizer doesn't fit."""
        self.longest = config.max_positions - 2
        self._tokenizer = load_tokenizer(Path(folder), config) if folder else None
        self.padding: int = ROBERTA_PADDING if self._tokenizer is None else self._tokenizer.pad_token_id
        self._tokens_of: dict[str, list[int]] = {}
        self._has_warned = False

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
        # The same labels are drawn step after step.
        if text not in self._tokens_of:
            tokens = self._tokenizer(text, verbose=False)["input_ids"]
            if len(tokens) > self.longest:
                tokens = self._tokenizer(text, truncation=True, max_length=self.longest)["input_ids"]
                if not self._has_warned:
                    self._has_warned = True
                    most = f"{self.longest} tokens (text.max_positions - 2)"
                    warnings.warn(f"the text encoder reads only {most} of longer names, such as {text!r}", stacklevel=3)
            self._tokens_of[text] = tokens
        return self._tokens_of[text]


ROBERTA_PADDING = 1
"""RoBERTa's padding id, from which it counts positions."""


def load_tokenizer(folder: Path, config: TextConfig) -> PreTrainedTokenizerBase:
    """Loads a tokenizer. Raises `ConfigError` when the folder has none or it does not fit the text encoder."""
    kinds = [("tokenizer.json",), ("vocab.json", "merges.txt"), *([("vocab.txt",)] if config.kind != "roberta" else [])]
    if not any(all((folder / name).is_file() for name in files) for files in kinds):
        raise ConfigError(
            f"{folder}: no tokenizer found; expected tokenizer.json, or vocab.json with merges.txt; copy them from "
            "a roberta-base checkpoint, or train a byte-level BPE tokenizer with RoBERTa's special tokens"
        )
    try:
        tokenizer: PreTrainedTokenizerBase
        if config.kind == "roberta":
            tokenizer = RobertaTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        else:  # config.json, which names the kind, is not kept with weights
            known = AutoConfig.for_model(config.kind)
            tokenizer = AutoTokenizer.from_pretrained(str(folder), config=known, local_files_only=True)
    except Exception as error:  # a damaged file makes the library raise any kind
        raise ConfigError(f"{folder}: its tokenizer can't be read ({error}); copy its files again") from error
    read = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if not any((folder / name).is_file() for name in read):  # the library then makes one to which all words are unknown
        raise ConfigError(
            f"tokenizer {folder}: {config.kind} reads none of its files; name a folder with {' or '.join(sorted(read))}"
        )
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
