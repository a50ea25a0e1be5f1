"""Boxes in another convention than the format's, or of categories that the file lacks, don't vanish without a word."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rlip_command import rlip
from small_set import write_small_set

Change = Callable[[dict[str, Any]], object]


def _changed(root: Path, change: Change, name: str = "annotations") -> Path:
    """A set of whose annotations or images each was changed, and its recipe."""
    recipe = write_small_set(root)
    path = root / "instances.json"
    stated = json.loads(path.read_text())
    stated[name] = [each for each in stated[name] if change(each) is not False]
    path.write_text(json.dumps(stated))
    return recipe


def _relative(annotation: dict[str, Any]) -> None:
    annotation["bbox"] = [number / 64 for number in annotation["bbox"]]


def _corners(annotation: dict[str, Any]) -> None:
    x, y, w, h = annotation["bbox"]
    annotation["bbox"] = [x, y, x + w, y + h]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_relative, "16 of 16 boxes of its first 8 images are smaller than a pixel"),
        (_corners, "8 of 16 boxes of its first 8 images reach beyond their image and would fit as two corners"),
        (lambda annotation: False, "none of its first 8 images has a box"),
    ],
)
def test_boxes_that_look_wrong_are_reported_by_doctor_and_by_the_run(tmp_path, change, said):
    recipe = _changed(tmp_path / "set", change)
    notes = [each for each in json.loads(rlip("doctor", recipe, "--json").stdout) if each["state"] == "note"]
    assert any(said in note["detail"] for note in notes), notes
    done = rlip("run", recipe, "--direct", "--json", "--until", "ingest")
    warnings = [
        event["text"] for line in done.stdout.splitlines() if (event := json.loads(line)).get("event") == "warning"
    ]
    assert len(warnings) == 1 and said in warnings[0]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "annotations",
            lambda annotation: annotation.update(category_id=99),
            "16 of 16 boxes rejected (unknown category id: 16), more than run.checks.max_overall_reject_share = 0.1",
        ),
        ("annotations", _corners, "8 of 16 boxes rejected or corrected (box clipped: 8)"),
        ("images", lambda image: image.update(id=image["id"] if image["id"] > 2 else "a"), "2 of 8 rows rejected ("),
    ],
)
def test_a_run_whose_annotations_hardly_fit_is_refused(tmp_path, name, change, said):
    recipe = _changed(tmp_path / "set", change, name)
    done = rlip("run", recipe, "--direct", "--until", "ingest")
    assert (done.exit_code, said in done.stderr) == (1, True), done.stderr
    assert (
        rlip("run", recipe, "--direct", "--until", "ingest", "--set", "run.checks.max_overall_reject_share=1").exit_code
        == 0
    )


def test_good_boxes_are_reported_without_a_warning(tmp_path):
    recipe = write_small_set(tmp_path / "set")
    done = rlip("run", recipe, "--direct", "--json", "--until", "ingest")
    assert '"warning"' not in done.stdout
    states = {each["what"]: each["state"] for each in json.loads(rlip("doctor", recipe, "--json").stdout)}
    assert states["annotations of set"] == "ok"
