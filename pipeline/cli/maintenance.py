"""`rlip verify`, `gc`, `du` and `rm`: maintenance of a store."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.text import Text

from pipeline.cli.damaged_files import damaged_files
from pipeline.report.formatting import bytes_in_words, table
from pipeline.report.report_folder import remove_report
from storage.damage import Damage, DamagedFile, find_damage
from storage.errors import FatalError
from storage.garbage import Share, find_garbage, usage_of
from storage.open_store import Address, existing_store
from storage.runs import find_run
from storage.store import Store

DAY = 86400.0


def verify(root: Address, run_name: str | None, repair: bool, as_json: bool) -> None:
    """Read every artifact of a run, or everything in the store, again. Report damage and, with `repair`, remove it.

    Records of runs, partition maps and verdicts are not removed: their messages say what that would cost. Raises `FatalError`
    when damage
    remains in the store, so that scripts see it.
    """
    store = existing_store(root)
    if repair:
        store.require_writable()
    files = [] if run_name is not None else list(damaged_files(store))
    runs = None if run_name is None else [find_run(store, run_name)]
    console = Console(stderr=True)
    examined = []
    if not any(file.is_record for file in files):
        examined = list(track(find_damage(store, runs), "reading", console=console, transient=True, disable=as_json))
    found = [damage for damage in examined if damage is not None]
    removed = _remove(store, found) + _remove_caches(store, files) if repair else 0
    if as_json:
        others = [{"path": str(file.path), "what": file.what} for file in files]
        artifacts = [asdict(damage) for damage in found]
        print(json.dumps({"examined": len(examined), "damaged": artifacts, "files": others, "removed": removed}))
    else:
        print(f"{len(examined)} artifacts read, {len(found) + len(files)} damaged, {removed} removed")
        for damage in found:
            print(f"  {damage.stage} {damage.key[:12]}: {damage.what}{_needed(damage)}")
        for file in files:
            print(f"  {file.path}: {file.what}" if file.is_cache else f"  {file.what}")
    if ((found or files) and not repair) or not all(file.is_cache for file in files):
        raise FatalError(
            "the store is damaged; `rlip verify --repair` removes artifacts and caches that are, and the next run rebuilds them"
        )


def collect_garbage(root: Address, grace_days: float, delete: bool, as_json: bool, newest: bool = False) -> None:
    """List what no run refers to and no run used within the grace period. With `delete`, remove it.

    With `newest`, only the newest state of each run counts, and the records before it may lose artifacts.
    """
    store = existing_store(root)
    if delete:
        store.require_writable()
    before = time.time() - grace_days * DAY
    found = list(find_garbage(store, before, history=not newest))
    if delete:
        for garbage in found:
            garbage.remove(store, before)
        store.clean_up(before)
    size = sum(garbage.size for garbage in found)
    if as_json:
        listed = [{"folder": g.name, "what": g.what, "size": g.size} for g in found]
        print(json.dumps({"garbage": listed, "size": size, "deleted": delete}))
        return
    console = Console()
    console.print(Text(f"Garbage in {store.address}", "bold"), soft_wrap=True)
    made = table(None, "what", "folders", "size")
    for what in sorted({garbage.what for garbage in found}):
        sizes = [garbage.size for garbage in found if garbage.what == what]
        made.add_row(what, f"{len(sizes):,}", bytes_in_words(sum(sizes)))
    console.print(made)
    verb = "deleted" if delete else "not deleted; `rlip gc --delete` deletes them"
    print(f"{len(found)} folders, {bytes_in_words(size)}, {verb}")


def show_usage(root: Address, as_json: bool) -> None:
    """Print how many bytes each stage and each run takes."""
    usage = usage_of(existing_store(root))
    if as_json:
        print(json.dumps({**asdict(usage), "size": usage.size}))
        return
    console = Console()
    console.print(_shares(f"{bytes_in_words(usage.size)} in artifacts", "stage", "in no run", usage.stages))
    console.print(_shares("Runs", "run", "in no other run", usage.runs))
    print(f"being written: {bytes_in_words(usage.pending)}")


def remove_run(root: Address, run_name: str, as_json: bool) -> None:
    """Remove a run with its reports. Print which reports went, and how many bytes `rlip gc` can then free."""
    store = existing_store(root)
    store.require_writable()
    run = find_run(store, run_name)
    freed = next((share.apart for share in usage_of(store).runs if share.name == run.name), 0)
    reports = remove_report(run)
    run.remove()
    if as_json:
        paths = list(map(str, reports))
        print(json.dumps({"removed": run.name, "report": bool(paths), "reports": paths, "freed_by_gc": freed}))
        return
    with_report = f" with its report {', '.join(map(str, reports))}" if reports else "; it had no report"
    print(
        f"run {run.name} removed{with_report}; `rlip gc --delete` frees {bytes_in_words(freed)} after the grace period"
    )


def _remove(store: Store, found: list[Damage]) -> int:
    """Remove those damaged artifacts that still exist, and return their number."""
    places = {(damage.stage, damage.key) for damage in found}
    held = {(each.stage, each.key) for stage in {s for s, _ in places} for each in store.entries(stage)}
    for stage, key in places & held:
        store.discard(stage, key)
    return len(places & held)


def _remove_caches(store: Store, files: list[DamagedFile]) -> int:
    """Remove damaged caches, and return their number."""
    caches = [file.path for file in files if file.is_cache]
    for path in caches:
        (store.disk.remove_tree if path.is_dir() else store.disk.remove)(path)
    return len(caches)


def _needed(damage: Damage) -> str:
    if not damage.needed_by:
        return " (in no run)"
    more = f" and {len(damage.needed_by) - 1} more" if len(damage.needed_by) > 1 else ""
    return f" (rebuilt by run {damage.needed_by[0]}{more})"


def _shares(title: str, what: str, apart: str, shares: tuple[Share, ...]) -> Any:
    made = table(title, what, "artifacts", "size", apart)
    for share in shares:
        made.add_row(share.name, f"{share.artifacts:,}", bytes_in_words(share.size), bytes_in_words(share.apart))
    return made
