"""The loss of a pre-training in float32, bfloat16 and an imitation of TF32: `python -m benchmarks.precision`.

The network of recipe `scenes` is pre-trained on the true relations of 1,000 scenes, for 200 steps of 8 images with each
of three seeds. In TF32, products of matrices and convolutions of both passes take factors that are rounded to ten bits
of mantissa; fused attention rounds queries, keys and values alone.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import rlip
from benchmarks.harness import Row, parser, run
from pipeline.stages import pretrain
from pipeline.training import worker
from pipeline.training.config import TrainConfig

PRECISIONS = ("float32", "tf32", "bfloat16")
SETTINGS = {
    "run.until": "pretrain", "scenes.train": 1000, "data.tagger": [], "data.test": [], "pretrain.variants": ["given"],
    "pretrain.settings.steps": 200, "pretrain.settings.batch": 8, "pretrain.settings.micro_batch": 4,
    "pretrain.settings.log_every": 5, "pretrain.settings.processes": 1,
}  # fmt: skip
QUARTER = 50
"""Steps of which a row states the mean loss."""
aten = torch.ops.aten
PRODUCTS = {
    aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.convolution_backward,
    aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_flash_attention_for_cpu_backward,
}  # fmt: skip


class Tf32(TorchDispatchMode):
    """Rounds what products multiply."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket in PRODUCTS:
            # What follows is attention's own result, which its backward pass takes again.
            factors = (rounded(each) if isinstance(each, Tensor) and each.dim() > 1 else each for each in args[:4])
            args = (*factors, *args[4:])
        return func(*args, **kwargs or {})


def rounded(values: Tensor) -> Tensor:
    """Returns float32 values to ten bits of mantissa, ties away from zero; others as they are."""
    if values.dtype != torch.float32:
        return values
    return ((values.contiguous().view(torch.int32) + 2**12) & -(2**13)).view(torch.float32)


def main(path: Path) -> int:
    """Trains as one rank. Returns the exit code."""
    if TrainConfig.model_validate_json(path.read_bytes()).settings.precision != "tf32":
        return worker.main(path)
    with Tf32():
        return worker.main(path)


def losses(given: Namespace, precision: str, seed: int) -> NDArray[np.float64]:
    """The loss's means over quarters of a training run."""
    places = {"store": f"{given.out}/store", "data.root": f"{given.out}/data", "name": f"{precision}-{seed}"}
    own = {"pretrain.seeds": [seed], "pretrain.settings.precision": precision}
    trained = rlip.run("scenes", {**SETTINGS, **places, **own})
    quarter = f"(step - 1) // {QUARTER}"
    means = trained.sql(f"select avg(value) from weights where name = 'loss' group by {quarter} order by {quarter}")
    return np.array(means.column(0))


def measure(given: Namespace) -> Iterator[Row]:
    pretrain.TrainConfig = partial(TrainConfig, worker="benchmarks.precision")  # type: ignore[assignment,misc]
    found = {each: np.stack([losses(given, each, seed) for seed in range(3)]) for each in PRECISIONS}
    for quarter in range(4):
        for precision, of_seeds in found.items():
            means = of_seeds[:, quarter]
            far = means - found["float32"][:, quarter]
            note = f"± {means.std(ddof=1):.2f}; from float32 by seed {far.mean():+.3f} ± {far.std(ddof=1):.3f}"
            first = quarter * QUARTER
            yield Row(f"{precision}, steps {first + 1} to {first + QUARTER}", "loss", means.mean(), note=note)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--out", type=Path, default=Path("out/precision"), help="folder of the scenes and the store")
    run(options, measure)
