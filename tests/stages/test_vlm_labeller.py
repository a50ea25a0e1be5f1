"""Labels of a model behind an endpoint, by forced choice."""

import json
from pathlib import Path
from typing import Any

import pytest
from rlip_command import output_of, rlip
from small_set import write_small_set

from storage.open_store import existing_store
from storage.runs import Run

IMAGES = 12


@pytest.fixture
def words(tmp_path: Path) -> Any:
    """The words of a run that asks a stub for labels."""
    recipe = write_small_set(tmp_path / "set", IMAGES)
    usual = tmp_path / "usual.json"
    usual.write_text(json.dumps({"person": {"horse": ["feed", "ride", "lead"]}}))

    def given(url: str, *sets: str, **options: Any) -> list[str]:
        settings = {"base_url": url, "model": "stub", "usual": usual, "choices": 3, **options}
        asks = [f"tag.options.{name}={value}" for name, value in settings.items()]
        asks += ["tag.method=vlm", "run.until=tag", "run.checks.max_overall_reject_share=1.0", "parse.implied=false"]
        return ["run", str(recipe), "--direct", "--json", *(word for ask in [*asks, *sets] for word in ("--set", ask))]

    return given


def labels(tmp_path: Path) -> tuple[list[list[tuple[str, bool, float, float]]], list[str]]:
    """The labels of each image, and the reasons of images in quarantine."""
    found, reasons = [], []
    for artifact in Run(existing_store(tmp_path / "set" / "out" / "store"), "small").artifacts("tag").values():
        for row in artifact.table("relations").to_pylist():
            named = ((r["predicate"], r["proposed"], r["score"], r["probability"]) for r in row["relations"])
            found.append([(name, proposed, round(s, 4), round(p, 4)) for name, proposed, s, p in named])
        reasons += [row["reason"] for row in artifact.rejected().to_pylist()]
    return found, reasons


def test_probabilities_of_choices_are_those_of_labels_and_no_answer_is_asked_for_again(stub, words, tmp_path):
    endpoint = stub(surety=0.7, cut=0.3, empty=0.2)
    output_of(*words(endpoint.url, retries=0))
    found, reasons = labels(tmp_path)
    assert found and len(found) + len(reasons) == IMAGES and set(reasons) == {"answer cut off", "answer empty"}
    assert found == [[("ride", True, 0.7, 0.7), ("feed", False, 0.1, 0.1), ("lead", False, 0.1, 0.1)]] * len(found)
    paid = endpoint.answers()
    assert len(paid) == IMAGES
    asked = words(endpoint.url, "name=more", retries=0, prompt_price=0.1, completion_price=0.4)[4:]
    asked = ["estimate", tmp_path / "set" / "recipe.toml", "--from", "small", "--images", "3000", *asked]
    made = json.loads(output_of(*asked, "--json"))
    assert made["tokens"] == [240_000, 60_000] and made["tokens_price"] == pytest.approx(0.024 + 0.024)
    assert "240,000 tokens of prompts and 60,000 of answers; 0.05 by prompt_price" in output_of(*asked)
    output_of(*words(endpoint.url, "tag.floor=0.5", retries=0))
    assert [name for of_image in labels(tmp_path)[0] for name, *_ in of_image] == ["ride"] * len(found)
    assert endpoint.answers() == paid, "each answer was paid for once"


def test_without_log_probabilities_the_share_of_repeated_answers_counts(stub, words, tmp_path):
    endpoint = stub(wrong=0.4)
    done = rlip(*words(endpoint.url))
    assert done.exit_code == 1 and "gives no log-probabilities" in done.stderr and "set samples to 5" in done.stderr
    output_of(*words(endpoint.url, "tag.floor=0", samples=5, temperature=1.0))
    found, _ = labels(tmp_path)
    shares = [score for of_image in found for _, _, score, _ in of_image]
    assert {round(5 * share, 4) for share in shares} <= {0.0, 1.0, 2.0, 3.0, 4.0, 5.0} and len(set(shares)) > 2
