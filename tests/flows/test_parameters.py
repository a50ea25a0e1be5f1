"""A recipe survives the way through the parameters of a deployment, and reaches only what the worker allows."""

import json
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
from prefect.states import Completed

from flows.on_pools import _run, on_pools
from flows.parameters import parameters
from flows.session import LAVIS_PYTHON, STORES, require_allowed, session_of
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe
from storage.errors import FatalError


@pytest.mark.parametrize("name", ["demo", "coco", "coco_objects365"])
def test_a_recipe_comes_back_unchanged(root, name):
    path = root / "recipes" / f"{name}.toml"
    back = Recipe.model_validate(json.loads(parameters(path, ["run.workers=3"]))["recipe"])
    assert back == load_recipe(path, ["run.workers=3"]) and back.run.workers == 3


def test_pools_that_would_each_choose_a_precision_are_refused(root):
    recipe = load_recipe(root / "recipes/coco.toml")
    with pytest.raises(FatalError, match=r"^caption, train_tagger, pretrain:pseudo: precision = 'auto'"):
        on_pools.fn(recipe)


def test_a_run_on_pools_waits_while_a_proxy_has_no_server_behind_it(recipe, monkeypatch):
    def answers(status: int) -> httpx.HTTPStatusError:
        return httpx.HTTPStatusError("", request=httpx.Request("GET", "http://x"), response=httpx.Response(status))

    monkeypatch.setattr("flows.on_pools.LOOK_EVERY", 0.0)
    monkeypatch.setattr("flows.on_pools.run_deployment", lambda *_, **__: Mock(state=None))
    done = Mock(state=Completed())
    client = Mock(**{"read_flow_run.side_effect": [httpx.ConnectError(""), answers(502), answers(504), done]})
    _run(client, "tag/tag", recipe)
    client.set_flow_run_state.assert_not_called()
    client = Mock(**{"read_flow_run.side_effect": [answers(401), done]})
    with pytest.raises(httpx.HTTPStatusError):
        _run(client, "tag/tag", recipe)
    assert client.set_flow_run_state.call_args.args[1].is_cancelling(), "the stage ends with the run that waits for it"


@pytest.mark.parametrize(
    ("store", "allowed", "is_allowed"),
    [
        ("out/store", "", True), ("out/store", "out", True), ("out/store", "data out/store", True),
        ("out/../../etc/store", "out", False), ("outside", "out", False), ("out/link/store", "out", False),
        ("s3://bucket/rlip/store", "s3://bucket/rlip", True), ("s3://bucket/rlip/", "s3://bucket/rlip/", True),
        ("s3://bucket/rlip-other", "s3://bucket/rlip", False),
        ("s3://bucket/rlip/../other", "s3://bucket/rlip", False), ("s3://bucket/rlip", "out", False),
        ("out/store", "s3://bucket/rlip", False),
    ],
)  # fmt: skip
def test_stores_lie_where_the_worker_allows(store, allowed, is_allowed, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    changed = recipe.model_copy(update={"store": store})
    if is_allowed:
        require_allowed(changed, {STORES: allowed})
    else:
        with pytest.raises(FatalError, match=f"this worker accepts only stores in .*{STORES}"):
            require_allowed(changed, {STORES: allowed})


def test_no_program_is_started_that_the_worker_did_not_name(recipe):
    caption = recipe.caption.model_copy(update={"lavis_python": Path("/bin/sh")})
    changed = recipe.model_copy(update={"caption": caption})
    with pytest.raises(FatalError, match=r"caption\.lavis_python = /bin/sh: .*RLIP_LAVIS_PYTHON"):
        require_allowed(changed, {})
    require_allowed(changed, {LAVIS_PYTHON: "/bin/sh"})
    require_allowed(recipe, {})


def test_flows_ask_before_anything_is_opened(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv(STORES, str(tmp_path / "allowed"))
    changed = recipe.model_copy(update={"store": tmp_path / "elsewhere"})
    with pytest.raises(FatalError, match="this worker accepts only stores"), session_of(changed):
        pass
    assert not (tmp_path / "elsewhere").exists()
