"""Queues and audits: what is judged first, what a sample says of all labels, and how far reviewers agree."""

from collections import Counter
from dataclasses import replace

import duckdb
import numpy as np
import pytest

from pipeline.labels.audit_sample import (
    AUDIT_SEED,
    FIRST_OF_EACH,
    RIGHT,
    UNJUDGED,
    UNSURE,
    WRONG,
    AuditPrecision,
    AuditStrata,
    audit_order,
    audit_precision,
    permanent_numbers,
    wilson_interval,
)
from pipeline.labels.label_overrides import settled
from pipeline.labels.label_rows import ReviewableLabel
from pipeline.labels.verdict_summary import (
    audit_of,
    audited,
    fitted_on_verdicts,
    fleiss_kappa,
    krippendorff_alpha,
    propose_thresholds,
    reviewer_agreement,
    summarize,
)
from pipeline.labels.verdicts import JudgedRelation, Verdict, asked_again
from pipeline.review.search import ORDERS

NAMES = [f"predicate {number}" for number in range(30)]


def population(seed: int, size: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels with a long tail of predicates, whose truth depends on predicate and score."""
    draw = np.random.default_rng(seed)
    share = 1 / (1 + np.arange(30.0))
    which = draw.choice(30, size, p=share / share.sum())
    scores = draw.beta(2, 2, size)
    right = draw.random(size) < np.clip(0.25 + 0.7 * scores - 0.01 * which, 0, 1)
    return [NAMES[int(place)] for place in which], scores, right


def informative(rows: list[tuple[str, float, int, int, int]]) -> list[str]:
    """Labels in order of the queue by information. `rows`: name, probability, labels of the predicate, judged, rank."""
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE labels (relation TEXT, probability DOUBLE, frequency INT, judged INT, rank INT)"
        )
        connection.executemany("INSERT INTO labels VALUES (?, ?, ?, ?, ?)", rows)
        order = f"SELECT relation FROM labels ORDER BY {ORDERS['informative'][1]}"
        return [name for (name,) in connection.execute(order).fetchall()]


def test_uncertain_labels_of_frequent_and_seldom_judged_predicates_come_first():
    rows = [("on", 0.5, 3, 0, 0), ("on again", 0.5, 3, 0, 1), ("sure on", 0.99, 3, 0, 2), ("rides", 0.5, 1, 0, 0)]
    assert informative(rows) == ["on", "rides", "on again", "sure on"]
    assert informative([("on", 0.5, 2, 5, 0), ("rides", 0.5, 1, 0, 0)]) == ["rides", "on"]
    sizes = {"on": 900, "rides": 100}
    rows = [(f"{name} {rank}", 0.5, size, 0, rank) for name, size in sizes.items() for rank in range(size)]
    assert sum(name.startswith("on") for name in informative(rows)[:80]) == 60, "by the root of their frequency"


def test_the_sample_has_all_strata_first_and_then_follows_their_sizes():
    predicates, scores, _ = population(0, 4000)
    strata = AuditStrata.of(predicates, scores)
    assert strata.names[0].startswith("frequent, confidence ")
    order = audit_order(strata, np.random.default_rng(1).random(4000))
    assert sorted(order.tolist()) == list(range(4000))
    first = np.bincount(strata.stratum[order[: FIRST_OF_EACH * len(strata.names)]])
    assert first.tolist() == [FIRST_OF_EACH] * len(strata.names)
    share = np.bincount(strata.stratum[order[:400]]) / 400
    assert np.abs(share - strata.sizes / 4000).max() < 0.01


def test_labels_that_are_made_again_keep_their_places_in_the_sample():
    relations = [JudgedRelation(f"{n}", (0, 0, 1, 1), (1, 1, 2, 2), "on") for n in range(500)]
    numbers = permanent_numbers(relations, seed=3)
    assert numbers[10:].tolist() == permanent_numbers(relations[10:], seed=3).tolist()
    assert numbers.tolist() != permanent_numbers(relations, seed=4).tolist()
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.05


def test_an_audit_of_many_labels_holds_those_of_its_sample_alone(monkeypatch):
    monkeypatch.setattr("pipeline.labels.verdict_summary.MOST_AUDITED", 50)
    relations = [JudgedRelation(f"{n}", (0, 0, 1, 1), (1, 1, 2, 2), "on") for n in range(500)]
    lowest = np.argsort(permanent_numbers(relations, AUDIT_SEED))[:50]
    verdicts = [Verdict(relations[n], "accept", "ada", "2026-01-31T12:00:00+00:00", "a", "b") for n in lowest]
    labels = (ReviewableLabel(each, 0.5, "toys", 1, 0, 1, None) for each in relations)
    found = audit_of(labels, {verdict.relation: {"ada": verdict} for verdict in verdicts})
    assert (found.precision, found.judged, found.covered) == (1.0, 50, 1.0)
    assert audit_of((), {}).judged == 0


def test_intervals_of_stratified_samples_hold_the_truth_as_often_as_they_say():
    predicates, scores, right = population(7, 3000)
    truth = right.mean()
    strata = AuditStrata.of(predicates, scores)
    inside = widths = misses = 0.0
    for seed in range(200):
        numbers = np.random.default_rng(seed).random(3000)
        outcomes = np.full(3000, UNJUDGED, np.int8)
        judged = audit_order(strata, numbers)[:120]
        outcomes[judged] = np.where(right[judged], RIGHT, WRONG)
        found = audit_precision(strata, numbers, outcomes)
        assert found.precision is not None and found.low is not None and found.high is not None
        assert found.covered == 1.0
        inside += found.low <= truth <= found.high
        widths += found.high - found.low
        misses += found.precision - truth
    assert 0.925 <= inside / 200 <= 0.99
    assert abs(misses / 200) < 0.01
    low, high = wilson_interval(truth, 120)
    assert widths / 200 < 1.05 * (high - low)


@pytest.mark.parametrize(("errors", "verdicts"), [(0.05, 160), (0.1, 220)])
def test_with_a_verifier_fewer_verdicts_give_the_same_interval(errors, verdicts):
    predicates, scores, right = population(7, 4000)
    right = right | (np.random.default_rng(5).random(4000) < 0.7)  # about as precise as kept labels are
    said = np.where(np.random.default_rng(3).random(4000) < errors, ~right, right)
    plain = AuditStrata.of(predicates, scores)
    verified = AuditStrata.of(predicates, scores, np.where(said, 0.9, 0.2).tolist())
    found = []
    for seed in range(100, 160):
        numbers = np.random.default_rng(seed).random(4000)
        for strata, judged in ((plain, 400), (verified, verdicts)):
            outcomes = np.full(4000, UNJUDGED, np.int8)
            order = audit_order(strata, numbers)[:judged]
            outcomes[order] = np.where(right[order], RIGHT, WRONG)
            found.append(audit_precision(strata, numbers, outcomes))
    widths = np.array([each.high - each.low for each in found]).reshape(-1, 2).mean(axis=0)
    assert widths[1] <= widths[0]
    few = found[1::2]
    assert abs(np.mean([each.precision for each in few]) - right.mean()) < 0.005
    assert sum(each.low <= right.mean() <= each.high for each in few) >= 55
    shares = np.mean([(each.verifier.of_right, each.verifier.of_wrong) for each in few], axis=0)
    assert shares == pytest.approx([said[right].mean(), said[~right].mean()], abs=0.01)


def test_a_predicates_precision_is_not_that_of_the_refused_labels_that_are_drawn_more_often():
    right = np.random.default_rng(0).random(2000) < 0.8
    said = np.where(np.random.default_rng(1).random(2000) < 0.1, ~right, right)
    strata = AuditStrata.of(["ride"] * 2000, [0.9] * 2000, np.where(said, 0.9, 0.1).tolist())
    inside = 0
    for seed in range(20):
        numbers = np.random.default_rng(seed).random(2000)
        outcomes = np.full(2000, UNJUDGED, np.int8)
        judged = audit_order(strata, numbers)[:300]
        outcomes[judged] = np.where(right[judged], RIGHT, WRONG)
        found = audit_precision(strata, numbers, outcomes, predicates=["ride"] * 2000)
        (of_predicate,) = found.predicates
        assert (of_predicate.precision, of_predicate.low, of_predicate.judged) == (found.precision, found.low, 300)
        inside += of_predicate.low <= right.mean() <= of_predicate.high
    assert inside >= 17


def test_labels_that_a_verifier_refuses_are_drawn_twice_as_often():
    strata = AuditStrata.of(["on"] * 400, [0.5] * 400, [0.9, 0.9, 0.1, None] * 100)
    assert [name.partition(", ")[2] for name in strata.names] == [
        "accepted by the verifier", "refused by the verifier", "not verified",
    ]  # fmt: skip
    drawn = strata.stratum[audit_order(strata, np.random.default_rng(0).random(400))[:100]]
    assert np.bincount(drawn).tolist() == [40, 40, 20]


def test_labels_judged_for_being_doubtful_do_not_bend_the_audit():
    predicates, scores, right = population(7, 3000)
    strata, numbers = AuditStrata.of(predicates, scores), np.random.default_rng(0).random(3000)
    outcomes = np.full(3000, UNJUDGED, np.int8)
    judged = audit_order(strata, numbers)[:200]
    outcomes[judged] = np.where(right[judged], RIGHT, WRONG)
    alone = audit_precision(strata, numbers, outcomes)
    others = np.setdiff1d(np.flatnonzero(~right), judged)[:600]
    last = set(audit_order(strata, numbers)[200:600].tolist())
    outcomes[[place for place in others.tolist() if place not in last]] = WRONG
    assert audit_precision(strata, numbers, outcomes) == alone


def test_verdicts_on_all_labels_leave_no_interval_and_unsure_ones_are_counted_apart():
    strata, numbers = AuditStrata.of(["on"] * 4, [0.5] * 4), np.arange(4) / 4
    assert strata.names == ("frequent, confidence 0.50 to 1.00",)
    whole = audit_precision(strata, numbers, np.array([RIGHT, RIGHT, WRONG, RIGHT], np.int8))
    assert (whole.precision, whole.low, whole.high, whole.judged) == (0.75, 0.75, 0.75, 4)
    some = audit_precision(strata, numbers, np.array([RIGHT, UNSURE, UNJUDGED, WRONG], np.int8))
    assert (some.precision, some.judged, some.unsure) == (1.0, 1, 1)
    assert some.low is not None and some.low < 0.7
    none = audit_precision(strata, numbers, np.full(4, UNJUDGED, np.int8))
    assert (none.precision, none.low, none.covered) == (None, None, 0.0)


def test_no_labels_make_no_strata():
    strata = AuditStrata.of([], [])
    assert audit_order(strata, np.zeros(0)).tolist() == []
    assert audit_precision(strata, np.zeros(0), np.zeros(0, np.int8)).precision is None


def test_krippendorffs_alpha_fleiss_kappa_and_wilsons_interval_are_those_of_the_textbook():
    # Krippendorff (2011), Computing Krippendorff's alpha-reliability, C: 12 items, 4 observers, missing answers.
    rows = ["1 1  1", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", " 555", "  11", "  3 "]
    found = krippendorff_alpha([Counter(row.replace(" ", "")) for row in rows])
    assert (found.value, found.items) == (pytest.approx(0.743, abs=5e-4), 11)
    assert krippendorff_alpha([{"yes": 1}]).items == 0
    assert krippendorff_alpha([{"yes": 2}]).value is None
    # Fleiss (1971): 10 items, 14 raters, 5 answers.
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    found = fleiss_kappa([{str(place): count for place, count in enumerate(row)} for row in table])
    assert found.value == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa([{"yes": 1}]).items == 0
    assert wilson_interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def said(relation: JudgedRelation, queue: str | None = None, **kinds: str) -> dict[str, Verdict]:
    """Reviewer → verdict of a kind."""
    given = "2026-01-31T12:00:00+00:00", "cup", "table"
    return {name: Verdict(relation, kind, name, *given, queue=queue) for name, kind in kinds.items()}  # type: ignore[arg-type]


def test_agreement_is_of_those_who_looked_alone():
    relations = [JudgedRelation(f"{n}", (0, 0, 1, 1), (1, 1, 2, 2), "on") for n in range(6)]
    pairs = [("accept", "accept"), ("reject", "reject"), ("accept", "reject")]
    standing = {one: said(one, ada=a, bob=b) for one, (a, b) in zip(relations, pairs, strict=False)}
    # The third was settled by Cy, the fourth has one verdict, and two were accepted with their class.
    standing[relations[2]] |= said(relations[2], "adjudication", cy="accept")
    standing[relations[3]] = said(relations[3], ada="accept")
    for one in relations[4:]:
        standing[one] = said(one, ada="reject") | said(one, "class", bob="accept")
    found = reviewer_agreement(standing)
    # Observed 2/3; by chance 1/2, and without replacement 2 · (3 · 2) / (6 · 5) = 2/5.
    assert found.fleiss.items == found.krippendorff.items == 3
    assert found.fleiss.value == pytest.approx(1 / 3)
    assert found.krippendorff.value == pytest.approx((2 / 3 - 2 / 5) / (1 - 2 / 5))


def test_an_adjudication_stands_and_a_class_is_no_evidence():
    one = JudgedRelation("1", (0, 0, 1, 1), (1, 1, 2, 2), "on")
    two = said(one, "audit", ada="accept", bob="accept")
    assert audited(two) == (RIGHT, True)
    assert audited(two | said(one, "adjudication", cy="reject")) == (WRONG, True)
    assert audited(two | said(one, "grid", cy="accept")) == (RIGHT, False)
    assert audited(said(one, "class", ada="accept")) == (UNJUDGED, False)
    of_class = said(one, "class", ada="accept", bob="accept")
    assert settled({one: of_class}).right == {"1": {one}}
    assert settled({one: of_class | said(one, "grid", cy="reject")}).wrong == {"1": {one}}
    settled_ = settled({one: two | said(one, "adjudication", cy="reject")})
    assert (settled_.right, settled_.wrong) == ({}, {"1": frozenset({one})})


def test_labels_that_were_settled_and_asked_again_measure_a_person_and_not_the_agreement():
    one = JudgedRelation("1", (0, 0, 1, 1), (1, 1, 2, 2), "on")
    two = said(one, "audit", ada="accept", bob="reject") | said(one, "adjudication", cy="reject")
    later = {
        name: replace(verdict, time="2026-02-01T12:00:00+00:00")
        for name, verdict in (said(one, "audit", dan="reject", eva="accept") | said(one, "grid", fay="reject")).items()
    }
    assert asked_again(two) == {} and asked_again(two | later).keys() == {"dan", "eva"}
    assert summarize([], {one: two | later}, ()).honeypots == {"dan": (1, 1), "eva": (1, 0)}
    doubted = two | later | said(one, "adjudication", cy="unsure")
    assert summarize([], {one: doubted}, ()).honeypots == {}, "nobody could answer as it was settled"
    dan, eva = later["dan"], later["eva"]
    assert reviewer_agreement({one: two}) == reviewer_agreement({one: two | {"dan": dan, "eva": eva}})


def test_labels_of_copies_of_an_image_are_fitted_once():
    one = JudgedRelation("1", (0, 0, 1, 1), (1, 1, 2, 2), "on")
    copies = [ReviewableLabel(one, 0.9, "toys", image_id, 0, 1, None) for image_id in (1, 2)]
    _, seen = fitted_on_verdicts(copies, {one: said(one, "audit", ada="accept")})
    assert seen == {"on": [0.9]}


def test_labels_of_copies_of_an_image_are_one_draw_of_the_audit():
    relations = [JudgedRelation(f"{n}", (0, 0, 1, 1), (1, 1, 2, 2), "on") for n in range(40)]
    standing = {one: said(one, "audit", ada="reject" if n % 4 else "accept") for n, one in enumerate(relations)}
    labels = [ReviewableLabel(one, 0.5, "toys", n, 0, 1, None) for n, one in enumerate(relations)]
    alone = audit_of(labels, standing)
    assert alone.judged == 40 and audit_of(labels * 3, standing) == alone


def test_thresholds_follow_from_labels_that_are_read_once():
    relations = [JudgedRelation(f"{n}", (0, 0, 1, 1), (1, 1, 2, 2), "on") for n in range(40)]
    labels = [ReviewableLabel(each, n / 40, "toys", n, 0, 1, None) for n, each in enumerate(relations)]
    standing = {each: said(each, "audit", ada="reject" if n < 10 else "accept") for n, each in enumerate(relations)}
    (found,) = propose_thresholds(iter(labels), standing, 0.8)
    assert found == propose_thresholds(labels, standing, 0.8)[0] and found.verdicts == 40 > found.labels > 0


def test_a_slow_member_of_a_team_does_not_void_the_verdicts_of_the_others():
    predicates, scores, right = population(7, 3000)
    strata, numbers = AuditStrata.of(predicates, scores), np.random.default_rng(0).random(3000)
    seats = np.random.default_rng(1).integers(0, 10, 3000)
    order = audit_order(strata, numbers)
    judged = np.concatenate([order[seats[order] == seat][:60] for seat in range(9)])
    # The tenth has judged only what comes last in the order, which says nothing of the rest.
    judged = np.append(judged, order[seats[order] == 9][-20:])
    outcomes = np.full(3000, UNJUDGED, np.int8)
    outcomes[judged] = np.where(right[judged], RIGHT, WRONG)
    found = audit_precision(strata, numbers, outcomes, seats, predicates, seats == 3)
    assert (found.judged, found.blind) == (540, 60)
    assert found.low is not None and found.high is not None and found.low < right.mean() < found.high
    assert sum(each.judged for each in found.predicates) == 540
    assert audit_precision(strata, numbers, outcomes).judged < 200, "one order for all"


def test_what_few_labels_without_verdicts_leave_out_is_not_rounded_away():
    found = AuditPrecision(0.5, 0.4, 0.6, judged=80, unsure=0, covered=0.997, strata=())
    assert ", for the 0.997 of them in strata with verdicts, by" in found.in_words()
    assert ", for the 0.999 of" in replace(found, covered=0.9999).in_words()
    assert "strata" not in replace(found, covered=1.0).in_words()
