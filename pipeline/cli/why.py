"""`rlip why`: explains why an artifact was computed although the store had similar ones, back to the first cause."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pipeline.cli.options import STORE, AsJson, RunName, StorePath
from pipeline.runtime.wording import first_few
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.keys import Change, changes
from storage.open_store import existing_store
from storage.runs import Run, find_run
from storage.store import Store, locate


@dataclass(frozen=True)
class KeyDifference:
    """One artifact compared with the nearest one: the first term in which their keys differ."""

    stage: str
    key: str
    nearest: str
    change: Change

    def __str__(self) -> str:
        return f"{self.stage}: {self.change}"


@dataclass(frozen=True)
class Why:
    """Why a partition was computed: the causes from the requested stage back to the first; empty if it was new."""

    partition: str
    causes: tuple[KeyDifference, ...]

    @property
    def first(self) -> str:
        """The first cause, as text."""
        return str(self.causes[-1]) if self.causes else "new: the store has no other artifact of this partition"

    def as_json(self) -> dict[str, Any]:
        """The causes as JSON values."""
        listed = [{"stage": c.stage, "key": c.key, "nearest": c.nearest, **vars(c.change)} for c in self.causes]
        return {"partition": self.partition, "causes": listed}


def why(
    run_name: RunName,
    step: Annotated[str, typer.Argument(metavar="STEP", help="A step of the run, e.g. tag or shard:pseudo.")],
    partition: Annotated[
        str | None, typer.Argument(metavar="[PARTITION]", help="E.g. coco/0003; default: all.")
    ] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Explain why a step was computed, not reused: the first difference from the most similar artifact in the store."""
    reasons = list(reasons_of(find_run(existing_store(store), run_name), step, partition))
    if as_json:
        print(json.dumps([each.as_json() for each in reasons]))
        return
    console = Console(markup=False)
    if partition is None:
        for first, count in Counter(each.first for each in reasons).most_common():
            console.print(Text(f"{count:>5}  {first}"))
        return
    for each in reasons:
        for depth, cause in enumerate(each.causes):
            console.print(Text(f"{'  ' * depth}{'because ' if depth else ''}{cause}"))
        if not each.causes:
            console.print(Text(each.first))


def reasons_of(run: Run, step: str, partition: str | None = None) -> Iterator[Why]:
    """Explain how each partition of a step (or one) differs from the nearest artifact in the store.

    The nearest artifact is outside the run, has the same partition, and differs in the fewest terms.
    Raises `FatalError` for a step or partition that the run does not have.
    """
    artifacts = run.artifacts(step)
    if not artifacts:
        raise FatalError(
            f"run {run.name!r} has no artifacts of step {step!r}; its steps: {', '.join(sorted(run.steps()))}"
        )
    if partition is not None and partition not in artifacts:
        raise FatalError(f"step {step!r} has no partition {partition!r}; it has {first_few(list(artifacts), 6)}")
    own = {key for other in run.steps() for key in run.keys(other).values()}
    beside: dict[str, list[Artifact]] = {}
    for other in run.store.artifacts(run.stage(step)):
        if other.key not in own:
            beside.setdefault(other.manifest.partition, []).append(other)
    for name, artifact in artifacts.items():
        if partition in (None, name):
            terms = artifact.manifest.terms
            others = ((len(changes(other.manifest.terms, terms)), other.key, other) for other in beside.get(name, ()))
            _, _, nearest = min(others, default=(0, "", None))
            yield Why(name, () if nearest is None else tuple(causes_of(run.store, nearest, artifact)))


def causes_of(store: Store, old: Artifact, new: Artifact) -> Iterator[KeyDifference]:
    """Yield the difference between two artifacts of a stage and, if it is an input, the difference in that input."""
    nearest: Artifact | None = old
    current: Artifact | None = new
    while nearest is not None and current is not None:
        differing = changes(nearest.manifest.terms, current.manifest.terms)
        if not differing:
            return
        yield KeyDifference(current.manifest.stage, current.key, nearest.key, differing[0])
        nearest, current = _above(store, differing[0], nearest, current)


def _above(store: Store, change: Change, old: Artifact, new: Artifact) -> tuple[Artifact | None, Artifact | None]:
    """The upstream artifacts whose contents differ as `change` says; None if unknown or no longer in the store.

    Records of a dataset are not an artifact, and older manifests do not name all artifacts behind their keys.
    """
    table = change.term.removeprefix("inputs.")
    keys = [artifact.manifest.upstream.get(table, []) for artifact in (old, new)]
    digests = [value if isinstance(value, list) else [] for value in (change.old, change.new)]
    if change.term == table or len({len(each) for each in (*keys, *digests)}) != 1:
        return None, None
    for place, (before, after) in enumerate(zip(*digests, strict=True)):
        if before != after:
            return locate(store, keys[0][place]), locate(store, keys[1][place])
    return None, None
