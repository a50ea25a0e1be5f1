"""Draws the losses of a run's training runs: one figure for each kind of training, its losses told apart by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.charts import Chart, Line, Series, lay_out, line_style, series
from pipeline.stages.order import chain_order
from storage.runs import Run

TOTAL = "loss"


@dataclass(frozen=True)
class LossFigure:
    """The losses of one kind of training as small multiples: the total, then the terms of each variant."""

    title: str
    total: Chart | None
    """The whole loss, with a line for each training."""
    variants: tuple[tuple[str, str, int], ...]
    """CSS class, variant ("" for a tagger), and number of training runs (seeds), of each kind of line in `total`."""
    terms: tuple[tuple[str, Chart], ...]
    """Variant and its terms of the loss, with a line for each name and seed. All have the same axes."""
    names: tuple[tuple[str, str], ...]
    """CSS classes and name of each term."""


@dataclass(frozen=True)
class _Training:
    variant: str
    seed: str
    losses: dict[str, Series]

    def line(self, name: str, style: str) -> tuple[Line, Series]:
        label = " ".join(filter(None, (name, self.variant, f"(seed {self.seed})" if self.seed else "")))
        return Line(label, style, "", float(self.losses[name].values[-1])), self.losses[name]


def loss_figures(run: Run) -> list[LossFigure]:
    """Draws the losses of the tagger and of pre-training, where recorded."""
    figures = []
    for title, stage in (("Tagger", "train_tagger"), ("Pre-training", "pretrain")):
        trainings = [each for each in _trainings(run, stage) if each.losses]
        if trainings:
            figures.append(_figure(title, trainings))
    return figures


def _trainings(run: Run, stage: str) -> list[_Training]:
    found = []
    for step in sorted((s for s in run.steps() if s.split(":")[0] == stage), key=chain_order):
        variant, _, seed = step.partition(":")[2].partition(":")
        every = {each.name: each for artifact in run.artifacts(step).values() for each in series(artifact)}
        losses = {name: each for name, each in every.items() if name == TOTAL or name.startswith("loss_")}
        found.append(_Training(variant, seed, losses))
    return found


def _figure(title: str, trainings: Sequence[_Training]) -> LossFigure:
    variants = Counter(training.variant for training in trainings)
    totals = [training.line(TOTAL, f"variant-{training.variant}") for training in trainings if TOTAL in training.losses]
    names = sorted({name for training in trainings for name in training.losses} - {TOTAL})
    styles = {name: line_style(number) for number, name in enumerate(names)}
    within = [each for training in trainings for name, each in training.losses.items() if name in styles]
    terms = []
    for variant in variants if names else ():
        of_variant = [training for training in trainings if training.variant == variant]
        lines = [
            training.line(name, styles[name]) for training in of_variant for name in names if name in training.losses
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
