"""The verdicts that the page sends, and the server's answers."""

from __future__ import annotations

import statistics

from pydantic import BaseModel, ConfigDict, Field

from pipeline.labels.verdicts import Kind, Verdict, box4
from pipeline.review.labels import Label, labels_of
from pipeline.review.pages import verdict_state
from pipeline.review.review_state import ReviewState
from pipeline.review.reviews import verdict_on

_AT_ONCE = 200
"""Maximum number of verdicts per request."""
_BIG = 2**62


class Decision(BaseModel):
    """One verdict. Boxes are indices among the image's boxes."""

    model_config = ConfigDict(extra="forbid")

    label: int = Field(ge=0, le=_BIG)
    kind: Kind
    subject: int | None = Field(None, ge=0, le=1_000_000)
    """The right box of the subject, for `wrong_pair`."""
    object: int | None = Field(None, ge=0, le=1_000_000)
    predicate: str | None = Field(None, max_length=200)
    """The right predicate, for `wrong_predicate`."""
    seconds: float | None = Field(None, ge=0, le=86_400)
    queue: str | None = Field(None, max_length=40)


class Decisions(BaseModel):
    """Verdicts that one request records together."""

    model_config = ConfigDict(extra="forbid")

    decisions: list[Decision] = Field(min_length=1, max_length=_AT_ONCE)


class State(BaseModel):
    """The verdicts on a label: the reviewer's own ("" for none), and those of others as (name, kind)."""

    label: int
    kind: str
    correction: str
    others: list[tuple[str, str]]


class Decided(BaseModel):
    """Each label's state after its verdict reached the disk, and the reviewer's pace: verdicts and median seconds."""

    states: list[State]
    verdicts: int
    median_seconds: float | None


def decide(state: ReviewState, reviewer: str, decisions: Decisions) -> Decided:
    """Record all verdicts or none. A verdict that already stands is not recorded again, so the page may retry.

    Raises ValueError for a label that no longer exists or is imported, and for a correction that changes nothing.
    """
    numbers = [one.label for one in decisions.decisions]
    labels = {label.number: label for label in labels_of(state.index, numbers)}
    gone = [number for number in numbers if number not in labels]
    if gone:
        raise ValueError(f"label {gone[0]} no longer exists: the run has been computed again; reload the page")
    if any(not label.digest for label in labels.values()):
        raise ValueError(
            "a verdict identifies its image by a digest, which imported images lack; judge the run of a recipe"
        )
    standing = state.reviews.of(list(labels.values()))
    new = []
    for one in decisions.decisions:
        verdict = _verdict(state, labels[one.label], one, reviewer)
        if not _stands(verdict, standing.get(one.label, {}).get(reviewer)):
            new.append((labels[one.label], verdict))
    state.reviews.record([label for label, _ in new], [verdict for _, verdict in new])
    standing = state.reviews.of(list(labels.values()))
    own = state.reviews.log.standing_of(reviewer)
    paces = [one.seconds for one in own if one.seconds is not None]
    return Decided(
        states=[State(label=n, **verdict_state(standing.get(n, {}), reviewer)) for n in dict.fromkeys(numbers)],
        verdicts=len(own),
        median_seconds=round(statistics.median(paces), 2) if paces else None,
    )


def _stands(verdict: Verdict, last: Verdict | None) -> bool:
    """Whether a verdict repeats the current one."""
    if last is None:
        return verdict.kind == "undo"
    return (verdict.kind, verdict.corrected) == (last.kind, last.corrected)


def _verdict(state: ReviewState, label: Label, decision: Decision, reviewer: str) -> Verdict:
    facts: dict[str, object] = {"seconds": decision.seconds, "queue": decision.queue}
    if decision.kind == "wrong_pair":
        detail = state.details.find(label.image)
        boxes = detail.boxes if detail is not None else []
        for end in ("subject", "object"):
            index = getattr(decision, end)
            if index is not None and index >= len(boxes):
                raise ValueError(f"{end}: the image has no box {index}")
            if index is not None and index != getattr(label, end):
                facts[f"corrected_{end}"] = box4(boxes[index])
    if decision.kind == "wrong_predicate":
        facts["corrected_predicate"] = decision.predicate
    return verdict_on(label, decision.kind, reviewer, state.view.run.name, **facts)
