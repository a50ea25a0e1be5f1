"""Reads relations of images as facts, by which labels and ground truth are compared."""

from __future__ import annotations

import pyarrow as pa

from pipeline.labels.flat_list import FlatList
from tagger.audit.labels import Fact
from tagger.english.predicates import canonical


def facts_by_image(table: pa.Table, column: str) -> dict[int, set[Fact]]:
    """Image id → the facts of a nested column, such as the ground-truth `relations` of table `images`.

    Relations without a canonical predicate are left out, and so are images without others.
    """
    ids = table["image_id"].to_pylist()
    found: dict[int, set[Fact]] = {}
    for row, subject, name, other in FlatList.of(table, column).each("subject", "predicate", "object"):
        if predicate := canonical(name):
            found.setdefault(ids[row], set()).add((subject, predicate, other))
    return found
