"""Fits the query tables of a network to fewer pairs: fine-tuning on HICO-DET takes 64 of 100, a tagger one for all slots."""

from __future__ import annotations

import torch
from torch import Tensor

PER_PAIR = {
    "tgt_embed.weight": 2,
    "verb_tgt_embed.weight": 2,
    "refpoint_embed.weight": 2,
    "query_embed.weight": 2,
    "transformer.verb_tgt.weight": 2,
    "transformer.verb_query_embed.weight": 1,
}
"""Table → its rows per pair. With two, the first half of the rows belongs to subjects, the second to objects."""


def fits_fewer_pairs(name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a table of shape `given` holds the queries of a network with fewer pairs, whose table has shape `wanted`."""
    return name in PER_PAIR and len(given) == 2 and given[1:] == wanted[1:] and given[0] > wanted[0]


def first_pairs(name: str, table: Tensor, rows: int, official_compat: bool = False) -> Tensor:
    """Returns the rows of the first pairs, `rows` in number.

    `official_compat`: the first rows of the table, as the authors take them. Some objects then start from queries of
    subjects, and no subject keeps its object.
    """
    if PER_PAIR[name] == 1 or official_compat:
        return table[:rows]
    subjects, objects = table.chunk(2)
    return torch.cat((subjects[: rows // 2], objects[: rows // 2]))
