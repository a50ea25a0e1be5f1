"""Imported once by the process that a test run's processes are forks of: what each would load or compile for seconds.

Its forks are safe only while it has one thread, so nothing here may compute with torch.
"""

import os
import socket
import sys
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np

from models.deformable_read_loops import Levels, loops
from pipeline.training import throughput
from tagger.categories.wordnet import kinds_above
from tagger.parsing.parser import load_parser, parse_captions

MODULES = (
    "models.relation_tagger", "models.rlip", "models.text_encoder", "pipeline.cli.app", "pipeline.report.static_report",
    "pipeline.run.runner", "pipeline.training.worker", "pyarrow.dataset", "scipy.optimize", "torch.distributed.fsdp",
    "torch.utils.tensorboard", "transformers.models.auto.processing_auto", "transformers.models.blip.modeling_blip",
    "transformers.models.blip.processing_blip",
)  # fmt: skip
NETWORKS = {"small_set.py, chain/tiny.toml, scenes/weights": (16, 6), "training/conftest.py": (16, 4)}
"""Channels of a head, and levels times points, of the networks that tests train and label with."""


def compile_loops(channels: int, points: int) -> None:
    """Compiles the reading of deformable attention for float32, by calls that read nothing."""
    none = np.zeros(0, np.float32)
    levels = Levels(none, np.zeros(0, np.int32))
    made, sizes = loops(channels, points), (0, 0, 1)
    made.read(none, none, none, levels, sizes, 0, 0, none)
    made.gradients(none, none, none, none, levels, sizes, 0, 0, none, none, none)


def serve_forks_of_forks() -> None:
    """Lets forks start workers, ranks and loaders here, where multiprocessing has each start a process like this."""
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        if descriptor.is_socket():
            with socket.socket(fileno=os.dup(int(descriptor.name))) as listener:
                if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    server: Any = forkserver._forkserver
                    server._forkserver_address = listener.getsockname()
                    server.ensure_running = forkserver.ensure_running = lambda: None


# Counting the operations of a step takes as long as four steps. Processes that are no forks of this one do count.
throughput.COUNTED = 0
# From Python 3.14 on it serves only processes that know its key, which its forks do not: each starts another one.
if sys.version_info < (3, 14):
    serve_forks_of_forks()
for module in MODULES:
    import_module(module)
for network in NETWORKS.values():
    compile_loops(*network)
parse_captions(["two dogs chase a man"], load_parser())
kinds_above("dog")
