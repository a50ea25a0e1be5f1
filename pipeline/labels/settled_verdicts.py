"""What reviewers have settled: the relations that hold and those that do not, as far as most of them agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.labels.verdict_log import VerdictLog
from pipeline.labels.verdicts import JudgedRelation, Kind, Verdict, agreed
from pipeline.runtime.logs import log
from storage.digests import digest_json
from storage.errors import FatalError

WRONG_KINDS = ("reject", "wrong_pair", "wrong_predicate")


@dataclass(frozen=True)
class SettledVerdicts:
    """Relations that hold and relations that do not, by the digest of their image."""

    right: Mapping[str, frozenset[JudgedRelation]] = field(default_factory=dict)
    wrong: Mapping[str, frozenset[JudgedRelation]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What a key holds of the verdicts: who said what, when and how often makes no difference."""
        sides = {"right": self.right, "wrong": self.wrong}
        listed = {
            side: sorted([r.image, r.subject, r.object, r.predicate] for found in by_image.values() for r in found)
            for side, by_image in sides.items()
        }
        return digest_json(listed)

    @classmethod
    def read(cls, folder: Path) -> SettledVerdicts:
        """Reads a folder of verdicts. Raises `FatalError` where there is none; damaged lines are logged and left out."""
        if not folder.is_dir():
            raise FatalError(f"no folder of verdicts at {folder}; name the one that `rlip verdicts` summarizes")
        verdicts = VerdictLog(folder)
        standing = verdicts.standing()
        for text in verdicts.damaged:
            log.warning("verdict left out", extra={"fields": {"reason": text}})
        return settled(standing)


def settled(standing: Mapping[JudgedRelation, Mapping[str, Verdict]]) -> SettledVerdicts:
    """Settles what most reviewers say. A tie settles nothing.

    A corrected relation holds, too, if most of those who corrected the label agree on it and no verdict on it says
    otherwise.
    """
    right: dict[str, set[JudgedRelation]] = {}
    wrong: dict[str, set[JudgedRelation]] = {}
    corrected: set[JudgedRelation] = set()
    for relation, said in standing.items():
        if is_right(said):
            right.setdefault(relation.image, set()).add(relation)
        elif is_wrong(said):
            wrong.setdefault(relation.image, set()).add(relation)
            corrected.update(_correction(said, agreed(said)))
    for relation in corrected:
        if relation not in standing:
            right.setdefault(relation.image, set()).add(relation)
    return SettledVerdicts(_frozen(right), _frozen(wrong))


def is_right(said: Mapping[str, Verdict]) -> bool:
    """Whether most of the sure reviewers accept a label."""
    return _votes(said) > 0


def is_wrong(said: Mapping[str, Verdict]) -> bool:
    """Whether most of the sure reviewers say that a label is wrong, in whatever way."""
    return _votes(said) < 0


def _votes(said: Mapping[str, Verdict]) -> int:
    """Reviewers who accept a label, less those who say that it is wrong."""
    kinds = [verdict.kind for verdict in said.values()]
    return kinds.count("accept") - sum(kind in WRONG_KINDS for kind in kinds)


def _correction(said: Mapping[str, Verdict], kind: Kind | None) -> list[JudgedRelation]:
    """The corrected relation that most of those who corrected agree on, if correcting is what most reviewers did."""
    if kind not in ("wrong_pair", "wrong_predicate"):
        return []
    ranked = Counter(verdict.corrected for verdict in said.values() if verdict.kind == kind).most_common(2)
    return [] if len(ranked) == 2 and ranked[0][1] == ranked[1][1] else [ranked[0][0]]


def _frozen(by_image: Mapping[str, set[JudgedRelation]]) -> dict[str, frozenset[JudgedRelation]]:
    return {image: frozenset(found) for image, found in by_image.items()}
