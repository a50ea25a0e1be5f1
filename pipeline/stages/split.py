"""Stage `split`: chooses triplets that are withheld from training and scored as unseen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from pipeline.data.datasets.annotations import AnnotationError
from pipeline.evaluation.hico import TripletClass
from pipeline.evaluation.splits import (
    PUBLISHED,
    published_split,
    read_interactions,
    read_positions,
    split_by_counts,
    split_of_positions,
)
from pipeline.runtime.settings import Settings, data_file
from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage, named_files
from storage.errors import FatalError
from storage.tables import SPLIT
from tagger.english.predicates import canonical
from tagger.triplet import NameTriplet

Method = Literal["UC-RF", "UC-NF", "UO", "UV", "rare_first", "non_rare_first", "listed"]
UNSEEN = "relations of unseen triplets"
"""Name of the count of relations that a split excludes."""


class SplitSettings(Settings):
    """Unseen combinations: triplets withheld from pre-training and scored separately."""

    method: Method
    """UC-RF, UC-NF, UO, UV: HICO-DET's published triplets (docs/evaluation.md). listed: those at `positions` of
    `interactions`. rare_first, non_rare_first: the `unseen` triplets with the fewest or the most training instances
    whose names remain seen in others."""
    unseen: int = Field(120, ge=1)
    """rare_first, non_rare_first: number of triplets to exclude."""
    subject: str = "person"
    """The subject of all `interactions`."""
    interactions: Path | None = data_file(None)
    """UC-RF, UC-NF, UO, UV, listed: HICO-DET's list of interactions (hico_list_hoi.txt)."""
    positions: Path | None = data_file(None)
    """listed: file with positions, from 0: a JSON list, or plain numbers."""

    @model_validator(mode="after")
    def _files_fit_the_method(self) -> SplitSettings:
        needed = {name: {"interactions"} for name in PUBLISHED} | {"listed": {"interactions", "positions"}}
        for name in ("interactions", "positions"):
            is_set, wanted = getattr(self, name) is not None, name in needed.get(self.method, set())
            if is_set != wanted:
                state = "required by" if wanted else "not used by"
                raise ValueError(f"{name}: {state} method {self.method!r}; {'set' if wanted else 'remove'} it")
        return self


class SplitStage(Stage):
    """Writes all triplets of the training sets and the list: which are unseen, and their number of instances."""

    name = "split"
    version = 3
    reads = ("images",)
    writes = "split"
    schema = SPLIT
    whole = True
    settings: SplitSettings

    def files(self) -> dict[str, Path]:
        """The files that the settings name. Raises `FatalError` when one is missing."""
        named = {"interactions": self.settings.interactions, "positions": self.settings.positions}
        return named_files("split", named)

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Count the triplets of the training sets and choose the unseen ones.

        Raises `FatalError` for a list that is invalid, shares no triplet with the training sets, or is too short.
        """
        counts: Counter[NameTriplet] = Counter()
        images = 0
        for artifact in inputs.artifacts("images"):
            for row in artifact.table("images").select(["boxes", "relations"]).to_pylist():
                counts.update(_triplets(row))
                images += 1
        listed = list(self._listed(counts))
        unseen = self._unseen(listed, counts)
        triplets = sorted({*counts, *listed})
        rows = [
            {"subject": s, "predicate": p, "object": o, "instances": counts[s, p, o], "unseen": (s, p, o) in unseen}
            for s, p, o in triplets
        ]
        facts = {"triplets": len(triplets), "unseen": len(unseen), UNSEEN: sum(counts[each] for each in unseen)}
        return Output(pa.Table.from_pylist(rows, schema=SPLIT), rows_in=images, facts=facts)

    def _listed(self, counts: Counter[NameTriplet]) -> Iterator[NameTriplet]:
        path = self.settings.interactions
        if path is None:
            return
        listed = [
            (self.settings.subject, canonical(predicate.replace("_", " ")), target.replace("_", " "))
            for predicate, target in read_interactions(path)
        ]
        if not counts.keys() & set(listed):
            first = ", ".join(" ".join(triplet) for triplet in sorted(counts)[:3]) or "none"
            raise FatalError(
                f"{path}: no interaction of {self.settings.subject!r} on this list is in the training sets, whose "
                f"triplets are {first}, ...; check split.subject, and that the list is of the same dataset"
            )
        yield from listed

    def _unseen(self, listed: list[NameTriplet], counts: Counter[NameTriplet]) -> frozenset[NameTriplet]:
        settings = self.settings
        every = listed or sorted(counts)
        names = sorted({name for triplet in every for name in triplet})
        places = {name: place for place, name in enumerate(names)}
        numbered = [TripletClass(places[s], places[o], places[p]) for s, p, o in every]
        instances = {number: counts[triplet] for number, triplet in zip(numbered, every, strict=True)}
        method = settings.method
        try:
            if method in PUBLISHED:
                unseen = published_split(method, numbered)
            elif settings.positions is not None:
                unseen = split_of_positions(method, read_positions(settings.positions), numbered)
            else:
                unseen = split_by_counts(instances, settings.unseen, rare_first=method == "rare_first")
        except (ValueError, AnnotationError) as error:
            raise FatalError(f"split.method = {method}: {error}") from error
        return frozenset((names[t.subject], names[t.predicate], names[t.object]) for t in unseen)


def _triplets(row: Mapping[str, Any]) -> Iterator[NameTriplet]:
    """The triplets of an image's relations. Training skips those without a word in their predicate, such as "."."""
    categories = [box["category"] for box in row["boxes"]]
    for relation in row["relations"]:
        if predicate := canonical(relation["predicate"]):
            yield categories[relation["subject"]], predicate, categories[relation["object"]]


def unseen_triplets(table: pa.Table) -> frozenset[NameTriplet]:
    """The unseen triplets of a `split` table."""
    rows = table.filter(table["unseen"]).to_pylist()
    return frozenset((row["subject"], row["predicate"], row["object"]) for row in rows)
