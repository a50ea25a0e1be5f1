"""Parameters of a deployment reach only the stores and interpreters that the worker's own environment names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.session import LAVIS_PYTHON, STORES, require_allowed, session_of
from storage.errors import FatalError


@pytest.mark.parametrize(
    ("store", "allowed", "is_allowed"),
    [
        ("out/store", "", True),
        ("out/store", "out", True),
        ("out/store", "data out/store", True),
        ("out/../../etc/store", "out", False),
        ("outside", "out", False),
        ("out/link/store", "out", False),
        ("s3://bucket/rlip/store", "s3://bucket/rlip", True),
        ("s3://bucket/rlip/", "s3://bucket/rlip/", True),
        ("s3://bucket/rlip-other", "s3://bucket/rlip", False),
        ("s3://bucket/rlip/../other", "s3://bucket/rlip", False),
        ("s3://bucket/rlip", "out", False),
        ("out/store", "s3://bucket/rlip", False),
    ],
)
def test_stores_lie_where_the_worker_allows(
    store: str, allowed: str, is_allowed: bool, recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    changed = recipe.model_copy(update={"store": store})
    if is_allowed:
        require_allowed(changed, {STORES: allowed})
    else:
        with pytest.raises(FatalError, match=f"stores of this worker lie in .*{STORES}"):
            require_allowed(changed, {STORES: allowed})


def test_no_program_is_started_that_the_worker_did_not_name(recipe: Any) -> None:
    caption = recipe.caption.model_copy(update={"lavis_python": Path("/bin/sh")})
    changed = recipe.model_copy(update={"caption": caption})
    with pytest.raises(FatalError, match=r"caption\.lavis_python = /bin/sh: .*RLIP_LAVIS_PYTHON"):
        require_allowed(changed, {})
    require_allowed(changed, {LAVIS_PYTHON: "/bin/sh"})
    require_allowed(recipe, {})


def test_flows_of_deployments_ask_before_anything_is_opened(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORES, str(tmp_path / "allowed"))
    changed = recipe.model_copy(update={"store": tmp_path / "elsewhere"})
    with pytest.raises(FatalError, match="stores of this worker"), session_of(changed):
        pass
    assert not (tmp_path / "elsewhere").exists()
