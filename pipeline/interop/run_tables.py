"""The tables of a run, over all of its partitions, by the names under which `rlip query` and exports have them.

Separate from `run_rows`, which loads what decides about labels.
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.labels.labelled_partitions import images_with_boxes
from storage.artifact import Artifact
from storage.manifest import REJECTED_FILE
from storage.runs import Run

_PARQUET = ".parquet"


class PartOfTable(NamedTuple):
    """A table's rows of one partition: the table `table` of `artifact`."""

    partition: str
    artifact: Artifact
    table: str


def tables_by_name(run: Run) -> dict[str, list[PartOfTable]]:
    """Name → parts. A name is the stage's name for the table, plus the variant if several steps write one."""
    by_step: dict[str, dict[str, list[PartOfTable]]] = {}
    boxed = images_with_boxes(run)
    for step in run.steps():
        for partition, artifact in run.artifacts(step).items():
            for file in artifact.manifest.files:
                table = file.removesuffix(_PARQUET)
                is_replaced = table == "images" and boxed.get(partition, artifact).key != artifact.key
                if file.endswith(_PARQUET) and not is_replaced:
                    part = PartOfTable(partition, artifact, table)
                    by_step.setdefault(table, {}).setdefault(step, []).append(part)
    tables: dict[str, list[PartOfTable]] = {}
    for table, steps in by_step.items():
        is_apart = len(steps) > 1 and table != REJECTED_FILE.removesuffix(_PARQUET)
        for step, parts in steps.items():
            variant = step.partition(":")[2].replace(":", "_")
            tables.setdefault(f"{table}_{variant}" if is_apart and variant else table, []).extend(parts)
    return tables
