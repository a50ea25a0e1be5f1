"""Compact notation for the small word tables of this package."""

from collections.abc import Mapping


def words(text: str) -> frozenset[str]:
    """Returns the set of blank-separated words in `text`."""
    return frozenset(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Returns the comma-separated phrases of `text`, in order."""
    return tuple(phrase.strip() for phrase in text.split(","))


def merged(variants: Mapping[str, str]) -> dict[str, str]:
    """Inverts {kept form: "variant, variant"}: maps each variant to the form that it is merged into."""
    return {variant: kept for kept, listed in variants.items() for variant in phrases(listed)}
