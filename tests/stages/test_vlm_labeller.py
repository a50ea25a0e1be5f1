"""Labels of a model behind an endpoint, by forced choice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_builder import TWO_PEOPLE, RunBuilder, artifact, triplets

from pipeline.runtime.stage import Inputs, Output
from pipeline.stages.tag import TagSettings, TagStage
from storage.errors import FatalError

IMAGES = 12
Label = Callable[..., Output]


@pytest.fixture
def label(book: RunBuilder, tmp_path: Path) -> Label:
    """Labels images of two people and a horse, of which one rides it, with a stub."""
    numbers = range(8, 8 * IMAGES + 1, 8)  # whose colours differ in JPEG, too
    rows = [book.image(number, TWO_PEOPLE) for number in numbers]
    made = artifact(
        tmp_path / "tables", images=rows, triplets=[triplets(n, (0, "man", "ride", "horse")) for n in numbers]
    )
    (tmp_path / "usual.json").write_text(json.dumps({"person": {"horse": ["feed", "ride", "lead"]}}))

    def given(url: str, floor: float = 0.0, **options: Any) -> Output:
        asked = {"base_url": url, "model": "stub", "usual": tmp_path / "usual.json", "choices": 3, **options}
        settings = TagSettings(method="vlm", options=asked, answers=tmp_path / "answers.sqlite", floor=floor)
        stage = TagStage(settings, {"toys": book.pictures / "toys"})
        stage.open(Inputs())
        return stage.run(Inputs({"images": (made,), "triplets": (made,)}), tmp_path, lambda done, total, note="": None)

    return given


def test_probabilities_of_choices_are_those_of_labels_and_no_answer_is_asked_for_again(stub, label):
    endpoint = stub(surety=0.7, cut=0.3, empty=0.2)
    made = label(endpoint.url, retries=0)
    rows, reasons = made.table.to_pylist(), {reject.reason for reject in made.rejected}
    assert 0 < len(rows) < IMAGES and len(rows) + len(made.rejected) == IMAGES
    assert reasons == {"answer cut off", "answer empty"}
    one = [("ride", True, 0.7), ("feed", False, 0.1), ("lead", False, 0.1)]
    for row in rows:
        found = {(r["subject"], r["predicate"], r["proposed"], round(r["score"], 4)) for r in row["relations"]}
        assert found == {(person, *each) for person in (0, 1) for each in one}
        assert all(r["probability"] == pytest.approx(r["score"]) for r in row["relations"])
    prose = label(stub(prose=1.0).url, retries=0, seed=9)
    assert {(each.reason, each.value[:20]) for each in prose.rejected} == {
        ("answer of another form", "- A person riding a ")
    }
    paid = endpoint.answers()
    assert len(paid) == IMAGES and made.facts["prompt tokens"] == 80 * IMAGES
    again = label(endpoint.url, floor=0.5, retries=0)
    assert {r["predicate"] for row in again.table.to_pylist() for r in row["relations"]} == {"ride"}
    assert endpoint.answers() == paid and again.facts["completion tokens"] == 20 * IMAGES
    label(endpoint.url, retries=0, questions=1)
    assert len(endpoint.answers()) > len(paid) + len(rows), "each pair in a request of its own"


def test_without_log_probabilities_the_share_of_repeated_answers_counts(stub, label):
    endpoint = stub(wrong=0.4)
    with pytest.raises(FatalError, match=r"returns no log-probabilities.*set samples to 5"):
        label(endpoint.url)
    with pytest.raises(FatalError, match=r"reports no token counts, so no budget of tag\.options can stop"):
        label(stub(surety=0.9, counts=False).url, seed=1, budget_tokens=10_000)
    made = label(endpoint.url, samples=5, temperature=1.0)
    shares = {round(5 * r["score"], 4) for row in made.table.to_pylist() for r in row["relations"]}
    assert shares <= {0.0, 1.0, 2.0, 3.0, 4.0, 5.0} and len(shares) > 3


def test_repeated_answers_are_not_those_with_log_probabilities(stub, label):
    endpoint = stub(surety=0.7)
    label(endpoint.url, temperature=1.0)
    made = label(endpoint.url, samples=5, temperature=1.0)
    assert {round(5 * r["score"], 4) % 1 for row in made.table.to_pylist() for r in row["relations"]} == {0.0}
