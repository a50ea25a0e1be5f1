"""Pictures whose boxes a detector finds get labels that are nearly as often true as those with the boxes that people gave."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from located_truth import located_agreement
from tiny_chain import World

from pipeline.labels.kept_labels import choice_of, kept_labels
from pipeline.labels.labelled_partitions import candidates, labelled_partitions
from storage.open_store import existing_store
from storage.runs import Run
from tagger.audit.labels import Agreement


def judged(run: Run, dataset: str) -> Agreement:
    """The labels that the run keeps of a dataset, against the relations given for the same images."""
    images, tagged = (labelled_partitions(run, step, [dataset]) for step in ("ingest", "tag"))
    given = labelled_partitions(run, "ingest", ["given"])
    choice = choice_of(run)
    assert choice is not None and images.keys() == tagged.keys()
    kept = {
        image_id: labels
        for artifact in tagged.values()
        for image_id, labels in kept_labels(artifact.table("relations"), candidates(artifact), choice).items()
    }
    tables = [pa.concat_tables([a.table("images") for a in found.values()]) for found in (images, given)]
    return located_agreement(tables[0], kept, tables[1])


@pytest.mark.timeout(1200)
def test_labels_on_detected_boxes_are_nearly_as_good_as_on_given_ones(root: Path, tmp_path: Path) -> None:
    world = World(root, root / "tests/chain/boxes_withheld.toml", tmp_path / "data", tmp_path / "store")
    events = world.run()
    assert "train_tagger" not in {event.get("step") for event in events}
    run = Run(existing_store(world.store), "withheld")
    assert set(run.artifacts("detect")) == {"bare/0000", "bare/0001"}
    given, detected = judged(run, "given"), judged(run, "bare")
    print(f"given boxes: {given}; detected boxes: {detected}")
    audit = world.ask("show", "withheld", "tag")["labels"]["audits"]["given"]["tagger"]
    assert given.precision() == pytest.approx(audit["precision"]), "the same measure as that of the audit"
    assert given.recall() == pytest.approx(audit["recall"])
    assert detected.truths == given.truths
    assert detected.precision() > given.precision() - 0.13 > 0.5  # type: ignore[operator]
    assert detected.recall() > given.recall() - 0.13  # type: ignore[operator]
