"""The authors' `keep_names_freq` files: names of relations and objects with their counts (spec pseudo_labels 4.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline.data.datasets.annotations import NO_IMAGE, as_id, readable, shown
from pipeline.runtime.stage import Rejected

FREQUENCIES = pa.schema([("kind", pa.string()), ("name", pa.string()), ("count", pa.int64())])
KINDS = ("relationship", "object")


def read_frequencies(content: Any) -> tuple[list[dict[str, Any]], list[Rejected]]:
    """Rows of `frequencies`; names without a count (files without the maps) count 0."""
    rows, rejects = [], []
    for kind in KINDS:
        names, counts = content.get(f"{kind}_names"), content.get(f"{kind}_freq")
        counts = counts if isinstance(counts, dict) else {}
        listed = names if isinstance(names, list) else list(counts)
        for name in dict.fromkeys(name for name in listed if isinstance(name, str)):
            count = as_id(counts.get(name, 0))
            if count is None or count < 0:
                rejects.append(Rejected(NO_IMAGE, "frequency malformed", shown((name, counts[name]))))
            else:
                rows.append({"kind": kind, "name": readable(name), "count": count})
        rejects += [Rejected(NO_IMAGE, "name not a text", shown(name)) for name in listed if not isinstance(name, str)]
    return rows, rejects


def write_frequencies(relations: Mapping[str, int], objects: Mapping[str, int]) -> Iterator[tuple[str, Any]]:
    """The fields of the file, names by falling count, equal ones in the order given."""
    ranked = [dict(sorted(counts.items(), key=lambda entry: -entry[1])) for counts in (relations, objects)]
    for kind, counts in zip(KINDS, ranked, strict=True):
        yield f"{kind}_names", list(counts)
    for kind, counts in zip(KINDS, ranked, strict=True):
        yield f"{kind}_freq", counts


def counted(rows: list[dict[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """Rows of `frequencies` as counts of relations and of objects."""
    relations, objects = (Counter({r["name"]: r["count"] for r in rows if r["kind"] == kind}) for kind in KINDS)
    return relations, objects
