"""Cuts: how a data set is divided into partitions. Once stored, a cut only grows, so nothing old moves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def extend_cut(cut: Sequence[Sequence[int]], image_ids: Sequence[int], size: int) -> list[list[int]]:
    """Append the ids that `cut` lacks as new partitions of `size` images; old partitions keep their ids and places."""
    known = {image_id for partition in cut for image_id in partition}
    fresh = [image_id for image_id in image_ids if image_id not in known]
    return [list(p) for p in cut] + [fresh[i : i + size] for i in range(0, len(fresh), size)]


def load_cut(path: Path) -> list[list[int]]:
    """The stored cut, or an empty one."""
    return json.loads(path.read_bytes())["partitions"] if path.is_file() else []


def cut_bytes(cut: Sequence[Sequence[int]]) -> bytes:
    """A cut as it is stored."""
    return json.dumps({"partitions": cut}).encode()
