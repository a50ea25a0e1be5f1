"""The shipped captioner and tokenizer load like any BLIP and RoBERTa, captions are true, and training resumes."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertTokenizer, BlipForConditionalGeneration, BlipProcessor, RobertaTokenizer

from benchmarks.captioner import measure
from scenes.captioner_model import DEC, PROMPT, SEP, Learner, export, words
from scenes.names import CANONICAL, COCO_CATEGORIES, PREDICATES
from scenes.scene import render
from scenes.train_captioner import PARTS, Feed, ImageCache, load_checkpoint, normalise, render_small, save_checkpoint
from scenes.train_text_tokenizer import write_tokenizer
from scenes.world import make_scene

SEED = 777_777


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "scenes/weights/captioner"


@pytest.fixture(scope="module")
def model(folder: Path) -> BlipForConditionalGeneration:
    return BlipForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()


def test_files_are_small_and_half_precision(folder):
    assert (folder / "model.safetensors").stat().st_size <= 5_000_000
    assert (folder / "README.md").is_file()
    assert not list(folder.glob("*.bin"))


@pytest.mark.parametrize("loader", [AutoTokenizer, BertTokenizer])
def test_tokenizer_and_model_agree(folder, model, loader):
    tokenizer = loader.from_pretrained(folder, local_files_only=True)
    assert len(tokenizer) == model.config.text_config.vocab_size == len(words())
    assert tokenizer.convert_ids_to_tokens(list(range(len(words())))) == words()
    text = model.config.text_config
    assert tokenizer.sep_token_id == text.sep_token_id == SEP
    assert text.bos_token_id == DEC and tokenizer.pad_token_id == text.pad_token_id
    assert tokenizer(PROMPT)["input_ids"][1:-1] == [words().index(word) for word in PROMPT.split()]


def test_processor_sees_what_training_saw(folder):
    processor = BlipProcessor.from_pretrained(folder, local_files_only=True)
    scene = make_scene(SEED, 0)
    pixels = processor(images=render(scene), text=PROMPT, return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels, normalise(render_small(scene)[None]), atol=0.05)


def test_captions_are_mostly_true(folder):
    true, stated = measure(Namespace(scenes=24, captioner=folder))
    assert true.ours >= 0.6 and stated.ours >= 0.75, (true, stated)


@pytest.mark.parametrize("loader", [AutoTokenizer, RobertaTokenizer])
def test_loads_as_roberta(root, loader):
    tokenizer = loader.from_pretrained(root / "scenes/weights/text", local_files_only=True)
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    batch = tokenizer(["person", "riding a horse"], padding=True)
    assert batch["input_ids"][0][0] == 0 and batch["input_ids"][0][-1] == 1


def test_any_string_survives_and_names_are_short(root):
    tokenizer = RobertaTokenizer.from_pretrained(root / "scenes/weights/text", local_files_only=True)
    for text in ("zebra crossing", "café 中文 🙂", "no objects", "A  b\tc"):
        ids = tokenizer(text)["input_ids"]
        assert 3 not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text
    for name in (*COCO_CATEGORIES, *PREDICATES, *CANONICAL.values()):
        assert len(tokenizer.tokenize(name)) <= 3, name


def test_the_script_makes_the_shipped_files(root, tmp_path):
    write_tokenizer(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_text() == (root / "scenes/weights/text" / name).read_text()


def steps(learner: Learner, optimizer: torch.optim.Optimizer, feed: Feed, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        loss = learner(feed.batch(step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    cache = ImageCache.open(tmp_path_factory.mktemp("images"), 50, 16, processes=1)
    return Feed(cache, seed=50, batch=4, captions=2)


def fresh(feed: Feed) -> tuple[Learner, torch.optim.Optimizer]:
    torch.manual_seed(0)
    learner = Learner(len(PARTS), len(feed.triplets))
    return learner, torch.optim.AdamW(learner.groups(decay=0.05), lr=1e-3)


def test_goes_on_as_if_never_stopped(feed, tmp_path):
    learner, optimizer = fresh(feed)
    whole = steps(learner, optimizer, feed, 0, 4)
    learner, optimizer = fresh(feed)
    first = steps(learner, optimizer, feed, 0, 2)
    save_checkpoint(tmp_path / "c.pt", learner, optimizer, 2, 12.5)
    learner, optimizer = fresh(feed)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
    step, seconds = load_checkpoint(tmp_path / "c.pt", learner, optimizer)
    assert (step, seconds) == (2, 12.5)
    assert first + steps(learner, optimizer, feed, step, 4) == whole
    assert whole[-1] < whole[0]


def test_captions_in_a_row_do_not_see_each_other(feed):
    batch = feed.batch(0)
    sees = batch["mask"][:, 0] == 0
    places = batch["places"]
    for row in range(places.shape[0]):
        for token in range(places.shape[1]):
            if batch["targets"][row, token] >= 0:
                seen = places[row][sees[row, token]].tolist()
                assert seen == list(range(int(places[row, token]) + 1))


def test_exported_model_is_the_trained_one(feed, tmp_path):
    learner, _ = fresh(feed)
    export(learner.captioner, tmp_path)
    loaded = BlipForConditionalGeneration.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.dtype == torch.float32
    names = dict(loaded.named_parameters())
    for name, parameter in learner.captioner.named_parameters():
        assert torch.allclose(names[name], parameter, atol=2e-3), name
    assert sum(p.numel() for p in loaded.parameters()) <= 2_400_000
