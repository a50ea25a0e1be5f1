"""Aggregates scores of the pre-training variants over seeds, and the share of the gain that pseudo-labels recover."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.report.charts import series
from pipeline.report.formatting import shown_name
from storage.digests import digest_json
from storage.runs import Run

ZERO_SHOT = "zero_shot_map"
DETECTION = "detection_ap50"
_COUNTS = ("triplets", "unseen_triplets")
"""Scores that are numbers of triplets."""


@dataclass(frozen=True)
class Spread:
    """Mean and spread of one score over the seeds of a variant."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None with one seed."""
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Computes mean and deviation of one or more values."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, tuple(values))


@dataclass(frozen=True)
class VariantScores:
    """The scores of one variant, by name."""

    variant: str
    seeds: int
    scores: Mapping[str, Spread]
    test_images: str
    """Digest of the tables of images that it was evaluated on. Scores on other ones do not compare."""


def steps_of_seeds(run: Run, stage: str) -> dict[str, list[str]]:
    """Variant → its steps of a stage, one for each seed of the run's recipe; all of them if the recipe names none.

    A run keeps the steps of its earlier recipes, and the name of a step has a seed only where there are several. So a
    run whose recipe got a second seed has the first one by two names. Variants that the recipe no longer has are left
    out: other settings may have trained them.
    """
    found: dict[str, list[str]] = {}
    # By length first, so that seed 10 follows seed 9.
    for step in sorted(run.steps(), key=lambda step: (len(step), step)):
        name, _, rest = step.partition(":")
        if name == stage:
            found.setdefault(rest.partition(":")[0], []).append(step)
    pretrain = run.read_document("recipe").get("pretrain", {})
    variants, seeds = pretrain.get("variants"), pretrain.get("seeds", [])
    if variants and stage != "train_tagger":
        found = {variant: steps for variant, steps in found.items() if variant in variants}
    for variant, steps in found.items():
        one = f"{stage}:{variant}"
        named = [one] if len(seeds) == 1 else [f"{one}:{seed}" for seed in seeds]
        found[variant] = [step for step in named if step in steps] or steps
    return found


def variant_scores(run: Run) -> tuple[VariantScores, ...]:
    """Collects the scores of every evaluated variant, in the order none, naive, pseudo, given."""
    found = []
    for variant, steps in steps_of_seeds(run, "evaluate").items():
        seeds = [artifacts for step in steps if (artifacts := run.artifacts(step).values())]
        collected: dict[str, list[float]] = {}
        images: set[str] = set()
        for artifact in (artifact for artifacts in seeds for artifact in artifacts):
            images.update(artifact.manifest.terms["inputs"].get("images", ()))
            for each in series(artifact):
                collected.setdefault(each.name, []).append(float(each.values[-1]))
        if seeds:
            scores = {name: Spread.of(values) for name, values in collected.items()}
            found.append(VariantScores(variant, len(seeds), scores, digest_json(sorted(images))))
    order = {"none": 0, "naive": 1, "pseudo": 2, "given": 3}
    return tuple(sorted(found, key=lambda each: (order.get(each.variant, len(order)), each.variant)))


def share_of_gain(variants: Sequence[VariantScores]) -> float | None:
    """(pseudo - none) / (given - none) of mean zero-shot mAP; None unless all three have it, on the same test images,
    and given beats none."""
    scored = [v for v in variants if ZERO_SHOT in v.scores and v.variant in ("none", "pseudo", "given")]
    means = {variant.variant: variant.scores[ZERO_SHOT].mean for variant in scored}
    if len(means) < 3 or len({v.test_images for v in scored}) > 1 or means["given"] <= means["none"]:
        return None
    return (means["pseudo"] - means["none"]) / (means["given"] - means["none"])


def score_names(variants: Sequence[VariantScores]) -> list[str]:
    """All score names of any variant, headline scores first."""
    names = {name for variant in variants for name in variant.scores}
    first = [name for name in (ZERO_SHOT, DETECTION) if name in names]
    return first + sorted(names.difference(first))


def score_name(name: str) -> str:
    """The display name of a score."""
    return shown_name("scores", name)


def score_points(score: Spread, name: str = "") -> float:
    """The mean as evaluations print it: shares in points out of 100, counts as they are."""
    return score.mean if name in _COUNTS else 100 * score.mean


def score_text(score: Spread | None, name: str) -> str:
    """Formats a score and its deviation: counts as whole numbers, shares in points out of 100."""
    if score is None:
        return "–"
    if name in _COUNTS:
        return f"{score.mean:,.0f}"
    return f"{score_points(score):.2f}" + ("" if score.deviation is None else f" ± {100 * score.deviation:.2f}")
