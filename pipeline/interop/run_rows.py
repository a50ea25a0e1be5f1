"""Reads a run's rows, by image with the relations to export, or as whole tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.data.datasets.record import NO_OBJECT
from pipeline.labels.kept_labels import ChoiceSettings, choice_of, judged_artifact, shown
from pipeline.labels.label_funnel import most_frequent_first
from pipeline.labels.label_overrides import Overrides, overrides_of
from pipeline.labels.labelled_partitions import CANDIDATES_FILE, images_with_boxes, require_same_boxes
from pipeline.runtime.stage import Rejected, dataset_of
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run

NAMES = "names"
"""Document of a run that is made of annotations: the set's own object names and predicates, in the order of its ids."""
NAMED_BY_ID = "file name (images are named by their ids)"
"""What is lost where a layout has no file names, and an image is not named as its readers expect."""


class Tally:
    """Counts what an export loses, by reason, and writes, by kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrote: Counter[str] = Counter()

    def note(self, reason: str, number: int = 1) -> None:
        """Adds `number` to a reason's count; 0 adds no entry."""
        if number:
            self.counts[reason] += number

    def note_all(self, rejects: Iterable[Rejected]) -> None:
        """Counts rejects by reason."""
        self.counts.update(reject.reason for reject in rejects)

    def as_json(self) -> dict[str, int]:
        """Returns reason → count, most frequent first."""
        return most_frequent_first(self.counts)


_Names = tuple[dict[str, int], dict[str, int]]
TABLES = {"ingest": "images", "caption": "captions", "parse": "triplets", "tag": "relations", "candidates": "groups"}
"""Step → name of its table."""


@dataclass(frozen=True)
class ImageRows:
    """One image's rows by table. Tables without a row for the image are absent."""

    image_id: int
    rows: Mapping[str, Mapping[str, Any]]

    def items(self, table: str, name: str | None = None) -> list[dict[str, Any]]:
        """Returns the image's items in a table, e.g. its relations. `name`: the column, if not named like the table."""
        found: list[dict[str, Any]] = self.rows.get(table, {}).get(name or table) or []
        return found


class RunRows:
    """The rows of a run, by dataset, with the relations that the run's shards keep, or all with `all_scores`."""

    def __init__(self, run: Run, all_scores: bool = False, masks: Path | str | None = None) -> None:
        """`masks`: the folder of the PNGs that PSG and COCO panoptic name.

        Raises `FatalError` if the run has no step to export.
        """
        self.run, self.masks, self._all_scores = run, masks, all_scores
        self.names: dict[str, _Names] = {}
        """Format → what `numbered_names` returns for its datasets."""
        every = {step: run.artifacts(step) for step in TABLES} | {"ingest": images_with_boxes(run)}
        unlabelled = _unlabelled(run, every["ingest"], every["tag"])
        self.unlabelled = sum(every["ingest"][partition].manifest.counts.rows_out for partition in unlabelled)
        """Images of labelled datasets that have no labels yet. They are left out: their ground truth is not a label."""
        left = {step: {name: each for name, each in e.items() if name not in unlabelled} for step, e in every.items()}
        self._artifacts: dict[str, dict[str, Artifact]] = {step: found for step, found in left.items() if found}
        if not self._artifacts and not run.keys("frequencies"):
            raise FatalError(f"run {run.name!r} has none of the steps {', '.join(TABLES)}; run one before an export")

    def require_kept(self) -> None:
        """Raises `FatalError` if all relations were asked for, kept or not; formats without scores call it."""
        if self._all_scores:
            raise FatalError(
                "the format has no scores, so --all would mix kept and rejected labels; omit --all, or export coco"
            )

    # Read on demand: whole tables can be exported even if the run's choice can't be read.
    @cached_property
    def choice(self) -> ChoiceSettings | None:
        """Which relations are kept; None: all, as for imported labels."""
        return None if self._all_scores else choice_of(self.run)

    @cached_property
    def _settled(self) -> Mapping[str, Overrides]:
        return {} if self._all_scores else overrides_of(self.run)

    @cached_property
    def formats(self) -> Mapping[str, str]:
        """The format of each dataset that the recipe names."""
        return {source["name"]: source["format"] for source in self.run.recipe.get("data", {}).get("sources", ())}

    def steps(self) -> list[str]:
        """Returns the run's steps that can be exported."""
        return list(self._artifacts)

    def datasets(self) -> list[str]:
        """Returns the datasets with rows of any step."""
        return sorted({dataset_of(partition) for found in self._artifacts.values() for partition in found})

    def ingested(self) -> list[str]:
        """Returns the datasets to export with boxes; empty if the run has no images."""
        return sorted({*map(dataset_of, self._artifacts.get("ingest", ()))})

    def folders(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """Yields each dataset to export with boxes, with a new folder for it in `folder`."""
        for dataset in self.ingested():
            (folder / dataset).mkdir()
            yield dataset, folder / dataset

    def images(self, dataset: str, *tables: str) -> Iterator[ImageRows]:
        """Yields the images of a dataset that the first of `tables` has, in stored order, with their rows in these."""
        for partition in sorted({p for found in self._artifacts.values() for p in found}):
            if dataset_of(partition) == dataset:
                for image in self._partition(partition, tables):
                    if tables[0] in image.rows:
                        yield image

    def _partition(self, partition: str, tables: tuple[str, ...]) -> Iterator[ImageRows]:
        rows: dict[int, dict[str, dict[str, Any]]] = {}
        ingested, tagged = (self._artifacts.get(step, {}).get(partition) for step in ("ingest", "tag"))
        if "relations" not in tables:
            tagged = None
        if ingested is not None and tagged is not None:
            require_same_boxes(ingested, tagged)
        for step, found in self._artifacts.items():
            if (artifact := found.get(partition)) is None:
                continue
            for table in _tables_of(step, artifact):
                if table in tables:
                    is_chosen = table == "relations"
                    for row in self._kept(partition, artifact) if is_chosen else artifact.table(table).to_pylist():
                        rows.setdefault(row["image_id"], {})[table] = row
        for image_id, by_table in rows.items():
            if tagged is not None:
                # Stage `tag` rejected an image without a row. It has no labels, and its ground truth is not one.
                by_table.setdefault("relations", {"image_id": image_id, "relations": [], "not_kept": 0})
            yield ImageRows(image_id, by_table)

    def _kept(self, partition: str, tagged: Artifact) -> Iterator[dict[str, Any]]:
        """The rows of `relations`, reduced to the kept labels, with their confidence as score."""
        if self.choice is None:
            yield from (row | {"not_kept": 0} for row in tagged.table("relations").to_pylist())
            return
        judged = judged_artifact(tagged, self.choice, self._settled.get(partition))
        kept = judged.kept()
        for row in judged.relations.to_pylist():
            relations = [
                {
                    "subject": label.subject,
                    "predicate": label.predicate,
                    "object": label.object,
                    "score": label.confidence,
                }
                for label in kept[row["image_id"]]
            ]
            yield row | {"relations": relations, "not_kept": len(row["relations"]) - len(relations)}


def _unlabelled(run: Run, ingested: Mapping[str, Artifact], tagged: Mapping[str, Artifact]) -> set[str]:
    """Returns the partitions without labels of datasets that the run labels, e.g. if it stopped before stage `tag`.

    A run without labels exports its annotations, as does a partition imported from a file without labels.
    """
    if not tagged:
        return set()
    labelled = {*map(dataset_of, tagged), *run.recipe.get("data", {}).get("label", ())}
    return {
        partition
        for partition, images in ingested.items()
        if dataset_of(partition) in labelled
        and partition not in tagged
        and "imported" not in images.manifest.terms["settings"]
    }


def _tables_of(step: str, artifact: Artifact) -> list[str]:
    """Returns the tables of a step's artifact. The tagger's also holds its candidates."""
    extra = ["candidates"] if step == "tag" and CANDIDATES_FILE in artifact.manifest.files else []
    return [TABLES[step], *extra]


def relations_of(image: ImageRows, threshold: float, tally: Tally, *, objectless: bool = False) -> list[dict[str, Any]]:
    """Returns relations that score at least `threshold`, best first, or annotated ones if the image is not tagged.

    `objectless`: the format has a place for relations without an object, which only annotations have.
    """
    if "relations" not in image.rows:
        annotated = image.items("images", "relations")
        if objectless:
            return annotated
        with_object = [relation for relation in annotated if relation["object"] != NO_OBJECT]
        tally.note("relation without object", len(annotated) - len(with_object))
        return with_object
    scored = image.items("relations")
    tally.note("relation that the run does not keep", image.rows["relations"]["not_kept"])
    kept = [relation for relation in scored if shown(relation["score"]) >= threshold]
    tally.note(f"relation scored below {threshold:g}", len(scored) - len(kept))
    return sorted(kept, key=lambda r: (-r["score"], r["subject"], r["object"], r["predicate"]))


def numbered_names(rows: RunRows, dataset: str, threshold: float) -> _Names:
    """Returns object names and predicates with ids from 1: the dataset's own in its order, if known, then the others.

    Datasets of one format, such as a training and a test set, have the same ids, because tools that train on one and
    test on the other compare ids. Objects have COCO's own ids if all names are COCO's.
    """
    form = rows.formats.get(dataset, dataset)
    if form in rows.names:
        return rows.names[form]
    objects: set[str] = set()
    predicates: set[str] = set()
    alike = [each for each in rows.ingested() if rows.formats.get(each, each) == form]
    for image in (image for each in alike for image in rows.images(each, "images", "relations")):
        objects.update(box["category"] for box in image.items("images", "boxes"))
        annotated = [] if "relations" in image.rows else image.items("images", "relations")
        predicates.update(r["predicate"] for r in annotated or relations_of(image, threshold, Tally()))
    own = rows.run.read_document(NAMES)
    names, verbs = (
        [*dict.fromkeys((*own.get(kind, ()), *sorted(found)))]
        for kind, found in (("objects", objects), ("predicates", predicates))
    )
    coco = {name: number for number, name in COCO_CATEGORIES.items()}
    numbered = coco if coco.keys() >= {*names} else {name: number for number, name in enumerate(names, start=1)}
    return rows.names.setdefault(form, (numbered, {name: number for number, name in enumerate(verbs, start=1)}))


def labelled_images(
    rows: RunRows, dataset: str, threshold: float, tally: Tally, *, sized: bool = False, crowds: bool = True,
    scored: bool = True,
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:  # fmt: skip
    """Yields each image's row of `images` and its relations, and counts images, boxes and relations.

    `sized`: only images of known size. Without `crowds`, the row lacks boxes that are crowds, and there are only the
    relations between the others, re-indexed. `scored`: the format has a place for scores and digests.
    """
    tally.wrote["images"] += 0  # named first, even if there are none
    for image in rows.images(dataset, "images", "relations"):
        row = dict(image.rows["images"])
        if sized and not (row["width"] and row["height"]):
            tally.note("image without a known size")
            continue
        relations = relations_of(image, threshold, tally)
        if not crowds:
            usable = [index for index, box in enumerate(row["boxes"]) if not box["crowd"]]
            places = {index: place for place, index in enumerate(usable)}
            kept = [
                relation | {"subject": places[relation["subject"]], "object": places[relation["object"]]}
                for relation in relations
                if relation["subject"] in places and relation["object"] in places
            ]
            tally.note("crowd box", len(row["boxes"]) - len(usable))
            tally.note("relation of a crowd box", len(relations) - len(kept))
            row["boxes"], relations = [row["boxes"][index] for index in usable], kept
        if not scored:
            tally.note("score, origin and calibration of a relation", sum("score" in each for each in relations))
            tally.note("digest of an image", int(bool(row["digest"])))
        tally.wrote.update({"images": 1, "boxes": len(row["boxes"]), "relations": len(relations)})
        yield row, relations


def captions_of(image: ImageRows, tally: Tally) -> list[dict[str, Any]]:
    """Returns an image's captions, and counts them and what a layout of texts loses of them."""
    captions = image.items("captions")
    tally.note("seed, log-probability, match, draws and source of a caption", len(captions))
    tally.note("boxes that a caption describes", sum(caption["boxes"] is not None for caption in captions))
    tally.wrote["captions"] += len(captions)
    return captions


def corners_of(box: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Returns the left, top, right and bottom of a box."""
    return box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]


def size_fields(row: Mapping[str, Any]) -> dict[str, int]:
    """Returns width and height of an image; empty if they are unknown."""
    return {} if row["width"] is None else {"width": row["width"], "height": row["height"]}
