"""Cached parts of speech equal the ruler's own."""

import spacy
from hypothesis import given, settings
from hypothesis import strategies as st

from tagger.english.words import words
from tagger.parsing.parser import DEFAULT_PARSER, RULER, PartsOfSpeech, load_parser

WORDS = words(
    "a the man men is are be has having to that there it not n't 's and while in on riding ridden sat dog dogs red two "
    "what which who when because so do does can let us gonna New York 3 ! é"
)
SPACES = {"\n", "\t"}
PLAIN = spacy.load(DEFAULT_PARSER, exclude=["ner", "senter", "lemmatizer"])


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(sorted(WORDS | SPACES)), max_size=14), min_size=1, max_size=4))
def test_they_are_the_rulers(captions: list[list[str]]) -> None:
    quick, remembered = load_parser(), PartsOfSpeech(load_parser())
    assert RULER in quick.disabled
    for caption in [" ".join(caption) for caption in captions] * 2:
        wanted = PLAIN(caption)
        given_ = remembered(quick(caption))
        assert [(t.text, t.pos_) for t in given_] == [(t.text, t.pos_) for t in wanted]


def test_a_ruler_that_looks_further_is_left_as_it_is() -> None:
    parser = spacy.blank("en")
    assert not PartsOfSpeech.suits(parser)
    ruler = parser.add_pipe(RULER)
    ruler.add([[{"TAG": "NN"}], [{"LOWER": {"IN": ["a", "an"]}}]], {"POS": "NOUN"})
    assert PartsOfSpeech.suits(parser)
    ruler.add([[{"TAG": "NN"}, {"TAG": "NN"}]], {"POS": "PROPN"}, index=0)
    assert not PartsOfSpeech.suits(parser)
