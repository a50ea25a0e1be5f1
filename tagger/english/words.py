"""Compact notation for the small word tables of this package."""

from collections.abc import Mapping


def words(text: str) -> frozenset[str]:
    """The blank-separated words of `text`."""
    return frozenset(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """The comma-separated phrases of `text`, in order."""
    return tuple(phrase.strip() for phrase in text.split(","))


def merged(variants: Mapping[str, str]) -> dict[str, str]:
    """{kept form: "variant, variant"} turned around: each variant to the form it is merged into."""
    return {variant: kept for kept, listed in variants.items() for variant in phrases(listed)}
