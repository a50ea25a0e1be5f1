"""Tells the lineage of a run as OpenLineage events (https://openlineage.io): what each step read and what it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from openlineage.client.facet_v2 import parent_run

from pipeline.interop.column_sources import WRITTEN
from pipeline.interop.openlineage_facets import (
    PRODUCER,
    LineageTable,
    input_dataset,
    job_facets,
    job_type,
    output_dataset,
    run_facets,
)
from pipeline.stages.order import chain_order
from storage.artifact import Artifact
from storage.manifest import Manifest
from storage.runs import Run as StoredRun
from storage.runs import RunRecord

JOBS = "rlip"
"""The namespace of the jobs."""
_ENDS = {"failed": RunState.FAIL, "stopped": RunState.ABORT}
"""Status of an execution → the event that ends it; all others completed."""


class RunLineage:
    """Makes the events of a run. Equal runs give equal events: their ids follow from the store, the run and its keys."""

    def __init__(self, run: StoredRun) -> None:
        self._run = run
        self._of_key = {key: step for step in run.steps() for key in run.keys(step).values()}
        self._records = [] if isinstance(run, RunRecord) else run.records()

    def events(self, by_partition: bool = False) -> Iterator[RunEvent]:
        """Yield a START event and an end for the run and, between them, for each step or each of its partitions.

        Tables of a step are named by the run and the step; those of one partition by the place of their file in the store.
        """
        times = []
        inner: list[RunEvent] = []
        for step in sorted(self._run.steps(), key=chain_order):
            artifacts = self._run.artifacts(step)
            groups = [{part: found} for part, found in artifacts.items()] if by_partition else [artifacts]
            for group in groups:
                if group:
                    start, end = self._times(step, group)
                    times += [start, end]
                    inner += self._of_step(step, group, start, end, by_partition)
        if not times:
            return
        ended = _ENDS.get(self._status, RunState.COMPLETE)
        whole = Job(namespace=JOBS, name=self._name, facets={"jobType": job_type("DAG")})
        run = Run(runId=self._run_id)
        yield RunEvent(eventTime=_iso(min(times)), eventType=RunState.START, run=run, job=whole, producer=PRODUCER)
        yield from inner
        yield RunEvent(eventTime=_iso(max(times)), eventType=ended, run=run, job=whole, producer=PRODUCER)

    def _of_step(
        self, step: str, group: Mapping[str, Artifact], start: datetime, end: datetime, by_partition: bool
    ) -> Iterator[RunEvent]:
        artifacts = list(group.values())
        keys = [artifact.key for artifact in artifacts]
        run = Run(runId=self._id(step, *keys), facets=self._run_facets(artifacts[0].manifest))
        job = Job(namespace=JOBS, name=f"{self._name}.{step}", facets=job_facets(artifacts[0].manifest))
        inputs = list(self._read(artifacts, by_partition))
        given: dict[str, Any] = {
            "run": run,
            "job": job,
            "producer": PRODUCER,
            "inputs": [input_dataset(table) for table in inputs],
        }
        yield RunEvent(eventTime=_iso(start), eventType=RunState.START, **given)
        outputs = [output_dataset(table, inputs) for table in self._written(step, artifacts, by_partition)]
        yield RunEvent(eventTime=_iso(end), eventType=RunState.COMPLETE, outputs=outputs, **given)

    def _read(self, artifacts: Sequence[Artifact], by_partition: bool) -> Iterator[LineageTable]:
        """The tables that were read: of each step one in all partitions, or one for each partition."""
        read: dict[tuple[str, str], dict[str, None]] = {}
        for artifact in artifacts:
            for table, keys in artifact.manifest.upstream.items():
                for key in keys:
                    step = self._of_key.get(key, "")
                    read.setdefault((step, table), {})[key] = None
        for (step, table), wanted in read.items():
            found = self._run.store.find_all(self._run.stage(step), wanted) if step else {}
            there = [found[key] for key in wanted if key in found]
            for group in [[each] for each in there] if by_partition else [there] if there else []:
                yield self._table(step, table, group, by_partition)

    def _written(self, step: str, artifacts: Sequence[Artifact], by_partition: bool) -> Iterator[LineageTable]:
        names = {name.removesuffix(".parquet"): None for a in artifacts for name in a.manifest.files if _is_table(name)}
        main = WRITTEN.get(self._run.stage(step), ("", None))[0]
        for table in sorted(names, key=lambda name: (name != main, name)):
            yield self._table(step, table, artifacts, by_partition)

    def _table(self, step: str, table: str, artifacts: Sequence[Artifact], by_partition: bool) -> LineageTable:
        stage = artifacts[0].manifest.stage
        if by_partition:
            place = _place(artifacts[0].location(f"{table}.parquet"))
        else:
            namespace, store = _place(self._run.store.address)
            place = (namespace, f"{store}/runs/{self._name}/{step}/{table}")
        return LineageTable(*place, stage, table, artifacts)

    def _run_facets(self, manifest: Manifest) -> dict[str, Any]:
        run = parent_run.Run(runId=self._run_id)
        parent = parent_run.ParentRunFacet(run=run, job=parent_run.Job(namespace=JOBS, name=self._name))
        return {"parent": parent, **run_facets(manifest)}

    def _times(self, step: str, group: Mapping[str, Artifact]) -> tuple[datetime, datetime]:
        """When the step ended and, by its recorded seconds, began.

        Manifests tell how long a partition took, not when. The first execution that recorded it does or, before there is
        one, the time at which a run last used it.
        """
        keys = {partition: artifact.key for partition, artifact in group.items()}
        end = next((_time(record) for record in self._records if keys.items() <= record.keys(step).items()), None)
        if end is None and isinstance(self._run, RunRecord):
            end = _time(self._run)
        if end is None:
            store = self._run.store
            used = max(store.used(artifact.manifest.stage, artifact.key) for artifact in group.values())
            end = datetime.fromtimestamp(used, UTC)
        return end - timedelta(seconds=sum(artifact.manifest.seconds for artifact in group.values())), end

    @property
    def _name(self) -> str:
        return self._run.name.partition("@")[0]

    @property
    def _status(self) -> str:
        last = self._run if isinstance(self._run, RunRecord) else next(reversed(self._records), None)
        return str(last.facts.get("status", "")) if last is not None else ""

    @cached_property
    def _run_id(self) -> str:
        return self._id(
            "", *(f"{step} {key}" for step in sorted(self._run.steps()) for key in self._run.keys(step).values())
        )

    def _id(self, step: str, *keys: str) -> str:
        return str(uuid5(NAMESPACE_URL, json.dumps([*_place(self._run.store.address), self._name, step, *keys])))


def _place(address: str) -> tuple[str, str]:
    """Namespace and name of a place by OpenLineage's naming convention, without user and password."""
    if "://" not in address:
        return "file", str(Path(address).absolute())
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path.strip("/")


def _is_table(file: str) -> bool:
    return file.endswith(".parquet")


def _time(record: RunRecord) -> datetime:
    return datetime.fromisoformat(str(record.facts["time"]))


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")
