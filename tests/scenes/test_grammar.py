"""Captions of synthetic scenes are true, short, varied, and within the captioner's vocabulary."""

from __future__ import annotations

from random import Random

import pytest

from scenes.captioning.model import words
from scenes.grammar import caption, read
from scenes.names import SYMMETRIC
from scenes.scene import Scene
from scenes.world import make_scene


@pytest.fixture(scope="module")
def captioned() -> list[tuple[Scene, list[str]]]:
    rng = Random(3)
    out = []
    for i in range(80):
        scene = make_scene(32, i)
        things = [(o.category, o.noun, o.colour) for o in scene.objects]
        facts = [(r.subject, r.predicate, r.object) for r in scene.relations]
        out.append((scene, [caption(things, facts, rng) for _ in range(12)]))
    return out


def test_captions_say_only_what_is_planted(captioned: list[tuple[Scene, list[str]]]) -> None:
    for scene, captions in captioned:
        truth = scene.triplets()
        truth |= {(o, p, s) for s, p, o in truth if p in SYMMETRIC}
        for text in captions:
            assert read(text), text
            assert read(text) <= truth, (scene.index, text)


def test_captions_are_short_and_known_to_the_captioner(captioned: list[tuple[Scene, list[str]]]) -> None:
    known = set(words())
    for _, captions in captioned:
        for text in captions:
            assert text == text.lower() and len(text.split()) <= 17
            assert set(text.split()) <= known


def test_captions_vary(captioned: list[tuple[Scene, list[str]]]) -> None:
    texts = [text for _, captions in captioned for text in captions]
    assert len(set(texts)) > 0.6 * len(texts)
    for word in ("there", "while", "by", "is", "couch", "sofa", "bike", "bicycle", "puppy", "lady", "beside"):
        assert any(word in text.split() for text in texts), word
