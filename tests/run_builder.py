"""Builds runs with hand-made tables, committed as stages commit theirs, and the rows of such tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.labels.label_overrides import OVERRIDES
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from storage import tables
from storage.artifact import Artifact
from storage.keys import KeyTerms
from storage.runs import Run

SCHEMAS = {
    "ingest": ("images", tables.IMAGES), "detect": ("images", tables.IMAGES), "caption": ("captions", tables.CAPTIONS),
    "parse": ("triplets", tables.TRIPLETS), "tag": ("relations", tables.RELATIONS),
    "verify": ("opinions", tables.OPINIONS), "train_tagger": ("tagger", tables.METRICS),
    "shard": ("shards", tables.SHARD_MEMBERS), "shard_tagger": ("shards", tables.SHARD_MEMBERS),
    "pretrain": ("weights", tables.METRICS), "evaluate": ("scores", tables.METRICS),
}  # fmt: skip


class Made(Stage):
    """A stage with hand-made rows."""

    version = 1

    def __init__(self, step: str, output: Callable[[Path], Output]) -> None:
        super().__init__(Settings())
        self.name = step.split(":")[0]
        self.writes, self.schema = SCHEMAS[self.name]
        self._output = output

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        return self._output(work)


@dataclass
class RunBuilder:
    """Writes a run step by step."""

    run: Run
    pictures: Path
    _keys: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(
        self,
        step: str,
        partition: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        candidates: Sequence[Mapping[str, Any]] | None = None,
        rejected: Sequence[Rejected] = (),
        facts: Mapping[str, Any] | None = None,
        rows_in: int | None = None,
        settings: Mapping[str, Any] | None = None,
        detections: Sequence[Mapping[str, Any]] | None = None,
        overrides: Sequence[Mapping[str, Any]] | None = None,
        inputs: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        def output(work: Path) -> Output:
            files = {}
            tables = {"candidates": candidates, "detections": detections, "overrides": overrides}
            for name, found in tables.items():
                if found is not None:
                    artifact(work, **{name: found})
                    files[f"{name}.parquet"] = work / f"{name}.parquet"
            schema = SCHEMAS[step.split(":")[0]][1]
            table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
            return Output(table, files=files, rejected=rejected, rows_in=rows_in, facts=facts or {})

        stage = Made(step, output)
        terms = KeyTerms(stage.name, 1, settings or {"step": step, "partition": partition}, inputs or {})
        record = execute(stage, WorkItem(step, partition, terms), self.run.store, lambda done, total, note="": None)
        keys = self._keys.setdefault(step, {})
        keys[partition] = record.key
        self.run.record(step, stage.name, keys)

    def metrics(self, step: str, *rows: tuple[int, str, float]) -> None:
        self.add(step, "all", [{"step": s, "name": n, "value": v} for s, n, v in rows])

    def image(
        self,
        image_id: int,
        boxes: Sequence[tuple[str, float, float, float, float]],
        relations: Sequence[tuple[int, str, int]] = (),
        dataset: str = "toys",
    ) -> dict[str, Any]:
        """A row of `images`; writes its image to disk."""
        uri = f"{image_id}.png"
        (self.pictures / dataset).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 120), (90, 120, 60 + image_id % 100)).save(self.pictures / dataset / uri)
        row = {"dataset": dataset, "split": "train", "image_id": image_id, "uri": uri, "digest": "0"}
        given = [{"subject": s, "predicate": p, "object": o} for s, p, o in relations]
        found = [box(*each, source_id=i) for i, each in enumerate(boxes)]
        return {**row, "width": 200, "height": 120, "boxes": found, "relations": given}


def recipe_of(book: RunBuilder, **settings: Any) -> Any:
    """The recipe of a run with one labelled dataset, `toys`."""
    from pipeline.run.recipe import Recipe  # which tests of the store need not load

    source = {"name": "toys", "format": "coco", "images": book.pictures / "toys", "annotations": "none.json"}
    data = {"sources": [source], "label": ["toys"], "tagger": ["toys"]}
    return Recipe.model_validate({"name": book.run.name, "data": data, "shard": {"threshold": 0.5}, **settings})


def artifact(folder: Path, **rows: Sequence[Mapping[str, Any]]) -> Artifact:
    """An artifact in `folder` for a stage to read, with these rows in tables of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in rows.items():
        others = {"shards": tables.SHARD_MEMBERS, "overrides": OVERRIDES}
        schema = others[name] if name in others else getattr(tables, name.upper())
        tables.write_table(pa.Table.from_pylist(list(found), schema=schema), folder / f"{name}.parquet")
    return Artifact(folder)


def captions(image_id: int, *texts: str) -> dict[str, Any]:
    """A row of `captions`."""
    drawn = [
        {"text": text, "draw": i, "seed": i, "log_probability": None, "source": "hand"} for i, text in enumerate(texts)
    ]
    return {"image_id": image_id, "captions": drawn}


def triplets(image_id: int, *found: tuple[int, str, str, str]) -> dict[str, Any]:
    """A row of `triplets`: caption index, subject, predicate, object."""
    spans = {f"{role}_{end}": 0 for role in ("subject", "predicate", "object") for end in ("start", "end")}
    rows = [
        {
            "subject": s, "subject_lemma": s, "predicate": p, "predicate_lemma": p, "object": o, "object_lemma": o,
            "caption": caption, "rule": "hand", **spans, "subject_count": 1, "object_count": 1,
            "subject_attributes": [], "object_attributes": [],
        }
        for caption, s, p, o in found
    ]  # fmt: skip
    return {"image_id": image_id, "triplets": rows}


def relations(image_id: int, *found: tuple[int, str, int, float]) -> dict[str, Any]:
    """A row of `relations`: subject, predicate, object, score."""
    return {"image_id": image_id, "relations": [relation(*each) for each in found]}


def relation(subject: int, predicate: str, object_: int, score: float, **more: Any) -> dict[str, Any]:
    """A label in a row of `relations`."""
    ends = {"subject": subject, "predicate": predicate, "object": object_}
    return {**ends, "score": score, "probability": score, "proposed": True, "triplet": 0, **more}


def pairs(image_id: int, *found: tuple[int, str, int, int]) -> dict[str, Any]:
    """A row of `candidates`: subject, predicate, object, ambiguity."""
    return {"image_id": image_id, "pairs": [pair(*each) for each in found]}


def pair(subject: int, predicate: str, object_: int, ambiguity: int, **more: Any) -> dict[str, Any]:
    """A candidate in a row of `candidates`."""
    ends = {"subject": subject, "predicate": predicate, "object": object_}
    return {**ends, "triplet": 0, "ambiguity": ambiguity, **more}


def box(
    category: str, x: float, y: float, w: float, h: float, source_id: int = -1, crowd: bool = False
) -> dict[str, Any]:
    """A box in a row of `images`."""
    return {"category": category, "x": x, "y": y, "w": w, "h": h, "crowd": crowd, "source_id": source_id}


TWO_PEOPLE = [
    ("person", 10.0, 10.0, 40.0, 80.0), ("person", 120.0, 10.0, 40.0, 80.0), ("horse", 20.0, 50.0, 60.0, 60.0),
]  # fmt: skip
