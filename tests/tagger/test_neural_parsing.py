"""The scene-graph parser is restricted to the caption's words and is called like the rule-based one."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file
from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

from tagger.parsing.neural import NeuralParser, NeuralParserError, supported_triplets
from tests.tagger.test_parsing import stated

CAPTION = "Two men riding on brown horses near a big tree"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a few thousand weights."""
    made = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tokenizer = ByT5Tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


def test_facts_get_their_places_and_attributes() -> None:
    [triplet], refused = supported_triplets(CAPTION, "( man , ride on , horse ) , ( horse , is , brown )")
    assert refused == 0
    assert (triplet.subject, triplet.predicate, triplet.object) == ("men", "riding on", "horses")
    assert CAPTION[triplet.predicate_start : triplet.predicate_end] == "riding on"
    assert (triplet.subject_lemma, triplet.predicate_lemma, triplet.rule) == ("man", "ride", "neural")
    assert triplet.object_attributes == ("brown",)
    assert (triplet.subject_count, triplet.object_count) == (2, 0)
    [owned], _ = supported_triplets("a man's shoes next to a sheep", "( shoes , next to , sheep )")
    assert (owned.subject_count, owned.object_count) == (0, 1)


@pytest.mark.parametrize(
    "fact",
    ["( man , talk on , phone )", "( man , wear , horse )", "( dog , near , tree )", "( tree , near , tree )",
     "( man , horses , men )", "( man , near )", "( , , )"],
)  # fmt: skip
def test_what_the_caption_does_not_say_is_left_out_and_counted(fact: str) -> None:
    triplets, refused = supported_triplets(CAPTION, f"{fact} , ( horse , near , tree )")
    assert (stated(triplets), refused) == ({"horse near tree"}, 1)


def test_a_fact_in_two_forms_counts_once_and_none_of_them_as_left_out() -> None:
    triplets, refused = supported_triplets(CAPTION, "( man , ride on , horse ) , ( men , riding on , horses )")
    assert (len(triplets), refused) == (1, 0)


@given(st.text(max_size=60), st.text(max_size=80))
def test_any_graph_of_any_caption_is_read_and_every_word_is_the_captions(caption: str, graph: str) -> None:
    for text in (graph, f"( {caption} , on , {graph} )", f"( {caption[:5]} , {caption[5:9]} , {caption[9:]} )"):
        for t in supported_triplets(caption, text)[0]:
            assert caption[t.subject_start : t.subject_end] == t.subject
            assert caption[t.predicate_start : t.predicate_end] == t.predicate
            assert caption[t.object_start : t.object_end] == t.object


def test_a_model_folder_parses_like_the_rules(folder: Path) -> None:
    parse = NeuralParser(folder, batch_size=2, longest=12)
    captions = [CAPTION, "", "a cat", "a dog", "a cow", "a cat"]
    found = parse(captions)
    assert len(found) == 6
    assert parse(["a cow"]) == [found[4]]


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(NeuralParserError, match="none: folder not found"):
        NeuralParser(tmp_path / "none")
    with pytest.raises(NeuralParserError, match=tmp_path.name):
        NeuralParser(tmp_path)


def test_weights_that_are_incomplete_or_damaged_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    lacking = tensors.pop("decoder.final_layer_norm.weight")
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(NeuralParserError, match=r"lacks \['decoder.final_layer_norm.weight'\]"):
        NeuralParser(tmp_path)
    save_file({**tensors, "decoder.final_layer_norm.weight": lacking[:1].clone()}, weights, {"format": "pt"})
    with pytest.raises(NeuralParserError, match=tmp_path.name):
        NeuralParser(tmp_path)
    weights.write_bytes(b"<html>")
    with pytest.raises(NeuralParserError, match=tmp_path.name):
        NeuralParser(tmp_path)
