"""Records small networks in the layout of reference recordings: `python -m benchmarks.recorded.record FOLDER`.

The networks are ours, so the recordings do not involve the authors' code. Made while the reference recordings agree,
they detect later changes where the reference recordings are not available.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.recorded.measure import measure
from benchmarks.recorded.recording import Arrays, Recording
from models.config import NetworkConfig, TextConfig
from models.network import Network
from models.official.export import export_checkpoint
from models.weights import build

KINDS: dict[str, dict[str, Any]] = {
    "parseda_own": {"gating_mechanism": "VXAc", "verb_query_tgt_type": "vanilla_MBF"},
    "parsed_own": {"gating_mechanism": "VXAc", "verb_query_tgt_type": "MBF"},
    "tagger_own": {"gating_mechanism": "GLIP", "verb_query_tgt_type": "vanilla"},
}
LOSSES = {
    "set_cost_obj_class": 1, "set_cost_verb_class": 1, "set_cost_bbox": 2.5, "set_cost_giou": 1.0, "obj_loss_coef": 1,
    "verb_loss_coef": 1, "bbox_loss_coef": 2.5, "giou_loss_coef": 1.0, "eos_coef": 0.1, "clip_max_norm": 0.1,
}  # fmt: skip
OBJECTS, PREDICATES, WIDTH = 6, 4, 32
"""Number of object texts and predicate texts, and the width of image and text features."""
HEIGHT_WIDTH = (72, 80)
"""More than 64, because group norm reduces a feature map of one or two cells to rounding errors."""
OF_ENCODER = ("act.input_proj.", "act.enc.layer", "mc.img_memory", "mc.pos_embed")
"""Large values that are equal for all kinds, so only one kind records them."""


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, settings in KINDS.items():
        record(folder, name, settings)


def record(folder: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Writes one network: weights, settings, and all parts of its kind."""
    torch.manual_seed(0)
    tagger = name.startswith("tagger")
    config = _config(name, settings)
    network = build(config, None)
    _move(network)
    official = export_checkpoint(network.state_dict(), config)
    for key in [key for key in official if key.startswith(("sub_bbox", "obj_bbox")) or key.endswith("position_ids")]:
        del official[key]  # the decoders' box heads have the same values, and position_ids are no weights
    for key, value in official.items():
        if config.gate == "VXAc" and key.endswith(("gamma_v", "gamma_l")):
            value[1:] = 0.25  # the authors' code reads the first alone
    save_file({key: value.half().contiguous() for key, value in official.items()}, folder / f"{name}.safetensors")
    training = {"giou_verb_label": not tagger, "pseudo_verb": not tagger, "fusion_interval": config.fusion_interval}
    args = {**settings, **LOSSES, **training, "nheads": config.heads, "dropout": 0.0}
    (folder / f"{name}_args.json").write_text(json.dumps({"args": args}, indent=1) + "\n")
    inputs = _inputs(config)
    network.load_state_dict({key: value.half().to(value.dtype) for key, value in network.state_dict().items()})
    with torch.no_grad():
        features = network.transformer.text_encoder.encode_tokens(
            *(torch.from_numpy(inputs[key]) for key in ("in.input_ids", "in.attention_mask"))
        )
    np.savez(folder / f"{name}_forward.npz", **inputs, **{"act.text.pooler_output": features.numpy()})
    recording = Recording(folder, name)
    given = {"forward": inputs} | {f"loss_{kind}": _targets(kind) for kind in ("hard", "empty", "soft")[: 3 - tagger]}
    if not tagger:
        sizes = np.array([[480, 600], [427, 549]])
        given["evalpath_post"] = {"post.orig_sizes": sizes}
        given["post_zs"] = {"orig_sizes": sizes, "subject_category_id": np.array(1)}
    for part, arrays in given.items():
        measured = measure(recording, part, arrays)
        # Norms of gradients are enough; full gradients would double the size.
        left_out = ("gradfull.",) if config.architecture == "parseda" else ("gradfull.", *OF_ENCODER)
        measured = {key: value for key, value in measured.items() if not key.startswith(left_out)}
        np.savez_compressed(folder / f"{name}_{part}.npz", **arrays | measured)


def _config(name: str, settings: Mapping[str, Any]) -> NetworkConfig:
    return NetworkConfig(
        architecture="parseda" if name.startswith("parseda") else "parsed",
        tagger=name.startswith("tagger"), backbone="resnet_w2_1_1_1_1", width=WIDTH, heads=2, points=1,
        encoder_layers=2, decoder_layers=2, feedforward=16, pairs=4, fusion_interval=1, fusion_width=WIDTH,
        gate=settings["gating_mechanism"], relation_queries=settings["verb_query_tgt_type"],
        text=TextConfig(
            hidden=WIDTH, layers=1, heads=2, feedforward=16, vocabulary=30, max_positions=10, initial_deviation=0.3
        ),
        official_compat=True,
    )  # fmt: skip


@torch.no_grad()
def _move(network: Network) -> None:
    """Randomises all values that are initialised to constants, because constants could hide mistakes."""
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and (value.dim() == 1 or value.unique().numel() == 1):
            value.add_(0.1 * torch.randn_like(value))


def _inputs(config: NetworkConfig) -> Arrays:
    generator = np.random.default_rng(1)
    height, width = HEIGHT_WIDTH
    images = generator.integers(-4, 5, (2, 3, height, width)).astype(np.float32) / 2
    padding = np.zeros((2, height, width), dtype=bool)
    padding[1, 50:], padding[1, :, 66:] = True, True
    images[1, :, 50:], images[1, :, :, 66:] = 0, 0
    lengths = generator.integers(3, 6, OBJECTS + PREDICATES)
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask, generator.integers(3, config.text.vocabulary, mask.shape), 1)
    ids[:, 0] = 0
    return {
        "in.images": images, "in.mask": padding, "in.input_ids": ids, "in.attention_mask": mask,
        "in.n_obj": np.array(OBJECTS), "in.n_rel": np.array(PREDICATES),
        "in.sizes": np.array([[height, width], [50, 66]]),
    } | _targets("hard")  # fmt: skip


def _targets(kind: str) -> Arrays:
    """Returns targets of two images. empty: the second image has none; soft: some predicates have values below 1."""
    generator = np.random.default_rng(2)
    arrays: Arrays = {}
    for image, pairs in enumerate((3, 0 if kind == "empty" else 2)):
        predicates = (generator.random((pairs, PREDICATES)) < 0.4).astype(np.float32)
        predicates[np.arange(pairs), np.arange(pairs)] = 0.6 if kind == "soft" else 1.0
        for role in ("sub", "obj"):
            centres, sides = generator.uniform(0.3, 0.7, (pairs, 2)), generator.uniform(0.1, 0.5, (pairs, 2))
            arrays[f"tgt{image}.{role}_boxes"] = np.concatenate((centres, sides), axis=1).astype(np.float32)
            arrays[f"tgt{image}.{role}_labels"] = generator.integers(0, OBJECTS - 1, pairs)
        arrays[f"tgt{image}.verb_labels"] = predicates
    return arrays


if __name__ == "__main__":
    main()
