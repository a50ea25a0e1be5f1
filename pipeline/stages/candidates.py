"""Where stage `tag` takes its candidates from: settings and the source that they name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from pipeline.runtime.settings import Settings, runtime
from storage.errors import FatalError
from tagger.candidates.cooccurrence import Cooccurrence, CooccurrenceError, read_cooccurrence
from tagger.candidates.grounding import candidates
from tagger.candidates.official import official_candidates
from tagger.candidates.source import CandidateSource
from tagger.matching.official import Paraphrases, ParaphrasesError, read_paraphrases
from tagger.matching.readers import WORDINGS, NounReader, by_substrings, by_whole_words, by_whole_words_and


class CandidateSettings(Settings):
    """How words become candidates. The defaults are ours; the others are there to compare with (docs/triplets.md)."""

    matching: Literal["words", "official"] = "words"
    """Nouns to categories: whole words from the head noun, or the authors' substrings."""
    paraphrases: Path | None = runtime(None)
    """Phrases by category in the authors' JSON format: beside our own words, or all that substrings are looked for."""
    wording: Literal["canonical", "full", "official"] = "canonical"
    """Words of predicates: "in front of", "stand in front of", or what the authors' parser keeps of the surface."""
    enumeration: Literal["mentions", "official"] = "mentions"
    """Alternatives of a mention, or all ordered pairs, each a fact of its own, as the authors list them."""
    overlap: bool = False
    """Only pairs of boxes that intersect."""
    cooccurrence: Path | None = runtime(None)
    """Predicates by pair of categories in the authors' JSON format: candidates come from it, captions are not read."""

    @model_validator(mode="after")
    def _captions_or_not(self) -> CandidateSettings:
        ways = (self.matching, self.wording, self.enumeration) != ("words", "canonical", "mentions")
        if self.cooccurrence is not None and (ways or self.paraphrases is not None):
            raise ValueError("cooccurrence: reads no captions; leave matching, paraphrases, wording, enumeration out")
        return self

    def files(self) -> dict[str, Path]:
        """Files whose content decides candidates, by role. Raises `FatalError` when one is missing."""
        named = {"paraphrases": self.paraphrases, "cooccurrence": self.cooccurrence}
        found = {role: path for role, path in named.items() if path is not None}
        for role, path in found.items():
            if not path.is_file():
                raise FatalError(f"tag.{role}: no file {path}")
        return found


def open_candidates(settings: CandidateSettings) -> CandidateSource:
    """The source that the settings name. Raises `FatalError` on a file that can't be used."""
    try:
        if settings.cooccurrence is not None:
            return Cooccurrence(read_cooccurrence(settings.cooccurrence), settings.overlap)
        paraphrases = read_paraphrases(settings.paraphrases) if settings.paraphrases is not None else {}
    except (CooccurrenceError, ParaphrasesError) as error:
        raise FatalError(f"tag: {error}") from error
    nouns, wording = noun_reader(settings, paraphrases), WORDINGS[settings.wording]
    if settings.enumeration == "official":
        return lambda triplets, boxes, captions=(): official_candidates(
            triplets, boxes, nouns, wording, settings.overlap
        )
    return partial(candidates, nouns=nouns, wording=wording, overlapping=settings.overlap)


def noun_reader(settings: CandidateSettings, paraphrases: Paraphrases) -> NounReader:
    """How nouns are read."""
    if settings.matching == "official":
        return by_substrings(paraphrases)
    return by_whole_words_and(paraphrases) if paraphrases else by_whole_words
