"""Captions with LAVIS in its own environment: a process that reads batches from a pipe and answers with captions.

It is run by path with `python -I` and the file descriptor of its end of the pipe, so that nothing of this repository is
importable; it imports LAVIS, PyTorch, transformers and the standard library. A message is a header in JSON, then bytes;
an answer is JSON. The first message holds weights and settings, each later one a batch of images with their draws'
noise.
"""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from importlib.machinery import PathFinder
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import BertTokenizer, LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

HEAD_WIDTH = 64
"""Width of an attention head in every BLIP: the one size that a checkpoint's shapes don't show."""


def build(weights: Path, vocabulary: Path, prompt: str) -> Any:
    """Build LAVIS's `BlipCaption` in the sizes that the checkpoint's shapes show. Nothing is downloaded."""
    _only_the_captioner()
    from lavis.models.blip_models.blip_caption import BlipCaption
    from lavis.models.med import BertConfig, XBertLMHeadDecoder
    from lavis.models.vit import VisionTransformerEncoder

    state = torch.load(weights, map_location="cpu", weights_only=True)
    state = state.get("model", state)
    width = state["visual_encoder.cls_token"].shape[-1]
    patch = state["visual_encoder.patch_embed.proj.weight"].shape[-1]
    encoder = VisionTransformerEncoder(
        img_size=math.isqrt(state["visual_encoder.pos_embed"].shape[1] - 1) * patch,
        patch_size=patch,
        embed_dim=width,
        depth=layers(state, "visual_encoder.blocks."),
        num_heads=width // HEAD_WIDTH,
        mlp_ratio=state["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0] / width,
    )
    text = "text_decoder.bert."
    vocabulary_size, hidden = state[text + "embeddings.word_embeddings.weight"].shape
    config = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden,
        num_hidden_layers=layers(state, text + "encoder.layer."),
        num_attention_heads=hidden // HEAD_WIDTH,
        intermediate_size=state[text + "encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=state[text + "embeddings.position_embeddings.weight"].shape[0],
        encoder_width=width,
        add_cross_attention=True,
        add_type_embeddings=False,
    )
    tokenizer = BertTokenizer(str(vocabulary))
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    BlipCaption.init_tokenizer = classmethod(lambda cls: tokenizer)
    model = BlipCaption(encoder, XBertLMHeadDecoder(config), prompt=prompt)
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing or [name for name in unexpected if not name.endswith("position_ids")]:
        raise ValueError(f"{weights}: not a captioning BLIP: lacks {missing[:3]}, has unknown {unexpected[:3]}")
    return model.eval()


def _only_the_captioner() -> None:
    """Keep LAVIS's packages from importing all models, tasks and datasets, with everything those require."""
    package = PathFinder.find_spec("lavis")
    if package is None or not package.submodule_search_locations:
        raise ImportError(f"{sys.executable} has no salesforce-lavis; rebuild the environment with `make lavis-env`")
    root = package.submodule_search_locations[0]
    for name, folder in (("lavis", root), ("lavis.models", f"{root}/models")):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [folder]
    models: Any = sys.modules["lavis.models"]
    models.BaseModel = import_module("lavis.models.base_model").BaseModel


def layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """Number of layers among the names of weights."""
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix))


class ByNoise:
    """The last logits processor: temperature, top-k and top-p, then the token that the row's uniform number selects."""

    def __init__(self, noise: Tensor, settings: dict[str, Any]) -> None:
        self._noise = noise
        self._temperature: float = settings["temperature"]
        self._warpers = LogitsProcessorList()
        if self._temperature:
            self._warpers.append(TemperatureLogitsWarper(self._temperature))
        if settings["top_k"]:
            self._warpers.append(TopKLogitsWarper(settings["top_k"]))
        if settings["top_p"] < 1:
            self._warpers.append(TopPLogitsWarper(settings["top_p"]))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Minus infinity everywhere but at the chosen token, so that any sampler takes that one."""
        warp: Any = self._warpers
        ranked, tokens = warp(input_ids, scores).sort(dim=-1, descending=True)
        cumulative = ranked.softmax(-1).double().cumsum(-1)
        uniform = (
            self._noise[:, input_ids.shape[1], None] if self._temperature else torch.zeros(len(scores), 1).double()
        )
        place = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        place = torch.minimum(place, (ranked > -torch.inf).sum(-1, keepdim=True) - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens.gather(1, place), 0.0)


@torch.inference_mode()
def caption(model: Any, pixels_13HW: Tensor, noise_RT: Tensor, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Caption one image. Returns one caption per row of noise, or the one that beam search finds."""
    tokenizer, decoder = model.tokenizer, model.text_decoder
    prompt = [tokenizer.bos_token_id, *tokenizer(settings["prompt"], add_special_tokens=False).input_ids]
    nucleus = settings["decoding"] == "nucleus"
    rows = len(noise_RT) if nucleus else 1
    states = model.forward_encoder({"image": pixels_13HW})

    def seen_by(count: int) -> dict[str, Tensor]:
        image = states.expand(count, -1, -1)
        return {"encoder_hidden_states": image, "encoder_attention_mask": torch.ones(image.shape[:2], dtype=torch.long)}

    decoding: dict[str, Any] = {"num_beams": settings["num_beams"], "do_sample": False}
    if nucleus:
        decoding = {
            "do_sample": True,
            "top_k": 0,
            "top_p": 1.0,
            "repetition_penalty": settings["repetition_penalty"],
            "logits_processor": LogitsProcessorList([ByNoise(noise_RT, settings)]),
        }
    tokens = decoder.generate(
        input_ids=torch.tensor([prompt] * rows),
        max_length=settings["max_length"],
        min_length=settings["min_length"],
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **decoding,
        **seen_by(rows * (1 if nucleus else settings["num_beams"])),
    )
    logits = decoder(input_ids=tokens, attention_mask=torch.ones_like(tokens), **seen_by(rows), return_dict=True).logits
    read = len(prompt)
    gains = logits[:, read - 1 : -1].float().log_softmax(-1).gather(2, tokens[:, read:, None])[:, :, 0]
    captions = []
    for ids, gain in zip(tokens[:, read:].tolist(), gains, strict=True):
        end = ids.index(tokenizer.sep_token_id) if tokenizer.sep_token_id in ids else len(ids)
        text = tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        captions.append({"text": text, "log_probability": float(gain[: end + 1].double().sum())})
    return captions


def serve(channel: Connection) -> None:
    """Answer messages until the other end closes. One that fails is answered with its error; later ones may succeed."""
    model: Any = None
    settings: dict[str, Any] = {}
    while True:
        header, payload = json.loads(channel.recv_bytes()), channel.recv_bytes()
        answer: dict[str, Any]
        try:
            if model is None:
                settings = header
                # Products that are split over threads round differently.
                torch.set_num_threads(1)
                model = build(Path(header["weights"]), Path(header["vocabulary"]), header["prompt"])
                answer = {"side": model.visual_encoder.patch_embed.img_size[0]}
            else:
                answer = {"captions": _batch(model, header, payload, settings)}
        except Exception:
            answer = {"error": traceback.format_exc(limit=-3)}
        channel.send_bytes(json.dumps(answer).encode())


def _batch(model: Any, header: dict[str, Any], payload: bytes, settings: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Caption images one by one: a larger batch would change the rounding, and so the captions."""
    images, side, draws, steps = (header[name] for name in ("images", "side", "draws", "steps"))
    cut = images * side * side * 3
    pixels = torch.frombuffer(bytearray(payload[:cut]), dtype=torch.uint8).view(images, side, side, 3)
    noise = torch.frombuffer(bytearray(payload[cut:]), dtype=torch.float64).view(images, draws, steps)
    mean, deviation = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("mean", "deviation"))
    scaled = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / deviation
    return [caption(model, scaled[i : i + 1], noise[i], settings) for i in range(images)]


if __name__ == "__main__":
    with suppress(EOFError):
        serve(Connection(int(sys.argv[1])))
