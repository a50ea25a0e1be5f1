"""Ingest decodes apart: an image that crashes the decoder costs its row, and no decoder outlives the engine."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from misled_decoders import HOSTILE_WIDTH, crashes_at_one

from pipeline.data.datasets.source import DataSource
from pipeline.data.images import decoder_process
from pipeline.data.images.refs import FileState
from pipeline.runtime.engines.engine import StageCall
from pipeline.runtime.engines.local import LocalEngine
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.stage import Inputs, Output, Partition
from pipeline.stages import ingest
from pipeline.stages.ingest import IngestSettings, IngestStage
from storage.errors import RetryableError
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from tests.data.toy_sets import save_json, save_picture

COUNT = 40


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[IngestSettings]:
    """A set of images that differ in width."""
    names = [f"{number}.jpg" for number in range(COUNT)]
    for number, name in enumerate(names):
        save_picture(tmp_path / "images" / name, width=100 + number)
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    annotations = save_json(tmp_path / "set.json", {"images": images, "annotations": [], "categories": []})
    source = DataSource(name="toy", format="coco", images=tmp_path / "images", annotations=annotations)
    ingest.decoder_of.cache_clear()
    yield IngestSettings(sources=(source,), indexes=tmp_path / "indexes")
    ingest.decoder_of.cache_clear()


def output(settings: IngestSettings) -> Output:
    return IngestStage(settings).run(Inputs({}, "toy/0000", tuple(range(COUNT))), Path(), lambda *_: None)


def test_a_crash_of_the_decoder_and_a_missing_file_cost_their_rows_alone(settings, tmp_path, monkeypatch):
    rows = output(settings).table.to_pylist()
    assert [row["width"] for row in rows] == list(range(100, 100 + COUNT))
    ingest.decoder_of.cache_clear()
    monkeypatch.setattr(ingest, "probe_bytes", crashes_at_one)
    (tmp_path / "images" / "3.jpg").unlink()
    again = output(settings)
    assert again.table.to_pylist() == [row for row in rows if row["image_id"] != 3 and row["width"] != HOSTILE_WIDTH]
    missing, crash = again.rejected
    assert (missing.image_id, missing.reason, missing.value) == (3, "missing file", "3.jpg")
    assert (crash.image_id, crash.reason, crash.value) == (19, "corrupt", "the decoder ended by signal 11")


def decoders(mark: str) -> list[psutil.Process]:
    """The decoder processes whose environment has the mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if decoder_process.MODULE in process.cmdline() and process.environ().get("MARK") == mark:
                found.append(process)
    return found


@pytest.mark.parametrize("interrupted", [False, True])
def test_each_worker_has_a_decoder_which_ends_with_it(settings, tmp_path, monkeypatch, interrupted):
    monkeypatch.setenv("MARK", str(tmp_path))
    call = StageCall(IngestStage, settings, {}, {}, tmp_path / "store")
    chosen = IngestStage(settings).row_settings()
    terms = [KeyTerms("ingest", IngestStage.version, chosen, {"ids": [str(number)]}) for number in range(4)]
    items = [WorkItem("ingest", f"toy/{number:04d}", terms[number], {}, (number,)) for number in range(4)]
    with suppress(KeyboardInterrupt), LocalEngine(call, 1) as engine:
        assert [engine.submit(item).result().rows_out for item in items] == [1, 1, 1, 1]
        assert len(decoders(str(tmp_path))) == 1
        if interrupted:
            raise KeyboardInterrupt
    until = time.monotonic() + 30
    while decoders(str(tmp_path)) and time.monotonic() < until:
        time.sleep(0.1)
    assert decoders(str(tmp_path)) == []


def test_files_that_change_or_can_not_be_read_after_planning_are_not_ingested_under_the_planned_key(
    settings, tmp_path, monkeypatch
):
    """Their rows would be found by that key for ever, also once the folder is mounted again."""
    monkeypatch.setattr("pipeline.data.partitioning._SETTLED_NS", -(10**12))
    store, images, away = LocalStore(tmp_path / "store"), tmp_path / "images", tmp_path / "away"
    limits = count()

    def planned() -> Partition:
        (part,) = IngestStage(settings).partitions("toy", store)
        return part

    def ingested(meanwhile: Callable[[], object] = lambda: None) -> int:
        part = planned()
        meanwhile()
        terms = KeyTerms("ingest", 4, {"limits": next(limits)}, {"records": (part.digest,)})
        item = WorkItem("ingest", part.name, terms, image_ids=part.image_ids)
        return execute(IngestStage(settings), item, store, lambda *_: None).rows_out

    (images / "5.jpg").write_bytes(b"")
    (images / "6.jpg").unlink()
    assert ingested() == COUNT - 2, "what was missing from the start is quarantined"
    with pytest.raises(RetryableError, match=r"toy/0000.*not what this run was planned with"):
        ingested(lambda: (images.rename(away), images.mkdir()))
    images.rmdir()
    away.rename(images)
    with pytest.raises(RetryableError):
        ingested(lambda: save_picture(images / "7.jpg", width=99))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.data.images.opening.read_first", Mock(side_effect=OSError(errno.EIO, "failed")))
        planned()
    assert ingested() == COUNT - 2, "what could not be read when the run was planned is read again"
    with monkeypatch.context() as patch, pytest.raises(RetryableError):
        patch.setattr("pipeline.data.partitioning.state_of", Mock(return_value=FileState(1, 0, "", 0)))
        planned()
        save_picture(images / "8.jpg", width=98)
        ingested()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.data.partitioning.state_of", Mock(return_value=FileState(1, 0, "", 0)))
        assert ingested() == COUNT - 2, "a change that no plan could see is found once it was refused"


def test_a_node_whose_copies_have_other_times_ingests_them_by_size_and_time(settings, tmp_path):
    stage, store = IngestStage(settings.model_copy(update={"fingerprint": "stat"})), LocalStore(tmp_path / "store")
    (part,) = stage.partitions("toy", store)
    for image in (tmp_path / "images").iterdir():
        os.utime(image, (1, 1))
    terms = KeyTerms("ingest", 4, {}, {"records": (part.digest,)})
    item = WorkItem("ingest", part.name, terms, image_ids=part.image_ids)
    assert execute(stage, item, store, lambda *_: None).rows_out == COUNT
