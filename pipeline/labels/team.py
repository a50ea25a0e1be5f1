"""A team of reviewers and the share of the images that each of them judges."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.labels.verdicts import require_reviewer
from storage.atomic import write_atomic
from storage.errors import FatalError
from storage.json_files import read_json, sealed_json

TEAM_FILE = "team.json"
"""File in a folder of verdicts."""
LABELS = 500
"""Number of audit labels to judge, enough for a precision to about 4 points."""
MOST_MEMBERS = 100


@dataclass(frozen=True)
class Team:
    """Who reviews. All labels of an image belong to one member, and those of the overlap to two.

    Shares follow from the image's digest and the number of seats (rendezvous hashing; Thaler and Ravishankar, IEEE/ACM
    Transactions on Networking 6, 1998): one more seat takes images from all others and moves no image between them.
    Raises `FatalError` for values out of range and for an unsafe name.
    """

    size: int = 1
    """Number of seats."""
    overlap: float = 0.0
    """Share of the images that two members judge."""
    labels: int = LABELS
    """Number of audit labels for the team to judge."""
    members: tuple[str, ...] = ()
    """Names by seat. Free seats go to those who come first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(dict.fromkeys(map(require_reviewer, self.members))))
        if not max(1, len(self.members)) <= self.size <= MOST_MEMBERS:
            least = max(1, len(self.members))
            raise FatalError(f"a team of {self.size} reviewers: choose a number from {least} to {MOST_MEMBERS}")
        if not 0 <= self.overlap <= 1:
            raise FatalError(f"an overlap of {self.overlap:g}: write a share of the images, e.g. 10%")
        if self.labels < 1:
            raise FatalError(f"an audit of {self.labels} labels: it needs at least one")

    def seats(self, digest: str) -> tuple[int, ...]:
        """The seats of the members who judge an image: one, or two in the overlap."""
        ranked = sorted(range(self.size), key=lambda seat: _number(digest, f"seat {seat}"))
        return tuple(ranked[: 2 if _number(digest, "overlap") < self.overlap else 1])

    def seat(self, name: str) -> int | None:
        """The seat of a reviewer; None for anyone who is not a member."""
        return self.members.index(name) if name in self.members else None

    def joined(self, name: str) -> Team:
        """The team after this reviewer came: they have a seat if one was free."""
        is_new = name not in self.members and len(self.members) < self.size
        return replace(self, members=(*self.members, name)) if is_new else self


def read_team(verdicts: Path) -> Team | None:
    """The team that judges in a folder of verdicts; None if there is none. Raises `FatalError` for a damaged file."""
    try:
        return read_json(verdicts / TEAM_FILE, Team, "remove it and name the team again with --reviewers")
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_team(verdicts: Path, team: Team) -> None:
    """Keeps the team next to its verdicts, so that later servers and summaries know the shares."""
    write_atomic(verdicts / TEAM_FILE, sealed_json(asdict(team)))


def _number(digest: str, use: str) -> float:
    """A number in [0, 1) that depends only on the arguments."""
    return int.from_bytes(hashlib.blake2b(digest.encode(), digest_size=8, key=use.encode()).digest(), "big") / 2**64
