"""The bounds of a pool of Ray actors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ActorPool:
    """Where the actors of a stage run, and how many there may be."""

    address: str
    """HOST:PORT of the cluster's head."""
    least: int = 1
    """Actors that are started at once and kept while they are idle."""
    most: int | None = None
    """None: as many as the nodes have room for."""
    gpus_per_actor: float = 1.0
    """The share of a GPU that an actor takes, if its stage takes one."""
