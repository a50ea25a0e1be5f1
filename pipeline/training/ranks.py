"""The processes of a training run, and what they exchange besides gradients.

JSON and arrays travel as tensors of bytes: the object collectives of torch would unpickle what arrives.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.numpy import load, save
from torch import Tensor

from storage.errors import RetryableError

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Ranks:
    """The rank and device of this process, and the number of processes in its training run."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    secret: bytes = field(default=b"", repr=False)
    """What only processes of this training run know."""
    group: dist.ProcessGroup | None = None
    """The processes that are meant; None: all."""

    def prove(self) -> None:
        """Proves to every other process that this one knows the secret, and demands the same proof of each.

        Nothing else others send may be trusted before. Raises `RetryableError` when another does not know the secret.
        """
        challenges = [secrets.token_bytes(32) for _ in range(self.count)]
        received = self._swapped(challenges)
        answers = self._swapped([_answer(self.secret, self.rank, rank, each) for rank, each in enumerate(received)])
        for rank, (challenge, answer) in enumerate(zip(challenges, answers, strict=True)):
            if not hmac.compare_digest(answer, _answer(self.secret, rank, self.rank, challenge)):
                raise RetryableError(
                    f"what answers rank {self.rank} as rank {rank} is not a process of this training run: "
                    "another user's program connected first"
                )

    def own_group(self, groups: Sequence[Sequence[int]], timeout: timedelta) -> dist.ProcessGroup:
        """Connects the processes of each group, and returns the group of this one.

        All processes call it. Raises `RetryableError` as `prove` does, which these connections need as well.
        """
        group: dist.ProcessGroup
        group, _ = dist.new_subgroups_by_enumeration(groups, timeout)  # type: ignore[no-untyped-call]
        replace(self, rank=group.rank(), count=group.size(), group=group).prove()
        return group

    def summed(self, values: Tensor) -> Tensor:
        """Returns the sum over all processes."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def agreed(self, value: Any) -> Any:
        """Returns the value of rank 0, as JSON keeps it."""
        return self.gathered(value)[0]

    def gathered(self, value: Any) -> list[Any]:
        """Returns the values of all processes, by rank, as JSON keeps them."""
        return [json.loads(each) for each in self._gathered(json.dumps(value).encode())]

    def every(self, own: Mapping[int, Arrays]) -> dict[int, Arrays]:
        """Merges the named arrays that all processes have for their numbers. Returns the same in every process."""
        named = {f"{number} {name}": array for number, arrays in own.items() for name, array in arrays.items()}
        every: dict[int, dict[str, NDArray[Any]]] = {}
        for each in self._gathered(save(named)):
            for key, array in load(each).items():
                number, _, name = key.partition(" ")
                every.setdefault(int(number), {})[name] = array
        return dict(every)

    def _gathered(self, own: bytes) -> list[bytes]:
        if self.count == 1:
            return [own]
        sizes = torch.zeros(self.count, dtype=torch.int64, device=self.device)
        sizes[self.rank] = len(own)
        largest = int(self.summed(sizes).max())
        padded = [torch.empty(largest, dtype=torch.uint8, device=self.device) for _ in sizes]
        # Padded, because all_gather takes tensors of one size
        dist.all_gather(padded, self._tensor(own.ljust(largest)))
        return [_bytes(each[:size]) for each, size in zip(padded, sizes.tolist(), strict=True)]

    def _swapped(self, parts: Sequence[bytes]) -> list[bytes]:
        """Sends one part to each process, all of one length. Returns what each process sent to this one.

        Each part takes the connection of its two processes, which all later collectives use as well.
        """
        received = self._tensor(bytes(sum(map(len, parts))))
        dist.all_to_all_single(received, self._tensor(b"".join(parts)), group=self.group)
        return [_bytes(each) for each in received.chunk(self.count)]

    def _tensor(self, data: bytes) -> Tensor:
        # A copy, since torch warns of memory that can't be written to
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self.device)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().numpy().tobytes()


def _answer(secret: bytes, prover: int, verifier: int, challenge: bytes) -> bytes:
    """Signs both ranks, so that no answer can be reflected to its sender or passed on to another process."""
    return hmac.digest(secret, f"{prover} to {verifier}: ".encode() + challenge, "sha256")
