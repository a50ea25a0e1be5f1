"""Every test of models has the same order of additions and the same seed."""

import pytest
import torch


@pytest.fixture(autouse=True)
def fixed_seed(one_thread: None) -> None:
    """One thread and a fixed seed, for the same order of additions on every machine."""
    torch.manual_seed(0)
