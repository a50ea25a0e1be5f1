"""Rows of a benchmark's table: a figure of ours beside a peer's, their ratio, and whether it meets its goal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """What a row's ratio, or its own figure, must be at least or at most."""

    limit: float
    most: bool = False
    """Whether `limit` is the largest allowed value rather than the smallest."""
    of_ratio: bool = True

    def met(self, value: float) -> bool:
        """Whether a value meets the goal."""
        return value <= self.limit if self.most else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.limit:g}{'x' if self.of_ratio else ''}"


@dataclass(frozen=True)
class Row:
    """One comparison. `note` stands in for the figures that can't be measured here."""

    name: str
    unit: str = ""
    ours: float | None = None
    peer: float | None = None
    goal: Goal | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours divided by the peer's."""
        return self.ours / self.peer if self.ours is not None and self.peer else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or figures."""
        value = self.ratio if self.goal is not None and self.goal.of_ratio else self.ours
        return None if self.goal is None or value is None else self.goal.met(value)

    def figures(self) -> dict[str, Any]:
        """The row as JSON values."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


HEADER = f"{'':64}{'ours':>10}{'peer':>10} {'':11}{'ratio':>7}{'goal':>9}  met"


def print_row(row: Row) -> None:
    """Prints a row below `HEADER`."""
    if row.ours is None and row.peer is None:
        print(f"{row.name:64}  {row.note}", flush=True)
        return
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
    goal = "" if row.goal is None else str(row.goal)
    met = {None: "", True: "yes", False: "NO"}[row.met]
    print(
        f"{row.name:64}{_short(row.ours):>10}{_short(row.peer):>10} {row.unit:11}{ratio:>7}{goal:>9}  {met}"
        + (f"  {row.note}" if row.note else ""),
        flush=True,
    )


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def best_of(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns each way's least CPU-seconds, those of all its threads. The ways take turns, as other work slows them all."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            way()
            best[name] = min(best[name], time.process_time() - began)
    return best
