"""`rlip label` on a folder of pictures that no one annotated, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from scenes.categories import WORLD_CATEGORIES
from scenes.draw import render
from scenes.world import make_scene

WEIGHTS = (
    "--tagger", "scenes/weights/tagger", "--detector", "scenes/weights/detector", "--captioner", "scenes/weights/captioner",
)  # fmt: skip


def draw(folder: Path, first: int, count: int) -> None:
    """Draws pictures, half of them in a subfolder."""
    for index in range(first, first + count):
        path = folder / ("more" if index % 2 else "") / f"picture {index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        render(make_scene(31, index)).save(path)


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("rlip")), "label", *words], cwd=folder, capture_output=True, text=True,
        timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"},
    )  # fmt: skip


def label(folder: Path, *words: str) -> list[dict[str, Any]]:
    done = call(folder, *words, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def workplace(root: Path, tmp_path: Path) -> Path:
    (tmp_path / "scenes").symlink_to(root / "scenes")
    draw(tmp_path / "my pictures", 0, 10)
    return tmp_path


def test_ten_pictures_get_labels_and_two_more_cost_two(workplace: Path) -> None:
    asked = ("my pictures", *WEIGHTS, "--threshold", "0.4")
    events = label(workplace, *asked)
    steps = {event["step"]: event["due"] for event in events if event.get("event") == "step"}
    assert steps == {"ingest": 1, "detect": 1, "caption": 1, "parse": 1, "import_tagger": 1, "tag": 1}
    made = events[-1]
    assert made["images"] == 10 and min(made["boxes"], made["captions"], made["labels"]) >= 10
    pictures = json.loads((workplace / made["json"]).read_bytes())
    assert {each["file_name"] for each in pictures} == {
        str(path.relative_to(workplace / "my pictures")) for path in (workplace / "my pictures").rglob("*.png")
    }
    boxes = [box for each in pictures for box in each["boxes"]]
    assert {box["category"] for box in boxes} <= set(WORLD_CATEGORIES)
    assert all(0.4 <= box["score"] <= 1 for box in boxes)
    for each in pictures:
        assert all(
            x >= 0 and y >= 0 and x + w <= each["width"] + 0.01 for x, y, w, _ in (b["box"] for b in each["boxes"])
        )
        assert all(max(r["subject"], r["object"]) < len(each["boxes"]) and r["predicate"] for r in each["relations"])
    assert pq.read_table(workplace / made["parquet"]).num_rows == made["labels"]

    again = label(workplace, *asked)
    assert not any(event["due"] for event in again if event.get("event") == "step")
    draw(workplace / "my pictures", 10, 2)
    more = label(workplace, *asked)
    steps = {event["step"]: (event["cached"], event["due"]) for event in more if event.get("event") == "step"}
    assert steps["import_tagger"] == (1, 0), "new pictures train nothing"
    assert steps["detect"] == steps["tag"] == (1, 1)
    assert more[-1]["images"] == 12
    rows = {each["file_name"]: each for each in json.loads((workplace / more[-1]["json"]).read_bytes())}
    assert all(rows[each["file_name"]] == each for each in pictures)

    stricter = label(workplace, *asked[:-1], "0.9")
    steps = {event["step"]: event["due"] for event in stricter if event.get("event") == "step"}
    assert steps["ingest"] == 0 and steps["detect"] == 2, "another threshold detects again"
    people = label(workplace, *asked, "--categories", "person,horse")[-1]
    found = json.loads((workplace / people["json"]).read_bytes())
    assert {box["category"] for each in found for box in each["boxes"]} == {"person", "horse"}


def test_what_cannot_work_is_one_message_before_any_work(workplace: Path) -> None:
    def told(words: str, *asked: str) -> None:
        done = call(workplace, *asked)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr

    told("no folder", "nowhere", *WEIGHTS)
    told("not in the local hub cache", "my pictures", *WEIGHTS[:2], "--detector", "nobody/nothing", *WEIGHTS[4:])
    told("neither a file nor a run", "my pictures", "--tagger", "none", *WEIGHTS[2:])
    assert not (workplace / "out/store/artifacts").exists() or not any((workplace / "out/store/artifacts").iterdir())
