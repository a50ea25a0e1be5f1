"""Random numbers that belong to a caption, not to a batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEPS = 128
"""Numbers kept apart for each draw: the longest caption in tokens."""
_MASK = 2**64 - 1


def uniforms(seed: int, image_id: int, draws: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) of shape draws x STEPS that depend on (seed, image id, draw, step) alone.

    Philox is counter-based: its key is (seed, image id), its counter runs over draws and steps, so the first draws
    of an image stay the same when more are asked for.
    """
    key = np.array([seed & _MASK, image_id & _MASK], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random((draws, STEPS))
