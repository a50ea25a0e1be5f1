"""One scored relation between two boxes of an image."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """A row of the relations table: box indices, canonical predicate, score in [0, 1], and origin.

    `proposed`: whether a caption's triplet proposed this exact pair; `triplet`: its number, -1 if none did.
    `calibrated`: the probability that the score stands for; None when the tagger is not calibrated.
    `posterior`: the probability that this pair is (one of those) meant by the mention that proposed it, given that the
    mention is right; the highest over several mentions; None when no mention proposed it.
    `probability`: the probability that the relation holds for this exact pair, and what each part adds to its log-odds
    (`tagger.labelling.calibration.Stack`); None before they are combined.
    """

    subject: int
    object: int
    predicate: str
    score: float
    proposed: bool
    triplet: int
    calibrated: float | None = None
    posterior: float | None = None
    probability: float | None = None
    tagger_part: float | None = None
    prior_part: float | None = None
    posterior_part: float | None = None
    captions_part: float | None = None
