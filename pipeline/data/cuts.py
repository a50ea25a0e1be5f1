"""Cuts: how a data set is divided into partitions. Once stored, a cut only grows, so nothing old moves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from storage.errors import Terminal


def extend_cut(cut: Sequence[Sequence[int]], image_ids: Sequence[int], size: int) -> list[list[int]]:
    """Append the ids that `cut` lacks as new partitions of `size` images; old partitions keep their ids and places."""
    known = {image_id for partition in cut for image_id in partition}
    fresh = [image_id for image_id in image_ids if image_id not in known]
    return [list(p) for p in cut] + [fresh[i : i + size] for i in range(0, len(fresh), size)]


def load_cut(path: Path) -> list[list[int]]:
    """The stored cut, or an empty one. Raises `Terminal` on a damaged one."""
    try:
        found: list[list[int]] = json.loads(path.read_bytes())["partitions"]
        if not all(isinstance(image_id, int) for partition in found for image_id in partition):
            raise TypeError("an image id is no number")
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise Terminal(
            f"{path}: damaged ({error}); remove it and run again: images are cut anew in their order, and what moves to "
            "another partition is computed again"
        ) from error
    return found


def cut_bytes(cut: Sequence[Sequence[int]]) -> bytes:
    """A cut as it is stored."""
    return json.dumps({"partitions": cut}).encode()
