"""Zero-shot splits: the published lists fit the dataset, and generated ones keep every name seen."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.benchmark import Options, hico_det
from pipeline.evaluation.hico import HicoScores, TripletClass
from pipeline.evaluation.relations import Relations
from pipeline.evaluation.splits import (
    PUBLISHED,
    published_split,
    read_interactions,
    read_positions,
    split_by_counts,
    split_of_positions,
)

TRIPLETS = [TripletClass(0, thing, verb) for thing in range(30) for verb in range(20)]
COUNTS = {
    TripletClass(*kind): count
    for kind, count in {(0, 0, 0): 5, (0, 0, 1): 1, (0, 1, 0): 5, (0, 1, 1): 9, (0, 2, 1): 0}.items()
}


def scores(**values: float) -> HicoScores:
    """`values`: AP by the digits of a triplet, e.g. t012."""
    precision = {TripletClass(*map(int, name[1:])): value for name, value in values.items()}
    return HicoScores(precision, precision)


@pytest.mark.parametrize("name", ["UC-RF", "UC-NF"])
def test_published_lists_leave_out_rare_or_frequent_triplets_of_which_every_name_is_seen(shared, name):
    truth = json.loads((shared / "data" / "hico_det" / "ground_truth_800.json").read_text())
    triplets = [TripletClass(0, thing, verb) for _, thing, verb in truth["correspondence"]]
    unseen = published_split(name, triplets)
    assert len(unseen) == 120
    rare = {triplets[hoi] for hoi in truth["rare"]}
    assert unseen <= rare if name == "UC-RF" else unseen.isdisjoint(rare)
    seen = set(triplets) - unseen
    assert len({triplet.object for triplet in seen}) == 80
    assert len({triplet.predicate for triplet in seen}) == 117


def test_unseen_objects_and_verbs_occur_in_no_seen_triplet(shared):
    names = read_interactions(shared / "data" / "hico_det" / "hico_list_hoi.txt")
    places = {name: place for place, name in enumerate(sorted({name for both in names for name in both}))}
    triplets = [TripletClass(0, places[thing], places[verb]) for verb, thing in names]
    for split, count, end in (("UO", 12, "object"), ("UV", 20, "predicate")):
        unseen = published_split(split, triplets)
        new = {getattr(triplet, end) for triplet in unseen}
        assert len(new) == count and {t for t in triplets if getattr(t, end) in new} == unseen
    for split in ("UC-RF", "UC-NF", "UO", "UV"):
        with pytest.raises(ValueError, match="in a different order"):
            published_split(split, sorted(triplets))


def test_without_fine_tuning_every_triplet_is_unseen():
    unseen, seen = scores(t000=0.25, t001=0.75).apart(published_split("NF", TRIPLETS))
    assert unseen == 0.5 and np.isnan(seen)


def test_means_of_unseen_and_seen_triplets():
    unseen = {TripletClass(0, 0, 0), TripletClass(0, 5, 5)}
    assert scores(t000=0.1, t001=0.4, t002=0.7).apart(unseen) == pytest.approx((0.1, 0.55))


def test_classes_are_grouped_as_means_are():
    kinds = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]
    box = np.tile([0.0, 0, 9, 9], (4, 1))
    truth = Relations(1, np.zeros(4, int), box, box, *np.array(kinds).T)
    rare, unseen = ({TripletClass(*kinds[place]) for place in places} for places in ((0, 1), (1, 2)))
    options = Options(objects=["person", "cup"], rare=frozenset(rare), unseen=frozenset(unseen), resamples=0)
    found = hico_det(replace(truth, scores=np.ones(4)), truth, ["hold", "lift"], options)
    assert [each.group for each in found.classes] == [
        "rare, seen",
        "rare, unseen",
        "non-rare, unseen",
        "non-rare, seen",
    ]


def test_rare_first_takes_the_fewest_instances_and_keeps_every_name_seen():
    unseen = split_by_counts(COUNTS, 2, rare_first=True)
    # Object 2 occurs in a single triplet, so that one stays, though it is the rarest.
    assert unseen == {TripletClass(0, 0, 1), TripletClass(0, 1, 0)}


def test_non_rare_first_takes_the_most_instances_and_equal_ones_as_given():
    assert split_by_counts(COUNTS, 1, rare_first=False) == {TripletClass(0, 1, 1)}
    tied = dict.fromkeys(COUNTS, 4)
    assert split_by_counts(tied, 1, rare_first=False) == {TripletClass(0, 0, 0)}
    assert split_by_counts(dict(reversed(tied.items())), 1, rare_first=False) == {TripletClass(0, 1, 1)}


def test_names_stay_seen_however_many_triplets_are_left_out():
    draws = np.random.default_rng(5)
    counts = {triplet: int(count) for triplet, count in zip(TRIPLETS, draws.geometric(0.05, 600), strict=True)}
    unseen = split_by_counts(counts, 500, rare_first=True)
    seen = [triplet for triplet in TRIPLETS if triplet not in unseen]
    assert len({t.object for t in seen}) == 30 and len({t.predicate for t in seen}) == 20


@pytest.mark.parametrize("text", ["[3, 0]", "3,\n0\n"])
def test_positions_of_unseen_triplets_are_read_from_a_file(tmp_path, text):
    (tmp_path / "unseen").write_text(text)
    positions = read_positions(tmp_path / "unseen")
    assert split_of_positions("own", positions, TRIPLETS) == {TripletClass(0, 0, 3), TripletClass(0, 0, 0)}


@pytest.mark.parametrize("text", ["3 zero", "[3, 0", "[3.5]", "[true]"])
def test_a_file_without_positions_is_refused(tmp_path, text):
    (tmp_path / "unseen").write_text(text)
    with pytest.raises(ValueError, match="unseen is not a list of positions"):
        read_positions(tmp_path / "unseen")


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"positions \[-1, 600\], but the list has 600"):
        split_of_positions("own", [600, 0, -1], TRIPLETS)
    with pytest.raises(ValueError, match=r"positions \[7\] more than once"):
        split_of_positions("own", [7, 0, 7], TRIPLETS)


def test_the_published_lists_name_each_position_once():
    assert Counter(map(len, map(set, PUBLISHED.values()))) == {600: 1, 120: 2, 100: 1, 84: 1}
