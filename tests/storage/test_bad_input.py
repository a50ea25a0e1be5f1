"""Bad input to a store: each gives one message with what is wrong and the remedy. Nothing outside is touched."""

import pytest
from small_set import small_recipe, write_small_set
from toy_store import put_chain, record

from pipeline.cli.why import reasons_of
from pipeline.run.context import RunContext
from pipeline.run.doctor import require
from storage.errors import FatalError
from storage.json_files import sealed_json
from storage.local_store import LocalStore
from storage.runs import find_run


def test_a_damaged_record_of_a_run_leads_nowhere_else(tmp_path):
    store = LocalStore(tmp_path)
    run = record(store, "demo", put_chain(store))
    for stage, key in (("parse", "../../../../etc"), ("../runs", "a" * 64)):
        entry = {"step": "parse", "stage": stage, "partitions": {"toys/0000": key}}
        (run.folder / "steps" / "parse.json").write_bytes(sealed_json(entry))
        with pytest.raises(FatalError, match="not a stage and a key"):
            run.artifacts("parse")


def test_steps_partitions_and_runs_that_are_not_there_are_reported_with_what_is(tmp_path):
    store = LocalStore(tmp_path)
    run = record(store, "demo", put_chain(store))
    with pytest.raises(FatalError, match=r"no artifacts of step 'tga'; its steps: caption, ingest, parse"):
        list(reasons_of(run, "tga"))
    with pytest.raises(FatalError, match=r"no partition 'toys/0009'; it has toys/0000"):
        list(reasons_of(run, "parse", "toys/0009"))
    with pytest.raises(FatalError, match=r"no run 'other' in \S*; runs there: demo"):
        find_run(store, "other")
    with pytest.raises(FatalError, match=r"no run 'dmeo' in \S* \(did you mean 'demo'\?\); runs there: demo"):
        find_run(store, "dmeo")


@pytest.mark.parametrize("store", ["nosuch://bucket/x", "file/x", "s3://"])
def test_an_invalid_address_is_reported_before_any_work(tmp_path, store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLIP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").touch()
    write_small_set(tmp_path / "set", 1)
    with pytest.raises(FatalError, match=r"can't run yet:(.|\n)*store: "):
        require(RunContext(small_recipe(tmp_path / "set", f"store={store}")))
