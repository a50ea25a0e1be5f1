"""The stand-in device, for the checks that run in a process of their own."""

from collections.abc import Iterator

import pytest
import torch

from tests.captioning.conftest import blip_folder, pictures
from tests.captioning.test_match_scorer import matcher
from tests.device.standin import standin_device
from tests.tagger.test_labelling import tagger
from tests.training.conftest import shard

__all__ = ["blip_folder", "matcher", "pictures", "shard", "tagger"]


@pytest.fixture(scope="module")
def device() -> Iterator[torch.device]:
    """The stand-in, known to torch as long as the checks of a file run."""
    torch.set_num_threads(1)
    with standin_device() as known:
        yield known
