"""Parses captions with a sequence-to-sequence model that writes scene graphs, restricted to the caption's own words."""

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tagger.english.lemmas import WORD, noun_lemma, phrase_lemma, verb_lemma
from tagger.english.predicates import canonical
from tagger.english.words import DETERMINERS, FUNCTION_WORDS, NUMBERS, SEVERAL, tokens_of
from tagger.parsing.parser import refusal
from tagger.triplet import Triplet

RULE = "neural"
PROMPT = "Generate Scene Graph: "
"""Prompt that the models of FactualSceneGraph were trained with."""

_FACT = re.compile(r"\(([^()]*)\)")
_ATTRIBUTE = "is"
_COUNTS = {**dict.fromkeys(SEVERAL, 0), **NUMBERS}

Place = tuple[int, int]
"""Character range of the caption, end exclusive."""


class NeuralParserError(RuntimeError):
    """A model folder cannot be used."""


class NeuralParser:
    """Parses captions with a scene-graph model of transformers; it is called like `parse_captions`.

    The model writes facts such as "( man , ride , horse ) , ( horse , is , brown )". A fact counts only if the caption
    has its nouns and predicate, by lemma and at separate positions; attributes go to the nouns that they describe.
    """

    def __init__(self, folder: Path, batch_size: int = 32, longest: int = 200) -> None:
        """`longest`: maximum number of tokens of a graph. Raises NeuralParserError when the folder cannot be used."""
        if not folder.is_dir():
            raise NeuralParserError(
                f"{folder}: folder not found; name one with config.json, safetensors weights and a tokenizer"
            )
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            # Loading a pickle could run code.
            model, loading = AutoModelForSeq2SeqLM.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            if missing := sorted(loading["missing_keys"]):  # transformers draws them at random
                raise ValueError(f"it lacks {missing[:3]}")
        except Exception as error:  # a faulty folder shows as any kind of error
            raise NeuralParserError(f"{folder}: {error}; name a sequence-to-sequence model of transformers") from error
        self._model = model.eval()
        self._batch_size, self._longest = batch_size, longest
        self.unsupported_facts = 0
        """Number of facts that were ignored because the caption lacks their words."""

    def __call__(self, captions: Sequence[str]) -> list[list[Triplet]]:
        """Returns the triplets of each caption, in order; refused captions (`refusal`) give [].

        A batch holds captions of equal length in tokens: nothing is padded, so other captions never change a result.
        """
        distinct = [caption for caption in dict.fromkeys(captions) if refusal(caption) is None]
        graphs = dict(self._written(distinct))
        read = [supported_triplets(caption, graphs.get(caption, "")) for caption in captions]
        self.unsupported_facts += sum(unsupported for _, unsupported in read)
        return [triplets for triplets, _ in read]

    def _written(self, captions: Sequence[str]) -> Iterator[tuple[str, str]]:
        by_length: dict[int, list[tuple[str, list[int]]]] = {}
        for caption in captions:
            tokens = self._tokenizer(PROMPT + caption.lower(), truncation=True, max_length=512)["input_ids"]
            by_length.setdefault(len(tokens), []).append((caption, tokens))
        for members in by_length.values():
            for start in range(0, len(members), self._batch_size):
                batch = members[start : start + self._batch_size]
                with torch.inference_mode():
                    written = self._model.generate(
                        input_ids=torch.tensor([tokens for _, tokens in batch]),
                        attention_mask=torch.ones(len(batch), len(batch[0][1]), dtype=torch.long),
                        max_new_tokens=self._longest,
                        do_sample=False,
                        num_beams=1,
                    )
                texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
                yield from zip((caption for caption, _ in batch), texts, strict=True)


def supported_triplets(caption: str, graph: str) -> tuple[list[Triplet], int]:
    """Returns the triplets of a written graph that the caption has words for, and the number of other facts."""
    facts = [[part.strip() for part in fact.split(",")] for fact in _FACT.findall(graph)]
    stated = [fact for fact in facts if len(fact) == 3 and all(fact)]
    attributes: dict[str, list[str]] = {}
    for noun, verb, value in stated:
        if verb == _ATTRIBUTE and _find(caption, value, noun=False) is not None:
            attributes.setdefault(phrase_lemma(noun), []).append(value.lower())
    relations = dict.fromkeys(tuple(fact) for fact in stated if fact[1] != _ATTRIBUTE)
    read = [_triplet(caption, subject, predicate, object_, attributes) for subject, predicate, object_ in relations]
    supported: dict[tuple[str, str, str], Triplet] = {}
    for triplet in filter(None, read):
        supported.setdefault((triplet.subject_lemma, triplet.predicate_lemma, triplet.object_lemma), triplet)
    return list(supported.values()), len(facts) - len(stated) + read.count(None)


def _triplet(
    caption: str, subject: str, predicate: str, object_: str, attributes: dict[str, list[str]]
) -> Triplet | None:
    subject_place = _find(caption, subject, noun=True)
    object_place = subject_place and _find(caption, object_, noun=True, taken=[subject_place])
    if subject_place is None or object_place is None:
        return None
    predicate_place = _find(caption, predicate, noun=False, taken=[subject_place, object_place])
    canonical_form = canonical(predicate)
    if predicate_place is None or not canonical_form:
        return None
    lemmas = phrase_lemma(subject), phrase_lemma(object_)
    return Triplet(
        subject=caption[slice(*subject_place)],
        subject_lemma=lemmas[0],
        predicate=caption[slice(*predicate_place)],
        predicate_lemma=canonical_form,
        object=caption[slice(*object_place)],
        object_lemma=lemmas[1],
        subject_start=subject_place[0],
        subject_end=subject_place[1],
        predicate_start=predicate_place[0],
        predicate_end=predicate_place[1],
        object_start=object_place[0],
        object_end=object_place[1],
        rule=RULE,
        subject_count=_count(caption, subject_place),
        object_count=_count(caption, object_place),
        subject_attributes=tuple(attributes.get(lemmas[0], ())),
        object_attributes=tuple(attributes.get(lemmas[1], ())),
    )


def _count(caption: str, noun: Place) -> int:
    """Returns how many a noun means: the number among the two words before it, or as `Triplet` says.

    The article of "a man's shoes" or "a couple people" is not a plural's.
    """
    before = takewhile(lambda word: word not in FUNCTION_WORDS, reversed(tokens_of(caption[: noun[0]])[-2:]))
    stated = next((_COUNTS[word] for word in before if word in _COUNTS), None)
    last = WORD.findall(caption[slice(*noun)].lower())[-1]
    return int(noun_lemma(last) == last) if stated in (None, 1) else stated


def _find(caption: str, words: str, noun: bool, taken: Sequence[Place] = ()) -> Place | None:
    """Finds where the caption has the words in sequence, by lemma, outside of `taken`; ignores articles."""
    lemma = noun_lemma if noun else _predicate_lemma
    wanted = [lemma(word) for word in WORD.findall(words.lower()) if word not in DETERMINERS]
    tokens = [
        (lemma(match.group()), match.span())
        # Lower case may be longer, which would move places.
        for match in WORD.finditer(caption.lower() if len(caption.lower()) == len(caption) else caption)
        if match.group() not in DETERMINERS
    ]
    for start in range(len(tokens) - len(wanted) + 1 if wanted else 0):
        window = tokens[start : start + len(wanted)]
        place = window[0][1][0], window[-1][1][1]
        apart = all(place[1] <= other[0] or place[0] >= other[1] for other in taken)
        if apart and [word for word, _ in window] == wanted:
            return place
    return None


def _predicate_lemma(word: str) -> str:
    return word if word in FUNCTION_WORDS else verb_lemma(word)
