"""The lineage of a run as OpenLineage events (https://openlineage.io): what each step read and wrote.

Facets are OpenLineage's descriptions of tables and jobs: schema, version, column lineage, counts, settings and source.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

import pyarrow as pa
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    DatasetFacet,
    column_lineage_dataset,
    data_quality_metrics_input_dataset,
    dataset_version_dataset,
    execution_parameters_run,
    job_type_job,
    output_statistics_output_dataset,
    parent_run,
    processing_engine_run,
    schema_dataset,
    source_code_location_job,
)

from pipeline.labels.label_overrides import OVERRIDES
from pipeline.runtime.execute import installed_version
from pipeline.stages.order import STAGES, chain_order
from storage.artifact import Artifact
from storage.digests import digest_json
from storage.manifest import Manifest
from storage.runs import Run as StoredRun, RunRecord
from storage.tables import REJECTED, SCHEMAS, SHARD_STATISTICS

JOBS = "rlip"
"""The namespace of jobs."""
_ENDS = {"failed": RunState.FAIL, "stopped": RunState.ABORT}
"""Status of an execution → the event that ends it; all others completed."""
WRITTEN: Mapping[str, tuple[str, pa.Schema]] = {stage.name: (stage.writes, stage.schema) for stage in STAGES}
"""Stage → name and schema of its main table."""
BESIDE: Mapping[str, pa.Schema] = {
    **{table: schema for (stage, table), schema in SCHEMAS.items() if table != WRITTEN[stage][0]},
    "excluded": REJECTED,
    "overrides": OVERRIDES,
    "rejected": REJECTED,
    "statistics": SHARD_STATISTICS,
}
"""Tables that a stage writes in addition to its main one, by name."""
_LISTED = tomllib.loads(Path(__file__).with_name("column_sources.toml").read_text(encoding="utf-8"))
SOURCES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    stage: {
        table: {name: origins.replace("*", name) for origins, names in listed.items() for name in names.split()}
        for table, listed in tables.items()
    }
    for stage, tables in (_LISTED | {"shard_tagger": _LISTED["shard"]}).items()
}
"""Stage → table → column → columns of the tables that the stage reads, each as `table.column`."""


class RunLineage:
    """Makes the events of a run. Equal runs give equal events: ids are derived from the store, the run and its keys."""

    def __init__(self, run: StoredRun) -> None:
        self._run = run
        self._made = {step: run.artifacts(step) for step in run.steps()}
        self._of_key = {each.key: (step, each) for step, made in self._made.items() for each in made.values()}
        self._records = [run] if isinstance(run, RunRecord) else run.records()

    def events(self, by_partition: bool = False) -> Iterator[RunEvent]:
        """Yield a START event and an end event for the run and, between them, for each step or each of its partitions.

        Tables of a step are named after run and step, tables of one partition after their file's location in the store.
        """
        times = []
        inner: list[RunEvent] = []
        for step, artifacts in sorted(self._made.items(), key=lambda each: chain_order(each[0])):
            groups = [{part: found} for part, found in artifacts.items()] if by_partition else [artifacts]
            for group in groups:
                if group:
                    start, end = self._times(step, group)
                    times += [start, end]
                    inner += self._of_step(step, group, start, end, by_partition)
        if not times:
            return
        status = str(self._records[-1].facts.get("status", "")) if self._records else ""
        ended = _ENDS.get(status, RunState.COMPLETE)
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
        whole = parent_run.Run(runId=self._run_id)
        parent = parent_run.ParentRunFacet(run=whole, job=parent_run.Job(namespace=JOBS, name=self._name))
        facets = {"parent": parent, **run_facets(artifacts[0].manifest)}
        run = Run(runId=self._id(step, *keys), facets=facets)
        job = Job(namespace=JOBS, name=f"{self._name}.{step}", facets=job_facets(artifacts[0].manifest))
        inputs = list(self._read(artifacts, by_partition))
        common: dict[str, Any] = {
            "run": run,
            "job": job,
            "producer": PRODUCER,
            "inputs": [input_dataset(table) for table in inputs],
        }
        yield RunEvent(eventTime=_iso(start), eventType=RunState.START, **common)
        outputs = [output_dataset(table, inputs) for table in self._written(step, artifacts, by_partition)]
        yield RunEvent(eventTime=_iso(end), eventType=RunState.COMPLETE, outputs=outputs, **common)

    def _read(self, artifacts: Sequence[Artifact], by_partition: bool) -> Iterator[LineageTable]:
        """The tables read: for each step one for all partitions, or one for each partition."""
        read: dict[tuple[str, str], dict[str, Artifact]] = {}
        for artifact in artifacts:
            for table, keys in artifact.manifest.upstream.items():
                for key in filter(self._of_key.__contains__, keys):
                    step, made = self._of_key[key]
                    read.setdefault((step, table), {})[key] = made
        for (step, table), found in read.items():
            for group in [[each] for each in found.values()] if by_partition else [[*found.values()]]:
                yield self._table(step, table, group, by_partition)

    def _written(self, step: str, artifacts: Sequence[Artifact], by_partition: bool) -> Iterator[LineageTable]:
        names = {
            name.removesuffix(".parquet"): None
            for a in artifacts
            for name in a.manifest.files
            if name.endswith(".parquet")
        }
        main = WRITTEN.get(artifacts[0].manifest.stage, ("", None))[0]
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

    def _times(self, step: str, group: Mapping[str, Artifact]) -> tuple[datetime, datetime]:
        """When the step began (computed from its recorded seconds) and ended.

        Manifests state how long a partition took, but not when. The end is that of the first execution that recorded it
        or, before there is one, the time at which a run last used it.
        """
        keys = {partition: artifact.key for partition, artifact in group.items()}
        record = next((record for record in self._records if keys.items() <= record.keys(step).items()), None)
        if record is not None:
            end = datetime.fromisoformat(str(record.facts["time"]))
        else:
            store = self._run.store
            used = max(store.used(artifact.manifest.stage, artifact.key) for artifact in group.values())
            end = datetime.fromtimestamp(used, UTC)
        return end - timedelta(seconds=sum(artifact.manifest.seconds for artifact in group.values())), end

    @property
    def _name(self) -> str:
        return self._run.name.partition("@")[0]

    @cached_property
    def _run_id(self) -> str:
        return self._id(
            "", *(f"{step} {key}" for step in sorted(self._run.steps()) for key in self._run.keys(step).values())
        )

    def _id(self, step: str, *keys: str) -> str:
        return str(uuid5(NAMESPACE_URL, json.dumps([*_place(self._run.store.address), self._name, step, *keys])))


def _place(address: str) -> tuple[str, str]:
    """Namespace and name of an address by OpenLineage's naming convention, without user and password."""
    if "://" not in address:
        return "file", str(Path(address).absolute())
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path.strip("/")


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")


PRODUCER = "pkg:generic/rlip"
"""The project's package URL, which events name as their producer."""


@dataclass(frozen=True)
class LineageTable:
    """A step's table, in one partition or all: a dataset in OpenLineage's terms."""

    namespace: str
    name: str
    stage: str
    table: str
    artifacts: Sequence[Artifact]

    @property
    def facets(self) -> dict[str, DatasetFacet]:
        """The content's digest, which stays if the stage writes equal bytes again, and the columns, if declared."""
        contents = [artifact.content for artifact in self.artifacts]
        digest = contents[0] if len(contents) == 1 else digest_json(contents)
        facets: dict[str, DatasetFacet] = {
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=digest)
        }
        name, schema = WRITTEN.get(self.stage, ("", None))
        # Undeclared is e.g. a table that an earlier version wrote.
        if (schema := schema if self.table == name else BESIDE.get(self.table)) is not None:
            facets["schema"] = schema_dataset.SchemaDatasetFacet(fields=_fields(schema))
        return facets

    def measured(self) -> tuple[int, int]:
        """Rows and bytes of all partitions."""
        files = [artifact.manifest.files.get(f"{self.table}.parquet") for artifact in self.artifacts]
        return sum(entry.rows or 0 for entry in files if entry), sum(entry.size for entry in files if entry)


def input_dataset(table: LineageTable) -> InputDataset:
    """A table that a job read, with its rows and bytes."""
    rows, size = table.measured()
    metrics = data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet(
        columnMetrics={}, rowCount=rows, bytes=size, fileCount=len(table.artifacts)
    )
    return InputDataset(table.namespace, table.name, facets=table.facets, inputFacets={"dataQualityMetrics": metrics})


def output_dataset(table: LineageTable, inputs: Sequence[LineageTable]) -> OutputDataset:
    """A table that a job wrote from `inputs`. The main table of the stage also states what was rejected."""
    facets = {**table.facets, **_column_lineage(table, inputs)}
    if table.table == WRITTEN.get(table.stage, ("", None))[0]:
        facets["rlip_rows"] = _rows(table.artifacts)
    rows, size = table.measured()
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=rows, size=size, fileCount=len(table.artifacts)
    )
    return OutputDataset(table.namespace, table.name, facets=facets, outputFacets={"outputStatistics": statistics})


def _column_lineage(table: LineageTable, inputs: Sequence[LineageTable]) -> dict[str, DatasetFacet]:
    """The facet with the source columns of each column; empty if no table was read."""
    fields = {}
    for column, sources in SOURCES.get(table.stage, {}).get(table.table, {}).items():
        found = [
            column_lineage_dataset.InputField(each.namespace, each.name, source)
            for read, source in (name.split(".") for name in sources.split())
            for each in inputs
            if each.table == read
        ]
        if found:
            fields[column] = column_lineage_dataset.Fields(inputFields=found)
    return {"columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(fields=fields)} if fields else {}


def _rows(artifacts: Sequence[Artifact]) -> DatasetFacet:
    """Our own facet: rows in, rows out, and rejected rows by reason. OpenLineage has none for them."""
    counts = [artifact.manifest.counts for artifact in artifacts]
    rejected = sum((Counter(each.rejected) for each in counts), Counter[str]())
    facet = DatasetFacet(producer=PRODUCER).with_additional_properties(
        rowsIn=sum(each.rows_in for each in counts),
        rowsOut=sum(each.rows_out for each in counts),
        rejected=dict(sorted(rejected.items())),
    )
    assert isinstance(facet, DatasetFacet)
    return facet


def job_facets(manifest: Manifest) -> dict[str, Any]:
    """What made an artifact: the kind of job, and the source code with its version and the stage's."""
    version = manifest.versions.get("rlip", "unknown")
    code = source_code_location_job.SourceCodeLocationJobFacet(
        type="package",
        url=f"{PRODUCER}@{version}",
        path=f"pipeline/stages/{manifest.stage}.py",
        version=version,
        tag=f"{manifest.stage} {manifest.terms.get('version', 'unknown')}",
    )
    return {"jobType": job_type("STAGE"), "sourceCodeLocation": code}


def run_facets(manifest: Manifest) -> dict[str, Any]:
    """How an artifact was made: the engine and its version, the settings that decide rows, and digests of weights."""
    parameters = [
        execution_parameters_run.ExecutionParameter(key=f"{kind}.{name}", value=_text(value))
        for kind in ("settings", "weights")
        for name, value in manifest.terms.get(kind, {}).items()
    ]
    engine = processing_engine_run.ProcessingEngineRunFacet(
        version=manifest.versions.get("rlip", "unknown"),
        name="rlip",
        openlineageAdapterVersion=installed_version("openlineage-python"),
    )
    settings = execution_parameters_run.ExecutionParametersRunFacet(parameters=parameters)
    return {"processing_engine": engine, "executionParameters": settings}


def job_type(kind: str) -> job_type_job.JobTypeJobFacet:
    """The kind of a job: "DAG" for a run, "STAGE" for one of its steps."""
    return job_type_job.JobTypeJobFacet(processingType="BATCH", integration="RLIP", jobType=kind)


def _fields(schema: pa.Schema | pa.StructType) -> list[schema_dataset.SchemaDatasetFacetFields]:
    """Columns with their types; those of lists and structs as nested fields."""
    fields = []
    for field in schema:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        inside = _fields(kind) if pa.types.is_struct(kind) else []
        name = field.type if not inside else "list<struct>" if kind is not field.type else "struct"
        fields.append(schema_dataset.SchemaDatasetFacetFields(name=field.name, type=str(name), fields=inside))
    return fields


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
