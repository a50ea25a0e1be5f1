"""Which triplets a network has seen in training: the published splits of HICO-DET, such splits of any list, and means.

NF            no fine-tuning: no image of the dataset was trained on, so every triplet is unseen
UC-RF, UC-NF  unseen combinations, rare first and non-rare first: training leaves out 120 triplets, but shows each of
              their names in another combination (Hou et al. 2020, "Visual Compositional Learning for HOI Detection";
              the same lists in RLIP and RLIPv2)
UO            unseen objects: all 100 triplets of 12 objects (Bansal et al. 2020, "Detecting Human-Object Interactions
              via Functional Generalization")
UV            unseen verbs: all 84 triplets of 20 verbs (Liao et al. 2022, "GEN-VLKT")

Scores of two networks on one split compare only if both were trained by the same rule: whether training used anything
of the unseen triplets, their names as texts or images that show them with their labels removed.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.data.datasets.annotations import read_text
from pipeline.evaluation.hico import TripletClass
from storage.errors import FatalError

HICO_TRIPLETS = 600
HICO_RARE = 138
"""Those with fewer than ten instances in training"""

PUBLISHED: Mapping[str, Sequence[int]] = {
    "NF": range(HICO_TRIPLETS),
    **tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")),
}
"""Split → the positions of its unseen triplets in HICO-DET's list of interactions."""
_UNSEEN_NAMES = {"UC-RF": (0, 0), "UC-NF": (0, 0), "UO": (12, 5), "UV": (0, 20)}
"""Split → how many objects, and how many predicates, occur in no seen triplet."""


def published_split(name: str, triplets: Sequence[TripletClass]) -> frozenset[TripletClass]:
    """Returns the unseen triplets of a split of `PUBLISHED`. `triplets`: HICO-DET's 600 in the order of its list.

    Raises ValueError if the list has another length or order.
    """
    if len(triplets) != HICO_TRIPLETS:
        raise ValueError(
            f"split {name} needs HICO-DET's list of {HICO_TRIPLETS} triplets, but this list has {len(triplets)}"
        )
    unseen = split_of_positions(name, PUBLISHED[name], triplets)
    seen = frozenset(triplets) - unseen
    new = tuple(len({t[end] for t in unseen} - {t[end] for t in seen}) for end in (1, 2))
    if new != _UNSEEN_NAMES.get(name, new):
        raise ValueError(f"split {name} needs HICO-DET's list, but this list has its interactions in a different order")
    return unseen


def split_of_positions(name: str, unseen: Iterable[int], triplets: Sequence[TripletClass]) -> frozenset[TripletClass]:
    """Returns the triplets at these positions, counted from 0: those that a split leaves out.

    Raises ValueError if a position is outside the list or occurs twice.
    """
    positions = list(unseen)
    wrong = sorted({p for p in positions if not 0 <= p < len(triplets)})
    if wrong:
        raise ValueError(f"split {name} names positions {wrong[:5]}, but the list has {len(triplets)} triplets, from 0")
    twice = [position for position, times in Counter(positions).items() if times > 1]
    if twice:
        raise ValueError(f"split {name} names positions {twice[:5]} more than once")
    return frozenset(triplets[p] for p in positions)


def read_positions(file: Path) -> list[int]:
    """Reads positions of unseen triplets: a JSON list, or numbers separated by spaces, commas or line breaks.

    Raises ValueError if the file holds anything else, and `AnnotationError` for one that can't be read.
    """
    text = read_text(file, "positions in a list of interactions")
    try:
        found = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [int(word) for word in re.split(r"[\s,]+", text.strip())]
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a list of positions: {error}") from None
    if not all(type(each) is int for each in found):
        raise ValueError(f"{file} is not a list of positions: it contains more than whole numbers")
    return list(found)


def split_by_counts(counts: Mapping[TripletClass, int], number: int, *, rare_first: bool) -> frozenset[TripletClass]:
    """Leaves out the `number` triplets with the fewest (or most) instances in training, whose names all remain seen.

    Triplets are taken one after the other, by ascending (or descending) count, and equal ones in the order of `counts`.
    One is passed over if its subject, object or predicate would occur in no seen triplet any more. Raises ValueError if
    fewer can be left out.

    On HICO-DET this rule gives the published lists, except for the order of equal counts, and for triplets with "no
    interaction", whose counts are unknown.
    """
    order = sorted(counts, key=lambda triplet: counts[triplet] if rare_first else -counts[triplet])
    remaining = [Counter(labels) for labels in zip(*order, strict=True)]
    unseen: list[TripletClass] = []
    for triplet in order:
        if len(unseen) == number:
            break
        if all(seen[label] > 1 for seen, label in zip(remaining, triplet, strict=True)):
            unseen.append(triplet)
            for seen, label in zip(remaining, triplet, strict=True):
                seen[label] -= 1
    if len(unseen) < number:
        raise ValueError(
            f"{number} triplets can't be left out, only {len(unseen)}: each name must occur in one of the {len(order)} "
            "triplets that is seen"
        )
    return frozenset(unseen)


def read_interactions(path: Path) -> list[tuple[str, str]]:
    """Reads HICO-DET's list of interactions, in whose order published splits count. Returns (verb, object) of each.

    A line has a number, an object and a verb; other lines are headings.

    Raises `FatalError` for a file without such a line.
    """
    cells = [line.split() for line in read_text(path, "HICO-DET's hico_list_hoi.txt").splitlines()]
    listed = [(row[-1], row[-2]) for row in cells if len(row) == 3 and row[0].isdigit()]
    if not listed:
        raise FatalError(f"{path}: has no line such as '1 airplane board'; use HICO-DET's hico_list_hoi.txt")
    return listed
