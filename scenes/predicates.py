"""The predicates of the made world, as Visual Genome's annotators would write them."""

PREDICATES: tuple[str, ...] = (
    "riding", "holding", "carrying", "wearing", "sitting on", "lying on", "next to", "behind", "under", "on",
    "looking at", "walking", "kicking", "eating",
)  # fmt: skip

CANONICAL: dict[str, str] = {
    "riding": "ride",
    "holding": "hold",
    "carrying": "carry",
    "wearing": "wear",
    "sitting on": "sit on",
    "lying on": "lie on",
    "next to": "next to",
    "behind": "behind",
    "under": "under",
    "on": "on",
    "looking at": "look at",
    "walking": "walk",
    "kicking": "kick",
    "eating": "eat",
}
"""Planted name -> canonical form: verbs as lemma, prepositions kept."""

SYMMETRIC: frozenset[str] = frozenset({"next to"})
"""Predicates that hold from object to subject whenever they hold from subject to object."""


def canonical_names() -> tuple[str, ...]:
    """Canonical forms of all planted predicates, in the order of PREDICATES."""
    return tuple(CANONICAL[name] for name in PREDICATES)
