"""Second opinions on kept labels: a labeller and a verifier that err at known rates, on synthetic scenes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rlip_command import output_of
from run_builder import RunBuilder, artifact, box, triplets

from pipeline.labels.audit_sample import AUDIT_SEED, AuditStrata, audit_order, permanent_numbers
from pipeline.labels.label_rows import ReviewableLabel, reviewable_labels
from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdict_summary import audit_of
from pipeline.labels.verdicts import Verdict
from pipeline.runtime.stage import Inputs
from pipeline.stages.tag import CANDIDATES_FILE, TagSettings, TagStage
from pipeline.stages.verify import VerifySettings, VerifyStage
from scenes.world import make_scene
from storage.tables import CANDIDATES, read_table
from tagger.english.predicates import canonical
from tests.training.conftest import ignore

IMAGES = 40
LABELLER_ERRS, VERIFIER_ERRS = 0.15, 0.05
Facts = set[tuple[int, int, str, int]]
PARTITION = "toys/0000"


@pytest.fixture
def world(book: RunBuilder, tmp_path: Path, stub: Any) -> Facts:
    """The planted relations of scenes, whose labels `book` has, with a verifier's opinions."""
    images, stated, facts, truth = [], [], set(), {}
    (book.pictures / "toys").mkdir(parents=True)
    for number in range(1, IMAGES + 1):
        scene = make_scene(11, number)
        Image.new("RGB", (scene.width, scene.height), (number, 90, 120)).save(book.pictures / "toys" / f"{number}.png")
        images.append(
            {
                "dataset": "toys", "split": "train", "image_id": number, "uri": f"{number}.png", "digest": f"{number}",
                "width": scene.width, "height": scene.height, "relations": [vars(r) for r in scene.relations],
                "boxes": [box(each.category, *each.box) for each in scene.objects],
            }
        )  # fmt: skip
        stated.append(triplets(number, *((0, s, p, o) for s, p, o in sorted(scene.triplets()))))
        lines = [_line(each, images[-1]) for each in images[-1]["boxes"]]
        for r in scene.relations:
            facts.add((number, r.subject, name := canonical(r.predicate), r.object))
            truth.setdefault(f"{lines[r.subject]}, {lines[r.object]}", []).append(name)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    rates = {"truth": str(tmp_path / "truth.json"), "surety": 0.9}
    labeller, verifier = stub(wrong=LABELLER_ERRS, **rates), stub(wrong=VERIFIER_ERRS, **rates)

    def options(url: str, model: str) -> dict[str, Any]:
        return {"answers": tmp_path / "answers.sqlite", "options": {"base_url": url, "model": model}}

    read = artifact(tmp_path / "tables", images=images, triplets=stated)
    tag = TagStage(TagSettings(method="vlm", **options(labeller.url, "labeller")), {"toys": book.pictures / "toys"})
    tag.open(Inputs())
    tagged = tag.run(Inputs({"images": (read,), "triplets": (read,)}), tmp_path, ignore).table.to_pylist()
    proposed = read_table(tmp_path / CANDIDATES_FILE, CANDIDATES).to_pylist()
    verify = VerifyStage(VerifySettings(**options(verifier.url, "verifier")), tag.image_folders)
    verify.open(Inputs())
    labels = artifact(tmp_path / "labels", relations=tagged, candidates=proposed)
    verified = verify.run(Inputs({"images": (read,), "relations": (labels,)}), tmp_path, ignore)
    assert verified.facts["prompt tokens"] == 80 * len(verified.table)
    book.add("ingest", PARTITION, images)
    book.add("tag", PARTITION, tagged, candidates=proposed)
    book.add("verify", PARTITION, verified.table.to_pylist())
    book.run.note("recipe", {"shard": {"confidence": "probability"}})
    return facts


def _line(box: dict[str, Any], image: dict[str, Any]) -> str:
    """A box as prompts describe it."""
    sides = box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]
    sizes = (image["width"], image["height"]) * 2
    return f"{box['category']} {tuple(round(1000 * s / size) for s, size in zip(sides, sizes, strict=True))}"


def test_a_verifier_says_how_many_labels_are_right_once_people_judged_some(book, world, tmp_path):
    labels = list(reviewable_labels(book.run))
    right = [(each.image_id, each.subject, each.relation.predicate, each.object) in world for each in labels]
    opinions = [each.opinion for each in labels]
    assert len(labels) > IMAGES and None not in opinions
    agrees = np.mean([(said >= 0.5) == holds for said, holds in zip(opinions, right, strict=True)])
    assert agrees == pytest.approx(1 - VERIFIER_ERRS, abs=0.03)

    numbers = permanent_numbers((each.relation for each in labels), AUDIT_SEED)
    strata = AuditStrata.of([e.relation.predicate for e in labels], [e.confidence for e in labels], opinions)
    judged = audit_order(strata, numbers)[: len(labels) // 2]
    store = tmp_path / "store"
    VerdictLog(store / "verdicts").append([verdict(labels[place], right[place]) for place in judged])
    found = json.loads(output_of("show", "toy", "tag", "--store", store, "--json"))["reviewed"]
    assert abs(found["precision"] - np.mean(right)) < 0.02
    assert found["verifier"]["accepts"] == pytest.approx(np.mean(np.array(opinions) >= 0.5))
    assert found["verifier"]["of_right"] == pytest.approx(1 - VERIFIER_ERRS, abs=0.03)
    shown = output_of("show", "toy", "tag", "--store", store)
    assert "of the labels that it judged; by" in shown and "of the wrong ones" in shown
    traced = json.loads(output_of("explain", labels[0].image_id, "toy", "--store", store, "--json"))["labels"]
    told = {(each["subject"], each["predicate"], each["object"]): each["opinion"] for each in traced}
    of_first = [each for each in labels if each.image_id == labels[0].image_id]
    assert {each.opinion for each in of_first} == {told[e.subject, e.relation.predicate, e.object] for e in of_first}
    shown = output_of("explain", labels[0].image_id, "toy", "--store", store)
    assert f"verifier: holds with probability {labels[0].opinion:.3f}" in shown
    alone = audit_of([each._replace(opinion=None) for each in labels], VerdictLog(store / "verdicts").standing())
    assert found["high"] - found["low"] < 0.8 * (alone.high - alone.low)


def verdict(label: ReviewableLabel, holds: bool) -> Verdict:
    """What a person says who knows the planted relations."""
    kind = "accept" if holds else "reject"
    named = {"subject_category": "person", "object_category": "horse"}
    return Verdict(label.relation, kind, "ada", "2026-01-31T12:00:00+00:00", **named, queue="audit")
