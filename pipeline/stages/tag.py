"""Stage `tag`: turns triplets into candidate pairs of boxes and scores each (docs/labels.md, Labelling)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_image
from pipeline.labels.labelled_partitions import CANDIDATES_FILE, DROPPED_FILE
from pipeline.runtime.chat_endpoint import tokens_taken
from pipeline.runtime.plugins import PluginStage
from pipeline.runtime.settings import Settings, file_read
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, named_files
from pipeline.stages.labellers import OpenLabeller, TaggerLabellerSettings
from pipeline.training.settings import fold_of
from storage.errors import FatalError
from storage.tables import CANDIDATES, DROPPED, RELATIONS, write_table
from tagger.box import boxes_of
from tagger.candidates.cooccurrence import cooccurrence_candidates, read_cooccurrence
from tagger.candidates.grounding import ground
from tagger.candidates.official import official_candidates
from tagger.candidates.source import Candidates, CandidateSource
from tagger.labelling.posteriors import with_probabilities
from tagger.matching import AuthorsFileError, by_substrings, by_whole_words_and, read_paraphrases
from tagger.pair import Pair
from tagger.parsing.wordings import WORDINGS
from tagger.triplet import Triplet

if TYPE_CHECKING:
    from torch import Tensor

    from tagger.labelling.tagging_image import Labels, Problem, TaggingImage

QUARANTINED = "image in quarantine"
"""Why the triplets of an image that can't be read or scored led to no candidate."""


class CandidateSettings(Settings):
    """How triplets become candidates; other values are for comparison (docs/labels.md, Other ways to candidates)."""

    matching: Literal["words", "official"] = "words"
    """How nouns match categories. words: whole words, from the head noun; official: substrings, as the authors do."""
    paraphrases: Path | None = file_read(None)
    """JSON file of phrases by category (authors' format), in addition to the built-in synonyms or, with matching
    "official", instead."""
    wording: Literal["canonical", "full", "official"] = "canonical"
    """Predicate wording. canonical: "in front of"; full: "stand in front of"; official: like the authors' parser."""
    enumeration: Literal["mentions", "official"] = "mentions"
    """How pairs are enumerated. mentions: as alternatives of a mention; official (authors): all ordered pairs as
    facts."""
    overlap: bool = False
    """Propose only pairs of boxes that intersect."""
    cooccurrence: Path | None = file_read(None)
    """JSON file of predicates by category pair (authors' format) that replaces captions."""

    @model_validator(mode="after")
    def _captions_or_not(self) -> CandidateSettings:
        ways = (self.matching, self.wording, self.enumeration) != ("words", "canonical", "mentions")
        if self.cooccurrence is not None and (ways or self.paraphrases is not None):
            raise ValueError("cooccurrence: reads no captions; remove matching, paraphrases, wording, enumeration")
        return self


class TagSettings(CandidateSettings, TaggerLabellerSettings):
    """Where candidates come from and how they are scored. Section `shard` chooses the labels to train on."""


class TagStage(PluginStage):
    """Makes the scored relations of one partition.

    `candidates.parquet` holds every pair considered, `dropped.parquet` every triplet that led to none, with the reason.
    """

    name = "tag"
    version = 15
    reads = ("images", "triplets", "captions")
    writes = "relations"
    loads = "the tagger"
    schema = RELATIONS
    settings: TagSettings

    def files(self) -> dict[str, Path]:
        """The dictionaries and tables that decide candidates, and the files of the labeller."""
        named = {"paraphrases": self.settings.paraphrases, "cooccurrence": self.settings.cooccurrence}
        return named_files("tag", named) | super().files()

    def open(self, uses: Inputs) -> None:
        """Load the source of candidates and the labeller. Raises `FatalError` when one cannot be used."""
        self._candidates = open_candidates(self.settings)
        self._open = self.settings.plugin.open(uses.by_table.get("tagger", ()), self.worker)

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Score the partition's candidates; images that cannot be read or scored go to quarantine."""
        rows = inputs.table("images").to_pylist()
        captioned = {row["image_id"]: row["triplets"] for row in inputs.table("triplets").to_pylist()}
        known = sorted({box["category"] for row in rows for box in row["boxes"]}.union(self.settings.categories))
        of_regions = inputs.table("captions").to_pylist() if "captions" in inputs.by_table else ()
        boxes = {row["image_id"]: [caption["boxes"] or () for caption in row["captions"]] for row in of_regions}
        proposed = [
            self._propose(row, captioned.get(row["image_id"], []), known, boxes.get(row["image_id"], ()))
            for row in rows
        ]
        opened = [self._open[fold_of(row["dataset"], row["image_id"], len(self._open))] for row in rows]
        images = [
            tagging_image(row, candidates.pairs, own.image_size, self.image_folders)
            for row, candidates, own in zip(rows, proposed, opened, strict=True)
        ]
        labels = self._label(images, opened, lambda done: report(done, len(rows)))
        report(len(rows), len(rows))
        relations, pairs, dropped, rejected = [], [], [], list[Rejected]()
        for row, candidates, labelled, own in zip(rows, proposed, labels, opened, strict=True):
            image = {"image_id": row["image_id"]}
            triplets = captioned.get(row["image_id"], [])
            if labelled.problem:
                rejected.append(Rejected(row["image_id"], labelled.problem.reason, labelled.problem.value))
                lost = {"reason": QUARANTINED, "value": ""}
                dropped += [image | {"triplet": number} | lost for number in range(len(triplets))]
                continue
            dropped += [image | each._asdict() for each in candidates.dropped]
            pairs.append(image | {"pairs": [asdict(pair) for pair in candidates.pairs]})
            scored = [
                asdict(each) | {"caption": triplets[each.triplet]["caption"] if each.proposed else -1}
                for each in with_probabilities(labelled.relations, candidates.pairs, own.stack)
            ]
            relations.append(image | {"tagger": own.digest, "relations": scored})
        write_table(pa.Table.from_pylist(pairs, schema=CANDIDATES), work / CANDIDATES_FILE)
        write_table(pa.Table.from_pylist(dropped, schema=DROPPED), work / DROPPED_FILE)
        facts = {
            "triplets dropped": len(dropped),
            "candidates": sum(len(each.pairs) for each in proposed),
            "images without candidates": sum(not each.pairs for each in proposed),
            "relations": sum(len(row["relations"]) for row in relations),
        }
        for each in self._open:
            facts |= tokens_taken(each.labeller)
        table = pa.Table.from_pylist(relations, schema=RELATIONS)
        files = {name: work / name for name in (CANDIDATES_FILE, DROPPED_FILE)}
        return Output(table, files, rejected, rows_in=len(rows), facts=facts)

    def _propose(
        self,
        row: Mapping[str, Any],
        triplets: Sequence[Mapping[str, Any]],
        known: Collection[str],
        boxes: Sequence[Collection[int]],
    ) -> Candidates:
        """The candidates of an image. `boxes`: those that each of its captions describes, if captions have boxes."""
        captions = [values["caption"] for values in triplets]
        regions = [boxes[caption] for caption in captions] if boxes else ()
        stated = [Triplet(**{n: value for n, value in values.items() if n != "caption"}) for values in triplets]
        return self._candidates(stated, boxes_of(row), captions, known, regions)

    def _label(
        self, images: Sequence[TaggingImage], opened: Sequence[OpenLabeller], progress: Callable[[int], None]
    ) -> list[Labels]:
        found: dict[int, Labels] = {}
        for each in self._open:
            own, before = [place for place, chosen in enumerate(opened) if chosen is each], len(found)
            labels = each.labeller.label([images[place] for place in own], lambda done: progress(before + done))  # noqa: B023
            found |= dict(zip(own, labels, strict=True))
        return [found[place] for place in range(len(images))]


def tagging_image(
    row: Mapping[str, Any], pairs: Sequence[Pair], size: int | None, image_folders: Mapping[str, Path | str]
) -> TaggingImage:
    """An image with candidate pairs, to be loaded in a labeller's `size` (`OpenLabeller.image_size`)."""
    import torch

    from pipeline.data.images.views import to_pixels, view_size
    from tagger.labelling.tagging_image import Problem, TaggingImage

    width, height = (row["width"], row["height"]) if size is None else view_size(row["width"], row["height"], size)

    def load() -> Tensor | Problem:
        try:
            image = read_image(locate_image(image_folders, row))
            if size is None:
                return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255))
            return to_pixels(image, size)
        except BadImage as bad:
            return Problem(bad.reason, bad.value)

    return TaggingImage(row["width"], row["height"], boxes_of(row), pairs, (height, width), load)


def open_candidates(settings: CandidateSettings) -> CandidateSource:
    """Open the source that the settings name. Raises `FatalError` when a file cannot be used."""
    try:
        if settings.cooccurrence is not None:
            table = read_cooccurrence(settings.cooccurrence)
            return partial(cooccurrence_candidates, table=table, overlapping=settings.overlap)
        paraphrases = read_paraphrases(settings.paraphrases) if settings.paraphrases is not None else {}
    except AuthorsFileError as error:
        raise FatalError(f"tag: {error}") from error
    return partial(
        official_candidates if settings.enumeration == "official" else ground,
        nouns=(by_substrings if settings.matching == "official" else by_whole_words_and)(paraphrases),
        wording=WORDINGS[settings.wording],
        overlapping=settings.overlap,
    )
