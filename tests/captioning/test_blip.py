"""The BLIP captioner: seeded by image and draw, equal to transformers where comparable, on the device asked for."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from transformers import BlipForConditionalGeneration

from pipeline.captioning.blip import BlipCaptioner
from pipeline.captioning.captioner import Caption
from pipeline.captioning.settings import CaptionSettings
from pipeline.runtime.devices import choose_device
from storage.errors import FatalError

Pictures = list[Image.Image]


def captioner(folder: Path, **settings: Any) -> BlipCaptioner:
    return BlipCaptioner(CaptionSettings(model=str(folder), **settings))


def captions(folder: Path, pictures: Pictures, ids: list[int], **settings: Any) -> dict[int, list[Caption]]:
    return dict(zip(ids, captioner(folder, **settings).caption(pictures, ids), strict=True))


def texts(drawn: list[Caption]) -> list[str]:
    return [caption.text for caption in drawn]


@pytest.fixture(scope="module")
def whole(blip_folder: Path, pictures: Pictures) -> dict[int, list[Caption]]:
    """All images in one batch: every other batching must give the same bits."""
    return captions(blip_folder, pictures, list(range(100, 111)), draws=6, batch_size=64)


def test_captions_are_words_that_end_at_different_lengths(whole):
    lengths = {len(caption.text.split()) for drawn in whole.values() for caption in drawn}
    assert len(lengths) > 4
    assert max(lengths) <= 20 - 4
    found = [text for drawn in whole.values() for text in texts(drawn)]
    assert all(text and "picture" not in text.split() and "[" not in text for text in found)
    assert len(set(found)) > len(found) / 2


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (2, 2), (8, 1)])
def test_batch_size_and_threads_change_no_bit(blip_folder, pictures, whole, batch_size, threads):
    torch.set_num_threads(threads)
    try:
        assert captions(blip_folder, pictures, list(range(100, 111)), draws=6, batch_size=batch_size) == whole
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    "settings", [{"draws": 6}, {"draws": 4, "precision": "bfloat16"}, {"decoding": "beam"}], ids=str
)
def test_order_and_neighbours_change_no_bit(blip_folder, pictures, settings):
    order = [7, 2, 10, 0, 5]
    together = captions(blip_folder, pictures, list(range(100, 111)), batch_size=16, **settings)
    ids = [100 + i for i in order]
    found = captions(blip_folder, [pictures[i] for i in order], ids, batch_size=2, **settings)
    assert found == {image_id: together[image_id] for image_id in ids}


def test_fewer_draws_are_the_first_of_more(blip_folder, pictures, whole):
    fewer = captions(blip_folder, pictures[:2], [100, 101], draws=2)
    assert {image_id: texts(drawn) for image_id, drawn in fewer.items()} == {
        image_id: texts(whole[image_id][:2]) for image_id in (100, 101)
    }


def test_seed_and_image_id_decide_the_draws(blip_folder, pictures, whole):
    other_seed = captions(blip_folder, pictures[:1], [100], draws=6, seed=1)[100]
    other_id = captions(blip_folder, pictures[:1], [-9], draws=6)[-9]
    assert texts(other_seed) != texts(whole[100])
    assert texts(other_id) != texts(whole[100])
    assert [caption.draw for caption in other_id] == list(range(6))
    assert {caption.seed for caption in other_seed} == {1}


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("prompt", ["a picture of ", ""])
def test_without_temperature_it_says_what_transformers_says_greedily(blip_folder, pictures, penalty, prompt):
    ours = captioner(blip_folder, temperature=0, draws=2, repetition_penalty=penalty, prompt=prompt, min_length=8)
    found = ours.caption(pictures, range(len(pictures)))
    model = BlipForConditionalGeneration.from_pretrained(blip_folder).eval()
    tokenizer: Any = ours._tokenizer
    ids = tokenizer([prompt.strip()] * len(pictures), return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        tokens = model.generate(
            pixel_values=ours.pixels(pictures), input_ids=ids, do_sample=False, max_length=20, min_length=8,
            repetition_penalty=penalty,
        )  # fmt: skip
    expected = tokenizer.batch_decode(tokens[:, ids.shape[1] - 1 :], skip_special_tokens=True)
    assert [texts(drawn) for drawn in found] == [[text, text] for text in expected]


def test_beam_search_gives_one_caption_at_least_as_likely_as_the_greedy_one(blip_folder, pictures):
    ids = range(len(pictures))
    beams = captioner(blip_folder, decoding="beam", num_beams=4).caption(pictures, ids)
    greedy = captioner(blip_folder, temperature=0, draws=1, repetition_penalty=1.0).caption(pictures, ids)
    assert [len(drawn) for drawn in beams] == [1] * len(pictures)
    # Beams compare by likelihood per token, so a single image may lose; all together must win.
    assert sum(_score(drawn) for drawn in beams) > sum(_score(drawn) for drawn in greedy)


def test_pixels_are_normalised_as_the_folder_says(blip_folder, pictures, tmp_path):
    folder = Path(shutil.copytree(blip_folder, tmp_path / "model"))
    stated = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    white = Image.new("RGB", (64, 64), (255, 255, 255))
    assert captioner(folder).pixels([white])[0, :, 0, 0].tolist() == [2.0, 1.0, 0.5]
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": stated}))
    assert captioner(folder).pixels([white])[0, :, 0, 0].tolist() == [2.0, 1.0, 0.5]
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.0, 0.0, 0.0]}))
    assert captioner(folder).pixels([white])[0, :, 0, 0].tolist() == [2.0, 1.0, 0.5]
    assert captioner(blip_folder).pixels([white])[0, 0, 0, 0] == pytest.approx((1 - 0.48145466) / 0.26862954)


def test_log_probability_is_the_models_own(blip_folder, pictures):
    ours = captioner(blip_folder, draws=3)
    found = ours.caption(pictures[:1], [4])[0]
    model = BlipForConditionalGeneration.from_pretrained(blip_folder).eval()
    for caption in found:
        words = ours._tokenizer(caption.text, add_special_tokens=False)["input_ids"]
        sequence = [5, 6, 7, 8, *words]
        if len(sequence) < 20:
            sequence.append(3)
        with torch.inference_mode():
            logits = model(pixel_values=ours.pixels(pictures[:1]), input_ids=torch.tensor([sequence])).logits[0]
        steps = logits.log_softmax(-1)[3:-1].gather(1, torch.tensor(sequence[4:])[:, None])
        assert caption.log_probability == pytest.approx(float(steps.sum()), abs=1e-3)


def test_draws_follow_the_distribution(blip_folder, pictures):
    """Compare the first words of many draws with the probabilities that transformers' own warpers leave."""
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    ours = captioner(blip_folder, draws=256, max_length=5, min_length=0, top_k=12, top_p=0.8, repetition_penalty=1.0)
    ids = list(range(20))
    drawn = ours.caption([pictures[0]] * len(ids), ids)
    firsts = [caption.text for captions in drawn for caption in captions]
    model = BlipForConditionalGeneration.from_pretrained(blip_folder).eval()
    with torch.inference_mode():
        logits = model(pixel_values=ours.pixels(pictures[:1]), input_ids=torch.tensor([[5, 6, 7, 8]])).logits[:, -1]
        warped = TopPLogitsWarper(0.8)(None, TopKLogitsWarper(12)(None, logits))
    expected = warped.softmax(-1)[0]
    counts = np.zeros(len(expected))
    for text in firsts:
        counts[ours._tokenizer.convert_tokens_to_ids(text) if text else 3] += 1
    assert set(np.flatnonzero(counts)) == set(np.flatnonzero(expected.numpy() > 0))
    assert np.abs(counts / counts.sum() - expected.numpy()).sum() < 0.05


def test_a_missing_model_names_setting_and_ways(tmp_path):
    with pytest.raises(FatalError, match=r"(?s)nowhere.*setting: model.*set model to a folder.*hub = true"):
        captioner(tmp_path / "nowhere")
    with pytest.raises(FatalError, match=r"(?s)some/model.*hub = false.*hub = true"):
        BlipCaptioner(CaptionSettings(model="some/model-that-nobody-has"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_names_it(blip_folder, tmp_path, name):
    folder = Path(shutil.copytree(blip_folder, tmp_path / "model"))
    (folder / name).unlink()
    (folder / "vocab.txt").unlink()
    with pytest.raises(FatalError, match=rf"lacks .*{name}"):
        captioner(folder)


@pytest.mark.parametrize("settings, message", [
    ({"prompt": "a photograph of"}, r"prompt 'a photograph of'.*setting: prompt"),
    ({"max_length": 4, "min_length": 0}, "leave no room"),
    ({"max_length": 128}, r"max_length: 128 tokens, but the model has \d+ positions; lower it"),
])  # fmt: skip
def test_a_prompt_that_can_not_be_used_stops(blip_folder, settings, message):
    with pytest.raises(FatalError, match=message):
        captioner(blip_folder, **settings)


def _score(drawn: list[Caption]) -> float:
    assert drawn[0].log_probability is not None
    return drawn[0].log_probability / max(1, len(drawn[0].text.split()))


@pytest.mark.parametrize(
    ("setting", "gpus", "worker", "expected"),
    [
        ("auto", 0, 3, "cpu"), ("auto", 2, 0, "cuda:0"), ("auto", 2, 1, "cuda:1"), ("auto", 2, 2, "cuda:0"),
        ("cpu", 2, 1, "cpu"), ("cuda", 4, 6, "cuda:2"), ("cuda:1", 2, 0, "cuda:1"), ("cuda:1", 2, 5, "cuda:1"),
    ],
)  # fmt: skip
def test_workers_share_the_gpus_in_turn(monkeypatch, setting, gpus, worker, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert choose_device(setting, worker) == torch.device(expected)
    assert torch.backends.cudnn.allow_tf32 == (expected == "cpu")


@pytest.mark.parametrize(("setting", "gpus", "there"), [("cuda", 0, "none"), ("cuda:2", 2, "cuda:0 to cuda:1")])
def test_a_gpu_that_is_not_there_stops(monkeypatch, blip_folder, setting, gpus, there):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(FatalError, match=rf"'{setting}': .*no such GPU \(available: {there}\).*'auto' or 'cpu'"):
        BlipCaptioner(CaptionSettings(model=str(blip_folder), device=setting))


def test_the_device_is_in_no_key_and_is_checked_when_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert CaptionSettings(device="cuda:1").row_settings() == CaptionSettings(device="cpu").row_settings()
    for wrong in ("gpu", "cuda:", "cuda:x", "mps"):
        with pytest.raises(ValidationError, match="device"):
            CaptionSettings(device=wrong)
        with pytest.raises(FatalError, match=rf"device = '{wrong}': no such device; set it to auto, cpu, cuda"):
            choose_device(wrong)
    with pytest.raises(ValidationError, match="'lavis' runs on the CPU only"):
        CaptionSettings(captioner="lavis", device="cuda")
