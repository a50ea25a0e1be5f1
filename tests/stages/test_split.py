"""Stage `split`: which triplets stay unseen, and that shards hold none of their relations."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from run_builder import artifact

from pipeline.evaluation.splits import PUBLISHED
from pipeline.runtime.stage import Inputs, Output
from pipeline.stages.split import SplitSettings, SplitStage, unseen_triplets
from storage.artifact import Artifact
from storage.errors import FatalError


def images(folder: Path, *relations: tuple[str, str, str]) -> Artifact:
    """One image for each relation, between two boxes of their own."""
    rows = []
    for number, (subject, predicate, target) in enumerate(relations):
        box = {"x": 0.0, "y": 0.0, "w": 9.0, "h": 9.0, "crowd": False, "source_id": 1}
        row = {"dataset": "toy", "split": "train", "image_id": number, "uri": f"{number}.jpg", "digest": ""}
        boxes = [{**box, "category": subject}, {**box, "category": target}]
        stated = [{"subject": 0, "predicate": predicate, "object": 1}]
        rows.append({**row, "width": 10, "height": 10, "boxes": boxes, "relations": stated})
    return artifact(folder, images=rows)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    many = [("person", "ride", "horse")] * 3 + [("person", "riding", "bus")] + [("person", "feed", "horse")] * 2
    many += [("person", nothing, "bus") for nothing in (".", "the", "the")]
    return Inputs({"images": (images(tmp_path / "a", *many), images(tmp_path / "b", ("person", "feed", "bus")))})


def split(inputs: Inputs, work: Path, **settings: Any) -> Output:
    return SplitStage(SplitSettings(**settings)).run(inputs, work, lambda done, total, note="": None)


def test_the_rarest_or_most_frequent_triplets_are_left_out(inputs, tmp_path):
    rare = split(inputs, tmp_path, method="rare_first", unseen=1)
    assert [(row["predicate"], row["object"], row["instances"]) for row in rare.table.to_pylist()] == [
        ("feed", "bus", 1), ("feed", "horse", 2), ("ride", "bus", 1), ("ride", "horse", 3),
    ]  # fmt: skip
    assert unseen_triplets(rare.table) == {("person", "feed", "bus")}
    assert rare.facts == {"triplets": 4, "unseen": 1, "relations of unseen triplets": 1}
    frequent = split(inputs, tmp_path, method="non_rare_first", unseen=2)
    assert unseen_triplets(frequent.table) == {("person", "ride", "horse"), ("person", "feed", "bus")}
    with pytest.raises(FatalError, match="3 triplets can't be left out, only 2"):
        split(inputs, tmp_path, method="rare_first", unseen=3)


def test_listed_triplets_count_in_the_list(inputs, tmp_path):
    (tmp_path / "list.txt").write_text("no object verb\n1 horse ride\n2 horse feed\n3 bus ride\n4 stop_sign hop_on\n")
    (tmp_path / "unseen").write_text("2 3")
    files = {"interactions": tmp_path / "list.txt", "positions": tmp_path / "unseen"}
    found = split(inputs, tmp_path, method="listed", **files)
    assert unseen_triplets(found.table) == {("person", "ride", "bus"), ("person", "hop on", "stop sign")}
    with pytest.raises(FatalError, match=r"UC-NF needs HICO-DET's list of 600 triplets, but this list has 4"):
        split(inputs, tmp_path, method="UC-NF", interactions=tmp_path / "list.txt")
    with pytest.raises(FatalError, match="no interaction of 'dog' on this list is in the training sets"):
        split(inputs, tmp_path, method="listed", subject="dog", **files)
    (tmp_path / "unseen").write_text("2 7")
    with pytest.raises(FatalError, match=r"names positions \[7\], but the list has 4"):
        split(inputs, tmp_path, method="listed", **files)


def test_the_published_split_takes_its_120_places(inputs, tmp_path):
    verbs = ("ride", "feed", "hold", "wash", "watch")
    pairs = [("horse", "ride"), *((f"thing_{n % 120}", verbs[n // 120]) for n in range(1, 600))]
    (tmp_path / "list.txt").write_text("".join(f"{n} {thing} {verb}\n" for n, (thing, verb) in enumerate(pairs, 1)))
    found = split(inputs, tmp_path, method="UC-NF", interactions=tmp_path / "list.txt")
    assert unseen_triplets(found.table) == {("person", verbs[n // 120], f"thing {n % 120}") for n in PUBLISHED["UC-NF"]}
    with pytest.raises(FatalError, match=r"UO needs HICO-DET's list, but this list has .* a different order"):
        split(inputs, tmp_path, method="UO", interactions=tmp_path / "list.txt")


def test_settings_that_do_not_fit_the_method_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="interactions: required by method 'UC-RF'; set it"):
        SplitSettings(method="UC-RF")
    with pytest.raises(ValidationError, match="positions: not used by method 'rare_first'; remove it"):
        SplitSettings(method="rare_first", positions=tmp_path / "x")
    missing = SplitStage(SplitSettings(method="UC-RF", interactions=tmp_path / "gone.txt"))
    with pytest.raises(FatalError, match=r"split\.interactions = .*gone\.txt: no such file"):
        missing.files()
