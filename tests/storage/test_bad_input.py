"""Bad input to a store: each gives one message with what is wrong and the remedy. Nothing outside is touched."""

from typing import Any

import pytest
from toy_store import put_chain, record

from pipeline.cli.why import reasons_of
from pipeline.data.partitioning import load_partition_map
from pipeline.run.context import RunContext
from pipeline.run.doctor import require
from pipeline.run.recipe_files import load_recipe
from storage.errors import FatalError
from storage.json_files import LIMITS, read_json
from storage.local_store import LocalStore
from storage.manifest import parse_manifest
from storage.runs import find_run

RECIPE = """
name = "r"
store = "{store}"
[data]
label = ["coco"]
[[data.sources]]
name = "coco"
format = "coco"
images = "images"
annotations = "instances.json"
[pretrain]
variants = []
"""


LEADS_OUT = '{"step": "parse", "stage": "%s", "partitions": {"toys/0000": "%s"}}'


@pytest.mark.parametrize("entry, said", [
    ("{torn", r"parse\.json: damaged \(.*\); remove it and run the recipe again"),
    ('{"step": "parse"}', r"parse\.json: damaged \(.*\); remove it and run the recipe again"),
    (LEADS_OUT % ("parse", "../../../../etc"), "not a stage and a key"),
    (LEADS_OUT % ("../runs", "a" * 64), "not a stage and a key"),
])  # fmt: skip
def test_a_damaged_record_of_a_run_is_named_and_leads_nowhere_else(tmp_path, entry, said):
    store = LocalStore(tmp_path)
    run = record(store, "demo", put_chain(store))
    (run.folder / "steps" / "parse.json").write_text(entry)
    with pytest.raises(FatalError, match=said):
        run.artifacts("parse")


@pytest.mark.parametrize("data, reason", [
    (b"", "EOF"), (b"{torn", "key must be a string"), (b"[" * 100_000, "recursion limit"),
    (b"9" * 5000, "number out of range"), (b'{"partitions": [[1.5]]}', "partitions: 0: 0"),
    (b'{"partitions": "\\u001b[2J\\ud800"}', "hex escape"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_json_without_measure_is_one_message(data, reason, tmp_path):
    path = tmp_path / "map.json"
    path.write_bytes(data)
    with pytest.raises(FatalError, match=rf"map\.json: damaged \(.*{reason}.*\); remove it and run again") as told:
        load_partition_map(path)
    assert len(str(told.value)) < 600
    with pytest.raises(FatalError, match=r"damaged manifest \("):
        parse_manifest(data, "here")


def test_only_the_partition_map_of_a_large_dataset_may_be_long(tmp_path):
    path = tmp_path / "long.json"
    path.write_bytes(b'{"partitions": [[1]]}' + b" " * LIMITS.size)
    assert load_partition_map(path).partitions == [[1]] and load_partition_map(tmp_path / "none").partitions == []
    with pytest.raises(FatalError, match=r"long\.json: damaged \(more than 67,108,864 bytes\); remove it"):
        read_json(path, object, "remove it")


def test_steps_partitions_and_runs_that_are_not_there_are_told_with_what_is(tmp_path):
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
def test_an_address_that_is_none_is_told_before_any_work(tmp_path, store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLIP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").touch()
    (tmp_path / "r.toml").write_text(RECIPE.format(store=store))
    recipe: Any = load_recipe(tmp_path / "r.toml")
    with pytest.raises(FatalError, match=r"can't run yet:(.|\n)*store: "):
        require(RunContext(recipe))
