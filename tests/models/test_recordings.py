"""Agreement with the recordings of the authors' network, in official_compat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import postprocess
from models.layered import Layered
from models.losses import LossSettings, SetCriterion, TaggerCriterion
from models.matcher import MatchWeights, hungarian

FIELDS = {
    "sub_logits": "subject_logits",
    "obj_logits": "object_logits",
    "verb_logits": "predicate_logits",
    "sub_boxes": "subject_boxes",
    "obj_boxes": "object_boxes",
}
TERMS = {
    "obj_ce": "loss_class",
    "verb_ce": "loss_predicates",
    "sub_bbox": "loss_subject_box",
    "obj_bbox": "loss_object_box",
    "sub_giou": "loss_subject_giou",
    "obj_giou": "loss_object_giou",
}
# Key biases have no gradient but rounding; smaller norms than this are noise.
NOISE = 1e-5


def _agree(predictions, arrays, prefix):
    for official, ours in FIELDS.items():
        np.testing.assert_allclose(
            getattr(predictions, ours).detach(), arrays[f"{prefix}pred_{official}"], atol=1e-5, err_msg=official
        )


def _losses(recording, kind):
    arrays = recording.arrays(f"loss_{kind}")
    targets = recording.targets(arrays)
    recording.network.train().zero_grad()
    predictions = recording.run(targets)
    if recording.config.tagger:
        return arrays, TaggerCriterion(LossSettings(localised_predicates=False, official_compat=True))(
            predictions, targets
        )
    settings = LossSettings(pseudo_predicates=True, official_compat=True)
    # The pseudo-labels' gradient reaches the text encoder, so the features are those of the forward pass.
    return arrays, SetCriterion(settings)(predictions, targets, recording.last_texts[1])


def test_outputs_of_all_layers(recording):
    recording.network.train()  # the recording took the training path through the texts
    predictions = recording.run(recording.targets(recording.forward))
    _agree(predictions, recording.forward, "out.")
    _agree(predictions.auxiliary[0], recording.forward, "out.aux0.")


def test_activations_of_encoder_and_decoders(recording):
    seen = {}
    transformer = recording.network.train().transformer
    modules = {f"act.enc.layer{i}.out": layer for i, layer in enumerate(transformer.encoder.layers)}
    modules |= {f"act.enc.roberta{i}.out": layer for i, layer in enumerate(transformer.encoder.roberta_layers)}
    for stage in ("ho", "verb"):
        layers = getattr(transformer, f"{stage}_decoder").layers
        modules |= {f"act.{stage}_decoder.layer{i}.out": layer for i, layer in enumerate(layers)}
    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.detach()}))
        for name, module in modules.items()
    ]
    recording.run(recording.targets(recording.forward))
    for handle in handles:
        handle.remove()
    for name in modules:
        np.testing.assert_allclose(seen[name], recording.forward[name], atol=5e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["hard", "soft", "empty"])
def test_losses(recording, kind):
    if recording.config.tagger and kind == "soft":
        pytest.skip("the tagger has hard labels only")
    arrays, losses = _losses(recording, kind)
    assert losses["loss"].item() == pytest.approx(float(arrays["loss_total"]), abs=1e-5)
    for official, ours in TERMS.items():
        for layer in ("", "_0"):
            expected = float(arrays[f"loss.loss_{official}{layer}"])
            assert losses[ours + layer].item() == pytest.approx(expected, abs=1e-5), ours + layer


def test_gradients(recording):
    arrays, losses = _losses(recording, "hard")
    losses["loss"].backward()
    ours = {name: parameter.grad for name, parameter in recording.network.named_parameters()}
    compared = 0
    for name, norm in zip(arrays["grad.names"], arrays["grad.norms"], strict=True):
        name = name.replace("backbone.0.", "backbone.").replace("ho_encoder", "encoder")
        name = name.replace("transformer.text_encoder.", "transformer.text_encoder.roberta.")
        if name in ours and norm > NOISE:
            assert ours[name].norm().item() == pytest.approx(float(norm), rel=2e-4 if norm > 1e-3 else 1e-2), name
            compared += 1
    assert compared > 200


def test_matches(recording):
    if recording.config.tagger:
        pytest.skip("the tagger matches by position")
    arrays = recording.arrays("loss_hard")
    targets = recording.targets(arrays)
    matches = hungarian(Layered.of(recording.run(targets)), targets, MatchWeights(), official_compat=True)
    for layer, name in enumerate(("main", "aux0")):
        first = 0
        for image, target in enumerate(targets):
            rows = matches.image[layer] == image
            assert matches.query[layer][rows].tolist() == arrays[f"match.{name}.img{image}.src"].tolist()
            assert (matches.target[layer][rows] - first).tolist() == arrays[f"match.{name}.img{image}.tgt"].tolist()
            first += len(target.subject_labels)


def test_evaluation_path_and_its_results(recording):
    if recording.config.tagger:
        pytest.skip("the tagger has no results of its own")
    recorded, zero_shot = recording.arrays("evalpath_post"), recording.arrays("post_zs")
    recording.network.eval()
    with torch.no_grad():
        predictions = recording.run([])
    _agree(predictions, recorded, "out.")
    sizes = [tuple(row) for row in recorded["post.orig_sizes"].tolist()]
    subject = int(zero_shot["subject_category_id"])
    for found, arrays, prefix in (
        (postprocess.hoi(predictions, sizes), recorded, "post.hoi."),
        (postprocess.scene_graph(predictions, sizes), recorded, "post.sgg."),
        (postprocess.zero_shot(predictions, sizes, subject), zero_shot, ""),
    ):
        for image, pairs in enumerate(found):
            np.testing.assert_allclose(pairs.predicate_scores, arrays[f"{prefix}{image}.verb_scores"], atol=1e-6)
            boxes = torch.cat((pairs.subject_boxes, pairs.object_boxes))
            np.testing.assert_allclose(boxes, arrays[f"{prefix}{image}.boxes"], atol=1e-4 * max(sizes[image]))
            objects = arrays[f"{prefix}{image}.labels"][len(pairs.object_labels) :]
            assert pairs.object_labels.tolist() == objects.tolist()
