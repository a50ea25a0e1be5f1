"""Starts a network from the weights of another, as far as they have the same names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from models.fewer_pairs import first_pairs, fits_fewer_pairs
from models.network import Network
from models.state_dict_diff import by_part
from models.weights import load


@dataclass(frozen=True)
class Loaded:
    """What became of a network's tensors, and of those of the file that it starts from. Names are sorted."""

    path: Path
    taken: list[str]
    """Names whose values come from the file."""
    random: list[str]
    """Names in the network that the file lacks; they keep their random start."""
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


def load_initial(network: Network, path: Path, tokenizer: Path | None) -> Loaded:
    """Loads weights of this project, of any kind and architecture, into the tensors of the same names.

    Of a file for more pairs, the first pairs are taken.
    Raises `FileNotFoundError`, or ValueError when the file holds no weights or a shape differs; then the network is
    unchanged.
    """
    given, own = load(path, tokenizer).state_dict(), network.state_dict()
    taken = own.keys() & given.keys()
    for name in taken:
        if fits_fewer_pairs(name, tuple(given[name].shape), tuple(own[name].shape)):
            given[name] = first_pairs(name, given[name], len(own[name]), network.config.official_compat)
    if unfit := [name for name in own if name in taken and given[name].shape != own[name].shape]:
        raise ValueError(
            f"pretrained = {path}: {unfit[0]} has shape {tuple(given[unfit[0]].shape)}, but the network has "
            f"{tuple(own[unfit[0]].shape)}; use weights of the same sizes, or change `network`"
        )
    network.load_state_dict(own | {name: given[name] for name in taken})
    return Loaded(path, sorted(taken), sorted(own.keys() - taken), sorted(given.keys() - taken))


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{part} ({len(of_part)})" for part, of_part in by_part(names).items())
