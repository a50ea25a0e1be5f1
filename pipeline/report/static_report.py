"""Writes the static report: a folder with one page and its images, readable without network access or scripts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from pipeline.labels.verdict_summary import run_precision
from pipeline.report.charts import predicate_bars
from pipeline.report.figures import figures_of, headline, run_stamp
from pipeline.report.formatting import count, share
from pipeline.report.galleries import draw_galleries, highlights
from pipeline.report.label_view import SCORES, score_cells
from pipeline.report.page import page_templates, render_page
from pipeline.report.quarantine import quarantine
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
from pipeline.report.steps import ESTIMATE, RunOutcome, outdated_in_words, scored_estimate, stage_rows
from pipeline.report.training_charts import training_curves
from pipeline.report.variants import score_name, score_names, score_text
from pipeline.report.view import RunView
from storage.atomic import atomic_folder
from storage.digests import digest_json
from storage.errors import FatalError
from storage.runs import Run
from tagger.audit.coverage import FREQUENT

_VERSION = 17
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
