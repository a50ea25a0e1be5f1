"""Lets ten simulated people judge a run's audit in Chromium: `python -m benchmarks.review_team STORE RUN`.

Each errs at a known rate and judges their share by keys. What is right is the ground truth: a wrong label gets the
predicate that it has there or, without one, is rejected. A lead, who errs as often as the team, settles disagreements.
The figures compare the ground truth with the precision by one verdict a label, by two, and after adjudication.

The verdicts stay in `--verdicts`, an empty folder before, for `rlip run ... --set shard.verdicts=FOLDER`.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from review_browser import Browser, browser, served
from selenium.webdriver.common.keys import Keys

from benchmarks.harness import Row, parser, run
from pipeline.cli.report import recorded_view
from pipeline.labels.label_overrides import settled
from pipeline.labels.label_rows import reviewable_labels
from pipeline.labels.team import Team, read_team
from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdict_summary import audit_of
from pipeline.labels.verdicts import ADJUDICATION, JudgedRelation, StandingVerdicts, box4
from storage.open_store import existing_store
from storage.runs import Run, find_run
from tagger.audit.labels import SYMMETRIC
from tagger.english.predicates import canonical

PASSWORD = "correct horse battery"
NAMES = ("ada", "bob", "cyd", "dan", "eva", "fay", "guy", "hal", "ida", "jon")
ERRORS = {**dict(zip(NAMES, np.linspace(0.0, 0.06, len(NAMES)).tolist(), strict=True)), "lead": 0.03}
"""Reviewer → share of their verdicts that are wrong."""
AUDIT = "/labels?order=audit&share=mine&reviewed=not+by+me"
_CHIPS = """
const sides = (box) => ['x', 'y', 'width', 'height'].map((side) => Number(box.getAttribute(side)));
return [...document.querySelectorAll(".chip[data-kind='']")].map((chip) => [
  Number(chip.querySelector("svg").ariaLabel.split(" ").at(-1)), sides(chip.querySelector("rect.subject")),
  chip.querySelector(".words b").textContent, sides(chip.querySelector("rect.object")),
]);
"""


class Truth:
    def __init__(self, of: Run) -> None:
        self.digests: dict[int, str] = {}
        self.predicates: dict[tuple[object, ...], set[str]] = {}
        """Digest, subject and object → the canonical predicates that hold."""
        labelled = recorded_view(of).label_sets
        for name, artifact in of.artifacts("ingest").items():
            for row in artifact.table("images").to_pylist() if name.split("/")[0] in labelled else ():
                self.digests[row["image_id"]] = row["digest"]
                for each in row["relations"]:
                    ends = [box4(row["boxes"][each[end]]) for end in ("subject", "object")]
                    predicate = canonical(each["predicate"])
                    for pair in (ends, ends[::-1]) if predicate in SYMMETRIC else (ends,):
                        self.predicates.setdefault((row["digest"], *pair), set()).add(predicate)

    def holding(self, relation: JudgedRelation) -> set[str]:
        return self.predicates.get((relation.image, relation.subject, relation.object), set())

    def has(self, relation: JudgedRelation) -> bool:
        return relation.predicate in self.holding(relation)


class Reviewer:
    """One simulated person at the page."""

    def __init__(self, window: Browser, truth: Truth, name: str) -> None:
        self._window, self._truth, self._error = window, truth, ERRORS[name]
        self._chance = np.random.default_rng(list(name.encode()))
        window.clear_cookies()
        window.driver.get(f"{window.server.root}/")
        for field, value in (("#reviewer", name), ("#password", PASSWORD)):
            window.find(field).send_keys(value)
        window.find("button").click()
        window.until(lambda: window.count("#work-title") == 1)

    def judge_screen(self, most: int) -> int:
        """Judges the first open labels of the screen, at most so many. Returns their number."""
        labels = self._window.script(_CHIPS)[:most]
        for image_id, subject, predicate, other in labels:
            relation = JudgedRelation(self._truth.digests[image_id], subject, other, predicate)
            is_right = self._truth.has(relation) != (self._chance.random() < self._error)
            better = sorted(self._truth.holding(relation) - {relation.predicate})
            number = self._window.find(".chip.current").get_attribute("data-label")
            if not is_right and better:
                self._window.press("p", better[0], Keys.ENTER)
            else:
                self._window.press("a" if is_right else "r")
            self._window.until(lambda number=number: self._window.state(number))
        return len(labels)


def judge_audit(window: Browser, truth: Truth, name: str) -> None:
    """Lets a member judge their share of the audit."""
    person = Reviewer(window, truth, name)
    meter = window.find(".work meter")
    wanted = int(meter.get_attribute("max")) - int(meter.get_attribute("value"))
    window.open(AUDIT)
    judged = 0
    while judged < wanted:
        judged += person.judge_screen(wanted - judged)
        if judged < wanted:
            window.next_screen()
    window.open("/")
    assert window.text("#work-title") == "Your share of the audit is judged"


def settle(window: Browser, truth: Truth) -> None:
    """Lets the lead settle all disagreements."""
    person = Reviewer(window, truth, "lead")
    while True:
        window.open("/labels?order=adjudication")
        if not window.count(".chip"):
            return
        person.judge_screen(20)


def stages(standing: StandingVerdicts, team: Team, truth: Truth) -> Iterator[tuple[str, StandingVerdicts, Team]]:
    """The verdicts at hand by one person a label, by two, and after adjudication, and the team for each."""
    first = {
        relation: {name: each for name, each in said.items() if name == team.members[team.seats(relation.image)[0]]}
        for relation, said in standing.items()
    }
    two = {r: {name: each for name, each in said.items() if each.queue != ADJUDICATION} for r, said in standing.items()}
    yield "one verdict", first, team
    yield "two verdicts", two, team
    yield "two verdicts and adjudication", standing, team


def measure(given: Namespace) -> Iterator[Row]:
    view = recorded_view(find_run(existing_store(given.store), given.run))
    truth = Truth(view.run)
    folders = {name: Path(str(view.image_folders[name])).resolve() for name in view.label_sets}
    images = [f"--images={name}={folder}" for name, folder in folders.items()]
    options = ("--reviewers", ",".join(NAMES), "--overlap", "100%", "--labels", str(given.labels))
    place = ("--verdicts", str(given.verdicts.resolve()), *images)
    password = {"RLIP_REVIEW_PASSWORD": PASSWORD}
    with browser() as window, served(given.store.resolve(), given.run, *options, *place, env=password) as server:
        window.server = server
        for name in NAMES:
            judge_audit(window, truth, name)
        settle(window, truth)
    labels = list(reviewable_labels(view.run))
    right = sum(truth.has(each.relation) for each in labels) / len(labels)
    standing, team = VerdictLog(given.verdicts).standing(), read_team(given.verdicts)
    assert team is not None
    yield Row("labels in the ground truth", "", right, note=f"of {len(labels):,}")
    for name, said, of in stages(standing, team, truth):
        found, sides = audit_of(labels, said, of), settled(said)
        wrong = sum(
            truth.has(each) != side
            for side, by_image in ((True, sides.right), (False, sides.wrong))
            for relations in by_image.values() for each in relations
        )  # fmt: skip
        note = (
            f"{found.low:.3f} to {found.high:.3f}; {found.judged} labels, {found.unsure} open, {wrong} settled wrongly"
        )
        yield Row(f"precision by {name}", "", found.precision, right, note=note)


if __name__ == "__main__":
    options = parser(__doc__, labels=500)
    options.add_argument("store", type=Path)
    options.add_argument("run")
    options.add_argument("--verdicts", type=Path, default=Path("verdicts"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run(options, measure)
