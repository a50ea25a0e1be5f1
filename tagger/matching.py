"""Maps the nouns of a caption to the box categories of one image, by our rules or the authors'."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import StringConstraints, TypeAdapter, ValidationError

from tagger.categories.names import (
    ANIMATE,
    COCO,
    COOKED,
    HYPERNYMS,
    IMITATED_BY,
    OBJECTS365,
    OTHER_THINGS,
    PEOPLE,
    PORTIONS,
    SPELLINGS,
    UNCLEAR,
    YOUNG,
)
from tagger.categories.wordnet import kinds_above, may_be
from tagger.english.lemmas import known_lemmas, phrase_lemma
from tagger.english.words import COLOURS, DETERMINERS, MATERIALS, NUMBERS, SEVERAL, names_more

T = TypeVar("T")

NounReader = Callable[[str, str, Collection[str]], list[str]]
"""Maps a noun as written, its lemma and the image's categories to the categories that it means."""

_Names = Callable[[str], frozenset[str]]
"""Returns words for a category."""

Texts = list[Annotated[str, StringConstraints(min_length=1)]]
Paraphrases = dict[str, Texts]
"""Phrases by category, as in the authors' `hico_obj_paraphrase.json`."""

_NOTHING: frozenset[str] = frozenset()
_COUNTING = DETERMINERS | SEVERAL | NUMBERS.keys()


def match(noun: str, categories: Collection[str], more: Mapping[str, Collection[str]] | None = None) -> list[str]:
    """Returns the `categories` that the noun phrase names, in their given order; empty if there are none.

    `more`: further phrases by category, as lemmas (`phrase_lemma`), which count like our own synonyms.

    The phrase is read from its head (last word) and its longest known ending decides: "teddy bear" is not a bear,
    "brown teddy bear" is a teddy bear, and an unknown "dog bowl" is a bowl. A category that has the ending as its own
    name beats one that has it as a synonym, which beats the kinds of a broader word ("animal" for a dog); broader
    categories ("fire truck" for a truck) come next, and last what WordNet says it is a kind of ("beagle" for a dog).
    A word of `UNCLEAR` counts as more than a category's own name only if no noun precedes it. A compound means the same
    in one word ("teacup", "tea cup"). Each part of a slash name ("handbag/satchel") can match.
    """
    words = [word for word in phrase_lemma(noun.replace("-", " ")).split() if word not in _COUNTING]
    distinct = list(dict.fromkeys(categories))
    for start in range(len(words)):
        phrase, before = " ".join(words[start:]), words[start - 1] if start else ""
        is_portion = phrase in PORTIONS or (phrase in YOUNG and may_be(before, "animal"))
        if before and is_portion and before not in PEOPLE:
            return match(" ".join(words[:start]), categories, more)
        if before == "potted" or (before in ("stuffed", "plush") and may_be(phrase, "animal")):
            whole = "potted plant" if before == "potted" else "stuffed animal"
            return [] if noun == whole else match(whole, categories, more)
        is_food = before in COOKED and may_be(phrase, "animal")
        if before in IMITATED_BY or is_food or (before in MATERIALS and phrase in ANIMATE - PEOPLE):
            return []
        joined = "".join(words[start:])
        is_compound = start == len(words) - 2 and words[-1] not in PORTIONS and names_more(phrase)
        if is_compound and not _is_known(phrase) and _is_known(joined):
            phrase = joined
        is_clear = phrase not in UNCLEAR or not before or not _narrows(before, phrase)
        meant = _named(phrase, distinct, more, _OF_NOUNS if is_clear else _OF_UNCLEAR)
        if phrase == "sign" and before in COLOURS - {"red"}:
            return [category for category in meant if "stop sign" not in _own_names(category)]
        if meant or not is_clear or phrase in _other_things():
            return meant
        if not names_more(phrase) and any(words[-1] in _own_names(category) for category in distinct):
            continue  # A black cat is a cat; WordNet has a marten of that name.
        is_known = phrase in _known_phrases()
        kinds = kinds_above(phrase)
        meant = _meant(_names_with(phrase), distinct, more) or _meant(kinds, distinct, more, is_known)
        # A "cereal bowl" is a bowl, though WordNet has another sense of "bowl" in mind than ours.
        if meant or is_known or (kinds and (phrase == joined or not may_be(phrase, words[-1]))):
            return meant
    return []


def _meant(
    kinds: Collection[Sequence[str]],
    categories: Sequence[str],
    more: Mapping[str, Collection[str]] | None,
    is_above: bool = False,
) -> list[str]:
    """Returns the categories that the nearest kind names: above a known thing by their own names, above others none."""
    are_people = any("person" in words for words in kinds)
    for number, words in enumerate(kinds):
        if not _other_things().isdisjoint(words):
            return []
        for word in (word for word in words if are_people or word not in PEOPLE):
            if meant := _named(word, categories, more, _OF_UNCLEAR if is_above or word in UNCLEAR else _OF_KINDS):
                return meant
        is_above = is_above or (number > 0 and not _known_phrases().isdisjoint(words))
    return []


def _named(
    phrase: str, categories: Sequence[str], more: Mapping[str, Collection[str]] | None, tables: Sequence[_Names]
) -> list[str]:
    """Returns the categories with the phrase in the first table that has it, or else with a broader word for it."""
    for names in tables:
        meant = [category for category in categories if phrase in names(category)]
        if more and names is _synonyms:
            meant = [category for category in categories if category in meant or phrase in more.get(category, ())]
        if meant:
            return meant
    for word in _broader(phrase) if _synonyms in tables else ():
        if meant := [category for category in categories if word in _own_names(category) | _synonyms(category)]:
            return meant
    return []


@lru_cache(maxsize=1 << 14)
def _names_with(phrase: str) -> tuple[tuple[str, ...], ...]:
    """Returns the plain names that have the phrase as a synonym, as one kind of `kinds_above`."""
    return (tuple(name for name, synonyms in _synonym_table().items() if phrase in synonyms),)


def is_spoken_of(category: str) -> bool:
    """Whether captions have nouns for a category: it has one of our names, or WordNet knows it."""
    names = _own_names(category)
    return bool(names & _known_phrases()) or any(map(kinds_above, names))


def is_broader(name: str, category: str) -> bool:
    """Whether a name means more than a category ("vehicle", "car"; "glove", "baseball glove"), or many things."""
    noun, own = phrase_lemma(name), _own_names(category)
    is_head = any(each.endswith(f" {noun}") for each in own)
    return noun not in own and (is_head or noun in UNCLEAR or noun in _broader_words(category))


@lru_cache(maxsize=1 << 14)
def _own_names(category: str) -> frozenset[str]:
    aliases = _aliases()
    parts = _spelled(map(phrase_lemma, (category, *category.split("/"))))
    return parts.union(aliases[part] for part in parts if part in aliases)


@lru_cache(maxsize=1 << 14)
def _synonyms(category: str) -> frozenset[str]:
    table = _synonym_table()
    return _NOTHING.union(*(table.get(name, _NOTHING) for name in _own_names(category)))


@lru_cache(maxsize=1 << 14)
def _broader_words(category: str) -> frozenset[str]:
    names = _own_names(category)
    return frozenset(word for word, kinds in _hypernym_table().items() if names & kinds)


_OF_NOUNS, _OF_KINDS, _OF_UNCLEAR = (_own_names, _synonyms, _broader_words), (_own_names, _synonyms), (_own_names,)
"""The tables for nouns, for what these are kinds of, and for nouns whose meaning depends on the noun before them."""


@lru_cache(maxsize=1 << 14)
def _broader(phrase: str) -> tuple[str, ...]:
    """Returns the broader words for what the phrase names, the word with the fewest kinds first."""
    table = _synonym_table()
    broader = [
        (len(kinds), word)
        for word, kinds in _hypernym_table().items()
        if any(phrase == kind or phrase in table.get(kind, _NOTHING) for kind in kinds)
    ]
    return tuple(word for _, word in sorted(broader))


@cache
def _aliases() -> dict[str, str]:
    return {variant: phrase_lemma(name) for variant, name in SPELLINGS.items()}


@cache
def _synonym_table() -> dict[str, frozenset[str]]:
    """Maps plain names to synonyms; a name of both datasets gets the words of both tables."""
    ours, more = _in_lemmas(COCO), _in_lemmas(OBJECTS365)
    return {name: ours.get(name, _NOTHING) | more.get(name, _NOTHING) for name in {**ours, **more}}


@cache
def _hypernym_table() -> dict[str, frozenset[str]]:
    return _in_lemmas(HYPERNYMS)


def _in_lemmas(table: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    return {phrase_lemma(name): _spelled(map(phrase_lemma, words)) for name, words in table.items()}


def _spelled(names: Iterable[str]) -> frozenset[str]:
    """Returns the names without hyphens, and each in one word: "surf board" and "surfboard"."""
    plain = [name.replace("-", " ") for name in names if name]
    return frozenset(plain + [name.replace(" ", "") for name in plain])


@cache
def _known_phrases() -> frozenset[str]:
    table = _synonym_table()
    return frozenset(table).union(*table.values()) | _other_things()


@cache
def _other_things() -> frozenset[str]:
    return _spelled(OTHER_THINGS)


def _narrows(word: str, noun: str) -> bool:
    """Whether the word before a noun is a noun ("exit sign") or gerund ("cutting board"), and not of appearance."""
    is_noun = word.endswith("ing") or bool(known_lemmas(word, "NOUN")) or not known_lemmas(word, "VERB")
    # Numbers and owners ("3 glasses", "a man's glove") narrow nothing.
    return is_noun and word.isalpha() and not known_lemmas(word, "ADJ") and names_more(f"{word} {noun}")


def _is_known(phrase: str) -> bool:
    return phrase in _known_phrases() or bool(kinds_above(phrase))


def match_by_substrings(span: str, categories: Collection[str], paraphrases: Paraphrases) -> list[str]:
    """Returns the last of `categories` that has a phrase anywhere in the span, as the authors do; empty if none has.

    By this rule "a chair" is a person, because "hair" is a phrase of person, unless a later category matches too.
    A category without paraphrases matches by its own name (docs/labels.md, Other ways to candidates).
    """
    lowered = span.lower()
    matching = [
        category
        for category in dict.fromkeys(categories)
        if any(phrase in lowered for phrase in paraphrases.get(category, (category,)))
    ]
    return matching[-1:]


def by_whole_words(
    surface: str, lemma: str, categories: Collection[str], more: Mapping[str, Collection[str]] | None = None
) -> list[str]:
    """Matches by our rules (`match`), with what the noun as written has before its lemma: "rocking", "stuffed"."""
    return match(" ".join([*surface.split()[: -len(lemma.split()) or None], lemma]), categories, more)


def by_whole_words_and(paraphrases: Paraphrases) -> NounReader:
    """Returns our matching, with the phrases of an external dictionary added to our own synonyms."""
    more = {category: _spelled(map(phrase_lemma, phrases)) for category, phrases in paraphrases.items()}
    return partial(by_whole_words, more=more)


def by_substrings(paraphrases: Paraphrases) -> NounReader:
    """Returns the authors' matching (`match_by_substrings`), which reads nouns as written."""
    cached = lru_cache(maxsize=1 << 14)(lambda surface, known: match_by_substrings(surface, known, paraphrases))
    return lambda surface, lemma, categories: cached(surface, tuple(categories))


class AuthorsFileError(ValueError):
    """A file in a format of the authors can't be used; the message names the file, the position and the format."""


def read_paraphrases(path: Path) -> Paraphrases:
    """Reads the authors' dictionary of phrases. Raises `AuthorsFileError` for any other file."""
    return read_authors_file(path, Paraphrases, "{category: [phrase, ...]}")


def read_authors_file(path: Path, layout: type[T], expected: str) -> T:
    """Reads JSON of the type `layout`, which `expected` describes. Raises `AuthorsFileError` for any other file."""
    try:
        return TypeAdapter(layout).validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason: Any = error
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = ": ".join([*map(str, first["loc"]), first["msg"]])
        raise AuthorsFileError(f"{path}: {reason}; give a JSON file {expected}") from error
