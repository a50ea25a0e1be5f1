"""The public benchmarks, and each one's figures: the correct value, its interval, and the authors' if it differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline.evaluation.anatomy import Score
from pipeline.evaluation.bootstrap import Interval, OnResample, bootstrap
from pipeline.evaluation.detections.names import matched
from pipeline.evaluation.hico import HicoRules, HicoScores, TripletClass, counted, match_hico
from pipeline.evaluation.open_images import OpenImagesRules, counted_relations, match_challenge, match_open_images
from pipeline.evaluation.ranking import PER_IMAGE, Recalls, mean_of
from pipeline.evaluation.relations import Flags, Integers, Relations
from pipeline.evaluation.scene_graph_recall import SceneGraphRules, counted_truth, match_scene_graphs, that_count
from pipeline.evaluation.vcoco import match_vcoco
from pipeline.evaluation.vcoco_detections import VcocoDetections
from pipeline.evaluation.vcoco_truth import VcocoTruth
from pipeline.evaluation.visual_relationships import LIMITS, match_vrd
from pipeline.runtime.plugins import load_plugin, plugin_names
from storage.errors import FatalError, did_you_mean

RESAMPLES = 200
"""Test sets that are drawn for an interval."""
SAME = 1e-9
"""Minimum difference for which the authors' value is stated next to the correct one."""
Values = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What an evaluation takes besides predictions and truth."""

    objects: Sequence[str] = ()
    """The names of subjects and objects, which labels index"""
    official: bool = False
    """Whether figures are the authors', bugs included, instead of the correct ones."""
    known_object: bool = False
    """HICO-DET: adds the Known Object setting."""
    validity: Any = None
    """HICO-DET: as in `HicoRules`"""
    rare: frozenset[TripletClass] | None = None
    """HICO-DET: triplets with fewer than ten training instances"""
    unseen: frozenset[TripletClass] | None = None
    """HICO-DET: triplets that a zero-shot split leaves out"""
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

    def named_rules(self, *, unmasked: bool = False, two: bool = False) -> tuple[str, ...]:
        """The rules that differ from the default ones or those of published results, as sentences.

        `unmasked`: HICO-DET without `validity`; `two`: Open Images by `PREDICATES_PER_PAIR`.
        """
        named = {
            "Unlike published scores, these are not multiplied by the table of allowed combinations.": unmasked,
            "Scores are those of the authors' evaluator, with its bugs.": self.official,
            "Duplicates are not suppressed.": not self.suppression,
            "Only the two best predicates of a pair count.": two,
            "Boxes were given (PredCls, SGCls).": self.boxes_given,
            "Predicates absent from the truth count as 0 in mean recall.": self.absent_as_zero,
            "Relations are matched by boxes; PSG's own figures use masks.": self.masks is False,
            "Relations are matched by masks. Error costs, sizes, distances and IoU sweeps use boxes.": bool(self.masks),
        }
        return tuple(rule for rule, holds in named.items() if holds)

    @property
    def suppressed(self) -> dict[str, Any]:
        """What the rules of HICO-DET and Open Images say about duplicates."""
        return {} if self.suppression else {"suppression": None}

    @property
    def of_open_images(self) -> OpenImagesRules:
        """The rules of Open Images."""
        return OpenImagesRules(official=self.official, **self.suppressed)


class Measured(NamedTuple):
    """What a benchmark measures on some choice of images, by name."""

    figures: Values
    classes: Values
    """Of triplets, roles or predicates"""
    predicates: Values
    """HICO-DET: the mean over a predicate's triplets; empty where the classes are predicates"""


@dataclass(frozen=True)
class Figure:
    """A score of a benchmark, in [0, 1], with the bounds of its bootstrap interval if it has one."""

    name: str
    """Its name in `published.toml`, e.g. `non_rare`"""
    label: str
    """What readers see, e.g. `non-rare`"""
    value: float
    low: float | None = None
    high: float | None = None
    official: float | None = None
    """The value by the authors' evaluator with its bugs, where it differs"""

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"figure {self.name}: an interval needs both bounds, or none")


@dataclass(frozen=True)
class ClassScore:
    """The average precision, or recall, of one class (a triplet, role or predicate), in [0, 1]."""

    name: str
    average_precision: float
    truths: int
    group: str = ""
    """Its group in the benchmark, e.g. `rare`"""


@dataclass(frozen=True)
class Evaluated:
    """The outcome of a benchmark."""

    figures: tuple[Figure, ...]
    classes: tuple[ClassScore, ...]
    score: Score = field(compare=False)
    """One figure, as a function that prices errors and other overlaps"""
    scored: str
    """The name of `score`"""
    measured: Callable[[Integers | None], Measured] = field(compare=False)
    """What is measured on chosen images (positions; repeated ones count repeatedly), without matching again"""
    measure: str = "AP"
    """What the classes' scores are"""
    counted: Relations | None = field(default=None, compare=False)
    """The predictions that count, which `score` takes; None: it takes all"""
    rules: tuple[str, ...] = ()
    """What readers should know of the rules, as sentences"""


class Metric(Protocol):
    """A registered metric. Named in a recipe's `evaluate.metrics`, its figures are added to those of HICO-DET;
    `rlip evaluate NAME --format FORMAT` scores detections by it.

    A metric of another package has a `version`, to be raised whenever the same relations would give different figures.
    """

    def __call__(
        self, predicted: Relations, truth: Relations, predicates: Sequence[str], options: Options
    ) -> Evaluated:
        """Scores the relations of all images. `predicates`: names, which relations index."""
        ...


def hico_det(predicted: Relations, truth: Relations, predicates: Sequence[str], options: Options) -> Evaluated:
    """Mean AP of HICO-DET: full, rare and non-rare, of a split, Default and Known Object, and mean maximum recall."""
    rules = HicoRules(validity=options.validity, official=options.official, **options.suppressed)
    settings = {"": rules} | ({"known_": replace(rules, known_object=True)} if options.known_object else {})
    matches = {prefix: match_hico(predicted, truth, each) for prefix, each in settings.items()}
    names = {t: in_words(t, options.objects, predicates) for t in matches[""].kinds}

    def measured(chosen: Integers | None = None) -> Measured:
        scores = {prefix: each.scores(chosen) for prefix, each in matches.items()}
        precision = scores[""].average_precision
        by_predicate: dict[str, list[float]] = {}
        for triplet, value in precision.items():
            by_predicate.setdefault(predicates[triplet.predicate], []).append(value)
        return Measured(
            _hico_means(scores, options),
            {names[triplet]: value for triplet, value in precision.items()},
            {name: mean_of(each) for name, each in by_predicate.items()},
        )

    def mean(found: Relations, true: Relations, overlap: float = 0.5) -> float:
        # The scores of `found` have been multiplied by the validity.
        return match_hico(found, true, replace(rules, overlap=overlap, validity=None)).scores().mean()

    authors = {p: replace(each, official=True) for p, each in settings.items() if not options.official}
    official = _hico_means({p: match_hico(predicted, truth, each).scores() for p, each in authors.items()}, options)
    sides = [(options.rare, "rare", "non-rare"), (options.unseen, "unseen", "seen")]
    groups = {
        name: ", ".join(inside if t in chosen else outside for chosen, inside, outside in sides if chosen is not None)
        for t, name in names.items()
    }
    truths = {names[t]: count for t, count in matches[""].scores().truths.items()}
    evaluated = _evaluated(measured, official, truths, truth, options, mean, "mAP", groups=groups)
    named = options.named_rules(unmasked=options.validity is None)
    return replace(evaluated, counted=counted(predicted, rules), rules=named)


def in_words(triplet: TripletClass, objects: Sequence[str], predicates: Sequence[str]) -> str:
    """The names of a triplet."""
    target = objects[triplet.object] if triplet.object >= 0 else "nothing"
    return f"{objects[triplet.subject]} {predicates[triplet.predicate]} {target}"


def _hico_means(scores: Mapping[str, HicoScores], options: Options) -> dict[str, float]:
    """The means of each setting, whose prefix begins their names."""
    means: dict[str, float] = {}
    for prefix, each in scores.items():
        means[f"{prefix}full"] = each.mean()
        if options.rare is not None:
            means[f"{prefix}rare"], means[f"{prefix}non_rare"] = each.apart(options.rare)
        if options.unseen is not None:
            means[f"{prefix}unseen"], means[f"{prefix}seen"] = each.apart(options.unseen)
        means[f"{prefix}recall"] = each.mean_recall
    return means


def open_images(predicted: Relations, truth: Relations, predicates: Sequence[str], options: Options) -> Evaluated:
    """score_wtd with its three parts, and Google's challenge metric."""
    rules = options.of_open_images
    matches = match_open_images(predicted, truth, rules)
    challenge = match_challenge(predicted, truth, options.verified)

    def measured(chosen: Integers | None = None) -> Measured:
        scores, google = matches.scores(chosen), challenge.figures(chosen)
        figures = scores.figures | {"challenge": google["challenge"]}
        if options.verified is not None:
            figures |= google
        return Measured(figures, {named(key): value for key, value in scores.relations.items()}, {})

    def named(key: Any) -> str:
        return in_words(key, options.objects, predicates) if rules.official else predicates[key]

    def score_wtd(found: Relations, true: Relations, overlap: float = 0.5) -> float:
        return match_open_images(found, true, replace(rules, overlap=overlap)).scores().figures["score_wtd"]

    unverified = {"challenge": f"{_LABELS['challenge']}, without verified image labels"}
    labels = _LABELS if options.verified is not None else _LABELS | unverified
    official: Values = {}
    if options.suppression and not options.official:  # PySGG's rules, which keep duplicates, have no such bugs
        official = match_open_images(predicted, truth, replace(rules, official=True)).scores().figures
    truths = {named(key): count for key, count in matches.scores().truths.items()}
    evaluated = _evaluated(measured, official, truths, truth, options, score_wtd, "score_wtd", labels=labels)
    counted = counted_relations(predicted, rules)
    return replace(evaluated, counted=counted, rules=options.named_rules(two=rules.two_per_pair))


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
        return _recalls(matches.scores(chosen), predicates)

    def recall(found: Relations, true: Relations, overlap: float = 0.5) -> float:
        return match_scene_graphs(found, true, replace(rules, overlap=overlap)).scores().figures["R@50"]

    official: Values = {}
    if not options.official:
        official = match_scene_graphs(predicted, truth, authors, options.seen).scores().figures
    truths = _by_predicate(counted_truth(truth, rules), predicates)
    scored = "R@50 by boxes" if options.masks else "R@50"
    return _evaluated(measured, official, truths, truth, options, recall, scored, measure=f"R@{rules.limits[-1]}")


def _by_predicate(truth: Relations, predicates: Sequence[str]) -> Mapping[str, int]:
    """The number of true relations of each predicate."""
    return dict(zip(predicates, np.bincount(truth.predicates, minlength=len(predicates)).tolist(), strict=True))


def _recalls(found: Recalls, predicates: Sequence[str]) -> Measured:
    figures = {name: value for name, value in found.figures.items() if not np.isnan(value)}
    return Measured(figures, {predicates[key]: value for key, value in found.by_predicate.items()}, {})


def visual_relationships(
    predicted: Relations, truth: Relations, predicates: Sequence[str], options: Options
) -> Evaluated:
    """VRD's recall of relations and of phrases, with one and with all predicates of a pair."""
    matches = {
        suffix: match_vrd(predicted, truth, count, options.seen) for count, suffix in ((1, "k=1"), (None, "k=all"))
    }

    def measured(chosen: Integers | None = None) -> Measured:
        scores = {suffix: each.scores(chosen) for suffix, each in matches.items()}
        every = {f"{name}, {suffix}": v for suffix, each in scores.items() for name, v in each.figures.items()}
        return _recalls(Recalls(every, scores["k=1"].by_predicate), predicates)

    def recall(found: Relations, true: Relations, overlap: float = 0.5) -> float:
        return match_vrd(found, true, overlap=overlap).scores().figures["relation R@50"]

    truths, measure = _by_predicate(truth, predicates), f"R@{LIMITS[-1]}"
    return _evaluated(measured, {}, truths, truth, options, recall, "relation R@50, k=1", measure=measure)


def vcoco(predicted: VcocoDetections, truth: VcocoTruth, options: Options) -> Evaluated:
    """Role AP of scenario 1 and 2 over 24 and 25 roles, and agent AP."""
    matches = match_vcoco(predicted, truth, official=options.official)

    def measured(chosen: Integers | None = None) -> Measured:
        scores = matches.scores(chosen)
        roles = {" ".join(role): value for role, value in scores.scenario_1.items() if not np.isnan(value)}
        return Measured(scores.figures, roles, {})

    def role_precision(found: Relations, _: Relations, overlap: float = 0.5) -> float:
        matches = match_vcoco(replace(predicted, roles=found), truth, official=options.official, overlap=overlap)
        return matches.scores().figures["role_1"]

    official = {} if options.official else match_vcoco(predicted, truth, official=True).scores().figures
    persons = matches.scores().persons
    truths = {" ".join(role): persons[role[0]] for role in truth.roles}
    scored, measure = _LABELS["role_1"], "AP of scenario 1"
    return _evaluated(measured, official, truths, truth, options, role_precision, scored, measure=measure)


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


def _evaluated(
    measured: Callable[[Integers | None], Measured],
    official: Values,
    truths: Mapping[str, int],
    truth: Relations | VcocoTruth,
    options: Options,
    score: Score,
    scored: str,
    *,
    measure: str = "AP",
    labels: Mapping[str, str] = _LABELS,
    groups: Mapping[str, str] | None = None,
) -> Evaluated:
    """What follows from `measured`. `official`: the authors' values; `truths`, `groups`: of the classes, by name."""
    # `bootstrap` refuses to draw from no images.
    resamples = options.resamples if truth.images else 0
    found = bootstrap(lambda chosen: measured(chosen).figures, truth.images, resamples=resamples, report=options.report)
    figures = tuple(_figure(name, labels.get(name, name), each, official.get(name)) for name, each in found.items())
    classes = tuple(
        ClassScore(name, value, truths[name], (groups or {}).get(name, ""))
        for name, value in measured(None).classes.items()
    )
    return Evaluated(figures, classes, score, scored, measured, measure, rules=options.named_rules())


def _figure(name: str, label: str, found: Interval, authors: float | None) -> Figure:
    # Resamples that all give the same, such as 0, say nothing about other images.
    is_bounded = found.low < found.high
    low, high = (max(found.low, 0.0), min(found.high, 1.0)) if is_bounded else (None, None)
    differs = authors is not None and abs(authors - found.value) > SAME
    return Figure(name, label, found.value, low, high, authors if differs else None)


def numbered_triplets(
    triplets: Iterable[tuple[str, str, str]], objects: Sequence[str], predicates: Sequence[str]
) -> list[TripletClass]:
    """Numbers triplets of names (subject, predicate, object). Raises ValueError for a name that is not listed."""
    rows = list(triplets)
    subjects, verbs, things = np.array(rows, object).reshape(-1, 3).T
    columns = matched(subjects, objects), matched(things, objects), matched(verbs, predicates)
    numbered = [TripletClass(*each) for each in np.stack(columns, axis=1).tolist()]
    for (subject, predicate, object_), found in zip(rows, numbered, strict=True):
        if min(found) < 0:
            raise ValueError(f"triplet {subject!r} {predicate!r} {object_!r}: the ground truth has no such names")
    return numbered


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of `rlip evaluate`: how its test set is read and scored."""

    name: str
    metric: Callable[..., Evaluated]
    """A `Metric`, or `vcoco`"""
    format: str | None
    """The format of its ground truth unless another is named; None: there is no usual one"""
    options: tuple[str, ...] = ()
    """The options it takes, among those that only some benchmarks have"""
    per_image: int | None = None
    """Predictions of an image that count, the best ones; None: other rules limit pairs, or none does"""
    counts: Callable[[Relations], Flags] | None = None
    """Marks those of whole images' predictions that can count; None: any may"""
    published: str = ""
    """Its name in `published.toml`, if it has another there"""
    by_roles: bool = False
    """Whether it scores what persons do (`VcocoDetections`, `VcocoTruth`) instead of relations"""

    def published_name(self, masks: bool | None) -> str:
        """The name in `published.toml`, which has no results of PSG by boxes. `masks`: as in `Options`."""
        if masks is not None:
            return "psg" if masks else "psg-boxes"
        return self.published or self.name


_OF_HICO = (
    "--official", "--known-object", "--interactions", "--rare", "--split", "--setting", "--validity", "--subject"
)  # fmt: skip
_OF_IMAGES = ("--official", "--verified")
_OF_GRAPHS = ("--official", "--boxes-given", "--absent-as-zero", "--masks")
BENCHMARKS: Mapping[str, Benchmark] = {
    each.name: each
    for each in (
        Benchmark("hico-det", hico_det, "hico_det", ("--format", "--no-suppression", *_OF_HICO), PER_IMAGE),
        Benchmark("vcoco", vcoco, "vcoco", ("--official",), published="v-coco", by_roles=True),
        Benchmark("open-images", open_images, "open_images", ("--format", "--no-suppression", *_OF_IMAGES), PER_IMAGE),
        Benchmark("vrd", visual_relationships, "vrd", ("--format", "--seen"), counts=that_count),
        Benchmark("vg", visual_genome, "vg150", ("--format", "--seen", *_OF_GRAPHS), counts=that_count),
    )
}
"""The project's own benchmarks, by name."""


def find_benchmark(name: str) -> Benchmark:
    """One of `BENCHMARKS`, or what a package registered in group `metrics`. Raises `FatalError` for another name."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    known = (*BENCHMARKS, *plugin_names("metrics"))
    if name not in known:
        raise FatalError(
            f"no benchmark {name!r}{did_you_mean(name, known)}; give one of {', '.join(known)}, or install the package "
            "that registers it"
        )
    metric = load_plugin("metrics", name)
    # The project registers some of its own, so that recipes can name them.
    own = (each for each in BENCHMARKS.values() if each.metric is metric)
    return next(own, Benchmark(name, metric, None, ("--format",)))


def further_figures(
    metrics: Sequence[str], predicted: Relations, truth: Relations, objects: Sequence[str], predicates: Sequence[str]
) -> tuple[Figure, ...]:
    """The figures of registered metrics, without intervals. Labels begin with the metric, as several have an R@50."""
    options = Options(objects=objects, resamples=0)
    return tuple(
        replace(figure, label=f"{name}: {figure.label}")
        for name in metrics
        for figure in load_plugin("metrics", name)(predicted, truth, predicates, options).figures
    )
