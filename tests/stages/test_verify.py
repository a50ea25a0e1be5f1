"""Second opinions on kept labels: a labeller and a verifier that err at known rates, on synthetic scenes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlip_command import output_of

from pipeline.labels.audit_sample import AUDIT_SEED, AuditStrata, audit_order, permanent_numbers
from pipeline.labels.label_rows import ReviewableLabel, reviewable_labels
from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdict_summary import audit_of
from pipeline.labels.verdicts import Verdict
from storage.open_store import existing_store
from storage.runs import Run
from tagger.audit.labels import SYMMETRIC
from tagger.english.predicates import canonical

RECIPE = """
name = "world"
store = "{root}/store"

[scenes]
train = {images}
relations = 0
test = 0
processes = 1

[data]
root = "{root}/scenes"
label = ["coco"]

[[data.sources]]
name = "coco"
format = "coco"
images = "coco/train"
annotations = "coco/annotations/instances_train.json"
relations = "coco/annotations/relations_train.json"

[caption]
captioner = "recorded"
recorded = ["coco/annotations/captions_train.json"]

[tag]
method = "vlm"
options = {{ base_url = "{labeller}", model = "labeller", choices = 4 }}

[verify]
method = "vlm"
options = {{ base_url = "{verifier}", model = "verifier" }}

[run]
workers = 1
"""
IMAGES = 60
LABELLER_ERRS, VERIFIER_ERRS = 0.15, 0.05


def truth_of(run: Run) -> tuple[dict[str, list[str]], set[tuple[int, int, str, int]]]:
    """The planted relations by pair of boxes, as the stub reads them, and by image."""
    by_pair: dict[str, list[str]] = {}
    facts = set()
    for artifact in run.artifacts("ingest").values():
        for row in artifact.table("images").to_pylist():
            for each in row["relations"]:
                name, ends = canonical(each["predicate"]), [each["subject"], each["object"]]
                for one, other in [ends, ends[::-1]] if name in SYMMETRIC else [ends]:
                    pair = ", ".join(_line(row["boxes"][end], row) for end in (one, other))
                    by_pair.setdefault(pair, []).append(name)
                    facts.add((row["image_id"], one, name, other))
    return by_pair, facts


def _line(box: dict[str, Any], image: dict[str, Any]) -> str:
    sides = box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]
    sizes = (image["width"], image["height"]) * 2
    return f"{box['category']} {tuple(round(1000 * s / size) for s, size in zip(sides, sizes, strict=True))}"


@pytest.fixture
def world(tmp_path: Path, stub: Any) -> tuple[Run, set[tuple[int, int, str, int]]]:
    """A run whose labels were verified, and the planted relations."""
    recipe, truth = tmp_path / "world.toml", tmp_path / "truth.json"
    recipe.write_text(
        RECIPE.format(root=tmp_path, images=IMAGES, labeller="http://127.0.0.1:9", verifier="http://[::1]")
    )
    output_of("run", recipe, "--direct", "--until", "ingest")
    run = Run(existing_store(tmp_path / "store"), "world")
    by_pair, facts = truth_of(run)
    truth.write_text(json.dumps(by_pair))
    labeller = stub(truth=str(truth), surety=0.8, wrong=LABELLER_ERRS, model="labeller")
    verifier = stub(truth=str(truth), surety=0.9, wrong=VERIFIER_ERRS, model="verifier")
    recipe.write_text(RECIPE.format(root=tmp_path, images=IMAGES, labeller=labeller.url, verifier=verifier.url))
    output_of("run", recipe, "--direct")
    return run, facts


def test_a_verifier_says_how_many_labels_are_right_once_people_judged_some(world, tmp_path):
    run, facts = world
    labels = list(reviewable_labels(run))
    right = [(each.image_id, each.subject, each.relation.predicate, each.object) in facts for each in labels]
    opinions = [each.opinion for each in labels]
    assert len(labels) > IMAGES and None not in opinions
    agrees = np.mean([(said >= 0.5) == holds for said, holds in zip(opinions, right, strict=True)])
    assert agrees == pytest.approx(1 - VERIFIER_ERRS, abs=0.04)

    numbers = permanent_numbers((each.relation for each in labels), AUDIT_SEED)
    strata = AuditStrata.of([e.relation.predicate for e in labels], [e.confidence for e in labels], opinions)
    judged = audit_order(strata, numbers)[: len(labels) // 2]
    VerdictLog(tmp_path / "store" / "verdicts").append([verdict(labels[place], right[place]) for place in judged])
    found = json.loads(output_of("show", "world", "tag", "--store", tmp_path / "store", "--json"))["reviewed"]
    assert abs(found["precision"] - np.mean(right)) < 0.02
    assert found["verifier"]["accepts"] == pytest.approx(np.mean(np.array(opinions) >= 0.5))
    assert found["verifier"]["of_right"] == pytest.approx(1 - VERIFIER_ERRS, abs=0.04)
    shown = output_of("show", "world", "tag", "--store", tmp_path / "store")
    assert "the verifier accepts" in shown and "of the wrong ones" in shown
    standing = VerdictLog(tmp_path / "store" / "verdicts").standing()
    alone = audit_of([each._replace(opinion=None) for each in labels], standing)
    assert found["high"] - found["low"] < 0.8 * (alone.high - alone.low)


def verdict(label: ReviewableLabel, holds: bool) -> Verdict:
    """What a person says who knows the planted relations."""
    kind = "accept" if holds else "reject"
    named = {"subject_category": label.subject_category, "object_category": label.object_category}
    return Verdict(label.relation, kind, "ada", "2026-01-31T12:00:00+00:00", **named, queue="audit")
