"""Audits of labels and captions: compares them, and two baselines, with the dataset's ground-truth relations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.labels.flat_list import FlatList
from pipeline.labels.kept_labels import UNLIMITED, ChoiceSettings, judged_labels
from pipeline.labels.label_overrides import Overrides
from pipeline.labels.labelled_partitions import candidates
from pipeline.runtime.stage import dataset_of
from pipeline.training.config import MODEL
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run
from tagger.audit.labels import (
    AUDITED_RECALL,
    SYMMETRIC,
    Fact,
    LabelCurve,
    PredicateScores,
    agreement,
    audit,
    audit_predicates,
    holds,
    label_curve,
)
from tagger.english.predicates import canonical
from tagger.labelling.calibration import calibration_error
from tagger.matching import match
from tagger.pair import Pair
from tagger.relation import Relation
from tagger.triplet import NameTriplet


def learned_from(run: Run, datasets: Iterable[str]) -> dict[str, bool | None]:
    """Returns for each dataset whether the run's tagger learned from it; None if that is unknown.

    It did not if taggers of several folds label unseen images. The datasets of a tagger that the recipe imports
    (`tag.weights`) are known if the store has its training.
    """
    recipe = run.recipe
    if recipe.get("tag", {}).get("method", "tagger") != "tagger":
        trained: frozenset[str] | None = frozenset()
    elif recipe.get("tag", {}).get("weights"):
        trained = _imported_training(run)
    else:
        is_single = recipe.get("train_tagger", {}).get("folds", 1) == 1 and run.keys("train_tagger")
        trained = frozenset(map(dataset_of, run.keys("shard_tagger"))) if is_single else frozenset()
    return {dataset: None if trained is None else dataset in trained for dataset in datasets}


def _imported_training(run: Run) -> frozenset[str] | None:
    """The datasets behind a tagger's weights, by their content; None if the store lacks their training or shards."""
    weights = {artifact.manifest.files[MODEL].digest for artifact in run.artifacts("import_tagger").values()}
    for made in run.store.artifacts("train_tagger"):
        if MODEL in made.manifest.files and made.manifest.files[MODEL].digest in weights:
            keys = made.manifest.upstream.get("shards", ())
            shards = run.store.find_all("shard_tagger", keys)
            if shards.keys() == {*keys}:
                return frozenset(dataset_of(each.manifest.partition) for each in shards.values())
    return None


LEARNED: Mapping[bool | None, str] = {
    True: "; not cross-validated: the tagger learned from these images",
    False: "",
    None: "; it is unknown whether the tagger learned from these images",
}
"""Whether the tagger learned from the images that its labels are compared on → the caveat to append."""


@dataclass(frozen=True)
class LabelScores:
    """Scores of one labelling method. None: there is nothing to divide by, or the recall is not reached."""

    kept: int
    """For the tagger, the labels that stage `shard` keeps; for a baseline, those whose score reaches the threshold."""
    precision: float | None
    recall: float | None
    """Over all ground-truth relations."""
    precision_at_recall: float | None
    """Best precision at a recall of at least .8 over the reachable relations."""
    average_precision: float | None
    """Area under the precision-recall curve, with recall over the reachable relations."""


@dataclass(frozen=True)
class RuleScores:
    """What a rule could keep: precision, and recall of all ground-truth relations, at the threshold of highest F1."""

    rule: str
    f1: float
    threshold: float
    precision: float
    recall: float
    precision_at_recall: float
    """Best precision at a recall of at least .8 over the reachable relations; 0 where it is not reached."""


RULES: tuple[dict[str, Any], ...] = (
    {"confidence": "probability"},
    *({"confidence": name, "rule": rule} for name in ("calibrated", "score") for rule in ("all", "best", "posterior")),
)
"""Settings of every rule."""
_NO_LIMITS = {"threshold": 0.0, "thresholds": {}, "per_pair": None, "max_relations": UNLIMITED}


@dataclass(frozen=True)
class LabelAudit:
    """Scores of all labelling methods on the same images, namely those with ground-truth relations."""

    images: int
    given: int
    """Ground-truth relations; the two directions of a symmetric predicate count once."""
    reachable: int
    """Ground-truth relations that a candidate proposes or the tagger scores."""
    tagger: LabelScores
    naive: LabelScores
    prior: LabelScores
    """Baseline from boxes and names alone: each candidate is scored with its prior."""
    score_error: float | None = None
    """Expected calibration error of the scores; None without labels."""
    probability_error: float | None = None
    """Expected calibration error of the probabilities; None when the labels have none."""
    predicates: tuple[PredicateScores, ...] = ()
    """Predicates with the most kept labels come first."""
    rules: tuple[RuleScores, ...] = ()
    """Every rule, over the labels that have what it weighs; empty unless asked for."""
    learned_from: bool | None = False
    """Whether the tagger may have learned from these images, which flatters its labels; None: unknown."""

    @property
    def in_words(self) -> str:
        """How many relations recall is over, and whether the tagger learned from their images."""
        reachable = self.reachable / self.given if self.given else 0.0
        return (
            f"{self.given:,}, of which {self.reachable:,} are reachable; recall .8 of the reachable is "
            f"{AUDITED_RECALL * reachable:.3f} of all{LEARNED[self.learned_from]}"
        )

    @property
    def best_baseline(self) -> tuple[str, LabelScores]:
        """The baseline that a headline compares with: the one with the higher precision at a recall of .8."""
        return max(self.methods("")[1:], key=lambda method: method[1].precision_at_recall or 0.0)

    def methods(self, choice: str) -> tuple[tuple[str, LabelScores], ...]:
        """The labelling methods by name: the tagger with its `choice` of labels, then the baselines."""
        return ((f"kept: {choice}", self.tagger), ("naive matching", self.naive), ("boxes and names alone", self.prior))


@dataclass
class LabelCount:
    """Collects a `LabelAudit` over partitions; `choice` decides which of the tagger's labels are kept."""

    choice: ChoiceSettings
    learned_from: bool | None = False
    _truth: list[set[Fact]] = field(default_factory=list)
    _relations: list[list[Relation]] = field(default_factory=list)
    _ranked: list[list[Relation]] = field(default_factory=list)
    """The same labels, each with its confidence as its score."""
    _pairs: list[list[Pair]] = field(default_factory=list)
    _kept: list[set[Fact]] = field(default_factory=list)
    _tables: list[tuple[pa.Table, pa.Table]] = field(default_factory=list)
    """Labels and candidates of the audited images, by partition."""

    def add(self, images: pa.Table, tagged: Artifact, overrides: Overrides | None = None) -> None:
        """Add a partition: its rows of `images`, the artifact of its stage `tag`, and what reviewers have settled."""
        truth = facts_by_image(images, "relations")
        if not truth:
            return  # Labels of a set that gives no relations can't be judged, and there may be millions.
        labels, proposed = (
            table.filter(pc.is_in(table["image_id"], pa.array([*truth], table["image_id"].type)))
            for table in (tagged.table("relations"), candidates(tagged))
        )
        self._tables.append((labels, proposed))
        pairs = {row["image_id"]: row["pairs"] for row in proposed.to_pylist()}
        judged = judged_labels(labels, proposed, self.choice, overrides)
        own = dict(judged.by_image())
        for image_id in labels["image_id"].to_pylist():
            self._truth.append(truth[image_id])
            scored = [(_relation(label), one) for label, one in own[image_id] if label["score"] is not None]
            self._relations.append([relation for relation, _ in scored])
            self._ranked.append([replace(relation, score=one.confidence) for relation, one in scored])
            self._pairs.append([_pair(row) for row in pairs.get(image_id, ())])
            kept = (label for label, one in own[image_id] if one.reason is None)
            self._kept.append({(r["subject"], canonical(r["predicate"]), r["object"]) for r in kept})

    def rules(self) -> tuple[RuleScores, ...]:
        """Scores every rule on everything added so far, except rules that need what the labels lack."""
        found = []
        reachable = audit(self._relations, self._pairs, self._truth).tagger.reachable
        for rule in RULES:
            choice = ChoiceSettings.model_validate(rule | _NO_LIMITS)
            with suppress(FatalError):
                judged = chain.from_iterable(judged_labels(*tables, choice).each() for tables in self._tables)
                left = [
                    [replace(r, score=j.confidence) for r, j in zip(of_image, judged, strict=False) if not j.reason]
                    for of_image in self._relations
                ]
                curve = label_curve(left, self._truth, reachable)
                found.append(RuleScores(choice.rule_in_words(), *curve.best_f1(), curve.precision_at()))
        return tuple(found)

    def audit(self) -> LabelAudit:
        """Audits everything added so far."""
        found = audit(self._ranked, self._pairs, self._truth)
        right = [
            holds((r.subject, r.predicate, r.object), facts)
            for of_image, facts in zip(self._relations, self._truth, strict=True)
            for r in of_image
        ]
        labels = [relation for of_image in self._relations for relation in of_image]
        probabilities = [relation.probability for relation in labels if relation.probability is not None]
        return LabelAudit(
            images=len(self._truth),
            given=found.tagger.truths,
            reachable=found.tagger.reachable,
            tagger=self._scores(found.tagger, self._kept),
            naive=self._scores(found.naive, list(map(_facts, self._pairs))),
            prior=self._scores(found.prior, [_facts(pairs, self.choice.threshold) for pairs in self._pairs]),
            score_error=calibration_error([relation.score for relation in labels], right),
            probability_error=calibration_error(probabilities, right) if len(probabilities) == len(labels) else None,
            predicates=audit_predicates(self._ranked, self._pairs, self._truth, self._kept),
            learned_from=self.learned_from,
        )

    def _scores(self, curve: LabelCurve, kept: Sequence[set[Fact]]) -> LabelScores:
        found = agreement(kept, self._truth)
        return LabelScores(
            kept=sum(map(len, kept)),
            precision=found.precision(),
            recall=found.recall(),
            precision_at_recall=curve.precision_at() or None,
            average_precision=curve.average_precision() if curve.reachable else None,
        )


def facts_by_image(table: pa.Table, column: str) -> dict[int, set[Fact]]:
    """Image id → the facts of a nested column, such as the ground-truth `relations` of table `images`.

    Relations without a canonical predicate are left out, and so are images without others.
    """
    ids = table["image_id"].to_pylist()
    found: dict[int, set[Fact]] = {}
    for row, subject, name, other in FlatList.of(table, column).each("subject", "predicate", "object"):
        if predicate := canonical(name):
            found.setdefault(ids[row], set()).add((subject, predicate, other))
    return found


def _pair(row: Mapping[str, Any]) -> Pair:
    # Tables of earlier versions have no mentions: missing fields take their defaults.
    known = {name: value for name, value in row.items() if value is not None}
    return Pair(**known | {"predicate": canonical(row["predicate"])})


def _relation(row: Mapping[str, Any]) -> Relation:
    values = {each.name: row[each.name] for each in fields(Relation)}
    return Relation(**values | {"predicate": canonical(row["predicate"])})


def _facts(pairs: Sequence[Pair], least: float = 0.0) -> set[Fact]:
    """Distinct labels with a prior of at least `least`."""
    return {(pair.subject, pair.predicate, pair.object) for pair in pairs if pair.prior >= least}


def _by_image(table: pa.Table, column: str, *names: str) -> Mapping[int, Sequence[tuple[Any, ...]]]:
    """Image id → items of a nested column, as tuples of the fields `names`."""
    ids = table["image_id"].to_pylist()
    found: dict[int, list[tuple[Any, ...]]] = {image_id: [] for image_id in ids}
    for row, *values in FlatList.of(table, column).each(*names):
        found[ids[row]].append(tuple(values))
    return found


@dataclass(frozen=True)
class CaptionAudit:
    """Agreement of captions with ground-truth relations by category, on images with any. Unannotated ones lower it."""

    images: int
    """Images with ground-truth relations."""
    stated: int
    """Triplets that the captions state."""
    judged: int
    """Stated triplets whose nouns both name categories of the dataset; the others have no box to compare with."""
    true: int
    """Judged triplets that a ground-truth relation of the image confirms."""
    given: int
    """Ground-truth relations, counted once per image and category triple."""
    found: int
    """Ground-truth relations that any caption of the image states."""

    @property
    def precision(self) -> float | None:
        """Share of judged triplets that are true."""
        return self.true / self.judged if self.judged else None

    @property
    def recall(self) -> float | None:
        """Share of ground-truth relations that are found."""
        return self.found / self.given if self.given else None


@dataclass
class CaptionCount:
    """Collects a `CaptionAudit` over the partitions of one dataset."""

    _images: list[tuple[tuple[str, ...], set[NameTriplet], list[NameTriplet]]] = field(default_factory=list)
    _vocabulary: set[str] = field(default_factory=set)

    def add(self, images: pa.Table, triplets: pa.Table) -> None:
        """Add a partition. Rows of the two tables are matched by image id."""
        boxes = _by_image(images, "boxes", "category")
        given = facts_by_image(images, "relations")
        self._vocabulary.update(category for of_image in boxes.values() for (category,) in of_image)
        if not given:
            return
        stated = _stated(triplets)
        for image_id, facts in given.items():
            own = [category for (category,) in boxes[image_id]]
            named = {(own[s], p, own[o]) for s, p, o in facts}
            self._images.append((tuple(sorted(set(own))), named, stated.get(image_id, [])))

    def audit(self) -> CaptionAudit | None:
        """Audits everything added so far; None when the dataset gives no relations."""
        if not self._images:
            return None
        vocabulary = tuple(sorted(self._vocabulary))
        meant = cache(lambda noun, categories: frozenset(match(noun, categories)))
        judged = true = found = 0
        for categories, given, stated in self._images:
            confirmed = [
                _confirmed(predicate, meant(subject, categories), meant(object_, categories), given)
                for subject, predicate, object_ in stated
                if meant(subject, vocabulary) and meant(object_, vocabulary)
            ]
            judged += len(confirmed)
            true += sum(map(bool, confirmed))
            found += len(frozenset().union(*confirmed))
        return CaptionAudit(
            images=len(self._images),
            stated=sum(len(stated) for _, _, stated in self._images),
            judged=judged,
            true=true,
            given=sum(len(named) for _, named, _ in self._images),
            found=found,
        )


def _confirmed(predicate: str, subjects: Set[str], objects: Set[str], given: Set[NameTriplet]) -> Set[NameTriplet]:
    """The ground-truth relations that a triplet states whose nouns mean these categories."""
    stated = {(subject, predicate, object_) for subject in subjects for object_ in objects}
    return given & (stated | {fact[::-1] for fact in stated} if predicate in SYMMETRIC else stated)


def _stated(triplets: pa.Table) -> Mapping[int, list[NameTriplet]]:
    """Image id → the triplets of its captions, each once per caption, with canonical predicates."""
    every = _by_image(triplets, "triplets", "caption", "subject_lemma", "predicate_lemma", "object_lemma")
    distinct = {i: dict.fromkeys((c, s, canonical(p), o) for c, s, p, o in own) for i, own in every.items()}
    return {image_id: [(s, p, o) for _, s, p, o in own] for image_id, own in distinct.items()}
