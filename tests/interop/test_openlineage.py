"""A run's lineage as OpenLineage events: files, a real server, and columns that exist."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from http_server import answering
from rlip_command import output_of, rlip
from toy_store import put, put_chain, record

from pipeline.interop import openlineage_delivery
from pipeline.interop.openlineage_events import BESIDE, SOURCES, WRITTEN, RunLineage
from pipeline.run.dag import build_steps
from pipeline.run.recipe_files import load_recipe
from pipeline.stages.order import STAGES
from storage.local_store import LocalStore
from storage.runs import Run

PASSWORD = "hunter2"


@dataclass
class Server:
    """A lineage server on loopback that keeps what it is sent, and answers with these statuses first."""

    url: str
    statuses: list[int] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    kept = Server("")

    def answer(path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        status = kept.statuses.pop(0) if kept.statuses else 201
        if status == 201 and path == "/api/v1/lineage":
            kept.events.append(json.loads(body))
            kept.headers.append(headers)
        return status, b""

    with answering(answer) as kept.url:
        yield kept


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of two partitions: images, captions, triplets and relations, which read images and triplets."""
    store = LocalStore(tmp_path / "store")
    chains = [put_chain(store, f"toys/{number:04}") for number in range(2)]
    made = record(store, "toy", *chains)
    tagged = {
        f"toys/{number:04}": put(
            store, "relations", f"toys/{number:04}", {}, {"images": chain["ingest"], "triplets": chain["parse"]}
        ).key
        for number, chain in enumerate(chains)
    }
    made.record("relations", "relations", tagged)
    made.append("completed")
    return made


def events(run: Run, *words: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in output_of("store", "lineage", run.name, "--store", run.store.address, *words).splitlines()
    ]


def of(found: list[dict[str, Any]], job: str, kind: str = "COMPLETE") -> list[dict[str, Any]]:
    return [event for event in found if event["job"]["name"] == job and event["eventType"] == kind]


def test_each_step_starts_and_ends_between_those_of_the_run_and_reads_what_another_wrote(run):
    found = events(run)
    steps = [f"toy.{step}" for step in ("ingest", "caption", "parse", "relations")]
    both = [(step, kind) for step in steps for kind in ("START", "COMPLETE")]
    told = [(event["job"]["name"], event["eventType"]) for event in found]
    assert told == [("toy", "START"), *both, ("toy", "COMPLETE")]
    parent = found[0]["run"]["runId"]
    assert {event["run"]["facets"]["parent"]["run"]["runId"] for event in found[1:-1]} == {parent}
    assert found == events(run)
    (parsed,) = of(found, "toy.parse")
    (captioned,) = of(found, "toy.caption")
    (read,) = parsed["inputs"]
    (written,) = captioned["outputs"]
    assert (read["namespace"], read["name"]) == (written["namespace"], written["name"])
    assert read["facets"]["version"]["datasetVersion"] == written["facets"]["version"]["datasetVersion"]
    assert read["inputFacets"]["dataQualityMetrics"]["rowCount"] == 4
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 4
    lineage = parsed["outputs"][0]["facets"]["columnLineage"]["fields"]
    assert [(f["name"], f["field"]) for f in lineage["triplets"]["inputFields"]] == [(read["name"], "captions")]
    kinds = {column["name"]: column for column in parsed["outputs"][0]["facets"]["schema"]["fields"]}
    assert kinds["image_id"]["type"] == "int64" and kinds["triplets"]["type"] == "list<struct>"
    assert "subject_lemma" in [column["name"] for column in kinds["triplets"]["fields"]]


def test_events_of_partitions_name_the_files_in_the_store(run):
    found = of(events(run, "--partitions"), "toy.parse")
    assert len(found) == 2
    for event in found:
        (read,), (written,) = event["inputs"], event["outputs"]
        for dataset in (read, written):
            assert (dataset["namespace"], Path(dataset["name"]).is_file()) == ("file", True)


def test_artifacts_are_looked_up_once_for_each_step(run, monkeypatch):
    find_all, asked = LocalStore.find_all, list[str]()
    monkeypatch.setattr(LocalStore, "find_all", lambda *words: asked.append(words[1]) or find_all(*words))
    assert len(list(RunLineage(run).events(by_partition=True))) == 18
    assert sorted(asked) == sorted(run.steps())


def test_a_stopped_run_is_reported_as_aborted_and_rejects_by_reason(labelled):
    labelled.run.append("stopped")
    found = events(labelled.run)
    assert found[-1]["eventType"] == "ABORT"
    (ingested,) = of(found, "toy.ingest")
    rows = {dataset["name"].rpartition("/")[2]: dataset for dataset in ingested["outputs"]}
    assert rows["images"]["facets"]["rlip_rows"]["rejected"] == {"truncated": 1}
    assert rows["rejected"]["outputFacets"]["outputStatistics"]["rowCount"] == 1


def test_a_file_is_written_once(run, tmp_path):
    words = ("store", "lineage", "toy", "--store", run.store.address, "--out", tmp_path / "made" / "events.jsonl")
    assert output_of(*words).startswith("10 events: ")
    assert [json.loads(line) for line in (tmp_path / "made" / "events.jsonl").read_text().splitlines()] == events(run)
    again = rlip(*words)
    assert again.exit_code == 1 and "exists; name a new file" in again.stderr


def test_a_server_gets_all_events_in_order(run, server, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_API_KEY", PASSWORD)
    server.statuses = [503]
    shown = output_of("store", "lineage", "toy", "--store", run.store.address, "--url", server.url)
    assert server.events == events(run)
    assert server.headers[0]["Authorization"] == f"Bearer {PASSWORD}" and PASSWORD not in shown


@pytest.mark.parametrize(("status", "hint"), [(403, "OPENLINEAGE_API_KEY"), (404, "lineage server")])
def test_a_refusal_is_reported_with_its_status(run, server, status, hint):
    server.statuses = [201, status]
    done = rlip("store", "lineage", "toy", "--store", run.store.address, "--url", server.url)
    assert done.exit_code == 1 and f"refused event 2 with HTTP status {status}" in done.stderr and hint in done.stderr


def test_a_dead_server_is_an_error_without_the_password(run, monkeypatch):
    monkeypatch.setattr(openlineage_delivery, "RETRIES", 1)
    url = f"http://someone:{PASSWORD}@127.0.0.1:9/base?token={PASSWORD}"
    done = rlip("store", "lineage", "toy", "--store", run.store.address, "--url", url)
    assert done.exit_code == 1 and "127.0.0.1:9/base" in done.stderr
    assert "event 1 got no response after 1 retries" in done.stderr
    assert PASSWORD not in done.output + done.stderr and "someone" not in done.stderr


def test_declared_columns_exist_and_lead_only_to_tables_that_the_stage_reads(root):
    assert set(SOURCES) == {stage.name for stage in STAGES}
    tables = dict(WRITTEN.values())
    read = {stage.name: {*stage.reads} for stage in STAGES}
    for step in build_steps(load_recipe(root / "recipes" / "paper" / "parsed_r50_hico_uc_nf.toml")):
        read[step.stage.name].update(step.uses)
    read["shard_tagger"] = read["shard"]  # whose columns it has
    for stage, written in SOURCES.items():
        for table, columns in written.items():
            main, schema = WRITTEN[stage]
            schema = schema if table == main else BESIDE[table]
            assert set(columns) <= set(schema.names), (stage, table)
            for source in (each for sources in columns.values() for each in sources.split()):
                above, _, column = source.partition(".")
                assert column in tables[above].names and above in read[stage], (stage, table, source)
