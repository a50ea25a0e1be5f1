"""Reads detections, whoever made them, as relations over a ground truth.

Formats: our table `DETECTIONS` as Parquet, or as JSON with one object a line or in a list (`table.py`); lists of pairs
(`pair_list.py`); and lists of images with a score for every pair and predicate (`score_matrices.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.datasets.annotations import shown
from pipeline.data.datasets.json_stream import stream_rows
from pipeline.evaluation.detections.content import EXPECTED, DetectionsContent
from pipeline.evaluation.detections.over_truth import DetectionSet, over_truth
from pipeline.evaluation.detections.pair_list import PAIR_FIELDS, read_pair_list
from pipeline.evaluation.detections.score_matrices import MATRIX_FIELDS, read_score_matrices
from pipeline.evaluation.detections.table import json_lines, read_parquet, read_rows
from pipeline.evaluation.ground_truth import GroundTruth
from storage.errors import FatalError


def read_detections(
    path: Path,
    truth: GroundTruth,
    *,
    allow_missing: bool = False,
    drop_faulty: bool = False,
    per_image: int = 100,
    allowed: NDArray[np.bool_] | None = None,
    object_names: Sequence[str] | None = None,
) -> DetectionSet:
    """Reads a file of detections.

    Relations with an inverted box are noted, and scored as the public evaluators do: such a box overlaps no true one.
    Images are found by id, else by file name; names by their text, in which case and underscores do not count, and
    predicates also by their canonical form, which a run's are in, where only one of the truth has it. With
    `allow_missing`, images that the file lacks have no detections; with `drop_faulty`, faulty rows are left out and
    counted. Both are an error otherwise.

    Only the format with `verb_scores` for every pair and predicate uses the rest: the `per_image` highest scores of an
    image are read, of those that `allowed` (objects × predicates) permits; `object_names` are the names that its labels
    count (default: those of the ground truth, or COCO's 80 if the ground truth has just these).

    If boxes of the ground truth are shares of the image, detections are divided by the width and height of their row.
    Raises `DetectionsError`, and `FatalError` for a file of another kind or names that do not fit at all.
    """
    content = DetectionsContent(path)
    head = _head(path)
    if head[:4] == b"PAR1":
        read_parquet(content)
    elif head[:1] == b"{":
        read_rows(content, json_lines(path))
    elif head[:1] == b"[":
        _read_list(content, truth, per_image, allowed, object_names)
    else:
        kind = "is a pickle, which can run code when it is read; write it as JSON" if head[:1] == b"\x80" else "is none"
        raise FatalError(f"{path}: {kind}; expected {EXPECTED}")
    if not content.images:
        raise FatalError(f"{path}: holds no image; expected {EXPECTED}")
    return over_truth(content, truth, allow_missing=allow_missing, drop_faulty=drop_faulty)


def _head(path: Path) -> bytes:
    """The first bytes that are neither white space nor a byte order mark."""
    if not path.is_file():
        raise FatalError(f"{path}: no such file; expected {EXPECTED}")
    with path.open("rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        raise FatalError(f"{path}: is empty; expected {EXPECTED}")
    return head


def _read_list(
    content: DetectionsContent,
    truth: GroundTruth,
    per_image: int,
    allowed: NDArray[np.bool_] | None,
    object_names: Sequence[str] | None,
) -> None:
    """Reads a JSON list, whose first entry tells its format."""
    entries = stream_rows(content.path, EXPECTED)
    first = next(entries, None)
    if first is None:
        return
    keys = first.keys() if isinstance(first, dict) else set()
    everything = chain([first], entries)
    if keys >= set(MATRIX_FIELDS):
        read_score_matrices(content, everything, truth, per_image, allowed, object_names)
    elif keys >= set(PAIR_FIELDS):
        read_pair_list(content, everything, truth.predicates)
    elif {"boxes", "pairs"} <= keys:
        read_rows(content, ((f"image {number}", entry) for number, entry in enumerate(everything)))
    else:
        raise FatalError(f"{content.path}: its first entry is {shown(first)}; expected {EXPECTED}")
