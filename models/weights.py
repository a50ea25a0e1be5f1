"""Reads and writes networks as safetensors files whose metadata hold the configuration, and starts one from another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.config import NetworkConfig
from models.network import Network
from models.relation_tagger import RelationTagger
from models.rlip import RLIP
from models.weights_file import Shape, WeightsError, by_part, opened, read_config, read_shapes, state_dict_diff, summary


def build(config: NetworkConfig, tokenizer_folder: Path | str | None) -> Network:
    """Builds a new network of the configured kind; without a tokenizer it cannot encode texts."""
    return (RelationTagger if config.tagger else RLIP)(config, tokenizer_folder)


class _NoRandomValues(TorchFunctionMode):
    """Gives new parameters zeros instead of random values, which take seconds, where nothing reads them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        # By name, since transformers replaces the functions of `nn.init` while it initialises.
        if getattr(func, "__name__", "") not in ("normal_", "uniform_", "kaiming_uniform_"):
            return func(*args, **named)
        with torch.no_grad():
            return (args[0] if args else named["tensor"]).zero_()


def expected_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the whole state of a network of `config`, without allocating memory."""
    with torch.device("meta"), _NoRandomValues():
        network = build(config, None)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def save(network: Network, path: Path | str) -> None:
    """Writes parameters and buffers; equal values give identical bytes."""
    write(network.state_dict(), network.config, path)


def write(state: Mapping[str, Tensor], config: NetworkConfig, path: Path | str) -> None:
    """Same as `save`, for a network's state."""
    values: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, value in state.items():
        values[name] = value.detach().contiguous().cpu()
        storage = values[name].untyped_storage().data_ptr()
        # A parameter of a detector may have several names in a network, which the format does not allow.
        if storage in written:
            values[name] = values[name].clone()
        written.add(storage)
    save_file(values, str(path), metadata={"network": json.dumps(config.to_dict(), sort_keys=True)})


def load(path: Path | str, tokenizer_folder: Path | str | None) -> Network:
    """Loads the network that `save` wrote, an RLIP or a RelationTagger, in evaluation mode.

    Raises `FileNotFoundError`, or `WeightsError` that names the file and what is wrong with it.
    """
    config = read_config(path)
    # Before anything is allocated, since a file may state any sizes.
    if wrong := state_dict_diff(read_shapes(path), expected_shapes(config), {}):
        raise WeightsError(f"{path}: weights do not fit their own configuration; {'; '.join(wrong)}; save them again")
    with opened(Path(path), "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is not a mapping
    if broken := [name for name, value in state.items() if not value.isfinite().all()]:
        raise WeightsError(
            f"{path}: NaN or infinite values in {summary(broken)}; the training run that wrote them diverged: use an "
            "earlier checkpoint, or train again with a lower learning rate"
        )
    with _NoRandomValues():
        network = build(config, tokenizer_folder)
    network.load_state_dict(state)
    return network.eval()


@dataclass(frozen=True)
class Loaded:
    """Which tensors of a network come from the file that it starts from. Names are sorted."""

    path: Path
    taken: list[str]
    """Names whose values come from the file."""
    random: list[str]
    """Names in the network that the file lacks; they keep their random values."""
    left_out: list[str]
    """Names in the file that the network has no place for."""

    def describe(self) -> str:
        """Returns a sentence with the number of tensors taken, and the others by the part that they belong to."""
        count = len(self.taken) + len(self.random)
        sentence = f"{len(self.taken)} of {count} tensors come from pretrained = {self.path}"
        if self.random:
            sentence += f"; random: {_counted(self.random)}"
        if self.left_out:
            sentence += f"; not used: {_counted(self.left_out)}"
        return sentence


def load_pretrained(network: Network, path: Path, tokenizer: Path | None) -> Loaded:
    """Loads weights of this project, of any kind and architecture, into the tensors of the same names.

    From a file for more pairs, the first pairs are taken. Raises what `shared_names` raises; then the network is
    unchanged.
    """
    own = network.state_dict()
    taken = shared_names(path, network.config, {name: tuple(value.shape) for name, value in own.items()})
    saved = load(path, tokenizer).state_dict()
    for name in taken:
        if saved[name].shape != own[name].shape:
            saved[name] = first_pairs(name, saved[name], len(own[name]), network.config.official_compat)
    network.load_state_dict(own | {name: saved[name] for name in taken})
    return Loaded(path, sorted(taken), sorted(own.keys() - taken), sorted(saved.keys() - taken))


BEHIND_SHAPES = {
    "heads": "_decoder.",
    "fusion_heads": ".b_attn.",
    "text.heads": ".text_encoder.",
    "text.kind": ".text_encoder.",
}
"""Setting that changes what the same tensors compute → part of those tensors' names."""


def shared_names(path: Path, config: NetworkConfig, own: Mapping[str, Shape]) -> set[str]:
    """Returns the names of the tensors that a network of `config`, with these shapes, takes from a file.

    Raises `FileNotFoundError`, or `WeightsError` when the file holds no weights, or none with which it can start.
    """
    there, shapes = read_config(path), read_shapes(path)
    taken = own.keys() & shapes.keys()
    differing = [name for name in own if name in taken and shapes[name] != own[name]]
    if wrong := [name for name in differing if not fits_fewer_pairs(name, shapes[name], own[name])]:
        raise WeightsError(
            f"{path}: {len(wrong)} tensors have different shapes, e.g. {wrong[0]} {shapes[wrong[0]]}, where the "
            f"network has {own[wrong[0]]}; use weights of the same sizes, or change `network`"
        )
    behind = dict(BEHIND_SHAPES)
    # Batch norms, frozen or not, have statistics; group norms have weights of the same names without them.
    if len({any(name.endswith(".running_var") for name in names) for names in (own, shapes)}) == 2:
        behind["backbone_norm"] = "backbone."
    for name, part in behind.items():
        theirs, ours = (attrgetter(name)(each) for each in (there, config))
        if theirs != ours and any(part in each for each in taken):
            raise WeightsError(
                f"{path}: was trained with {name}={theirs!r}; with network.{name}={ours!r}, its weights would compute "
                f"something else; set network.{name} to {theirs!r}"
            )
    return taken


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{part} ({len(of_part)})" for part, of_part in by_part(names).items())


PER_PAIR = {
    "tgt_embed.weight": 2,
    "verb_tgt_embed.weight": 2,
    "refpoint_embed.weight": 2,
    "query_embed.weight": 2,
    "transformer.verb_tgt.weight": 2,
    "transformer.verb_query_embed.weight": 1,
}
"""Query table → its rows per pair. Fine-tuning on HICO-DET takes 64 pairs of 100, a tagger one for all slots. With two,
the first half of the rows belongs to subjects, the second to objects."""


def fits_fewer_pairs(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a table of this shape has the queries of a network with fewer pairs, whose table has shape `wanted`."""
    return name in PER_PAIR and len(shape) == 2 and shape[1:] == wanted[1:] and shape[0] > wanted[0]


def first_pairs(name: str, table: Tensor, rows: int, official_compat: bool = False) -> Tensor:
    """Returns `rows` rows: those of the first pairs.

    `official_compat`: the first rows of the table, as the authors take them. Some objects then start from queries of
    subjects, and no subject keeps its object.
    """
    if PER_PAIR[name] == 1 or official_compat:
        return table[:rows]
    subjects, objects = table.chunk(2)
    return torch.cat((subjects[: rows // 2], objects[: rows // 2]))
