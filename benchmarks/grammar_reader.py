"""Reads the triplets of the synthetic world's captions by the grammar that wrote them, as a peer of the parser."""

import re
from functools import cache

from scenes.grammar import FORMS, NOUNS
from scenes.names import PEOPLE, WORLD_CATEGORIES

Triplet = tuple[str, str, str]
"""(subject category, predicate, object category)"""


@cache
def _lexicon() -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    entries: dict[str, tuple[str, str]] = {"rider": ("noun", "person"), "person": ("noun", "person")}
    for category in WORLD_CATEGORIES:
        entries[category] = ("noun", category)
    for noun, names in NOUNS.items():
        for name in names:
            entries[name] = ("noun", "person" if noun in PEOPLE else noun)
    for predicate, (participles, third, passive) in FORMS.items():
        for phrase in (*participles, third):
            entries[phrase] = ("predicate", predicate)
        if passive is not None:
            entries[passive] = ("passive", predicate)
    for joint in ("and", "while"):
        entries[joint] = ("joint", joint)
    longest_first = sorted(entries, key=lambda e: (-len(e), e))
    return re.compile(r"\b(" + "|".join(map(re.escape, longest_first)) + r")\b"), entries


def read(caption: str) -> set[Triplet]:
    """Returns the triplets that a caption of this grammar states, in active voice."""
    pattern, entries = _lexicon()
    items = [entries[m.group(1)] for m in pattern.finditer(caption)]
    stated: set[Triplet] = set()
    subject: str | None = None
    for i, (kind, value) in enumerate(items):
        after = items[i + 1] if i + 1 < len(items) else ("", "")
        before = items[i - 1] if i else ("", "")
        if kind == "noun" and before[0] in ("", "joint"):
            subject = value
        elif kind in ("predicate", "passive") and after[0] == "noun" and subject is not None:
            if before[0] not in ("noun", "joint"):
                continue
            stated.add((subject, value, after[1]) if kind == "predicate" else (after[1], value, subject))
    return stated
