"""BLIP in transformers: the captioner, and the filter with its matching head.

Each image is encoded once for all its draws, and each draw has its own random numbers.
Legend: B images, R draws, N live rows, G captions of one image, T positions, S image states, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.captioning.captioner import Caption, ImageInput
from pipeline.captioning.decoding import choose, search, uniforms
from pipeline.captioning.model_folder import find_model
from pipeline.captioning.network import ImageEncoder, Pixels, TextDecoder, TextLayer, one_thread, packed
from pipeline.captioning.settings import CaptionSettings
from pipeline.runtime.devices import choose_device
from pipeline.runtime.stage import Rejected
from storage.errors import FatalError

_COMPACT_BELOW = 0.9
"""Rows are compacted when fewer than this share of them are unfinished."""
LONGEST = 128
"""Maximum number of a caption's tokens that are read."""


class _Blip:
    """A BLIP of transformers on a worker's device, with its tokenizer and image encoder."""

    def _use(self, model: Any, folder: Path, settings: CaptionSettings, worker: int) -> None:
        """Moves the model to the device. The caller must not keep it: its weights are repacked."""
        from transformers import AutoTokenizer

        self._device = choose_device(settings.device, worker)
        model.eval().to(self._device)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._text = model.config.text_config
        self.pixels = Pixels(folder, model.config.vision_config.image_size, self._device, model.dtype)
        self.side: int = self.pixels.side
        self._encoder = ImageEncoder(model.vision_model)


def _loaded(kind: Any, folder: Path, settings: CaptionSettings, setting: str, example: str) -> Any:
    """Returns the model. Raises `FatalError` if the folder lacks weights, which transformers would draw at random."""
    dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    # Loading a pickle could run code.
    model, loading = kind.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
    )
    if missing := sorted(loading["missing_keys"]):
        raise FatalError(
            f"{folder}: not a {kind.__name__}: it lacks {missing[:3]} (setting: {setting}). Use a model of this kind, "
            f"e.g. {example}"
        )
    return model


class BlipCaptioner(_Blip):
    """Captions with a `BlipForConditionalGeneration`, on the device of worker number `worker`.

    Raises `FatalError` when weights, tokenizer or prompt don't fit, or the device does not exist.
    """

    needs_images = True

    def __init__(self, settings: CaptionSettings, worker: int = 0) -> None:
        from transformers import BlipForConditionalGeneration
        from transformers.utils import logging

        quiet: Any = logging.disable_progress_bar
        quiet()
        self._settings = settings
        self.rejects: list[Rejected] = []
        folder = find_model(settings.model, settings.hub)
        model = _loaded(
            BlipForConditionalGeneration, folder, settings, "model", "Salesforce/blip-image-captioning-large"
        )
        self._use(model, folder, settings, worker)
        self._prompt = self._prompt_tokens()
        self._decoder = TextDecoder(model.text_decoder, settings.max_length)
        self._end: int = self._text.sep_token_id

    @torch.inference_mode()
    def caption(self, images: Sequence[ImageInput], image_ids: Sequence[int]) -> list[list[Caption]]:
        """Caption each image, in the order of `images`: `draws` captions, or one with beam search."""
        size, is_beam = self._settings.batch_size, self._settings.decoding == "beam"
        captions: list[list[Caption]] = []
        with one_thread():
            for start in range(0, len(images), size):
                states_BSD = self.encode(self.pixels(images[start : start + size]))
                ids = image_ids[start : start + size]
                captions += self._beam(states_BSD) if is_beam else self._sample(states_BSD, ids)
        return captions

    @torch.inference_mode()
    def encode(self, pixels_B3HW: Tensor) -> Tensor:
        """Encode pixels into the states that captions come from: B x S x D. A CPU encodes equal neighbours once."""
        if pixels_B3HW.device.type != "cpu":
            return self._encoder(pixels_B3HW)  # To count the distinct images there, the host would have to wait for it.
        is_new_B = torch.ones(len(pixels_B3HW), dtype=torch.bool, device=pixels_B3HW.device)
        is_new_B[1:] = (pixels_B3HW[1:] != pixels_B3HW[:-1]).flatten(1).any(1)
        return self._encoder(pixels_B3HW[is_new_B])[is_new_B.cumsum(0) - 1]

    def _sample(self, states_BSD: Tensor, image_ids: Sequence[int]) -> list[list[Caption]]:
        settings, draws, read = self._settings, self._settings.draws, len(self._prompt)
        noise = torch.from_numpy(np.concatenate([uniforms(settings.seed, image_id, draws) for image_id in image_ids]))
        noise = noise.to(self._device, non_blocking=True)
        rows = len(image_ids) * draws
        tokens = torch.full((rows, settings.max_length), self._text.pad_token_id, device=self._device)
        tokens[:, :read] = torch.tensor(self._prompt).to(self._device, non_blocking=True)
        # Asking another device how many rows are unfinished would take longer than computing the finished ones.
        drops_ended = self._device.type == "cpu"
        log_probability = torch.zeros(rows, dtype=torch.float64, device=self._device)
        state, logits_NV = self._decoder.start(states_BSD, self._prompt, draws)
        going_N = torch.ones(rows, dtype=torch.bool, device=self._device)
        for length in range(read, settings.max_length):
            live_N = state.rows
            token_N, gain_N = choose(logits_NV, tokens[live_N, :length], noise[live_N, length], settings, self._end)
            token_N = torch.where(going_N, token_N, self._text.pad_token_id)
            tokens[live_N, length] = token_N
            log_probability[live_N] += torch.where(going_N, gain_N, 0.0).double()
            going_N = going_N & (token_N != self._end)
            going = int(going_N.sum()) if drops_ended else len(going_N)
            if going == 0 or length + 1 == settings.max_length:
                break
            if going < _COMPACT_BELOW * len(going_N):
                self._decoder.keep(state, going_N)
                token_N, going_N = token_N[going_N], going_N[going_N]
            logits_NV = self._decoder.step(state, token_N)
        # One tensor, so that the device is waited for once; token numbers are exact in it.
        decoded = torch.cat((tokens[:, read:].double(), log_probability[:, None]), dim=1).tolist()
        texts = self._texts([[int(token) for token in row[:-1]] for row in decoded])
        return [
            [
                Caption(texts[row], row % draws, settings.seed, decoded[row][-1], "blip nucleus")
                for row in range(start, start + draws)
            ]
            for start in range(0, rows, draws)
        ]

    def _beam(self, states_BSD: Tensor) -> list[list[Caption]]:
        best = search(self._decoder, states_BSD, self._prompt, self._settings, self._end)
        texts = self._texts([hypothesis.tokens[len(self._prompt) :] for hypothesis in best])
        return [
            [Caption(text, 0, None, hypothesis.log_probability, "blip beam")]
            for text, hypothesis in zip(texts, best, strict=True)
        ]

    def _texts(self, rows: list[list[int]]) -> list[str]:
        ids = [row[: row.index(self._end)] if self._end in row else row for row in rows]
        texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=True)
        return [text.strip() for text in texts]

    def _prompt_tokens(self) -> list[int]:
        """The begin token and the prompt, without the end token."""
        settings, tokenizer = self._settings, self._tokenizer
        words: list[int] = tokenizer(settings.prompt, add_special_tokens=False)["input_ids"]
        if tokenizer.unk_token_id in words:
            raise FatalError(
                f"captioner model {settings.model}: its vocabulary lacks words of the prompt {settings.prompt!r} "
                '(setting: prompt). Use the prompt it was trained with, or "" for none'
            )
        if settings.max_length > (most := self._text.max_position_embeddings):
            raise FatalError(f"max_length: {settings.max_length} tokens, but the model has {most} positions; lower it")
        if len(words) + 1 >= settings.max_length:
            raise FatalError(
                f"max_length: {settings.max_length} tokens leave no room after the prompt {settings.prompt!r}, which "
                f"takes {len(words) + 1} tokens with the begin token; raise max_length or shorten the prompt"
            )
        return [self._text.bos_token_id, *words]


class MatchScorer(_Blip):
    """Scores how well captions fit their image, with a `BlipForImageTextRetrieval` (CapFilt; BLIP, section 3.3).

    The image is encoded, and its attention keys are computed, once for all its captions.

    The first token is [ENC], with which the head was trained (transformers' own example leaves [CLS] there).
    Raises `FatalError` when the folder lacks files or holds another kind of model, or the device does not exist.
    """

    def __init__(self, settings: CaptionSettings, worker: int = 0) -> None:
        from transformers import BlipForImageTextRetrieval

        folder = find_model(settings.filter, settings.hub, setting="filter")
        model = _loaded(BlipForImageTextRetrieval, folder, settings, "filter", "Salesforce/blip-itm-large-coco")
        self._use(model, folder, settings, worker)
        known = self._tokenizer.get_vocab()
        # Published tokenizers lack BLIP's two additions: [DEC], the begin token, followed by [ENC].
        self._first = known.get("[ENC]", self._text.bos_token_id + 1)
        self._embeddings = model.text_encoder.embeddings
        self._layers = [TextLayer(layer) for layer in model.text_encoder.encoder.layer]
        self._head = packed(model.itm_head)

    @torch.inference_mode()
    def scores(self, image: ImageInput, texts: Sequence[str]) -> list[float]:
        """The probability that each text belongs to the image. It depends on the image and the texts alone."""
        if not texts:
            return []
        with one_thread():
            states_1SD = self._encoder(self.pixels([image]))
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
