"""Draws a stratified random sample of labels, and estimates the precision of all labels from its verdicts.

Strata are bands of the predicates' frequency crossed with bands of the confidence or, where a verifier gave its
opinion, with that (stratified prediction-powered inference; Fisch et al. 2024). Within a stratum, labels are judged in
the order of numbers that depend only on content and seed (permanent random numbers; Ohlsson 1995, in Business Survey
Methods): recomputed labels keep their place in the sample and thus their verdicts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.ranking import ranks_in
from pipeline.labels.flat_list import Indices
from pipeline.labels.verdicts import JudgedRelation
from pipeline.runtime.wording import counted
from storage.digests import canonical_json

Numbers = NDArray[np.float64]

RIGHT, WRONG, UNSURE, UNJUDGED = 1, 0, -1, -2
FREQUENCY_BANDS = ("frequent", "middle", "rare")
CONFIDENCE_BANDS = 4
HOLDS = 0.5
"""Minimum probability for which a verifier counts as accepting a label."""
REFUSED_RATE = 2.0
"""Factor by which labels that the verifier refuses are drawn more often, since they are more informative."""
_SAID = {True: "accepted by the verifier", False: "refused by the verifier", None: "not verified"}
MOST_AUDITED = 100_000
"""Maximum number of labels in an audit: those with the lowest numbers, a random sample large enough for any audit."""
FIRST_OF_EACH = 2
"""Labels of each stratum that precede all others, so that every stratum's variance can be estimated."""
AUDIT_SEED = 0
"""Seed of the permanent numbers. One sample serves the page, the summaries and the reports."""


@dataclass(frozen=True)
class AuditStrata:
    """The strata of N labels: `stratum` (N) indexes `names` (H), and `sizes` (H) counts the labels of each stratum.

    `accepted` (H): whether the verifier accepts them; None: not verified.
    """

    names: tuple[str, ...]
    stratum: Indices
    sizes: Indices
    accepted: tuple[bool | None, ...]

    @classmethod
    def of(
        cls, predicates: Sequence[str], confidences: Sequence[float] | Numbers, opinions: Sequence[float | None] = ()
    ) -> AuditStrata:
        """Divides labels into strata.

        Predicates in descending order of frequency form three bands, each with a third of the labels. If any label has
        an opinion of a verifier, the probability that it holds, labels are divided by what it says; otherwise at the
        quartiles of their confidence.
        """
        values = np.asarray(confidences, np.float64)
        counts = Counter(predicates)
        before, band = 0, {}
        for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
            band[name] = before * len(FREQUENCY_BANDS) // len(predicates)
            before += count
        said = [None if each is None else each >= HOLDS for each in opinions]
        is_verified = any(each is not None for each in said)
        if is_verified:
            words = dict(enumerate(_SAID.values()))
            second = [list(_SAID).index(each) for each in said]
        else:
            cuts = np.arange(1, CONFIDENCE_BANDS) / CONFIDENCE_BANDS
            # Many equal confidences may span several quartiles.
            edges = np.unique(np.quantile(values, cuts)) if len(values) else np.array([])
            limits = [0.0, *edges.tolist(), 1.0]
            # Negative, so that the highest confidences come first.
            words = {-h: f"confidence {limits[h]:.2f} to {limits[h + 1]:.2f}" for h in range(len(limits) - 1)}
            second = (-np.searchsorted(edges, values, side="right")).tolist()
        keys = list(zip((band[name] for name in predicates), second, strict=True))
        present = sorted(set(keys))
        names = tuple(f"{FREQUENCY_BANDS[b]}, {words[each]}" for b, each in present)
        place = {key: number for number, key in enumerate(present)}
        stratum = np.array([place[key] for key in keys], np.int64)
        accepted = tuple(list(_SAID)[each] if is_verified else None for _, each in present)
        return cls(names, stratum, np.bincount(stratum, minlength=len(names)), accepted)


@dataclass(frozen=True)
class StratumCount:
    """The verdicts on one stratum, in the sample's order up to the first label without a verdict."""

    name: str
    labels: int
    judged: int
    """Labels with a confident verdict."""
    right: int
    unsure: int


@dataclass(frozen=True)
class PredicatePrecision:
    """The precision of a predicate's labels, estimated like that of all labels from the counted verdicts on them."""

    predicate: str
    judged: int
    """Labels with a confident verdict."""
    right: int
    precision: float
    low: float
    high: float


@dataclass(frozen=True)
class VerifierErrors:
    """How a verifier judges labels, estimated from people's verdicts; None where none of them is right or wrong."""

    accepts: float
    """Share of the verified labels that it accepts, of those whose strata have verdicts."""
    of_right: float | None
    """Share of the right labels that it accepts."""
    of_wrong: float | None
    """Share of the wrong labels that it accepts."""

    def in_words(self) -> str:
        """The shares."""
        right, wrong = ("–" if each is None else f"{each:.3f}" for each in (self.of_right, self.of_wrong))
        return (
            f"the verifier accepts {self.accepts:.3f} of the labels that it judged; by these verdicts, {right} of the "
            f"right and {wrong} of the wrong ones"
        )


@dataclass(frozen=True)
class AuditPrecision:
    """The precision of labels, estimated from a stratified sample. None: no stratum has a confident verdict."""

    precision: float | None
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None
    judged: int
    unsure: int
    covered: float
    """Share of the labels whose strata have verdicts; the precision holds for these labels only."""
    strata: tuple[StratumCount, ...]
    predicates: tuple[PredicatePrecision, ...] = ()
    """Most judged first."""
    blind: int = 0
    """Labels among `judged` whose reviewers saw neither score nor ground truth."""
    verifier: VerifierErrors | None = None
    """None without a verifier, or without verdicts on labels that it verified."""

    def in_words(self) -> str:
        """The estimate with its interval and what it rests on."""
        if self.precision is None or self.low is None or self.high is None:
            unsure = f"; unsure: {self.unsure:,}" if self.unsure else ""
            return f"no label of the random audit has a confident verdict{unsure}"
        whole = "" if self.covered == 1 else f", for the {min(self.covered, 0.999):.3f} of them in strata with verdicts"
        unsure = f"; {self.unsure:,} more are unsure" if self.unsure else ""
        return (
            f"{self.precision:.3f} of the labels are right before corrections (95 % interval of the sampling "
            f"{self.low:.3f} to {self.high:.3f}){whole}, by verdicts on {counted(self.judged, 'label')} of the "
            f"random audit, {self.blind:,} of them blind{unsure}"
            + (f"; {self.verifier.in_words()}" if self.verifier is not None else "")
        )


def permanent_numbers(relations: Iterable[JudgedRelation], seed: int) -> Numbers:
    """A number in [0, 1) for each of N relations, (N), that depends only on its content and the seed."""
    salt = seed.to_bytes(8, "little", signed=True)
    found = [_number(canonical_json([r.image, r.subject, r.object, r.predicate]), salt) for r in relations]
    return np.array(found, np.float64)


def permanent_numbers_of(
    digests: Sequence[str],
    boxes: NDArray[np.floating[Any]],
    subject: Indices,
    object_: Indices,
    predicates: Sequence[str],
    seed: int,
) -> Numbers:
    """`permanent_numbers` of N labels in columns, in a tenth of the time.

    `digests` (N): of each label's image. `boxes` (B, 4): x, y, w, h; `subject` and `object_` (N) index its rows.
    `predicates` (N) must be canonical.
    """
    salt = seed.to_bytes(8, "little", signed=True)
    used, place = np.unique(np.concatenate([subject, object_]), return_inverse=True)
    # Coordinates as `JudgedRelation` stores them, in canonical JSON.
    sides = iter([round(side, 2) + 0.0 for side in boxes[used].ravel().tolist()])
    texts = [f"[{x!r},{y!r},{w!r},{h!r}]" for x, y, w, h in zip(sides, sides, sides, sides, strict=True)]
    first, second = place[: len(subject)].tolist(), place[len(subject) :].tolist()
    names = {name: json.dumps(name, ensure_ascii=False) for name in {*digests, *predicates}}
    found = [
        _number(f"[{names[digest]},{texts[s]},{texts[o]},{names[predicate]}]".encode(), salt)
        for digest, s, o, predicate in zip(digests, first, second, predicates, strict=True)
    ]
    return np.array(found, np.float64)


def audit_order(strata: AuditStrata, numbers: Numbers) -> Indices:
    """The indices of all N labels in the order to judge them, (N). Each prefix is a stratified random sample.

    It begins with two labels of each stratum and continues in proportion to the strata's sizes, at `REFUSED_RATE` where
    the verifier refuses.
    """
    rank = ranks_in((strata.stratum,), (numbers,))
    weights = strata.sizes * np.array([REFUSED_RATE if each is False else 1.0 for each in strata.accepted])
    # In this order, strata get their labels as parties get seats by the Sainte-Laguë method, which favours no size.
    share = (rank + 0.5) / weights[strata.stratum] if len(rank) else np.zeros(0)
    # The last key of `lexsort` counts first.
    return np.lexsort((numbers, share, rank >= FIRST_OF_EACH)).astype(np.int64)


def audit_precision(
    strata: AuditStrata,
    numbers: Numbers,
    outcomes: NDArray[np.int8],
    seats: Indices | None = None,
    predicates: Sequence[str] = (),
    blind: NDArray[np.bool_] | None = None,
) -> AuditPrecision:
    """Estimates the precision of N labels from `outcomes` (N): RIGHT, WRONG, UNSURE or UNJUDGED.

    In each stratum, verdicts count up to the first label without one in the sample's order, because later labels were
    judged for other reasons and are not a random sample. Where a team shares the labels by `seats` (N), this holds
    within each member's share, as every member follows the order alone. A stratum's verdicts share the weight of all
    its labels equally. `predicates` (N) and `blind` (N) are counted for the labels whose verdicts count.
    """
    rank = ranks_in((strata.stratum,), (numbers,))
    seats = np.zeros(len(outcomes), np.int64) if seats is None else seats
    counted = np.zeros(len(outcomes), bool)
    order = np.lexsort((rank, seats, strata.stratum))
    edges = np.flatnonzero(np.diff(seats[order]) | np.diff(strata.stratum[order])) + 1
    for own in np.split(order, edges):
        counted[own] = np.logical_and.accumulate(outcomes[own] != UNJUDGED)
    rows = []
    for place, (name, size) in enumerate(zip(strata.names, strata.sizes.tolist(), strict=True)):
        said = outcomes[counted & (strata.stratum == place)]
        counts = [int((said == outcome).sum()) for outcome in (RIGHT, WRONG, UNSURE)]
        rows.append(StratumCount(name, size, counts[0] + counts[1], counts[0], counts[2]))
    known = [row for row in rows if row.judged]
    unsure = sum(row.unsure for row in rows)
    if not known:
        return AuditPrecision(None, None, None, 0, unsure, 0.0, tuple(rows))
    total = sum(row.labels for row in known)
    precision, low, high = _stratified_interval(known, total)
    confident = counted & (outcomes != UNSURE)
    return AuditPrecision(
        precision, low, high, int(confident.sum()), unsure, total / len(outcomes), tuple(rows),
        _by_predicate(predicates, strata, outcomes, confident),
        0 if blind is None else int((confident & blind).sum()), _verifier_errors(strata, rows),
    )  # fmt: skip


def _verifier_errors(strata: AuditStrata, rows: Sequence[StratumCount]) -> VerifierErrors | None:
    """Weighs the verdicts on what a verifier accepts and refuses by the sizes of their strata."""
    found = [(a, row) for a, row in zip(strata.accepted, rows, strict=True) if a is not None and row.judged]
    if not found:
        return None

    def accepted(share: Callable[[StratumCount], float]) -> float | None:
        numbers = [(accepts, row.labels * share(row)) for accepts, row in found]
        total = math.fsum(number for _, number in numbers)
        return math.fsum(number for accepts, number in numbers if accepts) / total if total else None

    right = accepted(lambda row: row.right / row.judged)
    return VerifierErrors(accepted(lambda row: 1.0) or 0.0, right, accepted(lambda row: 1 - row.right / row.judged))


def _by_predicate(
    predicates: Sequence[str], strata: AuditStrata, outcomes: NDArray[np.int8], confident: NDArray[np.bool_]
) -> tuple[PredicatePrecision, ...]:
    """Weighs each predicate's verdicts by the sizes of its parts of the strata, which are not judged in proportion."""
    if not predicates:
        return ()
    names, number = np.unique(np.array(predicates, object), return_inverse=True)
    shape = len(names), len(strata.names)
    labels, judged, right = (
        np.bincount((number * shape[1] + strata.stratum)[chosen], minlength=shape[0] * shape[1]).reshape(shape)
        for chosen in (slice(None), confident, confident & (outcomes == RIGHT))
    )
    found = []
    for place in np.flatnonzero(judged.any(axis=1)):
        counts = zip(strata.names, labels[place].tolist(), judged[place].tolist(), right[place].tolist(), strict=True)
        known = [StratumCount(*count, unsure=0) for count in counts if count[2]]
        interval = _stratified_interval(known, sum(row.labels for row in known))
        found.append(PredicatePrecision(names[place], int(judged[place].sum()), int(right[place].sum()), *interval))
    return tuple(sorted(found, key=lambda each: (-each.judged, each.predicate)))


def wilson_interval(share: float, number: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share observed in `number` draws, possibly an effective number (inf: exact)."""
    if math.isinf(number):
        return share, share
    z = 1.959964
    middle = (share + z * z / (2 * number)) / (1 + z * z / number)
    apart = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number)) / (1 + z * z / number)
    return max(0.0, middle - apart), min(1.0, middle + apart)


def _stratified_interval(known: Sequence[StratumCount], total: int) -> tuple[float, float, float]:
    """The stratified estimate with Wilson's interval for its effective number of draws.

    Unanimous verdicts do not mean zero variance, so the variance uses shares smoothed by half a verdict of each kind.
    Verdicts on all labels of a stratum leave no variance (finite population).
    """
    weights = [row.labels / total for row in known]
    precision = sum(weight * row.right / row.judged for weight, row in zip(weights, known, strict=True))
    smooth = [(row.right + 0.5) / (row.judged + 1) for row in known]
    middle = sum(weight * share for weight, share in zip(weights, smooth, strict=True))
    variance = sum(
        weight**2 * (1 - row.judged / row.labels) * share * (1 - share) / row.judged
        for weight, share, row in zip(weights, smooth, known, strict=True)
    )
    effective = middle * (1 - middle) / variance if variance > 0 else math.inf
    return precision, *wilson_interval(precision, effective)


def _number(content: bytes, salt: bytes) -> float:
    # A double holds 53 of the 64 bits exactly.
    return (int.from_bytes(hashlib.blake2b(content, digest_size=8, key=salt).digest(), "little") >> 11) / 2**53
