"""Scores of a small random tagger: what they may and may not depend on."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from models.relation_tagger import RelationTagger
from tagger.box import Box
from tagger.labelling.labeller import NOT_A_NUMBER, TaggerLabeller, pack
from tagger.labelling.tagging_image import Labels, Problem, TaggingImage
from tagger.pair import Pair
from tagger.relation import Relation
from tests.models.made import moved

CATEGORIES = ["person", "dog", "horse", "cup"]
PREDICATES = ["ride", "hold", "next to", "on"]


@pytest.fixture(scope="module")
def tagger(small_tagger_config, tokenizer) -> RelationTagger:
    torch.manual_seed(3)
    return moved(RelationTagger(replace(small_tagger_config, pairs=3), tokenizer), by=0.1)


def image(seed: int, pairs: Sequence[Pair], shape: tuple[int, int] = (64, 96)) -> TaggingImage:
    pixels = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    boxes = [
        Box("person", 5, 5, 40, 80), Box("horse", 30, 20, 90, 70), Box("cup", 150, 90, 20, 30),
        Box("dog", 60, 9, 50, 50),
    ]  # fmt: skip
    return TaggingImage(width=192, height=128, boxes=boxes, pairs=pairs, shape=shape, load=lambda: pixels)


def pairs(*named: tuple[int, str, int]) -> list[Pair]:
    return [Pair(subject, object_, predicate, place, 1) for place, (subject, predicate, object_) in enumerate(named)]


RIDING = pairs((0, "ride", 1), (0, "next to", 1), (0, "hold", 2), (3, "next to", 0), (1, "next to", 2))


def label(tagger: RelationTagger, images: Sequence[TaggingImage], **settings: Any) -> list[Labels]:
    return TaggerLabeller(
        tagger, **{"categories": CATEGORIES, "predicates": PREDICATES, "floor": 0.0} | settings
    ).label(images)


def tag(tagger: RelationTagger, images: Sequence[TaggingImage], **settings: Any) -> list[list[Relation]]:
    labels = label(tagger, images, **settings)
    assert all(one.problem is None for one in labels)
    return [one.relations for one in labels]


def scores(relations: Sequence[Relation]) -> Tensor:
    return torch.tensor([relation.score for relation in relations])


def test_every_candidate_gets_the_score_of_its_own_pair_in_order(tagger):
    [relations] = tag(tagger, [image(0, RIDING)])
    assert [(r.subject, r.predicate, r.object, r.triplet) for r in relations] == [
        (p.subject, p.predicate, p.object, p.triplet) for p in RIDING
    ]
    assert all(relation.proposed and 0 < relation.score < 1 for relation in relations)
    assert len(set(scores(relations).tolist())) == len(RIDING)


def test_scores_do_not_depend_on_batch_or_order(tagger):
    images = [image(0, RIDING), image(1, RIDING[:2]), image(2, RIDING, (96, 64)), image(3, pairs((0, "hold", 2)))]
    together, alone = tag(tagger, images, images_together=4), [tag(tagger, [one])[0] for one in images]
    backwards = tag(tagger, images[::-1], images_together=2)[::-1]
    few_pairs = tag(tagger, images, pairs_together=1)
    for first, *others in zip(together, alone, backwards, few_pairs, strict=True):
        for other in others:
            torch.testing.assert_close(scores(first), scores(other), atol=1e-5, rtol=1e-4)


def test_bits_do_not_depend_on_what_a_worker_did_before(tagger):
    novel = [*RIDING, Pair(0, 2, "juggle with a very long list of words", 9, 1), Pair(0, 1, "pet", 10, 1)]
    fresh, used = (TaggerLabeller(tagger, CATEGORIES, PREDICATES, floor=0.0) for _ in range(2))
    used.label([image(1, [Pair(0, 1, predicate, 0, 1)]) for predicate in ("pet", "wash and feed", "see")])
    assert fresh.label([image(0, novel)]) == used.label([image(0, novel)])


def test_novel_predicates_and_categories_of_one_image_leave_the_others_alone(tagger):
    novel = image(1, [*RIDING, Pair(0, 2, "juggle with", 9, 1)])
    unknown = replace(novel, boxes=[*novel.boxes, Box("unicorn", 0, 0, 50, 50)])
    [plain] = tag(tagger, [image(0, RIDING)])
    [beside, with_novel, with_unknown] = tag(tagger, [image(0, RIDING), novel, unknown], images_together=3)
    torch.testing.assert_close(scores(beside), scores(plain), atol=1e-5, rtol=1e-4)
    assert with_novel[-1].predicate == "juggle with"
    assert 0 < with_novel[-1].score < 1
    torch.testing.assert_close(scores(with_unknown), scores(tag(tagger, [unknown])[0]), atol=1e-5, rtol=1e-4)
    assert (scores(with_unknown) - scores(with_novel)).abs().max() > 1e-6


def test_every_predicate_of_the_image_on_every_pair(tagger):
    [own] = tag(tagger, [image(0, RIDING)])
    [every] = tag(tagger, [image(0, RIDING)], scope="image")
    assert every[: len(own)] == own
    ends = {(pair.subject, pair.object) for pair in RIDING}
    said = {pair.predicate for pair in RIDING}
    assert len(every) == len(ends) * len(said) == len({(r.subject, r.predicate, r.object) for r in every})
    assert {(r.proposed, r.triplet) for r in every[len(own) :]} == {(False, -1)}


def test_image_boxes_and_labels_matter(tagger):
    [first], [other] = tag(tagger, [image(0, RIDING)]), tag(tagger, [image(1, RIDING)])
    assert not torch.allclose(scores(first), scores(other), atol=1e-5)
    swapped = pairs((1, "ride", 0))
    [[forward]], [[backward]] = tag(tagger, [image(0, RIDING[:1])]), tag(tagger, [image(0, swapped)])
    assert abs(forward.score - backward.score) > 1e-5


def test_floor_drops_lower_scores_only(tagger):
    [everything] = tag(tagger, [image(0, RIDING)])
    floor = sorted(scores(everything).tolist())[2]
    [kept] = tag(tagger, [image(0, RIDING)], floor=floor)
    assert kept == [relation for relation in everything if relation.score >= floor]
    assert len(kept) == 3


def never() -> Tensor:
    raise AssertionError("an image without candidates was loaded")


def with_load(original: TaggingImage, load: Callable[[], Tensor | Problem]) -> TaggingImage:
    return replace(original, load=load)


def test_images_without_candidates_are_not_loaded_and_unreadable_ones_say_why(tagger):
    torn_problem = Problem("truncated", "12 of 99 bytes")
    idle, torn = with_load(image(0, []), never), with_load(image(1, RIDING), lambda: torn_problem)
    reported: list[int] = []
    labeller = TaggerLabeller(tagger, CATEGORIES, PREDICATES, floor=0.0)
    nothing, lost, fine = labeller.label([idle, torn, image(2, RIDING)], reported.append)
    assert nothing == Labels()
    assert lost == Labels(problem=torn_problem)
    assert len(fine.relations) == len(RIDING)
    assert reported == [3]
    assert labeller.label([torn]) == [Labels(problem=torn_problem)]
    assert labeller.label([]) == []


def test_boxes_beyond_the_image_are_clipped(tagger):
    inside = TaggingImage(100, 100, [Box("person", 0, 0, 50, 100), Box("dog", 60, 60, 40, 40)], RIDING[:1], (96, 96),
                          image(0, [], (96, 96)).load)  # fmt: skip
    beyond = replace(inside, boxes=[Box("person", -20, 0, 70, 130), Box("dog", 60, 60, 90, 40)])
    torch.testing.assert_close(scores(tag(tagger, [inside])[0]), scores(tag(tagger, [beyond])[0]))


def test_odd_boxes_pairs_and_predicates_get_scores(tagger):
    sides = {"person": (5, 5, 40, 80), "cup": (9, 9, 0.01, 0.01), "dog": (0, 0, 192, 128), "horse": (500, 500, 10, 10)}
    named = pairs((0, "ride", 0), (1, "hold", 2), (2, "on", 1), (3, "next to", 2), (0, "hold " * 200, 1))
    odd = replace(image(0, named), boxes=[Box(name, *side) for name, side in sides.items()])
    [relations] = tag(tagger, [odd])
    assert len(relations) == 5 and all(0 < relation.score < 1 for relation in relations)
    one = replace(image(0, []), boxes=[Box("person", 0, 0, 9, 9)])
    assert tag(tagger, [one, replace(one, boxes=[])]) == [[], []]


def test_pixels_of_another_shape_are_refused(tagger):
    with pytest.raises(ValueError, match=r"shape \(3, 32, 32\), but \(3, 64, 96\) was declared"):
        tag(tagger, [with_load(image(0, RIDING), lambda: torch.zeros(3, 32, 32))])


def test_scores_that_are_no_numbers_cost_their_image_alone(tagger):
    broken = with_load(image(0, RIDING), lambda: torch.full((3, 64, 96), float("nan")))
    before, bad, after = label(tagger, [image(1, RIDING), broken, image(2, RIDING)])
    assert bad.problem is not None and bad.problem.reason == NOT_A_NUMBER
    for fine, seed in ((before, 1), (after, 2)):
        torch.testing.assert_close(
            scores(fine.relations), scores(tag(tagger, [image(seed, RIDING)])[0]), atol=1e-5, rtol=1e-4
        )


def test_weights_that_are_no_numbers_are_named(tagger):
    damaged = copy.deepcopy(tagger)
    with torch.no_grad():
        damaged.projection_text.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"projection_text\.weight is not finite"):
        TaggerLabeller(damaged, CATEGORIES, PREDICATES)


def test_half_precision_is_close(tagger):
    [exact], [rough] = tag(tagger, [image(0, RIDING)]), tag(tagger, [image(0, RIDING)], precision="bfloat16")
    assert 0 < (scores(exact) - scores(rough)).abs().max() < 0.05


@given(st.lists(st.integers(0, 400), max_size=12), st.integers(1, 30), st.integers(1, 500))
def test_every_pair_goes_once_in_whole_groups_within_the_bound(counts, group, most):
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


def test_images_of_one_pair_share_a_call_and_a_crowded_one_has_its_own():
    assert [[part.image for part in call] for call in pack([1, 300, 1, 0, 1], 100, 1000)] == [[0, 2, 4], [1]]
