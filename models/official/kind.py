"""Determines which network a checkpoint belongs to from its parameter names."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum


class Kind(Enum):
    """Networks whose checkpoints can be imported."""

    PARSEDA = "RLIPv2-ParSeDA"
    PARSED = "RLIPv2-ParSeD"
    TAGGER = "R-Tagger"
    DEFORMABLE = "Deformable-DETR"
    DAB_DEFORMABLE = "DAB-Deformable-DETR"

    @property
    def detector(self) -> bool:
        """Whether the network only detects objects, so that everything about texts and relations is new."""
        return self in (Kind.DEFORMABLE, Kind.DAB_DEFORMABLE)

    @property
    def anchored(self) -> bool:
        """Whether queries start from boxes (ParSeDA) instead of positions (ParSeD)."""
        return self in (Kind.PARSEDA, Kind.DAB_DEFORMABLE)


def kind_of(names: Collection[str]) -> Kind | None:
    """Returns the kind of network with parameters of these names; None when it is not supported."""
    present = set(names)
    # What the authors' converter makes of a detector still has the detector's own decoder, which no RLIP has.
    if "transformer.decoder.layers.0.cross_attn.sampling_offsets.weight" in present:
        if "refpoint_embed.weight" in present:
            return Kind.DAB_DEFORMABLE
        return Kind.DEFORMABLE if "query_embed.weight" in present else None
    if "transformer.ho_decoder.layers.0.cross_attn.sampling_offsets.weight" in present:
        if "transformer.coord_proj.weight" in present:
            return Kind.TAGGER
        if "refpoint_embed.weight" in present:
            return Kind.PARSEDA
        return Kind.PARSED if "query_embed.weight" in present else None
    return None
