"""`rlip store`: verifies, measures and cleans a store, and exports lineage. `transfer.py` copies runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text

from pipeline.cli.options import STORE, AsJson, RunName, StorePath
from pipeline.cli.transfer import pull, push
from pipeline.data.datasets.record_index import damaged_indexes
from pipeline.data.partitioning import damaged_digests
from pipeline.interop.openlineage_delivery import is_server, send_events, write_events
from pipeline.labels.verdict_log import VERDICTS, VerdictLog
from pipeline.report.formatting import bytes_in_words, table
from pipeline.report.report_folder import damaged_reports, remove_report
from pipeline.report.view import REPORTS
from pipeline.review.index import index_fault
from pipeline.stages.parse_cache import cache_fault
from storage.damage import Damage, DamagedFile, find_damage, find_record_damage
from storage.errors import FatalError
from storage.garbage import Share, find_garbage, usage_of
from storage.open_store import existing_store
from storage.runs import find_run
from storage.secrets import redacted
from storage.store import Store

DAY = 86400.0
_VERDICT_REMEDY = "verdicts can't be recomputed: restore the file from a copy, or remove the line and judge again"
commands = typer.Typer(no_args_is_help=True)


@commands.command()
def verify(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Check only this run's artifacts.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Remove damaged files; the next run rebuilds them.")] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Read artifacts, records and caches again; report damage and the runs it affects; exit with 1 if any remains.

    Records of runs, partition maps and verdicts are not removed; their messages name the cost of removing them.
    """
    opened = existing_store(store)
    if repair:
        opened.require_writable()
    files = [] if run_name is not None else list(damaged_files(opened))
    runs = None if run_name is None else [find_run(opened, run_name)]
    console = Console(stderr=True)
    examined = []
    # Which artifacts a run needs is in its records.
    if not any(file.is_record for file in files):
        examined = list(track(find_damage(opened, runs), "reading", console=console, transient=True, disable=as_json))
    damages = [damage for damage in examined if damage is not None]
    removed = _remove(opened, damages) + _remove_caches(opened, files) if repair else 0
    if as_json:
        others = [{"path": str(file.path), "what": file.what} for file in files]
        artifacts = [asdict(damage) for damage in damages]
        print(json.dumps({"examined": len(examined), "damaged": artifacts, "files": others, "removed": removed}))
    else:
        print(f"{len(examined)} artifacts read, {len(damages) + len(files)} damaged, {removed} removed")
        for damage in damages:
            print(f"  {damage.stage} {damage.key[:12]}: {damage.what}{_needed(damage)}")
        for file in files:
            print(f"  {file.path}: {file.what}" if file.is_cache else f"  {file.what}")
    if ((damages or files) and not repair) or not all(file.is_cache for file in files):
        raise FatalError(
            "the store is damaged; `rlip store verify --repair` removes damaged artifacts and caches, "
            "and the next run rebuilds them"
        )


def damaged_files(store: Store) -> Iterator[DamagedFile]:
    """Read all files besides artifacts, and yield the damaged ones.

    A cache that a recipe keeps outside the store is not checked here; like these, it is verified when it is read.
    """
    yield from find_record_damage(store)
    indexes = store.root / "indexes"
    for path, what in (*damaged_indexes(indexes), *damaged_digests(indexes)):
        if what:
            yield DamagedFile(path, what, is_cache=True)
    for index in sorted((indexes / "review").glob("*.duckdb")):
        if fault := index_fault(index):
            yield DamagedFile(index, fault, is_cache=True)
    parses = store.root / "parses.sqlite"
    if parses.is_file() and (fault := cache_fault(parses)):
        yield DamagedFile(parses, fault, is_cache=True)
    for folder, what in damaged_reports(store.root / REPORTS):
        remedy = f"`rlip report {folder.name}` writes it again, as does the next run"
        yield DamagedFile(folder, f"{folder}: {what}; {remedy}", is_cache=False)
    for line in VerdictLog(store.root / VERDICTS).damaged:
        yield DamagedFile(store.root / VERDICTS, f"{line}; {_VERDICT_REMEDY}", is_cache=False)
    for copy in store.damaged_copies():
        yield DamagedFile(copy, "does not match its original", is_cache=True)


@commands.command("gc")
def collect_garbage(
    grace: Annotated[float, typer.Option(min=0, help="Keep artifacts made or used within this many days.")] = 14.0,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the garbage; without this, only list it.")] = False,
    newest: Annotated[bool, typer.Option("--newest", help="Keep only artifacts of each run's newest state.")] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """List the artifacts and abandoned scratch folders that no run refers to, or delete them."""
    opened = existing_store(store)
    if delete:
        opened.require_writable()
    before = time.time() - grace * DAY
    garbage = list(find_garbage(opened, before, history=not newest))
    if delete:
        for each in garbage:
            each.remove(opened, before)
        opened.clean_up(before)
    size = sum(each.size for each in garbage)
    if as_json:
        listed = [{"folder": each.name, "what": each.what, "size": each.size} for each in garbage]
        print(json.dumps({"garbage": listed, "size": size, "deleted": delete}))
        return
    console = Console()
    console.print(Text(f"Garbage in {opened.address}", "bold"), soft_wrap=True)
    made = table(None, "what", "folders", "size")
    for what in sorted({each.what for each in garbage}):
        sizes = [each.size for each in garbage if each.what == what]
        made.add_row(what, f"{len(sizes):,}", bytes_in_words(sum(sizes)))
    console.print(made)
    verb = "deleted" if delete else "not deleted; `rlip store gc --delete` deletes them"
    print(f"{len(garbage)} folders, {bytes_in_words(size)}, {verb}")


@commands.command("du")
def show_usage(store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Show the size of each stage and each run in bytes."""
    usage = usage_of(existing_store(store))
    if as_json:
        print(json.dumps({**asdict(usage), "size": usage.size}))
        return
    console = Console()
    console.print(_shares(f"{bytes_in_words(usage.size)} in artifacts", "stage", "in no run", usage.stages))
    console.print(_shares("Runs", "run", "in no other run", usage.runs))
    print(f"being written: {bytes_in_words(usage.pending)}")


@commands.command("rm")
def remove_run(run_name: RunName, store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Remove a run and its report from the store; its artifacts stay until `rlip store gc --delete`."""
    opened = existing_store(store)
    opened.require_writable()
    run = find_run(opened, run_name)
    # Before its report goes: a record is refused as a whole.
    run.require_current()
    freed = next((share.apart for share in usage_of(opened).runs if share.name == run.name), 0)
    # Before the run, whose recipe says where its report is.
    reports = remove_report(run)
    run.remove()
    if as_json:
        paths = list(map(str, reports))
        print(json.dumps({"removed": run.name, "report": bool(paths), "reports": paths, "freed_by_gc": freed}))
        return
    with_report = f" with its report {', '.join(map(str, reports))}" if reports else "; it had no report"
    size = bytes_in_words(freed)
    print(f"run {run.name} removed{with_report}; `rlip store gc --delete` frees {size} after the grace period")


commands.command("push")(push)
commands.command("pull")(pull)


@commands.command("lineage")
def lineage(
    run_name: RunName,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write to this new file, one event per line.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Send to this lineage server, e.g. Marquez at http://127.0.0.1:5000."),
    ] = None,
    partitions: Annotated[
        bool, typer.Option("--partitions", help="One event per partition, with the locations of tables in the store.")
    ] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Export what a run read and wrote, down to columns, as OpenLineage events; print them without --out or --url."""
    try:
        from openlineage.client.serde import Serde

        from pipeline.interop.openlineage_events import RunLineage
    except ImportError as error:
        raise FatalError(f"lineage events need {error.name}: pip install 'rlip[lineage]'") from error
    if url is not None and not is_server(url):
        raise FatalError("--url: not a server URL; write e.g. http://127.0.0.1:5000, or name a file with --out")
    events = list(RunLineage(find_run(existing_store(store), run_name)).events(partitions))
    targets: list[str] = []
    if out is not None:
        write_events(events, out)
        targets.append(str(out))
    if url is not None:
        send_events(events, url)
        targets.append(redacted(url))
    if not targets:
        sys.stdout.writelines(f"{Serde.to_json(event)}\n" for event in events)
    elif as_json:
        print(json.dumps({"events": len(events), "told": targets}))
    else:
        print(f"{len(events)} events: {', '.join(targets)}")


def _remove(store: Store, damages: list[Damage]) -> int:
    """Remove damaged artifacts that still exist. Returns their number."""
    places = {(damage.stage, damage.key) for damage in damages}
    held = {(each.stage, each.key) for stage in {s for s, _ in places} for each in store.entries(stage)}
    for stage, key in places & held:
        store.discard(stage, key)
    return len(places & held)


def _remove_caches(store: Store, files: list[DamagedFile]) -> int:
    """Remove damaged caches. Returns their number."""
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
