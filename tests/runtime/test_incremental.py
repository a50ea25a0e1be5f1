"""Rows of unchanged images are reused, with the bytes of a full computation; what can't be reused is told."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from golden.stage_cases import TABLES, WRITER, recorded, stages
from PIL import Image
from small_set import small_recipe, write_small_set
from toy_chain import Counting
from toy_store import commit

from pipeline.captioning.settings import CaptionSettings
from pipeline.report.steps import RunOutcome
from pipeline.run.context import RunContext
from pipeline.run.planner import Planner
from pipeline.run.progress import Display
from pipeline.run.runner import conclude, run, stage_call
from pipeline.runtime.execute import WorkItem, execute, interrupted
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from pipeline.stages.caption import CaptionStage
from storage.artifact import Artifact
from storage.digests import digest_bytes
from storage.errors import RetryableError
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.store import Store
from storage.tables import table_bytes

Rows = list[dict[str, Any]]


class Watch:
    """Wraps a stage and records which images it gets."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.seen: list[int] = []
        self._run = stage.run
        stage.run = self.run

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        self.seen += inputs.table(self.stage.reads[0])["image_id"].to_pylist()
        return self._run(inputs, work, report)


def _commit(store: Store, table: str, rows: Rows) -> Artifact:
    data = table_bytes(pa.Table.from_pylist(rows, schema=TABLES[table]))
    name, stage = f"{table}.parquet", WRITER[table]
    terms = KeyTerms(stage, 1, {"rows": digest_bytes(data)}, {})
    return commit(store, terms, name, data)


def _execute(stage: Stage, store: Store, rows: dict[str, Rows], previous: str = "", **settings: Any) -> Artifact:
    read = {table: _commit(store, table, rows[table]) for table in stage.reads}
    contents: dict[str, Sequence[str]] = {table: [artifact.content] for table, artifact in read.items()}
    terms = KeyTerms(stage.name, stage.version, settings, contents)
    folders = {table: (artifact.folder,) for table, artifact in read.items()}
    item = WorkItem(stage.name, "golden/0000", terms, folders, previous=previous)
    found = store.find(stage.name, execute(stage, item, store, lambda done, total, note="": None).key)
    return found


def _rows(stage: Stage) -> dict[str, Rows]:
    return {table: recorded(WRITER[table])["rows"] for table in stage.reads}


def _changed_picture(rows: dict[str, Rows]) -> int:
    """Changes the file of one image. Returns the image's id."""
    row = next(row for row in rows["images"] if row["boxes"])
    row["digest"] = "0" * 64
    return int(row["image_id"])


def _changed_words(rows: dict[str, Rows]) -> int:
    """Changes a caption of one image. Returns the image's id."""
    row = next(row for row in rows["captions"] if row["captions"])
    row["captions"][0]["text"] = "a man riding a brown horse on the beach"
    return int(row["image_id"])


CHANGE: dict[str, Callable[[dict[str, Rows]], int]] = {
    "caption": _changed_picture, "parse": _changed_words,
}  # fmt: skip


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Stage:
    stage = stages()[request.param]
    stage.open(Inputs({}))
    return stage


@pytest.mark.parametrize("opened", CHANGE, indirect=True)
def test_only_changed_images_are_worked_and_bytes_are_those_of_a_full_run(opened, tmp_path):
    store, rows = LocalStore(tmp_path / "store"), _rows(opened)
    first = opened.reads[0]
    rows[first] += [{**rows[first][-1], "image_id": 70 + number} for number in range(3)]
    before = _execute(opened, store, rows)
    changed = CHANGE[opened.name](rows)
    gone = rows[first].pop(next(n for n, row in enumerate(rows[first]) if row["image_id"] != changed))
    fresh = {**rows[first][-1], "image_id": 77}
    rows[first].insert(0, fresh)
    watch = Watch(opened)
    after = _execute(opened, store, rows, before.key)
    assert set(watch.seen) == {changed, 77}
    whole = _execute(opened, LocalStore(tmp_path / "other"), rows)
    assert after.key == whole.key and after.key != before.key
    for name in whole.manifest.files:
        assert after.file(name).read_bytes() == whole.file(name).read_bytes()
    assert after.manifest.counts == whole.manifest.counts
    facts, in_full = after.manifest.facts, whole.manifest.facts
    described = opened.describe(
        Inputs({t: [_commit(store, t, rows[t])] for t in opened.reads}), after.table(opened.writes)
    )
    assert facts["rows reused"] >= 3
    assert described and described.items() <= facts.items() and described.items() <= in_full.items()
    assert {f"{name} (new rows)" for name in in_full.keys() - described.keys()} <= facts.keys()
    assert gone["image_id"] not in after.table(opened.writes)["image_id"].to_pylist()


@pytest.mark.parametrize("opened", ["caption"], indirect=True)
def test_a_changed_box_captions_no_image_again_but_a_first_box_does(opened, tmp_path):
    store, rows = LocalStore(tmp_path / "store"), _rows(opened)
    boxed, other, *_ = (row for row in rows["images"] if row["boxes"])
    boxes, other["boxes"] = other["boxes"], []
    before = _execute(opened, store, rows)
    boxed["boxes"][0]["w"] *= 0.75
    other["boxes"] = boxes
    watch = Watch(opened)
    after = _execute(opened, store, rows, before.key)
    assert watch.seen == [other["image_id"]]
    whole = _execute(opened, LocalStore(tmp_path / "other"), rows)
    assert after.key == whole.key and after.content == whole.content


def test_captions_of_crops_around_boxes_depend_on_them():
    row = {"image_id": 1, "boxes": [{"x": 1.0}], "relations": []}
    moved = {**row, "boxes": [{"x": 2.0}]}
    for of in ("image", "box", "pair"):
        stage = CaptionStage(CaptionSettings(of=of))
        assert (stage.decisive("images", row) == stage.decisive("images", moved)) == (of == "image")
        assert ("of" in stage.row_settings()) == (of != "image")


@pytest.mark.parametrize("opened", ["parse"], indirect=True)
def test_nothing_is_reused_from_other_settings_or_if_one_table_is_damaged(opened, tmp_path):
    store, rows = LocalStore(tmp_path / "store"), _rows(opened)
    images = {row["image_id"] for row in rows["captions"]}
    rows["captions"][-1]["captions"][0]["text"] = "12345"
    other, before = _execute(opened, store, rows, model="other"), _execute(opened, store, rows)
    assert set(before.manifest.files) == {"triplets.parquet", "rejected.parquet"}
    _changed_words(rows)
    still_a_table = before.table("triplets").take([0] * len(images))
    before.file("triplets.parquet").write_bytes(table_bytes(still_a_table))
    for previous in (other.key, before.key, "f" * 64):
        watch = Watch(opened)
        after = _execute(opened, store, rows, previous)
        assert set(watch.seen) == images
        store.discard("parse", after.key)


class Lengths(Stage):
    """Reads two tables, and rejects images that have no caption."""

    name = "lengths"
    version = 1
    reads = ("images", "captions")
    writes = "lengths"
    schema = pa.schema([("image_id", pa.int64()), ("width", pa.int64()), ("letters", pa.int64())])
    row_wise = True

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        letters = {
            row["image_id"]: sum(len(each["text"]) for each in row["captions"])
            for row in inputs.table("captions").to_pylist()
        }
        images = inputs.table("images").to_pylist()
        rows = [
            {"image_id": row["image_id"], "width": row["width"], "letters": letters[row["image_id"]]}
            for row in images
            if letters[row["image_id"]]
        ]
        rejected = [Rejected(row["image_id"], "no caption") for row in images if not letters[row["image_id"]]]
        return Output(pa.Table.from_pylist(rows, schema=self.schema), rejected=rejected, rows_in=len(images))


class Unmounted(Lengths):
    """Finds the file of no image that has no caption."""

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        made = super().run(inputs, work, report)
        return replace(made, rejected=[Rejected(each.image_id, "missing file") for each in made.rejected])


def _four_images() -> dict[str, Rows]:
    """Rows of two tables, of which the first image has no caption."""
    rows = {
        table: [{**recorded(WRITER[table])["rows"][0], "image_id": number} for number in range(4)]
        for table in Lengths.reads
    }
    rows["captions"][0]["captions"] = []
    return rows


def test_images_that_an_earlier_version_quarantined_because_it_could_not_read_them_are_read_again(
    tmp_path, monkeypatch
):
    store, stage, rows = LocalStore(tmp_path / "store"), Unmounted(Settings()), _four_images()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.runtime.execute.MISSING", "not checked")
        before = _execute(stage, store, rows)
    rows["images"][1]["width"] = 1
    with pytest.raises(RetryableError, match="missing file"):
        _execute(stage, store, rows, before.key)


def test_of_several_tables_a_change_in_any_counts_and_reused_rows_stay_quarantined(tmp_path):
    store, stage, rows = LocalStore(tmp_path / "store"), Lengths(Settings()), _four_images()
    before = _execute(stage, store, rows)
    rows["images"][1]["width"] = 1
    rows["captions"][2]["captions"] *= 2
    watch = Watch(stage)
    after = _execute(stage, store, rows, before.key)
    assert watch.seen == [1, 2]
    whole = _execute(Lengths(Settings()), LocalStore(tmp_path / "other"), rows)
    assert after.content == whole.content and after.manifest.counts == whole.manifest.counts
    assert [row["image_id"] for row in after.rejected().to_pylist()] == [0]
    assert after.rejected() == whole.rejected()


def test_a_chain_reuses_rows_of_its_last_run(tmp_path):
    write_small_set(tmp_path, 6)

    def captions() -> dict[str, Artifact]:
        planner = Planner(RunContext(small_recipe(tmp_path)))
        for step in planner.context.steps[:2]:
            plan = planner.plan(step)
            stage = stage_call(planner, plan).opened(planner.context.store, plan.due[0])
            made = [execute(stage, item, planner.context.store, lambda done, total, note="": None) for item in plan.due]
            planner.finish(step, [*plan.cached, *made])
        return planner.done["caption"]

    before = captions()
    Image.new("RGB", (64, 48), (1, 2, 3)).save(tmp_path / "images" / "000002.png")
    after = captions()
    changed = [part for part in before if before[part].key != after[part].key]
    assert len(changed) == 1 and len(before) == 2
    facts = after[changed[0]].manifest.facts
    assert facts["images_seen"] == 1 and facts["rows reused"] == after[changed[0]].manifest.counts.rows_in - 1 > 0
    assert before[changed[0]].content == after[changed[0]].content, "so nothing downstream is computed"


def test_datasets_of_one_name_in_one_store_are_partitioned_separately(tmp_path):
    for name, size in (("first", 6), ("second", 3)):
        (tmp_path / name).mkdir()
        write_small_set(tmp_path / name, size)

    def partitioned(name: str, store: Path) -> list[int]:
        planner = Planner(RunContext(small_recipe(tmp_path / name, f"store={store}")))
        return [len(item.image_ids) for item in planner.plan(planner.context.steps[0]).due]

    assert len(partitioned("first", tmp_path / "shared")) == 2
    assert partitioned("second", tmp_path / "shared") == partitioned("second", tmp_path / "own")


def test_a_stage_says_whether_its_rows_depend_on_their_image_alone():
    assert {name for name, stage in stages().items() if stage.row_wise} == set(CHANGE)


def test_results_that_another_execution_replaced_meanwhile_are_not_taken_for_those_of_this_one(tmp_path):
    write_small_set(tmp_path, 2)
    context = RunContext(small_recipe(tmp_path, "run.until=ingest"))
    outcome = run(context, Display())
    keys = context.run.keys("ingest")
    context.run.record("ingest", "ingest", dict.fromkeys(keys, "0" * 64))
    with pytest.raises(RetryableError, match="another execution has replaced ingest in the meantime"):
        conclude(context, outcome)
    context.run.record("ingest", "ingest", keys)
    assert conclude(context, outcome)[1].is_file(), "an equal one does no harm"


def test_results_that_another_machine_replaced_in_a_store_at_a_url_are_noticed(tmp_path, monkeypatch):
    write_small_set(tmp_path, 2)
    url = f"memory://{tmp_path.name}"

    def recorded(machine: str, key: str) -> RunContext:
        monkeypatch.setenv("RLIP_CACHE", str(tmp_path / machine))
        context = RunContext(small_recipe(tmp_path, "run.until=ingest", f"store={url}"))
        context.recorded["ingest"] = {"set/0000": key * 64}
        context.run.record("ingest", "ingest", {"set/0000": key * 64})
        return context

    first = recorded("one", "1")
    recorded("other", "2")
    with pytest.raises(RetryableError, match="another execution has replaced ingest in the meantime"):
        conclude(first, RunOutcome("small"))
    assert not first.run.read_document("recipe")


def test_a_partial_run_keeps_what_is_ingested_but_no_captions_of_a_set_that_is_no_longer_labelled(tmp_path):
    write_small_set(tmp_path, 2)
    planner = Planner(RunContext(small_recipe(tmp_path, "run.until=caption")))
    run, sources = planner.context.run, planner.context.recipe.data.sources
    other = sources[0].model_copy(update={"name": "other"})
    planner.context.recipe = planner.context.recipe.model_copy(
        update={"data": planner.context.recipe.data.model_copy(update={"sources": (*sources, other)})}
    )
    ingest, caption = planner.context.steps
    kept = {}
    for step in (ingest, caption):
        run.record(step.name, step.name, {"other/0000": "1" * 64})
        planner.done[step.name] = {}
        planner.finish(step, [])
        kept[step.name] = run.keys(step.name)
    assert kept == {"ingest": {"other/0000": "1" * 64}, "caption": {}}


class Training(Counting):
    """Is interrupted after each checkpoint."""

    def counted(self, number: int) -> None:
        raise KeyboardInterrupt


def test_a_changed_setting_that_costs_checkpoints_is_named(tmp_path):
    store, notes = LocalStore(tmp_path), []

    def attempt(step: str, batch: int, run: str = "one") -> WorkItem:
        terms = KeyTerms("counting", 1, {"batch": batch, "steps": 9}, {"shards": [step]})
        item = WorkItem(step, "all", terms, run=run)
        with pytest.raises(KeyboardInterrupt):
            execute(Training(Settings()), item, store, lambda done, total, note="": notes.append(note))
        return item

    item = attempt("pretrain:none", 8)
    assert notes == [] and interrupted(Training, item, store) == "continues from its last checkpoint"
    attempt("pretrain:none", 8)
    attempt("pretrain:pseudo", 16)
    attempt("pretrain:none", 32, run="other")
    assert notes == [], "the same training, one of another step, and one of another run"
    attempt("pretrain:none", 16)
    differs = "starts from scratch, because it differs from the interrupted one: batch:"
    assert notes == [f"{differs} 8 → 16"]
    for terms in tmp_path.glob("pending/scratch-*/terms.json"):
        terms.unlink()  # which another machine's checkpoints come without
    attempt("pretrain:none", 8)
    attempt("pretrain:none", 64)
    assert notes[1:] == [f"{differs} 8 → 64"]
