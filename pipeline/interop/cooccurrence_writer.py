"""Writes the table of `tag.cooccurrence` from a run's relations (docs/labels.md, Other ways to candidates)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.interop.json_writer import write_object
from pipeline.interop.run_rows import RunRows, Tally, relations_of
from tagger.candidates.cooccurrence import cooccurrence_table
from tagger.matching import by_whole_words


def write_cooccurrence(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `cooccurrence.json`: {subject: {object: [predicates, most frequent first]}}.

    It counts the relations of all datasets of the run except its test sets. Box names map to categories like nouns in
    captions. Relations with other names are excluded and counted.
    """
    rows.require_kept()
    tested = rows.run.recipe.get("data", {}).get("test", ())
    relations: Counter[tuple[str, str, str]] = Counter()
    for dataset in rows.ingested():
        for image in rows.images(dataset, "images", "relations"):
            if dataset in tested:  # labels made by the table must not know the test set
                tally.note("image of a test set")
                continue
            categories = [box["category"] for box in image.items("images", "boxes")]
            found = relations_of(image, threshold, tally)
            relations.update((categories[r["subject"]], r["predicate"], categories[r["object"]]) for r in found)
    coco = tuple(COCO_CATEGORIES.values())
    names = {name for subject, _, object_ in relations for name in (subject, object_)}
    meant = {name for name in names if by_whole_words(name, name, coco)}
    left_out = sum(number for (subject, _, object_), number in relations.items() if not meant >= {subject, object_})
    tally.note("relation of a name that matches no category", left_out)
    tally.wrote["relations counted"] += relations.total() - left_out
    table = cooccurrence_table(relations.elements(), coco, by_whole_words)
    if table:
        write_object(folder / "cooccurrence.json", table.items())
