"""Captions of a model behind an endpoint: what was paid for is kept, whatever happens to the run or the endpoint."""

import json
import signal
import sqlite3
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from rlip_command import output_of, rlip, started
from small_set import write_small_set

from pipeline.run.context import RunContext
from pipeline.run.planner import Planner
from pipeline.run.progress import Display
from pipeline.run.recipe_files import load_recipe
from pipeline.run.runner import run_step, stage_call, work
from pipeline.runtime import chat_endpoint
from pipeline.runtime.chat_endpoint import Answer, ChatEndpoint, ChatOptions, Journal
from pipeline.runtime.engines.engine import Worker
from pipeline.runtime.execute import Record
from pipeline.runtime.plugins import PluginOptions, options_of
from storage.artifact import Artifact
from storage.errors import FatalError, RetryableError
from storage.open_store import existing_store
from storage.runs import Run

IMAGES = 12
SECRET = "sk-most-secret"


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The words of a run that asks a stub, up to its captions."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    recipe = write_small_set(tmp_path / "set", IMAGES)

    def given(url: str, store: str, **options: Any) -> list[str]:
        settings = {"base_url": url, "model": "stub", "in_flight": 4, **options}
        asks = [f"caption.options.{name}={value}" for name, value in settings.items()]
        asks += ["caption.captioner=openai", "run.until=caption", "data.partition_size=100"]
        asks += [f"store={tmp_path / store}", f"reports={tmp_path / store / 'reports'}"]
        asks += ["run.checks.max_overall_reject_share=1.0"]
        return ["run", str(recipe), "--direct", "--json", *(word for ask in asks for word in ("--set", ask))]

    return given


def captioned(store: Path) -> Artifact:
    """The captions of the run in a store."""
    (artifact,) = Run(existing_store(store), "small").artifacts("caption").values()
    return artifact


def journalled(store: Path) -> int:
    with closing(sqlite3.connect(store / "answers.sqlite")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM answers WHERE text IS NOT NULL").fetchone()
    return int(count)


def test_a_killed_run_asks_nothing_again_that_was_answered(stub, words, tmp_path):
    faults = {"empty": 0.15, "cut": 0.1, "refused": 0.1, "broken": 0.1, "rejected": 0.1, "error": 0.1, "busy": 0.16}
    calm, killed = stub(**faults), stub(seconds=0.1, **faults)
    output_of(*words(calm.url, "calm", retries=2))
    process = started(*words(killed.url, "killed", retries=2), cwd=tmp_path)
    until = time.monotonic() + 60
    while len(killed.answers()) < 6 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    time.sleep(0.3)  # the stub still answers those that were in flight
    in_flight = len(killed.answers()) - journalled(tmp_path / "killed")
    assert journalled(tmp_path / "killed") > 0
    output_of(*words(killed.url, "killed", retries=2))
    assert len(killed.answers()) - len(set(killed.answers())) <= in_flight
    assert len(set(killed.answers())) == len(calm.answers()) == journalled(tmp_path / "killed")
    made = captioned(tmp_path / "killed")
    assert made.content == captioned(tmp_path / "calm").content
    rows, rejected = made.table("captions").to_pylist(), made.rejected().to_pylist()
    assert len(rows) == IMAGES and 0 < len(rejected) < IMAGES
    texts = [[caption["text"] for caption in row["captions"]] for row in rows]
    assert sum(map(bool, texts)) == IMAGES - len(rejected)
    assert all(text[0] == "A person riding a horse." and len(text) == 2 for text in texts if text)
    assert all(text[1].startswith("2 horses next to person ") for text in texts if text)
    files = [path.read_bytes() for path in (tmp_path / "killed").rglob("*") if path.is_file()]
    assert files and not [data for data in files if SECRET.encode() in data], "the key is nowhere"


def test_two_runs_at_once_ask_once(stub, words, tmp_path):
    endpoint = stub(seconds=0.05)
    first, second = (
        started(*words(endpoint.url, "store"), f"--set=name=run-{on}", f"--set=caption.merge_draws={on}", cwd=tmp_path)
        for on in ("false", "true")
    )
    told = [process.communicate(timeout=120) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], told
    assert len(endpoint.answers()) == len(set(endpoint.answers())) == IMAGES


def test_a_budget_and_an_endpoint_that_is_gone_stop_the_run_which_goes_on_later(stub, words, tmp_path):
    endpoint = stub()
    done = rlip(*words("http://127.0.0.1:9/v1", "store", patience=0))
    assert done.exit_code == 1 and "did not recover within 0 s" in done.stderr
    done = rlip(*words(endpoint.url, "store", budget_tokens=500))
    assert done.exit_code == 1 and "the budget is spent" in done.stderr
    assert 5 <= (paid := len(endpoint.answers())) < IMAGES
    prices = {"prompt_price": 1.0, "completion_price": 4.0}
    done = rlip(*words(endpoint.url, "store", budget_cost=0.0008, **prices))
    assert f"responses took {round(paid * 160e-6, 6)}, caption.options.budget_cost is 0.0008;" in done.stderr
    with closing(sqlite3.connect(tmp_path / "store" / "answers.sqlite")) as journal:  # as earlier versions wrote it
        for table, column in (
            ("answers", "prompt_tokens"),
            ("answers", "completion_tokens"),
            ("asked", "completion_tokens"),
        ):
            journal.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    done = rlip(*words(endpoint.url, "store", budget_cost=0.002, **prices))
    assert f"responses took {round(paid * 400e-6, 6)}, " in done.stderr, "tokens of an unknown kind are dear ones"
    output_of(*words(endpoint.url, "store"))
    assert len(endpoint.answers()) == IMAGES, "the first answers are not asked for again"
    done = rlip(*words(endpoint.url, "store", budget_cost=1))
    assert "budget_cost: also set prompt_price and completion_price" in done.stderr
    endpoint.log.write_text("")
    done = rlip(*words(endpoint.url, "store", timeout=1, seed=1, retries=0, budget_tokens=10))
    assert "the budget is spent" in done.stderr and endpoint.answers() == [], "seeds share a budget"
    done = rlip(*words(stub(model="other").url, "store", seed=1))
    assert "reports model 'other', but 'stub' gave the earlier responses" in done.stderr
    assert journalled(tmp_path / "store") == IMAGES, "none is kept under the name of another model"
    done = rlip(*words(stub(rejected=1.0).url, "refused", retries=1))
    assert done.exit_code == 1 and "answers 400 (bad image; your key is Bearer …)" in done.stderr, done.stderr


def test_datasets_with_the_same_ids_have_their_own_rejects(stub, words, tmp_path):
    asked = words(stub(empty=0.4).url, "store", retries=0)
    recipe = Path(asked[1])
    (head, source) = recipe.read_text().replace('label = ["set"]', 'label = ["set", "twin"]').split("[[data.sources]]")
    twin = source.split("[caption]")[0].replace('name = "set"', 'name = "twin"').replace("instances", "others")
    instances = json.loads((recipe.parent / "instances.json").read_text())
    others = {**instances, "annotations": instances["annotations"][::2]}
    (recipe.parent / "others.json").write_text(json.dumps(others))
    recipe.write_text(f"{head}[[data.sources]]{twin}[[data.sources]]{source}")
    output_of(*asked)
    made = Run(existing_store(tmp_path / "store"), "small").artifacts("caption")
    first, second = (artifact.rejected().to_pylist() for artifact in made.values())
    assert first == second != []


def test_a_retry_in_the_same_worker_is_as_if_the_endpoint_had_never_been_gone(stub, words, tmp_path):
    faults = {"empty": 0.4}
    calm, gone = stub(**faults), stub(seconds=0.1, **faults)
    output_of(*words(calm.url, "calm", retries=0))
    asked = words(gone.url, "gone", retries=0, patience=0)
    planner = Planner(RunContext(load_recipe(Path(asked[1]), asked[5::2])))
    ingest, caption = planner.context.steps
    run_step(planner, ingest, Display(), work)
    plan = planner.plan(caption)
    worker, (item,) = Worker(stage_call(planner, plan), 0), plan.due

    def end_stub() -> None:
        while len(gone.answers()) < IMAGES // 2:
            time.sleep(0.01)
        gone.process.kill()

    Thread(target=end_stub, daemon=True).start()
    failed = worker.execute(item, lambda done, total, note="": None)
    assert isinstance(failed, RetryableError) and "did not recover" in str(failed)
    stub(port=int(gone.url.split(":")[2].split("/")[0]), **faults)
    record = worker.execute(item, lambda done, total, note="": None)
    assert isinstance(record, Record), record
    made = existing_store(tmp_path / "gone").find("caption", record.key)
    assert made.content == captioned(tmp_path / "calm").content
    assert made.manifest.counts == captioned(tmp_path / "calm").manifest.counts
    assert made.manifest.facts == captioned(tmp_path / "calm").manifest.facts


@pytest.mark.parametrize(("status", "headers"), [(503, {}), (429, {"Retry-After": "1"}), (429, {"Retry-After": "0"})])
def test_an_endpoint_that_lists_models_may_be_busy_as_long_as_patience_lasts(tmp_path, monkeypatch, status, headers):
    slept = [0.0]
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr(chat_endpoint, "time", clock)

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers=headers) if request.method == "POST" else httpx.Response(200)

    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(chat_endpoint, "_client", lambda options: client)
    endpoint = ChatEndpoint(ChatOptions(model="m"), tmp_path / "answers.sqlite", "caption", "say")
    with pytest.raises(RetryableError, match=f"answers {status} and did not recover within 600 s"):
        endpoint.ask(b"image", "say", 0, lambda text, choice: Answer(text))
    assert 540 <= sum(slept) <= 600 and len(slept) < 1300


@pytest.mark.parametrize("others", ["answered", "answered until it restarts", "kept waiting, too"])
def test_only_a_request_that_is_never_answered_while_others_are_does_not_stop_the_run(tmp_path, monkeypatch, others):
    slept, seen = [0.0], set[bytes]()
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr(chat_endpoint, "time", clock)

    def ask(image: bytes) -> Answer:
        return endpoint.ask(image, "say", 0, lambda text, choice: Answer(text))

    def answer(request: httpx.Request) -> httpx.Response:
        if b64encode(b"poison") in request.content:
            if others != "answered until it restarts" or not sum(slept):
                slept.append(1.0)
                assert ask(b"%d" % len(slept)).text == "a dog"
            return httpx.Response(503)
        if others == "kept waiting, too" and request.content not in seen:
            seen.add(request.content)
            return httpx.Response(503)
        return httpx.Response(200, json={"choices": [{"message": {"content": "a dog"}}]})

    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(chat_endpoint, "_client", lambda options: client)
    endpoint = ChatEndpoint(ChatOptions(model="m"), tmp_path / "answers.sqlite", "caption", "say")
    if others == "answered":
        assert ask(b"poison")[:2] == ("answers 503", "endpoint busy for this request alone")
    else:
        with pytest.raises(RetryableError, match="answers 503 and did not recover within 600 s"):
            ask(b"poison")
    assert 540 <= sum(slept) <= 600


def test_an_option_that_does_not_fit_is_named_once_with_what_to_write():
    given = PluginOptions.model_validate({"model": "m", "base_url": "host:8000"})
    with pytest.raises(FatalError, match=r"^caption\.options\.base_url: write http:// or https:// before the host"):
        options_of(SimpleNamespace(Options=ChatOptions), given, "caption.options")


def test_an_endpoint_that_is_gone_or_refuses_is_reported_before_and_while_it_is_asked(stub, words, monkeypatch):
    def told(url: str, model: str = "stub") -> str:
        asked = words(url, "store", model=model)
        done = rlip("doctor", asked[1], *asked[4:])
        (line,) = [line for line in done.stdout.splitlines() if " caption.options: " in line]
        assert done.exit_code == int(line.startswith("missing"))
        return line

    gone, url = "http://127.0.0.1:9/v1", stub().url
    assert (
        told(gone)
        == f"missing caption.options: {gone} does not respond ([Errno 111] Connection refused); start it, or correct "
        "the URL"
    )
    assert told(url) == f"ok caption.options: {url} answers"
    assert told(url, "other").startswith(f"note caption.options: {url} lists stub but not other")
    done = rlip(*words(gone, "store", patience=1.5))
    assert "does not respond ([Errno 111] Connection refused); trying again for up to 1.5 s" in done.stdout
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\n{SECRET}")
    done = rlip(*words(url, "store"))
    assert "the key in OPENAI_API_KEY has line breaks" in done.stderr and SECRET not in done.stdout + done.stderr
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\n")
    output_of(*words(url, "store"))


def test_what_a_killed_process_asked_that_nobody_reaps_is_asked_again(tmp_path):
    journal = Journal(tmp_path / "answers.sqlite", "terms", "caption")
    with subprocess.Popen(["true"]) as process:  # a zombie until this block ends
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        owner = f"{process.pid} {psutil.Process(process.pid).create_time()}"
        with closing(sqlite3.connect(tmp_path / "answers.sqlite", isolation_level=None)) as connection:
            connection.execute("INSERT INTO answers (request, owner) VALUES ('one', ?)", (owner,))
        asking = Thread(target=journal.find, args=("one",), daemon=True)
        asking.start()
        asking.join(timeout=5)
        assert not asking.is_alive(), "it waits for an answer that will never come"


def test_a_file_of_answers_that_can_not_be_opened_is_reported_with_its_setting(tmp_path):
    for path in (tmp_path, tmp_path / "answers" / "answers.sqlite"):
        (tmp_path / "answers").touch()
        with pytest.raises(FatalError, match=f"{path}: .*; free space, .*caption.answers"):
            Journal(path, "terms", "caption")
