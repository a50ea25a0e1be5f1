"""A person's verdicts on pseudo-labels. They name content, so they stay valid when labels are recomputed.

A relation is identified by its image's digest, its boxes and its predicate, not by indices or runs (docs/review.md).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import AfterValidator, ConfigDict, Strict, StringConstraints, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from storage.errors import FatalError
from tagger.english.predicates import canonical

Box4 = tuple[float, float, float, float]
"""x, y, width, height in absolute pixels, rounded to two decimals."""

Kind = Literal["accept", "reject", "wrong_pair", "wrong_predicate", "unsure", "undo"]
"""accept: the label is right. reject: it is wrong. wrong_pair: it holds for other boxes, which the verdict names.
wrong_predicate: another predicate holds for the pair, which the verdict names. unsure: the image does not tell.
undo: the reviewer takes back their last standing verdict on the relation."""

KINDS: tuple[Kind, ...] = get_args(Kind)

AUDIT: Final = "audit"
ADJUDICATION: Final = "adjudication"
CLASS: Final = "class"
"""Names of queues. audit: a random sample, judged without sight of scores. adjudication: settles what reviewers
disagree on, so its verdict overrides theirs. class: accepted together with alike labels, without a look at it."""

_REVIEWER = re.compile(r"[\w@][\w.@-]{0,63}")


def require_reviewer(name: str) -> str:
    """Returns the name of a reviewer with composed accents. It also names a file.

    Raises `FatalError` for a name that is unsafe as a file name.
    """
    composed = unicodedata.normalize("NFC", name)
    if not _REVIEWER.fullmatch(composed):
        raise FatalError(
            f"reviewer {name[:80]!r}: use at most 64 letters, digits, '.', '_', '@' and '-', not '.' or '-' first"
        )
    return composed


def box4(values: Mapping[str, Any]) -> Box4:
    """The box in a row of table `images` (or in any mapping with x, y, w, h), rounded as verdicts round it."""
    x, y, w, h = (_rounded(values[side]) for side in "xywh")
    return x, y, w, h


def _rounded(side: float) -> float:
    # Adding 0 turns -0.0 into 0.0, which JSON would write differently.
    return round(side, 2) + 0.0


def _canonical(predicate: str) -> str:
    if found := canonical(predicate):
        return found
    raise ValueError(f"{predicate!r} contains no word")


def _utc(time: str) -> str:
    if datetime.fromisoformat(time).utcoffset() == timedelta(0):
        return time
    raise ValueError(f"{time!r} is not a time in UTC, e.g. 2026-01-31T12:00:00+00:00")


def _one_line(note: str) -> str:
    if len(note.splitlines()) > 1:
        raise ValueError("it has several lines; write one")
    return note


_Side = Annotated[float, AfterValidator(_rounded)]
_Box = Annotated[tuple[_Side, _Side, _Side, _Side], Strict(False)]
_Predicate = Annotated[str, AfterValidator(_canonical)]
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class JudgedRelation:
    """The relation that a verdict judges. Construction rounds boxes and makes the predicate canonical.

    `image`: digest in the image's row of table `images`. Raises ValueError for anything that identifies no relation.
    """

    image: Annotated[str, StringConstraints(min_length=1)]
    subject: _Box
    object: _Box
    predicate: _Predicate


@dataclass(frozen=True, config=_STRICT)
class Verdict:
    """One person's verdict on one relation, and its time.

    Raises ValueError if fields have wrong types, if kind `wrong_pair` lacks a box or `wrong_predicate` a predicate, if
    another kind has one, or if a correction changes nothing or relates a box to itself. Raises `FatalError` for an
    unsafe reviewer name.
    """

    relation: JudgedRelation
    kind: Kind
    reviewer: Annotated[str, AfterValidator(require_reviewer)]
    time: Annotated[str, AfterValidator(_utc)]
    """UTC, in ISO 8601."""
    subject_category: str
    object_category: str
    corrected_subject: _Box | None = None
    """The right box of the subject; None: the box was right."""
    corrected_object: _Box | None = None
    corrected_predicate: _Predicate | None = None
    seconds: float | None = None
    """How long the person looked at the item."""
    queue: str | None = None
    """The queue that presented the item, e.g. "audit" or "information"."""
    run: str | None = None
    score: float | None = None
    """The label's score at the time of the verdict."""
    dataset: str | None = None
    image_id: int | None = None
    note: Annotated[str, AfterValidator(_one_line)] | None = None
    """A line in the reviewer's own words."""

    @model_validator(mode="after")
    def _corrects_what_its_kind_says(self) -> Self:
        has_box = self.corrected_subject is not None or self.corrected_object is not None
        if has_box != (self.kind == "wrong_pair"):
            raise ValueError(f"corrected boxes: kind {self.kind!r} has {'none' if has_box else 'at least one'}")
        if (self.corrected_predicate is not None) != (self.kind == "wrong_predicate"):
            wanted = "one" if self.kind == "wrong_predicate" else "none"
            raise ValueError(f"corrected_predicate: kind {self.kind!r} has {wanted}")
        if self.kind in ("wrong_pair", "wrong_predicate") and self.corrected == self.relation:
            raise ValueError(f"{self.kind}: the correction is the label itself; name another one, or reject the label")
        if self.kind == "wrong_pair" and self.corrected.subject == self.corrected.object:
            raise ValueError("wrong_pair: the corrected subject and object are the same box; choose two boxes")
        return self

    @property
    def corrected(self) -> JudgedRelation:
        """The relation that holds according to this verdict: the judged one unless it was corrected."""
        return JudgedRelation(
            self.relation.image,
            self.corrected_subject or self.relation.subject,
            self.corrected_object or self.relation.object,
            self.corrected_predicate or self.relation.predicate,
        )

    def as_row(self) -> dict[str, Any]:
        """JSON values from which `parse_verdict` restores the verdict, without fields that have no value."""
        return {name: value for name, value in asdict(self).items() if value is not None}


StandingVerdicts = dict[JudgedRelation, dict[str, Verdict]]
"""Relation → reviewer → standing verdict."""


_VERDICT = TypeAdapter(Verdict)


def parse_verdict(line: bytes) -> Verdict:
    """The verdict whose row a line of JSON holds. Raises as `Verdict` does, with the field's name.

    Unknown fields are ignored, so that files of later versions can be read.
    """
    return _VERDICT.validate_json(line)


def deciding(said: Mapping[str, Verdict]) -> Mapping[str, Verdict]:
    """The verdicts that settle a label: those of adjudication, else of those who looked at it, else all."""
    return {name: verdict for name, verdict in said.items() if verdict.queue == ADJUDICATION} or looked_at(said) or said


def looked_at(said: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """The verdicts of reviewers who looked at this very label."""
    return {name: verdict for name, verdict in said.items() if verdict.queue != CLASS}


def asked_again(said: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """The verdicts on a settled label by those who were asked for it in their audit after that.

    An adjudicator who is unsure settles nothing.
    """
    settled = min((v.time for v in said.values() if v.queue == ADJUDICATION and v.kind != "unsure"), default=None)
    blind = {name: verdict for name, verdict in said.items() if verdict.queue == AUDIT}
    return {name: verdict for name, verdict in blind.items() if settled is not None and verdict.time > settled}


def now() -> str:
    """The current time in the format of verdicts: UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
