"""BLIP in transformers: each image is encoded once for all its draws, and each draw has its own random numbers.

Legend: B images, R draws, N live rows, S image states, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.captioning.beam import BeamRules, search
from pipeline.captioning.captioner import Caption, Picture
from pipeline.captioning.layers import ImageEncoder, one_thread
from pipeline.captioning.model_folder import find_model
from pipeline.captioning.pixels import Pixels
from pipeline.captioning.sampling import SamplingRules, choose, uniforms
from pipeline.captioning.settings import CaptionSettings
from pipeline.captioning.text_decoder import TextDecoder
from pipeline.runtime.devices import choose_device
from pipeline.runtime.stage import Rejected
from storage.errors import FatalError

_COMPACT_BELOW = 0.9


class BlipCaptioner:
    """Captions with a `BlipForConditionalGeneration`, on the device of worker number `worker`.

    Raises `FatalError` when weights, tokenizer or prompt don't fit, or the device does not exist.
    """

    needs_images = True

    def __init__(self, settings: CaptionSettings, worker: int = 0) -> None:
        from transformers import AutoTokenizer, BlipForConditionalGeneration
        from transformers.utils import logging

        quiet: Any = logging.disable_progress_bar
        quiet()
        self._settings = settings
        self.rejects: list[Rejected] = []
        folder = find_model(settings.model, settings.hub)
        self._device = choose_device(settings.device, worker)
        dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
        model: Any = BlipForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype
        )
        model.eval().to(self._device)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._text = model.config.text_config
        self._prompt = self._prompt_tokens()
        self._pixels = Pixels(folder, model.config.vision_config.image_size, self._device, dtype)
        self.side: int = self._pixels.side
        self._source = f"blip {settings.decoding}"
        self._encoder = ImageEncoder(model.vision_model)
        self._decoder = TextDecoder(model.text_decoder, settings.max_length)
        self._beams = BeamRules(
            end=self._text.sep_token_id,
            num_beams=settings.num_beams,
            max_length=settings.max_length,
            min_length=settings.min_length,
        )
        self._rules = SamplingRules(
            end=self._text.sep_token_id,
            top_p=settings.top_p,
            top_k=settings.top_k,
            temperature=settings.temperature,
            min_length=settings.min_length,
            repetition_penalty=settings.repetition_penalty,
        )

    @torch.inference_mode()
    def caption(self, images: Sequence[Picture], image_ids: Sequence[int]) -> list[list[Caption]]:
        """Caption each image, in the order of `images`: `draws` captions, or one with beam search."""
        size = self._settings.batch_size
        captions: list[list[Caption]] = []
        with one_thread():
            for start in range(0, len(images), size):
                states_BSD = self.encode(self.pixels(images[start : start + size]))
                if self._settings.decoding == "nucleus":
                    captions += self._sample(states_BSD, image_ids[start : start + size])
                else:
                    captions += self._beam(states_BSD)
        return captions

    @torch.inference_mode()
    def caption_with_beams(self, images: Sequence[Picture]) -> list[Caption]:
        """Caption each image with beam search, whatever `decoding` is."""
        size = self._settings.batch_size
        with one_thread():
            return [
                caption
                for start in range(0, len(images), size)
                for (caption,) in self._beam(self.encode(self.pixels(images[start : start + size])))
            ]

    def pixels(self, images: Sequence[Picture]) -> Tensor:
        """Prepare images for the network: B x 3 x H x W, resized to its square without keeping the aspect ratio, normalised."""
        return self._pixels(images)

    @torch.inference_mode()
    def encode(self, pixels_B3HW: Tensor) -> Tensor:
        """Encode pixels into the states that captions are decoded from: B x S x D. Equal neighbours are encoded once."""
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
        # To ask another device how many rows go on would take longer than to compute the rest of them.
        drops_ended = self._device.type == "cpu"
        log_probability = torch.zeros(rows, dtype=torch.float64, device=self._device)
        state, logits_NV = self._decoder.start(states_BSD, self._prompt, draws)
        going_N = torch.ones(rows, dtype=torch.bool, device=self._device)
        for length in range(read, settings.max_length):
            live_N = state.rows
            token_N, gain_N = choose(logits_NV, tokens[live_N, :length], noise[live_N, length], self._rules)
            token_N = torch.where(going_N, token_N, self._text.pad_token_id)
            tokens[live_N, length] = token_N
            log_probability[live_N] += torch.where(going_N, gain_N, 0.0).double()
            going_N = going_N & (token_N != self._rules.end)
            going = int(going_N.sum()) if drops_ended else len(going_N)
            if going == 0 or length + 1 == settings.max_length:
                break
            if going < _COMPACT_BELOW * len(going_N):
                self._decoder.keep(state, going_N)
                token_N, going_N = token_N[going_N], going_N[going_N]
            logits_NV = self._decoder.step(state, token_N)
        # One tensor, so that the device is waited for once; token numbers are exact in it.
        found = torch.cat((tokens[:, read:].double(), log_probability[:, None]), dim=1).tolist()
        texts, log_probabilities = (
            self._texts([[int(token) for token in row[:-1]] for row in found]),
            [r[-1] for r in found],
        )
        return [
            [
                Caption(texts[row], row % draws, settings.seed, log_probabilities[row], self._source)
                for row in range(start, start + draws)
            ]
            for start in range(0, rows, draws)
        ]

    def _beam(self, states_BSD: Tensor) -> list[list[Caption]]:
        found = search(self._decoder, states_BSD, self._prompt, self._beams)
        texts = self._texts([hypothesis.tokens[len(self._prompt) :] for hypothesis in found])
        return [
            [Caption(text, 0, None, hypothesis.log_probability, "blip beam")]
            for text, hypothesis in zip(texts, found, strict=True)
        ]

    def _texts(self, rows: list[list[int]]) -> list[str]:
        ids = [row[: row.index(self._rules.end)] if self._rules.end in row else row for row in rows]
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
        if len(words) + 1 >= settings.max_length:
            raise FatalError(
                f"max_length: {settings.max_length} tokens leave no room after the prompt {settings.prompt!r}, which "
                f"takes {len(words) + 1} tokens with the begin token; raise max_length or shorten the prompt"
            )
        return [self._text.bos_token_id, *words]
