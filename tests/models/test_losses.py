"""Losses and matching against plain loops."""

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from models.boxes import cxcywh_to_xyxy
from models.config import LossSettings
from models.losses import (
    MatchWeights,
    SetCriterion,
    TaggerCriterion,
    cornernet_focal,
    hungarian,
    matching_costs,
    pseudo_labels,
)
from models.predictions import Predictions, Target
from pipeline.training.settings import TaggerSettings
from tests.models.made import make_predictions, make_target

PAIRS, OBJECTS, PREDICATES = 4, 5, 3
OF_BOXES = tuple(f"loss_{role}_{kind}" for kind in ("box", "giou") for role in ("subject", "object"))
TERMS = ("loss_class", "loss_predicates", *OF_BOXES)


def overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    a, b = cxcywh_to_xyxy(first).tolist(), cxcywh_to_xyxy(second).tolist()
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
    outer = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inner / union - (outer - union) / outer


def naive_cost(predictions: Predictions, target: Target, image: int, query: int, pair: int) -> float:
    scores = predictions.predicate_logits[image, query].sigmoid()
    truth = target.predicates[pair]
    agreement = (
        (scores * truth).sum() / (truth.sum() + 1e-4) + ((1 - scores) * (1 - truth)).sum() / ((1 - truth).sum() + 1e-4)
    ) / 2
    classes = (
        predictions.subject_logits[image, query].softmax(-1)[target.subject_labels[pair]]
        + predictions.object_logits[image, query].softmax(-1)[target.object_labels[pair]]
    )
    found = predictions.subject_boxes[image, query], predictions.object_boxes[image, query]
    true = target.subject_boxes[pair], target.object_boxes[pair]
    distance = max((f - t).abs().sum().item() for f, t in zip(found, true, strict=True))
    apart = max(-overlap(f, t) for f, t in zip(found, true, strict=True))
    return 2.5 * distance + apart - (classes + agreement).item()


def test_costs_and_matches_against_brute_force():
    predictions, targets = make_predictions(), [make_target(3), make_target(2)]
    layers = predictions.stacked()
    costs = matching_costs(layers, targets, MatchWeights())
    matches = hungarian(layers, targets, MatchWeights())
    for layer, predicted in enumerate((predictions, *predictions.auxiliary)):
        first = 0
        for image, target in enumerate(targets):
            count = len(target.subject_labels)
            naive = [[naive_cost(predicted, target, image, q, n) for n in range(count)] for q in range(PAIRS)]
            torch.testing.assert_close(costs[layer, image, :, :count].detach(), torch.tensor(naive), atol=1e-5, rtol=0)
            cheapest = min(
                permutations(range(PAIRS), count),
                key=lambda queries, naive=naive: sum(naive[q][n] for n, q in enumerate(queries)),
            )
            rows = matches.image[layer] == image
            pairs = zip(matches.query[layer][rows].tolist(), matches.target[layer][rows].tolist(), strict=True)
            assert {(q, n - first) for q, n in pairs} == {(q, n) for n, q in enumerate(cheapest)}
            first += count


def test_more_targets_than_predictions_are_matched_as_far_as_they_go():
    predictions, targets = make_predictions(), [make_target(7), make_target(1)]
    matches = hungarian(predictions.stacked(), targets, MatchWeights())
    assert (matches.image == 0).sum(1).tolist() == [PAIRS, PAIRS]
    assert SetCriterion()(predictions, targets)["loss"].isfinite()


def test_predictions_that_are_no_numbers_are_named():
    predictions = make_predictions()
    predictions.object_logits.data[0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        SetCriterion()(predictions, [make_target(2), make_target(1)])


@pytest.mark.parametrize("localised", [True, False])
def test_terms_against_loops(localised):
    predictions, targets = make_predictions(layers=1), [make_target(3), make_target(2)]
    matches = hungarian(predictions.stacked(), targets, MatchWeights())
    losses = SetCriterion(LossSettings(localised_predicates=localised))(predictions, targets)

    flat = {name: torch.cat([getattr(t, name) for t in targets]) for name in vars(targets[0])}
    labels = {role: torch.full((2, PAIRS), OBJECTS - 1) for role in ("subject", "object")}
    goal = torch.zeros(2, PAIRS, PREDICATES)
    boxes, apart = dict.fromkeys(labels, 0.0), dict.fromkeys(labels, 0.0)
    for image, query, pair in zip(matches.image[0], matches.query[0], matches.target[0], strict=True):
        overlaps = []
        for role in ("subject", "object"):
            labels[role][image, query] = flat[f"{role}_labels"][pair]
            found, true = getattr(predictions, f"{role}_boxes")[image, query], flat[f"{role}_boxes"][pair]
            boxes[role] += (found - true).abs().sum().item() / 5
            overlaps.append(overlap(found, true))
            apart[role] += (1 - overlaps[-1]) / 5
        goal[image, query] = flat["predicates"][pair] * ((min(overlaps) + 1) / 2 if localised else 1)
    weight = torch.tensor([1.0] * (OBJECTS - 1) + [0.1])
    expected = {
        "loss_class": sum(
            F.cross_entropy(getattr(predictions, f"{role}_logits").flatten(0, 1), labels[role].flatten(), weight).item()
            for role in labels
        )
    }
    predicates = 0.0
    for g, x in zip(goal.flatten().tolist(), predictions.predicate_logits.sigmoid().flatten().tolist(), strict=True):
        if localised:
            predicates -= (g - x) ** 2 * (g * math.log(x) + (1 - g) * math.log(1 - x))
        else:
            predicates -= math.log(x) * (1 - x) ** 2 if g == 1 else math.log(1 - x) * x**2
    expected["loss_predicates"] = predicates / int(flat["predicates"].sum())
    for role in ("subject", "object"):
        expected |= {f"loss_{role}_box": boxes[role], f"loss_{role}_giou": apart[role]}
    for name in TERMS:
        assert losses[name].item() == pytest.approx(expected[name], rel=1e-4), name
    weighted = sum(expected[name] * (2.5 if name.endswith("box") else 1) for name in TERMS)
    assert losses["loss"].item() == pytest.approx(weighted, rel=1e-4)


def test_unknown_predicates_give_no_predicate_loss_and_no_cost():
    predictions, known = make_predictions(layers=1), make_target(2)
    unknown = replace(known, predicate_known=torch.zeros(2, dtype=torch.bool))
    other = replace(unknown, predicates=1 - known.predicates)
    costs = [matching_costs(predictions.stacked(), [t, t], MatchWeights()) for t in (unknown, other)]
    assert torch.equal(*costs)
    losses = SetCriterion()(predictions, [unknown, unknown])
    assert losses["loss_predicates"].item() == 0
    losses["loss"].backward()
    assert not predictions.predicate_logits.grad.any()
    assert predictions.subject_boxes.grad.any()


def test_one_unknown_pair_leaves_the_others_to_be_learnt():
    predictions, target = make_predictions(images=1, layers=1), make_target(2)
    target.predicate_known[0] = False
    matches = hungarian(predictions.stacked(), [target], MatchWeights())
    SetCriterion()(predictions, [target])["loss"].backward()
    learnt = predictions.predicate_logits.grad[0].abs().sum(1) > 0
    expected = [True] * PAIRS
    expected[matches.query[0][matches.target[0] == 0].item()] = False
    assert learnt.tolist() == expected


@pytest.mark.parametrize(("counts", "official"), [((0, 0), True), ((0, 2), False)])
def test_images_without_pairs(counts, official):
    predictions = make_predictions()
    targets = [make_target(count) for count in counts]
    for criterion in (SetCriterion(official_compat=official), TaggerCriterion()):
        losses = criterion(predictions, targets)
        assert all(value.isfinite() for value in losses.values())
        losses["loss"].backward()
        assert predictions.subject_boxes.grad.isfinite().all()


def test_a_relation_without_object_says_nothing_of_object_boxes():
    predictions, target = make_predictions(images=1, layers=1), make_target(1)
    target.object_boxes.zero_()
    losses = SetCriterion()(predictions, [target])
    assert losses["loss_object_box"].item() == losses["loss_object_giou"].item() == 0
    losses["loss"].backward()
    assert not predictions.object_boxes.grad.any()


def test_pseudo_labels_favour_similar_texts_and_leave_out_true_ones():
    features = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0]])
    labels = pseudo_labels(features, torch.tensor([[1.0, 0.0, 0.0]]))
    assert labels[0, 0] == 0 and labels[0, 1] > 0.9 and labels[0, 2] == 0
    assert pseudo_labels(features, torch.zeros(1, 3)).tolist() == [[0, 0, 0]]
    assert pseudo_labels(features[:1], torch.ones(1, 1)).tolist() == [[0]]
    assert pseudo_labels(features[:0], torch.zeros(3, 0)).shape == (3, 0)
    assert pseudo_labels(features, torch.zeros(0, 3)).shape == (0, 3)


def test_pseudo_labels_need_the_features_of_texts():
    predictions, targets = make_predictions(), [make_target(3), make_target(2)]
    with pytest.raises(ValueError, match="predicate_features"):
        SetCriterion(LossSettings(pseudo_predicates=True))(predictions, targets)


def test_the_tagger_is_judged_by_position_and_not_on_empty_slots():
    predictions, targets = make_predictions(layers=1), [make_target(2), make_target(1)]
    losses = TaggerCriterion()(predictions, targets)
    losses["loss"].backward()
    for name in ("subject_logits", "object_logits", "predicate_logits", "subject_boxes"):
        learnt = getattr(predictions, name).grad.abs().sum(-1) > 0
        assert learnt.tolist() == [[True, True, False, False], [True, False, False, False]], name
    true = torch.cat([t.subject_boxes for t in targets])
    found = torch.cat((predictions.subject_boxes[0, :2], predictions.subject_boxes[1, :1]))
    assert losses["loss_subject_box"].item() == pytest.approx((found - true).abs().sum().item() / 3, rel=1e-5)


def test_a_table_of_a_tagger_s_loss_keeps_the_tagger_s_other_defaults():
    assert TaggerSettings(loss={"box": 5.0}).loss == LossSettings(box=5.0, localised_predicates=False)
    with pytest.raises(ValueError, match="pseudo_predicates: a tagger's loss has no weaker targets"):
        TaggerSettings(loss={"pseudo_predicates": True})


def authors_focal(logits: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """CornerNet's loss as the authors compute it, to which a label of less confidence than 1 is a negative."""
    score = logits.sigmoid().clamp(1e-6, 1 - 1e-6)
    positive = -score.log() * (1 - score).square()
    return torch.where(goal == 1, positive, -(1 - score).log() * score.square() * (1 - goal) ** 4)


def test_labels_of_full_confidence_have_cornernet_s_loss_bit_for_bit():
    logits = (4 * torch.randn(50, 40)).requires_grad_()
    goal = torch.where(torch.rand(50, 40) > 0.7, 1.0, torch.rand(50, 40) * (torch.rand(50, 40) > 0.5))
    found, before = cornernet_focal(logits, goal, goal == 1), authors_focal(logits, goal)
    assert torch.equal(found, before)
    assert torch.equal(*(torch.autograd.grad(loss.sum(), logits)[0] for loss in (found, before)))


@pytest.mark.parametrize("localised", [False, True])
def test_true_labels_are_drawn_to_their_confidence(localised):
    confidence = torch.linspace(1 / 48, 1, 48)
    for side, sign in ((-2.0, -1), (2.0, 1)):
        score = torch.sigmoid(torch.logit(confidence.clamp(max=0.999)) + side)
        logits = torch.logit(score)[None, :, None].requires_grad_()
        boxes = torch.rand(48, 4) * 0.4 + 0.2
        labels = torch.zeros(48, dtype=torch.int64)
        found = Predictions(torch.zeros(1, 48, 2), torch.zeros(1, 48, 2), logits, boxes[None], boxes[None])
        known = torch.ones(48, dtype=torch.bool)
        target = Target(labels, labels, boxes, boxes, confidence[:, None], known)
        TaggerCriterion(LossSettings(localised_predicates=localised))(found, [target])["loss_predicates"].backward()
        expected = [sign] * 47 + [-1]
        assert logits.grad.flatten().sign().tolist() == expected
    goal = torch.linspace(1 / 48, 47 / 48, 47)
    at_goal = torch.logit(goal).requires_grad_()
    cornernet_focal(at_goal, goal, goal > 0).sum().backward()
    assert at_goal.grad.abs().max() < 1e-6


def test_true_labels_count_whatever_their_confidence():
    predictions, target = make_predictions(images=1, layers=1), make_target(PAIRS)
    target.predicates = torch.tensor([[0.2, 0, 0.9], [0, 0, 0], [1, 0, 0], [0, 0.5, 0]])
    loss = TaggerCriterion()(predictions, [target])["loss_predicates"]
    logits = predictions.predicate_logits[0]
    elements = cornernet_focal(logits, target.predicates, target.predicates > 0)
    torch.testing.assert_close(loss, elements.sum() / 4)
    as_theirs = TaggerCriterion(official_compat=True)(predictions, [target])["loss_predicates"]
    torch.testing.assert_close(as_theirs, authors_focal(logits, target.predicates).sum())


def test_similar_predicates_stay_negatives_that_are_penalised_less():
    predictions, target = make_predictions(images=1, layers=1), make_target(1)
    target.predicates = torch.tensor([[0.8, 0.0, 0.0]])
    features = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0]])
    settings = LossSettings(localised_predicates=False, pseudo_predicates=True)
    SetCriterion(settings)(predictions, [target], features)["loss_predicates"].backward()
    plain = predictions.map(lambda x: x.detach().requires_grad_())
    SetCriterion(LossSettings(localised_predicates=False))(plain, [target])["loss_predicates"].backward()
    matched = hungarian(predictions.stacked(), [target], MatchWeights()).query[0].item()
    pulled, without = (p.predicate_logits.grad[0, matched] for p in (predictions, plain))
    assert 0 < pulled[1] < 0.01 * without[1] and pulled[0] == without[0] and pulled[2] == without[2]


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_losses_are_32_bit_under_autocast(given):
    settings = LossSettings(pseudo_predicates=True)
    features = torch.tensor([[0.0, 0.0], [0.1, 0.3], [1.0, 2.0]])
    predictions = make_predictions(layers=3).map(lambda x: x.detach().to(given).requires_grad_())
    targets = [make_target(3), make_target(4)]
    for target in targets:
        target.predicates = torch.tensor([1.0, 0, 0]).expand(len(target.subject_labels), -1)

    def losses() -> list[dict[str, torch.Tensor]]:
        return [SetCriterion(settings)(predictions, targets, features), TaggerCriterion()(predictions, targets)]

    expected = losses()
    with torch.autocast("cpu", torch.bfloat16):
        found = losses()
    for here, there in zip(found, expected, strict=True):
        assert all(value.dtype == torch.float32 and torch.equal(value, there[key]) for key, value in here.items())
    found[0]["loss"].backward()
    assert predictions.predicate_logits.grad.dtype == given


def test_matches_are_those_of_32_bits_under_autocast():
    """Predictions differ by less than 16 bits can hold."""
    predictions = make_predictions(images=1, layers=1)
    for name in ("subject_logits", "object_logits", "subject_boxes", "object_boxes"):
        setattr(predictions, name, torch.full_like(getattr(predictions, name), 0.5))
    predictions.predicate_logits = torch.zeros(1, PAIRS, PREDICATES)
    predictions.predicate_logits[0, :, 0] = 1e-3 * torch.arange(PAIRS)
    target = make_target(1)
    target.predicates = torch.tensor([[1.0, 0, 0]])
    expected = SetCriterion()(predictions, [target])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(SetCriterion()(predictions, [target])["loss_predicates"], expected["loss_predicates"])
    assert hungarian(predictions.stacked(), [target], MatchWeights()).query.item() == PAIRS - 1
