"""Reads and writes the authors' candidates: image id → groups of at most 100 pairs with the group's texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from pipeline.data.datasets.annotations import as_id, readable, shown
from pipeline.interop.rejects import Rejects
from pipeline.runtime.stage import Rejected
from tagger.candidates.official import official_groups
from tagger.pair import Pair

_PAIR = pa.struct([("subject", pa.int32()), ("object", pa.int32())])
GROUPS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("groups", pa.list_(pa.struct([("pairs", pa.list_(_PAIR)), ("predicates", pa.list_(pa.string()))]))),
    ]
)
"""Imported candidates. They stay grouped, because the file does not state which text belongs to which pair."""
_MOST_BOXES = 2**31


def read_groups(image_id: int, groups: Any) -> tuple[dict[str, Any], Iterable[Rejected]]:
    """Converts groups to a row of `groups` and rejects."""
    rejects = Rejects()
    kept: list[dict[str, Any]] = []
    if not isinstance(groups, list):
        return {"image_id": image_id, "groups": []}, [Rejected(image_id, "groups malformed", shown(groups))]
    for group in groups:
        if not (isinstance(group, list) and len(group) == 2 and all(isinstance(part, list) for part in group)):
            rejects.append(Rejected(image_id, "group malformed", shown(group)))
            continue
        pairs, texts = [], []
        for pair in group[0]:
            ends = [as_id(end) for end in pair] if isinstance(pair, list) and len(pair) == 2 else [None]
            if all(end is not None and 0 <= end < _MOST_BOXES for end in ends):
                pairs.append(dict(zip(("subject", "object"), ends, strict=True)))
            else:
                rejects.append(Rejected(image_id, "pair malformed", shown(pair)))
        for text in group[1]:
            if isinstance(text, str) and text:
                texts.append(readable(text))
            else:
                rejects.append(Rejected(image_id, "predicate not a text", shown(text)))
        kept.append({"pairs": pairs, "predicates": texts})
    return {"image_id": image_id, "groups": kept}, rejects


def write_groups(row: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Converts a row of `groups` to a field of the file."""
    groups = [[[[p["subject"], p["object"]] for p in g["pairs"]], g["predicates"]] for g in row["groups"]]
    return str(row["image_id"]), groups


def write_candidates(image: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Converts a row of `candidates` to a field of the file: distinct, sorted by pair, indices without crowd boxes."""
    places = {index: at for at, index in enumerate(i for i, box in enumerate(image["boxes"]) if not box["crowd"])}
    stated = dict.fromkeys(
        (places[p["subject"]], places[p["object"]], p["predicate"])
        for p in row["pairs"]
        if p["subject"] in places and p["object"] in places
    )
    listed = sorted(stated, key=lambda candidate: candidate[:2])
    groups = official_groups([Pair(subject, object_, text, -1, 0) for subject, object_, text in listed])
    return str(row["image_id"]), [[[list(pair) for pair in pairs], texts] for pairs, texts in groups]
