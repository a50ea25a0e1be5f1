"""Trainings on two nodes, which are two loopback addresses: they meet, are lost, come back, stop and meet strangers."""

import json
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import torch.distributed as dist
from warm_process import WarmProcess, ranks_of

from pipeline.runtime.settings import split_address
from pipeline.training.config import TrainConfig
from pipeline.training.launch.agent import COORDINATOR_LOST, FAILED, FINISHED
from pipeline.training.launch.launcher import launch
from storage.errors import FatalError, RetryableError
from tests.training.launched import Told, agent, config, end_of, listening, worlds

NOTICED = 2.0
"""`node_timeout` of training runs that lose a node."""


def coordinator(made: TrainConfig) -> None:
    launch(made, Told())


def test_two_nodes_finish_a_training_and_listen_on_the_given_address_only(work, address):
    before, found = listening(os.getpid()), []

    def look() -> None:
        found.append(listening(os.getpid()) - before)
        found.extend(listening(rank) for rank in ranks_of(work))

    with agent(address, work) as other:
        summary = launch(config(work, nodes=2, address=address), Told(look))
        code, said = end_of(other)
    assert code == FINISHED
    assert said.splitlines()[1:] == ["joined it as node 1", "the training run finished"]
    assert summary.processes == 4
    assert found[0] == {address}
    assert len(found) == 5
    assert {each.rpartition(":")[0] for ports in found[1:] for each in ports} == {"127.0.0.1"}
    assert (work / "train-1.log").exists()
    assert listening(os.getpid()) == before


def test_when_a_node_is_killed_the_other_continues(work, address):
    with agent(address, work) as other:
        told = Told(other.kill)
        settings = {"nodes": 2, "min_nodes": 1, "address": address, "checkpoint_every": 2, "steps": 40}
        launch(config(work, node_timeout=NOTICED, **settings), told)
    assert set(worlds(work)) == {2, 4} and worlds(work)[-1] == 2
    assert not ranks_of(work)
    (restart,) = told.of("restarting")
    assert f"node {socket.gethostname()} has been silent for {NOTICED:.0f} s" in restart


def test_a_node_that_comes_back_is_admitted_to_the_next_round(work, address):
    with ExitStack() as agents:
        first = agents.enter_context(agent(address, work))

        def replace() -> None:
            first.kill()
            back.append(agents.enter_context(agent(address, work)))

        back: list[WarmProcess] = []
        made = config(work, nodes=2, address=address, checkpoint_every=1, node_timeout=NOTICED)
        summary = launch(made, Told(replace))
        assert end_of(back[0])[0] == FINISHED
    assert summary.processes == 4 and summary.resumed_from >= 1
    assert set(worlds(work)) == {4}


def test_a_node_that_stays_takes_part_in_the_next_training_too(work, address):
    with agent(address, work.parent, stay=True) as other:
        for name in ("tagger", "pretrain"):
            folder = work / name
            folder.mkdir()
            assert launch(config(folder, nodes=2, address=address, steps=2), Told()).processes == 4
        other.terminate()
        assert end_of(other)[0] == FINISHED


def test_a_stop_request_reaches_the_ranks_of_both_nodes(work, address, monkeypatch):
    monkeypatch.setenv("STOP", "all")

    class Cancelled(BaseException):
        pass

    def cancel() -> None:
        raise Cancelled

    with agent(address, work) as other:
        with pytest.raises(Cancelled):
            launch(config(work, nodes=2, address=address, steps=1000), Told(cancel))
        assert end_of(other)[0] == FAILED
    assert sorted(path.name for path in work.glob("stopped-*")) == [f"stopped-{rank}" for rank in range(4)]
    assert not ranks_of(work)


def test_a_node_that_is_asked_to_leave_stops_the_training_with_a_checkpoint(work, address):
    with agent(address, work) as other:
        with pytest.raises(RetryableError, match="stopped before its last step") as raised:
            launch(config(work, nodes=2, address=address, steps=1000), Told(other.terminate))
        assert raised.tb and address not in listening(os.getpid()), "the next attempt needs the port"
        code, said = end_of(other)
    assert code == FINISHED and said.endswith("asked to leave\n")
    assert len(list(work.glob("stopped-*"))) == 4 and list((work / "checkpoints").iterdir())


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._path,)


def test_a_stranger_at_the_port_does_not_disturb_the_training(work, address):
    held = []
    bomb = pickle.dumps(Bomb(work / "exploded"))

    def disturb() -> None:
        store = dist.TCPStore(*split_address(address), None, False)
        for key in store.list_keys():
            if not key.startswith("ranks-"):
                json.loads(store.get(key))
        store.set("node-2", bomb)
        store.add("nodes", 1)
        held.append(socket.socket())
        for junk in (b"GET / HTTP/1.0\r\n\r\n", os.urandom(100_000), b"\x00", b"\x01\xff\xff"):
            stranger = socket.create_connection(split_address(address), timeout=5)
            held.append(stranger)
            with suppress(ConnectionError):
                stranger.sendall(junk)

    with agent(address, work) as other:
        told = Told(disturb)
        launch(config(work, nodes=2, address=address, steps=20), told)
        assert end_of(other)[0] == FINISHED
    assert len(held) == 5 and not (work / "exploded").exists() and not told.of("restarting")
    for stranger in held:
        stranger.close()


@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGKILL, "closed the connection"), (signal.SIGSTOP, "has been silent for")]
)
def test_when_the_first_node_dies_or_falls_silent_the_others_end_and_say_so(work, address, number, told):
    made = config(work, nodes=2, address=address, steps=10_000, node_timeout=NOTICED)
    first = WarmProcess(coordinator, made)
    try:
        with agent(address, work) as other:
            while not (work / "steps.txt").exists():
                assert first.poll() is None and other.poll() is None
                time.sleep(0.1)
            first.send_signal(number)
            code, said = end_of(other)
        assert code == COORDINATOR_LOST
        assert f"the coordinator at {address} {told}" in said
    finally:
        first.kill()
        first.wait()
    while ranks_of(work):
        time.sleep(0.1)


def test_a_node_that_does_not_see_the_work_folder_is_reported(work, address, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    said = pytest.raises(FatalError, match=r"node .*config\.json is not in .*elsewhere")
    with agent(address, tmp_path / "elsewhere"), said:
        launch(config(work, nodes=2, address=address), Told())
    assert not ranks_of(work)


def test_an_address_that_this_machine_lacks_is_reported(work):
    with pytest.raises(FatalError, match=r"address = 192\.0\.2\.99:29500: can't listen there"):
        launch(config(work, nodes=2, address="192.0.2.99:29500"), Told())
