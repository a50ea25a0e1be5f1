"""One BLIP with two sets of names: conversion loses nothing, and code in a checkpoint is not run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lavis_checkpoint import to_lavis
from PIL import Image
from transformers import BlipForConditionalGeneration

from pipeline.captioning.blip import BlipCaptioner
from pipeline.captioning.lavis_weights import convert, to_transformers
from pipeline.captioning.settings import CaptionSettings
from storage.errors import FatalError

Models = tuple[Path, Path]


def test_names_there_and_back(one_blip: Models) -> None:
    state = BlipForConditionalGeneration.from_pretrained(one_blip[0]).state_dict()
    back = to_transformers(to_lavis(state))
    assert {n for n in state if not n.endswith("position_ids")} == back.keys()
    assert all(torch.equal(state[name], values) for name, values in back.items())


def test_a_converted_checkpoint_captions_as_the_original(
    one_blip: Models, pictures: list[Image.Image], tmp_path: Path
) -> None:
    convert(one_blip[1] / "blip.pth", one_blip[1] / "vocab.txt", tmp_path / "made")
    made, original = (BlipCaptioner(CaptionSettings(model=str(f), draws=3)) for f in (tmp_path / "made", one_blip[0]))
    ids = range(len(pictures))
    assert made.caption(pictures, ids) == original.caption(pictures, ids)


def test_a_weight_of_something_else_is_named() -> None:
    with pytest.raises(FatalError, match=r"queue: not a captioning BLIP's weight"):
        to_transformers({"queue": torch.zeros(1)})


class _Code:
    def __reduce__(self) -> tuple[type, tuple[str]]:
        return (Path, ("/",))


def test_a_checkpoint_with_code_is_not_run(one_blip: Models, tmp_path: Path) -> None:
    torch.save({"model": {}, "args": _Code()}, tmp_path / "code.pth")
    with pytest.raises(FatalError, match=r"code\.pth: contains pathlib\.Path, which is code"):
        convert(tmp_path / "code.pth", one_blip[1] / "vocab.txt", tmp_path / "made")


def test_the_words_that_blip_adds_to_the_vocabulary_get_their_places(one_blip: Models, tmp_path: Path) -> None:
    """A checkpoint has two more rows than bert-base-uncased's list: [DEC], the begin token, and [ENC]."""
    state = torch.load(one_blip[1] / "blip.pth", weights_only=True)["model"]
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "cls.predictions.bias"):
        values = state[f"text_decoder.{name}"]
        state[f"text_decoder.{name}"] = torch.cat([values, values[:2]])
    state["text_decoder.cls.predictions.decoder.bias"] = state["text_decoder.cls.predictions.bias"]
    torch.save(state, tmp_path / "blip.pth")
    (tmp_path / "vocab.txt").write_text((one_blip[1] / "vocab.txt").read_text().replace("[DEC]", "[unused5]"))
    convert(tmp_path / "blip.pth", tmp_path / "vocab.txt", tmp_path / "made")
    captioner = BlipCaptioner(CaptionSettings(model=str(tmp_path / "made"), draws=1))
    assert captioner._prompt[0] == 90 and captioner._tokenizer.convert_tokens_to_ids("[ENC]") == 91
    assert captioner.caption([Image.new("RGB", (64, 64))], [1])[0][0].text


def test_the_vocabulary_of_another_model_is_refused(one_blip: Models, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[SEP]\na\n[DEC]")
    with pytest.raises(FatalError, match=r"the vocabulary has 5 words .* the checkpoint 90"):
        convert(one_blip[1] / "blip.pth", tmp_path / "vocab.txt", tmp_path / "made")
