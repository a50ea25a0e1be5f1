"""Each public benchmark's figures by one call: the correct value, its interval, and the authors' if it differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from pipeline.evaluation.anatomy import Score
from pipeline.evaluation.bootstrap import bootstrap, resampled
from pipeline.evaluation.detections.names import without_case
from pipeline.evaluation.hico import HicoRules, HicoScores, Triplet, match_hico, score_hico
from pipeline.evaluation.open_images import (
    OpenImagesRules,
    OpenImagesScores,
    score_open_images,
    score_open_images_challenge,
)
from pipeline.evaluation.relations import Integers, Relations
from pipeline.evaluation.scene_graph_recall import SceneGraphRules, SceneGraphScores, score_scene_graphs
from pipeline.evaluation.splits import Split
from pipeline.evaluation.summary import ClassScore, Figure
from pipeline.evaluation.vcoco import VcocoRules, VcocoScores, match_vcoco, score_vcoco
from pipeline.evaluation.vcoco_detections import VcocoDetections
from pipeline.evaluation.vcoco_truth import VcocoTruth
from pipeline.evaluation.visual_relationships import VrdRules, score_vrd

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
    rare: frozenset[Triplet] | None = None
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
    verified: Integers | None = None
    """Open Images: M×2 verified image-level labels, as in `score_open_images_challenge`"""
    resamples: int = RESAMPLES
    """Test sets that are drawn for intervals; 0: no intervals"""

    @property
    def named_rules(self) -> tuple[str, ...]:
        """The rules that differ from the default ones, as sentences."""
        named = {
            "Scores are those of the authors' evaluator, with its bugs.": self.official,
            "Duplicates are not suppressed.": not self.suppression,
            "Boxes were given (PredCls, SGCls).": self.boxes_given,
            "Predicates that the truth lacks count as 0 in mean recall.": self.absent_as_zero,
        }
        return tuple(rule for rule, holds in named.items() if holds)

    @property
    def suppressed(self) -> dict[str, Any]:
        """What the rules of HICO-DET and Open Images say about duplicates."""
        return {} if self.suppression else {"suppression": None}


@dataclass(frozen=True)
class Evaluated:
    """The outcome of a benchmark."""

    figures: tuple[Figure, ...]
    classes: tuple[ClassScore, ...]
    score: Score = field(compare=False)
    """One figure, as a function that prices errors"""
    scored: str
    """What `score` is called"""
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

    def values(chosen: Integers | None) -> dict[str, float]:
        found: dict[str, float] = {}
        for prefix, each in matches.items():
            scores = each.scores(chosen)
            found |= {f"{prefix}{name}": value for name, value in _hico_means(scores, options).items()}
        return found

    official: dict[str, float] = {}
    if not options.official:
        by_authors = [score_hico(predicted, truth, replace(each, official=True)) for each in settings.values()]
        for prefix, scores in zip(settings, by_authors, strict=True):
            official |= {f"{prefix}{name}": value for name, value in _hico_means(scores, options).items()}
    scores = matches[""].scores()
    unseen = options.split.unseen if options.split else frozenset()
    rare = options.rare or frozenset()
    classes = tuple(
        ClassScore(
            f"{objects[t.subject]} {predicates[t.predicate]} {objects[t.object]}",
            precision,
            scores.truths[t],
            "unseen" if t in unseen else "rare" if t in rare else "",
        )
        for t, precision in scores.average_precision.items()
    )
    figures = _figures(values(None), official, _LABELS, lambda chosen: values(chosen), truth.images, options)
    return Evaluated(figures, classes, lambda found, true: score_hico(found, true, rules).mean(), "mAP")


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

    def values(found: Relations, true: Relations, by: OpenImagesRules = rules) -> dict[str, float]:
        return _open_images_means(score_open_images(found, true, by))

    scores = score_open_images(predicted, truth, rules)
    challenge = score_open_images_challenge(predicted, truth, verified=options.verified)
    own = _open_images_means(scores) | {"challenge": challenge.score}
    labels: dict[str, str] = {**_LABELS}
    if options.verified is None:
        labels["challenge"] += ", without verified image labels"
    else:
        own |= {"weighted_rel": challenge.weighted_relations, "weighted_phr": challenge.weighted_phrases}
    official = {} if options.official else values(predicted, truth, replace(rules, official=True))
    classes = [
        ClassScore(
            predicates[int(key)] if isinstance(key, int | np.integer) else str(key), value, scores.relations.truths[key]
        )
        for key, value in scores.relations.average_precision.items()
    ]
    figures = _figures(own, official, labels, _by_resampling(predicted, truth, values), truth.images, options)
    return Evaluated(figures, tuple(classes), lambda found, true: values(found, true)["score_wtd"], "score_wtd")


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
    rules = SceneGraphRules(same_object=same, official=options.official, predicates=counted)

    def values(found: Relations, true: Relations, by: SceneGraphRules = rules) -> dict[str, float]:
        return _recalls(score_scene_graphs(found, true, by, options.seen))

    scores = score_scene_graphs(predicted, truth, rules, options.seen)
    official = {} if options.official else values(predicted, truth, replace(rules, official=True))
    counts = np.bincount(truth.predicates, minlength=len(predicates))
    classes = [
        ClassScore(predicates[key], value, int(counts[key]))
        for key, value in scores.by_predicate[rules.limits[-1]].items()
    ]
    means = _by_resampling(predicted, truth, values)
    figures = _figures(_recalls(scores), official, {}, means, truth.images, options)
    measure = f"R@{rules.limits[-1]}"
    return Evaluated(figures, tuple(classes), lambda found, true: values(found, true)["R@50"], "R@50", measure)


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

    def values(found: Relations, true: Relations) -> dict[str, float]:
        means: dict[str, float] = {}
        for count, suffix in ((1, "k=1"), (None, "k=all")):
            scores = score_vrd(found, true, VrdRules(predicates_per_pair=count), options.seen)
            kinds = {
                "relation": scores.relations,
                "phrase": scores.phrases,
                "zero-shot relation": scores.zero_shot_relations,
                "zero-shot phrase": scores.zero_shot_phrases,
            }
            means |= {f"{kind} R@{k}, {suffix}": v for kind, by_k in kinds.items() for k, v in by_k.items()}
        return {name: value for name, value in means.items() if not np.isnan(value)}

    rules = VrdRules()
    counts = np.bincount(truth.predicates, minlength=len(predicates))
    by_predicate = score_vrd(predicted, truth, rules).by_predicate
    classes = tuple(ClassScore(predicates[key], value, int(counts[key])) for key, value in by_predicate.items())
    means = _by_resampling(predicted, truth, values)
    figures = _figures(values(predicted, truth), {}, {}, means, truth.images, options)
    first = "relation R@50, k=1"
    return Evaluated(figures, classes, lambda found, true: values(found, true)[first], first, f"R@{rules.limits[-1]}")


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
    scores = matches.scores()
    official = {} if options.official else means(score_vcoco(predicted, truth, VcocoRules(official=True)))
    classes = tuple(
        ClassScore(f"{action} {role}", value, scores.persons[action])
        for (action, role), value in scores.scenario_1.items()
        if not np.isnan(value)
    )

    def role_precision(found: Relations, _: Relations) -> float:
        return score_vcoco(replace(predicted, roles=found), truth, rules).means_without_point[0]

    figures = _figures(
        means(scores), official, _LABELS, lambda chosen: means(matches.scores(chosen)), truth.images, options
    )
    return Evaluated(figures, classes, role_precision, _LABELS["role_1"])


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


def _by_resampling(
    predicted: Relations, truth: Relations, values: Callable[[Relations, Relations], Values]
) -> Callable[[Integers], Values]:
    return lambda chosen: values(resampled(predicted, chosen), resampled(truth, chosen))


def _figures(
    own: Values,
    official: Values,
    labels: Mapping[str, str],
    of_chosen: Callable[[Integers], Values] | None,
    images: int,
    options: Options,
) -> tuple[Figure, ...]:
    intervals = {}
    if options.resamples and of_chosen is not None and images:
        intervals = bootstrap(of_chosen, images, resamples=options.resamples)
    return tuple(_figure(name, value, labels.get(name, name), official, intervals) for name, value in own.items())


def _figure(name: str, value: float, label: str, official: Values, intervals: Mapping[str, Any]) -> Figure:
    interval = intervals.get(name)
    if interval is not None and np.isnan(interval.low):
        interval = None
    authors = official.get(name)
    differs = authors is not None and abs(authors - value) > SAME
    return Figure(
        name,
        label,
        value,
        None if interval is None else max(interval.low, 0.0),
        None if interval is None else min(interval.high, 1.0),
        authors if differs else None,
    )


def numbered_triplets(
    triplets: Iterable[tuple[str, str, str]], objects: Sequence[str], predicates: Sequence[str]
) -> list[Triplet]:
    """Numbers triplets of names (subject, predicate, object). Raises ValueError for a name that is not listed."""
    of_object, of_predicate = ({without_case(name): n for n, name in enumerate(each)} for each in (objects, predicates))
    numbered = []
    for subject, predicate, object_ in triplets:
        ends = of_object.get(without_case(subject)), of_object.get(without_case(object_))
        number = of_predicate.get(without_case(predicate))
        if ends[0] is None or ends[1] is None or number is None:
            raise ValueError(f"triplet {subject!r} {predicate!r} {object_!r}: the ground truth has no such names")
        numbered.append(Triplet(ends[0], ends[1], number))
    return numbered
