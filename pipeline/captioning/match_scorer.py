"""Scores how well captions fit their image, with BLIP's image-text matching head (CapFilt; BLIP, section 3.3).

Legend: G captions of one image, T positions, S image states, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.captioning.captioner import Picture
from pipeline.captioning.layers import ImageEncoder, TextLayer, one_thread, packed
from pipeline.captioning.model_folder import find_model
from pipeline.captioning.pixels import Pixels
from pipeline.captioning.settings import CaptionSettings
from pipeline.runtime.devices import choose_device
from storage.errors import FatalError

LONGEST = 128
"""Maximum number of tokens that are read of a caption."""


class MatchScorer:
    """Scores captions with a `BlipForImageTextRetrieval`; their image is encoded, and its attention keys computed, once.

    The first token is [ENC], with which the head was trained (transformers' own example leaves [CLS] there).
    Raises `FatalError` when the folder lacks files or holds another kind of model, or the device does not exist.
    """

    def __init__(self, settings: CaptionSettings, worker: int = 0) -> None:
        from transformers import AutoTokenizer, BlipForImageTextRetrieval

        folder = find_model(settings.filter, settings.hub, setting="filter")
        dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
        load: Any = BlipForImageTextRetrieval.from_pretrained
        model, loading = load(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
        )
        missing = sorted(loading["missing_keys"])
        if missing:
            raise FatalError(
                f"{folder}: not a BlipForImageTextRetrieval: it lacks {missing[:3]} (setting: filter). "
                "Use a model with a matching head, e.g. Salesforce/blip-itm-large-coco"
            )
        self._device = choose_device(settings.device, worker)
        model.to(self._device)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        text = model.config.text_config
        known = self._tokenizer.get_vocab()
        # Published tokenizers lack BLIP's two additions: [DEC], the begin token, followed by [ENC].
        self._first = known.get("[ENC]", text.bos_token_id + 1)
        self._pixels = Pixels(folder, model.config.vision_config.image_size, self._device, dtype)
        self.side: int = self._pixels.side
        self._encoder = ImageEncoder(model.vision_model)
        self._embeddings = model.text_encoder.embeddings
        self._layers = [TextLayer(layer) for layer in model.text_encoder.encoder.layer]
        self._head = packed(model.itm_head)

    @torch.inference_mode()
    def scores(self, image: Picture, texts: Sequence[str]) -> list[float]:
        """The probability that each text belongs to the image. It depends on the image and the texts alone."""
        if not texts:
            return []
        with one_thread():
            states_1SD = self._encoder(self._pixels([image]))
            tokens = self._tokenizer(
                list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
            ).to(self._device, non_blocking=True)
            logits = self._logits(states_1SD, tokens["input_ids"], tokens["attention_mask"].bool())
        scores: list[float] = logits.float().softmax(-1)[:, 1].tolist()
        return scores

    def _logits(self, states_1SD: Tensor, token_GT: Tensor, real_GT: Tensor) -> Tensor:
        token_GT[:, 0] = self._first
        captions, positions = token_GT.shape
        embeddings = self._embeddings
        hidden_GTD = embeddings.LayerNorm(
            embeddings.word_embeddings(token_GT)
            + embeddings.position_embeddings(torch.arange(positions, device=token_GT.device))
        )
        hidden_ND = hidden_GTD.flatten(0, 1)
        seen = real_GT[:, None, None, :].expand(captions, 1, positions, positions)
        for layer in self._layers:
            hidden_ND, _, _ = layer.read(hidden_ND, layer.image_keys(states_1SD), captions, seen)
        logits: Tensor = self._head(hidden_ND.view(captions, positions, -1)[:, 0])
        return logits
