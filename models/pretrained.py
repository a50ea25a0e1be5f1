"""Starts a network from the weights of another, as far as they have the same names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.network import Network
from models.weights import load
from models.weights_file import by_part


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

    Of a file for more pairs, the first pairs are taken.
    Raises `FileNotFoundError`, or ValueError when the file holds no weights or a shape differs; then the network is
    unchanged.
    """
    saved, own = load(path, tokenizer).state_dict(), network.state_dict()
    taken = own.keys() & saved.keys()
    for name in taken:
        if fits_fewer_pairs(name, tuple(saved[name].shape), tuple(own[name].shape)):
            saved[name] = first_pairs(name, saved[name], len(own[name]), network.config.official_compat)
    if unfit := [name for name in own if name in taken and saved[name].shape != own[name].shape]:
        raise ValueError(
            f"pretrained = {path}: {unfit[0]} has shape {tuple(saved[unfit[0]].shape)}, but the network has "
            f"{tuple(own[unfit[0]].shape)}; use weights of the same sizes, or change `network`"
        )
    network.load_state_dict(own | {name: saved[name] for name in taken})
    return Loaded(path, sorted(taken), sorted(own.keys() - taken), sorted(saved.keys() - taken))


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
    """Returns the rows of the first pairs, `rows` in number.

    `official_compat`: the first rows of the table, as the authors take them. Some objects then start from queries of
    subjects, and no subject keeps its object.
    """
    if PER_PAIR[name] == 1 or official_compat:
        return table[:rows]
    subjects, objects = table.chunk(2)
    return torch.cat((subjects[: rows // 2], objects[: rows // 2]))
