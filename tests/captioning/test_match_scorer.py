"""The filter: its scores are those of transformers' matching head, and the stage keeps the captions that it should."""

from pathlib import Path
from typing import Any

import pytest
import torch
from caption_rows import caption_rows
from transformers import AutoTokenizer, BertTokenizer, BlipConfig, BlipForImageTextRetrieval

from pipeline.captioning.blip import BlipCaptioner, MatchScorer
from pipeline.captioning.settings import CaptionSettings
from storage.errors import FatalError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(40)), "[DEC]", "[ENC]"]
TEXTS = ["word1 word2", "word9", "word3 word3 word30 word31 word5", "word1 word2"]


@pytest.fixture(scope="module")
def matcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("matcher") / "model"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    special = {"bos_token_id": WORDS.index("[DEC]"), "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    text = {**sizes, **special, "vocab_size": len(WORDS), "encoder_hidden_size": 48, "max_position_embeddings": 40}
    torch.manual_seed(1)
    model = BlipForImageTextRetrieval(
        BlipConfig(vision_config={**sizes, "image_size": 64, "patch_size": 16}, text_config=text)
    )
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.25)
    model.save_pretrained(folder)
    return folder


def settings(matcher: Path, **changed: Any) -> CaptionSettings:
    return CaptionSettings(filter=str(matcher), **changed)


def test_scores_are_those_of_transformers(matcher, pictures):
    scorer = MatchScorer(settings(matcher))
    model = BlipForImageTextRetrieval.from_pretrained(matcher).eval()
    tokens: Any = AutoTokenizer.from_pretrained(matcher)(TEXTS, padding=True, return_tensors="pt")
    tokens["input_ids"][:, 0] = WORDS.index("[ENC]")
    seen = set()
    for picture in pictures[:3]:
        with torch.inference_mode():
            pixels = scorer.pixels([picture]).expand(len(TEXTS), -1, -1, -1)
            expected = model(tokens["input_ids"], pixels, attention_mask=tokens["attention_mask"]).itm_score
        found = scorer.scores(picture, TEXTS)
        assert found == pytest.approx(expected.softmax(-1)[:, 1].tolist(), abs=1e-5)
        assert found[0] == found[3]
        seen |= set(found)
    assert len(seen) == 9


def test_bfloat16_scores_are_near(matcher, pictures):
    scorers = [MatchScorer(settings(matcher, precision=precision)) for precision in ("float32", "bfloat16")]
    exact, rough = (scorer.scores(pictures[0], TEXTS) for scorer in scorers)
    assert scorers[0].scores(pictures[0], []) == []
    assert rough == pytest.approx(exact, abs=0.05) and rough != exact


def test_weights_of_another_kind_are_reported(matcher, blip_folder, tmp_path):
    with pytest.raises(FatalError, match=r"not a BlipForConditionalGeneration: it lacks .*setting: model"):
        BlipCaptioner(CaptionSettings(model=str(matcher)))
    with pytest.raises(FatalError, match=r"not a BlipForImageTextRetrieval: it lacks .*setting: filter"):
        MatchScorer(settings(blip_folder))
    with pytest.raises(FatalError, match=r"setting: filter.*Either set filter to a folder"):
        MatchScorer(settings(tmp_path / "nowhere"))


def test_the_stage_keeps_what_matches_and_stores_scores(matcher, blip_folder, pictures, tmp_path):
    plain: dict[str, Any] = {"model": str(blip_folder), "draws": 4}
    without, facts = caption_rows(tmp_path / "set", pictures[:4], **plain)
    assert {c["match"] for found in without for c in found} == {None} and "captions_filtered" not in facts
    scored, facts = caption_rows(tmp_path / "set", pictures[:4], **plain, filter=str(matcher), match_at_least=0.0)
    assert [[c["text"] for c in found] for found in scored] == [[c["text"] for c in found] for found in without]
    assert facts["captions_filtered"] == 0
    scores = sorted(c["match"] for found in scored for c in found)
    least = (scores[7] + scores[8]) / 2
    kept, facts = caption_rows(tmp_path / "set", pictures[:4], **plain, filter=str(matcher), match_at_least=least)
    assert kept == [[c for c in found if c["match"] >= least] for found in scored]
    assert (facts["captions"], facts["captions_filtered"]) == (8, 8)
