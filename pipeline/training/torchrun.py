"""Runs torchrun so that it ends with its parent process: `python -m pipeline.training.torchrun ARGUMENTS`."""

from __future__ import annotations

import os
import sys

from pipeline.runtime.processes import die_with_parent
from pipeline.training.config import LAUNCHER

if __name__ == "__main__":
    die_with_parent(int(os.environ[LAUNCHER]))
    os.environ[LAUNCHER] = str(os.getpid())
    from torch.distributed.run import main

    main(sys.argv[1:])
