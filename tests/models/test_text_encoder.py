"""Features of label texts: each text is encoded by itself, and once."""

import shutil
from dataclasses import replace

import pytest
import torch
from tokenizers import BertWordPieceTokenizer
from transformers import AutoModel

from models.config import ConfigError
from models.text_encoder import LabelTokenizer, TextEncoder

LABELS = ["person", "traffic light", "person", "dog"]


@pytest.fixture
def encoder(small_config, tokenizer):
    return TextEncoder(small_config.text, tokenizer).eval()


@pytest.fixture
def encoded_rows(encoder, monkeypatch):
    """Number of texts that each call of the language model encoded."""
    rows, plain = [], encoder.encode_tokens
    monkeypatch.setattr(encoder, "encode_tokens", lambda ids, mask: rows.append(len(ids)) or plain(ids, mask))
    return rows


def test_a_text_given_twice_is_encoded_once(encoder, encoded_rows):
    features = encoder(LABELS)
    assert encoded_rows == [3] and features.shape == (4, 32)
    assert torch.equal(features[0], features[2])
    assert (features[0] - features[1]).abs().max() > 1e-4


def test_texts_are_encoded_each_by_itself(encoder):
    together = encoder(["person", "a text that is far longer than any label should be"])
    torch.testing.assert_close(together[:1], encoder(["person"]), atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def word_pieces(tmp_path_factory):
    """Folder with a tokenizer like BERT's."""
    folder = tmp_path_factory.mktemp("word_pieces")
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(["person dog bicycle traffic light riding"] * 4, vocab_size=200, show_progress=False)
    pieces.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


def test_bert_in_place_of_roberta(small_config, word_pieces):
    encoder = TextEncoder(replace(small_config.text, kind="bert"), word_pieces).eval()
    assert type(encoder.roberta).__name__ == "BertModel"
    features = encoder(LABELS)
    assert features.shape == (4, 32) and (features[0] - features[1]).abs().max() > 1e-4
    torch.testing.assert_close(features[:1], encoder(["person"]), atol=1e-6, rtol=0)


def test_a_tokenizer_kept_without_its_config_is_of_the_encoder_s_kind(small_config, word_pieces, tmp_path):
    BertWordPieceTokenizer(str(word_pieces / "vocab.txt"), lowercase=True).save(str(tmp_path / "tokenizer.json"))
    config = replace(small_config.text, kind="bert")
    assert torch.equal(LabelTokenizer(tmp_path, config)(LABELS).ids, LabelTokenizer(word_pieces, config)(LABELS).ids)


def test_a_tokenizer_of_another_kind_is_refused(small_config, tokenizer, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer / name, tmp_path)
    with pytest.raises(ConfigError, match=r"bert reads none of its files; .* tokenizer\.json or vocab\.txt"):
        LabelTokenizer(tmp_path, replace(small_config.text, kind="bert"))


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_features_and_gradients_are_those_of_the_whole_language_model(small_config, kind):
    encoder = TextEncoder(replace(small_config.text, kind=kind, dropout=0.0), None)
    whole = AutoModel.from_config(encoder.roberta.config)
    whole.load_state_dict(encoder.roberta.state_dict())
    ids, mask = torch.randint(4, 100, (3, 6)), torch.ones(3, 6).tril(2)
    ours, theirs = encoder.encode_tokens(ids, mask), whole(input_ids=ids, attention_mask=mask).pooler_output
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    for features in (ours, theirs):
        features.square().sum().backward()
    for (name, one), other in zip(encoder.roberta.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["no_such_model", "t5", "resnet"])
def test_encoders_without_a_pooled_output_are_refused(small_config, kind):
    with pytest.raises(ConfigError, match=kind):
        TextEncoder(replace(small_config.text, kind=kind), None)


def test_bad_and_missing_tokenizers_are_named(small_config, tokenizer, word_pieces, tmp_path):
    with pytest.raises(ConfigError, match=r"vocab\.json"):
        TextEncoder(small_config.text, tmp_path)
    with pytest.raises(ConfigError, match="vocabulary"):
        TextEncoder(replace(small_config.text, vocabulary=50), tokenizer)
    with pytest.raises(ConfigError, match="tokenizer"):
        TextEncoder(small_config.text, None)(["person"])
    shutil.copy(tokenizer / "vocab.json", tmp_path)
    with pytest.raises(ConfigError, match=r"vocab\.json with merges\.txt"):
        TextEncoder(small_config.text, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="its tokenizer can't be read"):
        TextEncoder(small_config.text, tmp_path)


def test_a_name_that_is_cut_is_reported(encoder):
    with pytest.warns(UserWarning, match=r"reads only 14 tokens .*of longer names, such as 'dog (dog )+'"):
        encoder(["person", "dog " * 20])
