"""The encoder of label texts, RoBERTa by default (docs/networks.md, 1).

Shapes: T texts, N tokens of the longest text, D hidden width of the text encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, PreTrainedModel

from models.config import ConfigError, TextConfig
from models.text_tokens import LabelTokenizer, TextTokens

REMEMBERED = 64
"""Number of text lists whose features an encoder in evaluation mode caches."""
SHORTENED = ("roberta", "bert")
"""Kinds of encoders whose last layer is run for the first token alone."""


class TextEncoder(nn.Module):
    """Encodes each text by itself, without a prompt, into one pooled feature.

    Without a tokenizer folder, only `encode_tokens` works.
    """

    def __init__(self, config: TextConfig, tokenizer_folder: Path | str | None) -> None:
        super().__init__()
        self.tokenizer = LabelTokenizer(tokenizer_folder, config)
        # This name serves every kind of encoder, because weights on disk use it.
        self.roberta = _build(config, self.tokenizer.padding)
        self.recomputed = False
        """Whether the backward pass recomputes activations instead of keeping them."""
        self._features_of: dict[tuple[object, ...], Tensor] = {}
        self._weights: list[tuple[int, int]] = []

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Returns T×D pooled features: tanh(dense(first token)). A text given twice is encoded once.

        In evaluation mode and without gradients, the features of a list are cached until the weights change, and are
        bit-identical to the first result.
        """
        if self.training or torch.is_grad_enabled() or any(p.is_inference() for p in self.roberta.parameters()):
            return self._encode(texts)
        weights = [(parameter.data_ptr(), parameter._version) for parameter in self.roberta.parameters()]
        if weights != self._weights:
            self._features_of, self._weights = {}, weights
        device = self.roberta.device.type
        key = (*texts, torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device))
        if key not in self._features_of:
            while len(self._features_of) >= REMEMBERED:
                del self._features_of[next(iter(self._features_of))]
            self._features_of[key] = self._encode(texts)
        return self._features_of[key].clone()

    def encode_tokens(self, ids_TN: Tensor, mask_TN: Tensor | None) -> Tensor:
        """Returns T×D pooled features of token ids; the mask is 1 on tokens and 0 on padding, None without padding."""
        if self.recomputed and torch.is_grad_enabled():
            pooled_TD: Tensor = checkpoint(self._pooled, ids_TN, mask_TN, use_reentrant=False)
            return pooled_TD
        return self._pooled(ids_TN, mask_TN)

    def encode_each(self, texts: TextTokens) -> Tensor:
        """Returns T×D pooled features; each distinct text is encoded once."""
        pooled_UD = self.encode_tokens(texts.ids, texts.mask)
        return pooled_UD if len(texts.rows) == len(texts.ids) else pooled_UD[texts.rows]

    def _pooled(self, ids_TN: Tensor, mask_TN: Tensor | None) -> Tensor:
        if mask_TN is not None and self.roberta.config._attn_implementation == "sdpa":
            # Transformers takes a mask of this shape as it is. It asks the device whether a flat one hides anything.
            mask_TN = mask_TN.bool()[:, None, None]
        return self.roberta(input_ids=ids_TN, attention_mask=mask_TN).pooler_output

    def _encode(self, texts: Sequence[str]) -> Tensor:
        if not texts:
            return torch.zeros(0, self.roberta.config.hidden_size, device=self.roberta.device)
        return self.encode_each(self.tokenizer(texts).to(self.roberta.device))


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

    It has the parts of the layer that it stands for, under the same names.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = layer.attention, layer.intermediate, layer.output

    def forward(self, tokens_TND: Tensor, mask: Tensor | None, *_: None, **options: Any) -> Tensor:
        """Returns T×1×D. The other arguments are those by which transformers decodes and records."""
        mixed_TND, _weights = self.attention.self(tokens_TND, attention_mask=mask, **options)
        # Contiguous, because a linear layer copies its weight for each text otherwise.
        attended_T1D = self.attention.output(mixed_TND[:, :1].contiguous(), tokens_TND[:, :1])
        return self.output(self.intermediate(attended_T1D), attended_T1D)
