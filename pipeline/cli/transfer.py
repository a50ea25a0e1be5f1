"""`rlip store push` and `pull`: copy a run between this store and another location, artifact by artifact."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from pipeline.cli.errors import resumable
from pipeline.cli.options import STORE, AsJson, RunName, StorePath, Url
from pipeline.data.partitioning import PARTITION_MAPS, PartitionMap, partition_maps_of
from pipeline.runtime.stage import dataset_of
from storage.damage import PARTITION_MAP_LIMITS, PARTITION_MAP_REMEDY
from storage.errors import FatalError
from storage.json_files import parse_json
from storage.open_store import existing_store, open_store
from storage.runs import Run, RunRecord, find_run, parse_run
from storage.store import Store

if TYPE_CHECKING:
    from storage.object_store_artifacts import ObjectStoreArtifacts

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
    files = run.files()  # of this moment: a run that goes on must not publish what it makes meanwhile
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
    _push_partition_maps(run, remote)
    report(len(lacking), len(lacking))
    behind = (name for name, needed in records.items() if any(key not in there[stage] for stage, key in needed))
    return Copied(len(asked), copied, tuple(behind))


def pull_run(
    run: Run, remote: ObjectStoreArtifacts, report: Report = lambda done, total: None, number: str = ""
) -> Copied:
    """Copy the artifacts that the local store lacks, then record the run with its history.

    All records, and each artifact with its manifest, are checked before they become visible. Raises `FatalError` naming
    what it refuses, such as an earlier state than the one here, or another run of this name.

    With a `number`, copies the artifacts of that record, and an existing run here keeps its state. Can be resumed.
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
    if not number or not run.exists:
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
    """Which place has a newest record of the run that the other one lacks. `theirs`: the records at the remote.

    Raises `FatalError` if both have one: a copy would mix two runs.
    """
    ours = [path.name for path in (run.folder / "records").glob("*.json")]
    is_here, is_there = (bool(a) and max(a) not in b for a, b in ((ours, theirs), (theirs, ours)))
    if is_here and is_there:
        raise FatalError(
            f"{run.store.address} and {remote.url} have different runs {run.folder.name!r}, or it was continued in both "
            "places; run the recipe of one under another name (--set name=...), which reuses its artifacts"
        )
    return "here" if is_here else "there" if is_there else "neither"


def _places(run: Run) -> list[tuple[str, str]]:
    """Stage and key of each artifact in a state of a run."""
    return [(run.stage(step), key) for step in run.steps() for key in run.keys(step).values()]


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
    """The paths in a store of datasets' partition maps, of which all maps' file names are given."""
    known = list(names)
    return [f"{PARTITION_MAPS}/{name}" for dataset in datasets for name in partition_maps_of(known, dataset)]


def _read(root: Path, paths: Iterable[str]) -> dict[str, bytes]:
    return {path: (root / path).read_bytes() for path in paths if (root / path).is_file()}


def _extended(source: Mapping[str, bytes], origin: str, there: Mapping[str, bytes], target: str) -> dict[str, bytes]:
    """The partition maps, by path, that begin as those at the target do. Warns of others, unless these are longer."""
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
    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress:
        bar = progress.add_task("copying", total=None)
        copied = copy(lambda done, total: progress.update(bar, completed=done, total=total))
    if as_json:
        print(json.dumps(asdict(copied)))
    else:
        rest = "; the others already existed" if copied.copied < copied.artifacts else ""
        print(f"{copied.copied} of {copied.artifacts} artifacts copied{rest}")
        if copied.behind:
            print(f"Artifacts of these records are missing there, so they can't be pulled: {', '.join(copied.behind)}")
