"""`rlip verdicts` and what reviewers judged in `rlip diff`: figures that people act upon."""

import json
import tomllib

import numpy as np
import pytest
from rich.console import Console
from run_builder import TWO_PEOPLE, RunBuilder, pairs, relations

from pipeline.cli.diff import diff
from pipeline.cli.report import report
from pipeline.cli.show import show, show_run
from pipeline.cli.verdicts import import_annotations, show_calibration, show_thresholds, show_verdicts
from pipeline.interop.export_run import export_run
from pipeline.interop.import_file import import_file
from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.labels.label_rows import ReviewableLabel, reviewable_labels
from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdicts import Kind, Verdict
from pipeline.report.static_report import write_report
from pipeline.run.context import run_view
from storage.errors import FatalError
from storage.runs import Run

IMAGES = 120


@pytest.fixture
def run(book: RunBuilder) -> Run:
    """A run in which a label of score s is right with about the probability s."""
    draw = np.random.default_rng(0)
    rows = [book.image(number, TWO_PEOPLE) | {"digest": f"{number:064x}"} for number in range(IMAGES)]
    book.add("ingest", "toys/0000", rows)
    found = [relations(number, (0, "ride", 2, float(draw.random())), (1, "on", 2, 0.5)) for number in range(IMAGES)]
    book.add("tag", "toys/0000", found, candidates=[pairs(number) for number in range(IMAGES)])
    book.run.note("recipe", {"name": "demo", "shard": {"threshold": 0.2}})
    return book.run


def judge(label: ReviewableLabel, kind: Kind, reviewer: str = "ada", seconds: float | None = None) -> Verdict:
    return Verdict(label.relation, kind, reviewer, "2026-01-31T12:00:00+00:00", "person", "horse", seconds=seconds)


def truth(label: ReviewableLabel) -> Kind:
    draw = np.random.default_rng(int(label.relation.image, 16))
    return "accept" if draw.random() < label.confidence else "reject"


def test_a_summary_counts_times_agreement_and_precision(run, printed):
    labels = list(reviewable_labels(run))
    log = VerdictLog(run.store.root / "verdicts")
    log.append([judge(label, truth(label), seconds=number % 3) for number, label in enumerate(labels)])
    log.append([judge(label, truth(label), "bob") for label in labels[:10]])
    log.append([judge(labels[0], "undo"), judge(labels[0], "unsure")])
    with (run.store.root / "verdicts/ada.jsonl").open("ab") as file:
        file.write(b"nonsense\n")
    show_verdicts("toy", store=run.store.root, as_json=True)
    found = printed()
    assert found["relations"] == len(labels)
    assert (sum(found["kinds"].values()), found["undone"]) == (len(labels) + 10, 1)
    assert found["seconds"] == {"ada": 1.0} and found["reaction"] == {"ada": 0.3}
    # The first label's verdict took no time, too, but was replaced by one whose time is unknown.
    assert found["hasty"] == {"ada": len(range(0, len(labels), 3)) - 1}
    assert found["agreement"]["krippendorff"]["items"] == 10
    assert found["hourly"]["ada"] == pytest.approx(3600, abs=20)
    assert "ada.jsonl" in found["damaged"][0]
    right = sum(truth(label) == "accept" for label in labels)
    assert found["audit"]["precision"] == pytest.approx(right / len(labels), abs=0.01)
    assert found["audit"]["low"] == pytest.approx(found["audit"]["high"], abs=0.02)
    show_verdicts(store=run.store.root, as_json=True)
    assert printed()["audit"] is None


def test_a_reviewer_without_times_has_no_pace(run, capsys):
    label = next(iter(reviewable_labels(run)))
    VerdictLog(run.store.root / "verdicts").append([judge(label, "accept", "bob")])
    show_verdicts("toy", store=run.store.root)
    said = capsys.readouterr().out
    counts, pace = (line.split() for line in said.splitlines() if "bob" in line)
    assert counts == ["bob", "1", "0", "0", "0", "0"] and "judged in all runs" in said
    assert pace == ["bob", "–", "–", "–", "–"], "no column is lost in 80"
    assert "Labels by their verdicts, most judged predicates first" in " ".join(said.split())


def test_views_of_a_run_say_what_reviewers_found(run, recipe, printed, capsys, tmp_path):
    labels = list(reviewable_labels(run))
    VerdictLog(run.store.root / "verdicts").append([judge(label, truth(label)) for label in labels])
    right = sum(truth(label) == "accept" for label in labels) / len(labels)
    show_run(Console(), run, "tag", as_json=True)
    found = printed()["reviewed"]
    assert (found["precision"], found["judged"], found["blind"]) == (pytest.approx(right), len(labels), 0)
    rides = next(each for each in found["predicates"] if each["predicate"] == "ride")
    # All of its labels are judged.
    assert rides["low"] == rides["high"] == rides["precision"] == pytest.approx(rides["right"] / rides["judged"])
    show_run(Console(width=200), run, "tag", as_json=False)
    shown = capsys.readouterr().out.partition("Precision by reviewers")[2]
    (row,) = (line.split() for line in shown.splitlines() if line.startswith("ride "))
    share = f"{rides['precision']:.3f}"
    assert row[1:] == [str(rides["judged"]), str(rides["right"]), share, share, "to", share]
    diff("toy", "toy", store=str(run.store.root), as_json=True)
    assert printed()["reviewed"] == {"toy": found}
    page = write_report(run_view(recipe, run), None, tmp_path / "report").read_text()
    assert (
        "Precision by reviewers" in page
        and f"<b>{right:.2f}</b><span>precision by reviewers, before corrections" in page
    )


def test_views_of_a_run_read_the_folder_of_verdicts_that_is_named(run, recipe, printed, tmp_path):
    run.note("recipe", recipe.model_dump(mode="json"))
    VerdictLog(tmp_path / "elsewhere").append([judge(label, truth(label)) for label in reviewable_labels(run)])
    named = {"store": str(run.store.root), "verdicts": tmp_path / "elsewhere"}
    show("toy", "tag", **named, as_json=True)
    assert "reviewed" in printed()
    show("toy", "tag", store=str(run.store.root), as_json=True)
    assert "reviewed" not in printed()
    report("toy", out=tmp_path / "report", **named)
    assert "precision by reviewers" in (tmp_path / "report" / "index.html").read_text()
    with pytest.raises(FatalError, match=r"no verdicts at .*missing"):
        show("toy", "tag", store=str(run.store.root), verdicts=tmp_path / "missing")


def test_thresholds_reach_the_precision_and_fit_into_a_recipe(run, capsys):
    labels = list(reviewable_labels(run, all_scores=True))
    log = VerdictLog(run.store.root / "verdicts")
    log.append([judge(label, truth(label)) for label in labels if label.relation.predicate == "ride"])
    log.append([judge(label, "reject") for label in labels if label.relation.predicate == "on"][:30])
    show_thresholds("toy", precision=0.8, fewest=20, store=run.store.root)
    text = capsys.readouterr().out
    proposed = tomllib.loads(text)["shard"]["thresholds"]
    assert list(proposed) == ["ride"]
    assert '# "on": no threshold reaches the precision' in text and ", expected precision 0." in text
    kept = [label for label in labels if label.relation.predicate == "ride" and label.confidence >= proposed["ride"]]
    assert np.mean([truth(label) == "accept" for label in kept]) == pytest.approx(0.8, abs=0.06)
    more = [label for label in labels if label.relation.predicate == "ride" and label.confidence >= 0.4]
    assert len(kept) < len(more)


def test_a_fitted_calibration_fits_into_a_recipe_and_is_honest(run, capsys):
    labels = list(reviewable_labels(run, all_scores=True))
    log = VerdictLog(run.store.root / "verdicts")
    log.append([judge(label, "accept" if number % 4 == 0 else "reject") for number, label in enumerate(labels)])
    show_calibration("toy", fewest=100, store=run.store.root)
    section = tomllib.loads(capsys.readouterr().out)["shard"]["calibration"]
    assert set(section) == {"", "on", "ride"}
    choice = ChoiceSettings(confidence="calibrated", calibration=section, threshold=0.0)
    sure = [label.confidence for label in reviewable_labels(run, choice=choice)]
    assert len(sure) == len(labels)
    assert np.mean(sure) == pytest.approx(0.25, abs=0.02)
    with pytest.raises(FatalError, match="240 of the 300 confident verdicts"):
        show_calibration("toy", fewest=300, store=run.store.root)


def test_without_enough_verdicts_nothing_is_proposed_and_a_folder_that_is_not_there_is_named(run):
    with pytest.raises(FatalError, match=r"no verdicts at .*verdicts; name their folder with --verdicts"):
        show_verdicts("toy", store=run.store.root, as_json=True)
    VerdictLog(run.store.root / "verdicts").append([judge(next(reviewable_labels(run)), "accept")])
    with pytest.raises(FatalError, match="has 20 confident verdicts"):
        show_thresholds("toy", precision=0.8, fewest=20, store=run.store.root)


def test_imported_labels_take_no_verdict_and_are_still_compared(run, tmp_path, printed):
    export_run(run, "official", tmp_path / "out")
    import_file(tmp_path / "out/toys/labels.json", Run(run.store, "theirs"))
    VerdictLog(run.store.root / "verdicts").append([judge(next(reviewable_labels(run)), "accept")])
    for command in (show_verdicts, show_thresholds, show_calibration):
        with pytest.raises(FatalError, match=r"run 'theirs': .* which imported images lack"):
            command("theirs", store=run.store.root)
    diff("theirs", "toy", store=str(run.store.root), as_json=True)
    assert printed()["reviewed"]["theirs"] is None


def test_an_import_lands_in_the_log(run, tmp_path, printed):
    export_run(run, "label_studio", tmp_path / "out")
    tasks = json.loads((tmp_path / "out/toys/tasks.json").read_bytes())[:5]
    for task in tasks:
        task["annotations"] = [{"result": task["predictions"][0]["result"]}]
    (tmp_path / "back.json").write_text(json.dumps(tasks))
    import_annotations("toy", tmp_path / "back.json", "ada", store=run.store.root, as_json=True)
    made = printed()
    assert set(made["kinds"]) == {"accept"}
    assert len(VerdictLog(run.store.root / "verdicts").standing()) == made["verdicts"] >= 5


def test_a_difference_tells_what_was_judged_of_it(book, printed):
    runs = []
    for name, found in (
        ("before", relations(1, (0, "ride", 2, 0.9), (1, "ride", 2, 0.3), (0, "on", 1, 0.5))),
        ("after", relations(1, (0, "ride", 2, 0.9), (1, "ride", 2, 0.7), (2, "on", 1, 0.6))),
    ):
        one = RunBuilder(Run(book.run.store, name), book.pictures)
        one.add("ingest", "toys/0000", [book.image(1, TWO_PEOPLE) | {"digest": "d" * 64}])
        one.add("tag", "toys/0000", [found], settings={"run": name}, candidates=[pairs(1)])
        runs.append(one.run)
    of = [{(each.subject, each.relation.predicate): each for each in reviewable_labels(run)} for run in runs]
    folder = book.run.store.root / "verdicts"
    VerdictLog(folder).append([
        judge(of[0][0, "ride"], "accept"), judge(of[0][0, "on"], "reject"),
        judge(of[1][2, "on"], "accept"), judge(of[1][1, "ride"], "unsure"),
    ])  # fmt: skip
    diff("before", "after", store=str(book.run.store.root), as_json=True)
    assert printed()["judged"] == {"added": {"right": 1}, "lost": {"wrong": 1}, "re-scored": {"unsure": 1}}
    with pytest.raises(FatalError, match=r"no verdicts at .*none; name their folder"):
        diff("before", "after", store=str(book.run.store.root), as_json=True, verdicts=folder / "none")
