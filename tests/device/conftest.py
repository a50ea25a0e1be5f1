"""The stand-in device, for the checks that run in a process of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.device.standin import standin_device


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The stand-in, known to torch as long as the check runs."""
    torch.set_num_threads(1)
    with standin_device() as known:
        yield known
