"""Which server a run connects to, and the error if none answers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.connection import configured_api, connected
from flows.temporary_server import free_port
from storage.errors import FatalError


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The environment of a user who has never configured Prefect. Returns their home folder."""
    for name in list(os.environ):
        if name.startswith("PREFECT"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_server_that_does_not_answer_is_named_with_the_ways_out(
    no_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{free_port()}/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    before = dict(os.environ)
    with pytest.raises(FatalError) as caught, connected(no_settings / "prefect"):
        pass
    for word in (address, "prefect server start", "unset PREFECT_API_URL", "--direct"):
        assert word in str(caught.value)
    assert dict(os.environ) == before
    assert not (no_settings / "prefect").exists()


def test_a_server_set_in_the_active_profile_counts(no_settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured_api() is None
    profiles = no_settings / ".prefect" / "profiles.toml"
    profiles.parent.mkdir()
    profiles.write_text(
        'active = "office"\n[profiles.office]\nPREFECT_API_URL = "http://prefect.example/api"\n[profiles.bare]\n'
    )
    assert configured_api() == "http://prefect.example/api"
    monkeypatch.setenv("PREFECT_PROFILE", "bare")
    assert configured_api() is None


def test_a_folder_that_can_not_be_written_is_named(no_settings: Path) -> None:
    (no_settings / "file").touch()
    with pytest.raises(FatalError, match="file"), connected(no_settings / "file" / "prefect"):
        pass
