"""Stated triplets are judged against the planted truth."""

from __future__ import annotations

from benchmarks.truth import closure, judge


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
