"""Each public benchmark's figures by one call: the correct value, its interval, and the authors' if it differs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline.evaluation.bootstrap import Interval, OnResample, bootstrap
from pipeline.evaluation.detections.names import without_case
from pipeline.evaluation.hico import HicoRules, HicoScores, TripletClass, match_hico, score_hico
from pipeline.evaluation.open_images import (
    OpenImagesRules,
    OpenImagesScores,
    match_challenge,
    match_open_images,
    score_open_images,
)
from pipeline.evaluation.ranking import mean_of
from pipeline.evaluation.relations import Integers, Relations
from pipeline.evaluation.scene_graph_recall import (
    SceneGraphRules,
    SceneGraphScores,
    match_scene_graphs,
    score_scene_graphs,
)
from pipeline.evaluation.splits import Split
from pipeline.evaluation.summary import ClassScore, Figure
from pipeline.evaluation.vcoco import VcocoRules, VcocoScores, match_vcoco, score_vcoco
from pipeline.evaluation.vcoco_detections import VcocoDetections
from pipeline.evaluation.vcoco_truth import VcocoTruth
from pipeline.evaluation.visual_relationships import VrdRules, match_vrd, score_vrd

RESAMPLES = 200
"""Test sets that are drawn for an interval."""
SAME = 1e-9
"""Difference from which the authors' value is stated beside the correct one."""
Values = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What an evaluation takes besides predictions and truth."""

    official: bool = False
    """Whether figures are the authors', bugs included, instead of the correct ones."""
    known_object: bool = False
    """HICO-DET: adds the Known Object setting."""
    validity: Any = None
    """HICO-DET: as in `HicoRules`"""
    rare: frozenset[TripletClass] | None = None
    """HICO-DET: triplets with fewer than ten training instances"""
    split: Split | None = None
    """HICO-DET: a zero-shot split"""
    suppression: bool = True
    """HICO-DET and Open Images: suppress duplicates, as CDN, RLIP and RLIPv2 do; QPIC and PySGG keep them"""
    seen: Integers | None = None
    """Visual Genome and VRD: M×3 triplets of the training set"""
    boxes_given: bool = False
    """Visual Genome: PredCls or SGCls"""
    absent_as_zero: bool = False
    """Visual Genome: whether predicates that the truth lacks count as 0 in mean recall; they are left out otherwise"""
    masks: bool | None = None
    """Visual Genome: whether relations of PSG are found by masks; None for other ground truths, which have none"""
    verified: Integers | None = None
    """Open Images: M×2 verified image-level labels, as in `match_challenge`"""
    resamples: int = RESAMPLES
    """Test sets that are drawn for intervals; 0: no intervals"""
    report: OnResample = lambda done, total: None
    """Called after each of them"""

    @property
    def named_rules(self) -> tuple[str, ...]:
        """The rules that differ from the default ones, as sentences."""
        named = {
            "Scores are those of the authors' evaluator, with its bugs.": self.official,
            "Duplicates are not suppressed.": not self.suppression,
            "Boxes were given (PredCls, SGCls).": self.boxes_given,
            "Predicates that the truth lacks count as 0 in mean recall.": self.absent_as_zero,
            "Relations are found by boxes, where PSG's own figures are by masks.": self.masks is False,
            "Relations are found by masks. Errors' costs, sizes, distances and IoU sweeps are by boxes.": bool(
                self.masks
            ),
        }
        return tuple(rule for rule, holds in named.items() if holds)

    @property
    def suppressed(self) -> dict[str, Any]:
        """What the rules of HICO-DET and Open Images say about duplicates."""
        return {} if self.suppression else {"suppression": None}


class Score(Protocol):
    """A figure of predictions. `overlap`: least IoU of right boxes."""

    def __call__(self, predicted: Relations, truth: Relations, /, overlap: float = 0.5) -> float:  # noqa: D102
        ...


class Measured(NamedTuple):
    """What a benchmark measures on some choice of images, by name."""

    figures: Values
    classes: Values
    """Of triplets, roles or predicates"""
    predicates: Values
    """HICO-DET: the mean over a predicate's triplets; empty where the classes are predicates"""


@dataclass(frozen=True)
class Evaluated:
    """The outcome of a benchmark."""

    figures: tuple[Figure, ...]
    classes: tuple[ClassScore, ...]
    score: Score = field(compare=False)
    """One figure, as a function that prices errors and other overlaps"""
    scored: str
    """What `score` is called"""
    measured: Callable[[Integers | None], Measured] = field(compare=False)
    """What is measured on chosen images (positions; repeated ones count repeatedly), without matching again"""
    measure: str = "AP"
    """What the classes' scores are"""


class Metric(Protocol):
    """What is registered as a metric: figures besides those of HICO-DET.

    A metric of another package has a `version`, to be raised whenever the same relations would give other figures.
    """

    def __call__(
        self, predicted: Relations, truth: Relations, predicates: Sequence[str], options: Options
    ) -> Evaluated:
        """Scores the relations of all images. `predicates`: names, which the relations number."""
        ...


def hico_det(
    predicted: Relations, truth: Relations, objects: Sequence[str], predicates: Sequence[str], options: Options
) -> Evaluated:
    """Mean AP of HICO-DET: full, rare and non-rare, of a split, Default and Known Object, and mean maximum recall."""
    rules = HicoRules(validity=options.validity, official=options.official, **options.suppressed)
    settings = {"": rules} | ({"known_": replace(rules, known_object=True)} if options.known_object else {})
    matches = {prefix: match_hico(predicted, truth, each) for prefix, each in settings.items()}
    triplets = matches[""].triplets
    names = {t: f"{objects[t.subject]} {predicates[t.predicate]} {objects[t.object]}" for t in triplets}

    def measured(chosen: Integers | None = None) -> Measured:
        scores = {prefix: each.scores(chosen) for prefix, each in matches.items()}
        by_predicate: dict[str, list[float]] = {}
        for triplet, precision in scores[""].average_precision.items():
            by_predicate.setdefault(predicates[triplet.predicate], []).append(precision)
        return Measured(
            _prefixed({prefix: _hico_means(each, options) for prefix, each in scores.items()}),
            {names[triplet]: precision for triplet, precision in scores[""].average_precision.items()},
            {name: mean_of(each) for name, each in by_predicate.items()},
        )

    def mean(found: Relations, true: Relations, overlap: float = 0.5) -> float:
        return score_hico(found, true, replace(rules, overlap=overlap)).mean()

    official: Values = {}
    if not options.official:
        by_authors = {p: score_hico(predicted, truth, replace(each, official=True)) for p, each in settings.items()}
        official = _prefixed({prefix: _hico_means(each, options) for prefix, each in by_authors.items()})
    scores = matches[""].scores()
    unseen = options.split.unseen if options.split else frozenset()
    rare = options.rare or frozenset()
    classes = tuple(
        ClassScore(names[t], precision, scores.truths[t], "unseen" if t in unseen else "rare" if t in rare else "")
        for t, precision in scores.average_precision.items()
    )
    figures = _figures(measured, official, _LABELS, truth.images, options)
    return Evaluated(figures, classes, mean, "mAP", measured)


def _prefixed(means: Mapping[str, Values]) -> Values:
    return {f"{prefix}{name}": value for prefix, each in means.items() for name, value in each.items()}


def _hico_means(scores: HicoScores, options: Options) -> dict[str, float]:
    means = {"full": scores.mean()}
    if options.rare is not None:
        others = scores.average_precision.keys() - options.rare
        means |= {"rare": scores.mean(options.rare), "non_rare": scores.mean(others)}
    if options.split is not None:
        means |= options.split.means(scores)
    return means | {"recall": scores.mean_recall}


def open_images(predicted: Relations, truth: Relations, predicates: Sequence[str], options: Options) -> Evaluated:
    """score_wtd with its three parts, and Google's challenge metric."""
    rules = OpenImagesRules(official=options.official, **options.suppressed)
    matches = match_open_images(predicted, truth, rules)
    challenge = match_challenge(predicted, truth, options.verified)

    def measured(chosen: Integers | None = None) -> Measured:
        scores, google = matches.scores(chosen), challenge.scores(chosen)
        figures = _open_images_means(scores) | {"challenge": google.score}
        if options.verified is not None:
            figures |= {"weighted_rel": google.weighted_relations, "weighted_phr": google.weighted_phrases}
        return Measured(figures, {named(key): value for key, value in scores.relations.average_precision.items()}, {})

    def named(key: Hashable) -> str:
        return predicates[key] if isinstance(key, int) else str(key)

    def score_wtd(found: Relations, true: Relations, overlap: float = 0.5) -> float:
        return score_open_images(found, true, replace(rules, overlap=overlap)).score_wtd

    labels: dict[str, str] = {**_LABELS}
    if options.verified is None:
        labels["challenge"] += ", without verified image labels"
    official: Values = {}
    if not options.official:
        official = _open_images_means(score_open_images(predicted, truth, replace(rules, official=True)))
    scores = matches.scores().relations
    classes = tuple(
        ClassScore(named(key), value, scores.truths[key]) for key, value in scores.average_precision.items()
    )
    figures = _figures(measured, official, labels, truth.images, options)
    return Evaluated(figures, classes, score_wtd, "score_wtd", measured)


def _open_images_means(scores: OpenImagesScores) -> dict[str, float]:
    return {
        "score_wtd": scores.score_wtd,
        "recall_50": scores.recall,
        "wmap_rel": scores.relations.weighted_mean,
        "wmap_phr": scores.phrases.weighted_mean,
    }


def visual_genome(predicted: Relations, truth: Relations, predicates: Sequence[str], options: Options) -> Evaluated:
    """R@K, mR@K, ng-R@K and, with the training set's triplets, zR@K."""
    same = None if options.boxes_given else SceneGraphRules().same_object
    counted = len(predicates) if options.absent_as_zero else None
    rules = SceneGraphRules(same_object=same, predicates=counted)
    # PSG's own mean recall is over all predicates.
    authors = replace(rules, official=True, predicates=len(predicates) if options.masks else counted)
    rules = authors if options.official else rules
    matches = match_scene_graphs(predicted, truth, rules, options.seen)

    def measured(chosen: Integers | None = None) -> Measured:
        scores = matches.scores(chosen)
        by_predicate = scores.by_predicate[rules.limits[-1]]
        return Measured(_recalls(scores), {predicates[key]: value for key, value in by_predicate.items()}, {})

    def recall(found: Relations, true: Relations, overlap: float = 0.5) -> float:
        return score_scene_graphs(found, true, replace(rules, overlap=overlap)).recall[50]

    official: Values = {}
    if not options.official:
        official = _recalls(score_scene_graphs(predicted, truth, authors, options.seen))
    classes = _of_predicates(measured().classes, truth, predicates)
    figures = _figures(measured, official, {}, truth.images, options)
    scored = "R@50 by boxes" if options.masks else "R@50"
    return Evaluated(figures, classes, recall, scored, measured, f"R@{rules.limits[-1]}")


def _of_predicates(values: Values, truth: Relations, predicates: Sequence[str]) -> tuple[ClassScore, ...]:
    counts = dict(zip(predicates, np.bincount(truth.predicates, minlength=len(predicates)).tolist(), strict=True))
    return tuple(ClassScore(name, value, counts[name]) for name, value in values.items())


def _recalls(scores: SceneGraphScores) -> dict[str, float]:
    kinds = {
        "R": scores.recall,
        "mR": scores.mean_recall,
        "ng-R": scores.unconstrained,
        "ng-mR": scores.unconstrained_mean,
        "zR": scores.zero_shot,
        "ng-zR": scores.unconstrained_zero_shot,
    }
    return {f"{kind}@{k}": v for kind, by_k in kinds.items() for k, v in by_k.items() if not np.isnan(v)}


def visual_relationships(
    predicted: Relations, truth: Relations, predicates: Sequence[str], options: Options
) -> Evaluated:
    """VRD's recall of relations and of phrases, with one and with all predicates of a pair."""
    rules = VrdRules()
    matches = {
        suffix: match_vrd(predicted, truth, replace(rules, predicates_per_pair=count), options.seen)
        for count, suffix in ((1, "k=1"), (None, "k=all"))
    }

    def measured(chosen: Integers | None = None) -> Measured:
        means: dict[str, float] = {}
        scores = {suffix: each.scores(chosen) for suffix, each in matches.items()}
        for suffix, each in scores.items():
            kinds = {
                "relation": each.relations,
                "phrase": each.phrases,
                "zero-shot relation": each.zero_shot_relations,
                "zero-shot phrase": each.zero_shot_phrases,
            }
            means |= {f"{kind} R@{k}, {suffix}": v for kind, by_k in kinds.items() for k, v in by_k.items()}
        by_predicate = scores["k=1"].by_predicate
        return Measured(
            {name: value for name, value in means.items() if not np.isnan(value)},
            {predicates[key]: value for key, value in by_predicate.items()},
            {},
        )

    def recall(found: Relations, true: Relations, overlap: float = 0.5) -> float:
        return score_vrd(found, true, replace(rules, overlap=overlap)).relations[50]

    classes = _of_predicates(measured().classes, truth, predicates)
    figures = _figures(measured, {}, {}, truth.images, options)
    return Evaluated(figures, classes, recall, "relation R@50, k=1", measured, f"R@{rules.limits[-1]}")


def vcoco(predicted: VcocoDetections, truth: VcocoTruth, options: Options) -> Evaluated:
    """Role AP of scenario 1 and 2 over 24 and 25 roles, and agent AP."""

    def means(scores: VcocoScores) -> dict[str, float]:
        (one, two), (all_one, all_two) = scores.means_without_point, scores.means
        return {
            "role_1": one,
            "role_2": two,
            "role_1_25": all_one,
            "role_2_25": all_two,
            "agent": scores.agent_mean,
        }

    rules = VcocoRules(official=options.official)
    matches = match_vcoco(predicted, truth, rules)

    def measured(chosen: Integers | None = None) -> Measured:
        scores = matches.scores(chosen)
        roles = {" ".join(role): value for role, value in scores.scenario_1.items() if not np.isnan(value)}
        return Measured(means(scores), roles, {})

    def role_precision(found: Relations, _: Relations, overlap: float = 0.5) -> float:
        changed = replace(rules, overlap=overlap)
        return score_vcoco(replace(predicted, roles=found), truth, changed).means_without_point[0]

    official = {} if options.official else means(score_vcoco(predicted, truth, VcocoRules(official=True)))
    scores = matches.scores()
    classes = tuple(
        ClassScore(f"{action} {role}", value, scores.persons[action])
        for (action, role), value in scores.scenario_1.items()
        if not np.isnan(value)
    )
    figures = _figures(measured, official, _LABELS, truth.images, options)
    return Evaluated(figures, classes, role_precision, _LABELS["role_1"], measured)


_LABELS = {
    "full": "mAP",
    "rare": "mAP, rare",
    "non_rare": "mAP, non-rare",
    "unseen": "mAP, unseen",
    "seen": "mAP, seen",
    "recall": "maximum recall",
    "known_full": "Known Object: mAP",
    "known_rare": "Known Object: rare",
    "known_non_rare": "Known Object: non-rare",
    "known_unseen": "Known Object: unseen",
    "known_seen": "Known Object: seen",
    "known_recall": "Known Object: recall",
    "score_wtd": "score_wtd",
    "recall_50": "R@50",
    "wmap_rel": "wmAP_rel",
    "wmap_phr": "wmAP_phr",
    "challenge": "challenge score",
    "weighted_rel": "challenge weightedAP of relations",
    "weighted_phr": "challenge weightedAP of phrases",
    "role_1": "role AP, scenario 1 (24 roles)",
    "role_2": "role AP, scenario 2 (24 roles)",
    "role_1_25": "role AP, scenario 1 (25 roles)",
    "role_2_25": "role AP, scenario 2 (25 roles)",
    "agent": "agent AP",
}


def _figures(
    measured: Callable[[Integers | None], Measured],
    official: Values,
    labels: Mapping[str, str],
    images: int,
    options: Options,
) -> tuple[Figure, ...]:
    resamples = options.resamples if images else 0
    found = bootstrap(lambda chosen: measured(chosen).figures, images, resamples=resamples, report=options.report)
    return tuple(_figure(name, labels.get(name, name), each, official.get(name)) for name, each in found.items())


def _figure(name: str, label: str, found: Interval, authors: float | None) -> Figure:
    low, high = (None, None) if np.isnan(found.low) else (max(found.low, 0.0), min(found.high, 1.0))
    differs = authors is not None and abs(authors - found.value) > SAME
    return Figure(name, label, found.value, low, high, authors if differs else None)


def numbered_triplets(
    triplets: Iterable[tuple[str, str, str]], objects: Sequence[str], predicates: Sequence[str]
) -> list[TripletClass]:
    """Numbers triplets of names (subject, predicate, object). Raises ValueError for a name that is not listed."""
    of_object, of_predicate = ({without_case(name): n for n, name in enumerate(each)} for each in (objects, predicates))
    numbered = []
    for subject, predicate, object_ in triplets:
        ends = of_object.get(without_case(subject)), of_object.get(without_case(object_))
        number = of_predicate.get(without_case(predicate))
        if ends[0] is None or ends[1] is None or number is None:
            raise ValueError(f"triplet {subject!r} {predicate!r} {object_!r}: the ground truth has no such names")
        numbered.append(TripletClass(ends[0], ends[1], number))
    return numbered
