"""A run's images with all that its steps say of them, and the relations of each that an export writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.interop.official_labels import VISUAL_GENOME
from pipeline.runtime.stage import Rejected
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run


class Tally:
    """Counts by reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, reason: str, number: int = 1) -> None:
        """Count `number` more for a reason; 0 is not kept."""
        if number:
            self.counts[reason] += number

    def note_all(self, rejects: Iterable[Rejected]) -> None:
        """Count rejects by their reasons."""
        self.counts.update(reject.reason for reject in rejects)

    def as_json(self) -> dict[str, int]:
        """Reason → count, the most frequent first."""
        return dict(sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0])))


TABLES = {"ingest": "images", "caption": "captions", "parse": "triplets", "tag": "relations", "candidates": "groups"}
"""Step → its table."""
_OFFICIAL_NAMES = {"coco": "coco2017", "objects365": "o365", "visual_genome": VISUAL_GENOME, "hico_det": "hico"}


@dataclass(frozen=True)
class ImageRows:
    """One image's rows, by table; a table that the run lacks, or that says nothing of the image, is missing."""

    image_id: int
    rows: Mapping[str, Mapping[str, Any]]

    def items(self, table: str, name: str | None = None) -> list[dict[str, Any]]:
        """The items of the image in a table, e.g. its relations; `name` where the column is called otherwise."""
        found: list[dict[str, Any]] = self.rows.get(table, {}).get(name or table) or []
        return found


class RunRows:
    """The rows of a run, by data set."""

    def __init__(self, run: Run) -> None:
        """Raises `FatalError` for a run without a step that can be exported."""
        self.run = run
        self._artifacts: dict[str, dict[str, Artifact]] = {
            step: found for step in TABLES if (found := run.artifacts(step))
        }
        if not self._artifacts and not run.keys("frequencies"):
            raise FatalError(f"run {run.name!r} has none of the steps {', '.join(TABLES)}: nothing to export")

    def steps(self) -> list[str]:
        """Steps that can be exported."""
        return list(self._artifacts)

    def datasets(self) -> list[str]:
        """Data sets that some step has labelled: those with captions or relations, else all that were ingested."""
        made = [step for step in self._artifacts if step != "ingest"] or ["ingest"]
        return sorted({partition.split("/")[0] for step in made for partition in self._artifacts.get(step, ())})

    def official_name(self, dataset: str) -> str:
        """What the authors call the set: by its format in the run's recipe, else as it is named."""
        path = self.run.folder / "recipe.json"
        recipe = json.loads(path.read_bytes()) if path.is_file() else {}
        formats = {source["name"]: source["format"] for source in recipe.get("data", {}).get("sources", ())}
        return _OFFICIAL_NAMES.get(formats.get(dataset, ""), dataset)

    def images(self, dataset: str, *tables: str) -> Iterator[ImageRows]:
        """The images of a set in stored order, with the rows of `tables` (all when none is named)."""
        for partition in sorted({p for found in self._artifacts.values() for p in found}):
            if partition.split("/")[0] == dataset:
                yield from self._partition(partition, tables)

    def artifact_tables(self, table: str) -> Iterator[tuple[str, pa.Table]]:
        """A table as it is stored, partition by partition."""
        step = next((step for step, name in TABLES.items() if name == table), "tag")
        for partition, artifact in self._artifacts.get(step, {}).items():
            if f"{table}.parquet" in artifact.manifest.files:
                yield partition, artifact.table(table)

    def _partition(self, partition: str, tables: tuple[str, ...]) -> Iterator[ImageRows]:
        rows: dict[int, dict[str, dict[str, Any]]] = {}
        for step, found in self._artifacts.items():
            artifact = found.get(partition)
            for table in _tables_of(step, artifact):
                if artifact is not None and (not tables or table in tables):
                    for row in artifact.table(table).to_pylist():
                        rows.setdefault(row["image_id"], {})[table] = row
        for image_id, by_table in rows.items():
            yield ImageRows(image_id, by_table)


def _tables_of(step: str, artifact: Artifact | None) -> list[str]:
    """The tables of a step's artifact; the tagger's has its candidates too."""
    if artifact is None:
        return []
    extra = ["candidates"] if step == "tag" and "candidates.parquet" in artifact.manifest.files else []
    return [TABLES[step], *extra]


def relations_of(image: ImageRows, threshold: float, tally: Tally) -> list[dict[str, Any]]:
    """Scored relations of at least `threshold`, the best first; of an image that was never tagged, the given ones."""
    if "relations" not in image.rows:
        given: list[dict[str, Any]] = image.items("images", "relations")
        return given
    scored = image.items("relations")
    kept = [relation for relation in scored if relation["score"] >= threshold]
    tally.note(f"relation scored below {threshold:g}", len(scored) - len(kept))
    return sorted(kept, key=lambda r: (-r["score"], r["subject"], r["object"], r["predicate"]))


def without_crowds(
    image: ImageRows, relations: list[dict[str, Any]], tally: Tally
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Boxes that are no crowds, and the relations between them with their indices counted anew."""
    boxes = image.items("images", "boxes")
    usable = [index for index, box in enumerate(boxes) if not box["crowd"]]
    places = {index: place for place, index in enumerate(usable)}
    kept = [
        relation | {"subject": places[relation["subject"]], "object": places[relation["object"]]}
        for relation in relations
        if relation["subject"] in places and relation["object"] in places
    ]
    tally.note("crowd box", len(boxes) - len(usable))
    tally.note("relation of a crowd box", len(relations) - len(kept))
    return [boxes[index] for index in usable], kept
