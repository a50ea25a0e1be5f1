"""Scores of a small random tagger: what they may depend on, and what they may not."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

from models.config import NetworkConfig, TextConfig
from models.relation_tagger import RelationTagger
from tagger.box import Box
from tagger.candidates import Pair
from tagger.labelling import TaggingImage, tag_images
from tagger.relation import Relation

CATEGORIES = ["person", "dog", "horse", "cup"]
PREDICATES = ["ride", "hold", "next to", "on"]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> RelationTagger:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    model = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    model.train_from_iterator([*CATEGORIES, *PREDICATES], 290, special_tokens=special, show_progress=False)
    model.save_model(str(folder))
    torch.manual_seed(3)
    text = TextConfig(hidden=32, layers=1, heads=2, feedforward=32, vocabulary=300, max_positions=16, dropout=0.1)
    config = NetworkConfig(
        architecture="parsed", tagger=True, backbone="test_resnet", backbone_norm="group", width=32, heads=2, points=2,
        encoder_layers=2, decoder_layers=2, feedforward=32, pairs=3, fusion_width=32, fusion_heads=2, text=text,
    )  # fmt: skip
    network = RelationTagger(config, folder)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def image(seed: int, pairs: Sequence[Pair], shape: tuple[int, int] = (64, 96)) -> TaggingImage:
    pixels = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    boxes = [
        Box("person", 5, 5, 40, 80),
        Box("horse", 30, 20, 90, 70),
        Box("cup", 150, 90, 20, 30),
        Box("dog", 60, 9, 50, 50),
    ]
    return TaggingImage(width=192, height=128, boxes=boxes, pairs=pairs, shape=shape, load=lambda: pixels)


def pairs(*named: tuple[int, str, int]) -> list[Pair]:
    return [Pair(subject, object_, predicate, place, 1) for place, (subject, predicate, object_) in enumerate(named)]


RIDING = pairs((0, "ride", 1), (0, "next to", 1), (0, "hold", 2), (3, "next to", 0), (1, "next to", 2))


def tag(tagger: RelationTagger, images: Sequence[TaggingImage], **settings: float) -> list[list[Relation] | None]:
    return tag_images(tagger, images, CATEGORIES, PREDICATES, **{"floor": 0.0, **settings})  # type: ignore[arg-type]


def scores(relations: list[Relation] | None) -> Tensor:
    assert relations is not None
    return torch.tensor([relation.score for relation in relations])


def test_every_candidate_gets_the_score_of_its_own_pair_in_order(tagger: RelationTagger) -> None:
    [relations] = tag(tagger, [image(0, RIDING)])
    assert relations is not None
    assert [(r.subject, r.predicate, r.object, r.triplet) for r in relations] == [
        (p.subject, p.predicate, p.object, p.triplet) for p in RIDING
    ]
    assert all(relation.proposed and 0 < relation.score < 1 for relation in relations)
    assert len(set(scores(relations).tolist())) == len(RIDING)


def test_scores_do_not_depend_on_batch_or_order(tagger: RelationTagger) -> None:
    images = [image(0, RIDING), image(1, RIDING[:2]), image(2, RIDING, (96, 64)), image(3, pairs((0, "hold", 2)))]
    together, alone = tag(tagger, images, batch_size=4), [tag(tagger, [one])[0] for one in images]
    backwards = tag(tagger, images[::-1], batch_size=2)[::-1]
    for first, second, third in zip(together, alone, backwards, strict=True):
        torch.testing.assert_close(scores(first), scores(second), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(scores(first), scores(third), atol=1e-5, rtol=1e-4)


def test_the_same_call_gives_the_same_bits(tagger: RelationTagger) -> None:
    images = [image(seed, RIDING) for seed in range(3)]
    assert tag(tagger, images) == tag(tagger, images)


def test_novel_predicates_of_one_image_leave_the_others_alone(tagger: RelationTagger) -> None:
    novel = image(1, [*RIDING, Pair(0, 2, "juggle with", 9, 1)])
    [plain] = tag(tagger, [image(0, RIDING)])
    [beside, with_novel] = tag(tagger, [image(0, RIDING), novel], batch_size=2)
    torch.testing.assert_close(scores(beside), scores(plain), atol=1e-5, rtol=1e-4)
    assert with_novel is not None
    assert with_novel[-1].predicate == "juggle with"
    assert 0 < with_novel[-1].score < 1


def test_image_boxes_and_labels_matter(tagger: RelationTagger) -> None:
    [first], [other] = tag(tagger, [image(0, RIDING)]), tag(tagger, [image(1, RIDING)])
    assert not torch.allclose(scores(first), scores(other), atol=1e-5)
    swapped = pairs((1, "ride", 0))
    [[forward]], [[backward]] = tag(tagger, [image(0, RIDING[:1])]), tag(tagger, [image(0, swapped)])  # type: ignore[misc]
    assert abs(forward.score - backward.score) > 1e-5


def test_floor_drops_lower_scores_only(tagger: RelationTagger) -> None:
    [everything] = tag(tagger, [image(0, RIDING)])
    assert everything is not None
    floor = sorted(scores(everything).tolist())[2]
    [kept] = tag(tagger, [image(0, RIDING)], floor=floor)
    assert kept == [relation for relation in everything if relation.score >= floor]
    assert len(kept) == 3


def never() -> Tensor:
    raise AssertionError("an image without candidates was loaded")


def with_load(original: TaggingImage, load: Callable[[], Tensor | None]) -> TaggingImage:
    return TaggingImage(original.width, original.height, original.boxes, original.pairs, original.shape, load)


def test_images_without_candidates_are_not_loaded_and_unreadable_ones_are_none(tagger: RelationTagger) -> None:
    idle, torn = with_load(image(0, []), never), with_load(image(1, RIDING), lambda: None)
    nothing, lost, fine = tag(tagger, [idle, torn, image(2, RIDING)])
    assert nothing == []
    assert lost is None
    assert fine is not None and len(fine) == len(RIDING)
    assert tag(tagger, [torn]) == [None]
    assert tag(tagger, []) == []


def test_boxes_beyond_the_image_are_clipped(tagger: RelationTagger) -> None:
    inside = TaggingImage(100, 100, [Box("person", 0, 0, 50, 100), Box("dog", 60, 60, 40, 40)], RIDING[:1], (96, 96),
                          image(0, [], (96, 96)).load)  # fmt: skip
    beyond = TaggingImage(100, 100, [Box("person", -20, 0, 70, 130), Box("dog", 60, 60, 90, 40)], RIDING[:1], (96, 96),
                          inside.load)  # fmt: skip
    torch.testing.assert_close(scores(tag(tagger, [inside])[0]), scores(tag(tagger, [beyond])[0]))


def test_unknown_category_is_named(tagger: RelationTagger) -> None:
    with pytest.raises(ValueError, match="'horse' is not among the 2 category texts"):
        tag_images(tagger, [image(0, RIDING)], ["person", "cup"], PREDICATES)


def test_pixels_of_another_shape_are_refused(tagger: RelationTagger) -> None:
    with pytest.raises(ValueError, match=r"\(3, 32, 32\) loaded where \(3, 64, 96\)"):
        tag(tagger, [with_load(image(0, RIDING), lambda: torch.zeros(3, 32, 32))])


def test_damaged_weights_are_reported(tagger: RelationTagger) -> None:
    broken = with_load(image(0, RIDING), lambda: torch.full((3, 64, 96), float("nan")))
    with pytest.raises(FloatingPointError, match="not a number"):
        tag(tagger, [broken])
