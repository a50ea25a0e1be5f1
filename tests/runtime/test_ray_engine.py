"""The Ray engine on a real two-node cluster: the local engine's digests, whatever dies, and clear words before work."""

import socket
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import psutil
import pytest
from ray_on_loopback import two_nodes
from small_set import small_recipe, train_long, write_small_set
from small_stages import SteadyStage, count_call, count_items
from warm_process import wait_for

from pipeline.run.context import RunContext
from pipeline.run.doctor import needs, require
from pipeline.runtime.engines.engine import WorkerDied
from pipeline.runtime.engines.local import LocalEngine
from pipeline.runtime.engines.ray import (
    RayEngine,
    RayNode,
    _Actor,
    cancel,
    connect,
    live_nodes,
    look_around,
    room_for,
    run_on,
)
from pipeline.runtime.execute import WorkItem
from pipeline.runtime.stage import GIB, Resources
from storage.errors import FatalError, RetryableError
from storage.local_store import LocalStore
from storage.open_store import open_store

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster(s3_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The cluster, whose nodes reach an S3 server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**s3_settings, "RLIP_CACHE": str(tmp_path_factory.mktemp("cache"))}.items():
            patch.setenv(name, value)
        with two_nodes() as made:
            yield made


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of the first items of `SteadyStage`, made by the local engine."""
    folder = tmp_path_factory.mktemp("here")
    with LocalEngine(count_call(folder, SteadyStage), 1) as engine:
        for future in [engine.submit(item) for item in count_items(3, "steady")]:
            future.result()
    return _contents(folder / "store", count_items(3, "steady"))


def _contents(store: Path | str, items: list[WorkItem]) -> list[str]:
    found = open_store(store).find_all(items[0].step, [item.key for item in items])
    return [found[item.key].content for item in items]


def _waiting(folder: Path, count: int) -> list[int]:
    """The processes of that many items that wait."""

    def look() -> list[int] | None:
        pids = [int(text) for path in folder.glob("once-*") if (text := path.read_text())]
        return pids if len(pids) == count else None

    return wait_for(look, "the items did not start")


def test_a_killed_actor_is_replaced_and_digests_stay(cluster, tmp_path, expected):
    items = count_items(3, "steady")
    with RayEngine(count_call(tmp_path, SteadyStage, die_at=10), address=cluster.address, most=1) as engine:
        records = [future.result() for future in [engine.submit(item) for item in items]]
    assert [record.partition for record in records] == [item.partition for item in items]
    assert (tmp_path / "once-10").exists() and len(list(tmp_path.glob("open-*"))) == 2
    assert _contents(tmp_path / "store", items) == expected


def test_one_actor_opens_its_stage_once_and_its_errors_keep_type_and_words(cluster, tmp_path):
    with RayEngine(count_call(tmp_path, fail_at=0, fail_once_at=10), address=cluster.address, most=1) as engine:
        assert engine.workers == 1
        first, second, third = [engine.submit(item) for item in count_items(3)]
        with pytest.raises(FatalError, match="image 0 is impossible"):
            first.result()
        with pytest.raises(RetryableError, match="did not answer"):
            second.result()
        assert third.result().rows_out == 2
        assert engine.submit(count_items(3)[2]).result().cached
    assert len(list(tmp_path.glob("open-*"))) == 1
    (log,) = (tmp_path / "logs").glob("worker-*.log")
    assert log.read_text().count("committed run=toy step=count partition=set/0002") == 1


def test_progress_arrives_and_an_interrupt_leaves_no_process(cluster, tmp_path):
    seen: list[tuple[str, int, int]] = []
    engine = RayEngine(
        count_call(tmp_path, wait=True),
        lambda i, done, total, note: seen.append((i.partition, done, total)),
        address=cluster.address,
    )
    with pytest.raises(KeyboardInterrupt), engine:
        futures = [engine.submit(item) for item in count_items(3)]
        pids = _waiting(tmp_path, 2)
        wait_for(lambda: len({p for p, *rest in seen if rest == [1, 2]}) == 2 or None, "no progress")
        raise KeyboardInterrupt
    for future in as_completed([*futures, engine.submit(count_items(4)[3])], timeout=5):
        with pytest.raises(RetryableError, match="stopped"):
            future.result()
    wait_for(lambda: not any(map(psutil.pid_exists, pids)) or None, "an actor outlived its engine")
    assert not LocalStore(tmp_path / "store").stages()


def _missing(root: Path, address: str, *more: str) -> dict[str, str]:
    recipe = small_recipe(root, "run.engine=ray", f"run.ray_address={address}", *more)
    return {f.what: f.detail for f in needs(RunContext(recipe)) if f.state == "missing"}


def test_too_few_gpus_are_reported_before_work(cluster, tmp_path, root):
    write_small_set(tmp_path / "set")
    asks = ("caption.captioner=blip", f"caption.model={root}/scenes/weights/captioner", "caption.recorded=[]")
    assert _missing(tmp_path / "set", cluster.address) == {}
    found = _missing(tmp_path / "set", cluster.address, *asks, "caption.device=cuda")
    assert set(found) == {"caption on Ray"}
    assert "a worker needs 1 CPU, 1 GPU and" in found["caption on Ray"]
    assert "1 CPUs, 0 GPUs" in found["caption on Ray"] and "device to 'cpu'" in found["caption on Ray"]
    named = _missing(tmp_path / "set", cluster.address, *asks, "caption.device=cuda:1")
    assert "'cuda:1' names a GPU, but Ray assigns GPUs" in named["caption.device"]


def test_nodes_with_another_version_are_named_before_work(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.run.doctor.installed_version", lambda package: "9.9")
    write_small_set(tmp_path / "set")
    found = _missing(tmp_path / "set", cluster.address)
    assert all(each.startswith("node ") for each in found) and found
    assert all("and this machine" in told and "9.9; install the same" in told for told in found.values())


def test_too_few_nodes_for_a_training_are_reported_before_work(cluster, tmp_path):
    train_long(write_small_set(tmp_path / "set").parent)
    training = [f"pretrain.settings.{each}" for each in ("nodes=3", "batch=6", "address=127.0.0.2:29500")]
    (told,) = _missing(tmp_path / "set", cluster.address, *training).values()
    assert told.startswith("nodes = 3, but the Ray cluster has 2 nodes; start more")


def test_tasks_that_have_just_ended_may_be_cancelled(cluster):
    engine = connect(cluster.address)
    node = live_nodes(engine)[0]
    for _ in range(100):
        task = run_on(engine, node, 0, 0, look_around, ())
        engine.get(task)
        cancel(engine, [task])


def test_a_dead_address_stops_a_run_before_work(tmp_path):
    write_small_set(tmp_path / "set")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        recipe = small_recipe(tmp_path / "set", "run.engine=ray", f"run.ray_address={address}")
        with pytest.raises(FatalError, match=rf"'{address}': nothing answers there.*ray start --head"):
            require(RunContext(recipe))
    assert not LocalStore(Path(recipe.store)).stages()


def test_a_killed_actor_is_left_at_once_whatever_the_cluster_answers():
    silent = Mock(**{"wait.side_effect": [([], []), AssertionError("it waits on")]})
    actor = _Actor(silent, Mock())
    actor.kill()
    with pytest.raises(WorkerDied):
        actor.execute(count_items(1)[0], None)


def test_room_counts_shares_of_gpus():
    one = RayNode("a", "10.0.0.1", "one", cpus=8, gpus=2, memory=64 * GIB)
    none = RayNode("b", "10.0.0.2", "two", cpus=32, gpus=0, memory=64 * GIB)
    wants = Resources.on("auto")
    assert room_for([one, none], wants.where(any_gpus=True)) == 2
    assert room_for([one, none], wants.where(any_gpus=True, share=0.1)) == 8
    assert room_for([none], wants.where(any_gpus=False)) == 32
    with pytest.raises(FatalError, match=r"needs 1 CPU, 0 GPU and 65\.0 GiB.*--memory"):
        room_for([one, none], Resources(memory=65 * GIB))


def test_a_lost_node_costs_its_partitions_only_also_in_a_store_on_s3(cluster, s3, tmp_path, expected):
    """The last test of the cluster, which lacks a node afterwards."""
    items, store = count_items(3, "steady"), f"{s3}/{uuid4().hex}"
    call = replace(count_call(tmp_path, SteadyStage, wait=True), store=store)
    with RayEngine(call, address=cluster.address) as engine:
        futures = [engine.submit(item) for item in items]
        _waiting(tmp_path, 2)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        (tmp_path / "go").touch()
        assert [future.result(timeout=60).rows_out for future in futures] == [2, 2, 2]
    assert _contents(store, items) == expected
