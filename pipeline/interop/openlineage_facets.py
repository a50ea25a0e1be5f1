"""OpenLineage's descriptions of tables and jobs: schema, version, column lineage, counts, settings and source code."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    DatasetFacet,
    column_lineage_dataset,
    data_quality_metrics_input_dataset,
    dataset_version_dataset,
    execution_parameters_run,
    job_type_job,
    output_statistics_output_dataset,
    processing_engine_run,
    schema_dataset,
    source_code_location_job,
)

from pipeline.interop.column_sources import WRITTEN, schema_of, sources_of
from pipeline.runtime.execute import installed_version
from storage.artifact import Artifact
from storage.digests import digest_json
from storage.manifest import FileEntry, Manifest

PRODUCER = "pkg:generic/rlip"
"""The package URL of this project, which events name as their producer."""


@dataclass(frozen=True)
class LineageTable:
    """A table of a step, in one partition or in all: a dataset in OpenLineage's terms."""

    namespace: str
    name: str
    stage: str
    table: str
    artifacts: Sequence[Artifact]

    @property
    def version(self) -> dict[str, DatasetFacet]:
        """The facet with the digest of the content, which stays when a stage runs again and yields the same bytes."""
        contents = [artifact.content for artifact in self.artifacts]
        digest = contents[0] if len(contents) == 1 else digest_json(contents)
        return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=digest)}

    @property
    def schema(self) -> dict[str, DatasetFacet]:
        """The facet with the columns; none for a table that is not declared."""
        schema = schema_of(self.stage, self.table)
        return {} if schema is None else {"schema": schema_dataset.SchemaDatasetFacet(fields=_fields(schema))}

    @cached_property
    def rows(self) -> int:
        """Number of rows in all partitions."""
        return sum(entry.rows or 0 for entry in self._entries)

    @cached_property
    def size(self) -> int:
        """Bytes in all partitions."""
        return sum(entry.size for entry in self._entries)

    @cached_property
    def _entries(self) -> list[FileEntry]:
        files = [artifact.manifest.files for artifact in self.artifacts]
        return [found[f"{self.table}.parquet"] for found in files if f"{self.table}.parquet" in found]


def input_dataset(table: LineageTable) -> InputDataset:
    """A table that a job read, with its rows and bytes."""
    metrics = data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet(
        columnMetrics={}, rowCount=table.rows, bytes=table.size, fileCount=len(table.artifacts)
    )
    facets = {**table.version, **table.schema}
    return InputDataset(table.namespace, table.name, facets=facets, inputFacets={"dataQualityMetrics": metrics})


def output_dataset(table: LineageTable, inputs: Sequence[LineageTable]) -> OutputDataset:
    """A table that a job wrote from `inputs`. The table of the stage also tells what was rejected."""
    facets = {**table.version, **table.schema, **_column_lineage(table, inputs)}
    if table.table == WRITTEN.get(table.stage, ("", None))[0]:
        facets["rlip_rows"] = _rows(table.artifacts)
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=table.rows, size=table.size, fileCount=len(table.artifacts)
    )
    return OutputDataset(table.namespace, table.name, facets=facets, outputFacets={"outputStatistics": statistics})


def _column_lineage(table: LineageTable, inputs: Sequence[LineageTable]) -> dict[str, DatasetFacet]:
    """The facet that says which columns of the tables read each column comes from; none where no table was read."""
    fields = {}
    for column, sources in sources_of(table.stage, table.table).items():
        found = [
            column_lineage_dataset.InputField(each.namespace, each.name, source)
            for read, source in (name.split(".") for name in sources)
            for each in inputs
            if each.table == read
        ]
        if found:
            fields[column] = column_lineage_dataset.Fields(inputFields=found)
    return {"columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(fields=fields)} if fields else {}


def _rows(artifacts: Sequence[Artifact]) -> DatasetFacet:
    """A facet of our own: rows in, rows out, and rejected rows by reason, for which OpenLineage has no facet."""
    rejected: Counter[str] = Counter()
    for artifact in artifacts:
        rejected.update(artifact.manifest.counts.rejected)
    counts = [artifact.manifest.counts for artifact in artifacts]
    made = DatasetFacet(producer=PRODUCER).with_additional_properties(
        rowsIn=sum(each.rows_in for each in counts),
        rowsOut=sum(each.rows_out for each in counts),
        rejected=dict(sorted(rejected.items())),
    )
    assert isinstance(made, DatasetFacet)
    return made


def job_facets(manifest: Manifest) -> dict[str, Any]:
    """What made an artifact: the kind of job, and the source code with its version and that of the stage."""
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
    """How an artifact was made: the engine with its version, the settings that decide rows, and the digests of weights."""
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
    """Columns with their types; those of lists and structs as fields inside."""
    made = []
    for field in schema:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        inside = _fields(kind) if pa.types.is_struct(kind) else []
        name = field.type if not inside else "list<struct>" if kind is not field.type else "struct"
        made.append(schema_dataset.SchemaDatasetFacetFields(name=field.name, type=str(name), fields=inside))
    return made


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
