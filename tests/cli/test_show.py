import io
import json
import os
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console
from run_builder import TWO_PEOPLE, RunBuilder, captions

from pipeline.cli.run import outcome_json, print_outcome
from pipeline.cli.show import show
from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.report.figures import compute_figures
from pipeline.report.steps import RunOutcome, StepOutcome
from pipeline.runtime.stage import Rejected
from storage.errors import FatalError


def shown(
    book: RunBuilder, run: str | None = None, step: str | None = None, as_json: bool = False, width: int = 140
) -> str:
    with redirect_stdout(io.StringIO()) as out, mock.patch.dict(os.environ, COLUMNS=str(width)):
        show(run, step, store=book.run.store.root, as_json=as_json)
    return out.getvalue()


def test_runs_are_listed(labelled):
    assert "toy" in shown(labelled, None)
    assert json.loads(shown(labelled, None, as_json=True)) == {
        "runs": [{"run": "toy", "steps": ["caption", "ingest", "parse", "tag"]}]
    }


def test_steps_show_counts_reasons_and_facts(labelled):
    text = shown(labelled, "toy")
    assert [line.split()[0] for line in text.splitlines()[2:6]] == ["ingest", "caption", "parse", "tag"]
    assert "ingest rejected truncated: 1" in text
    assert "images/s 2.0" in text
    labelled.add("shard:pseudo", "toys/0000", [], facts={"images": 2, "excluded": {}})
    assert "shard:pseudo: images 2\n" in shown(labelled, "toy")


def test_lost_artifacts_are_named(labelled):
    assert "lost" not in shown(labelled, "toy") and json.loads(shown(labelled, "toy", as_json=True))["lost"] == {}
    (artifact,) = labelled.run.artifacts("parse").values()
    labelled.run.store.discard("parse", artifact.key)
    with pytest.warns(UserWarning, match="run toy: the store lacks 1 of 1 artifacts of parse; run the recipe again"):
        assert json.loads(shown(labelled, "toy", as_json=True))["lost"] == {"parse": 1}


def test_steps_that_were_left_behind_by_an_execution_that_ended_before_them_are_named(book):
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE)])
    for above, step in pairwise(("ingest", "tag", "shard:pseudo", "pretrain:pseudo")):
        read = [artifact.content for artifact in book.run.artifacts(above).values()]
        book.add(step, "toys/0000", [], inputs={"what it reads": read, "records": ["of files"]})
    assert "Outdated" not in shown(book, "toy")
    book.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE[:2])], settings={"other": 1})
    assert "Outdated: tag, shard:pseudo, pretrain:pseudo (made from results that a later execution replaced" in shown(
        book, "toy"
    )
    steps = json.loads(shown(book, "toy", as_json=True))["steps"]
    assert [step["outdated"] for step in steps] == [False, True, True, True]


def test_a_step_shows_sample_rows_and_quarantine(labelled):
    assert "man | ride | horse" in shown(labelled, "toy", "parse")
    assert "#0 ride #2 0.90" in shown(labelled, "toy", "tag")
    assert "JPEG: <b>cut</b>" in shown(labelled, "toy", "ingest")
    parsed = json.loads(shown(labelled, "toy", "ingest", as_json=True))
    assert parsed["rejected_rows"] == [
        {"image_id": 3, "stage": "ingest", "reason": "truncated", "value": "JPEG: <b>cut</b>"}
    ]
    assert [row["image_id"] for row in parsed["sample"]["images"]] == [1, 2]
    assert list(parsed["keys"]) == ["toys/0000"]


def test_a_rare_reason_is_shown_beside_a_frequent_one(book):
    many = [Rejected(n, "box duplicate", f"dog [{n}, 0, 1, 1]") for n in range(500)]
    book.add("ingest", "toys/0000", [], rejected=many)
    book.add("ingest", "toys/0001", [], rejected=[*many[:3], Rejected(77, "truncated", "JPEG: torn")])
    rows = json.loads(shown(book, "toy", "ingest", as_json=True))["rejected_rows"]
    assert [row["reason"] for row in rows] == ["box duplicate"] * 10 + ["truncated"]
    lines = [line.split() for line in shown(book, "toy", "ingest").splitlines()]
    assert ["box", "duplicate", "503", "0", "dog", "[0,", "0,", "1,", "1]"] in lines
    assert ["truncated", "1", "77", "JPEG:", "torn"] in lines


def test_text_from_captions_cannot_steer_the_terminal(book):
    book.add("caption", "toys/0000", [captions(1, "a man\x1b[2J\x07 [bold]on[/bold] a horse")])
    text = shown(book, "toy", "caption")
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]on[/bold] a horse" in text


@pytest.mark.parametrize("arguments, message", [
    (("other",), r"no run 'other' .*runs there: toy"),
    (("toy", "shard"), r"no step 'shard'; name one of: ingest, caption, parse, tag"),
    (("../x",), r"run name '../x'"),
])  # fmt: skip
def test_unknown_names_are_answered_with_others(labelled, arguments, message):
    with pytest.raises(FatalError, match=message):
        shown(labelled, *arguments)


@pytest.mark.parametrize("option", ["checks", "history"])
def test_what_shows_all_steps_takes_none(labelled, option):
    with pytest.raises(FatalError, match=f"--{option}: .* of a run; omit tag"):
        show("toy", "tag", store=labelled.run.store.root, **{option: True})


def test_a_stage_of_several_steps_must_be_named_in_full(book):
    book.metrics("pretrain:none", (0, "loss", 1.0))
    assert "step 0 · name loss · value 1" in shown(book, "toy", "pretrain")
    book.metrics("pretrain:pseudo", (0, "loss", 1.0))
    with pytest.raises(FatalError, match="2 steps of stage 'pretrain'; name one of: pretrain:none, pretrain:pseudo"):
        shown(book, "toy", "pretrain")


def test_the_outcome_ends_with_the_report(labelled, monkeypatch):
    labelled.metrics("evaluate:pseudo:0", (0, "zero_shot_map", 0.25))
    labelled.metrics("evaluate:pseudo:1", (0, "zero_shot_map", 0.35))
    outcome = RunOutcome(
        "toy", [StepOutcome("ingest", 1, 1, 3, 2, 1, 0.0, 0.0), StepOutcome("tag", 1, 0, 2, 2, 0, 4.0, 0.5)]
    )
    out = io.StringIO()
    terminal = Console(file=out, width=140, force_terminal=False)
    labelled.add("shard:pseudo", "toys/0000", [], facts={"images": 2})
    figures = compute_figures(labelled.run, ["toys"], ChoiceSettings(threshold=0.5))
    print_outcome(terminal, labelled.run, outcome, replace(figures, copies=2), Path("reports/toy/index.html"))
    lines = out.getvalue().splitlines()
    (shards,) = labelled.run.artifacts("shard:pseudo").values()
    assert f"Shards (shard:pseudo): 0 tars with 0 images in {shards.folder}" in lines
    assert any(line.startswith("2 images have the same bytes as another") for line in lines)
    (labels,) = (line for line in lines if line.startswith("Labels: 4 of ") and " images have some, " in line)
    assert f"rlip export toy --store {labelled.run.store.address}` writes them" in labels
    monkeypatch.setattr("pipeline.cli.run.STORE", labelled.run.store.address)
    print_outcome(terminal, labelled.run, outcome, figures, Path("reports/toy/index.html"))
    assert "rlip export toy` writes them" in out.getvalue()
    reviewed = replace(figures, labels=replace(figures.labels, kept=6, added=2), share_of_gain=0.8)
    print_outcome(terminal, labelled.run, outcome, reviewed, Path("reports/toy/index.html"))
    text = " ".join(out.getvalue().split())
    assert "Labels: 6 of 7 are kept" in text and "recover 80% of the gain in zero-shot mAP of" in text
    assert "of the 2 stated triplets whose nouns name its categories agree" in text
    assert "scores in percent, mean ± standard deviation over seeds" in text
    assert lines[-1] == "Report: reports/toy/index.html"
    shown = {line.split()[0]: line.split() for line in lines if line}
    assert shown["tag"] == ["tag", "1", "0", "2", "2", "0", "4.0", "0.5"]
    assert shown["kept:"][-5:] == ["4", "0.750", "1.000", "0.750", "0.917"]
    assert shown["naive"][-3:] == ["1.000", "0.429", "0.429"]
    assert any("30.00 ± 7.07" in line for line in lines)
    parsed = json.loads(json.dumps(outcome_json(outcome, figures, None)))
    assert parsed["computed"] == 1
    assert [stage["recorded"] for stage in parsed["stages"]] == [True, False]
    assert parsed["figures"]["audits"][0]["labels"]["given"] == 3
    assert "share_of_gain" not in parsed["figures"]


def test_labels_are_shown_with_their_yield_spread_and_audits(labelled):
    labelled.run.note("recipe", {"shard": {"threshold": 0.2}})
    text = shown(labelled, "toy", "tag")
    assert "captions →" in text and "kept (score ≥ 0.2)" in text
    for title in ("Scores", "Predicates", "Calibration error", "By predicate", "boxes and names alone"):
        assert title in text
    plain = json.loads(shown(labelled, "toy", "tag", as_json=True))["labels"]
    assert sum(plain["scores"]) == plain["counts"]["scored"] > 0
    assert set(plain["audits"]) == {"toys"}


def test_shares_say_of_what_they_are_and_where_nothing_is_kept_recall_is_0(labelled):
    labelled.run.note("recipe", {"shard": {"threshold": 1.0}})
    text = shown(labelled, "toy", "tag")
    lines = [line.split() for line in text.splitlines()]
    assert next(line[-5:-2] for line in lines if line[:1] == ["kept:"]) == ["0", "–", "0.000"]
    assert "By predicate, most kept first; recall of its reachable relations" in " ".join(text.split())
    assert "Every rule at the threshold with its highest F1 on these labels" in " ".join(text.split())
    plain = json.loads(shown(labelled, "toy", "tag", as_json=True))["labels"]["audits"]["toys"]
    threshold = next(rule["threshold"] for rule in plain["rules"] if rule["rule"] == "score")
    assert [f"{threshold:g}"] == next(line[1:2] for line in lines if line[:1] == ["score"]), "not rounded"


def test_coverage_is_shown_beside_the_audit(labelled):
    labelled.run.note("recipe", {"shard": {"threshold": 0.2}})
    text = shown(labelled, "toy", "tag", width=80)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert {"kept 4 2.00 2.00 0.000 2 0.000", "in the ground truth 3 1.50 1.50 0.000 2 0.000"} <= set(lines)
    assert "distance < 1/2 3 0.667 3 0.667" in lines and "(+33)" in text, "at most 15 names are printed"
    plain = json.loads(shown(labelled, "toy", "tag", as_json=True))["labels"]["coverage"]["toys"]
    assert (plain["images"], plain["kept"]["relations"], plain["given"]["relations"]) == (2, 4, 3)
    assert [(each["name"], each["missing"]) for each in plain["lists"]] == [("Visual Genome", 49), ("the set's own", 0)]
    assert plain["geometry"][0] == {
        "measure": "distance", "bin": "< 1/2", "kept": 3, "precision": 2 / 3, "naive": 3, "naive_precision": 2 / 3,
    }  # fmt: skip
