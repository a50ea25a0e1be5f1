"""Where the report of a run lies, whose a report is, and its removal with the run.

A report is kept by store and run: in `reports/<run>` of the store or, where the recipe names another folder, in
`<folder>/<run>`. Its page names the store, so that the report of another store is neither overwritten nor removed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.report.page_marks import meta_of
from pipeline.report.view import REPORTS
from storage.errors import FatalError
from storage.runs import Run

MARK = "rlip-report"
"""Name of the meta element that identifies a page as a report; its content is the stamp."""
STORE_MARK = "rlip-store"
"""Name of the meta element that names the store of the run."""
ADVICE = "`reports` in the recipe, or --out of `rlip report`"


def report_folder(run: Run) -> Path:
    """Where the report of a run lies: in the folder that its recipe named, if it has one of this store there, or in the store."""
    chosen = run.read_document("recipe").get("reports")
    if chosen and meta_of(Path(chosen, run.name, "index.html"), STORE_MARK) == store_address(run):
        return Path(chosen, run.name)
    return run.store.root / REPORTS / run.name


def require_place(run: Run, folder: Path) -> None:
    """Raises `FatalError` when the report of a run would overwrite anything but an earlier report of this store."""
    page = folder / "index.html"
    if folder.exists() and not folder.is_dir():
        raise FatalError(f"{folder}: is not a folder; name another: {ADVICE}")
    if not folder.exists() or not any(folder.iterdir()) or _is_of(page, run):
        return
    advice = f"remove it, or name another folder: {ADVICE}"
    if stamp_of(page) is None:
        raise FatalError(f"{folder}: holds files that are not a report; {advice}")
    other = meta_of(page, STORE_MARK) or "which it does not name"
    raise FatalError(f"{page}: is the report of a run in another store, {other}; {advice}")


def remove_report(run: Run) -> list[Path]:
    """Removes the reports of a run and its records, and logs that lie in the store. Returns the folders of the reports.

    A copy that `rlip report --out` wrote elsewhere stays.
    """
    folder = report_folder(run)
    pages = [folder / "index.html", *folder.parent.glob(f"{folder.name}@*/index.html")]
    found = [page.parent for page in pages if _is_of(page, run)]
    for report in found:
        shutil.rmtree(report)
    logs = folder.with_name(f"{folder.name}.logs")
    if _is_inside(folder, run) and not (logs / "index.html").exists():  # a run may be named so
        shutil.rmtree(logs, ignore_errors=True)
    return found


def _is_of(page: Path, run: Run) -> bool:
    """Whether a page reports on a run of this store. In the store's own folder, which may have moved, every report does."""
    return stamp_of(page) is not None and (_is_inside(page, run) or meta_of(page, STORE_MARK) == store_address(run))


def _is_inside(path: Path, run: Run) -> bool:
    return path.resolve().is_relative_to(run.store.root.resolve())


def store_address(run: Run) -> str:
    """The address of a run's store as its reports name it."""
    store = run.store
    return str(store.root.resolve()) if store.address == str(store.root) else store.address


def stamp_of(page: Path) -> str | None:
    """The stamp of a report page; None when the file is not a report."""
    return meta_of(page, MARK)
