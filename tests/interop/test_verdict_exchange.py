"""Runs go to annotation tools and come back as verdicts: what people kept, removed, renamed and added."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from run_builder import TWO_PEOPLE, RunBuilder, pairs, relations

from pipeline.interop.export_run import export_run
from pipeline.interop.import_verdicts import _RunImage, import_verdicts
from pipeline.labels.verdicts import Verdict
from pipeline.runtime.stage import Rejected
from storage.errors import FatalError
from storage.runs import Run


@pytest.fixture
def run(book: RunBuilder) -> Run:
    """Two images; of each, the second person and the horse, and the first, have labels."""
    rows = [book.image(number, TWO_PEOPLE) | {"digest": str(number) * 64} for number in (1, 2)]
    book.add("ingest", "toys/0000", rows)
    labels = [relations(number, (0, "ride", 2, 0.9), (1, "look at", 0, 0.4), (0, "hold", 1, 0.1)) for number in (1, 2)]
    book.add("tag", "toys/0000", labels, candidates=[pairs(1), pairs(2)])
    book.run.note("recipe", {"name": "demo", "shard": {"threshold": 0.2}})
    return book.run


def said(verdicts: list[Verdict]) -> set[tuple[str, str, str | None]]:
    return {(each.relation.predicate, each.kind, each.corrected_predicate) for each in verdicts}


def tasks_of(run: Run, tmp_path: Path) -> list[dict[str, Any]]:
    export_run(run, "label_studio", tmp_path / "tasks")
    return json.loads((tmp_path / "tasks/toys/tasks.json").read_bytes())


def returned(tmp_path: Path, tasks: list[dict[str, Any]]) -> Path:
    path = tmp_path / "returned.json"
    path.write_text(json.dumps(tasks))
    return path


def annotate(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Starts an annotation from the pre-annotation, as Label Studio does."""
    result: list[dict[str, Any]] = json.loads(json.dumps(task["predictions"][0]["result"]))
    task["annotations"] = [{"result": result, "was_cancelled": False}]
    return result


def test_what_people_keep_remove_rename_and_add_in_label_studio_become_verdicts(run, tmp_path):
    tasks = tasks_of(run, tmp_path)
    result = annotate(tasks[0])
    assert [link["labels"] for link in result if link["type"] == "relation"] == [["ride"], ["look at"]]
    tasks[1]["annotations"] = []
    untouched = import_verdicts(run, returned(tmp_path, tasks), None, "ada")
    assert said(untouched) == {("ride", "accept", None), ("look at", "accept", None)}
    # The log has raw scores, and the labels that were exported their confidences.
    assert {(v.dataset, v.image_id, v.relation.image, v.score) for v in untouched} == {("toys", 1, "1" * 64, None)}
    ride, look = [link for link in result if link["type"] == "relation"]
    ride["labels"] = ["feeds"]
    result.remove(look)
    result.append({**look, "from_id": look["from_id"], "to_id": "box-2", "labels": ["watch"], "direction": "left"})
    changed = import_verdicts(run, returned(tmp_path, tasks), None, "ada")
    assert said(changed) == {
        ("ride", "wrong_predicate", "feed"), ("look at", "reject", None), ("watch", "accept", None),
    }  # fmt: skip
    (added,) = [each for each in changed if each.relation.predicate == "watch"]
    assert (added.relation.subject, added.subject_category) == ((20.0, 50.0, 60.0, 60.0), "horse")
    additions = import_verdicts(run, returned(tmp_path, tasks), None, "ada", additions_only=True)
    assert {kind for _, kind, _ in said(additions)} == {"accept"}


def test_labels_that_the_annotator_never_saw_get_no_verdict(run, tmp_path):
    export_run(run, "label_studio", tmp_path / "tasks", threshold=0.5)
    tasks = json.loads((tmp_path / "tasks/toys/tasks.json").read_bytes())
    annotate(tasks[0])
    assert said(import_verdicts(run, returned(tmp_path, tasks[:1]), None, "ada")) == {("ride", "accept", None)}


def test_what_reviewers_added_is_rejected_when_an_annotator_removes_it(run, tmp_path):
    (task, _) = tasks_of(run, tmp_path)
    result, shown = annotate(task), task["data"]["rlip_labels"]
    (ride,) = (link for link in result if link.get("labels") == ["ride"])
    shown.append([shown[0][0], "feed", shown[0][2]])
    result.append(feed := {**ride, "labels": ["feed"]})
    found = []
    for removed in (ride, feed):
        result.remove(removed)
        verdicts = import_verdicts(run, returned(tmp_path, [task]), None, "ada")
        found.append({each.relation.predicate: each.kind for each in verdicts})
    assert found[0] == {"ride": "reject", "look at": "accept", "feed": "accept"}
    assert found[1] == found[0] | {"feed": "reject"}
    shown[-1][1] = "the"
    with pytest.raises(FatalError, match="'the' contains no word"):
        import_verdicts(run, returned(tmp_path, [task]), None, "ada")


def test_an_image_that_the_tagger_rejected_does_not_export_its_ground_truth_as_labels(book, tmp_path):
    book.add("ingest", "toys/0000", [book.image(number, TWO_PEOPLE, [(0, "hold", 1)]) for number in (1, 2)])
    failed = [Rejected(2, "no usable response", "?")]
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], candidates=[pairs(1)], rejected=failed, rows_in=2)
    tasks = tasks_of(book.run, tmp_path)
    assert [task["data"]["rlip_labels"] for task in tasks][1] == []
    for task in tasks:
        annotate(task)
    assert said(import_verdicts(book.run, returned(tmp_path, tasks), None, "ada")) == {("ride", "accept", None)}


def test_a_file_name_with_signs_of_urls_comes_back(book, tmp_path):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE) | {"uri": "50% off/a&b #1.png"}])
    book.add("tag", "toys/0000", [relations(1, (0, "ride", 2, 0.9))], candidates=[pairs(1)])
    (task,) = tasks_of(book.run, tmp_path)
    annotate(task)
    assert task["data"]["image"] == "/data/local-files/?d=50%25%20off/a%26b%20%231.png"
    task["data"] = {"image": task["data"]["image"]}
    assert said(import_verdicts(book.run, returned(tmp_path, [task]), None, "ada")) == {("ride", "accept", None)}


def test_a_cancelled_or_missing_annotation_says_nothing(run, tmp_path):
    tasks = tasks_of(run, tmp_path)
    for task in tasks:
        annotate(task)
    tasks[0]["annotations"][0]["was_cancelled"] = True
    assert {each.image_id for each in import_verdicts(run, returned(tmp_path, tasks), None, "ada")} == {2}


def test_the_annotation_of_label_studio_that_changed_last_counts(run, tmp_path):
    (task, _) = tasks_of(run, tmp_path)
    kept = annotate(task)
    boxes = [each for each in kept if each["type"] != "relation"]
    days = ("2026-01-02T00:00:00.5Z", "2026-01-01T00:00:00.5Z")
    task["annotations"] = [
        {"id": 1, "result": kept, "created_at": "2025-01-01T00:00:00.5Z", "updated_at": days[0]},
        {"id": 2, "result": boxes, "created_at": days[1]},
    ]
    assert {kind for _, kind, _ in said(import_verdicts(run, returned(tmp_path, [task]), None, "ada"))} == {"accept"}


def test_a_file_of_another_run_is_refused_with_the_reason(run, tmp_path):
    tasks = tasks_of(run, tmp_path)
    result = annotate(tasks[0])
    for region in result:
        if region["type"] == "rectanglelabels":
            region["value"]["width"] /= 3
    with pytest.raises(FatalError, match="only 0 of its 3 boxes match boxes of run"):
        import_verdicts(run, returned(tmp_path, tasks[:1]), None, "ada")
    result[0]["value"]["rotation"] = 30
    with pytest.raises(FatalError, match="a rectangle is rotated; draw it upright"):
        import_verdicts(run, returned(tmp_path, tasks[:1]), None, "ada")
    result[0]["value"]["rotation"] = 0
    result[-1]["labels"] = []
    with pytest.raises(FatalError, match="task 0: a relation has no label"):
        import_verdicts(run, returned(tmp_path, tasks[:1]), None, "ada")
    result[-1]["labels"] = ["ride"]
    tasks[0]["data"] = {"image": "elsewhere.jpg"}
    with pytest.raises(FatalError, match=r"none of its 1 images \(first: elsewhere.jpg\) is in run"):
        import_verdicts(run, returned(tmp_path, tasks[:1]), None, "ada")


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", '[{"id": 5, "annotations": [{"result": [{"type": "rectanglelabels"}]}]}]', "[" * 90_000],
)
def test_what_is_no_export_of_label_studio_is_named(run, tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(FatalError, match=r"bad\.json: .*xport"):
        import_verdicts(run, tmp_path / "bad.json", None, "ada")


def cvat(*boxes: str, name: str = "1.png") -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        f'<image id="0" name="{name}" width="200" height="120">{"".join(boxes)}</image></annotations>'
    )


def cvat_box(place: int, group: int = 0, **attributes: str) -> str:
    category, x, y, w, h = TWO_PEOPLE[place]
    inner = "".join(f'<attribute name="{name}">{value}</attribute>' for name, value in attributes.items())
    sides = f'xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}"'
    return f'<box label="{category}" occluded="0" {sides} z_order="0" group_id="{group}">{inner}</box>'


def imported(run: Run, tmp_path: Path, text: str) -> set[tuple[str, str, str | None]]:
    (tmp_path / "cvat.xml").write_text(text)
    return said(import_verdicts(run, tmp_path / "cvat.xml", None, "ada"))


def test_attributes_and_groups_of_cvat_state_relations(run, tmp_path):
    boxes = (
        cvat_box(0, number="1", relations="rides 3; waves at 2"),
        cvat_box(1, group=4, number="2", role="subject", predicate="lead"),
        cvat_box(2, group=4, number="3", role="object"),
    )
    found = imported(run, tmp_path, cvat(*boxes))
    assert found == {
        ("ride", "accept", None), ("look at", "reject", None), ("wave at", "accept", None), ("lead", "accept", None)
    }  # fmt: skip


def test_images_of_a_half_finished_cvat_job_without_a_box_say_nothing(run, tmp_path):
    first = cvat(cvat_box(0, number="1", relations="ride 2"), cvat_box(2, number="2"))
    untouched = '<image id="1" name="2.png" width="200" height="120"></image></annotations>'
    (tmp_path / "cvat.xml").write_text(first.replace("</annotations>", untouched))
    assert {each.image_id for each in import_verdicts(run, tmp_path / "cvat.xml", None, "ada")} == {1}


def test_only_images_that_the_file_names_are_held(run, tmp_path, monkeypatch):
    held = Mock(wraps=_RunImage)
    monkeypatch.setattr("pipeline.interop.import_verdicts._RunImage", held)
    assert imported(run, tmp_path, cvat(cvat_box(0, number="1", relations="ride 2"), cvat_box(2, number="2")))
    assert held.call_count == 1, "the run has two images"


def test_verdicts_reach_the_image_that_was_annotated_and_not_its_namesake_or_copy(book, tmp_path):
    named = {1: "seq1/a.png", 2: "same.png", 3: "copy.png"}
    digests = {1: "1" * 64, 2: "2" * 64, 3: "2" * 64}
    rows = [book.image(n, TWO_PEOPLE) | {"uri": named[n], "digest": digests[n]} for n in named]
    book.add("ingest", "toys/0000", rows)
    labels = [relations(n, (0, "hold" if n == 2 else "ride", 2, 0.9)) for n in named]
    book.add("tag", "toys/0000", labels, candidates=[pairs(n) for n in named])
    book.run.note("recipe", {"name": "demo", "shard": {"threshold": 0.2}})
    tasks = tasks_of(book.run, tmp_path)
    results = [annotate(task) for task in tasks]
    untouched = import_verdicts(book.run, returned(tmp_path, tasks), None, "ada")
    assert {(v.image_id, v.relation.predicate, v.kind) for v in untouched} == {
        (1, "ride", "accept"), (2, "hold", "accept"), (3, "ride", "accept"),
    }  # fmt: skip
    results[1].extend([link for link in results[2] if link["type"] == "relation"])
    del results[2][:]
    assert "reject" not in {v.kind for v in import_verdicts(book.run, returned(tmp_path, tasks), None, "ada")}
    first, other = (
        cvat(cvat_box(0, relations=f"{predicate} 2"), cvat_box(2, number="2"), name=f"{folder}/a.png")
        for predicate, folder in (("ride", "seq1"), ("lead", "seq2"))
    )
    both = first.replace("</annotations>", f"<image{other.partition('<image')[2]}")
    assert imported(book.run, tmp_path, both) == {("ride", "accept", None)}


LAUGHS = '<!ENTITY e0 "ha">' + "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize("text, reason", [
    (f"<!DOCTYPE a [{LAUGHS}]><annotations>&e9;</annotations>", "not XML .*amplification"),
    ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations>&x;</annotations>', "not XML .*undefined"),
    ("<annotations>", "not XML"),
    ("<other/>", "no element `annotations`"),
    ('<annotations><track id="0" label="person"/></annotations>', "no element `annotations` with images"),
    (cvat(cvat_box(0, number="1", relations="rides 9")), "rides 9"),
    (cvat(cvat_box(0, relations="rides 2"), cvat_box(1, number="2"), cvat_box(2, number="2")), "rides 2.*of one box"),
    (cvat(cvat_box(0, relations="the 2"), cvat_box(1, number="2")), "'1.png': the predicate 'the' contains no word"),
    (cvat(cvat_box(0, group=1, role="subject", predicate="ride")), "group 1 needs"),
    (cvat('<box label="a"/>'), "xtl"),
    (cvat('<box label="a" rotation="30.0"/>'), "image 1: image '1.png': a box is rotated"),
])  # fmt: skip
def test_an_unfit_cvat_file_is_refused_with_the_reason(run, tmp_path, text, reason):
    with pytest.raises(FatalError, match=reason):
        imported(run, tmp_path, text)


def test_fiftyone_gets_boxes_and_relations_in_its_layout(run, tmp_path):
    made = export_run(run, "fiftyone", tmp_path / "out")
    assert made.wrote == {"images": 2, "boxes": 6, "relations": 4}
    assert "version" not in json.loads((tmp_path / "out/toys/metadata.json").read_bytes())
    first = json.loads((tmp_path / "out/toys/samples.json").read_bytes())["samples"][0]
    assert first["filepath"] == "data/1.png"
    assert first["boxes"]["detections"][2]["bounding_box"] == pytest.approx([0.1, 50 / 120, 0.3, 0.5], abs=1e-6)
    ride = first["relations"]["detections"][0]
    assert (ride["label"], ride["subject"], ride["object"], ride["confidence"]) == ("ride", 0, 2, 0.9)
    assert ride["bounding_box"] == pytest.approx([0.05, 10 / 120, 0.35, 100 / 120], abs=1e-6)


def test_label_studio_gets_an_interface_that_knows_all_names(run, tmp_path):
    made = export_run(run, "label_studio", tmp_path / "out")
    text = (tmp_path / "out/toys/interface.xml").read_text()
    assert all(f'value="{name}"' in text for name in ("person", "horse", "ride", "look at"))
    assert made.lost["score of a relation"] == 4
    with pytest.raises(FatalError, match="has no scores"):
        export_run(run, "label_studio", tmp_path / "all", all_scores=True)
