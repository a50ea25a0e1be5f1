"""The page of a run that was imported: its images were never read, so they have no digest and perhaps no size."""

from __future__ import annotations

import json
from pathlib import Path

from fastapi.testclient import TestClient

from pipeline.cli.report import recorded_view
from pipeline.interop.import_file import import_file
from pipeline.review.access import Access
from pipeline.review.app import page_routes
from pipeline.review.entrance import protected
from pipeline.review.review_state import ReviewState
from storage.local_store import LocalStore
from storage.runs import Run

OBJECTS = [
    {"object_id": 1, "x": 400.0, "y": 150.0, "w": 50.5, "h": 130.0, "names": "person"},
    {"object_id": 2, "x": 1.0, "y": 2.0, "w": 30.0, "h": 40.0, "names": "horse"},
]
RIDING = {"relationship_id": 1, "predicate": "riding", "subject_id": 1, "object_id": 2, "confidence": 0.31}


def test_imported_labels_are_shown_and_no_verdict_is_taken(tmp_path: Path) -> None:
    entry = {"image_id": 139, "dataset": "coco2017", "data_split": "val2017", "objects": OBJECTS}
    (tmp_path / "labels.json").write_text(json.dumps([{**entry, "relationships": [RIDING]}]))
    run = Run(LocalStore(tmp_path / "store"), "theirs")
    import_file(tmp_path / "labels.json", run)
    state = ReviewState(recorded_view(run), tmp_path / "index.duckdb", tmp_path / "verdicts")
    access = Access(names=["127.0.0.1"], secret="5" * 64, reviewer="ada")
    with TestClient(protected(page_routes(state), access), base_url=f"http://127.0.0.1{access.path}") as client:
        client.get(access.url)
        assert "1 label<" in client.get("/labels").text
        assert "1 label<" in client.get("/labels?order=audit").text
        image = client.get("/image?number=0").text
        assert "451×280" in image, "the extent of the boxes"
        answer = client.post("/verdicts", json={"decisions": [{"label": 0, "kind": "accept"}]})
        assert answer.status_code == 422 and "which imported images lack" in answer.json()["error"]
        assert not list((tmp_path / "verdicts").glob("*"))
    state.close()
