"""Reads and writes our detections table, as Parquet or as JSON with one image per line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.data.datasets.annotations import shown
from pipeline.data.datasets.record import NO_OBJECT
from pipeline.evaluation.detections.content import EXPECTED, DetectionsContent
from pipeline.evaluation.relations import Integers, Masks, Relations
from storage.atomic import atomic_file
from storage.errors import FatalError
from storage.tables import DETECTIONS

BATCH = 128
"""Images that are converted to columns together: of Visual Genome's, with every predicate of a pair, 0.2 GB."""
_RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
_READ = DETECTIONS.append(pa.field("masks", pa.list_(_RLE)))
"""What is read: a file may have a mask for each box, as COCO's results have them, {size: [height, width], counts}."""


def read_parquet(content: DetectionsContent) -> None:
    """Reads `DETECTIONS` as Parquet; width and height may be absent, masks present. Raises `FatalError` for others."""
    path = content.path
    try:
        file = pq.ParquetFile(path)
        names = set(file.schema_arrow.names)
        lacking = [name for name in ("image_id", "uri", "boxes", "pairs") if name not in names]
        if lacking:
            raise FatalError(f"{path}: has no column {', '.join(lacking)}; expected {EXPECTED}")
        for batch in file.iter_batches(BATCH):
            table = pa.Table.from_batches([batch])
            for name in {"width", "height", "masks"} - names:
                table = table.append_column(name, pa.nulls(len(table), _READ.field(name).type))
            _add(content, table.select(_READ.names).cast(_READ))
    except (pa.ArrowException, OSError) as error:
        raise FatalError(f"{path}: can't be read as a table of detections ({error}); expected {EXPECTED}") from error


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a file with one JSON value a line, each with its place in the file in words."""
    with path.open("rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FatalError(
                f"{path}: line {number} is not valid JSON ({error}), so the file is damaged or incomplete; "
                f"expected {EXPECTED}"
            ) from error


def read_rows(content: DetectionsContent, entries: Iterator[tuple[str, Any]]) -> None:
    """Reads rows of `DETECTIONS`, each with a description of its place. Raises `FatalError` for any other entry."""
    path = content.path
    while batch := list(islice(entries, BATCH)):
        for where, entry in batch:
            if not isinstance(entry, dict) or not {"boxes", "pairs"} <= entry.keys():
                raise FatalError(f"{path}: {where} has no boxes and pairs: {shown(entry)}; expected {EXPECTED}")
        try:
            _add(content, pa.Table.from_pylist([entry for _, entry in batch], schema=_READ))
        except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError) as error:
            span = f"{batch[0][0]} to {batch[-1][0]}"
            raise FatalError(f"{path}: {span}: values of the wrong type ({error}); expected {EXPECTED}") from error


def _add(content: DetectionsContent, table: pa.Table) -> None:
    """Adds rows of `DETECTIONS` with masks, which may be null."""
    table = table.combine_chunks()
    first_row = len(content.images)
    content.images += zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True)
    size = (table[name].to_numpy().astype(np.float64).tolist() for name in ("width", "height"))
    content.sizes += zip(*size, strict=True)
    box_counts, boxes = _flattened(table["boxes"])
    pair_counts, pairs = _flattened(table["pairs"])
    rows = np.arange(first_row, first_row + len(table))
    row = np.repeat(rows, pair_counts)
    xywh = np.stack([_numbers(boxes[side]) for side in "xywh"], axis=1).astype(np.float64)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    labels = _coded(boxes["category"], content.objects)
    counts = np.repeat(box_counts, pair_counts)
    starts = np.repeat(np.cumsum(box_counts) - box_counts, pair_counts)
    ends = [_numbers(pairs[name], -9) for name in ("subject", "object")]
    without = ends[1] == NO_OBJECT
    masks = _masks(content, table["masks"], box_counts)
    wrong = (ends[0] < 0) | (ends[0] >= counts) | ~(without | ((ends[1] >= 0) & (ends[1] < counts)))
    content.note("box index out of range", np.flatnonzero(wrong), row)
    kept = ~wrong
    without = without[kept]
    subject, target = (starts[kept] + end[kept] for end in ends)
    # Any valid index; the box and the label that it stands for are replaced below.
    target[without] = subject[without]
    object_boxes = corners[target]
    object_boxes[without] = np.nan
    content.add(
        Relations(
            images=len(content.images),
            image=row[kept],
            subject_boxes=corners[subject],
            object_boxes=object_boxes,
            subject_labels=labels[subject],
            object_labels=np.where(without, NO_OBJECT, labels[target]),
            predicates=_coded(pairs["predicate"], content.predicates)[kept],
            scores=_numbers(pairs["score"], np.nan).astype(np.float64)[kept],
            masks=None if masks is None else np.stack([masks[subject], np.where(without, None, masks[target])], axis=1),
        )
    )


def _masks(content: DetectionsContent, lists: pa.ChunkedArray, box_counts: Integers) -> Masks | None:
    """Each box's mask; None if there are boxes and no masks. Raises `FatalError` unless every box has a valid one."""
    if box_counts.any() and lists.null_count == len(lists):
        return None
    masks = pc.list_flatten(lists).to_pylist()
    if (_flattened(lists)[0] != box_counts).any() or not all(map(is_rle, masks)):
        raise FatalError(
            f"{content.path}: `masks` must have a mask for each box, as pycocotools encodes it: {{size: [height, "
            "width], counts: text}"
        )
    return np.array(masks, object)


def is_rle(mask: Mapping[str, Any] | None) -> bool:
    """Whether pycocotools can read a mask. It does not check that the last run ends."""
    if mask is None or len(size := mask["size"] or ()) != 2 or None in size:
        return False
    return re.fullmatch(r"[0-o]*[0-O]", mask["counts"] or "") is not None


def _flattened(lists: pa.ChunkedArray) -> tuple[Integers, Mapping[str, pa.Array]]:
    """The length of each list (0 for null), and the fields of all elements."""
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    elements = pc.list_flatten(lists)
    elements = elements.combine_chunks() if isinstance(elements, pa.ChunkedArray) else elements
    names = [each.name for each in lists.type.value_type]
    return counts, {name: pc.struct_field(elements, name) for name in names}


def _numbers(values: pa.Array, absent: float = float("nan")) -> NDArray[Any]:
    return np.asarray(pc.fill_null(values, pa.scalar(absent, values.type)).to_numpy(zero_copy_only=False))


def _coded(values: pa.Array, codes: dict[str, int]) -> Integers:
    """The code of each text. New texts get the next codes; null is the empty text."""
    encoded = pc.dictionary_encode(pc.fill_null(values, ""))
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    known = np.array([codes.setdefault(text, len(codes)) for text in encoded.dictionary.to_pylist()], np.int64)
    return np.asarray(known[encoded.indices.to_numpy(zero_copy_only=False)])


ROW_GROUP = 1000
"""Images that are held in memory and make a row group."""


class DetectionsWriter(ExitStack):
    """Writes rows as Parquet, or as JSON for a path that ends in .json, within a `with` statement.

    Rows are streamed to a file aside, which takes the path's place when the context ends without an error.
    """

    def __init__(self, path: Path, row_group: int = ROW_GROUP) -> None:
        """Raises `FatalError` for a folder, and for a name that ends neither in .parquet nor in .json."""
        if path.suffix not in (".parquet", ".json") or path.is_dir():
            raise FatalError(f"{path}: detections are written to a file; choose a name that ends in .parquet or .json")
        super().__init__()
        self._path, self._row_group = path, row_group
        self._rows: list[Mapping[str, Any]] = []
        self._table: pq.ParquetWriter | None = None
        self._text: Any = None

    def __enter__(self) -> DetectionsWriter:
        aside = self.enter_context(atomic_file(self._path))
        if self._path.suffix == ".parquet":
            self._table = self.enter_context(pq.ParquetWriter(aside, DETECTIONS, compression="zstd"))
        else:
            self._text = self.enter_context(aside.open("w", encoding="utf-8"))
        # Pushed last, so that the rest is written before the file is closed, unless an error ends the context.
        self.push(lambda kind, *_: self._flush() if kind is None else None)
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds an image: a row of the table `DETECTIONS`. Raises `FatalError` for a non-finite score or side."""
        numbers = [box[name] for box in row["boxes"] for name in ("score", "x", "y", "w", "h")]
        numbers += [pair["score"] for pair in row["pairs"]]
        if not all(map(math.isfinite, numbers)):
            raise FatalError(
                f"{self._path}: image {row['uri']!r} has scores or boxes that are not finite; check the weights"
            )
        self._rows.append(row)
        if len(self._rows) >= self._row_group:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._rows, schema=DETECTIONS)
        self._rows = []
        if self._table is not None and len(table):
            self._table.write_table(table, row_group_size=self._row_group)
        if self._text is not None:
            self._text.writelines(json.dumps(_short(row), ensure_ascii=False) + "\n" for row in table.to_pylist())


def _short(value: Any) -> Any:
    """The value with each float as the shortest decimal that rounds to the same float32."""
    if isinstance(value, float):
        return float(str(np.float32(value)))
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list) else value
