"""A run's artifacts of each labelled partition, from images to labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runtime.stage import dataset_of
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run
from storage.tables import CANDIDATES

CANDIDATES_FILE, DROPPED_FILE = "candidates.parquet", "dropped.parquet"
"""Stage `tag`'s tables of pairs that it scored and triplets that led to none. Artifacts of other origins lack them."""


@dataclass(frozen=True)
class LabelledPartition:
    """A run's artifacts of one partition, from images to labels. The run may be in progress and lack some."""

    name: str
    images: Artifact | None
    """The one that `images_with_boxes` returns."""
    ingested: Artifact | None
    captioned: Artifact | None = None
    parsed: Artifact | None = None
    tagged: Artifact | None = None
    verified: Artifact | None = None

    def steps(self) -> Mapping[str, Artifact]:
        """Step → artifact, without missing ones."""
        found = {"ingest": self.ingested, "caption": self.captioned, "parse": self.parsed, "tag": self.tagged}
        found["verify"] = self.verified
        if self.images is not self.ingested:
            found["detect"] = self.images
        return {step: artifact for step, artifact in found.items() if artifact is not None}

    def label_sources(self) -> tuple[Artifact | None, Artifact | None]:
        """The captions and triplets that the labels refer to; None for what was made again since."""
        captioned, parsed = self.captioned, self.parsed
        if parsed is not None and self.tagged is not None and not is_made_from(self.tagged, "triplets", parsed):
            parsed = None
        if captioned is not None and (parsed is None or not is_made_from(parsed, "captions", captioned)):
            captioned = None
        return captioned, parsed

    def fitting(self) -> LabelledPartition:
        """The same without labels of earlier images or boxes, since the indices of their boxes may mean others."""
        fits = self.images is None or self.tagged is None or is_made_from(self.tagged, "images", self.images)
        return self if fits else replace(self, tagged=None, verified=None)

    def held(self) -> LabelledPartition:
        """The same artifacts, which keep tables in memory once they have read them."""
        copies = {artifact: held(artifact) for artifact in self.steps().values()}
        changed: dict[str, Any] = {n: copies[each] for n, each in vars(self).items() if isinstance(each, Artifact)}
        return replace(self, **changed)


def images_with_boxes(run: Run) -> dict[str, Artifact]:
    """Partition → artifact with the table `images` that labels refer to: of `detect` if it ran on it, else of `ingest`.

    A run keeps the boxes that it detected before the dataset got annotations or left the recipe; they no longer count.
    """
    ingested, detected, present = run.artifacts("ingest"), run.artifacts("detect"), run.keys("ingest")
    return ingested | {
        name: found
        for name, found in detected.items()
        if name in present and (name not in ingested or is_made_from(found, "images", ingested[name]))
    }


def packs_labels(run: Run) -> bool:
    """Whether the run's recipe packs pseudo-labels, so that its shards say what it keeps."""
    recipe = run.recipe
    if variants := recipe.get("pretrain", {}).get("variants"):
        return "pseudo" in variants
    shard = recipe.get("shard", {})
    if shard.get("labels", "pseudo") != "pseudo":
        return False
    return bool(shard.get("pack", True)) or recipe.get("run", {}).get("until") == "shard"


def packed_labels(run: Run) -> dict[str, Artifact]:
    """Partition → its shards of pseudo-labels; empty if the recipe packs none, although an earlier one may have."""
    return run.artifacts("shard:pseudo") if packs_labels(run) else {}


def byte_copies(digests: Sequence[pa.ChunkedArray]) -> int:
    """Counts images that repeat the bytes of an earlier image, by the digests of the bytes."""
    every = pa.chunked_array([chunk for column in digests for chunk in column.chunks], pa.string())
    return len(every) - int(pc.count_distinct(every).as_py())


def candidates(tagged: Artifact) -> pa.Table:
    """The candidate pairs stored with the labels of stage `tag`; empty if the artifact has no such file."""
    return tagged.table("candidates") if CANDIDATES_FILE in tagged.manifest.files else CANDIDATES.empty_table()


def of_image(table: pa.Table, image_id: int) -> pa.Table:
    """The rows of an image."""
    return table.filter(pc.field("image_id") == image_id)


def rows_of_image(artifact: Artifact | None, table: str, image_id: int) -> list[dict[str, Any]]:
    """The rows of an image in a table; none without the artifact or the table."""
    if artifact is None or f"{table}.parquet" not in artifact.manifest.files:
        return []
    rows: list[dict[str, Any]] = of_image(artifact.table(table), image_id).to_pylist()
    return rows


def items_of_image(
    artifact: Artifact | None, table: str, image_id: int, column: str | None = None
) -> list[dict[str, Any]]:
    """The items of an image in a nested column, which has the table's name unless `column` says another."""
    return [item for row in rows_of_image(artifact, table, image_id) for item in row[column or table] or ()]


def opinions(verified: Artifact | None, tagged: Artifact) -> dict[tuple[int, int, int, str], float]:
    """What the verifier says of labels, by image id, both boxes and canonical predicate; empty if it judged others."""
    if verified is None or not is_made_from(verified, "relations", tagged):
        return {}
    return {
        (row["image_id"], each["subject"], each["object"], each["predicate"]): each["probability"]
        for row in verified.table("opinions").to_pylist()
        for each in row["opinions"]
    }


def dropped(tagged: Artifact) -> pa.Table | None:
    """The triplets that led to no candidate, with reasons; None if the tagger's version did not record them."""
    return tagged.table("dropped") if DROPPED_FILE in tagged.manifest.files else None


def is_made_from(made: Artifact, table: str, read: Artifact) -> bool:
    """Whether an artifact was made from this `table`, and not from an earlier one; True if it names none."""
    named: Sequence[str] = made.manifest.terms["inputs"].get(table, [read.content])
    return read.content in named


def require_same_boxes(ingested: Artifact, tagged: Artifact) -> None:
    """Raise `FatalError` if labels were made from other images: their box indices would mean other boxes."""
    if not is_made_from(tagged, "images", ingested):
        raise FatalError(
            f"{tagged.manifest.partition}: its images were ingested, or their boxes detected, again after the labels "
            "were made; run stage tag again"
        )


def tagged_partitions(run: Run) -> Iterator[tuple[LabelledPartition, Artifact, Artifact]]:
    """Yields the partitions with images and labels, ordered by name, with the artifacts of these two.

    Raises `FatalError` as `require_same_boxes` does.
    """
    for _, found in sorted(partition_artifacts(run).items()):
        if found.images is not None and found.tagged is not None:
            require_same_boxes(found.images, found.tagged)
            yield found, found.images, found.tagged


def partition_artifacts(run: Run, datasets: Sequence[str] | None = None) -> dict[str, LabelledPartition]:
    """Partition → its artifacts, for these datasets or for all of the run."""
    ingested = run.artifacts("ingest")
    images = images_with_boxes(run)
    others = [run.artifacts(step) for step in ("caption", "parse", "tag", "verify")]
    return {
        name: LabelledPartition(
            name, images.get(name), ingested.get(name, images.get(name)), *(found.get(name) for found in others)
        )
        for name in dict.fromkeys(name for found in (images, *others) for name in found)
        if datasets is None or dataset_of(name) in datasets
    }


def held(artifact: Artifact) -> Artifact:
    """A copy of an artifact that keeps tables in memory once it has read them."""
    copy = replace(artifact)
    # The dataclass is frozen. An attribute of the copy hides the method of its class.
    object.__setattr__(copy, "table", cache(artifact.table))
    return copy
