"""`rlip store`: verifies, measures and cleans a store, copies runs to and from other locations, and exports lineage."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress, track
from rich.text import Text

from pipeline.cli.errors import resumable
from pipeline.cli.options import STORE, AsJson, RunName, StorePath, Url
from pipeline.data.datasets.record_index import damaged_indexes
from pipeline.data.partitioning import PARTITION_MAPS, PartitionMap, damaged_digests, partition_maps_of
from pipeline.interop.openlineage_delivery import is_server, send_events, write_events
from pipeline.labels.verdict_log import VERDICTS, VerdictLog
from pipeline.report.formatting import bytes_in_words, table
from pipeline.report.report_folder import damaged_reports, remove_report
from pipeline.report.view import REPORTS
from pipeline.review.index import index_fault
from pipeline.runtime.stage import dataset_of
from pipeline.runtime.wording import first_few
from pipeline.stages.parse_cache import cache_fault
from storage.damage import (
    PARTITION_MAP_LIMITS,
    PARTITION_MAP_REMEDY,
    Damage,
    DamagedFile,
    find_damage,
    find_record_damage,
)
from storage.errors import FatalError
from storage.garbage import Share, find_garbage, usage_of
from storage.json_files import parse_json
from storage.open_store import existing_store, open_store
from storage.runs import Run, RunRecord, find_run, parse_run
from storage.secrets import redacted
from storage.store import Store

if TYPE_CHECKING:
    from storage.object_store_artifacts import ObjectStoreArtifacts

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
    console = Console(stderr=True, markup=False)
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
            needed = f"rebuilt by run {first_few(damage.needed_by, 1)}" if damage.needed_by else "in no run"
            print(f"  {damage.stage} {damage.key[:12]}: {damage.what} ({needed})")
        for file in files:
            print(f"  {file.path}: {file.what}" if file.is_cache else f"  {file.what}")
    if ((damages or files) and not repair) or not all(file.is_cache for file in files):
        raise FatalError(
            "the store is damaged; `rlip store verify --repair` removes damaged artifacts and caches, and the next run "
            "rebuilds them; for other files, the messages above say what to do"
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
    console = Console(markup=False)
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
    console = Console(markup=False)
    console.print(_shares(f"{bytes_in_words(usage.size)} in artifacts", "stage", "in no run", usage.stages))
    console.print(_shares("Runs", "run", "in no other run", usage.runs))
    print(f"being written: {bytes_in_words(usage.pending)}")


@commands.command("rm")
def remove_run(run_name: RunName, store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Remove a run and its report from the store; its artifacts stay until `rlip store gc --delete`."""
    opened = existing_store(store)
    opened.require_writable()
    run = find_run(opened, run_name)
    # Before its report is removed, because a record (RUN@2) is refused as a whole.
    run.require_current()
    freed = next((share.apart for share in usage_of(opened).runs if share.name == run.name), 0)
    # Before the run, whose recipe says where its report is.
    reports = remove_report(run)
    run.remove()
    for kind in ("duckdb", "secret", "ended"):  # what `rlip review` keeps
        (opened.root / "indexes" / "review" / f"{run.name}.{kind}").unlink(missing_ok=True)
    if as_json:
        paths = list(map(str, reports))
        print(json.dumps({"removed": run.name, "report": bool(paths), "reports": paths, "freed_by_gc": freed}))
        return
    with_report = f" with its report {', '.join(map(str, reports))}" if reports else "; it had no report"
    size = bytes_in_words(freed)
    print(f"run {run.name} removed{with_report}; `rlip store gc --delete` frees {size} after the grace period")


@commands.command()
@resumable()
def push(
    run_name: RunName,
    url: Url,
    last: Annotated[
        bool, typer.Option("--last", help="Exclude artifacts needed only by earlier states (RUN@1, ...).")
    ] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Copy a run with all its states to another location. Copy only missing artifacts, and publish the run last."""
    run = find_run(existing_store(store), run_name)
    _show(lambda report: push_run(run, _remote(url), report, last), as_json)


@commands.command()
@resumable()
def pull(run_name: RunName, url: Url, store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Copy a run from another location. Copy only missing artifacts, and verify each by its digest.

    The report is not copied: `rlip report` writes it from the artifacts.
    """
    name, _, number = run_name.partition("@")
    opened = open_store(store)
    opened.refresh()
    # Killed pulls leave drafts.
    opened.sweep()
    run = Run(opened, name)
    _show(lambda report: pull_run(run, _remote(url), report, number), as_json)
    if not as_json:
        print(f"`rlip report {run_name} --store {store}` writes the run's report")


@commands.command("lineage")
def lineage(
    run_name: RunName,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write to this new file, one event per line.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Send to this lineage server, e.g. Marquez at http://127.0.0.1:5000.")
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


def _shares(title: str, what: str, apart: str, shares: tuple[Share, ...]) -> Any:
    made = table(title, what, "artifacts", "size", apart)
    for share in shares:
        made.add_row(share.name, f"{share.artifacts:,}", bytes_in_words(share.size), bytes_in_words(share.apart))
    return made


Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Copied:
    """The result of a push or pull."""

    artifacts: int
    """Number of artifacts of the requested states."""
    copied: int
    """Number of artifacts that the destination lacked."""
    behind: tuple[str, ...] = ()
    """Records of the run (`name@2`) whose artifacts the destination lacks in part."""


def _remote(url: str) -> ObjectStoreArtifacts:
    from storage.object_store_artifacts import ObjectStoreArtifacts  # loads fsspec, which no other store command needs

    return ObjectStoreArtifacts(url)


def push_run(
    run: Run, remote: ObjectStoreArtifacts, report: Report = lambda done, total: None, last: bool = False
) -> Copied:
    """Copy the artifacts of all states of the run that the remote lacks, then its records. Can be resumed.

    `last`: only of the newest state. A `RunRecord` is copied alone. Raises `FatalError` if the store lacks an artifact
    of the newest state, if an artifact to copy is damaged, or if the remote has a later state or another run of this
    name; earlier states that the store has lost are skipped.
    """
    name = run.folder.name
    ahead = _place_ahead(run, remote, remote.files.listing(f"runs/{name}/records"))
    if ahead == "there" and not isinstance(run, RunRecord):
        raise FatalError(
            f"{remote.url} has a later state of run {name!r} than {run.store.address}; pull it first: rlip store pull "
            f"{name} {remote.url}"
        )
    files = run.files()  # as of now: a run in progress must not publish what it adds during the push
    _push_partition_maps(run, remote)  # first, since it checks them
    places, records = _places(run), {record.name: _places(record) for record in Run(run.store, name).records()}
    others = [] if last or isinstance(run, RunRecord) else [place for each in records.values() for place in each]
    asked = list(dict.fromkeys([*places, *others]))
    there = {
        stage: remote.keys(stage) for stage in {stage for each in (places, *records.values()) for stage, _ in each}
    }
    lacking = [(stage, key) for stage, key in asked if key not in there[stage]]
    copied = 0
    for done, (stage, key) in enumerate(lacking):
        report(done, len(lacking))
        artifact = run.store.find(stage, key)
        if artifact is not None:
            artifact.require_whole()
            remote.put(artifact)
            there[stage].add(key)
            copied += 1
        elif (stage, key) in places:
            raise FatalError(
                f"run {run.name!r} needs {stage} {key[:12]}, which the store has lost; run its recipe again"
            )
    for path, data in files.items():
        remote.files.write(path, data)
    report(len(lacking), len(lacking))
    behind = (name for name, needed in records.items() if any(key not in there[stage] for stage, key in needed))
    return Copied(len(asked), copied, tuple(behind))


def pull_run(
    run: Run, remote: ObjectStoreArtifacts, report: Report = lambda done, total: None, number: str = ""
) -> Copied:
    """Copy the artifacts that the local store lacks, then record the run with its history.

    All records, and each artifact with its manifest, are checked before they become visible. Raises `FatalError` naming
    what it refuses, such as an earlier state than the one here, or another run of this name.

    With a `number`, copies the state of that record; a run here that has it already keeps its own. Can be resumed.
    """
    steps, documents, history = parse_run(remote.run_records(run.name), remote.url, number)
    if not steps:
        raise FatalError(
            f"{remote.url} has records of run {run.name!r} but no newest state; pull one, e.g. {run.name}@1"
        )
    ahead = _place_ahead(run, remote, [path.removeprefix("records/") for path in history])
    if ahead == "here" and not number:
        raise FatalError(
            f"{run.store.address} has a later state of run {run.name!r} than {remote.url}; push it: rlip store push "
            f"{run.name} {remote.url}"
        )
    places = list(dict.fromkeys((s.stage, key) for s in steps.values() for key in s.partitions.values()))
    have = {
        stage: set(run.store.find_all(stage, [k for s, k in places if s == stage])) for stage in {s for s, _ in places}
    }
    lacking = [(stage, key) for stage, key in places if key not in have[stage]]
    there = {stage: remote.keys(stage) for stage in {stage for stage, _ in lacking}}
    if absent := [key for stage, key in lacking if key not in there[stage]]:
        state = f"{run.name}@{number}" if number else run.name
        raise FatalError(
            f"{remote.url} has the records of {state}, but lacks {len(absent)} of its {len(places)} artifacts; push "
            f"them from a store that has them with `rlip store push {state} {remote.url}`"
        )
    for done, (stage, key) in enumerate(lacking):
        report(done, len(lacking))
        remote.get(stage, key, run.store)
    _pull_partition_maps(run.store, remote, {dataset_of(part) for step in steps.values() for part in step.partitions})
    if not number or ahead == "there":
        for step, entry in steps.items():
            run.record(step, entry.stage, entry.partitions)
        for name, document in documents.items():
            run.note(name, document)
    for path, data in history.items():
        run.store.put(run.folder / path, data)
    report(len(lacking), len(lacking))
    return Copied(len(places), len(lacking))


def _place_ahead(
    run: Run, remote: ObjectStoreArtifacts, theirs: Collection[str]
) -> Literal["here", "there", "neither"]:
    """Which place has a newest record of the run that the other lacks. `theirs`: names in `records/` at the remote.

    Raises `FatalError` if both have one: a copy would mix two runs.
    """
    ours = [path.name for path in (run.folder / "records").glob("*.json")]
    theirs = [name for name in theirs if name.endswith(".json")]  # not what a killed push left in a folder
    is_here, is_there = (bool(a) and max(a) not in b for a, b in ((ours, theirs), (theirs, ours)))
    if is_here and is_there:
        raise FatalError(
            f"{run.store.address} and {remote.url} hold different runs named {run.folder.name!r}, or the run was "
            "continued in both places; run the recipe of one under another name (--set name=...), which reuses its "
            "artifacts"
        )
    return "here" if is_here else "there" if is_there else "neither"


def _places(run: Run) -> list[tuple[str, str]]:
    """Stage and key of each artifact in a state of a run."""
    stages = {step: run.stage(step) for step in run.steps()}
    return [(stage, key) for step, stage in stages.items() for key in run.keys(step).values()]


def _push_partition_maps(run: Run, remote: ObjectStoreArtifacts) -> None:
    """Copy the partition maps of a run's datasets, so that other runs on them find the artifacts."""
    root = run.store.root
    names = [path.name for path in (root / PARTITION_MAPS).glob("*.json")]
    ours = _read(root, _maps_of(names, {dataset_of(partition) for step in run.steps() for partition in run.keys(step)}))
    for path, data in _extended(ours, run.store.address, remote.files.read_many(ours), remote.url).items():
        remote.files.write(path, data)


def _pull_partition_maps(store: Store, remote: ObjectStoreArtifacts, datasets: Iterable[str]) -> None:
    """Copy the partition maps of datasets to this store. Raises `FatalError` for invalid ones."""
    theirs = remote.files.read_many(_maps_of(remote.files.listing(PARTITION_MAPS), datasets))
    for path, data in _extended(theirs, remote.url, _read(store.root, theirs), store.address).items():
        store.put(store.root / path, data)


def _maps_of(names: Iterable[str], datasets: Iterable[str]) -> list[str]:
    """The paths in a store of these datasets' partition maps, among the file names of all maps."""
    known = list(names)
    return [f"{PARTITION_MAPS}/{name}" for dataset in datasets for name in partition_maps_of(known, dataset)]


def _read(root: Path, paths: Iterable[str]) -> dict[str, bytes]:
    return {path: (root / path).read_bytes() for path in paths if (root / path).is_file()}


def _extended(source: Mapping[str, bytes], origin: str, there: Mapping[str, bytes], target: str) -> dict[str, bytes]:
    """The source's maps, by path, that are later versions of those at the target, or equal.

    Warns of maps that differ; says nothing where the target has the later version.
    """
    found = {}
    for path, data in source.items():
        new, old = (
            parse_json(each, PartitionMap, f"{place}/{path}", PARTITION_MAP_REMEDY, PARTITION_MAP_LIMITS).partitions
            for each, place in ((data, origin), (there.get(path, b"{}"), target))
        )
        # Maps are only extended, so one that begins as the other does is a later version of it.
        if new[: len(old)] == old:
            found[path] = data
        elif old[: len(new)] != new:
            warnings.warn(
                f"{origin} and {target} partition a dataset differently ({path}), and each keeps its map; runs on the "
                f"images of {target} do not find the artifacts of {origin}",
                stacklevel=2,
            )
    return found


def _show(copy: Callable[[Report], Copied], as_json: bool) -> None:
    with Progress(console=Console(stderr=True, markup=False), transient=True, disable=as_json) as progress:
        bar = progress.add_task("copying", total=None)
        copied = copy(lambda done, total: progress.update(bar, completed=done, total=total))
    if as_json:
        print(json.dumps(asdict(copied)))
    else:
        rest = "; the others already existed" if copied.copied < copied.artifacts else ""
        print(f"{copied.copied} of {copied.artifacts} artifacts copied{rest}")
        if copied.behind:
            print(f"Artifacts of these records are missing there, so they can't be pulled: {', '.join(copied.behind)}")
