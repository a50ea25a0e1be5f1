"""Detector checkpoints by authors' names, with random values: as published, and as RLIPv2's authors convert them."""

import torch
from torch import Tensor

from models.config import NetworkConfig
from models.official.names import to_official
from models.weights import expected_shapes

State = dict[str, Tensor]
CLASSES = 91
KEPT = (
    *("backbone.", "input_proj.", "refpoint_embed.", "tgt_embed."),
    *("transformer.encoder.layers.", "transformer.level_embed", "transformer.decoder.layers."),
    *("transformer.decoder.query_scale.", "transformer.decoder.ref_point_head."),
)


def detector(config: NetworkConfig, two_stage: bool = False) -> State:
    """The detector whose parts a network of `config` has: DAB-Deformable-DETR for parseda, else Deformable-DETR.

    `config.decoder_layers` is the number of its decoder's layers, and `config.pairs` half its number of queries.
    """
    meta = {name: torch.empty(shape, device="meta") for name, shape in expected_shapes(config).items()}
    official = {name: tuple(value.shape) for name, value in to_official(meta, config).items()}
    width, layers = config.width, config.decoder_layers
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in official.items():
        plain = name.replace("ho_encoder.", "encoder.").replace("ho_decoder.", "decoder.")
        plain = plain.replace("points_sub.", "points.")
        if name.startswith("transformer.ho_decoder.sub_bbox_embed."):
            shapes[plain.replace("sub_bbox", "bbox")] = shapes[plain[plain.index("bbox") :]] = shape
        elif plain.startswith(KEPT):
            shapes[plain] = shape
        elif name == "query_embed.weight":
            shapes[name] = (shape[0], width if two_stage else 2 * width)
        elif name.startswith("transformer.reference_points_sub.") and not two_stage:
            shapes[plain] = shape
    for layer in range(layers + two_stage):
        shapes |= {f"class_embed.{layer}.weight": (CLASSES, width), f"class_embed.{layer}.bias": (CLASSES,)}
    if two_stage:
        shapes |= {
            name.replace(f".{layers - 1}.", f".{layers}."): shape
            for name, shape in shapes.items()
            if f"bbox_embed.{layers - 1}." in name
        }
        shapes |= {f"transformer.decoder.{name}": x for name, x in shapes.items() if name.startswith("class_embed.")}
        for name, size in (("enc_output", width), ("pos_trans", 2 * width)):
            shapes |= {f"transformer.{name}.weight": (size, size), f"transformer.{name}.bias": (size,)}
            shapes |= {f"transformer.{name}_norm.{kind}": (size,) for kind in ("weight", "bias")}
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.rand(shape, generator=generator) * 0.1 for name, shape in shapes.items()}
    heads = [name for name in state if name.startswith("bbox_embed.")]
    return state | {f"transformer.decoder.{name}": state[name] for name in heads}


def converted(state: State) -> State:
    """What the authors' `convert_parameters_DABDDETR.py` or `_DDETR.py` makes of a detector: itself, and copies."""
    made = dict(state)
    for name, value in state.items():
        if "transformer.encoder" in name:
            made[name.replace("transformer.encoder", "transformer.ho_encoder")] = value.clone()
        if "transformer.decoder" in name:
            for stage in ("ho", "verb"):
                made[name.replace("transformer.decoder", f"transformer.{stage}_decoder")] = value.clone()
                if ".bbox_embed." in name and ".6." not in name:
                    for role in ("sub", "obj"):
                        made[f"transformer.{stage}_decoder.{role}_{name.partition('decoder.')[2]}"] = value
        if name.startswith("bbox_embed.") and not name.startswith("bbox_embed.6."):
            made |= {f"{role}_{name}": value for role in ("sub", "obj")}
        if name.startswith("class_embed.") and not name.startswith("class_embed.6."):
            made[f"obj_{name}"] = value[:81].clone()
        if name.startswith("transformer.reference_points."):
            made |= {name.replace("points.", f"points_{role}."): value for role in ("sub", "obj")}
    if "tgt_embed.weight" in state:
        made["verb_tgt_embed.weight"] = state["tgt_embed.weight"]
        return made
    table = state["query_embed.weight"]
    is_two_stage = "transformer.reference_points.weight" not in state
    made["query_embed.weight"] = torch.cat((table, table, table) if is_two_stage else (table, table.chunk(2, 1)[1]), 1)
    return made
