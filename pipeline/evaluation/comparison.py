"""Compares several models on one test set: their differences, and whether other test images would show the same.

Each model is matched once. Figures, classes and strata are then resampled on the same images for all of them, so that
what makes an image hard for both cancels out of their difference (paired bootstrap; Efron and Tibshirani 1993).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluation.anatomy import Dissection, dissect
from pipeline.evaluation.benchmark import Evaluated
from pipeline.evaluation.bootstrap import Interval, OnResample, bootstrap
from pipeline.evaluation.diagnostics import confused_predicates
from pipeline.evaluation.ranking import times_of
from pipeline.evaluation.relations import Flags, Floats, Integers, Relations
from pipeline.evaluation.summary import RARE_TRUTHS
from storage.json_files import json_values

OVERLAPS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Least IoU of right boxes, from lenient to strict."""
RECALLS = np.arange(101) / 100
CONFUSIONS = 20
"""Number of confusions that are listed, the most frequent ones."""
SMALL, MEDIUM = 32.0**2, 96.0**2
"""Areas in pixels below which COCO calls a box small, and medium."""


class ComparedModel(NamedTuple):
    """A model's evaluation, and the predictions that it counts."""

    name: str
    evaluated: Evaluated
    predicted: Relations
    truth: Relations


@dataclass(frozen=True)
class Compared:
    """A score of each model, and by how much each further model exceeds the first."""

    name: str
    truths: int | None
    values: tuple[float, ...]
    differences: tuple[Interval, ...]
    """One for each further model; without bounds (NaN) if there are fewer than `RARE_TRUTHS` truths"""


@dataclass(frozen=True)
class Confusion:
    """On how many true relations of one predicate each model is more confident of another, wrong one."""

    predicate: str
    other: str
    truths: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """Models side by side. Fields "by model" are in the order of `models`."""

    benchmark: str
    models: tuple[str, ...]
    rules: tuple[str, ...]
    """Rules that differ from the default ones, and other caveats"""
    images: int
    truths: int
    scored: str
    """The score that `by_overlap` has"""
    measure: str
    """What the scores of classes and predicates are"""
    figures: tuple[Compared, ...]
    predicates: tuple[Compared, ...]
    """Empty where the classes are predicates"""
    classes: tuple[Compared, ...]
    strata: tuple[Compared, ...]
    """Recall of true relations by the size of their boxes and by the distance between them"""
    confusions: tuple[Confusion, ...]
    precision: tuple[tuple[float, ...], ...]
    """By model: the greatest precision at a recall of at least 0, .01, ... 1, of all predictions in one ranking"""
    by_overlap: tuple[tuple[float, ...], ...]
    """By model: the score with each of `OVERLAPS`"""

    def as_json(self, **more: Any) -> str:
        """Returns everything as JSON, with further fields. NaN becomes null."""
        return json.dumps(json_values(asdict(self) | {"overlaps": OVERLAPS} | more), ensure_ascii=False, indent=2)


def compare(
    benchmark: str,
    models: Sequence[ComparedModel],
    predicates: Sequence[str],
    rules: Sequence[str] = (),
    *,
    resamples: int,
    report: OnResample = lambda done, total: None,
) -> Comparison:
    """Compares models on the same test set. `resamples` and `report` as in `bootstrap`; 0: no intervals."""
    first, truth = models[0].evaluated, models[0].truth
    dissections = [dissect(model.predicted, model.truth) for model in models]
    strata = _strata(truth)

    def measured(place: int, chosen: Integers | None = None) -> dict[tuple[str, str], float]:
        figures, classes, of_predicates = models[place].evaluated.measured(chosen)
        times, found = times_of(chosen, truth.images)[truth.image], dissections[place].found
        recalls = {name: _share(times[inside], found[inside]) for name, inside in strata.items()}
        sections = {"figures": figures, "classes": classes, "predicates": of_predicates, "strata": recalls}
        return {(section, name): value for section, found in sections.items() for name, value in found.items()}

    def differences(chosen: Integers) -> dict[tuple[int, tuple[str, str]], float]:
        base, *others = (measured(place, chosen) for place in range(len(models)))
        return {(place, key): other[key] - base[key] for place, other in enumerate(others) for key in base}

    intervals = bootstrap(differences, truth.images, resamples=resamples, report=report)
    values = [measured(place) for place in range(len(models))]
    labels = {("figures", each.name): each.label for each in first.figures}
    counts = {("classes", each.name): each.truths for each in first.classes}
    counts |= {("strata", name): int(inside.sum()) for name, inside in strata.items()}
    counts |= {("predicates", name): int((truth.predicates == n).sum()) for n, name in enumerate(predicates)}
    sections: dict[str, list[Compared]] = {"figures": [], "predicates": [], "classes": [], "strata": []}
    for key in values[0]:
        truths = counts.get(key)
        found = [intervals[place, key] for place in range(len(models) - 1)]
        if truths is not None and truths < RARE_TRUTHS:  # a single image decides
            found = [replace(each, low=float("nan"), high=float("nan")) for each in found]
        row = Compared(labels.get(key, key[1]), truths, tuple(each[key] for each in values), tuple(found))
        sections[key[0]].append(row)
    return Comparison(
        benchmark=benchmark,
        models=tuple(model.name for model in models),
        rules=tuple(rules),
        images=truth.images,
        truths=len(truth),
        scored=first.scored,
        measure=first.measure,
        confusions=_confusions(dissections, predicates),
        precision=tuple(_precision(each) for each in dissections),
        by_overlap=tuple(
            tuple(model.evaluated.score(model.predicted, model.truth, overlap) for overlap in OVERLAPS)
            for model in models
        ),
        **{name: tuple(rows) for name, rows in sections.items()},
    )


def _share(times: Integers, found: Flags) -> float:
    return float(times[found].sum() / times.sum()) if times.any() else float("nan")


def _strata(truth: Relations) -> dict[str, Flags]:
    """Marks the truths of each stratum that has any. Those without an object are in none."""
    sides = [boxes[:, 2:] - boxes[:, :2] for boxes in (truth.subject_boxes, truth.object_boxes)]
    areas = [each.prod(axis=1) for each in sides]
    smaller, side = np.minimum(*areas), (np.sqrt(areas[0]) + np.sqrt(areas[1])) / 2
    start = np.maximum(truth.subject_boxes[:, :2], truth.object_boxes[:, :2])
    end = np.minimum(truth.subject_boxes[:, 2:], truth.object_boxes[:, 2:])
    gap: Floats = np.hypot(*np.maximum(start - end, 0).T)
    strata = {
        "smaller box below 32² pixels": smaller < SMALL,
        "smaller box of 32² to 96² pixels": (smaller >= SMALL) & (smaller < MEDIUM),
        "smaller box of 96² pixels or more": smaller >= MEDIUM,
        "boxes touch": gap == 0,
        "boxes apart by up to their mean side": (gap > 0) & (gap <= side),
        "boxes farther apart": gap > side,
    }
    return {name: inside for name, inside in strata.items() if inside.any()}


def _confusions(dissections: Sequence[Dissection], predicates: Sequence[str]) -> tuple[Confusion, ...]:
    by_model = [Counter(map(tuple, confused_predicates(each).tolist())) for each in dissections]
    most = sum(by_model, Counter()).most_common(CONFUSIONS)
    return tuple(
        Confusion(predicates[true], predicates[other], tuple(each[true, other] for each in by_model))
        for (true, other), _ in most
    )


def _precision(dissection: Dissection) -> tuple[float, ...]:
    """The greatest precision at a recall of at least each of `RECALLS`; 0 beyond the greatest recall."""
    scores = dissection.predicted.scores
    assert scores is not None  # `dissect` ranked by them
    found = np.cumsum(dissection.right[np.argsort(-scores, kind="stable")])
    ceiling = np.maximum.accumulate((found / np.arange(1, len(found) + 1))[::-1])[::-1]
    # 1e-9 against rounding: .07 times 100 truths is a little more than 7.
    places = np.searchsorted(found, np.ceil(RECALLS * len(dissection.truth) - 1e-9))
    return tuple(np.append(ceiling, 0.0)[places].tolist())
