"""Locates the report of a run, checks which store a report belongs to, and removes it with its run.

A run's report is in `reports/<run>` of the store or, if the recipe names another folder, in `<folder>/<run>`. Its page
names the store, so that the report of another store is neither overwritten nor removed.
"""

from __future__ import annotations

import html
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.report.view import REPORTS
from storage.digests import digest_file
from storage.errors import FatalError
from storage.json_files import read_json, sealed_json
from storage.runs import Run

MARK = "rlip-report"
"""Name of the meta element that marks a page as a report; its content is the stamp."""
STORE_MARK = "rlip-store"
"""Name of the meta element that names the run's store."""
DIGESTS = "digests.json"
"""File in a report with the digests of the others."""
ADVICE = "`reports` in the recipe, or --out of `rlip report`"


def report_folder(run: Run) -> Path:
    """The folder of a run's report: the one its recipe named, if it has a report of this store, or else the store's."""
    chosen = run.read_document("recipe").get("reports")
    if chosen and meta_of(Path(chosen, run.name, "index.html"), STORE_MARK) == store_address(run):
        return Path(chosen, run.name)
    return run.store.root / REPORTS / run.name


def require_place(run: Run, folder: Path) -> None:
    """Raises `FatalError` if a run's report would overwrite anything but an earlier report of this store."""
    page = folder / "index.html"
    if folder.exists() and not folder.is_dir():
        raise FatalError(f"{folder}: is not a folder; name another: {ADVICE}")
    if not folder.exists() or not any(folder.iterdir()) or _is_of(page, run):
        return
    advice = f"remove it, or name another folder: {ADVICE}"
    if meta_of(page, MARK) is None:
        raise FatalError(f"{folder}: contains files that are not a report; {advice}")
    other = meta_of(page, STORE_MARK) or "which it does not name"
    raise FatalError(f"{page}: is the report of a run in another store, {other}; {advice}")


def remove_report(run: Run) -> list[Path]:
    """Removes a run's reports, and its records and logs in the store. Returns the folders of the reports.

    A copy that `rlip report --out` wrote elsewhere stays.
    """
    folder = report_folder(run)
    pages = [folder / "index.html", *folder.parent.glob(f"{folder.name}@*/index.html")]
    found = [page.parent for page in pages if _is_of(page, run)]
    for report in found:
        shutil.rmtree(report)
    logs = folder.with_name(f"{folder.name}.logs")
    if _is_inside(folder, run) and not (logs / "index.html").exists():  # a run may have this name
        shutil.rmtree(logs, ignore_errors=True)
    return found


@dataclass(frozen=True)
class _Digests:
    files: dict[str, str]
    """Name in the folder → SHA-256."""


def write_digests(folder: Path) -> None:
    """Writes the digests of a report's files, against which `report_fault` checks them."""
    (folder / DIGESTS).write_bytes(sealed_json({"files": _digests(folder)}))


def report_fault(folder: Path) -> str:
    """What is wrong with a report's files, e.g. missing digests (reports of earlier versions); "" if nothing is."""
    try:
        known = read_json(folder / DIGESTS, _Digests).files
    except (FileNotFoundError, NotADirectoryError):
        return "its digests are missing"
    except FatalError as error:
        return str(error)
    found = _digests(folder)
    return next((f"{name} is missing or was changed" for name in known if found.get(name) != known[name]), "")


def damaged_reports(reports: Path) -> Iterator[tuple[Path, str]]:
    """Damaged reports in a store's folder, with what is wrong. Reports without digests are skipped."""
    for folder in sorted(path.parent for path in reports.glob(f"*/{DIGESTS}")):
        if fault := report_fault(folder):
            yield folder, fault


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / DIGESTS]
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in files}


def _is_of(page: Path, run: Run) -> bool:
    """Whether a page reports on a run of this store. In the store's own folder, which may have moved, all reports do.

    A page with a damaged mark still counts as a report if digests lie beside it.
    """
    is_report = meta_of(page, MARK) is not None or (page.parent / DIGESTS).is_file()
    return is_report and (_is_inside(page, run) or meta_of(page, STORE_MARK) == store_address(run))


def _is_inside(path: Path, run: Run) -> bool:
    return path.resolve().is_relative_to(run.store.root.resolve())


def store_address(run: Run) -> str:
    """The address of a run's store as its reports state it."""
    store = run.store
    return str(store.root.resolve()) if store.address == str(store.root) else store.address


_HEAD = 2_000
"""Number of leading characters of a page that contain its marks."""


def meta_of(page: Path, name: str) -> str | None:
    """The content of a meta element; None if the page lacks the element or can't be read."""
    try:
        with page.open(encoding="utf-8") as file:
            head = file.read(_HEAD)
    except (OSError, UnicodeDecodeError):
        return None
    _, found, rest = head.partition(f'<meta name="{name}" content="')
    return html.unescape(rest.partition('"')[0]) if found else None
