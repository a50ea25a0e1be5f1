"""Writes documents: captions of the synthetic world as sentences of one text, in which nouns are not repeated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain

from scenes.grammar import FORMS, NOUNS
from scenes.names import WORLD_CATEGORIES

_NOUNS = "|".join(sorted({"rider", *WORLD_CATEGORIES, *chain(*NOUNS.values())}, key=len, reverse=True))
_PHRASE = re.compile(rf"\ban? ((?:\w+ )?({_NOUNS}))\b")
_FINITE = {"is", *(third.split()[0] for _, third, _ in FORMS.values())}
_HE, _SHE, _IT = ("he", "him"), ("she", "her"), ("it", "it")
_PRONOUNS = {
    **dict.fromkeys(("man", "boy"), (_HE,)),
    **dict.fromkeys(("woman", "lady", "girl"), (_SHE,)),
    **dict.fromkeys(("person", "child", "kid", "rider"), (_HE, _SHE)),
}
"""Noun → the pronouns that may mean it, as subject and as object; "it" for any other."""
PRONOUNS = frozenset((*_HE, *_SHE, *_IT))


def document(captions: Sequence[str]) -> Iterator[str]:
    """Yields captions as the sentences of one text, with pronouns and definite nouns for nouns that earlier ones have.

    A pronoun stands for what a reader takes it for: the subject of the sentence before, if it is the subject too, or
    the only noun there, and before it in its own sentence, that it can mean.
    """
    known, before = set[str](), list[str]()
    for caption in captions:
        here: list[str] = []

        def reference(phrase: re.Match[str], before: Sequence[str] = before, here: list[str] = here) -> str:
            noun, text, earlier = phrase[2], phrase.string, [*here]
            here.append(noun)
            if noun not in known or noun in earlier:
                return phrase[0]
            pronouns = _PRONOUNS.get(noun, (_IT,))
            rivals = {other for other in (*before, *earlier) if {*_PRONOUNS.get(other, (_IT,))} & {*pronouns}}
            is_plain = rivals == {noun} or (not earlier and before[0] == noun)
            if noun not in before or len(pronouns) > 1 or not is_plain:
                return f"the {phrase[1]}"
            [(subject, object_)] = pronouns
            is_subject = not phrase.start() or text[: phrase.start()].endswith(("while ", "and "))
            if not is_subject:
                return object_
            return subject if text[phrase.end() :].split()[0] in _FINITE else f"{subject} is"

        text = _PHRASE.sub(reference, caption.removeprefix("there is "))
        yield f"{text[0].upper()}{text[1:]}."
        known.update(here)
        before = here
