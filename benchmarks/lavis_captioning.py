"""Times LAVIS on one image, in its own environment: `.lavis/bin/python -I benchmarks/lavis_captioning.py FOLDER`.

FOLDER holds a checkpoint and a vocabulary, as `benchmarks/captioning.py` writes them, which runs this script. It
imports nothing of this project and prints CPU-seconds.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

import torch

WORKER = Path(__file__).resolve().parents[1] / "pipeline" / "captioning" / "lavis_worker.py"
DRAWS = 10


def main(folder: Path) -> None:
    """Prints the time to encode an image and of ten captions by one call."""
    torch.set_num_threads(1)
    model = runpy.run_path(str(WORKER))["build"](folder / "blip.pth", folder / "vocab.txt", "a picture of ")
    image = {"image": torch.randn(1, 3, 384, 384, generator=torch.Generator().manual_seed(1))}
    settings = {"use_nucleus_sampling": True, "top_p": 0.9, "max_length": 20, "min_length": 5, "num_captions": DRAWS}
    with torch.inference_mode():
        model.forward_encoder(image)
        began = time.process_time()
        assert len(model.generate(image, **settings)) == DRAWS
    print(time.process_time() - began)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
