"""Writes those of the authors' files that a run has data for, in one folder per dataset (docs/exchange.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.interop.json_writer import write_list, write_object
from pipeline.interop.official_graphs import write_candidates, write_graphs, write_groups
from pipeline.interop.official_labels import VISUAL_GENOME, ElementWriter, name_counts, uri_by_id, write_frequencies
from pipeline.interop.run_rows import NAMED_BY_ID, RunRows, Tally, captions_of, labelled_images
from pipeline.runtime.stage import dataset_of

CAPTIONS, GRAPHS, CANDIDATES = "captions.json", "scene_graphs.json", "candidates.json"
LABELS, FREQUENCIES, FILES = "labels.json", "keep_names_freq.json", "image_id_to_filepath.json"
_OFFICIAL_NAMES = {
    "coco": "coco2017",
    "objects365": "o365",
    "visual_genome": VISUAL_GENOME,
    "vg150": VISUAL_GENOME,
    "hico_det": "hico",
    "hico_instances": "hico",
}
"""Format of a dataset → the authors' name of it."""


def write_official(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes captions, scene graphs, candidates, labels, name frequencies and, for Objects365, image paths."""
    for dataset in rows.datasets():
        place = folder / dataset
        place.mkdir()
        fields = {
            CAPTIONS: ("caption", _captions(rows, dataset, tally)),
            GRAPHS: ("parse", _graphs(rows, dataset, tally)),
            CANDIDATES: ("candidates" if "candidates" in rows.steps() else "tag", _candidates(rows, dataset, tally)),
        }
        for name, (step, written) in fields.items():
            if step in rows.steps() and write_object(place / name, written) == 0:
                (place / name).unlink()
        if dataset in rows.ingested():
            _labels(rows, dataset, place, threshold, tally)
    for partition, artifact in rows.run.artifacts("frequencies").items():
        path = folder / dataset_of(partition) / FREQUENCIES
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            write_object(path, write_frequencies(*name_counts(artifact.table("frequencies").to_pylist())))


def write_vg(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes each dataset as a file in the layout of the authors' Visual Genome annotations."""
    rows.require_kept()
    for dataset in rows.ingested():
        writer = ElementWriter(VISUAL_GENOME)
        elements = _elements(rows, dataset, VISUAL_GENOME, threshold, tally)
        write_list(folder / f"{dataset}.json", (writer.element(*element) for element in elements))


def _captions(rows: RunRows, dataset: str, tally: Tally) -> Iterator[tuple[str, Any]]:
    for image in rows.images(dataset, "captions"):
        yield str(image.image_id), [caption["text"] for caption in captions_of(image, tally)]


def _graphs(rows: RunRows, dataset: str, tally: Tally) -> Iterator[tuple[str, Any]]:
    for image in rows.images(dataset, "triplets", "captions"):
        texts = [caption["text"] for caption in image.items("captions")]
        tally.note("predicate offsets of a triplet", len(image.items("triplets")))
        tally.wrote["triplets"] += len(image.items("triplets"))
        yield write_graphs(image.rows["triplets"], texts)


def _candidates(rows: RunRows, dataset: str, tally: Tally) -> Iterator[tuple[str, Any]]:
    """The groups of an import, or else the candidates of stage `tag`."""
    if "candidates" in rows.steps():
        yield from (write_groups(image.rows["groups"]) for image in rows.images(dataset, "groups"))
        return
    for image in rows.images(dataset, "candidates", "images"):
        if "images" in image.rows:
            tally.note("triplet, mention and prior of a candidate", len(image.items("candidates", "pairs")))
            yield write_candidates(image.rows["images"], image.rows["candidates"])


def _labels(rows: RunRows, dataset: str, place: Path, threshold: float, tally: Tally) -> None:
    official = _OFFICIAL_NAMES.get(rows.formats.get(dataset, ""), dataset)
    writer = ElementWriter(official)
    relations, objects, paths = Counter[str](), Counter[str](), {}

    def elements() -> Iterator[dict[str, Any]]:
        for image, labels in _elements(rows, dataset, official, threshold, tally):
            element = writer.element(image, labels)
            relations.update(relation["predicate"] for relation in element["relationships"])
            objects.update(box["names"] for box in element["objects"])
            tally.note(NAMED_BY_ID, int(official == "hico" and element["image_id"] != image["uri"]))
            # Relative to the authors' folder of Objects365, which has one for each split; a source's `images` is that.
            paths[str(image["image_id"])] = "/".join((image["split"], *PurePosixPath(image["uri"]).parts[-2:]))
            yield element

    write_list(place / LABELS, elements())
    if relations:
        write_object(place / FREQUENCIES, write_frequencies(relations, objects))
    if official == "o365":
        write_object(place / FILES, paths.items())


def _elements(
    rows: RunRows, dataset: str, official: str, threshold: float, tally: Tally
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    for row, relations in labelled_images(rows, dataset, threshold, tally, crowds=False):
        tally.note("size and digest of an image", 1)
        tally.note("origin and calibration of a relation", sum("score" in relation for relation in relations))
        by_id = PurePosixPath(uri_by_id(official, row["split"], row["image_id"]))
        tally.note(NAMED_BY_ID, int(official not in ("o365", "hico") and PurePosixPath(row["uri"]).name != by_id.name))
        if official == VISUAL_GENOME:
            sides = [box[side] for box in row["boxes"] for side in "xywh"]
            tally.note("fraction of a pixel", sum(side != round(side) for side in sides))
            tally.note("score of a relation", sum("score" in relation for relation in relations))
        yield row, relations
