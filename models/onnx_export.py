"""Writes a network as an ONNX file, which onnxruntime runs without torch.

Shapes: H×W pixels, T texts (objects, the last of which stands for "no objects", or predicates), E text width.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.config import NO_OBJECTS, ConfigError
from models.network import Network
from models.rlip import RLIP

OUTPUTS = ("subject_logits", "object_logits", "predicate_logits", "subject_boxes", "object_boxes")
"""Fields of `Predictions`."""
STRIDE = 32
"""Heights and widths of images are multiples of it."""
LARGEST_SIDE = 8192


class _Graph(nn.Module):
    def __init__(self, network: RLIP) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_13HW: Tensor, objects_TE: Tensor, predicates_TE: Tensor) -> tuple[Tensor, ...]:
        predictions = self.network.predict(image_13HW, None, objects_TE, predicates_TE)
        return tuple(getattr(predictions, name) for name in OUTPUTS)


@torch.no_grad()
def export_onnx(
    network: Network, objects: Sequence[str], predicates: Sequence[str], image_size: int, path: Path
) -> None:
    """Writes `RLIP.predict` as a graph from `image`, 1×3×H×W as in `Network.encode`, to `OUTPUTS`.

    Its optional inputs `objects` and `predicates`, T×E, are the features of other texts. The metadata hold the names of
    both, and `image_size`, the longest side in pixels.
    Raises `ConfigError` for a network that can't be exported.
    """
    # Installed with the extra `onnx` alone
    import onnx_ir

    if not isinstance(network, RLIP):
        raise ConfigError("network setting tagger=True: a tagger takes boxes and detects none, so it can't be exported")
    features = network.encode_texts([*objects, NO_OBJECTS]), network.encode_texts(predicates)
    rows, columns = (torch.export.Dim(name, max=LARGEST_SIDE // STRIDE) for name in ("rows", "columns"))
    any_number = {0: torch.export.Dim.DYNAMIC}
    # The exporter takes sizes of 1 for constants, and equal sizes for the same.
    sizes = (1, 3, 8 * STRIDE, 10 * STRIDE), (13, features[0].shape[1]), (11, features[0].shape[1])
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch warns itself
            program = torch.onnx.export(
                _Graph(network).eval(),
                tuple(map(torch.zeros, sizes)),
                input_names=["image", "objects", "predicates"],
                output_names=OUTPUTS,
                dynamic_shapes=({2: STRIDE * rows, 3: STRIDE * columns}, any_number, any_number),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ConfigError(f"network setting backbone={network.config.backbone!r}: torch can't export it") from error
    assert program is not None
    graph = program.model.graph
    for entry, values_TE in zip(graph.inputs[1:], features, strict=True):
        entry.const_value = onnx_ir.tensor(values_TE.numpy(), name=entry.name)
        graph.register_initializer(entry)
    names = {"objects": json.dumps([*objects]), "predicates": json.dumps([*predicates])}
    program.model.metadata_props.update(names | {"image_size": str(image_size)})
    program.save(path)
