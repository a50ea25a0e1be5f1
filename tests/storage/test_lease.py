"""A lease: held with signs of life, waited for while there are any, and never needed."""

import json
import platform
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from faulty_files import FaultyFiles
from warm_process import wait_for

from storage.lease import Patience, hold_lease
from storage.remote import Remote

PATH = "claims/key"
QUICK = Patience(heartbeat=0.02, look=0.01, expiry=0.3)


@pytest.fixture
def files() -> Remote:
    return Remote(f"memory://{uuid4().hex}", FaultyFiles(), ())


def _note(files: Remote) -> dict[str, Any]:
    return json.loads(files.read(PATH) or b"{}")


def _nobody(host: str) -> None:
    pytest.fail("nobody is waited for")


def test_a_holder_is_named_gives_signs_of_life_and_leaves_nothing(files):
    with hold_lease(files, PATH, "one", _nobody, QUICK):
        first = _note(files)
        assert first["holder"].startswith("one ")
        wait_for(lambda: _note(files)["beat"] > first["beat"] or None, "no signs of life")
        last = _note(files)
        assert last == {"holder": first["holder"], "host": platform.node(), "beat": last["beat"]}
    assert files.read(PATH) is None
    time.sleep(0.1)
    assert files.read(PATH) is None, "its signs of life have ended"


def test_a_lease_that_ends_while_one_looks_is_taken():
    class Ends(FaultyFiles):
        ended = False

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **settings: object) -> None:
            if not self.ended:
                self.ended = True
                raise FileExistsError(path)
            super().pipe_file(path, value, mode, **settings)

    files = Remote(f"memory://{uuid4().hex}", Ends(), ())
    with hold_lease(files, PATH, "one", _nobody, Patience(heartbeat=9)):
        assert _note(files)["holder"].startswith("one ")


HOST = "gpu-7\x1b[31m" + 200 * "x"


@pytest.mark.parametrize("note, told", [
    (b'{"holder": "dead x", "beat": 7}', "another machine"),
    (json.dumps({"holder": "dead x", "host": HOST, "beat": 7}).encode(), ("gpu-731m" + 200 * "x")[:100]),
    (b'{"holder": 3}', "another machine"),
])  # fmt: skip
def test_a_silent_holder_is_waited_for_until_it_counts_as_dead(note, told, files):
    files.create(PATH, note)
    began, waits = time.monotonic(), list[str]()
    with hold_lease(files, PATH, "one", waits.append, QUICK):
        assert time.monotonic() - began > QUICK.expiry and waits == [told]
        assert _note(files)["holder"].startswith("one ")


def test_a_lease_of_the_same_machine_is_taken_at_once(files):
    files.create(PATH, json.dumps({"holder": "one x", "beat": 7}).encode())
    with hold_lease(files, PATH, "one", _nobody, Patience(heartbeat=9, look=9, expiry=999)):
        assert _note(files)["holder"].startswith("one ") and _note(files)["holder"] != "one x"
        assert _note(files)["beat"] == 0


def test_whoever_lost_a_lease_does_not_remove_that_of_the_next(files):
    with hold_lease(files, PATH, "one", _nobody, Patience(heartbeat=9)):
        files.write(PATH, b'{"holder": "other y", "beat": 1}')
    assert _note(files) == {"holder": "other y", "beat": 1}


@pytest.fixture(params=[1, 2])
def failing(request: pytest.FixtureRequest) -> Iterator[Remote]:
    """A place that fails from its first or its second operation on."""
    yield Remote(f"memory://{uuid4().hex}", FaultyFiles(request.param, "conflict", times=10**6), ())


@pytest.mark.filterwarnings("error")
def test_work_goes_on_without_a_lease_that_can_not_be_had(failing):
    worked = []
    with hold_lease(failing, PATH, "one", _nobody, QUICK):
        time.sleep(3 * QUICK.heartbeat)
        worked.append(1)
    assert worked == [1]
    with pytest.raises(KeyError), hold_lease(failing, PATH, "one", _nobody, QUICK):
        raise KeyError
