"""What is wrong with a file of detections: by reason, with the number of cases and some of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from storage.errors import FatalError

EXAMPLES = 3


@dataclass(frozen=True)
class Fault:
    """One kind of fault: its reason, how many cases there are, and some of them."""

    reason: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.reason}: {self.count:,} ({', '.join(self.examples)}{more})"


@dataclass(frozen=True)
class DetectionFindings:
    """What was read from a file of detections, and what was left out."""

    path: Path
    images: int
    """Images in the file"""
    relations: int
    """Relations that are scored"""
    faults: tuple[Fault, ...] = ()
    """What was left out"""
    noted: tuple[Fault, ...] = ()
    """What is odd and scored nevertheless"""
    missing: Fault | None = None
    """Images of the ground truth that the file lacks; they count as images without detections"""

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.images:,} images, {self.relations:,} relations are scored"]
        lines += [f"left out: {fault}" for fault in self.faults]
        lines += [f"scored nevertheless: {fault}" for fault in self.noted]
        return "\n  ".join([*lines, *([str(self.missing)] if self.missing else [])])


class DetectionsError(FatalError):
    """Detections that can't be scored as they are. `findings` says what is wrong with them."""

    def __init__(self, findings: DetectionFindings, hints: Iterable[str]) -> None:
        found = [*findings.faults, *([findings.missing] if findings.missing else [])]
        super().__init__(f"{findings.path} can't be scored:\n  " + "\n  ".join([*map(str, found), *hints]))
        self.findings = findings


class Faults:
    """Collects faults by reason."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, list[str]]] = {}

    def add(self, reason: str, count: int, examples: Iterable[str]) -> None:
        """Counts cases of a reason, of which the first few are kept; 0 adds nothing."""
        if count:
            before, kept = self._found.setdefault(reason, (0, []))
            kept += islice(examples, EXAMPLES - len(kept))
            self._found[reason] = before + count, kept

    def __iter__(self) -> Iterator[Fault]:
        for reason, (count, examples) in self._found.items():
            yield Fault(reason, count, tuple(examples))
