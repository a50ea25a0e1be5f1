"""The authors' captions: one JSON object, image id → texts (spec pseudo_labels 1.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.data.datasets.annotations import readable, shown
from pipeline.runtime.stage import Rejected


def read_captions(image_id: int, texts: Any, source: str) -> tuple[dict[str, Any], list[Rejected]]:
    """A row of `captions`; `source` names the file. What is no text is rejected, and draws keep their places."""
    if not isinstance(texts, list):
        return {"image_id": image_id, "captions": []}, [Rejected(image_id, "captions malformed", shown(texts))]
    rejects = [
        Rejected(image_id, "caption not a text", shown(text)) for text in texts if not isinstance(text, str) or not text
    ]
    kept = [
        {"text": readable(text), "draw": draw, "seed": None, "log_probability": None, "source": source}
        for draw, text in enumerate(texts)
        if isinstance(text, str) and text
    ]
    return {"image_id": image_id, "captions": kept}, rejects


def write_captions(row: Mapping[str, Any]) -> tuple[str, list[str]]:
    """A row of `captions` as a field of the file."""
    return str(row["image_id"]), [caption["text"] for caption in row["captions"]]
