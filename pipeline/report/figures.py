"""Computes the figures of a run: the quality of labels, captions and variants, and counts per stage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from pipeline.captioning.recorded import RecordedCaptioner
from pipeline.labels.audit_sample import AuditPrecision
from pipeline.labels.coverage import CoverageCount, LabelCoverage
from pipeline.labels.flat_list import FlatList
from pipeline.labels.kept_labels import ChoiceSettings, JudgedLabels, judged_artifact
from pipeline.labels.label_audit import LEARNED, CaptionAudit, CaptionCount, LabelAudit, LabelCount, learned_from
from pipeline.labels.label_funnel import LabelFunnel, LabelTally, PredicateCount, label_tally
from pipeline.labels.label_overrides import Overrides, overrides_of
from pipeline.labels.labelled_partitions import LabelledPartition, byte_copies, packs_labels, partition_artifacts
from pipeline.report.steps import StepSummary, summaries
from pipeline.report.variants import (
    DETECTION,
    ZERO_SHOT,
    VariantScores,
    score_points,
    share_of_gain,
    steps_of_seeds,
    variant_scores,
)
from pipeline.report.view import RunView
from pipeline.runtime.stage import dataset_of
from storage.digests import digest_json
from storage.errors import FatalError
from storage.runs import Run, RunRecord

_VERSION = 20
"""Incremented whenever the same run would give different figures."""


@dataclass(frozen=True)
class DatasetAudit:
    """One labelled dataset compared with its own ground-truth relations; both audits are None when it gives none.

    `coverage` is None before any of its partitions is tagged.
    """

    dataset: str
    has_truth: bool
    labels: LabelAudit | None
    captions: CaptionAudit | None
    coverage: LabelCoverage | None = None


@dataclass(frozen=True)
class Figures:
    """All figures that a run has so far."""

    choice: str
    """Description of which labels are kept."""
    copies: int | None
    """Labelled images whose files repeat the bytes of an earlier image. None where ingest did not read all bytes."""
    labels: LabelFunnel
    predicates: tuple[PredicateCount, ...]
    audits: tuple[DatasetAudit, ...]
    variants: tuple[VariantScores, ...]
    unknown_captions: int | None
    """Recorded captions of images that no labelled dataset contains; they are ignored. None: not known."""
    share_of_gain: float | None
    """Share of the gain in zero-shot mAP, of ground-truth relations over no relations, that pseudo-labels recover."""
    steps: tuple[StepSummary, ...]

    def as_json(self) -> dict[str, Any]:
        """The figures as plain values; missing figures are left out."""
        plain: dict[str, Any] = _without_none(asdict(self))
        return plain


def compute_figures(
    run: Run, datasets: Sequence[str], choice: ChoiceSettings, unknown_captions: int | None = 0
) -> Figures:
    """Computes the figures of a run. `datasets` are the labelled datasets; `choice` is what the shards keep."""
    tally, counts = count_labels(run, datasets, choice)
    variants, steps = variant_scores(run), tuple(summaries(run))
    hashed = any(step.step == "ingest" and step.settings.get("fingerprint") == "bytes" for step in steps)
    return Figures(
        choice=choice.in_words(),
        copies=byte_copies([digests for count in counts for digests in count.digests]) if hashed else None,
        labels=tally.funnel(),
        predicates=tally.predicates(),
        audits=tuple(count.audit() for count in counts if count.digests),
        variants=variants,
        unknown_captions=unknown_captions,
        share_of_gain=share_of_gain(variants),
        steps=steps,
    )


def figures_of(view: RunView) -> Figures:
    """The figures of a run, cached with it unless it is an older record, and recomputed when artifacts change."""
    run, recordings = view.run, view.captioning.recorded
    changed = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in recordings if path.is_file()]
    read = [run_stamp(run), steps_of_seeds(run, "evaluate"), changed]
    stamp = digest_json([_VERSION, list(view.label_sets), view.choice.row_settings(), *read])
    adapter = TypeAdapter(Figures)
    found = run.read_document("figures")
    if found.get("stamp") == stamp:
        with suppress(ValidationError):
            return adapter.validate_python(found.get("figures"))
    figures = compute_figures(run, view.label_sets, view.choice, count_unknown_captions(view))
    if isinstance(run, RunRecord):
        return figures
    with suppress(FatalError):  # a store that can't be written caches nothing
        run.note("figures", {"stamp": stamp, "figures": adapter.dump_python(figures, mode="json")})
    return figures


def count_unknown_captions(view: RunView) -> int | None:
    """Counts recorded captions of images that no labelled dataset contains; 0 when a model generates the captions.

    None when the recordings are not on this machine, e.g. for a run that was pulled.
    """
    if view.captioning.captioner != "recorded" or "caption" not in view.run.steps():
        return 0
    if not all(path.is_file() for path in view.captioning.recorded):
        return None
    captioner = RecordedCaptioner(view.captioning)
    known: set[int] = set()
    for found in partition_artifacts(view.run, view.label_sets).values():
        if found.images is not None:
            known.update(found.images.table("images")["image_id"].to_pylist())
    unusable = sum(reject.image_id not in known for reject in captioner.rejects)  # of no image, or of another
    return unusable + sum(map(len, captioner.caption([], sorted(captioner.image_ids() - known))))


def run_stamp(run: Run) -> str:
    """Digest of the artifact keys of all steps' partitions, and of whether shards decide which labels are kept."""
    steps = {
        step: {part: artifact.key for part, artifact in run.artifacts(step).items()} for step in sorted(run.steps())
    }
    return digest_json([steps, packs_labels(run)])


def count_labels(run: Run, datasets: Sequence[str], choice: ChoiceSettings) -> tuple[LabelTally, Sequence[AuditCount]]:
    """Counts the labels of a run in these datasets: all of them, and what an audit of each dataset needs."""
    tally, settled, learned = LabelTally(), overrides_of(run), learned_from(run, datasets)
    counts = {dataset: AuditCount(dataset, choice, learned[dataset]) for dataset in datasets}
    for partition, artifacts in partition_artifacts(run, datasets).items():
        found, own = artifacts.held().fitting(), settled.get(partition)
        judged = None if found.tagged is None else judged_artifact(found.tagged, choice, own)
        tally.update(label_tally(found, judged))
        counts[dataset_of(partition)].add(found, judged, own)
    return tally, tuple(counts.values())


class AuditCount:
    """Collects a `DatasetAudit` over the partitions of one dataset."""

    def __init__(self, dataset: str, choice: ChoiceSettings, learned: bool | None) -> None:
        self.dataset = dataset
        self.digests: list[pa.ChunkedArray] = []
        """Of the images that the run has, by partition."""
        self.labels, self.covered = LabelCount(choice, learned), CoverageCount()
        self._has_truth, self._is_tagged, self._is_parsed = False, False, False
        self._captions = CaptionCount()

    def add(self, found: LabelledPartition, judged: JudgedLabels | None, overrides: Overrides | None) -> None:
        """Add a partition with its labels, if it is tagged, and what reviewers have settled about it."""
        self._is_tagged |= found.tagged is not None
        self._is_parsed |= found.parsed is not None
        if found.images is None:
            return
        images = found.images.table("images")
        self.digests.append(images["digest"])
        self._has_truth = self._has_truth or len(FlatList.of(images, "relations")) > 0
        triplets = None if found.parsed is None else found.parsed.table("triplets")
        if found.tagged is not None and judged is not None:
            self.labels.add(images, found.tagged, overrides)
            self.covered.add(images, judged, triplets)
        if triplets is not None:
            self._captions.add(images, triplets)

    def audit(self) -> DatasetAudit:
        """The audit of everything added so far."""
        coverage = self.covered.coverage()
        if not self._has_truth:
            return DatasetAudit(self.dataset, False, None, None, coverage)
        labels = self.labels.audit() if self._is_tagged else None
        return DatasetAudit(self.dataset, True, labels, self._captions.audit() if self._is_parsed else None, coverage)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(each) for name, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_without_none(each) for each in value]
    return value


_COMPARED = {"naive": "naive matching", "none": "without relations"}
"""Variant → its name next to the headline of variant "pseudo"; the first that a run has is the one to compare with."""


def headline(figures: Figures, human: AuditPrecision | None = None) -> list[tuple[str, str, str]]:
    """The headline numbers: value, what it measures, what to compare it with. `human`: the precision by reviewers."""
    tiles = []
    if figures.labels.kept is not None:
        tiles.append((f"{figures.labels.kept:,}", "labels kept", figures.choice))
    if human is not None:
        interval = f"95 % interval {human.low:.2f} to {human.high:.2f}, {human.judged:,} labels judged"
        interval += "" if human.covered == 1 else f", valid for {min(human.covered, 0.999):.3f} of the labels"
        tiles.append((f"{human.precision:.2f}", "precision by reviewers, before corrections", interval))
    for audit in figures.audits:
        learned = LEARNED[audit.labels.learned_from] if audit.labels else ""
        if audit.labels and audit.labels.tagger.precision is not None:
            share = "–" if audit.labels.tagger.recall is None else f"{audit.labels.tagger.recall:.2f}"
            recall = f"recall {share} of all {audit.labels.given:,} ground-truth relations{learned}"
            value = f"{audit.labels.tagger.precision:.2f}"
            tiles.append((value, f"precision of the labels kept, {audit.dataset}", recall))
        if audit.labels and audit.labels.tagger.precision_at_recall is not None:
            name, best = audit.labels.best_baseline
            reached = best.precision_at_recall
            against = "no baseline reaches it" if reached is None else f"{name} {reached:.2f}"
            value = f"{audit.labels.tagger.precision_at_recall:.2f}"
            what = f"precision at recall .8 of the reachable relations, {audit.dataset}"
            tiles.append((value, what, against + learned))
    images = {variant.test_images for variant in figures.variants if variant.variant == "pseudo"}
    scores = {v.variant: v.scores for v in figures.variants if ZERO_SHOT in v.scores and v.test_images in images}
    if "pseudo" in scores:
        compared = (
            f"{words} {score_points(scores[variant][ZERO_SHOT]):.2f}"
            for variant, words in _COMPARED.items()
            if variant in scores
        )
        boxes = (
            f"detection AP50 {score_points(scores['pseudo'][DETECTION]):.2f}" if DETECTION in scores["pseudo"] else ""
        )
        seeds = len(scores["pseudo"][ZERO_SHOT].values)
        mean = f", mean of {seeds} seeds" if seeds > 1 else ""
        value = f"{score_points(scores['pseudo'][ZERO_SHOT]):.2f}"
        tiles.append((value, f"zero-shot triplet mAP, of 100{mean}", next(compared, boxes)))
    if figures.share_of_gain is not None:
        tiles.append((f"{figures.share_of_gain:.0%}", "of the gain of ground-truth relations", "zero-shot triplet mAP"))
    return tiles
