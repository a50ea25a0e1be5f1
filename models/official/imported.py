"""Imports an official checkpoint as a network of this project."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.config import ConfigError, NetworkConfig
from models.official.checkpoint import read_checkpoint
from models.official.names import Place, from_official, is_unused, places, to_official
from models.official.sizes import Architecture, infer_config, kind_of
from models.weights import build, expected_shapes
from models.weights_file import WeightsError, opened, state_dict_diff, summary

NEW_TO_DETECTORS = (
    "bias_obj_a",
    "bias_pred_a",
    "projection_text.",
    "transformer.encoder.VLFuse_layers.",
    "transformer.encoder.roberta_layers.",
    "transformer.resizer.",
    "transformer.text_encoder.",
    "transformer.verb_query_embed.",
    "transformer.verb_tgt_generator.",
)
"""Parameters that read texts and relate objects, which no detector has."""
NEW_TO_TWO_STAGES = (*NEW_TO_DETECTORS, "transformer.reference_points_")
"""A two-stage detector has no layer that places its queries either."""


@dataclass(frozen=True)
class ImportedCheckpoint:
    """The state of our network made from a checkpoint, and where every parameter comes from."""

    kind: Architecture
    config: NetworkConfig
    state: dict[str, Tensor]
    loaded: list[str]
    """Names in the checkpoint whose values are used."""
    texts: list[str]
    """Names in our network with values of the text encoder that was added to a detector."""
    new: list[str]
    """Names in our network without values in the checkpoint, as expected of a detector; initialised at random."""
    left_out: list[str]
    """Names in the checkpoint that our network's forward pass does not use."""


def import_checkpoint(
    path: Path,
    args_file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    text_folder: Path | None = None,
) -> ImportedCheckpoint:
    """Imports an official checkpoint of any `Architecture`; new parameters are random, the same for the same seed.

    `args_file`: see `read_checkpoint`. `overrides` are settings of NetworkConfig that neither shapes nor the settings
    of the training run determine, or that should differ. `text_folder`: see `read_text_encoder`; for detectors alone.
    Raises `FileNotFoundError`, or `WeightsError` with file and parameters.
    """
    checkpoint, overrides = read_checkpoint(path, args_file), overrides or {}
    kind = kind_of(checkpoint.state)
    if kind is None:
        raise WeightsError(
            f"{path}: unsupported architecture; expected {', '.join(kind.value for kind in Architecture)}; "
            f"its parameters begin with {', '.join(sorted(checkpoint.state)[:3]) or 'nothing'}"
        )
    if text_folder is not None and not kind.detector:
        raise WeightsError(f"{path}: a {kind.value} has its own text encoder; omit --text")
    sources = {name: name for name in checkpoint.state}
    state: Mapping[str, Tensor] = checkpoint.state
    try:
        if kind.detector:
            state, sources = from_detector(checkpoint.state, kind, overrides)
        config = infer_config(
            {name: tuple(value.shape) for name, value in state.items()}, kind, checkpoint.args, overrides
        )
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error
    ours = expected_shapes(config)
    known = places(ours, config)
    used = {name: known.get(name, Place(name)) for name in state if not is_unused(name, config)}
    wanted = to_official({name: torch.empty(shape, device="meta") for name, shape in ours.items()}, config)
    expected = {known[name]: tuple(value.shape) for name, value in wanted.items()}
    expected |= {Place(name): ours[name] for name in ours.keys() - {place.name for place in expected}}
    if kind.detector:
        missing = {place.name for place in expected.keys() - set(used.values())}
        is_new = NEW_TO_TWO_STAGES if is_two_stage(checkpoint.state) else NEW_TO_DETECTORS
        new = sorted(name for name in missing if name.startswith(is_new))
        expected = {place: shape for place, shape in expected.items() if place.name not in new}
    else:
        new = []
    if wrong := state_dict_diff(
        {str(place): tuple(state[name].shape) for name, place in used.items()},
        {str(place): shape for place, shape in expected.items()},
        {str(place): sources[name] for name, place in used.items()},
    ):
        raise WeightsError(f"{path}: looks like {kind.value} but does not fit it; " + "; ".join(wrong))
    texts = {} if text_folder is None else read_text_encoder(text_folder, {name: ours[name] for name in new})
    new = [name for name in new if name not in texts]
    loaded = {sources[name] for name in used}
    return ImportedCheckpoint(
        kind=kind,
        config=config,
        state=from_official(state, known, config) | texts | _random_values(config, seed, new),
        loaded=sorted(loaded),
        texts=sorted(texts),
        new=new,
        left_out=sorted(checkpoint.state.keys() - loaded),
    )


def _random_values(config: NetworkConfig, seed: int, names: list[str]) -> dict[str, Tensor]:
    if not names:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = build(config, None).state_dict()
    return {name: state[name] for name in names}


RELEASED_LAYERS = 3
RELEASED_PAIRS = 100

_DECODER = re.compile(r"transformer\.decoder\.(?:layers\.(\d+)|query_scale|ref_point_head)\..*")
_HEAD = re.compile(r"bbox_embed\.(\d+)\.(.*)")
_QUERIES = ("query_embed.weight", "refpoint_embed.weight", "tgt_embed.weight")
_LEFT_OUT = (
    "class_embed.",
    "transformer.decoder.bbox_embed.",
    "transformer.decoder.class_embed.",
    "transformer.enc_output",
    "transformer.pos_trans",
)
"""In RLIP, classes are texts, and the encoder proposes no boxes as that of a two-stage detector does. The decoder's own
box heads duplicate the top-level ones."""
_ADDED = (
    "obj_bbox_embed.",
    "obj_class_embed.",
    "sub_bbox_embed.",
    "transformer.ho_decoder.",
    "transformer.ho_encoder.",
    "transformer.reference_points_",
    "transformer.verb_decoder.",
    "verb_tgt_embed.",
)
"""What the authors' `convert_parameters_*.py` add to a detector, whose own parameters stay with it. All are copies."""


def from_detector(
    state: Mapping[str, Tensor], kind: Architecture, overrides: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns official RLIP parameters made from a detector's, and the detector's name that each comes from.

    The first layers of the decoder become both decoders, the box heads become the subjects' and the objects', and the
    first queries become queries of subjects, then of objects. `overrides` may set `decoder_layers` and
    `pairs` to other numbers than the released ones. A detector that went through the authors' converter gives the same.
    """
    layers = _setting(overrides, "decoder_layers", RELEASED_LAYERS)
    rows = 2 * _setting(overrides, "pairs", RELEASED_PAIRS)
    parameters: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    is_converted = any(name.startswith("transformer.ho_decoder.") for name in state)
    for name, value in state.items():
        if is_converted and name.startswith(_ADDED):
            continue
        if name in _QUERIES and value.dim() != 2:
            raise ConfigError(f"the parameter {name} has shape {tuple(value.shape)}; expected one row per query")
        for target in _targets(name, kind, layers):
            parameters[target] = value[:rows] if name in _QUERIES else value
            sources[target] = name
    if "query_embed.weight" in parameters and not is_converted:
        table = parameters["query_embed.weight"]
        # The queries of a two-stage detector have content alone, which the authors take for positions, too.
        position, content = (table, table) if is_two_stage(state) else table.chunk(2, dim=1)
        parameters["query_embed.weight"] = torch.cat((position, content, content), dim=1)
    return parameters, sources


def is_two_stage(names: Collection[str]) -> bool:
    """Whether a detector's queries start from boxes that its encoder proposes, so no layer places them."""
    return "transformer.enc_output.weight" in names


def _setting(overrides: Mapping[str, Any], name: str, released: int) -> int:
    number = overrides.get(name, released)
    if type(number) is not int or number < 1:
        raise ConfigError(f"network setting {name}={number!r}: must be a whole number of at least 1")
    return number


def _targets(name: str, kind: Architecture, decoder_layers: int) -> list[str]:
    """Returns the names in RLIP that a detector's parameter is copied to."""
    if name.startswith(_LEFT_OUT):
        return []
    if decoder := _DECODER.fullmatch(name):
        if decoder[1] is not None and int(decoder[1]) >= decoder_layers:
            return []
        return [name.replace(".decoder.", f".{stage}_decoder.") for stage in ("ho", "verb")]
    if head := _HEAD.fullmatch(name):
        # Later heads of the detector refine boxes in the relation decoder.
        used = int(head[1]) < 2 * decoder_layers
        return [f"{role}_bbox_embed.{head[1]}.{head[2]}" for role in ("sub", "obj")] if used else []
    if name.startswith("transformer.reference_points."):
        return [name.replace("points.", f"points_{role}.") for role in ("sub", "obj")]
    if name.startswith("transformer.encoder.") and not kind.anchored:
        return [name.replace(".encoder.", ".ho_encoder.")]
    return [name, "verb_tgt_embed.weight"] if name == "tgt_embed.weight" else [name]


_TEXT_FILE = "model.safetensors"
_OUR_TEXT = "transformer.text_encoder.roberta."
_THEIR_TEXT = ("", "roberta.")
"""Prefixes of names in files of the bare encoder, and of a masked language model."""


def read_text_encoder(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Reads a text encoder in the Hugging Face hub's format. Returns its parameters by our names, of which `shapes` has
    all that the network needs.

    Raises `FileNotFoundError`, or `WeightsError` that names the parameters that are missing or have a different shape.
    """
    path = folder / _TEXT_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {_TEXT_FILE} in {folder}; the hub has it under FacebookAI/roberta-base")
    wanted = {name: name.removeprefix(_OUR_TEXT) for name in shapes if name.startswith(_OUR_TEXT)}
    with opened(path, "pt") as file:
        names = set(file.keys())
        places = {
            ours: next((f"{prefix}{name}" for prefix in _THEIR_TEXT if f"{prefix}{name}" in names), None)
            for ours, name in wanted.items()
        }
        values = {ours: file.get_tensor(name).float() for ours, name in places.items() if name is not None}
    if missing := [wanted[name] for name in wanted if name not in values]:
        raise WeightsError(f"{path}: lacks {summary(missing)}; name the folder of a RoBERTa with a pooled output")
    if wrong := [wanted[name] for name in values if tuple(values[name].shape) != shapes[name]]:
        raise WeightsError(
            f"{path}: sizes differ from the network's in {summary(wrong)}; set them, e.g. --set text.hidden=1024"
        )
    return values
