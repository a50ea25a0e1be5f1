"""Writes a run as tables: whole tables as Parquet, labels as CSV, or one row per image for Hugging Face `datasets`."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from pipeline.interop.run_rows import ImageRows, RunRows, Tally, captions_of, relations_of
from pipeline.interop.run_tables import tables_by_name
from pipeline.labels.label_rows import LABELS, flat_labels
from storage.errors import FatalError
from storage.tables import FLAG, FLOAT, INT, LONG, TEXT


def write_parquet(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes every table of the run, with a column for each row's partition, and `labels.parquet`."""
    if threshold:
        raise FatalError("--threshold: parquet has every table as it is; omit it, or export csv")
    rows.choice, rows.unlabelled = None, 0  # nothing is left out, and no relation chosen
    for name, parts in tables_by_name(rows.run).items():
        writer: pq.ParquetWriter | None = None
        for partition, artifact, table in parts:
            part = artifact.table(table)
            named = part.add_column(0, "partition", pa.array([partition] * len(part), pa.string()))
            writer = writer or pq.ParquetWriter(folder / f"{name}.parquet", named.schema, compression="zstd")
            writer.write_table(named)
            tally.wrote[f"rows of {name}"] += len(named)
        if writer is not None:
            writer.close()

    with pq.ParquetWriter(folder / "labels.parquet", LABELS, compression="zstd") as flat:
        for part in flat_labels(rows.run):
            flat.write_table(part)
            tally.wrote["labels"] += len(part)
    if not tally.wrote["labels"]:
        (folder / "labels.parquet").unlink()


def write_csv(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `labels.csv`: one row per scored label, with names, boxes, score, caption and words."""
    # Labels that reviewers added have no score, those that are not kept no confidence.
    names = ("score", "confidence") if rows.choice is None else ("confidence", "score")
    with csv.CSVWriter(folder / "labels.csv", LABELS) as writer:
        for part in flat_labels(rows.run):
            chosen = part if rows.choice is None else part.filter(part["kept"])
            tally.note("relation that the run does not keep", len(part) - len(chosen))
            compared = pc.coalesce(*(chosen[name] for name in names))
            # As it is shown: in single precision, a confidence of .9 is below a threshold of .9.
            above = chosen.filter(pc.greater_equal(pc.round(compared.cast(pa.float64()), 6), threshold))
            tally.note(f"relation scored below {threshold:g}", len(chosen) - len(above))
            writer.write_table(above)
            tally.wrote["labels"] += len(above)
    if not tally.wrote["labels"]:
        (folder / "labels.csv").unlink()


_ROWS = 1000
_OBJECT = pa.struct({"category": TEXT, **dict.fromkeys("xywh", FLOAT), "crowd": FLAG})
_RELATION = pa.struct({"subject": INT, "predicate": TEXT, "object": INT, "score": FLOAT})
SCHEMA = pa.schema({
    "image_id": LONG, "file_name": TEXT, "width": INT, "height": INT, "captions": pa.list_(TEXT),
    "objects": pa.list_(_OBJECT), "relations": pa.list_(_RELATION),
})  # fmt: skip
"""One image. Boxes: absolute pixels, top-left corner and size. Relations: box indices; score null if annotated."""


def write_hugging_face(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `data/<set>/<split>.parquet` for each dataset and split, and the card `README.md`."""
    written: dict[str, dict[str, int]] = {}
    for dataset in rows.ingested():
        (folder / "data" / dataset).mkdir(parents=True)
        writers: dict[str, pq.ParquetWriter] = {}
        images = rows.images(dataset, "images", "captions", "relations")
        while chunk := list(islice(images, _ROWS)):
            by_split: dict[str, list[dict[str, Any]]] = {}
            for image in chunk:
                # `datasets` refuses names of splits with other characters.
                split = re.sub(r"\W", "_", image.rows["images"]["split"]) or "train"
                by_split.setdefault(split, []).append(_row(image, threshold, tally))
            for split, part in by_split.items():
                if split not in writers:
                    path = folder / "data" / dataset / f"{split}.parquet"
                    writers[split] = pq.ParquetWriter(path, SCHEMA, compression="zstd")
                writers[split].write_table(pa.Table.from_pylist(part, schema=SCHEMA))
                counts = written.setdefault(dataset, {})
                counts[split] = counts.get(split, 0) + len(part)
        for writer in writers.values():
            writer.close()
    if written:
        (folder / "README.md").write_text(_card(rows, written, threshold), encoding="utf-8")


def _row(image: ImageRows, threshold: float, tally: Tally) -> dict[str, Any]:
    row = image.rows["images"]
    relations = relations_of(image, threshold, tally)
    tally.note("pixels of an image", 1)
    tally.wrote.update({"images": 1, "boxes": len(row["boxes"]), "relations": len(relations)})
    captions = captions_of(image, tally)
    tally.note("origin and calibration of a relation", sum("score" in relation for relation in relations))
    return {
        "image_id": row["image_id"],
        "file_name": row["uri"],
        "width": row["width"],
        "height": row["height"],
        "captions": [caption["text"] for caption in captions],
        "objects": row["boxes"],
        "relations": relations,
    }


def _card(rows: RunRows, written: dict[str, dict[str, int]], threshold: float) -> str:
    from huggingface_hub import DatasetCardData

    run, kept = rows.run.name, "all scores" if rows.choice is None else f"kept: {rows.choice.in_words()}"
    kept += f", not below {threshold:g}" if threshold else ""
    configs = [
        {"config_name": name, "data_files": [{"split": s, "path": f"data/{name}/{s}.parquet"} for s in splits]}
        for name, splits in written.items()
    ]
    lines = [
        "---", DatasetCardData(pretty_name=run, task_categories=["object-detection"], configs=configs).to_yaml(), "---",
        "", f"# {run}", "",
        "Relations between bounding boxes in absolute pixels of the original files (top-left corner and size).",
        f"Labels with a score come from a Relation Tagger ({kept}), the others are annotations.",
        "The images are not included; `file_name` is relative to the image folder of each dataset.", "",
        "| dataset | split | images |", "|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {name} | {split} | {count} |" for name, splits in written.items() for split, count in splits.items()]
    return "\n".join(lines) + "\n"
