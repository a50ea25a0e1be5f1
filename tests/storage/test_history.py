"""A run keeps the record of every execution: `name@2` is what the second one left, whatever came after."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
from toy_store import put_chain, record

from pipeline.cli.show import show
from pipeline.cli.store import Copied, pull_run, push_run, remove_run
from storage.errors import FatalError
from storage.garbage import find_garbage
from storage.json_files import sealed_json
from storage.local_store import LocalStore
from storage.object_store_artifacts import ObjectStoreArtifacts
from storage.runs import Run, find_run, parse_run


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A store with a run that was executed twice, the second time with other captions."""
    store = LocalStore(tmp_path / "store")
    for top_p in (0.9, 0.5):
        record(store, "toy", put_chain(store, top_p=top_p)).append(
            "completed", recipe={"top_p": top_p}, outcome={"of": top_p}
        )
    return store


def test_a_record_stays_as_it_was_written(store):
    first, second, newest = (find_run(store, name) for name in ("toy@1", "toy@2", "toy"))
    assert first.keys("caption") != second.keys("caption") == newest.keys("caption")
    assert first.keys("ingest") == newest.keys("ingest")
    assert (first.read_document("recipe"), first.name) == ({"top_p": 0.9}, "toy@1")
    assert first.artifacts("caption")["toys/0000"].manifest.terms["settings"]["top_p"] == 0.9
    assert set(first.steps()) == {"ingest", "caption", "parse"}
    assert [each.name for each in first.records()] == ["toy@1"]
    assert (first.keys("tag"), first.artifacts("tag"), first.stage("tag")) == ({}, {}, "")


def test_a_record_tells_its_time_in_utc_and_what_json_lacks_as_text(store, tmp_path):
    before = datetime.now(UTC).replace(microsecond=0)
    Run(store, "toy").append("failed", folder=tmp_path)
    facts = find_run(store, "toy@3").facts
    assert (facts["status"], facts["folder"]) == ("failed", str(tmp_path))
    assert before <= datetime.fromisoformat(facts["time"]) <= datetime.now(UTC)


def test_records_stay_in_order_when_the_clock_is_set_back(store, monkeypatch):
    before = [find_run(store, f"toy@{number}").facts for number in (1, 2)]
    monkeypatch.setattr(
        "storage.runs.datetime", Mock(wraps=datetime, now=lambda zone: datetime(2020, 1, 1, tzinfo=zone))
    )
    for status in ("failed", "completed"):
        Run(store, "toy").append(status)
    assert [find_run(store, f"toy@{number}").facts for number in (1, 2)] == before
    found = [find_run(store, f"toy@{number}").facts for number in (3, 4)]
    assert [(facts["status"], facts["time"][:4]) for facts in found] == [("failed", "2020"), ("completed", "2020")]


def test_history_is_not_rewritten(store):
    first = find_run(store, "toy@1")
    for change in (
        lambda: first.record("tag", "tag", {}), lambda: first.note("recipe", {}), lambda: first.append("complete"),
        first.adopt, lambda: remove_run("toy@1", store=store.root, as_json=False),
    ):  # fmt: skip
        with pytest.raises(FatalError, match="toy@1 is a record"):
            change()


def test_an_unknown_run_or_record_is_answered_with_those_that_exist(store):
    for number in ("0", "3", "x", "-1", "9" * 5000):
        with pytest.raises(FatalError, match="toy@1 to toy@2"):
            find_run(store, f"toy@{number}")
    record(store, "other", {"parse": []})
    with pytest.raises(FatalError, match=r"no run 'none' in .*; runs there: other, toy$"):
        find_run(store, "none@1")
    with pytest.raises(FatalError, match=r"run 'other' has no record '1'; records: none yet \("):
        find_run(store, "other@1")


def test_a_document_that_is_damaged_or_has_no_end_is_none(store):
    run = Run(store, "toy")
    run.note("recipe", {"name": "toy"})
    assert run.read_document("recipe") == {"name": "toy"} and run.read_document("none") == {}
    for size in (5, 2**40):
        os.truncate(run.folder / "recipe.json", size)
        assert run.read_document("recipe") == {}


def test_a_run_of_an_earlier_version_becomes_the_first_record(tmp_path):
    store = LocalStore(tmp_path / "store")
    run = record(store, "toy", put_chain(store))
    run.note("recipe", {"name": "toy"})
    run.note("outcome", [{"step": "caption"}])
    for number, path in enumerate(sorted((run.folder / "steps").iterdir())):
        os.utime(path, (1_600_000_000 + number, 1_600_000_000 + number))
    run.adopt()
    run.adopt()
    [first] = run.records()
    assert first.facts == {
        "status": "earlier", "time": "2020-09-13T12:26:42+00:00", "recipe": {"name": "toy"},
        "outcome": [{"step": "caption"}],
    }  # fmt: skip
    assert {step: first.keys(step) for step in first.steps()} == {step: run.keys(step) for step in run.steps()}


def test_a_run_without_an_outcome_or_without_steps_is_adopted_as_far_as_it_goes(tmp_path):
    store = LocalStore(tmp_path / "store")
    empty = Run(store, "empty")
    empty.adopt()
    assert empty.records() == [] and not empty.exists
    run = record(store, "toy", put_chain(store))
    run.adopt()
    [first] = run.records()
    assert (first.facts["recipe"], first.facts["outcome"]) == ({}, [])


def test_garbage_spares_what_records_need_unless_only_the_newest_state_counts(store):
    older = set(find_run(store, "toy@1").keys("caption").values())
    before = time.time() + 60
    assert list(find_garbage(store, before)) == []
    names = " ".join(garbage.name for garbage in find_garbage(store, before, history=False))
    assert all(key in names for key in older)


def test_a_pull_brings_the_history_and_on_request_the_artifacts_of_a_record(store, tmp_path):
    remote = ObjectStoreArtifacts(str(tmp_path / "remote"))
    push_run(find_run(store, "toy@1"), remote)
    assert [path.name for path in (tmp_path / "remote/runs/toy").iterdir()] == ["records"], (
        "its newest artifacts are not there"
    )
    push_run(find_run(store, "toy"), remote)
    here = LocalStore(tmp_path / "here")
    pull_run(Run(here, "toy"), remote)
    assert find_run(here, "toy@1").keys("caption") == find_run(store, "toy@1").keys("caption")
    with pytest.warns(UserWarning, match="run toy@1: the store lacks 1 of 1 artifacts of caption"):
        assert find_run(here, "toy@1").artifacts("caption") == {}
    pull_run(Run(here, "toy"), remote, number="1")
    assert len(find_run(here, "toy@1").artifacts("caption")) == 1
    assert find_run(here, "toy").keys("caption") == find_run(store, "toy").keys("caption")
    with pytest.raises(FatalError, match="2 records"):
        pull_run(Run(here, "toy"), remote, number="3")


def test_a_push_takes_earlier_states_along_or_says_which_stay_behind(store, tmp_path):
    run, all_, some = find_run(store, "toy"), *(ObjectStoreArtifacts(str(tmp_path / name)) for name in ("all", "some"))
    assert push_run(find_run(store, "toy@1"), all_).behind == ("toy@2",)
    assert push_run(run, all_).behind == () and push_run(find_run(store, "toy@1"), all_) == Copied(3, 0)
    assert push_run(run, some, last=True).behind == ("toy@1",)
    here = LocalStore(tmp_path / "here")
    with pytest.raises(
        FatalError, match=r"records of toy@1, but lacks 1 of its 3 artifacts; push .*`rlip store push toy@1 "
    ):
        pull_run(Run(here, "toy"), some, number="1")
    assert not Run(here, "toy").exists
    (lost,) = find_run(store, "toy@1").artifacts("caption").values()
    store.discard("caption", lost.key)
    assert push_run(run, some).behind == ("toy@1",), "what the store has lost can't be copied"
    assert pull_run(Run(here, "toy"), all_, number="1").copied == 3


def test_a_copy_goes_forward_only_and_never_mixes_two_runs(store, tmp_path):
    run, remote = find_run(store, "toy"), ObjectStoreArtifacts(str(tmp_path / "remote"))
    push_run(run, remote)
    here = Run(LocalStore(tmp_path / "here"), "toy")
    pull_run(here, remote)
    here.append("completed")
    with pytest.raises(FatalError, match=r"has a later state of run 'toy' .*push it: rlip store push toy"):
        pull_run(here, remote)
    assert pull_run(here, remote, number="1").copied == 1
    push_run(here, remote)
    with pytest.raises(FatalError, match=r"has a later state of run 'toy' .*pull it first: rlip store pull toy"):
        push_run(run, remote)
    push_run(find_run(store, "toy@1"), remote)
    run.append("completed")
    for refused in (run, find_run(store, "toy@1")):
        with pytest.raises(FatalError, match=r"hold different runs named 'toy', or the run was continued in both"):
            push_run(refused, remote)
    with pytest.raises(FatalError, match=r"hold different runs named 'toy'"):
        pull_run(run, remote, number="3")
    assert len(run.records()) == len(here.records()) == 3


def test_a_state_pulled_by_its_number_is_not_taken_for_a_later_one(store, tmp_path):
    remote = ObjectStoreArtifacts(str(tmp_path / "remote"))
    push_run(find_run(store, "toy"), remote)
    here = Run(LocalStore(tmp_path / "here"), "toy")
    pull_run(here, remote, number="1")
    assert [record.facts["recipe"] for record in here.records()] == [{"top_p": 0.9}]
    with pytest.raises(FatalError, match=r"has a later state of run 'toy' .*pull it first"):
        push_run(here, remote)
    pull_run(here, remote, number="2")
    assert (
        here.keys("caption") == find_run(here.store, "toy@2").keys("caption") == find_run(store, "toy").keys("caption")
    )


def test_a_record_pulled_alone_is_the_run_with_the_recipe_that_made_it(store, tmp_path):
    remote = ObjectStoreArtifacts(str(tmp_path / "remote"))
    push_run(find_run(store, "toy@1"), remote)
    there, here = LocalStore(tmp_path / "remote"), LocalStore(tmp_path / "here")
    assert list(find_garbage(there, time.time() + 60)) == []
    with pytest.raises(FatalError, match=r"pull one, e\.g\. toy@1"):
        pull_run(Run(here, "toy"), remote)
    assert not Run(here, "toy").exists
    pull_run(Run(here, "toy"), remote, number="1")
    pulled, first = find_run(here, "toy"), find_run(store, "toy@1")
    assert pulled.keys("caption") == first.keys("caption")
    assert pulled.read_document("recipe") == {"top_p": 0.9}
    assert pulled.read_document("outcome") == {"of": 0.9}


def test_documents_at_a_url_are_read_or_named_and_no_path_leads_out_of_the_store(store):
    for path in ("recipe.json", "steps/parse.json", "records/1.json"):
        with pytest.raises(FatalError, match=rf"^url: {path}: damaged \(.*\); push the run again$"):
            parse_run({path: b"{"}, "url")
    entry = {"step": "parse", "stage": "parse", "partitions": {"toys/0000": "0" * 64}}
    found = parse_run({"steps/parse.json": sealed_json(entry), "recipe.json": b"{}"}, "url").steps
    assert {step: keys.partitions for step, keys in found.items()} == {"parse": {"toys/0000": "0" * 64}}
    for path in ("records/../../../../x.json", "../../x.json"):
        found = parse_run({path: b"{}", "recipe.json": b"{}"}, "url")
        assert found.history == {} and list(found.documents) == ["recipe"]
    with pytest.raises(FatalError, match="not the name of a step"):
        Run(store, "toy").record("../../../../x", "caption", {})


def test_records_list_time_and_status(store, printed):
    show(history=True, store=store.root, as_json=True)
    listed = printed()["records"]
    assert [(each["run"], each["status"]) for each in listed] == [("toy@1", "completed"), ("toy@2", "completed")]
    assert listed[0]["time"] <= listed[1]["time"]
