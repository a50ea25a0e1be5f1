"""Charts of training runs: each metric of several runs, and the losses of one run as small multiples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.report.charts import Chart, Line, Series, lay_out, line_style, series
from pipeline.stages.order import chain_order
from storage.runs import Run

_STAGES = {"train_tagger": "Tagger", "pretrain": "Pre-training"}
_MAIN = ("loss", "gradient_norm", "lr", "images_per_second", "data_wait", "mfu")
"""Metrics that are always visible; the others are folded."""
_WORDS = {
    "lr": "learning rate",
    "lr_backbone": "learning rate of the backbone",
    "lr_text": "learning rate of the text encoder",
    "images_per_second": "images per second",
    "data_wait": "share of time waiting for data",
    "padding": "share of pixels that are padding",
    "memory_gib": "memory in GiB",
    "mfu": "model FLOPs utilisation",
}
TOTAL = "loss"


@dataclass(frozen=True)
class Curves:
    """The charts of one kind of training: one per metric, with a line for each training run."""

    title: str
    legend: tuple[tuple[str, str, int], ...]
    """CSS classes, run and variant, and number of training runs (seeds) of each kind of line."""
    main: tuple[Chart, ...]
    others: tuple[Chart, ...]


@dataclass(frozen=True)
class LossFigure:
    """The losses of one kind of training as small multiples: the total, then the terms of each variant."""

    title: str
    total: Chart | None
    """The total loss, with one line per training run."""
    variants: tuple[tuple[str, str, int], ...]
    """CSS class, variant ("" for a tagger), and number of training runs (seeds) of each kind of line in `total`."""
    terms: tuple[tuple[str, Chart], ...]
    """Variant and its loss terms, with one line per name and seed. All have the same axes."""
    names: tuple[tuple[str, str], ...]
    """CSS classes and name of each loss term."""


@dataclass(frozen=True)
class _Training:
    """The recorded metrics of one training run, by name."""

    stage: str
    run: str
    variant: str
    """"" for a tagger."""
    seed: str
    metrics: dict[str, Series]

    @property
    def name(self) -> str:
        """Run and variant, shared by all seeds."""
        return f"{self.run}, {self.variant}" if self.variant else self.run

    def line(self, metric: str, words: Sequence[str], style: str) -> tuple[Line, Series]:
        """The line of a metric, without points. `words`: the label's text before the seed."""
        label = " ".join(filter(None, (*words, f"(seed {self.seed})" if self.seed else "")))
        return Line(label, style, "", float(self.metrics[metric].values[-1])), self.metrics[metric]


def training_curves(runs: Sequence[Run]) -> list[Curves]:
    """Returns the curves of all training runs of these runs, by kind of training."""
    trainings = [training for run in runs for training in _trainings(run)]
    return [
        _curves(title, of_stage)
        for stage, title in _STAGES.items()
        if (of_stage := [training for training in trainings if training.stage == stage])
    ]


def loss_figures(run: Run) -> list[LossFigure]:
    """Draws the losses of the tagger and of pre-training, where recorded."""
    figures = []
    for stage, title in _STAGES.items():
        trainings = [each for each in _trainings(run) if each.stage == stage and any(map(_is_loss, each.metrics))]
        if trainings:
            figures.append(_loss_figure(title, trainings))
    return figures


def has_training(run: Run) -> bool:
    """Whether a run has recorded metrics of a training run."""
    return next(_trainings(run), None) is not None


def _trainings(run: Run) -> Iterator[_Training]:
    for step in sorted((step for step in run.steps() if step.split(":")[0] in _STAGES), key=chain_order):
        stage, _, rest = step.partition(":")
        variant, _, seed = rest.partition(":")
        metrics = {each.name: each for artifact in run.artifacts(step).values() for each in series(artifact)}
        if metrics:
            yield _Training(stage, run.name, variant, seed, metrics)


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


def _chart(metric: str, trainings: Sequence[_Training], styles: dict[str, str]) -> Chart:
    lines = [each.line(metric, [each.name], styles[each.name]) for each in trainings if metric in each.metrics]
    return lay_out(_WORDS.get(metric, metric.replace("_", " ")), lines)


def _loss_figure(title: str, trainings: Sequence[_Training]) -> LossFigure:
    variants = Counter(training.variant for training in trainings)
    totals = [
        each.line(TOTAL, [TOTAL, each.variant], f"variant-{each.variant}")
        for each in trainings
        if TOTAL in each.metrics
    ]
    names = sorted({name for each in trainings for name in each.metrics if _is_loss(name)} - {TOTAL})
    styles = {name: line_style(number) for number, name in enumerate(names)}
    within = [values for each in trainings for name, values in each.metrics.items() if name in styles]
    terms = []
    for variant in variants if names else ():
        lines = [
            each.line(name, [name, variant], styles[name])
            for each in trainings
            for name in names
            if each.variant == variant and name in each.metrics
        ]
        if lines:
            terms.append((variant, lay_out("terms of the loss", lines, within)))
    return LossFigure(
        title=title,
        total=lay_out("whole loss", totals) if totals else None,
        variants=tuple((f"variant-{variant}", variant, seeds) for variant, seeds in variants.items()),
        terms=tuple(terms),
        names=tuple((style, name.removeprefix("loss_").replace("_", " ")) for name, style in styles.items()),
    )


def _is_loss(name: str) -> bool:
    return name == TOTAL or name.startswith("loss_")
