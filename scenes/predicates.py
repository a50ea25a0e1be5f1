"""Predicates of the synthetic world, in the wording of Visual Genome's annotators."""

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
"""Planted predicate -> canonical form: verbs as lemmas, prepositions kept."""

SYMMETRIC: frozenset[str] = frozenset({"next to"})
"""Predicates that hold in both directions."""


def canonical_names() -> tuple[str, ...]:
    """Returns the canonical forms of all planted predicates, in the order of PREDICATES."""
    return tuple(CANONICAL[name] for name in PREDICATES)
