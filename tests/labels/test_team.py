"""Shares of a team: stable, complete, and no image of two people outside the overlap."""

from collections import Counter
from dataclasses import replace

import pytest

from pipeline.cli.review import team_of
from pipeline.labels.team import Team, read_team, write_team
from storage.errors import FatalError

DIGESTS = [f"{number:064x}" for number in range(2000)]


def test_each_image_has_one_owner_and_those_of_the_overlap_two():
    team = Team(size=10, overlap=0.1)
    seats = {digest: team.seats(digest) for digest in DIGESTS}
    assert sum(len(each) == 2 for each in seats.values()) == pytest.approx(200, abs=40)
    owners = Counter(each[0] for each in seats.values())
    assert set(owners) == set(range(10)) and max(owners.values()) < 250
    assert all(len(set(each)) == len(each) for each in seats.values())
    assert seats == {digest: Team(size=10, overlap=0.1, members=("ada",)).seats(digest) for digest in DIGESTS}


def test_one_more_member_takes_images_and_moves_none_between_the_others():
    before, after = Team(size=10), Team(size=11)
    moved = [after.seats(digest)[0] for digest in DIGESTS if before.seats(digest) != after.seats(digest)]
    assert set(moved) == {10} and 100 < len(moved) < 260


def test_who_comes_first_takes_the_free_seats_for_good(tmp_path):
    team = team_of("2", "10%", 500, None).joined("ada").joined("Zoë").joined("ada").joined("eve")
    assert (team.members, team.seat("Zoë"), team.seat("eve")) == (("ada", "Zoë"), 1, None)
    assert read_team(tmp_path) is None
    write_team(tmp_path, team)
    assert read_team(tmp_path) == team
    assert team_of("3", None, None, replace(team, overlap=0.25, labels=700)) == Team(
        size=3, overlap=0.25, labels=700, members=("ada", "Zoë")
    )
    with pytest.raises(FatalError, match="write their names, or how many"):
        team_of("", None, None, None)
    assert team_of("3", "0.2", 900, team) == Team(size=3, overlap=0.2, labels=900, members=("ada", "Zoë"))
    full = team_of("eve,Zoë,ada", None, None, team)
    smaller = [team_of("eve,Zoë", None, None, earlier).members for earlier in (team, full)]
    assert full.members == ("ada", "Zoë", "eve"), "whoever stays keeps the seat, and so the images"
    assert smaller == [("eve", "Zoë")] * 2


@pytest.mark.parametrize("reviewers, overlap, reason", [
    ("0", "10%", "a team of 0"), ("101", "10%", "a team of 101"), ("ada,../b", "10%", "reviewer '../b'"),
    ("2", "110%", "an overlap of 1.1"), ("2", "some", "--overlap some"),
])  # fmt: skip
def test_an_impossible_team_is_refused(reviewers, overlap, reason):
    with pytest.raises(FatalError, match=reason):
        team_of(reviewers, overlap, 500, None)
