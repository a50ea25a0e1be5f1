"""Names of categories in captions: the tables of `names.toml`, which says what each is."""

import tomllib
from pathlib import Path

from tagger.english.words import merged, phrases, words

_TABLES = tomllib.loads(Path(__file__).with_name("names.toml").read_text(encoding="utf-8"))


def without_case(name: str) -> str:
    """A name without case, underscores and repeated white space, which do not tell names apart."""
    return " ".join(name.lower().replace("_", " ").split())


def _phrases_by_name(table: str) -> dict[str, tuple[str, ...]]:
    alone = dict.fromkeys(phrases(_TABLES.get(f"{table}_names", "")), "")
    return {name: phrases(listed) for name, listed in {**alone, **_TABLES[table]}.items()}


COCO, OBJECTS365, HYPERNYMS = map(_phrases_by_name, ("coco", "objects365", "hypernyms"))
SPELLINGS = merged(_TABLES["spellings"])
UNCLEAR, IMITATED_BY, COOKED, YOUNG, PORTIONS, LEXICAL_PHRASES, OTHER_THINGS = (
    frozenset(phrases(_TABLES[name]))
    for name in ("unclear", "imitated_by", "cooked", "young", "portions", "lexical_phrases", "other_things")
)

_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
PEOPLE = frozenset(("person", *COCO["person"]))
ANIMATE = PEOPLE.union(_ANIMALS, *(COCO[animal] for animal in _ANIMALS)) | words(
    "animal goat monkey lion tiger pig rabbit deer camel fox antelope"
)
"""Things that act by themselves: people and animals."""
