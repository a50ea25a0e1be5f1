"""One rank of a stream in a process of its own: prints the keys of each of its batches as JSON.

`python -m tests.storage.stream_process MAP RANK RANKS BATCH WORKERS BATCHES [STATE]`
"""

import json
import sys
from itertools import islice
from pathlib import Path

import torch

from storage.shards.sample_map import SampleMap
from storage.stream.order import OrderSettings
from storage.stream.stream import Stream, StreamBatch


def keys(batch: StreamBatch) -> list[str]:
    """The keys of a batch."""
    return [sample["__key__"] for sample in batch.samples]


def main(folder: str, *numbers: str) -> None:
    """Prints the batches, then the state after them."""
    rank, ranks, batch, workers, batches = map(int, numbers[:5])
    order = OrderSettings(block=8, window=4, run=4)
    stream = Stream(SampleMap(Path(folder)), batch=batch, rank=rank, ranks=ranks, epochs=2, order=order)
    if numbers[5:]:
        stream.load_state_dict(json.loads(numbers[5]))
    loader = torch.utils.data.DataLoader(stream.batches(), batch_size=None, num_workers=workers, collate_fn=keys)
    print(json.dumps({"batches": list(islice(loader, batches)), "state": stream.state_after(batches)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
