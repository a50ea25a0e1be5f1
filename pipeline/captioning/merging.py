"""Draws that say the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.captioning.captioner import Caption


def merge(captions: Sequence[Caption]) -> list[Caption]:
    """Each text once, as its first draw has it, with the number of draws that said it."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts[caption.text] += caption.times
    first: dict[str, Caption] = {}
    for caption in captions:
        first.setdefault(caption.text, caption._replace(times=counts[caption.text]))
    return list(first.values())
