"""A team of ten with known error rates judges a run's audit on the page, and a lead settles what it disagrees on."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from review_runs import Words, review_run
from rlip_command import rlip
from starlette.types import ASGIApp

from pipeline.cli.report import recorded_view
from pipeline.labels.label_overrides import SettledVerdicts
from pipeline.labels.team import Team, read_team, write_team
from pipeline.labels.verdict_summary import audit_of, reviewable_labels, summarize
from pipeline.labels.verdicts import JudgedRelation
from pipeline.review.access import Access, protected
from pipeline.review.app import page_routes
from pipeline.review.labels import labels_of
from pipeline.review.review_state import ReviewState

PREDICATES = ("ride", "hold", "wear", "carry", "feed", "hug")
NAMES = ["ada", "bob", "cyd", "dan", "eva", "fay", "guy", "hal", "ida", "jon"]
ERRORS = dict(zip(NAMES, np.linspace(0.0, 0.06, 10), strict=True))
AUDIT = "labels?order=audit&share=mine&reviewed=not+by+me"


def chance(relation: JudgedRelation, use: str) -> float:
    """A number in [0, 1) for this relation and use."""
    return float(np.random.default_rng(list(f"{relation}{use}".encode())).random())


def holds(relation: JudgedRelation) -> bool:
    """The planted truth: 0.85 of the labels are right."""
    return chance(relation, "truth") < 0.85


@pytest.fixture
def state(tmp_path: Path) -> Iterator[ReviewState]:
    """A run of 66 images with up to six kept labels each, and a team of ten for it."""
    run = review_run(tmp_path, images=66, words=Words(predicates=PREDICATES, uri="shared.png")).run
    write_team(run.store.root / "verdicts", Team(size=10, overlap=0.25, labels=400))
    made = ReviewState(lambda: recorded_view(run), tmp_path / "index.duckdb", run.store.root / "verdicts")
    yield made
    made.close()


@pytest.fixture
def enter(state: ReviewState) -> Callable[[str], httpx.Client]:
    """Opens the page as someone whom the proxy names."""
    access = Access(names=["127.0.0.1"], secret="5" * 64, user_header="X-Forwarded-User")
    app: ASGIApp = protected(page_routes(state), access)
    return lambda name: TestClient(app, base_url=f"http://127.0.0.1{access.path}/", headers={"X-Forwarded-User": name})


@pytest.mark.parametrize("options, reason", [
    (("--reviewers", "10"), "a link gives everyone the same name"), (("--overlap", "10%"), "name it with --reviewers"),
])  # fmt: skip
def test_a_team_needs_names(tmp_path, options, reason):
    done = rlip("review", "toy", "--store", review_run(tmp_path, images=1).run.store.root, *options)
    assert done.exit_code == 1 and reason in done.stderr


def test_a_server_that_does_not_start_changes_no_team(tmp_path):
    root = review_run(tmp_path, images=1).run.store.root
    (root / "indexes" / "review" / "toy.duckdb").mkdir(parents=True)
    done = rlip("review", "toy", "--store", root, "--reviewers", "3", "--user-header", "X-Forwarded-User")
    assert done.exit_code == 1 and "can't be written" in done.stderr
    assert read_team(root / "verdicts") is None


def chips(client: httpx.Client, address: str) -> list[int]:
    page = client.get(address)
    assert page.status_code == 200, page.text
    return [int(number) for number in re.findall(r'<article class="chip"[^>]* data-label="(\d+)"', page.text)]


def judge(client: httpx.Client, state: ReviewState, numbers: list[int], queue: str, name: str, error: float) -> None:
    """Judges labels by their truth, but for errors."""
    kinds = [
        "accept" if holds(label.judged) != (chance(label.judged, name) < error) else "reject"
        for label in labels_of(state.index, numbers)
    ]
    decisions = [
        {"label": number, "kind": kind, "queue": queue, "seconds": 2.0}
        for number, kind in zip(numbers, kinds, strict=True)
    ]
    answer = client.post("verdicts", json={"decisions": decisions})
    assert answer.status_code == 200, answer.text


def mistakes(state: ReviewState) -> int:
    """How many labels the verdicts settle against the truth."""
    found = SettledVerdicts.read(state.reviews.log.folder)
    sides = ((True, found.right), (False, found.wrong))
    return sum(holds(each) != side for side, by_image in sides for relations in by_image.values() for each in relations)


def test_ten_people_share_the_audit_and_a_lead_settles_their_disagreements(state, enter):
    clients = {name: enter(name) for name in NAMES}
    shown: Counter[int] = Counter()
    waiting = [(name, page) for page in (1, 2, 3, 4) for name in NAMES]
    audit = {row["relation"] for row in state.index.rows("SELECT relation FROM audit")}
    labels = {label.number: label for label in labels_of(state.index, sorted(audit))}
    truth = sum(holds(label.judged) for label in labels.values()) / len(labels)
    # Everyone pages on, a screen in turn, while the others' verdicts come in: nobody's order moves.
    for name, page in waiting:
        numbers = chips(clients[name], f"{AUDIT}&page={page}")
        shown.update(numbers)
        if numbers:
            judge(clients[name], state, numbers, "audit", name, ERRORS[name])
        if (name, page) == (NAMES[-1], 1):
            partial = state.audit.precision()
            assert partial.judged >= 100 and partial.low < truth < partial.high
            assert "Judge " in clients["ada"].get("").text
    assert set(shown) == audit, "none is skipped"
    assert all(shown[number] == len(state.shares.team.seats(label.digest)) for number, label in labels.items())
    assert "Your share of the audit is judged" in clients["ada"].get("").text
    before, mistaken = state.audit.precision(), mistakes(state)
    assert before.judged + before.unsure == len(labels) and before.blind == before.judged
    lead = enter("lead")
    contested = chips(lead, "labels?order=adjudication")
    assert f"Settle {len(contested)} disagreement" in lead.get("").text
    # Who has judged a label can't settle it.
    own = next(iter(state.reviews.of([labels[contested[0]]])[contested[0]]))
    decision = {"label": contested[0], "kind": "accept", "queue": "adjudication"}
    assert clients[own].post("verdicts", json={"decisions": [decision]}).status_code == 422
    settled: set[int] = set()
    while contested:
        settled.update(contested)
        judge(lead, state, contested, "adjudication", "lead", 0.0)
        contested = chips(lead, "labels?order=adjudication")
    # A second lead, whose page shows one of them still, can't settle it differently.
    decision = {"label": next(iter(settled)), "kind": "unsure", "queue": "adjudication"}
    refused = enter("deputy").post("verdicts", json={"decisions": [decision]})
    assert refused.status_code == 422 and "already settled this label" in refused.json()["error"]
    after = state.audit.precision()
    # Each of the team is asked a few of the settled labels again, among those of their audit.
    asked = {name: chips(clients[name], AUDIT) for name in NAMES}
    assert 0 < sum(map(len, asked.values())) <= len(NAMES) * len(settled) / 2
    for name, numbers in asked.items():
        assert set(numbers) <= settled
        assert ("Your share of the audit is judged" in clients[name].get("").text) != bool(numbers)
        assert not any(name in state.reviews.of([labels[number]])[number] for number in numbers)
        if numbers:
            judge(clients[name], state, numbers, "audit", name, 0.0)
        assert chips(clients[name], AUDIT) == []
    found = summarize(state.reviews.log.verdicts(), state.reviews.log.standing(), ())
    assert found.honeypots == {name: (len(numbers),) * 2 for name, numbers in asked.items() if numbers}
    assert after == state.audit.precision()
    assert before.precision < after.precision <= truth + 0.02 and after.unsure == 0
    # What the page says, the commands say, and the next run gets.
    run, verdicts = state.view.run, state.reviews.log
    assert audit_of(list(reviewable_labels(run)), verdicts.standing(), state.shares.team) == after
    assert mistakes(state) < mistaken or before.unsure
