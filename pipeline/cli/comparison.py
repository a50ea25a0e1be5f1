"""Compares two runs beyond their relations: the labels that they keep, their settings, and their figures side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.labels.kept_labels import ChoiceSettings, choice_or_all, kept_labels
from pipeline.labels.label_overrides import Overrides, overrides_of
from pipeline.labels.labelled_partitions import candidates
from pipeline.report.label_view import LabelView
from pipeline.report.steps import summaries
from pipeline.report.variants import score_name, variant_scores
from storage.artifact import Artifact
from storage.runs import Run


class Changed(NamedTuple):
    """A setting or a figure of two runs; a value is None where a run has none."""

    name: str
    before: Any
    after: Any


@dataclass
class KeptChange:
    """How many labels both runs keep, and how many only one of them does, by predicate."""

    same: int = 0
    added: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Comparison:
    """What two runs keep, the settings in which their steps differ, and their figures."""

    kept: KeptChange
    settings: tuple[Changed, ...]
    figures: tuple[Changed, ...]

    @classmethod
    def of(cls, before: Run, after: Run) -> Comparison:
        """Compares two runs that have labels."""
        return cls(_kept_change(before, after), tuple(_settings(before, after)), tuple(_figures(before, after)))

    def as_json(self) -> dict[str, Any]:
        """The comparison as plain values."""
        listed = {name: [row._asdict() for row in getattr(self, name)] for name in ("settings", "figures")}
        return {"kept": vars(self.kept), **listed}


def _kept_change(before: Run, after: Run) -> KeptChange:
    found = KeptChange()
    choices = choice_or_all(before), choice_or_all(after)
    settled = overrides_of(before), overrides_of(after)
    old, new = before.artifacts("tag"), after.artifacts("tag")
    for partition in sorted(old.keys() | new.keys()):
        one = _kept(old.get(partition), choices[0], settled[0].get(partition))
        other = _kept(new.get(partition), choices[1], settled[1].get(partition))
        found.same += len(one & other)
        found.added.update(predicate for _, _, predicate, _ in other - one)
        found.lost.update(predicate for _, _, predicate, _ in one - other)
    return found


def _kept(tagged: Artifact | None, choice: ChoiceSettings, settled: Overrides | None) -> set[tuple[int, int, str, int]]:
    """Image, subject, predicate, object of the labels that are kept."""
    if tagged is None:
        return set()
    kept = kept_labels(tagged.table("relations"), candidates(tagged), choice, settled)
    return {
        (image_id, label.subject, label.predicate, label.object) for image_id, found in kept.items() for label in found
    }


def _settings(before: Run, after: Run) -> Iterator[Changed]:
    """The settings that a step of both runs was computed with and that differ."""
    old, new = ({summary.step: summary.settings for summary in summaries(run)} for run in (before, after))
    for step in (step for step in old if step in new):
        names = dict.fromkeys((*old[step], *new[step]))
        yield from (
            Changed(f"{step}.{name}", old[step].get(name), new[step].get(name))
            for name in names
            if old[step].get(name) != new[step].get(name)
        )


def _figures(before: Run, after: Run) -> Iterator[Changed]:
    old, new = dict(_named_figures(before)), dict(_named_figures(after))
    for name in dict.fromkeys((*old, *new)):
        yield Changed(name, old.get(name), new.get(name))


def _named_figures(run: Run) -> Iterator[tuple[str, float | None]]:
    view = LabelView.of(run)
    yield from view.counts.levels()
    for dataset, audit in view.audits.items():
        for name in ("precision", "recall", "precision_at_recall", "average_precision"):
            yield f"{name.replace('_', ' ')}, {dataset}", _rounded(getattr(audit.tagger, name))
    for variant in variant_scores(run):
        for name, spread in variant.scores.items():
            yield f"{score_name(name)}, {variant.variant}", _rounded(spread.mean)
    for summary in summaries(run):
        yield f"seconds, {summary.step}", summary.seconds


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def in_words(value: Any) -> str:
    """A setting or figure as text; a figure that a run lacks is a dash."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
