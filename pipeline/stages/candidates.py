"""Where stage `tag` takes its candidates from: the settings, and the source that they name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from pipeline.runtime.settings import Settings, file_read
from storage.errors import FatalError
from tagger.candidates.cooccurrence import Cooccurrence, CooccurrenceError, read_cooccurrence
from tagger.candidates.grounding import ground
from tagger.candidates.official import official_candidates
from tagger.candidates.source import CandidateSource
from tagger.matching.official import Paraphrases, ParaphrasesError, read_paraphrases
from tagger.matching.readers import WORDINGS, NounReader, by_substrings, by_whole_words, by_whole_words_and


class CandidateSettings(Settings):
    """How triplets become candidates; non-default values are for comparison (docs/labels.md, Other ways to candidates)."""

    matching: Literal["words", "official"] = "words"
    """How nouns match categories. words: whole words, from the head noun; official: substrings, as in the authors' code."""
    paraphrases: Path | None = file_read(None)
    """JSON file of phrases by category, in the authors' format. With matching "words" they join the built-in
    synonyms, with "official" they replace them."""
    wording: Literal["canonical", "full", "official"] = "canonical"
    """How predicates are worded. canonical: "in front of"; full: "stand in front of"; official: like the authors' parser."""
    enumeration: Literal["mentions", "official"] = "mentions"
    """How pairs are listed. mentions: as alternatives of a mention; official: all ordered pairs as facts, as the authors do."""
    overlap: bool = False
    """Whether only pairs of boxes that intersect become candidates."""
    cooccurrence: Path | None = file_read(None)
    """JSON file of predicates by category pair, in the authors' format, used instead of captions; its content is in the key."""

    @model_validator(mode="after")
    def _captions_or_not(self) -> CandidateSettings:
        ways = (self.matching, self.wording, self.enumeration) != ("words", "canonical", "mentions")
        if self.cooccurrence is not None and (ways or self.paraphrases is not None):
            raise ValueError("cooccurrence: reads no captions; leave out matching, paraphrases, wording, enumeration")
        return self

    def files(self) -> dict[str, Path]:
        """The files whose content decides candidates, by role. Raises `FatalError` when one is missing."""
        named = {"paraphrases": self.paraphrases, "cooccurrence": self.cooccurrence}
        found = {role: path for role, path in named.items() if path is not None}
        for role, path in found.items():
            if not path.is_file():
                raise FatalError(f"tag.{role}: no file {path}; set it to an existing file or leave it out")
        return found


def open_candidates(settings: CandidateSettings) -> CandidateSource:
    """Open the source that the settings name. Raises `FatalError` when a file cannot be used."""
    try:
        if settings.cooccurrence is not None:
            return Cooccurrence(read_cooccurrence(settings.cooccurrence), settings.overlap)
        paraphrases = read_paraphrases(settings.paraphrases) if settings.paraphrases is not None else {}
    except (CooccurrenceError, ParaphrasesError) as error:
        raise FatalError(f"tag: {error}") from error
    nouns, wording = noun_reader(settings, paraphrases), WORDINGS[settings.wording]
    if settings.enumeration == "official":
        return lambda triplets, boxes, captions=(), known=(): official_candidates(
            triplets, boxes, nouns, wording, settings.overlap, known
        )
    return partial(ground, nouns=nouns, wording=wording, overlapping=settings.overlap)


def noun_reader(settings: CandidateSettings, paraphrases: Paraphrases) -> NounReader:
    """The function that matches nouns to categories."""
    if settings.matching == "official":
        return by_substrings(paraphrases)
    return by_whole_words_and(paraphrases) if paraphrases else by_whole_words
