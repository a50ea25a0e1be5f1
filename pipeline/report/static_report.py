"""Writes the static report: a folder with one page and its images, readable without network access or scripts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from pipeline.labels.verdict_summary import run_precision
from pipeline.report.charts import Plot, Series, lay_out, line_style, predicate_bars, series
from pipeline.report.figures import figures_of, headline, run_stamp
from pipeline.report.formatting import count, share, shown_name
from pipeline.report.galleries import draw_galleries, highlights
from pipeline.report.label_view import SCORES, score_cells
from pipeline.report.page import page_templates, render_page
from pipeline.report.report_folder import (
    ADVICE,
    MARK,
    STORE_MARK,
    meta_of,
    report_fault,
    require_place,
    store_address,
    write_digests,
)
from pipeline.report.run_evaluations import write_run_evaluations
from pipeline.report.steps import ESTIMATE, RunOutcome, outdated_in_words, quarantine, scored_estimate, stage_rows
from pipeline.report.variants import score_name, score_names, score_text, steps_of_seeds
from pipeline.report.view import RunView
from pipeline.stages.order import chain_order
from storage.atomic import atomic_folder
from storage.digests import digest_json
from storage.errors import FatalError
from storage.runs import Run
from tagger.audit.coverage import FREQUENT

_VERSION = 21
"""Incremented whenever the page of the same run would look different."""
IMAGES = 24
"""Number of images drawn at random; half as many of the hardest are added."""


def write_report(
    view: RunView,
    outcome: RunOutcome | None,
    folder: Path,
    samples: int = IMAGES,
    *,
    seed: int = 0,
    written: datetime | None = None,
    against: Sequence[Run] = (),
    verdicts: Path | None = None,
) -> Path:
    """Writes the report of a run to `folder` and returns the path of its page.

    `samples` images are drawn at random with `seed`. A run that computed nothing keeps an intact report of the same
    artifacts. `written` is the date in the page header. Charts include the training runs of the runs `against`.
    `verdicts`: their folder; None for the store's own. Raises `FatalError` if `folder` contains anything but a report
    of this store or can't be written.
    """
    page = folder / "index.html"
    compared = [[run.name, run_stamp(run)] for run in against]
    estimated = view.run.read_document(ESTIMATE)
    human = run_precision(view.run, verdicts)
    further = [estimated] * bool(estimated) + ([] if human is None else [asdict(human)])
    stamp = digest_json([_VERSION, samples, seed, view.recipe, run_stamp(view.run), compared, *further])
    is_whole = not report_fault(folder)
    if outcome is not None and not outcome.computed and meta_of(page, MARK) == stamp and is_whole:
        return page
    require_place(view.run, folder)
    # A reused page gets a new digest, so it must be intact.
    earlier = folder / "evaluations" if is_whole else None
    try:
        with atomic_folder(folder, replace=True) as aside:
            (aside / "images").mkdir()
            galleries = draw_galleries(view, samples, seed, aside)
            evaluations = write_run_evaluations(view, aside / "evaluations", earlier, samples)
            figures = figures_of(view)
            text = render_page(
                _TEMPLATES,
                "report.html",
                ("report.css", "pictures.css"),
                rules=highlights(galleries.most_arrows),
                mark=MARK,
                stamp=stamp,
                store_mark=STORE_MARK,
                store=store_address(view.run),
                name=view.run.name,
                digest=digest_json(view.recipe),
                recipe=json.dumps(view.recipe, indent=2, ensure_ascii=False) if view.recipe else "",
                written=written,
                hosts=sorted({host for step in figures.steps for host in step.hosts}),
                figures=figures,
                frequent=FREQUENT,
                headline=headline(figures, human),
                human=human,
                scores=score_names(figures.variants),
                score_columns=("labels", *SCORES),
                evaluations=evaluations,
                stages=stage_rows(figures.steps, outcome),
                outdated=outdated_in_words(figures.steps),
                estimated=scored_estimate(view.run),
                curves=training_curves([view.run, *against]),
                compared=bool(against),
                bars=predicate_bars(figures.predicates),
                quarantine=quarantine(view.run),
                galleries=galleries,
            )
            (aside / "index.html").write_text(text, encoding="utf-8")
            write_digests(aside)
    except OSError as error:
        raise FatalError(f"{folder}: the report can't be written ({error}); name another folder: {ADVICE}") from error
    return page


_TEMPLATES = page_templates(
    {
        "share": share,
        "decimals": lambda value: "–" if value is None else f"{value:.2f}",
        "score_cells": score_cells,
        "score_name": score_name,
        "score_text": score_text,
        "count": count,
        "seconds": lambda value: f"{value / 60:.1f} min" if value >= 120 else f"{value:.1f} s",
        "times": lambda texts: list(Counter(texts).items()),
    }
)


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
