"""A person's verdicts on pseudo-labels. They name content, so they stay valid when labels are recomputed.

A relation is identified by its image's digest, its boxes and its predicate, not by indices or runs (docs/review.md).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

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
"""Names of queues. audit: a random sample, judged without sight of scores. adjudication: settles what reviewers disagree
on, so its verdict stands over theirs. class: accepted together with alike labels, without a look at this one."""

_REVIEWER = re.compile(r"[\w@][\w.@-]{0,63}")
_BOX_SIDES = "xywh"


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
    return _box([values[side] for side in _BOX_SIDES])


@dataclass(frozen=True)
class JudgedRelation:
    """The relation that a verdict judges. Construction rounds boxes and makes the predicate canonical.

    `image`: digest in the image's row of table `images`. Raises ValueError for anything that identifies no relation.
    """

    image: str
    subject: Box4
    object: Box4
    predicate: str

    def __post_init__(self) -> None:
        if not isinstance(self.image, str) or not self.image:
            raise ValueError(f"image: {self.image!r} is not a digest")
        for name in ("subject", "object"):
            object.__setattr__(self, name, _box(getattr(self, name), name))
        object.__setattr__(self, "predicate", _predicate(self.predicate, "predicate"))


@dataclass(frozen=True)
class Verdict:
    """One person's verdict on one relation, and its time.

    Raises ValueError if fields have wrong types, if kind `wrong_pair` lacks a box or `wrong_predicate` a predicate, if
    another kind has one, or if a correction changes nothing or relates a box to itself. Raises `FatalError` for an
    unsafe reviewer name.
    """

    relation: JudgedRelation
    kind: Kind
    reviewer: str
    time: str
    """UTC, in ISO 8601."""
    subject_category: str
    object_category: str
    corrected_subject: Box4 | None = None
    """The right box of the subject; None: the box was right."""
    corrected_object: Box4 | None = None
    corrected_predicate: str | None = None
    seconds: float | None = None
    """How long the person looked at the item."""
    queue: str | None = None
    """The queue that presented the item, e.g. "audit" or "information"."""
    run: str | None = None
    score: float | None = None
    """The label's score at the time of the verdict."""
    dataset: str | None = None
    image_id: int | None = None
    note: str | None = None
    """A line in the reviewer's own words."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind!r} is not one of {', '.join(KINDS)}")
        object.__setattr__(self, "reviewer", require_reviewer(_text(self.reviewer, "reviewer")))
        _require_time(_text(self.time, "time"))
        _text(self.subject_category, "subject_category")
        _text(self.object_category, "object_category")
        for name in ("corrected_subject", "corrected_object"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _box(getattr(self, name), name))
        if self.corrected_predicate is not None:
            corrected = _predicate(self.corrected_predicate, "corrected_predicate")
            object.__setattr__(self, "corrected_predicate", corrected)
        for name in ("seconds", "score"):
            if getattr(self, name) is not None:
                _number(getattr(self, name), name)
        for name in ("queue", "run", "dataset", "note"):
            if getattr(self, name) is not None:
                _text(getattr(self, name), name)
        if self.image_id is not None and (not isinstance(self.image_id, int) or isinstance(self.image_id, bool)):
            raise ValueError(f"image_id: {self.image_id!r} is not a whole number")
        if len((self.note or "").splitlines()) > 1:
            raise ValueError("note: it has several lines; write one")
        self._require_correction()

    def _require_correction(self) -> None:
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
        """JSON values from which `verdict_of` restores the verdict, without fields that have no value."""
        return {name: value for name, value in asdict(self).items() if value is not None}


StandingVerdicts = Mapping[JudgedRelation, Mapping[str, Verdict]]
"""Relation → reviewer → standing verdict."""


def verdict_of(row: Any) -> Verdict:
    """The verdict that `as_row` converted. Raises ValueError naming the field for any other value.

    Unknown fields are ignored, so that files of later versions can be read.
    """
    if not isinstance(row, dict) or not isinstance(row.get("relation"), dict):
        raise ValueError("not a verdict: expected a JSON object with an object `relation`")
    relation = JudgedRelation(**_known(JudgedRelation, row["relation"]))
    try:
        return Verdict(**{**_known(Verdict, row), "relation": relation})
    except FatalError as error:
        raise ValueError(str(error)) from error


def deciding(said: Mapping[str, Verdict]) -> Mapping[str, Verdict]:
    """The verdicts that settle a label: those of adjudication if there are any, otherwise all."""
    return {name: verdict for name, verdict in said.items() if verdict.queue == ADJUDICATION} or said


def looked_at(said: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """The verdicts of reviewers who looked at this very label."""
    return {name: verdict for name, verdict in said.items() if verdict.queue != CLASS}


def asked_again(said: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """The verdicts on a settled label by those who were asked for it in their audit after that."""
    settled = min((verdict.time for verdict in said.values() if verdict.queue == ADJUDICATION), default=None)
    blind = {name: verdict for name, verdict in said.items() if verdict.queue == AUDIT}
    return {name: verdict for name, verdict in blind.items() if settled is not None and verdict.time > settled}


def agreed(verdicts: Mapping[str, Verdict]) -> Kind | None:
    """The majority's verdict on one relation. `verdicts`: reviewer → standing verdict.

    Unsure reviewers have no vote. None: no one voted, or the most frequent kinds are tied.
    """
    votes = Counter(verdict.kind for verdict in verdicts.values() if verdict.kind not in ("unsure", "undo"))
    ranked = votes.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def now() -> str:
    """The current time in the format of verdicts: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _known(kind: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields. Raises ValueError if one without a default is missing."""
    names = [each.name for each in fields(kind)]
    needed = [each.name for each in fields(kind) if each.default is not None]
    if missing := [name for name in needed if name not in row]:
        raise ValueError(f"{missing[0]}: missing")
    return {name: row[name] for name in names if name in row}


def _box(values: Any, name: str = "box") -> Box4:
    if not isinstance(values, list | tuple) or len(values) != 4:
        raise ValueError(f"{name}: {values!r} is not a box [x, y, width, height]")
    # Adding 0 turns -0.0 into 0.0, which JSON would write differently.
    x, y, w, h = (round(_number(value, name), 2) + 0.0 for value in values)
    return x, y, w, h


def _number(value: Any, name: str) -> float:
    try:
        if not isinstance(value, str | bytes | bool) and math.isfinite(number := float(value)):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name}: {value!r} is not a finite number")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: {value!r} is not text")
    value.encode()  # Raises ValueError for half a surrogate pair, which no file can contain.
    return value


def _predicate(value: Any, name: str) -> str:
    found = canonical(_text(value, name))
    if not found:
        raise ValueError(f"{name}: {value!r} contains no word")
    return found


def _require_time(text: str) -> None:
    try:
        offset = datetime.fromisoformat(text).utcoffset()
    except ValueError:
        offset = None
    if offset is None or offset:
        raise ValueError(f"time: {text!r} is not a time in UTC, e.g. 2026-01-31T12:00:00+00:00")
