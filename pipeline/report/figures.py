"""Computes the figures of a run: the quality of labels, captions and arms, and counts per stage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.captioning.recorded import RecordedCaptioner
from pipeline.labels.caption_audit import CaptionAudit, CaptionCount
from pipeline.labels.coverage import CoverageCount, LabelCoverage
from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.labels.label_audit import LabelAudit, LabelCount
from pipeline.labels.label_funnel import label_counts, labelled_partitions
from pipeline.labels.label_overrides import overrides_of
from pipeline.labels.label_tally import LabelFunnel, PredicateCount
from pipeline.report.arms import ArmScores, arm_scores, share_of_gain
from pipeline.report.steps import StepSummary, summaries
from pipeline.report.view import RunView
from storage.digests import digest_json
from storage.errors import FatalError
from storage.runs import Run, RunRecord

_VERSION = 7
"""Incremented whenever the same run would give different figures."""


@dataclass(frozen=True)
class DatasetAudit:
    """One labelled data set compared with its own given relations; both audits are None when it gives none.

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
    labels: LabelFunnel
    predicates: tuple[PredicateCount, ...]
    audits: tuple[DatasetAudit, ...]
    arms: tuple[ArmScores, ...]
    unknown_captions: int | None
    """Recorded captions of images that no labelled data set contains; they are ignored. None: not known."""
    share_of_gain: float | None
    """Share of the gain in zero-shot mAP, of given relations over no relations, that pseudo-labels recover."""
    steps: tuple[StepSummary, ...]

    def as_json(self) -> dict[str, Any]:
        """The figures as plain values; missing figures are left out."""
        plain: dict[str, Any] = _without_none(asdict(self))
        return plain


def compute_figures(
    run: Run, datasets: Sequence[str], choice: ChoiceSettings, unknown_captions: int | None = 0
) -> Figures:
    """Computes the figures of a run. `datasets` are the labelled data sets; `choice` is what the shards keep."""
    counts, predicates = label_counts(run, datasets, choice)
    arms = arm_scores(run)
    return Figures(
        choice=choice.in_words(),
        labels=counts,
        predicates=predicates,
        audits=tuple(
            _audit(run, dataset, choice) for dataset in datasets if labelled_partitions(run, "ingest", [dataset])
        ),
        arms=arms,
        unknown_captions=unknown_captions,
        share_of_gain=share_of_gain(arms),
        steps=tuple(summaries(run)),
    )


def figures_of(view: RunView) -> Figures:
    """The figures of a run. They are cached with the run, if it is not an older record, and recomputed when artifacts change."""
    run, recordings = view.run, view.captioning.recorded
    changed = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in recordings if path.is_file()]
    stamp = digest_json([_VERSION, list(view.label_sets), view.choice.row_settings(), run_stamp(run), changed])
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
    """Counts recorded captions of images that no labelled data set contains; 0 when a model generates the captions.

    None when the recordings are not on this machine, e.g. for a run that was pulled.
    """
    if view.captioning.captioner != "recorded" or "caption" not in view.run.steps():
        return 0
    if not all(path.is_file() for path in view.captioning.recorded):
        return None
    captioner = RecordedCaptioner(view.captioning)
    known: set[int] = set()
    for artifact in labelled_partitions(view.run, "ingest", view.label_sets).values():
        known.update(artifact.table("images")["image_id"].to_pylist())
    return sum(map(len, captioner.caption([], sorted(captioner.image_ids() - known))))


def run_stamp(run: Run) -> str:
    """Digest of the artifact keys of all partitions of all steps."""
    steps = {
        step: {part: artifact.key for part, artifact in run.artifacts(step).items()} for step in sorted(run.steps())
    }
    return digest_json(steps)


def _audit(run: Run, dataset: str, choice: ChoiceSettings) -> DatasetAudit:
    images = labelled_partitions(run, "ingest", [dataset])
    tagged, parsed = labelled_partitions(run, "tag", [dataset]), labelled_partitions(run, "parse", [dataset])
    settled = overrides_of(run)
    labels, captions, covered = LabelCount(choice, settled), CaptionCount(), CoverageCount(choice, settled)
    has_truth = False
    for partition, artifact in images.items():
        table = artifact.table("images")
        has_truth = has_truth or any(table["relations"].to_pylist())
        triplets = parsed[partition].table("triplets") if partition in parsed else None
        if partition in tagged:
            labels.add(table, tagged[partition])
            covered.add(table, tagged[partition], triplets)
        if triplets is not None:
            captions.add(table, triplets)
    coverage = covered.coverage()
    if not has_truth:
        return DatasetAudit(dataset, False, None, None, coverage)
    return DatasetAudit(
        dataset, True, labels.audit() if tagged else None, captions.audit() if parsed else None, coverage
    )


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(each) for name, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_without_none(each) for each in value]
    return value
