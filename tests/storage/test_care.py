"""Maintenance of a store: damage is found, named and removed; garbage is what no run needs; nothing else is touched."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_disk import flip
from toy_store import Inputs, put, put_chain, record, rewrite

from pipeline.cli.store import collect_garbage, pull_run, push_run, remove_run, show_usage, verify
from storage.artifact import Artifact
from storage.damage import find_damage, find_record_damage
from storage.errors import FatalError
from storage.garbage import Share, find_garbage, usage_of
from storage.json_files import sealed_json
from storage.local_store import LocalStore, size_of
from storage.manifest import FutureManifest
from storage.object_store_artifacts import ObjectStoreArtifacts
from storage.runs import Run, runs_of
from storage.store import Store
from tests.hostile.stores import cut, field, flipped


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


COUNTS = {"rows_in": 9, "rows_out": 9}
DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    r"(\d+) bytes instead of \d+": ("captions.parquet", cut),
    "bytes do not match the digest": ("captions.parquet", flipped(50)),
    "gone": ("captions.parquet", Path.unlink),
    "damaged manifest": ("manifest.json", cut),
    "manifest of a different key": (
        "manifest.json",
        lambda path: rewrite(Artifact(path.parent), terms={"stage": "caption"}),
    ),
    "damaged manifest$": ("manifest.json", field("counts", COUNTS)),
    "not in the store": ("manifest.json", Path.unlink),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_says_what_needs_it(store, what):
    chain = put_chain(store)
    run = record(store, "demo", chain)
    file, damage_it = DAMAGE[what]
    damage_it(chain["caption"][0].folder / file)
    for runs in (None, [run]):
        (found,) = [damage for damage in find_damage(store, runs) if damage is not None]
        assert (found.stage, found.key) == ("caption", chain["caption"][0].key)
        assert re.fullmatch(rf"(captions\.parquet: )?({what})", found.what)
        assert found.needed_by == ("demo caption toys/0000",)


def test_the_file_of_a_step_is_not_read_again_for_each_partition(store, monkeypatch, tmp_path):
    run, stage, asked = record(store, "demo", *(put_chain(store, f"toys/{n:04}") for n in range(5))), Run.stage, []
    monkeypatch.setattr(Run, "stage", lambda self, step: asked.append(step) or stage(self, step))
    assert len(list(find_damage(store))) == 15
    push_run(run, ObjectStoreArtifacts(f"file://{tmp_path}/elsewhere"))
    assert sorted(asked) == sorted(run.steps() * 2)


def test_of_some_runs_only_what_they_need_is_examined(store):
    shared, own = put_chain(store), put_chain(store, "toys/0001")
    runs = [record(store, "one", shared), record(store, "two", shared, own)]
    for chain in (shared, own):
        flip(chain["caption"][0].file("captions.parquet"), 50)
    needed = [found and found.needed_by for found in find_damage(store, runs[:1])]
    assert sorted(needed, key=str) == [("one caption toys/0000",), None, None]
    every = {found.needed_by for found in find_damage(store) if found}
    assert every == {("one caption toys/0000", "two caption toys/0000"), ("two caption toys/0001",)}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"torn")])
def test_what_is_damaged_is_not_pushed_and_the_message_says_what_mends_it(store, damage, tmp_path):
    chain = put_chain(store)
    run = record(store, "demo", chain)
    damage(chain["caption"][0].file("captions.parquet"))
    remote = ObjectStoreArtifacts(f"file://{tmp_path}/elsewhere")
    with pytest.raises(FatalError, match=r"captions\.parquet: damaged \(.*rlip store verify --repair"):
        push_run(run, remote)
    assert remote.keys("caption") == set()


@pytest.mark.parametrize("path, most, said", [
    ("runs/demo/steps/caption.json", 2**26, r"remove it"),
    ("runs/demo/records/1.json", 2**26, r"remove this record"),
    ("runs/demo/recipe.json", 2**26, r"run the recipe again, which rewrites it$"),
    ("cuts/toys.json", 2**28, r"remove it and run again: images are then partitioned from scratch"),
])  # fmt: skip
def test_a_damaged_record_is_found_with_its_remedy(store, path, most, said):
    record(store, "demo", put_chain(store)).append("completed")
    assert list(find_record_damage(store)) == []
    place = store.root / path
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b" " * 2**26 + b"[1]")
    if most > 2**26:
        assert list(find_record_damage(store)) == [], "it may be long"
    with place.open("wb") as file:
        file.truncate(most + 1)
    (found,) = find_record_damage(store)
    assert (found.path, found.is_cache, found.is_record) == (place, False, True)
    assert re.search(rf"^{place}: damaged \(more than {most:,} bytes\); {said}", found.what)


@pytest.mark.parametrize("name", ["steps", "records"])
def test_a_run_with_the_name_of_a_folder_of_records_is_whole(store, name):
    run = record(store, name, put_chain(store))
    run.note("recipe", {"name": name})
    run.append("completed")
    assert list(find_record_damage(store)) == []


def test_a_step_file_that_names_a_place_elsewhere_is_damaged(store):
    run = record(store, "demo", put_chain(store))
    entry = {"step": "caption", "stage": "../caption", "partitions": {"toys/0000": "0" * 64}}
    (run.folder / "steps/caption.json").write_bytes(sealed_json(entry))
    (found,) = find_record_damage(store)
    assert found.path == run.folder / "steps/caption.json"


def test_repair_removes_what_is_damaged_and_nothing_else(store, printed):
    chain, other = put_chain(store), put_chain(store, "toys/0001")
    record(store, "demo", chain, other)
    flip(chain["caption"][0].file("captions.parquet"), 50)
    with pytest.raises(FatalError, match="--repair"):
        verify(None, repair=False, store=store.root, as_json=True)
    assert printed()["removed"] == 0 and chain["caption"][0].folder.is_dir()
    verify("demo", repair=True, store=store.root, as_json=True)
    report = printed()
    assert (report["examined"], report["removed"]) == (6, 1)
    assert not chain["caption"][0].folder.exists()
    assert len(list(store.artifacts("caption"))) == 1 and len(list(store.artifacts("parse"))) == 2
    assert list((store.root / "pending").glob("[!.]*")) == []


def test_a_manifest_of_the_future_is_no_damage(store):
    chain = put_chain(store)
    for name, value in (("format", 3), ("colour", "red")):
        field(name, value)(chain["caption"][0].folder / "manifest.json")
    with pytest.raises(FutureManifest, match=r"manifest\.json: manifest format 3.*upgrade rlip"):
        verify(None, repair=True, store=store.root, as_json=True)
    assert chain["caption"][0].folder.is_dir()


def test_garbage_is_what_no_run_needs_and_none_found_lately(store, printed):
    kept, old, found_again = put_chain(store, top_p=0.9), put_chain(store, top_p=0.5, rows=[7]), put(store, "tag")
    record(store, "demo", kept)
    for folder in [artifact.folder for stage in ("caption", "parse") for artifact in old[stage]] + [found_again.folder]:
        os.utime(folder / "manifest.json", (0, 0))
    store.touch("tag", [found_again])
    collect_garbage(store=store.root, grace=1, delete=False, as_json=True)
    report = printed()
    assert sorted(garbage["what"] for garbage in report["garbage"]) == ["caption", "parse"]
    assert old["caption"][0].folder.is_dir(), "a dry run deletes nothing"
    collect_garbage(store=store.root, grace=1, delete=True, as_json=True)
    assert printed()["size"] == report["size"]
    assert [artifact.key for artifact in store.artifacts("caption")] == [kept["caption"][0].key]
    assert store.find("tag", found_again.key) is not None
    collect_garbage(store=store.root, grace=1, delete=True, as_json=True)
    assert printed()["garbage"] == []


def test_torn_folders_and_given_up_trainings_are_garbage_unless_someone_works_in_them(store, printed):
    torn = store.folder("parse", "a" * 64)
    torn.mkdir(parents=True)
    stray = torn.with_name(".DS_Store")
    stray.touch()
    with store.scratch("k2") as idle:
        (idle / "checkpoint").write_bytes(b"x" * 10)
    with store.scratch("k1") as busy:
        for path in (torn, stray, idle / "checkpoint", idle, busy):
            os.utime(path, (0, 0))
        collect_garbage(store=store.root, grace=1, delete=True, as_json=True)
        assert sorted(garbage["what"] for garbage in printed()["garbage"]) == ["scratch", "torn parse"]
        assert busy.is_dir() and stray.is_file() and not idle.exists() and not torn.exists()


def test_a_training_that_went_on_since_the_listing_is_no_garbage(store):
    with store.scratch("k1"):
        pass
    later = time.time() + 60
    (garbage,) = find_garbage(store, later)
    with store.scratch("k1") as busy:
        garbage.remove(store, later)
        assert busy.is_dir()
    garbage.remove(store, later)
    assert not busy.exists()


def test_nothing_is_garbage_while_a_run_cannot_be_read(store):
    run = record(store, "demo", put_chain(store))
    (run.folder / "steps" / "parse.json").write_text('{"step": "pa')
    with pytest.raises(FatalError, match=r"parse\.json: damaged \(.*\); remove it"):
        collect_garbage(store=store.root, grace=0, delete=True, as_json=True)


def test_a_removed_run_leaves_its_artifacts_to_gc(store, printed):
    shared, own = put_chain(store, "toys/0000"), put_chain(store, "toys/0001")
    record(store, "one", shared)
    record(store, "two", shared, own)
    show_usage(store.root, as_json=True)
    usage = printed()
    (of_two,) = [share for share in usage["runs"] if share["name"] == "two"]
    assert of_two["artifacts"] == 6 and of_two["size"] == usage["size"]
    remove_run("two", store=store.root, as_json=True)
    assert printed()["freed_by_gc"] == of_two["apart"] > 0
    assert [run.name for run in runs_of(store)] == ["one"]
    collect_garbage(store=store.root, grace=-1, delete=True, as_json=True)
    assert printed()["size"] == of_two["apart"]
    assert all(store.find(stage, shared[stage][0].key) for stage in shared)


def test_usage_tells_what_only_one_run_needs_what_none_does_and_what_is_being_written(store):
    shared, own, other = (put_chain(store, f"toys/{n}", rows=range(10**n)) for n in range(3))
    record(store, "one", shared, other)
    record(store, "two", shared, own).append("completed")
    Run(store, "two").record("caption", "caption", {})
    unneeded = put(store, "caption", "toys/9", {"top_p": 0.5})
    with store.draft() as draft:
        (draft / "table").write_bytes(b"x" * 1000)
        usage = usage_of(store)

    def size(*chains: Inputs) -> int:
        return sum(size_of(artifact.folder) for chain in chains for found in chain.values() for artifact in found)

    captions, *_ = usage.stages
    assert (captions.name, captions.artifacts, captions.apart) == ("caption", 4, size({"caption": [unneeded]}))
    assert usage.runs == (
        Share("one", 6, size(shared, other), size(other)), Share("two", 6, size(shared, own), size(own)),
    )  # fmt: skip
    assert (usage.size, usage.pending) == (size(shared, own, other, {"caption": [unneeded]}), 1000)


def test_files_that_vanish_while_a_store_is_measured_stop_nothing(tmp_path, monkeypatch):
    (tmp_path / "stays").write_bytes(b"four")
    (tmp_path / "going").touch()
    (tmp_path / "gone").symlink_to("nowhere")
    stat = Path.stat

    def vanishing(path: Path, **how: bool) -> os.stat_result:
        found = stat(path, **how)
        if path.name == "going":
            path.unlink()
        return found

    monkeypatch.setattr(Path, "stat", vanishing)
    assert size_of(tmp_path) == 4


def test_verdicts_beside_the_artifacts_outlive_all_care(store, tmp_path):
    run = record(store, "demo", put_chain(store))
    log = store.root / "verdicts" / "ada.jsonl"
    log.parent.mkdir()
    log.write_bytes(b"{}\n")
    os.utime(log, (0, 0))
    os.utime(log.parent, (0, 0))
    before = collect_and_measure(store)
    remote = ObjectStoreArtifacts(f"file://{tmp_path}/remote")
    push_run(run, remote)
    pull_run(run, remote)
    assert [found.name for found in runs_of(store)] == ["demo"]
    assert store.stages() == ["caption", "ingest", "parse"]
    remove_run("demo", store=store.root, as_json=True)
    assert collect_and_measure(store) < before
    store.clean_up(before=1e12)
    with pytest.raises(FatalError, match="damaged"):
        verify(None, repair=True, store=store.root, as_json=True)
    assert log.read_bytes() == b"{}\n", "it holds no verdict, and is named and kept all the same"


def collect_and_measure(store: Store) -> int:
    """Removes all garbage, and returns the bytes that artifacts still take."""
    collect_garbage(store=store.root, grace=-1, delete=True, as_json=True)
    return usage_of(store).size


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_store_that_may_not_be_written_can_still_be_read(store, printed):
    record(store, "demo", put_chain(store))
    folders = [store.root, *(path for path in store.root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        verify("demo", repair=False, store=store.root, as_json=True)
        assert printed()["examined"] == 3
        show_usage(store.root, as_json=True)
        for change in (lambda: remove_run("demo", store.root, True), lambda: verify(None, True, store.root, True)):
            with pytest.raises(FatalError, match="can't be written"):
                change()
    finally:
        for folder in folders:
            folder.chmod(0o755)
