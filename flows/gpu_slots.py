"""GPU slots: the stages that compute on a GPU wait for a slot of the server's concurrency limit `gpu`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from storage.errors import FatalError

GPU_STAGES = frozenset({"detect", "caption", "train_tagger", "tag", "verify", "pretrain", "evaluate"})
"""Stages that compute on a GPU where there is one."""

LIMIT = "gpu"
"""Name of the concurrency limit; it counts the GPUs that workers of this server share."""

VARIABLE = "RLIP_GPU_SLOTS"
"""Environment variable with the number of slots that a step takes; unset, e.g. in `rlip run`: none."""

LEASE = 60.0
"""Seconds after which the server frees the slots of a process that died."""


@contextmanager
def gpu_slots(stage: str, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Hold the slots that the environment asks for while a step of `stage` computes.

    Raises `FatalError` before that when the server has no limit `gpu`, or one that never grants so many slots.
    """
    wanted = environment.get(VARIABLE, "")
    if stage not in GPU_STAGES or not wanted:
        yield
        return
    if not wanted.isdecimal() or int(wanted) < 1:
        raise FatalError(f"{VARIABLE} = {wanted!r}: give the number of GPU slots a step takes, at least 1, or unset it")
    _require_limit(int(wanted))
    # A server that restarts forgets its leases. That is no reason to stop a training run: it goes on without its slot.
    with concurrency(
        LIMIT, occupy=int(wanted), lease_duration=LEASE, strict=True, raise_on_lease_renewal_failure=False
    ):
        yield


def _require_limit(wanted: int) -> None:
    """Raise `FatalError` unless the server's limit can grant `wanted` slots."""
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(LIMIT)
        except ObjectNotFound as error:
            raise FatalError(
                f"{VARIABLE} = {wanted}, but the server has no concurrency limit {LIMIT!r}: create it with the number "
                f"of GPUs (prefect global-concurrency-limit create {LIMIT} --limit {wanted}), or unset {VARIABLE}"
            ) from error
    if not limit.active or limit.limit >= wanted:
        return
    raise FatalError(
        f"{VARIABLE} = {wanted}, but the server's concurrency limit {LIMIT!r} is {limit.limit}, so a step would wait "
        f"for ever: raise it (prefect global-concurrency-limit update {LIMIT} --limit {wanted}) or lower {VARIABLE}"
    )
