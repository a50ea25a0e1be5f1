"""The headline figures of a run, which the report and Prefect's artifacts show."""

from __future__ import annotations

from pipeline.report.figures import Figures
from pipeline.report.variants import DETECTION, ZERO_SHOT

_COMPARED = {"naive": "naive matching", "none": "without relations"}
"""Variant → its name beside the headline of variant "pseudo"; the first that a run has is the one to compare with."""


def headline(figures: Figures) -> list[tuple[str, str, str]]:
    """The headline numbers: value, what it measures, what to compare it with."""
    tiles = []
    if figures.labels.kept is not None:
        tiles.append((f"{figures.labels.kept:,}".replace(",", "\u2009"), "labels kept", figures.choice))
    for audit in figures.audits:
        if audit.labels and audit.labels.tagger.precision_at_recall is not None:
            name, best = audit.labels.best_baseline
            against = (
                "no baseline reaches it"
                if best.precision_at_recall is None
                else f"{name} {best.precision_at_recall:.2f}"
            )
            value = f"{audit.labels.tagger.precision_at_recall:.2f}"
            tiles.append((value, f"precision at recall .8, {audit.dataset}", against))
    scores = {variant.variant: variant.scores for variant in figures.variants if ZERO_SHOT in variant.scores}
    if "pseudo" in scores:
        compared = (
            f"{words} {scores[variant][ZERO_SHOT].mean:.3f}"
            for variant, words in _COMPARED.items()
            if variant in scores
        )
        boxes = f"detection AP50 {scores['pseudo'][DETECTION].mean:.3f}" if DETECTION in scores["pseudo"] else ""
        tiles.append((f"{scores['pseudo'][ZERO_SHOT].mean:.3f}", "zero-shot triplet mAP", next(compared, boxes)))
    if figures.share_of_gain is not None:
        tiles.append((f"{figures.share_of_gain:.0%}", "of the gain of given relations", "zero-shot triplet mAP"))
    return tiles
