"""Packing of pairs into decoder calls."""

from hypothesis import given
from hypothesis import strategies as st

from tagger.labelling.packing import pack


@given(st.lists(st.integers(0, 400), max_size=12), st.integers(1, 30), st.integers(1, 500))
def test_every_pair_goes_once_in_whole_groups_within_the_bound(counts: list[int], group: int, most: int) -> None:
    calls = list(pack(counts, group, most))
    seen = sorted((part.image, pair) for call in calls for part in call for pair in range(part.start, part.end))
    assert seen == [(image, pair) for image, count in enumerate(counts) for pair in range(count)]
    for call in calls:
        assert all(
            part.start % group == 0 and (part.end % group == 0 or part.end == counts[part.image]) for part in call
        )
        longest, shortest = (extreme(part.end - part.start for part in call) for extreme in (max, min))
        assert longest < 2 * shortest or longest <= 1
        slots = longest if longest <= group else -(-longest // group) * group
        assert slots * len(call) <= max(most, group)


def test_images_of_one_pair_share_a_call_and_a_crowded_one_has_its_own() -> None:
    assert [[part.image for part in call] for call in pack([1, 300, 1, 0, 1], 100, 1000)] == [[0, 2, 4], [1]]
