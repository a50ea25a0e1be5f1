"""Stated triplets are judged against the planted truth."""

from __future__ import annotations

from scenes.predicates import SYMMETRIC
from scenes.truth import closure, judge, planted_triplets, true_pairs
from scenes.world import make_scene


def test_symmetric_relations_hold_both_ways() -> None:
    assert closure({("dog", "next to", "car"), ("man", "ride", "horse")}) == {
        ("dog", "next to", "car"),
        ("car", "next to", "dog"),
        ("man", "ride", "horse"),
    }


def test_judge_counts_true_and_found() -> None:
    planted = {("person", "ride", "horse"), ("dog", "next to", "car")}
    stated = {("car", "next to", "dog"), ("person", "ride", "dog")}
    true, found = judge(stated, planted)
    assert true == {("car", "next to", "dog")}
    assert found == {("dog", "next to", "car")}


def test_pairs_and_triplets_agree() -> None:
    for i in range(30):
        scene = make_scene(33, i)
        pairs = true_pairs(scene)
        names = {(scene.objects[s].category, p, scene.objects[o].category) for s, p, o in pairs}
        assert names == closure(planted_triplets(scene))
        assert len(pairs) == len(scene.relations) + sum(r.predicate in SYMMETRIC for r in scene.relations)
