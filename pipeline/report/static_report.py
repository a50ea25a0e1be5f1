"""Writes the static report: a folder with one page and its pictures, readable without network access or scripts."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_image
from pipeline.report.arms import DETECTION, ZERO_SHOT, score_name, score_names, score_text
from pipeline.report.charts import loss_charts, predicate_bars
from pipeline.report.curves import training_curves
from pipeline.report.figures import Figures, figures_of, run_stamp
from pipeline.report.gallery import MAX_LISTED, Sample, choose_samples
from pipeline.report.quarantine import quarantine
from pipeline.report.steps import Outcome, stage_rows
from pipeline.report.view import REPORTS, RunView
from storage.atomic import atomic_folder
from storage.digests import digest_json
from storage.errors import FatalError
from storage.runs import Run
from tagger.audit.coverage import FREQUENT

_TEMPLATES = Path(__file__).parent / "templates"
_MARK = "rlip-report"
"""Name of the meta element that identifies a page as a report; its content is the stamp."""
_STORE = "rlip-store"
"""Name of the meta element that names the store of the run."""
_VERSION = 7
"""Incremented whenever the page of the same run would look different."""
_ADVICE = "`reports` in the recipe, or --out of `rlip report`"
_COMPARED = {"naive": "naive matching", "none": "without relations"}
"""Arm → its name beside the headline of arm "pseudo"; the first that a run has is the one to compare with."""
LONGEST_SIDE = 640
"""Longest side of the pictures in the report, in pixels."""


@dataclass(frozen=True)
class Card:
    """A sample with the file of its picture, or the reason why there is none."""

    sample: Sample
    file: str | None
    problem: str


def write_report(
    view: RunView,
    outcome: Outcome | None,
    folder: Path,
    samples: int = 24,
    *,
    written: datetime | None = None,
    against: Sequence[Run] = (),
) -> Path:
    """Writes the report of a run to `folder` and returns the path of its page.

    A run that computed nothing keeps an existing report of the same artifacts. `written` is the date in the page
    header. The trainings of the runs `against` are drawn together with its own. Raises `FatalError` when `folder` holds
    anything but a report of this store, or cannot be written.
    """
    page = folder / "index.html"
    compared = [[run.name, run_stamp(run)] for run in against]
    stamp = digest_json([_VERSION, samples, view.recipe, run_stamp(view.run), compared])
    if outcome is not None and not outcome.computed and _stamp_of(page) == stamp:
        return page
    require_place(view.run, folder)
    try:
        with atomic_folder(folder, replace=True) as aside:
            (aside / "images").mkdir()
            _fill(aside, view, outcome, samples, stamp, written, against)
    except OSError as error:
        raise FatalError(f"{folder}: the report can't be written ({error}); name another folder: {_ADVICE}") from error
    return page


def report_folder(run: Run) -> Path:
    """Where the report of a run lies: in the folder that its recipe named, if it has one of this store there, or in the store."""
    chosen = run.read_document("recipe").get("reports")
    if chosen and _meta(Path(chosen, run.name, "index.html"), _STORE) == _address(run):
        return Path(chosen, run.name)
    return run.store.root / REPORTS / run.name


def require_place(run: Run, folder: Path) -> None:
    """Raises `FatalError` when the report of a run would overwrite anything but an earlier report of this store."""
    page = folder / "index.html"
    if not folder.exists() or not any(folder.iterdir()) or _is_of(page, run):
        return
    advice = f"remove it, or name another folder: {_ADVICE}"
    if _stamp_of(page) is None:
        raise FatalError(f"{folder}: holds files that are not a report; {advice}")
    other = _meta(page, _STORE) or "which it does not name"
    raise FatalError(f"{page}: is the report of a run in another store, {other}; {advice}")


def remove_report(run: Run) -> bool:
    """Removes the reports of a run and its records, and logs that lie in the store. Returns whether there was a report."""
    folder = report_folder(run)
    pages = [folder / "index.html", *folder.parent.glob(f"{folder.name}@*/index.html")]
    found = [page.parent for page in pages if _is_of(page, run)]
    for report in found:
        shutil.rmtree(report)
    logs = folder.with_name(f"{folder.name}.logs")
    if _is_inside(folder, run) and not (logs / "index.html").exists():  # a run may be named so
        shutil.rmtree(logs, ignore_errors=True)
    return bool(found)


def _is_of(page: Path, run: Run) -> bool:
    """Whether a page reports on a run of this store. In the store's own folder, which may have moved, every report does."""
    return _stamp_of(page) is not None and (_is_inside(page, run) or _meta(page, _STORE) == _address(run))


def _is_inside(path: Path, run: Run) -> bool:
    return path.resolve().is_relative_to(run.store.root.resolve())


def _address(run: Run) -> str:
    store = run.store
    return str(store.root.resolve()) if store.address == str(store.root) else store.address


def _fill(
    folder: Path,
    view: RunView,
    outcome: Outcome | None,
    samples: int,
    stamp: str,
    written: datetime | None,
    against: Sequence[Run],
) -> None:
    figures = figures_of(view)
    chosen = choose_samples(view.run, view.label_sets, view.choice, samples)
    style = (_TEMPLATES / "report.css").read_text()
    text = (
        _environment()
        .get_template("report.html")
        .render(
            mark=_MARK,
            stamp=stamp,
            store_mark=_STORE,
            store=_address(view.run),
            style=Markup(style),
            style_hash=_csp_hash(style),
            name=view.run.name,
            digest=digest_json(view.recipe),
            recipe=json.dumps(view.recipe, indent=2, ensure_ascii=False) if view.recipe else "",
            written=written,
            hosts=sorted({host for step in figures.steps for host in step.hosts}),
            figures=figures,
            frequent=FREQUENT,
            headline=_headline(figures),
            scores=score_names(figures.arms),
            stages=stage_rows(figures.steps, outcome),
            losses=loss_charts(view.run),
            curves=training_curves([view.run, *against]) if against else [],
            bars=predicate_bars(figures.predicates),
            quarantine=quarantine(view.run),
            cards=[_card(sample, view.image_folders, folder) for sample in chosen],
            listed=MAX_LISTED,
            caption_counts=lambda texts: list(Counter(texts).items()),
        )
    )
    (folder / "index.html").write_text(text, encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
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
    return environment


def _headline(figures: Figures) -> list[tuple[str, str, str]]:
    """The headline numbers: value, what it measures, what to compare it with."""
    tiles = []
    if figures.labels.kept is not None:
        tiles.append((f"{figures.labels.kept:,}".replace(",", "\u2009"), "labels kept", figures.choice))
    for audit in figures.audits:
        if audit.labels and audit.labels.tagger.precision_at_recall is not None:
            name, best = audit.labels.best_baseline
            against = (
                "no baseline reaches it"
                if best.precision_at_recall is None
                else f"{name} {best.precision_at_recall:.2f}"
            )
            value = f"{audit.labels.tagger.precision_at_recall:.2f}"
            tiles.append((value, f"precision at recall .8, {audit.dataset}", against))
    scores = {arm.arm: arm.scores for arm in figures.arms if ZERO_SHOT in arm.scores}
    if "pseudo" in scores:
        compared = (f"{words} {scores[arm][ZERO_SHOT].mean:.3f}" for arm, words in _COMPARED.items() if arm in scores)
        boxes = f"detection AP50 {scores['pseudo'][DETECTION].mean:.3f}" if DETECTION in scores["pseudo"] else ""
        tiles.append((f"{scores['pseudo'][ZERO_SHOT].mean:.3f}", "zero-shot triplet mAP", next(compared, boxes)))
    if figures.share_of_gain is not None:
        tiles.append((f"{figures.share_of_gain:.0%}", "of the gain of given relations", "zero-shot triplet mAP"))
    return tiles


def _card(sample: Sample, folders: Mapping[str, Path | str], folder: Path) -> Card:
    row = sample.row
    if row["dataset"] not in folders:
        return Card(sample, None, "the run does not know where the images of this data set lie")
    file = f"images/{row['dataset']}-{row['image_id']}.jpg"
    try:
        image = read_image(locate_image(folders, row))
    except BadImage as bad:
        return Card(sample, None, str(bad))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    image.save(folder / file, quality=88)
    return Card(sample, file, "")


def _stamp_of(page: Path) -> str | None:
    """The stamp of a report page; None when the file is not a report."""
    return _meta(page, _MARK)


def _meta(page: Path, name: str) -> str | None:
    """The content of a meta element of a report page; None when the file has no such element."""
    try:
        with page.open(encoding="utf-8") as file:
            head = file.read(2_000)
    except (OSError, UnicodeDecodeError):
        return None
    _, found, rest = head.partition(f'<meta name="{name}" content="')
    return html.unescape(rest.partition('"')[0]) if found else None


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _seconds(value: float) -> str:
    if value >= 120:
        return f"{value / 60:.1f} min"
    return f"{value:.1f} s"
