"""Writes the static report: a folder with one page and its images, readable without network access or scripts."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report.charts import predicate_bars
from pipeline.report.curves import training_curves
from pipeline.report.figures import figures_of, run_stamp
from pipeline.report.formatting import without_controls
from pipeline.report.galleries import Galleries, draw_galleries, highlights
from pipeline.report.headline import headline
from pipeline.report.loss_figure import loss_figures
from pipeline.report.quarantine import quarantine
from pipeline.report.report_folder import (
    ADVICE,
    MARK,
    STORE_MARK,
    report_fault,
    require_place,
    stamp_of,
    store_address,
    write_digests,
)
from pipeline.report.run_evaluations import RunEvaluation, write_run_evaluations
from pipeline.report.step_costs import ESTIMATE, scored_estimate
from pipeline.report.steps import Outcome, stage_rows
from pipeline.report.variants import score_name, score_names, score_text
from pipeline.report.view import RunView
from storage.atomic import atomic_folder
from storage.digests import digest_json
from storage.errors import FatalError
from storage.runs import Run
from tagger.audit.coverage import FREQUENT

_TEMPLATES = Path(__file__).parent / "templates"
_VERSION = 9
"""Incremented whenever the page of the same run would look different."""
PICTURES = 24
"""Pictures that are drawn at random; half as many of the hardest come beside them."""


def write_report(
    view: RunView,
    outcome: Outcome | None,
    folder: Path,
    samples: int = PICTURES,
    *,
    seed: int = 0,
    written: datetime | None = None,
    against: Sequence[Run] = (),
) -> Path:
    """Writes the report of a run to `folder` and returns the path of its page.

    `samples` images are drawn at random with `seed`. A run that computed nothing keeps an existing report of the same
    artifacts, if it is whole. `written` is the date in the page header. The training runs of the runs `against` are drawn
    together with its own. Raises `FatalError` when `folder` holds anything but a report of this store, or cannot be written.
    """
    page = folder / "index.html"
    compared = [[run.name, run_stamp(run)] for run in against]
    estimated = view.run.read_document(ESTIMATE)
    stamp = digest_json(
        [_VERSION, samples, seed, view.recipe, run_stamp(view.run), compared, *([estimated] if estimated else [])]
    )
    is_whole = not report_fault(folder)
    if outcome is not None and not outcome.computed and stamp_of(page) == stamp and is_whole:
        return page
    require_place(view.run, folder)
    # A page that is taken over gets a digest anew, so it must be whole.
    earlier = folder / "evaluations" if is_whole else None
    try:
        with atomic_folder(folder, replace=True) as aside:
            (aside / "images").mkdir()
            galleries = draw_galleries(view, samples, seed, aside)
            evaluations = write_run_evaluations(view, aside / "evaluations", earlier, samples)
            text = _render(view, outcome, galleries, evaluations, stamp, written, against)
            (aside / "index.html").write_text(text, encoding="utf-8")
            write_digests(aside)
    except OSError as error:
        raise FatalError(f"{folder}: the report can't be written ({error}); name another folder: {ADVICE}") from error
    return page


def _render(
    view: RunView,
    outcome: Outcome | None,
    galleries: Galleries,
    evaluations: Sequence[RunEvaluation],
    stamp: str,
    written: datetime | None,
    against: Sequence[Run],
) -> str:
    figures = figures_of(view)
    style = "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "pictures.css"))
    style += highlights(galleries.most_arrows)
    return (
        _environment()
        .get_template("report.html")
        .render(
            mark=MARK,
            stamp=stamp,
            store_mark=STORE_MARK,
            store=store_address(view.run),
            style=Markup(style),
            style_hash=_csp_hash(style),
            name=view.run.name,
            digest=digest_json(view.recipe),
            recipe=json.dumps(view.recipe, indent=2, ensure_ascii=False) if view.recipe else "",
            written=written,
            hosts=sorted({host for step in figures.steps for host in step.hosts}),
            figures=figures,
            frequent=FREQUENT,
            headline=headline(figures),
            scores=score_names(figures.variants),
            evaluations=evaluations,
            stages=stage_rows(figures.steps, outcome),
            estimated=scored_estimate(view.run),
            losses=loss_figures(view.run),
            curves=training_curves([view.run, *against]) if against else [],
            bars=predicate_bars(figures.predicates),
            quarantine=quarantine(view.run),
            galleries=galleries,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=without_controls,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["decimals"] = lambda value: "–" if value is None else f"{value:.2f}"
    environment.filters["score_name"] = score_name
    environment.filters["score_text"] = score_text
    environment.filters["count"] = lambda value: "–" if value is None else f"{value:,}".replace(",", "\u2009")
    environment.filters["seconds"] = _seconds
    environment.filters["times"] = lambda texts: list(Counter(texts).items())
    return environment


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _seconds(value: float) -> str:
    if value >= 120:
        return f"{value / 60:.1f} min"
    return f"{value:.1f} s"
