"""Real processes stop and go on in other numbers, over two epochs, and see one sequence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from storage.stream.order import OrderSettings
from storage.stream.sequence import SampleSequence
from tests.storage.shard_files import made_map

ROOT = Path(__file__).parents[2]
BATCH = 10


def phase(folder: Path, ranks: int, workers: int, batches: int, state: str) -> tuple[list[str], str]:
    """Runs all ranks at once. Returns the keys of the global batches in order, and the state after them."""
    processes = [
        subprocess.Popen(
            [
                sys.executable, "-m", "tests.storage.stream_process", str(folder),
                *map(str, (rank, ranks, BATCH, workers, batches)), *([state] if state else []),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    found = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert len({json.dumps(each["state"] | {"rank": 0}) for each in found}) == 1
    batches_of = zip(*(each["batches"] for each in found), strict=True)
    return [key for parts in batches_of for part in parts for key in part], json.dumps(found[0]["state"])


@pytest.mark.parametrize("workers", [0, 2])
def test_one_then_two_then_one_process_see_every_sample_once_an_epoch(tmp_path: Path, workers: int) -> None:
    samples = made_map(tmp_path, {"a": 57, "b": 31})
    seen: list[str] = []
    state = ""
    for ranks, batches in ((1, 4), (2, 7), (1, 99)):
        found, state = phase(samples.folder, ranks, workers, batches, state)
        seen += found
    drawn = SampleSequence(samples, order=OrderSettings(block=8, window=4, run=4)).draw(0, 2 * len(samples))
    assert seen == [samples.key(number) for number in drawn.samples.tolist()]
