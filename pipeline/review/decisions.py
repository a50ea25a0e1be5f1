"""The verdicts that the page sends, and the server's answers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.labels.audit_sample import permanent_numbers
from pipeline.labels.label_overrides import WRONG_KINDS
from pipeline.labels.label_rows import NO_DIGEST
from pipeline.labels.verdicts import ADJUDICATION, CLASS, JudgedRelation, Kind, Verdict, box4, looked_at, now
from pipeline.review.labels import Label, labels_of
from pipeline.review.pages import verdict_state
from pipeline.review.review_state import ReviewState
from pipeline.review.reviews import verdict_on
from pipeline.review.search import CONFIDENT, JUDGED, MINE, Search

AT_ONCE = 200
"""Maximum number of verdicts per request."""
_BIG = 2**62
ASKED = 20
"""One in this many labels of an accepted class stays open, to be asked."""
_CLASS_SEED = 1
_AGAIN = "the run has been recomputed; reload the page"


class Decision(BaseModel):
    """One verdict. Boxes are indices among the image's boxes."""

    model_config = ConfigDict(extra="forbid")

    label: int = Field(ge=0, le=_BIG)
    content: str | None = Field(None, max_length=16)
    """The label's `content` where the reviewer saw it; None: whichever label has the number."""
    kind: Kind
    subject: int | None = Field(None, ge=0, le=1_000_000)
    """The right box of the subject, for `wrong_pair`."""
    object: int | None = Field(None, ge=0, le=1_000_000)
    boxes: str | None = Field(None, max_length=16)
    """The image's `content` where the reviewer chose them; None: whichever boxes it has."""
    predicate: str | None = Field(None, max_length=200)
    """The right predicate, for `wrong_predicate`."""
    note: str | None = Field(None, max_length=200)
    of: str | None = Field(None, max_length=40)
    """The time of the verdict that an `undo` takes back; None: whichever stands."""
    seconds: float | None = Field(None, ge=0, le=86_400)
    queue: Literal["grid", "image", "information", "audit", "adjudication", "check"] | None = None


class Decisions(BaseModel):
    """Verdicts that one request records together."""

    model_config = ConfigDict(extra="forbid")

    decisions: list[Decision] = Field(min_length=1, max_length=AT_ONCE)


class Addition(BaseModel):
    """A relation that the image shows and no label names, or its `undo`. Boxes are indices among the image's boxes."""

    model_config = ConfigDict(extra="forbid")

    image: int = Field(ge=0, le=_BIG)
    content: str | None = Field(None, max_length=16)
    """The image's `content` where the reviewer saw it; None: whichever image has the number."""
    subject: int = Field(ge=0, le=1_000_000)
    object: int = Field(ge=0, le=1_000_000)
    predicate: str = Field(max_length=200)
    kind: Literal["accept", "undo"] = "accept"


def decide(state: ReviewState, reviewer: str, decisions: Decisions) -> dict[str, Any]:
    """Record all verdicts or none. A verdict that already stands is not recorded again, so the page may retry.

    Returns the answer: each label's state after its verdict reached the disk, the reviewer's number of verdicts and
    median seconds, and how many labels that were accepted with one of these are open again, because it is wrong.

    Raises ValueError for a label that no longer exists or is imported, for a correction that changes nothing, and for
    the adjudication of a label that the reviewer has judged or somebody else has settled.
    """
    labels = _labels(state, {one.label: one.content for one in decisions.decisions})
    standing = state.reviews.of(list(labels.values()))
    new = []
    for one in decisions.decisions:
        said = standing.get(one.label, {})
        last = said.get(reviewer)
        if last is not None and last.queue == ADJUDICATION:
            one.queue = ADJUDICATION
        elif one.queue == ADJUDICATION and one.kind != "undo":
            if len({(v.kind, v.corrected) for v in looked_at(said).values()}) < 2:
                # Beside a contested label, its image shows others.
                one.queue = "image"
            elif last is not None and last.queue != CLASS:
                raise ValueError("you have judged this label yourself; somebody else must settle it")
            elif any(other.queue == ADJUDICATION for other in said.values()):
                raise ValueError("somebody else has already settled this label; reload the page")
        verdict = _verdict(state, labels[one.label], one, reviewer)
        if not _stands(verdict, last, one.of):
            new.append((labels[one.label], verdict))
    state.reviews.record([label for label, _ in new], [verdict for _, verdict in new])
    # Also those that stand already: the server may have died before it reopened their class.
    wrong = (labels[one.label] for one in decisions.decisions if one.kind in WRONG_KINDS)
    classes = {
        (label.predicate, label.subject_category, label.object_category): label
        for label in wrong
        if label.probability >= CONFIDENT
    }
    reopened = sum(_reopen(state, reviewer, label) for label in classes.values())
    standing = state.reviews.of(list(labels.values()))
    own = state.reviews.log.standing_of(reviewer)
    paces = [one.seconds for one in own if one.seconds is not None]
    return {
        "states": [
            {"label": one.label, **verdict_state(standing.get(one.label, {}), reviewer, one.queue or "")}
            for one in decisions.decisions
        ],
        "verdicts": len(own),
        "median_seconds": round(statistics.median(paces), 2) if paces else None,
        "reopened": reopened,
    }


def accept_class(state: ReviewState, reviewer: str, number: int, content: str | None = None) -> dict[str, int]:
    """Accepts all `CONFIDENT` labels of the reviewer's share with the predicate and categories of one label.

    One in `ASKED` of them, and at least one, stays open to be asked, also if the class is accepted again. Returns how
    many were accepted and are to be asked. Raises ValueError for a less probable label, and if none is left to accept.
    """
    (label,) = _labels(state, {number: content}).values()
    if label.probability < CONFIDENT:
        raise ValueError(f"only labels with a probability of at least {CONFIDENT:g} can be accepted as a class")
    still_open, every = (
        _alike(state, label, f"probability >= {CONFIDENT} AND relation NOT IN ({judged})", reviewer)
        for judged in (JUDGED, MINE)
    )
    if not still_open:
        raise ValueError("your share has no open label of this class")
    places = permanent_numbers((each.judged for each in still_open), _CLASS_SEED)
    asked = np.argsort(places)[: -(-len(every) // ASKED)].tolist()
    accepted = [each for place, each in enumerate(still_open) if place not in asked]
    if not accepted:
        raise ValueError("the open labels of this class must be judged one by one")
    run = state.view.run.name
    state.reviews.record(accepted, [verdict_on(each, "accept", reviewer, run, queue=CLASS) for each in accepted])
    return {"accepted": len(accepted), "asked": len(asked)}


def add_relation(state: ReviewState, reviewer: str, addition: Addition) -> None:
    """Records a relation between two boxes of an image that no label of the run names, unless it stands already.

    Raises ValueError for an image that has changed, for boxes that it lacks, for one box as both ends, and for a
    relation that is a label.
    """
    detail = state.details.find(addition.image)
    ends = addition.subject, addition.object
    if detail is None or not detail.digest or max(ends) >= len(detail.boxes):
        raise ValueError("the image has no such boxes, or it was imported; reload the page")
    if addition.content not in (None, detail.content):
        raise ValueError(f"the image or its boxes have changed: {_AGAIN}")
    subject, object_ = (detail.boxes[end] for end in ends)
    relation = JudgedRelation(detail.digest, box4(subject), box4(object_), addition.predicate)
    if relation.subject == relation.object:
        raise ValueError("subject and object are the same box; choose two boxes")
    if any(label.judged == relation for label in detail.labels):
        raise ValueError("this relation is a label already; accept it")
    names = subject["category"], object_["category"]
    verdict = Verdict(
        relation, addition.kind, reviewer, now(), *names,
        queue="image", run=state.view.run.name, dataset=detail.dataset, image_id=detail.image_id,
    )  # fmt: skip
    said = state.reviews.log.standing_on([relation]).get(relation, {})
    if not _stands(verdict, said.get(reviewer), None):
        state.reviews.log.append([verdict])


def reopen_class(state: ReviewState, reviewer: str, number: int, content: str | None = None) -> dict[str, int]:
    """Takes back what `accept_class` recorded of a label's class. Returns how many labels are open again."""
    (label,) = _labels(state, {number: content}).values()
    return {"reopened": _reopen(state, reviewer, label)}


def _reopen(state: ReviewState, reviewer: str, label: Label) -> int:
    """Takes back the acceptance of a label's class."""
    alike = _alike(state, label, f"relation IN ({JUDGED} AND queue = '{CLASS}')", reviewer)
    run = state.view.run.name
    state.reviews.record(alike, [verdict_on(each, "undo", reviewer, run, queue=CLASS) for each in alike])
    return len(alike)


def _alike(state: ReviewState, label: Label, condition: str, reviewer: str) -> list[Label]:
    """The labels of a reviewer's share with a label's predicate and categories that meet a condition.

    Labels of copies of an image are one, since they share their verdicts.
    """
    search = Search(
        predicate=label.predicate, subject=label.subject_category, object=label.object_category, share="mine"
    )
    where, values = search.seen_by(reviewer, state.shares.seat(reviewer)).conditions()
    rows = state.index.rows(
        f"SELECT relation FROM relations WHERE {where} AND {condition} ORDER BY relation",
        {**values, "viewer": reviewer},
    )
    labels = labels_of(state.index, [row["relation"] for row in rows])
    return list({label.judged: label for label in labels}.values())


def _labels(state: ReviewState, shown: Mapping[int, str | None]) -> dict[int, Label]:
    """Number → label, for the numbers and contents that the page showed.

    Raises ValueError for labels that no longer exist and for those that take no verdict.
    """
    labels = {label.number: label for label in labels_of(state.index, list(shown))}
    for number, content in shown.items():
        if number not in labels or content not in (None, labels[number].content):
            raise ValueError(f"label {number} no longer exists: {_AGAIN}")
    if not all(label.digest for label in labels.values()):
        raise ValueError(NO_DIGEST)
    return labels


def _stands(verdict: Verdict, last: Verdict | None, of: str | None) -> bool:
    """Whether a verdict repeats the current one, or takes back one, given at time `of`, that is no longer current."""
    if last is None or verdict.kind == "undo":
        return verdict.kind == "undo" and (last is None or of not in (None, last.time))
    is_said = verdict.note in (None, last.note) and last.queue != CLASS
    return is_said and (verdict.kind, verdict.corrected) == (last.kind, last.corrected)


def _verdict(state: ReviewState, label: Label, decision: Decision, reviewer: str) -> Verdict:
    facts: dict[str, object] = {"seconds": decision.seconds, "queue": decision.queue, "note": decision.note}
    if decision.kind == "wrong_pair":
        detail = state.details.find(label.image)
        if detail is None or decision.boxes not in (None, detail.content):
            raise ValueError(f"the image or its boxes have changed: {_AGAIN}")
        for end in ("subject", "object"):
            index = getattr(decision, end)
            if index is not None and index >= len(detail.boxes):
                raise ValueError(f"{end}: the image has no box {index}")
            if index is not None and index != getattr(label, end):
                facts[f"corrected_{end}"] = box4(detail.boxes[index])
    if decision.kind == "wrong_predicate":
        facts["corrected_predicate"] = decision.predicate
    return verdict_on(label, decision.kind, reviewer, state.view.run.name, **facts)
