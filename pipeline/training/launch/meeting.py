"""Where the ranks of a training run meet: a file on one node, a port of the coordinator for several.

The meeting's folder, which only this user can enter, holds that file, the configuration, and the secret of the ranks.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from pipeline.runtime.devices import choose_device
from pipeline.runtime.settings import split_address
from pipeline.training.config import TrainConfig
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings
from storage.errors import FatalError

STORE = "RLIP_STORE"
"""Environment variable that tells a rank its store: `file:PATH` or `tcp:HOST:PORT/PREFIX`."""
LOOPBACK = "127.0.0.1"
_SECRET = "secret"


@contextmanager
def meeting(config: TrainConfig) -> Iterator[Path]:
    """Makes the meeting's folder in `config.work` while the context lasts. Yields the configuration file in it."""
    with tempfile.TemporaryDirectory(prefix=".meeting-", dir=config.work, ignore_cleanup_errors=True) as folder:
        secret, config_file = Path(folder) / _SECRET, Path(folder) / "config.json"
        secret.touch(0o600)
        secret.write_bytes(secrets.token_bytes(32))
        config_file.write_text(config.model_dump_json())
        yield config_file


def join(config_file: Path, config: TrainConfig) -> Ranks:
    """Joins this process to the others of its training run, as the environment describes them.

    Raises `FatalError` when the machine lacks the GPU that is asked for, `RetryableError` when another program answers
    in place of a rank, and `RuntimeError` when a rank does not join within `collective_timeout`, which is also the
    longest that any later collective waits.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = choose_device(config.settings.device, int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if count == 1:
        return Ranks(device=device)
    timeout = timedelta(seconds=config.settings.collective_timeout)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=_store(os.environ[STORE], count, timeout),
        rank=rank,
        world_size=count,
        timeout=timeout,
    )
    ranks = Ranks(rank, count, device, (config_file.parent / _SECRET).read_bytes())
    ranks.prove()
    return ranks


def file_store(folder: Path, round_number: int) -> str:
    """Names the store of one round in a folder, for `STORE`."""
    return f"file:{folder}/ranks-{round_number}"


def tcp_store(address: str, round_number: int) -> str:
    """Names the part of the store at an address that belongs to one round, for `STORE`.

    Ranks must not meet what the ranks of an earlier round left there.
    """
    return f"tcp:{address}/ranks-{round_number}"


def interface_of(ip: str) -> str:
    """Returns the network interface that holds an address. Raises `FatalError` when none does."""
    # A whole network belongs to the loopback interface, and only its first address is listed.
    looped = ipaddress.ip_address(ip).is_loopback
    interfaces: dict[str, list[Any]] = psutil.net_if_addrs()
    for name, entries in interfaces.items():
        addresses = {entry.address for entry in entries if entry.family in (socket.AF_INET, socket.AF_INET6)}
        if ip in addresses or (looped and LOOPBACK in addresses):
            return name
    raise FatalError(f"no network interface of this machine has the address {ip}; correct `address`")


def require_gpus(settings: TrainingSettings) -> None:
    """Raises `FatalError` when this machine lacks the GPU asked for, or has fewer GPUs than training processes."""
    choose_device(settings.device)
    count = torch.cuda.device_count()
    if settings.device != "cpu" and 0 < count < settings.processes:
        gpus = "1 GPU" if count == 1 else f"{count} GPUs"
        raise FatalError(
            f"processes = {settings.processes}, but this machine has {gpus}: set processes = {count} or device = 'cpu'"
        )


def _store(name: str, count: int, timeout: timedelta) -> dist.Store:
    kind, _, place = name.partition(":")
    if kind == "file":
        return dist.FileStore(place, count)
    address, _, prefix = place.rpartition("/")
    host, port = split_address(address)
    # Without a number of clients, because other nodes join and leave the same store
    return dist.PrefixStore(prefix, dist.TCPStore(host, port, None, False, timeout))
