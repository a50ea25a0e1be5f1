"""Charts of training runs: one for each metric, with a line for each training run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.report.charts import Plot, Series, lay_out, line_style, series
from pipeline.report.formatting import shown_name
from pipeline.report.variants import steps_of_seeds
from pipeline.stages.order import chain_order
from storage.runs import Run

_STAGES = {"train_tagger": "Tagger", "pretrain": "Pre-training"}
_MAIN = ("loss", "gradient_norm", "lr")
"""Metrics that are always visible; the others are folded."""


@dataclass(frozen=True)
class Curves:
    """The charts of one kind of training: one per metric, with a line for each training run."""

    title: str
    legend: tuple[tuple[str, str, int], ...]
    """CSS classes, run and variant, and number of training runs (seeds) of each kind of line."""
    main: tuple[Plot, ...]
    others: tuple[Plot, ...]


@dataclass(frozen=True)
class _Training:
    """The recorded metrics of one training run, by name."""

    stage: str
    name: str
    """Run and variant, shared by all seeds; a tagger has no variant."""
    label: str
    """Run, variant and seed."""
    metrics: dict[str, Series]


def training_curves(runs: Sequence[Run]) -> list[Curves]:
    """Returns the curves of all training runs of these runs, by kind of training."""
    trainings = [training for run in runs for training in _trainings(run)]
    return [
        _curves(title, of_stage)
        for stage, title in _STAGES.items()
        if (of_stage := [training for training in trainings if training.stage == stage])
    ]


def has_training(run: Run) -> bool:
    """Whether a run has recorded metrics of a training run."""
    return next(_trainings(run), None) is not None


def _trainings(run: Run) -> Iterator[_Training]:
    steps = [step for stage in _STAGES for of_variant in steps_of_seeds(run, stage).values() for step in of_variant]
    for step in sorted(steps, key=chain_order):
        stage, _, rest = step.partition(":")
        variant, _, seed = rest.partition(":")
        metrics = {each.name: each for artifact in run.artifacts(step).values() for each in series(artifact)}
        if metrics:
            name = f"{run.name}, {variant}" if variant else run.name
            yield _Training(stage, name, f"{name} (seed {seed})" if seed else name, metrics)


def _curves(title: str, trainings: Sequence[_Training]) -> Curves:
    names = list(dict.fromkeys(training.name for training in trainings))
    styles = {name: line_style(number) for number, name in enumerate(names)}
    recorded = {metric for training in trainings for metric in training.metrics}
    others = sorted(recorded.difference(_MAIN))
    return Curves(
        title=title,
        legend=tuple((styles[name], name, sum(t.name == name for t in trainings)) for name in names),
        main=tuple(_chart(metric, trainings, styles) for metric in _MAIN if metric in recorded),
        others=tuple(_chart(metric, trainings, styles) for metric in others),
    )


def _chart(metric: str, trainings: Sequence[_Training], styles: dict[str, str]) -> Plot:
    lines = [(t.label, styles[t.name], t.metrics[metric]) for t in trainings if metric in t.metrics]
    return lay_out(shown_name("training", metric), lines)
