from collections import Counter

import numpy as np
import pytest

from tagger.audit.coverage import (
    FREQUENT,
    NEVER_KEPT,
    NEVER_PROPOSED,
    NEVER_STATED,
    PAIR_BINS,
    VG_PREDICATES,
    CodedLabels,
    bin_counts,
    density,
    missing_predicates,
    pair_bins,
    precision_by_bin,
)
from tagger.english.predicates import canonical

# A box of 30 x 40 has a diagonal of 50, one of 60 x 80 a diagonal of 100 and four times the area.
SMALL, LARGE = (30.0, 40.0), (60.0, 80.0)
RIDE, NEXT_TO = 0, 1


def box(size: tuple[float, float], right: float = 0.0, down: float = 0.0) -> tuple[float, float, float, float]:
    """A box whose centre lies `right` and `down` from (500, 500)."""
    return (500 + right - size[0] / 2, 500 + down - size[1] / 2, *size)


def labels(*found: tuple[int, int, int]) -> CodedLabels:
    """Labels from (subject, predicate, object)."""
    columns = np.array(found, np.int64).reshape(-1, 3).T
    return CodedLabels(np.zeros(len(found), np.int64), columns[0], columns[2], columns[1])


@pytest.mark.parametrize(
    ("subject", "object_", "distance", "ratio", "direction"),
    [
        (box(SMALL), box(SMALL, right=24), "< 1/2", "1/4 to 4", "right"),
        (box(SMALL), box(SMALL, right=25), "1/2 to 1", "1/4 to 4", "right"),
        (box(SMALL), box(SMALL, right=-50), "1/2 to 1", "1/4 to 4", "left"),
        (box(SMALL), box(SMALL, right=-51), "> 1", "1/4 to 4", "left"),
        (box(SMALL), box(SMALL, down=-30), "1/2 to 1", "1/4 to 4", "above"),
        (box(SMALL), box(SMALL, right=-20, down=60), "> 1", "1/4 to 4", "below"),
        # The unit is 75: neither diagonal alone would give both of these.
        (box(SMALL), box(LARGE, down=45), "1/2 to 1", "1/4 to 4", "below"),
        (box(SMALL), box(LARGE, down=70), "1/2 to 1", "1/4 to 4", "below"),
        (box(LARGE), box(SMALL, down=70), "1/2 to 1", "1/4 to 4", "below"),
        (box(SMALL), box((60.0, 81.0), down=10), "< 1/2", "< 1/4", "below"),
        (box((60.0, 81.0)), box(SMALL, down=10), "< 1/2", "> 4", "below"),
        (box(SMALL), box(SMALL, right=30, down=-30), "1/2 to 1", "1/4 to 4", "right"),
        (box(SMALL), box(SMALL), "< 1/2", "1/4 to 4", "right"),
    ],
)
def test_a_pair_is_in_one_bin_of_each_measure(subject, object_, distance, ratio, direction):
    # Other boxes come first, so that indices matter.
    boxes = np.array([box(LARGE, 999), subject, object_])
    (found,) = pair_bins(boxes, np.array([1]), np.array([2])).tolist()
    assert [PAIR_BINS[row] for row in found] == [
        ("distance", distance), ("size ratio", ratio), ("direction", direction),
    ]  # fmt: skip


# Boxes 0 and 1 are far apart, 1 to the right; box 2 is much larger and just below box 0.
BOXES = np.array([box(SMALL), box(SMALL, right=200), box((200.0, 200.0), down=20)])


def counted(kept: CodedLabels, naive: CodedLabels, given: CodedLabels) -> dict[str, tuple[object, ...]]:
    counts = (bin_counts(BOXES, each, given, [NEXT_TO]) for each in (kept, naive))
    found = precision_by_bin(*counts)
    return {f"{row.measure} {row.bin}": (row.kept, row.precision, row.naive, row.naive_precision) for row in found}


def test_precision_by_bin_by_hand():
    given = labels((0, RIDE, 2))
    kept = labels((0, RIDE, 2), (1, RIDE, 0))
    naive = labels((0, RIDE, 2), (2, RIDE, 0), (1, RIDE, 0), (0, RIDE, 1))
    assert counted(kept, naive, given) == {
        "distance < 1/2": (1, 1.0, 2, 0.5), "distance 1/2 to 1": (0, None, 0, None), "distance > 1": (1, 0.0, 2, 0.0),
        "size ratio < 1/4": (1, 1.0, 1, 1.0), "size ratio 1/4 to 4": (1, 0.0, 2, 0.0),
        "size ratio > 4": (0, None, 1, 0.0), "direction left": (1, 0.0, 1, 0.0), "direction right": (0, None, 1, 0.0),
        "direction above": (0, None, 1, 0.0), "direction below": (1, 1.0, 1, 1.0),
    }  # fmt: skip


def test_a_symmetric_label_counts_once_in_the_direction_that_comes_first():
    kept = labels((1, NEXT_TO, 0), (0, NEXT_TO, 1), (1, NEXT_TO, 0))
    found = counted(kept, labels((0, NEXT_TO, 1)), labels((0, NEXT_TO, 1)))
    assert found["distance > 1"] == (1, 1.0, 1, 1.0)
    assert found["direction left"] == (1, 1.0, 0, None)
    assert found["direction right"] == (0, None, 1, 1.0)
    # "ride" is not symmetric: its other direction is another label, and it is not given.
    found = counted(labels((0, RIDE, 1), (1, RIDE, 0)), labels(), labels((0, RIDE, 1)))
    assert found["distance > 1"] == (2, 0.5, 0, None)


def test_equal_labels_count_once_and_other_predicates_do_not_confirm():
    kept = labels((0, RIDE, 2), (0, RIDE, 2), (0, NEXT_TO, 2))
    assert counted(kept, labels(), labels((0, RIDE, 2)))["distance < 1/2"] == (2, 0.5, 0, None)


def test_no_boxes_and_no_labels_are_no_error():
    nothing = bin_counts(np.zeros((0, 4)), labels(), labels())
    assert nothing.tolist() == [[0, 0]] * len(PAIR_BINS)


def test_missing_predicates_tell_whether_labels_could_have_them():
    found = missing_predicates(
        ["riding", "lying on", "wears", "growing on", "mounted on", "over"], kept={"ride": 3, "on": 1},
        scored={"ride": 9, "lie on": 2}, candidates={"ride": 9, "wear": 4},
        triplets={"ride": 20, "lie on": 5, "wear": 7, "grow on": 2},
    )  # fmt: skip
    assert [(each.predicate, each.reason, each.triplets, each.candidates, each.scored) for each in found] == [
        ("lying on", NEVER_KEPT, 5, 0, 2), ("wears", NEVER_KEPT, 7, 4, 0), ("growing on", NEVER_PROPOSED, 2, 0, 0),
        ("mounted on", NEVER_STATED, 0, 0, 0), ("over", NEVER_STATED, 0, 0, 0),
    ]  # fmt: skip


def test_without_triplets_nobody_knows_whether_captions_state_it():
    (found,) = missing_predicates(["wears"], {}, {}, {}, None)
    assert (found.triplets, found.reason) == (None, NEVER_PROPOSED)


def test_a_predicate_counts_as_kept_in_any_wording():
    assert missing_predicates(["over", "above", "wears", "wearing"], {"above": 1, "wear": 1}, {}, {}, {}) == []


def test_visual_genome_has_fifty_names_with_47_forms():
    assert len(VG_PREDICATES) == len(set(VG_PREDICATES)) == 50
    assert len({canonical(name) for name in VG_PREDICATES}) == 47


def test_density_and_tail_by_hand():
    # Ten predicates with 2 relations each are not tail; two rare ones with 1 each are.
    predicates = Counter({f"frequent {place}": 2 for place in range(FREQUENT)} | {"rare": 1, "rarer": 1, "never": 0})
    found = density(np.array([0, 0, 4, 18]), predicates)
    assert (found.relations, found.mean, found.median, found.share_without) == (22, 5.5, 2.0, 0.5)
    assert (found.predicates, found.tail_share) == (12, pytest.approx(2 / 22))


def test_nothing_has_no_density_and_no_tail():
    found = density(np.zeros(0, np.int64), {})
    assert (found.relations, found.mean, found.median, found.share_without, found.tail_share) == (0, *[None] * 4)
    unused = density(np.array([0, 0]), {"ride": 0})
    assert (unused.share_without, unused.predicates, unused.tail_share) == (1.0, 0, None)
