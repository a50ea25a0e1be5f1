"""Labels equal those of the authors' procedure: image by image, group by group, with nothing shared or cached."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.labelling import label_sequentially
from benchmarks.recorded.recording import Recording, targets_in
from models.config import NetworkConfig
from models.relation_tagger import RelationTagger
from tagger.box import Box
from tagger.labelling.labeller import TaggerLabeller
from tagger.labelling.tagging_image import TaggingImage
from tagger.pair import Pair
from tests.models.made import moved

CATEGORIES = ["person", "dog", "horse", "cup"]
SAID = ["ride", "hold", "next to", "on", "look at"]
CLOSE = 3e-6
"""Tolerance for scores around .01; one pair more or less in a group changes them by ten times as much."""


def network(config: NetworkConfig, tokenizer: Path, **changes: Any) -> RelationTagger:
    torch.manual_seed(5)
    return moved(RelationTagger(replace(config, pairs=4, **changes), tokenizer).eval(), by=0.1)


def crowded(seed: int, boxes: int, pairs: int, shape: tuple[int, int] = (64, 96)) -> TaggingImage:
    """Makes an image of noise with random boxes, and pairs with one or more predicates."""
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randn(3, *shape, generator=draws)
    sides = (torch.rand(boxes, 4, generator=draws) * torch.tensor([120.0, 80, 60, 40])).tolist()
    names = torch.randint(len(CATEGORIES), (boxes,), generator=draws).tolist()
    made = [Box(CATEGORIES[name], x, y, w + 1, h + 1) for name, (x, y, w, h) in zip(names, sides, strict=True)]
    ends = [(s, o) for s in range(boxes) for o in range(boxes) if s != o]
    chosen = [ends[place] for place in torch.randperm(len(ends), generator=draws)[:pairs].tolist()]
    said = torch.randint(len(SAID), (pairs, 2), generator=draws).tolist()
    proposed = {
        (subject, object_, SAID[word]): None
        for (subject, object_), words in zip(chosen, said, strict=True)
        for word in words
    }
    named = [
        Pair(subject, object_, predicate, place, 1) for place, (subject, object_, predicate) in enumerate(proposed)
    ]
    return TaggingImage(192, 128, made, named, shape, lambda: pixels)


def furthest(tagger: RelationTagger, images: Sequence[TaggingImage], fixed: Sequence[str], groups_a_call: int) -> float:
    """Returns the largest score difference between packed and sequential labelling; no packed label may be missing."""
    packed = TaggerLabeller(tagger, CATEGORIES, fixed, scope="image", floor=0.0, images_together=4).label(images)
    apart = 0.0
    with torch.no_grad():
        for image, labels in zip(images, packed, strict=True):
            texts = [*fixed, *sorted({pair.predicate for pair in image.pairs} - set(fixed))] if fixed else None
            alone = label_sequentially(tagger, image, CATEGORIES, texts, groups_a_call)
            together = {(r.subject, r.predicate, r.object): r.score for r in labels.relations}
            assert together and together.keys() <= alone.keys()
            apart = max(apart, *(abs(score - alone[label]) for label, score in together.items()))
    return apart


@pytest.mark.parametrize(("official_compat", "relation_queries"), [(False, "vanilla_MBF"), (True, "vanilla")])
def test_packing_changes_no_score(official_compat, relation_queries, small_tagger_config, tokenizer):
    made = {"official_compat": official_compat, "relation_queries": relation_queries}
    tagger = network(small_tagger_config, tokenizer, **made)
    images = [crowded(1, 5, 11), crowded(2, 3, 5), crowded(4, 5, 3, (96, 64)), crowded(5, 2, 1)]
    # The authors' own lists: the texts of the groups that go together, here all texts of an image.
    assert furthest(tagger, images, [], 16) < CLOSE
    # One group at a time, with our list for the image.
    assert furthest(tagger, images, ["stand", "on", "hold"], 1) < CLOSE


@pytest.fixture(scope="module")
def recording(shared: Path) -> Recording:
    """The authors' tagger with small random weights."""
    return Recording(shared / "oracle", "tagger_tiny")


def test_packing_changes_no_score_of_the_authors_weights(recording, monkeypatch):
    tagger = recording.network.eval()
    assert isinstance(tagger, RelationTagger)
    with torch.no_grad():
        features = torch.cat(recording.texts())
    # The recording has token ids, not words: the features of its first texts stand for our names.
    rows = {text: row for row, text in enumerate([*CATEGORIES, *SAID, "stand", "no objects"])}
    monkeypatch.setattr(tagger, "encode_texts", lambda texts: features[[rows[text] for text in texts]])
    images = [crowded(6, 6, 23), crowded(7, 3, 5)]
    assert furthest(tagger, images, [], 16) < CLOSE
    assert furthest(tagger, images, ["stand", "on", "hold"], 1) < CLOSE


def test_scores_are_those_that_the_authors_recorded(recording):
    """Checks the image that fills its batch: recorded beside a padded image, scored here without one."""
    recording.network.train()  # as in the recording: evaluation mode hides no text
    with torch.no_grad():
        objects, predicates = recording.texts()
        images = recording.images
        whole = recording.sizes.index((images.shape[2], images.shape[3]))
        encoded = recording.network.encode(images[[whole] * 2], None, objects, predicates)
        target = targets_in(recording.forward)[whole]
        scored = recording.decode(encoded, [target, target]).predicate_logits
    expected = recording.tensor("out.pred_verb_logits")[whole, : len(target.subject_labels)].sigmoid()
    for row in range(2):
        torch.testing.assert_close(scored[row, : len(expected)].sigmoid(), expected, atol=CLOSE, rtol=0)


def test_a_group_of_other_pairs_is_another_score(small_tagger_config, tokenizer):
    """Shows that the equality above is not trivial: pairs of a group do attend to each other."""
    tagger = network(small_tagger_config, tokenizer, relation_queries="vanilla")
    image = crowded(1, 5, 14)
    labeller = TaggerLabeller(tagger, CATEGORIES, [], floor=0.0)
    [all_pairs], [few] = labeller.label([image]), labeller.label([replace(image, pairs=image.pairs[:1])])
    assert abs(all_pairs.relations[0].score - few.relations[0].score) > CLOSE
